//! Which runtime runs a container: the built-in one, or the program of an OCI runtime.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fs_base::{Error, Result};

use crate::config::Config;

/// The name of ours.
pub const BUILTIN: &str = "builtin";
/// Names that need no configuration, if their program is installed.
const KNOWN: &[&str] = &["runc", "crun"];
/// Where programs for the system are, whatever this process was started with.
const FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The program for a name; `None` for the built-in one.
pub fn find(config: &Config, name: &str) -> Result<Option<PathBuf>> {
    let name = match name {
        "" => config.default_runtime.as_str(),
        // Docker's long name for it.
        "io.containerd.runc.v2" => "runc",
        name => name,
    };
    if name == BUILTIN {
        return Ok(None);
    }
    all(config).remove(name).map(Some).ok_or_else(|| {
        let hint = format!("install {name}, or name its program with --add-runtime {name}=/path; 'ctl info' lists what there is");
        Error::invalid(format!("unknown or invalid runtime name: {name}")).with_hint(hint)
    })
}

/// The name that a container is to remember.
pub fn name<'a>(config: &'a Config, asked: &'a str) -> &'a str {
    if asked.is_empty() { &config.default_runtime } else { asked }
}

/// All that there are besides the built-in one.
pub fn all(config: &Config) -> BTreeMap<String, PathBuf> {
    let installed = |name: &str| FOLDERS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    let known = KNOWN.iter().filter_map(|name| Some(((*name).to_owned(), installed(name)?)));
    known.chain(config.runtimes.clone()).collect()
}
