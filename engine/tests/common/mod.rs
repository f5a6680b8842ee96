//! A container of busybox without a daemon.
#![allow(dead_code, clippy::unwrap_used)] // each test file uses its part; clippy takes this file for no test

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Child;

use engine::config::{Container, Namespace, Network, Seccomp, Users};
use engine::shim::{Client, Exit, Launch, LogOptions, Options, launch};
use fs_base::sys::ids::UserNamespace;
use fs_base::sys::mount::Mount;
use fs_base::sys::root::Root;
use fs_base::{ContainerId, Result};
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// Whether containers can be run here; says why not.
pub fn able() -> bool {
    let reason = if !rustix::process::geteuid().is_root() {
        "needs root"
    } else if !Path::new(BUSYBOX).exists() {
        "needs busybox-static"
    } else if Mount::clone_of(Path::new("/"), false).is_err() {
        "needs CAP_SYS_ADMIN"
    } else {
        return true;
    };
    println!("SKIPPED: containers: {reason}");
    false
}

/// A container's tree, folders and value.
pub struct Box {
    dir: TempDir,
    pub container: Container,
    pub options: Options,
    launched: Option<Child>,
}

impl Box {
    pub fn new(args: &[&str]) -> Box {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for folder in ["bin", "etc", "tmp", "root"] {
            std::fs::create_dir_all(tree.join(folder)).unwrap();
        }
        // By a process of its own: what this one has open for writing, others that it is just starting have too, and as
        // long as anybody has it nobody can run it.
        let copied = std::process::Command::new("cp").arg(BUSYBOX).arg(tree.join("bin/busybox")).status().unwrap();
        assert!(copied.success());
        for name in [
            "sh", "cat", "echo", "sleep", "true", "id", "ls", "mount", "stty", "kill", "grep", "hostname", "ps", "mknod", "env",
            "pwd", "head", "ip", "touch", "nproc", "test", "ln", "stat", "dd", "ulimit", "tty", "readlink", "chown", "mkdir",
        ] {
            symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        std::fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n").unwrap();
        std::fs::write(tree.join("etc/group"), "root:x:0:\nuser:x:1000:\nextra:x:44:user\n").unwrap();
        let log = LogOptions {
            path: dir.path().join("log"),
            max_size: None,
            max_files: 1,
            compress: false,
            attributes: std::collections::BTreeMap::new(),
            journal: None,
            buffer: None,
        };
        Box {
            container: value(args),
            options: Options { open_stdin: false, stdin_once: false, init: false, runtime: None, log: Some(log) },
            dir,
            launched: None,
        }
    }

    pub fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn client(&self) -> Client {
        Client::new(&self.run_dir())
    }

    pub fn log(&self) -> String {
        use engine::log::{Query, Reader};
        let all = Query { stdout: true, stderr: true, ..Query::default() };
        let mut reader = Reader::open(&self.dir.path().join("log"), all).unwrap();
        std::iter::from_fn(|| reader.read().unwrap()).map(|record| record.line).collect()
    }

    pub fn launch(&mut self) -> Result<i32> {
        let root = Mount::clone_of(&self.tree(), false)?;
        if let Some(ids) = self.container.users.ids() {
            root.map_ids(&UserNamespace::new(ids)?)?;
        }
        let spec = engine::spec::build(&self.container, &Root::from_fd(root.try_clone()?.into_fd()))?;
        let launched = launch(Launch {
            program: Path::new(env!("CARGO_BIN_EXE_fsd-shim")),
            dir: &self.run_dir(),
            spec: &spec,
            options: &self.options,
            root,
        })?;
        self.launched = Some(launched.shim);
        Ok(launched.pid)
    }

    /// Launches, starts and waits.
    pub fn run(&mut self) -> Exit {
        self.launch().unwrap();
        let client = self.client();
        let waiter = {
            let client = client.clone();
            std::thread::spawn(move || client.wait())
        };
        client.start().unwrap();
        let exit = waiter.join().unwrap().or_else(|_| client.exit_record().map(|exit| exit.unwrap())).unwrap();
        self.ended();
        exit
    }

    /// Waits for the shim's own end.
    pub fn ended(&mut self) {
        if let Some(mut shim) = self.launched.take() {
            assert!(shim.wait().unwrap().success(), "{}", self.shim_log());
        }
    }

    pub fn shim_log(&self) -> String {
        std::fs::read_to_string(self.run_dir().join("shim.log")).unwrap_or_default()
    }
}

impl Drop for Box {
    fn drop(&mut self) {
        if self.launched.is_some() {
            let _ = self.client().kill(9);
            if !std::thread::panicking() {
                self.ended();
            }
        }
    }
}

fn value(args: &[&str]) -> Container {
    Container {
        id: ContainerId::random().unwrap(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        env: Vec::new(),
        cwd: String::new(),
        user: String::new(),
        groups: Vec::new(),
        hostname: "boxed".to_owned(),
        domainname: String::new(),
        tty: false,
        console_size: None,
        open_stdin: false,
        stdin_once: false,
        read_only_root: false,
        mounts: Vec::new(),
        files: Vec::new(),
        network: Network::Own,
        pid: Namespace::Private,
        ipc: Namespace::Private,
        shm: None,
        uts: Namespace::Private,
        cgroup: Namespace::Private,
        users: Users::Host,
        cap_add: Vec::new(),
        cap_drop: Vec::new(),
        privileged: false,
        no_new_privileges: false,
        seccomp: Seccomp::Default,
        apparmor: None,
        selinux: None,
        masked_paths: None,
        readonly_paths: None,
        sysctls: std::collections::BTreeMap::new(),
        ulimits: Vec::new(),
        shm_size: None,
        resources: oci_spec::runtime::LinuxResources::default(),
        cgroup_parent: Some("/fsd-test".to_owned()),
        devices: Vec::new(),
        device_rules: Vec::new(),
        oom_score_adj: None,
        init: false,
    }
}

/// Docker's frames, told apart.
pub fn frames(from: &mut impl Read) -> (String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    loop {
        let mut head = [0; 8];
        if from.read_exact(&mut head).is_err() {
            return (out, err);
        }
        let mut bytes = vec![0; u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize];
        from.read_exact(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if head[0] == 1 { out += &text } else { err += &text }
    }
}
