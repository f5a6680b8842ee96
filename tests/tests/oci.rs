//! The built-in runtime behind an OCI runtime's command line (`src/bin/oci.rs`): what a suite of such finds.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use system_tests::{PATIENCE_SECONDS, fails, has, may_mount, ok, sh};

/// A folder, and the name of its container, which is also that of its cgroup: no two tests have the same.
struct Bundle(tempfile::TempDir, &'static str);

impl Bundle {
    /// A bundle whose process is a script.
    fn new(id: &'static str, script: &str) -> Bundle {
        let dir = tempfile::tempdir().unwrap();
        sh(dir.path(), "mkdir -p b/rootfs/bin; cp \"$(command -v busybox)\" b/rootfs/bin/; ln -s busybox b/rootfs/bin/sh");
        let bundle = Bundle(dir, id);
        bundle.write(&json!({
            "ociVersion": "1.0.2", "root": {"path": "rootfs"}, "annotations": {"k": "v"},
            "process": {
                "user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", script], "env": ["PATH=/bin"],
                "capabilities": {"bounding": [], "effective": [], "permitted": []},
            },
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}]},
        }));
        bundle
    }

    fn write(&self, config: &Value) {
        std::fs::write(self.0.path().join("b/config.json"), config.to_string()).unwrap();
    }

    fn config(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.0.path().join("b/config.json")).unwrap()).unwrap()
    }

    fn call(&self, arguments: &[&str]) -> Output {
        Command::new("timeout")
            .args([PATIENCE_SECONDS, env!("CARGO_BIN_EXE_oci"), "--root"])
            .arg(self.0.path().join("run"))
            .args(arguments)
            .output()
            .unwrap()
    }

    fn create(&self) -> Output {
        self.call(&["create", "--bundle", self.0.path().join("b").to_str().unwrap(), self.1])
    }

    fn status(&self) -> String {
        let state: Value = serde_json::from_str(&ok(&self.call(&["state", self.1]))).unwrap();
        assert_eq!((&state["id"], &state["annotations"]["k"]), (&json!(self.1), &json!("v")));
        state["status"].as_str().unwrap().to_owned()
    }

    fn until(&self, status: &str) {
        system_tests::until(status, || self.status() == status);
    }
}

fn able() -> bool {
    may_mount() && has("busybox")
}

/// The output comes from the process that created it, so that one is given files, which need no reader.
fn created(bundle: &Bundle) {
    let path = |name: &str| bundle.0.path().join(name);
    let file = |name: &str| std::fs::File::create(path(name)).unwrap();
    let status = Command::new("timeout")
        .args([PATIENCE_SECONDS, env!("CARGO_BIN_EXE_oci"), "--root"])
        .arg(path("run"))
        .args(["create", bundle.1, "--bundle"])
        .arg(path("b"))
        .stdout(file("out"))
        .stderr(file("err"))
        .status()
        .unwrap();
    assert!(status.success(), "{}", std::fs::read_to_string(path("err")).unwrap());
}

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    if !able() {
        return;
    }
    let bundle = Bundle::new("c1", "echo said; exec busybox sleep 1000");
    assert!(fails(&bundle.call(&["state", "c1"])).contains("container c1 does not exist"));
    created(&bundle);
    assert_eq!(bundle.status(), "created");
    assert!(fails(&bundle.create()).contains("already exists"));
    ok(&bundle.call(&["start", "c1"]));
    assert_eq!(bundle.status(), "running");
    assert!(fails(&bundle.call(&["start", "c1"])).contains("cannot start container c1: it is running"));
    assert!(fails(&bundle.call(&["delete", "c1"])).contains("it is running"));
    ok(&bundle.call(&["kill", "c1", "KILL"]));
    bundle.until("stopped");
    assert!(fails(&bundle.call(&["kill", "c1", "KILL"])).contains("not running"));
    ok(&bundle.call(&["delete", "c1"]));
    assert!(fails(&bundle.call(&["state", "c1"])).contains("does not exist"));
    assert_eq!(std::fs::read_to_string(bundle.0.path().join("out")).unwrap(), "said\n");
    assert!(!Path::new("/sys/fs/cgroup/unified/fsd-test/c1").exists());
}

#[test]
fn what_a_spec_asks_for_in_vain_is_refused_by_name_and_leaves_nothing() {
    if !able() {
        return;
    }
    let bundle = Bundle::new("c2", "true");
    let good = bundle.config();
    for (path, value, why) in [
        ("/hooks", json!({"prestart": [{"path": "/bin/true"}]}), "hooks is not supported"),
        ("/linux/personality", json!({"domain": "LINUX32"}), "linux.personality is not supported"),
        ("/process/selinuxLabel", json!("mine"), "process.selinuxLabel is not supported: SELinux is not"),
        ("/linux/mountLabel", json!("mine"), "linux.mountLabel is not supported: SELinux is not"),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}), "process.ioPriority is not supported"),
        ("/ociVersion", json!("invalid"), "ociVersion \"invalid\" is not supported"),
        ("/linux/rootfsPropagation", json!("public"), "linux.rootfsPropagation \"public\""),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "time"}]), "time namespaces are not supported"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "the spec asks for no mount namespace"),
    ] {
        let mut config = good.clone();
        let (parent, name) = path.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[name] = value;
        bundle.write(&config);
        let said = fails(&bundle.create());
        assert!(said.contains(why), "{path}: {said}");
        assert!(fails(&bundle.call(&["state", "c2"])).contains("does not exist"), "{path}");
    }
}
