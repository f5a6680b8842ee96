//! Beside systemd: the daemon's unit, readiness told from inside a container, systemd as a container's first process.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use system_tests::{Daemon, PATIENCE, can, has, images, may_mount, ok, sh};

#[test]
fn the_unit_leaves_containers_alone_and_has_its_cgroup_to_itself() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/fsd.service");
    let text = std::fs::read_to_string(unit).unwrap();
    let service = text.split("[Service]").nth(1).unwrap().split("\n[").next().unwrap();
    for line in ["Type=notify", "KillMode=process", "Delegate=yes", "TasksMax=infinity", "Restart=on-failure"] {
        assert!(service.lines().any(|there| there == line), "{line} in {service}");
    }
}

/// Whoever wants to know when what is in a container is ready gives it the socket, as a bind mount.
#[test]
fn a_container_tells_that_it_is_ready() {
    if !may_mount() || !has("docker") || !can("perl (not installed)", Path::new("/usr/bin/perl").exists()) {
        return;
    }
    let Some(archive) = images::made("debian.tar") else { return };
    for flags in [&[][..], &["--userns-remap", "default"]] {
        let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), flags);
        ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
        let place = daemon.dir().join("notify");
        let socket = UnixDatagram::bind(&place).unwrap();
        // As systemd has it: anybody may write to it.
        sh(daemon.dir(), "chmod 777 notify");
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let bind = format!("{}:/run/notify", place.display());
        let script = "use Socket; socket(my $s, PF_UNIX, SOCK_DGRAM, 0); \
                      send($s, \"READY=1\\nSTATUS=inside\", 0, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!";
        let run = [
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            &bind,
            "-e",
            "NOTIFY_SOCKET=/run/notify",
            "debian:12",
            "perl",
            "-e",
            script,
        ];
        ok(&daemon.docker(&run));
        let mut said = [0; 100];
        let length = socket.recv(&mut said).unwrap();
        assert_eq!(&said[..length], b"READY=1\nSTATUS=inside", "{flags:?}");
    }
}

/// What a systemd in a container needs: cgroups that are its own to divide, in every hierarchy that there is.
#[test]
fn a_privileged_container_divides_its_own_cgroups_and_others_do_not() {
    let Some(daemon) = system_tests::containers::with_busybox() else { return };
    let script = "cd /sys/fs/cgroup; [ -e cgroup.procs ] && set -- . || set -- $(ls); \
                  for dir; do [ -L $dir ] || { mkdir $dir/own 2>/dev/null && rmdir $dir/own && echo made $dir; }; done; \
                  grep -c ':/$' /proc/self/cgroup; grep -c . /proc/self/cgroup; echo end";
    let run = |flags: &[&str]| {
        ok(&daemon.docker(&[&["run", "--rm", "--network", "none"], flags, &["busybox", "sh", "-c", script]].concat()))
    };
    let plain = run(&[]);
    assert!(!plain.contains("made") && plain.ends_with("end\n"), "{plain}");
    // On cgroup v1 such a one sees the host's, unless it is told not to.
    let privileged = run(&["--privileged", "--cgroupns", "private"]);
    assert!(privileged.contains("made"), "{privileged}");
    if Path::new("/sys/fs/cgroup/systemd/cgroup.procs").exists() {
        assert!(privileged.contains("made systemd"), "{privileged}");
    }
    for said in [plain, privileged] {
        let numbers: Vec<&str> = said.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
        assert_eq!(numbers[0], numbers[1], "in each it is at the top: {said}");
    }
}
