//! Containers with a user namespace, on trees whose ids stay as they are.

#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;

use common::Box;
use engine::config::{Network, Ulimit, Users};
use engine::shim::proto::ExecRequest;
use engine::spec::{ExecProcess, exec_process};
use fs_base::sys::ids::{IdMap, IdRange, UserNamespace};
use fs_base::sys::root::Root;
use fs_base::{MountKind, MountSpec, Propagation};

const FIRST: u32 = 200_000;

fn able() -> bool {
    if !common::able() {
        return false;
    }
    match UserNamespace::new(&ids()) {
        Ok(_) => true,
        Err(error) => {
            println!("SKIPPED: user namespaces: {error}");
            false
        }
    }
}

fn ids() -> IdMap {
    let ranges = vec![IdRange { inside: 0, outside: FIRST, count: 65_536 }];
    IdMap::new(ranges.clone(), ranges).unwrap()
}

fn container(script: &str) -> Box {
    let mut container = Box::new(&["sh", "-c", script]);
    container.container.users = Users::Own(ids());
    container
}

fn owner(path: PathBuf) -> (u32, u32) {
    let there = std::fs::symlink_metadata(path).unwrap();
    (there.uid(), there.gid())
}

#[test]
fn its_root_is_the_disks_root_and_nobody_on_the_host() {
    if !able() {
        return;
    }
    let mut container = container("id -u; id -g; stat -c %u /etc/passwd; touch /new; mkdir /d; cat /proc/self/uid_map; echo ok");
    std::fs::create_dir(container.tree().join("proc")).unwrap();
    assert_eq!(container.run().code, 0, "{}", container.log());
    let log = container.log();
    let words: Vec<_> = log.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "0", "0", "200000", "65536", "ok"], "{log}");
    for new in ["new", "d", "proc", "sys", "dev"] {
        assert_eq!(owner(container.tree().join(new)), (0, 0), "{new}");
    }
}

#[test]
fn the_host_sees_other_ids_and_the_kernel_is_shut() {
    if !able() {
        return;
    }
    let mut container = container("sleep 1000");
    let pid = container.launch().unwrap();
    container.client().start().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Uid:\t200000\t200000\t200000\t200000"), "{status}");
    assert_eq!(IdMap::of_process(pid).unwrap(), Some(ids()));
    let root = Root::from_fd(container.client().root().unwrap());
    let process = |args: &[&str], user: Option<&str>, tty: bool| {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        let exec = ExecProcess { args, user: user.map(str::to_owned), tty, privileged: true, ..ExecProcess::default() };
        exec_process(&container.container, &exec, &root).unwrap()
    };
    let run = |args: &[&str], user: Option<&str>, tty: bool| {
        let process = process(args, user, tty);
        let id = fs_base::id::random_hex::<8>().unwrap();
        let request = ExecRequest { id, process, unconfined: true, attach: true, stdin: false, size: None };
        let (_, mut stream) = container.client().exec(request).unwrap();
        if tty {
            let mut text = String::new();
            let _ = std::io::Read::read_to_string(&mut stream, &mut text);
            return text;
        }
        let (out, err) = common::frames(&mut stream);
        out + &err
    };
    assert_eq!(run(&["id", "-u"], None, false), "0\n");
    assert_eq!(run(&["id", "-u"], Some("user"), false), "1000\n");
    assert!(run(&["sh", "-c", "tty; stat -c %u $(tty)"], Some("user"), true).contains("/dev/pts/"));
    // All capabilities inside are none outside, and the streams are the user's to open again.
    assert_eq!(run(&["sh", "-c", "echo again > /dev/stdout"], Some("user"), false), "again\n");
    for (script, why) in [
        ("mknod /tmp/sda b 8 0", "not permitted"),
        ("mount -o remount,rw /proc/sys && echo 1 > /proc/sys/kernel/panic", "ermission denied"),
        ("echo c > /proc/sysrq-trigger", ""),
        ("cat /proc/kcore > /dev/null", ""),
    ] {
        let said = run(&["sh", "-c", &format!("{script} || echo REFUSED")], None, false);
        assert!(said.contains("REFUSED") && said.contains(why), "{script}: {said}");
    }
    container.client().kill(9).unwrap();
    container.ended();
}

#[test]
fn dev_proc_sys_and_limits_are_as_without() {
    if !able() {
        return;
    }
    let script = "for n in null zero full random urandom tty; do stat -c '%n %t:%T %u %a' /dev/$n; done; echo x > /dev/null; \
                  ls /dev/pts /dev/shm /dev/mqueue > /dev/null && test -c /dev/ptmx && echo nodes; stat -c 'queues of %u' /dev/mqueue; \
                  test -d /proc/1 && test -d /sys/class/net/lo && echo fs; cat /proc/sys/net/ipv4/ping_group_range; \
                  ulimit -n; hostname; ip link show lo | grep -c UP; test -e /proc/sys/net/ipv4/ip_unprivileged_port_start && echo net; \
                  head -c1 /proc/kcore | grep -c . ; touch /proc/sysrq-trigger 2>/dev/null || echo shut; cat /proc/self/oom_score_adj";
    let mut container = container(script);
    container.container.ulimits = vec![Ulimit { name: "nofile".to_owned(), soft: 777, hard: 888 }];
    container.container.oom_score_adj = Some(100);
    assert_eq!(container.run().code, 0, "{}", container.log());
    let log = container.log();
    for line in [
        "/dev/null 1:3 0 666",
        "/dev/tty 5:0 0 666",
        "nodes",
        "queues of 0",
        "fs",
        "0\t65535",
        "777",
        "boxed",
        "net",
        "shut",
        "100",
    ] {
        assert!(log.lines().any(|said| said == line), "{line} in {log}");
    }
}

#[test]
fn volumes_are_shared_by_ids_inside_and_binds_keep_the_hosts() {
    if !able() {
        return;
    }
    let shared = tempfile::tempdir().unwrap();
    let (volume, bind) = (shared.path().join("volume"), shared.path().join("bind"));
    for dir in [&volume, &bind] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(bind.join("secret"), "of the host's root").unwrap();
    std::fs::set_permissions(bind.join("secret"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mounts = vec![
        MountSpec {
            target: "/volume".into(),
            kind: MountKind::Volume { name: "v".to_owned(), source: volume.clone() },
            read_only: false,
        },
        MountSpec {
            target: "/bind".into(),
            kind: MountKind::Bind { source: bind.clone(), propagation: Propagation::Private, recursive: true },
            read_only: false,
        },
    ];
    let script = "cat /volume/before 2>/dev/null; echo data > /volume/of$(hostname); stat -c %u /bind/secret; \
                  cat /bind/secret || echo closed; touch /bind/new || echo refused; chown 1000:1000 /volume/of$(hostname)";
    let other = vec![IdRange { inside: 0, outside: 400_000, count: 65_536 }];
    let other = IdMap::new(other.clone(), other).unwrap();
    std::fs::write(volume.join("before"), "from before\n").unwrap();
    for (name, users) in [("one", Users::Own(ids())), ("two", Users::Own(other))] {
        let mut container = Box::new(&["sh", "-c", script]);
        container.container.hostname = name.to_owned();
        container.container.users = users;
        container.container.mounts = mounts.clone();
        assert_eq!(container.run().code, 0, "{}", container.log());
        let log = container.log();
        assert!(log.contains("from before") && log.contains("65534\n"), "{log}");
        assert!(log.contains("closed") && log.contains("refused"), "{log}");
    }
    assert_eq!((owner(volume.join("ofone")), owner(volume.join("oftwo"))), ((1000, 1000), (1000, 1000)));
    chown(volume.join("ofone"), Some(0), Some(0)).unwrap();
}

#[test]
fn its_network_is_joined_with_its_users() {
    if !able() {
        return;
    }
    let mut first = container("sleep 1000");
    let pid = first.launch().unwrap();
    first.client().start().unwrap();
    let of = |kind: &str| PathBuf::from(format!("/proc/{pid}/ns/{kind}"));
    let mut second =
        container("id -u; ip link add x0 type dummy 2>/dev/null; readlink /proc/self/ns/user; readlink /proc/self/ns/net");
    second.container.users = Users::Of(of("user"), ids());
    second.container.network = Network::Of(of("net"));
    second.container.pid = engine::config::Namespace::Of(of("pid"));
    assert_eq!(second.run().code, 0, "{}", second.log());
    let log = second.log();
    for kind in ["user", "net"] {
        let there = std::fs::read_link(of(kind)).unwrap();
        assert!(log.contains(there.to_str().unwrap()), "{log}");
    }
    assert!(log.starts_with("0\n"), "{log}");
    first.client().kill(9).unwrap();
    first.ended();
}

#[test]
fn its_init_and_its_terminal_are_its_own() {
    if !able() {
        return;
    }
    let mut container = container("id -u; tty; stat -c '%u %g' /dev/console; cat /proc/1/comm");
    container.options.init = true;
    container.container.tty = true;
    assert_eq!(container.run().code, 0, "{}", container.log());
    let log = container.log();
    assert!(log.contains("/dev/") && log.contains("init"), "{log}");
}
