//! What broke other container engines, tried on this one. Each test is named by what it is about; the numbers of the
//! public advisories are beside it.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use system_tests::containers::own_memory;
use system_tests::{Daemon, has, images, may_mount, ok, sh};

/// A daemon with an image `hostile`: busybox's, changed by a script in its tree, and with these settings.
fn with_image(script: &str, settings: &Value) -> Option<Daemon> {
    if !may_mount() || !has("docker") || !has("busybox") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(
        dir.path(),
        &format!(
            "mkdir -p t/bin t/etc t/tmp t/root; cp \"$(command -v busybox)\" t/bin/busybox; \
             for name in $(t/bin/busybox --list); do [ $name = busybox ] || ln -s busybox t/bin/$name; done; \
             echo root:x:0:0:root:/root:/bin/sh > t/etc/passwd; echo root:x:0: > t/etc/group; (cd t; {script}); \
             tar -C t -S --numeric-owner -cf layer.tar ."
        ),
    );
    let layer = std::fs::read(dir.path().join("layer.tar")).unwrap();
    let archive = dir.path().join("image.tar");
    std::fs::write(&archive, images::docker_archive_with("hostile:1", settings, &[&layer])).unwrap();
    let daemon = Daemon::start();
    ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    Some(daemon)
}

fn plain() -> Value {
    json!({"Cmd": ["sh"]})
}

fn run(daemon: &Daemon, flags: &[&str], command: &[&str]) -> Output {
    daemon.docker(&[&["run", "--rm", "--network", "none"], flags, &["hostile:1"], command].concat())
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// CVE-2024-21626: a descriptor of the host's file system that the runtime left open is the working directory.
#[test]
fn cve_2024_21626_no_descriptor_or_directory_of_the_host_is_left() {
    let Some(daemon) = with_image("mkdir -p work", &plain()) else { return };
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "c1", "hostile:1", "sleep", "1000"]));
    for number in 0..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let started = run(&daemon, &["-w", &cwd], &["sh", "-c", "cat ../../../../../../../../etc/os-release; pwd -P"]);
        assert!(!text(&started).contains("PRETTY_NAME"), "{cwd}: {}", text(&started));
        let executed = daemon.docker(&["exec", "-w", &cwd, "c1", "sh", "-c", "cat ../../../../../../../etc/os-release"]);
        assert!(!text(&executed).contains("PRETTY_NAME"), "exec {cwd}: {}", text(&executed));
    }
    // Nothing but the streams and what `ls` itself opened.
    let open = |output: &Output| text(output).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(open(&run(&daemon, &[], &["ls", "/proc/self/fd"])), ["0", "1", "2", "3"]);
    assert_eq!(open(&daemon.docker(&["exec", "c1", "ls", "/proc/self/fd"])), ["0", "1", "2", "3"]);
    // The same from the image.
    let Some(daemon) = with_image("true", &json!({"Cmd": ["sh"], "WorkingDir": "/proc/self/fd/8"})) else { return };
    let started = run(&daemon, &[], &["cat", "../../../../../../../../etc/os-release"]);
    assert!(!text(&started).contains("PRETTY_NAME"), "{}", text(&started));
}

/// CVE-2019-5736: the container writes over the program that runs it, through /proc/self/exe.
#[test]
fn cve_2019_5736_our_program_is_not_written_through_proc() {
    let Some(daemon) = with_image("printf '#!/proc/self/exe\\n' > bin/trap; chmod +x bin/trap", &plain()) else { return };
    let shim = system_tests::program("fsd-shim");
    let before = images::digest(&std::fs::read(&shim).unwrap());
    // Processes that are still ours, seen from inside while they become something else.
    let watch = "i=0; while [ $i -lt 3000 ]; do for exe in /proc/[0-9]*/exe; do case $(readlink $exe) in *busybox) ;; \
                 *) (echo x >> $exe) 2>/dev/null && echo WRITTEN;; esac; done; i=$((i+1)); done";
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "c1", "hostile:1", "sh", "-c", watch]));
    for _ in 0..20 {
        let _ = daemon.docker(&["exec", "c1", "/bin/trap"]);
        let _ = daemon.docker(&["exec", "c1", "true"]);
    }
    let _ = run(&daemon, &[], &["/bin/trap"]);
    let _ = run(&daemon, &["--init"], &["sh", "-c", "echo x >> /proc/1/exe"]);
    let log = text(&daemon.docker(&["logs", "c1"]));
    assert!(!log.contains("WRITTEN"), "{log}");
    assert_eq!(images::digest(&std::fs::read(&shim).unwrap()), before, "the shim's program is as it was");
}

/// CVE-2025-31133, 2025-52565: what is mounted over a masked path or for the console is a trap of the image.
#[test]
fn cve_2025_31133_and_52565_masks_and_console_are_the_runtimes_own() {
    let script = "mkdir -p dev; ln -s /proc/sysrq-trigger dev/null; ln -s /proc/sys/kernel/core_pattern dev/console; \
                  ln -s /proc dev/pts";
    let Some(daemon) = with_image(script, &plain()) else { return };
    let looked = "for path in /proc/keys /proc/timer_list /proc/interrupts; do cat $path; done 2>&1; stat -c %t:%T /dev/null; \
                  echo kernel > /proc/sys/kernel/core_pattern; echo b > /proc/sysrq-trigger; true";
    let seen = text(&run(&daemon, &[], &["sh", "-c", looked]));
    assert_eq!(seen.lines().filter(|line| !line.contains("can't create /proc/")).collect::<Vec<_>>(), ["1:3"], "{seen}");
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let typed = sh(
        daemon.dir(),
        &format!(
            "script -qec 'docker -H unix://{} run --rm -t --network none hostile:1 \
             sh -c \"tty; stat -c %t /dev/console; cat /proc/sys/kernel/core_pattern\"' /dev/null",
            daemon.socket().display()
        ),
    );
    assert!(typed.contains("/dev/pts/0") && typed.contains("88"), "{typed}");
    assert!(typed.contains(before.trim()), "the console is mounted over nothing else: {typed}");
}

/// CVE-2025-52881, 2019-19921: writes to /proc/self/attr go elsewhere, because something lies over /proc.
#[test]
fn cve_2025_52881_and_2019_19921_nothing_is_mounted_into_proc() {
    let Some(daemon) = with_image("mkdir -p shadow/proc; ln -s shadow/proc proc", &plain()) else { return };
    // /proc itself is a symlink in this image.
    let seen = run(&daemon, &[], &["sh", "-c", "stat -f -c %T /proc"]);
    assert!(!seen.status.success() || text(&seen).contains("proc"), "{}", text(&seen));
    let Some(daemon) = with_image("true", &plain()) else { return };
    for target in ["/proc/self/attr", "/proc/self", "/proc/sys/kernel", "/proc/1/fd"] {
        let mounted = run(&daemon, &["--tmpfs", target], &["sh", "-c", "stat -f -c %T /proc/self/attr/"]);
        assert!(!mounted.status.success(), "{target}: {}", text(&mounted));
    }
}

/// CVE-2021-30465: the target of a mount is exchanged for a symlink while it is mounted.
#[test]
fn cve_2021_30465_a_target_that_changes_leads_nowhere_else() {
    let Some(daemon) = with_image("true", &plain()) else { return };
    let outside = tempfile::tempdir().unwrap();
    let swap = format!(
        "mkdir -p /v/a/b; while :; do mv /v/a /v/c; ln -s {} /v/a; rm /v/a; mv /v/c /v/a; done 2>/dev/null",
        outside.path().display()
    );
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "swaps", "-v", "shared:/v", "hostile:1", "sh", "-c", &swap]));
    for _ in 0..40 {
        let ran = run(&daemon, &["-v", "shared:/v", "-v", "inner:/v/a/b"], &["sh", "-c", "echo x > /v/a/b/trap"]);
        // It may fail, but it must not leave.
        let _ = text(&ran);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
    ok(&daemon.docker(&["rm", "-f", "swaps"]));
}

/// CVE-2019-14271, 2018-15664: `cp` into a root that is hostile and changes.
#[test]
fn cve_2019_14271_and_2018_15664_cp_stays_in_a_root_that_changes() {
    let Some(daemon) = with_image("mkdir -p a lib", &plain()) else { return };
    let outside = tempfile::tempdir().unwrap();
    let swap = format!("while :; do mkdir -p /a/d; rm -rf /a; ln -s {} /a; rm /a; done 2>/dev/null", outside.path().display());
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", "c1", "hostile:1", "sh", "-c", &swap]));
    let file = daemon.dir().join("file");
    std::fs::write(&file, "from the host").unwrap();
    for _ in 0..30 {
        let _ = daemon.docker(&["cp", file.to_str().unwrap(), "c1:/a/file"]);
        let _ = daemon.ctl(&["cp", file.to_str().unwrap(), "c1:/a/file"]);
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}

/// CVE-2024-9676: the image's /etc/passwd is without end, or not a file.
#[test]
fn cve_2024_9676_users_are_read_with_bounds_and_inside() {
    let endless = "rm etc/passwd; truncate -s 100G etc/passwd";
    for script in [endless, "rm etc/passwd; mkfifo etc/passwd", "rm etc/passwd; ln -s /dev/zero etc/passwd"] {
        let Some(daemon) = with_image(script, &plain()) else { return };
        let before = own_memory(daemon.pid());
        let ran = run(&daemon, &["-u", "somebody"], &["id"]);
        assert!(!ran.status.success(), "{script}: {}", text(&ran));
        assert!(text(&ran).contains("somebody") || text(&ran).contains("passwd"), "{script}: {}", text(&ran));
        system_tests::until("nothing of it is kept", || own_memory(daemon.pid()) < before + (64 << 10));
    }
    // The host's own users are none of the container's.
    let Some(daemon) = with_image("rm etc/passwd; ln -s ../../../../../../etc/passwd etc/passwd", &plain()) else { return };
    assert!(!run(&daemon, &["-u", "daemon"], &["id"]).status.success());
}

/// CVE-2026-53488 and its like: what an image says of itself is used as a path or a command on the host.
#[test]
fn cve_2026_53488_what_an_image_says_is_data() {
    let settings = json!({
        "Cmd": ["sh", "-c", "pwd; cat /etc/hosts /etc/hostname; env"],
        "WorkingDir": "../../../../tmp/../work/$(touch /tmp/owned)", "User": "0:0",
        "Env": ["A=1\nB=2", "=x", "LD_PRELOAD=/tmp/evil.so", "PATH=/bin:$(touch /tmp/owned)"],
        "Volumes": {"/v/../../../escaped": {}, "/data": {}}, "Hostname": "x\n10.0.0.1 registry", "Labels": {"../../x": "`touch /tmp/owned`"},
        "StopSignal": "SIGTERM; touch /tmp/owned",
    });
    let Some(daemon) = with_image("true", &settings) else { return };
    let ran = run(&daemon, &[], &[]);
    assert!(!text(&ran).contains("10.0.0.1"), "{}", text(&ran));
    assert!(!Path::new("/tmp/owned").exists() && !Path::new("/escaped").exists());
    ok(&daemon.docker(&["ps", "-a"]));
    // Names that would be paths.
    for name in ["../x", "/etc/passwd", "a/../../b", ".", "..", "a\nb"] {
        assert!(!daemon.docker(&["create", "--name", name, "--network", "none", "hostile:1", "true"]).status.success(), "{name}");
        assert!(!daemon.docker(&["volume", "create", name]).status.success(), "{name}");
    }
    let (status, _) = daemon.ask("GET", "/containers/..%2f..%2fimages/json", None);
    assert!((400..500).contains(&status), "{status}");
    daemon.checks_clean();
}
