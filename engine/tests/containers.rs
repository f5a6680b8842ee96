//! Real containers of busybox, made by the shim.

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;

use common::{Box, able, frames};
use engine::config::{Network, Ulimit};
use engine::shim::proto::ExecRequest;
use engine::spec::{ExecProcess, exec_process};
use fs_base::sys::root::Root;
use fs_base::{MountKind, MountSpec, Propagation};

fn output(args: &[&str]) -> String {
    let mut container = Box::new(args);
    let exit = container.run();
    let log = container.log();
    assert_eq!(exit.code, 0, "{args:?}: {log} {}", container.shim_log());
    log
}

#[test]
fn a_program_runs_in_a_world_of_its_own() {
    if !able() {
        return;
    }
    assert_eq!(output(&["echo", "hello"]), "hello\n");
    assert_eq!(output(&["hostname"]), "boxed\n");
    assert_eq!(output(&["sh", "-c", "echo $$; cat /proc/1/comm; true"]), "1\nsh\n");
    assert_eq!(output(&["pwd"]), "/\n");
    assert_eq!(output(&["sh", "-c", "touch /new && echo written"]), "written\n");
    assert!(output(&["ip", "addr", "show", "lo"]).contains("127.0.0.1"), "loopback is up");
    let env = output(&["env"]);
    assert!(env.contains("HOME=/root") && env.contains("HOSTNAME=boxed"), "{env}");
}

#[test]
fn exit_codes_are_told_and_recorded() {
    if !able() {
        return;
    }
    for (script, code) in [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$; sleep 5", 7)] {
        let mut container = Box::new(&["sh", "-c", &format!("trap 'exit 7' TERM; {script}")]);
        let exit = container.run();
        assert_eq!(exit.code, code, "{script}");
        assert_eq!(container.client().exit_record().unwrap(), Some(exit));
    }
    let mut container = Box::new(&["sleep", "100"]);
    container.launch().unwrap();
    let client = container.client();
    client.start().unwrap();
    client.kill(9).unwrap();
    assert_eq!(client.wait().or_else(|_| client.exit_record().map(Option::unwrap)).unwrap().code, 137);
    container.ended();
}

#[test]
fn a_program_that_can_not_be_run_says_why() {
    if !able() {
        return;
    }
    for (args, want) in [
        (&["no-such-program"][..], "exec: \"no-such-program\": executable file not found in $PATH"),
        (&["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
        (&["/etc"], "exec: \"/etc\": is a directory"),
    ] {
        let error = Box::new(args).launch().unwrap_err();
        assert_eq!(error.to_string(), want);
    }
    let mut container = Box::new(&["true"]);
    "nobody-here".clone_into(&mut container.container.user);
    assert!(container.launch().unwrap_err().to_string().contains("unable to find user nobody-here"));
}

#[test]
fn streams_are_attached_before_the_start_and_kept_apart() {
    if !able() {
        return;
    }
    let mut container = Box::new(&["sh", "-c", "cat; echo bad >&2; exit 3"]);
    container.options.open_stdin = true;
    container.options.stdin_once = true;
    container.launch().unwrap();
    let client = container.client();
    let mut streams = client.attach(true, true, true).unwrap();
    client.start().unwrap();
    streams.write_all(b"through the pipe\n").unwrap();
    streams.shutdown(Shutdown::Write).unwrap();
    assert_eq!(frames(&mut streams), ("through the pipe\n".to_owned(), "bad\n".to_owned()));
    container.ended();
    assert_eq!(client.exit_record().unwrap().unwrap().code, 3);
    assert_eq!(container.log(), "through the pipe\nbad\n");
}

#[test]
fn much_output_arrives_whole_at_a_slow_reader() {
    if !able() {
        return;
    }
    let mut container = Box::new(&["dd", "if=/dev/zero", "bs=64k", "count=80", "status=none"]);
    container.options.log = None;
    container.launch().unwrap();
    let client = container.client();
    let mut streams = client.attach(false, true, true).unwrap();
    client.start().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(frames(&mut streams).0.len(), 80 * 65536);
    container.ended();
}

#[test]
fn a_terminal_is_the_containers_own() {
    if !able() {
        return;
    }
    let mut container = Box::new(&["sh", "-c", "tty; read x; stty size; echo got $x"]);
    container.container.tty = true;
    container.options.open_stdin = true;
    container.launch().unwrap();
    let client = container.client();
    let mut streams = client.attach(true, true, true).unwrap();
    client.start().unwrap();
    client.resize(None, 33, 77).unwrap();
    streams.write_all(b"word\n").unwrap();
    let mut text = String::new();
    streams.read_to_string(&mut text).unwrap();
    assert!(text.contains("/dev/pts/0") || text.contains("/dev/console"), "{text}");
    assert!(text.contains("33 77") && text.contains("got word"), "{text}");
    container.ended();
}

fn exec(container: &Box, exec: &ExecProcess, attach: bool) -> fs_base::Result<(String, String, i32)> {
    let client = container.client();
    let root = Root::from_fd(client.root()?);
    let id = fs_base::id::random_hex::<8>()?;
    let request = ExecRequest {
        id: id.clone(),
        process: exec_process(&container.container, exec, &root)?,
        unconfined: false,
        attach,
        stdin: false,
        size: None,
    };
    let (_, mut stream) = client.exec(request)?;
    let (out, err) = frames(&mut stream);
    Ok((out, err, client.exec_wait(&id)?.code))
}

#[test]
fn further_processes_share_the_containers_world() {
    if !able() {
        return;
    }
    let mut container = Box::new(&["sleep", "100"]);
    container.launch().unwrap();
    container.client().start().unwrap();
    let run = |script: &str, user: Option<&str>| {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        exec(&container, &ExecProcess { args, user: user.map(str::to_owned), ..ExecProcess::default() }, true)
    };
    assert_eq!(run("hostname; echo e >&2; exit 5", None).unwrap(), ("boxed\n".into(), "e\n".into(), 5));
    assert_eq!(run("cat /proc/1/comm", None).unwrap().0, "sleep\n");
    assert_eq!(run("id -u; id -G", Some("user")).unwrap().0, "1000\n1000 44\n");
    let own = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
    assert_ne!(run("ls -l /proc/self/ns/cgroup", None).unwrap().0.rsplit(' ').next(), own.to_str());
    let missing = ExecProcess { args: vec!["nothing".into()], ..ExecProcess::default() };
    let error = exec(&container, &missing, true).unwrap_err().to_string();
    assert_eq!(error, "exec: \"nothing\": executable file not found in $PATH");
    // Whoever speaks first, nobody is left behind as a zombie that keeps the container from ending.
    for _ in 0..50 {
        assert!(exec(&container, &missing, true).is_err());
    }
    let astray = ExecProcess { args: vec!["pwd".into()], cwd: Some("/no/where".into()), ..ExecProcess::default() };
    assert!(exec(&container, &astray, true).unwrap_err().to_string().contains("/no/where"));
    container.client().kill(9).unwrap();
    container.ended();
}

#[test]
fn what_is_dangerous_is_hidden_or_refused() {
    if !able() {
        return;
    }
    assert_eq!(output(&["sh", "-c", "cat /proc/timer_list /proc/keys 2>/dev/null; ls /sys/firmware"]), "");
    for script in [
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "touch /sys/x",
        "mount -t tmpfs none /tmp",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "hostname other",
    ] {
        let mut container = Box::new(&["sh", "-c", script]);
        let exit = container.run();
        assert_ne!(exit.code, 0, "{script}: {}", container.log());
    }
    let caps = output(&["grep", "Cap", "/proc/self/status"]);
    assert!(caps.contains("CapBnd:\t00000000a80425fb"), "{caps}");
    let mut user = Box::new(&["grep", "Cap", "/proc/self/status"]);
    "user".clone_into(&mut user.container.user);
    user.run();
    assert!(user.log().contains("CapEff:\t0000000000000000"), "{}", user.log());
}

#[test]
fn mounts_limits_and_settings_are_in_force() {
    if !able() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "from the host").unwrap();
    let bind = |target: &str, read_only| MountSpec {
        target: target.into(),
        kind: MountKind::Bind { source: host.path().into(), propagation: Propagation::Private, recursive: true },
        read_only,
    };
    let mut container = Box::new(&[
        "sh",
        "-c",
        "cat /new/place/file; touch /new/place/made; touch /ro/x 2>/dev/null || echo refused; touch /here 2>/dev/null || echo root refused; \
         touch /mem/x && echo tmpfs; ulimit -n; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; pwd",
    ]);
    let tmpfs = MountKind::Tmpfs { size: Some(1 << 20), mode: None, options: Vec::new() };
    container.container.mounts =
        vec![bind("/new/place", false), bind("/ro", true), MountSpec { target: "/mem".into(), kind: tmpfs, read_only: false }];
    container.container.read_only_root = true;
    container.container.ulimits = vec![Ulimit { name: "nofile".into(), soft: 100, hard: 200 }];
    "/made/here".clone_into(&mut container.container.cwd);
    let exit = container.run();
    assert_eq!(container.log(), "from the hostrefused\nroot refused\ntmpfs\n100\n0\n/made/here\n", "{}", container.shim_log());
    assert_eq!(exit.code, 0);
    assert!(host.path().join("made").exists());
}

#[test]
fn nothing_of_a_container_is_mounted_on_the_host_by_way_of_what_they_share() {
    if !able() {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    for (propagation, refused) in [(Propagation::Shared, true), (Propagation::Slave, false)] {
        let mut container = Box::new(&["true"]);
        let kind = MountKind::Bind { source: host.path().into(), propagation, recursive: true };
        container.container.mounts = vec![MountSpec { target: "/dev".into(), kind, read_only: false }];
        let built = engine::spec::build(&container.container, &Root::open(&container.tree()).unwrap());
        let said = built.map_or_else(|error| error.to_string(), |_| String::new());
        assert_eq!(said.contains("invalid mount of /dev: it is shared with the host"), refused, "{said}");
    }
}

#[test]
fn symlinks_of_the_image_lead_nowhere_else() {
    if !able() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    let mut container = Box::new(&["true"]);
    std::os::unix::fs::symlink(outside.path(), container.tree().join("link")).unwrap();
    std::fs::create_dir_all(container.tree().join(outside.path().strip_prefix("/").unwrap())).unwrap();
    container.container.mounts = vec![MountSpec {
        target: "/link/deep".into(),
        kind: MountKind::Bind { source: host.path().into(), propagation: Propagation::Private, recursive: true },
        read_only: false,
    }];
    assert_eq!(container.run().code, 0);
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was made outside");
    let mut container = Box::new(&["true"]);
    std::os::unix::fs::symlink("/tmp", container.tree().join("proc")).unwrap();
    let error = container.launch().unwrap_err().to_string();
    assert!(error.contains("/proc of the image must be mounted on ordinary directory"), "{error}");
}

#[test]
fn an_init_of_ours_reaps_and_hands_signals_on() {
    if !able() {
        return;
    }
    let mut container =
        Box::new(&["sh", "-c", "trap 'echo term; exit 4' TERM; echo $$; (sleep 0.1 &) ; while true; do sleep 0.1; done"]);
    container.options.init = true;
    container.launch().unwrap();
    let client = container.client();
    client.start().unwrap();
    while container.log().is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    client.kill(15).unwrap();
    container.ended();
    assert_eq!(client.exit_record().unwrap().unwrap().code, 4);
    let log = container.log();
    assert!(log.ends_with("term\n") && !log.starts_with("1\n"), "{log}");
}

#[test]
fn the_host_network_and_privileges_can_be_had() {
    if !able() {
        return;
    }
    let mut container =
        Box::new(&["sh", "-c", "ls -l /proc/self/ns/net; mount -t tmpfs none /tmp && echo mounted; ls /dev/fuse"]);
    container.container.network = Network::Host;
    container.container.privileged = true;
    container.run();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let log = container.log();
    assert!(log.contains(own.to_str().unwrap()) && log.contains("mounted"), "{log}");
}

#[test]
fn nothing_is_left_of_a_container() {
    if !able() {
        return;
    }
    let cgroups = || {
        let under = |root: std::fs::DirEntry| {
            std::fs::read_dir(root.path().join("fsd-test")).map_or(0, |dir| dir.flatten().filter(|e| e.path().is_dir()).count())
        };
        std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(under).sum::<usize>()
    };
    let mut container = Box::new(&["sleep", "100"]);
    let before = cgroups();
    let pid = container.launch().unwrap();
    container.client().start().unwrap();
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(container.run_dir().to_str().unwrap()), "its mounts are not the host's");
    container.client().kill(9).unwrap();
    container.ended();
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert!(!container.run_dir().join("shim.sock").exists());
    // Other tests of this file run at the same time: only this one's own are looked for.
    let name = container.container.id.to_string();
    let mine =
        std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().any(|root| root.path().join("fsd-test").join(&name).exists());
    assert!(!mine, "{before}");
}

#[test]
fn what_is_mounted_in_a_container_does_not_show_where_its_tree_came_from() {
    use fs_base::sys::mount::{Mount, unshare_mount_namespace};
    if !able() {
        return;
    }
    let in_own_namespace = || {
        unshare_mount_namespace().unwrap();
        let mut container = Box::new(&["true"]);
        let tree = container.tree();
        let shared = Mount::clone_of(&tree, false).unwrap();
        shared.attach(&tree).unwrap();
        // As everything is below a "/" that systemd has made.
        shared.set_propagation(fs_base::Propagation::Shared, false).unwrap();
        container.launch().unwrap();
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let below = table.lines().filter(|line| line.contains(tree.to_str().unwrap())).count();
        container.client().start().unwrap();
        container.ended();
        // Its folder can be removed when the namespace is gone.
        (below, container)
    };
    assert_eq!(std::thread::spawn(in_own_namespace).join().unwrap().0, 1);
}
