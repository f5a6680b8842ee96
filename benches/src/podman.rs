//! podman with runc, on a root of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::measure::{run, text};

/// runc for hosts whose root may not raise limits, as in many containers and machines of CI: takes out of the bundle
/// what podman always writes there, and what runc then fails at.
const WITHOUT_LIMITS: &str = r#"#!/bin/sh
last=
for word in "$@"; do
	case $last in
	--bundle) sed -i 's/,"rlimits":\[[^]]*\]//; s/"rlimits":\[[^]]*\],//' "$word/config.json" ;;
	--process) sed -i 's/,"rlimits":\[[^]]*\]//; s/"rlimits":\[[^]]*\],//' "$word" ;;
	esac
	last=$word
done
exec runc "$@"
"#;

/// podman's storage and settings below one folder.
#[derive(Debug)]
pub struct Podman {
    home: PathBuf,
    runtime: String,
}

impl Podman {
    /// Below `dir`; fails if there is no podman.
    pub fn new(dir: &Path) -> Result<Podman> {
        let home = dir.join("podman");
        std::fs::create_dir(&home)?;
        let podman = Podman { home, runtime: "runc".to_owned() };
        podman.cli(&["version"]).context("podman does not work here")?;
        Ok(podman)
    }

    /// The same, by a runc that leaves limits as they are.
    pub fn without_limits(mut self) -> Result<Podman> {
        let wrapper = self.home.join("runc-without-limits");
        std::fs::write(&wrapper, WITHOUT_LIMITS)?;
        std::fs::set_permissions(&wrapper, std::fs::Permissions::from_mode(0o755))?;
        text(&wrapper)?.clone_into(&mut self.runtime);
        Ok(self)
    }

    /// Runs it; how long it took.
    pub fn cli(&self, arguments: &[&str]) -> Result<f64> {
        let [root, run_root, tmp] = ["root", "runroot", "tmp"].map(|name| self.home.join(name));
        let places = ["--root", text(&root)?, "--runroot", text(&run_root)?, "--tmpdir", text(&tmp)?];
        let settings = ["--cgroup-manager", "cgroupfs", "--storage-driver", "overlay", "--runtime", &self.runtime];
        run("podman", &[&places[..], &settings[..], arguments].concat())
    }

    /// Its storage, as skopeo names it.
    pub fn storage(&self) -> String {
        format!("containers-storage:[overlay@{0}/root+{0}/runroot]", self.home.display())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its storage keeps a mount on its root.
        let _ = run("umount", &["-l", &self.home.join("root/overlay").to_string_lossy()]);
    }
}
