//! FUSE sessions of ordinary users, of a daemon without privilege, and sessions that are killed and served again.
//!
//! Every server is a process of its own, and whatever asks one is under a timeout.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use system_tests::fuse::{has_fuse, is_mounted, kill, session};
use system_tests::{Daemon, fails, has, images, ok, program_in, until};

/// Debian's `nobody`.
const USER: u32 = 65534;

/// A daemon whose socket a group may use, and a home for a member of that group.
struct Host {
    daemon: Daemon,
    home: PathBuf,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        program_in(dir.path(), "ctl");
        let daemon = Daemon::start_in(dir, &["--group", "users"]);
        let layer = images::layer(&[("etc/one", "one\n"), ("etc/two", "two\n")]);
        images::load(&daemon, "seen:1", &[&layer]);
        Host { daemon, home }
    }

    /// A script of the user's, in its home; `$ctl` is ctl.
    fn user(&self, script: &str) -> Output {
        let group = "users:x:";
        let groups = std::fs::read_to_string("/etc/group").unwrap();
        let gid = groups.lines().find_map(|line| line.strip_prefix(group)).unwrap().split(':').next().unwrap();
        let ctl = format!("{} -H unix://{}", self.daemon.dir().join("ctl").display(), self.daemon.socket().display());
        let user = USER.to_string();
        let mut command = Command::new("timeout");
        command.args(["300", "setpriv", "--reuid", &user, "--regid", &user, "--groups", gid, "bash", "-euc", script]);
        command.env("ctl", ctl).current_dir(&self.home).output().unwrap()
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.join(name).parent().unwrap().canonicalize().unwrap().join(Path::new(name).file_name().unwrap())
    }
}

fn owner(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_member_of_the_group_mounts_and_owns_what_is_mounted() {
    if !(has_fuse() && has("setpriv")) {
        return;
    }
    let host = Host::new();
    let said = ok(&host.user(
        "m=$($ctl image mount seen:1); cat $m/etc/one; stat -c %u:%g:%a $m/etc/one; ! echo x > $m/x
         $ctl image mount seen:1 dir > /dev/null; cat dir/etc/two; stat -c %u dir
         $ctl image mount --rw seen:1 $PWD/rw > /dev/null; echo mine > rw/etc/one; rm rw/etc/two; mkdir rw/new; ls rw/etc; cat rw/etc/one
         $ctl mount ls --format '{{.Object}} {{.Driver}} {{.Mode}} {{.User}} {{.State}}'",
    ));
    let row = |mode| format!("seen:1 fuse {mode} {USER} mounted\n");
    let wanted = format!("one\n{USER}:{USER}:644\ntwo\n{USER}\none\nmine\n{}{}{}", row("ro"), row("ro"), row("rw"));
    assert_eq!(said, wanted);
    let dir = host.at("dir");
    assert!(is_mounted(&dir) && dir.join("etc").read_dir().is_err(), "it is nobody else's, not even root's");
    let pids = session(&dir);
    assert_eq!(pids.iter().map(|pid| owner(*pid)).collect::<Vec<_>>(), [0, USER], "the server is the user's");
    // Root's mounts are not the user's to take away; the other way round they are.
    ok(&host.daemon.ctl(&["image", "mount", "seen:1", host.at("roots").to_str().unwrap()]));
    let refused = fails(&host.user("$ctl umount $PWD/roots"));
    assert!(refused.contains("belongs to another user"), "{refused}");
    ok(&host.daemon.ctl(&["umount", host.at("rw").to_str().unwrap()]));
    ok(&host.user("$ctl umount -a"));
    assert!(!dir.exists() && !host.at("rw").exists(), "what was made for the mounts is gone");
    assert_eq!(ok(&host.daemon.ctl(&["mount", "ls", "-q"])).trim(), host.at("roots").to_str().unwrap());
    ok(&host.daemon.ctl(&["umount", "-a"]));
    until("the sessions' end", || session(&dir).is_empty());
}

#[test]
fn nobody_mounts_over_what_is_not_theirs() {
    if !(has_fuse() && has("setpriv")) {
        return;
    }
    let host = Host::new();
    let top = host.daemon.dir().to_owned();
    for (name, mode) in [("roots", 0o755), ("sticky", 0o1777), ("hidden", 0o700)] {
        std::fs::create_dir(top.join(name)).unwrap();
        std::fs::set_permissions(top.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("../roots", host.home.join("link")).unwrap();
    std::fs::create_dir_all(top.join("hidden/open")).unwrap();
    std::fs::set_permissions(top.join("hidden/open"), std::fs::Permissions::from_mode(0o777)).unwrap();
    for target in
        ["../roots", "../roots/new", "link", "link/new", "../sticky", "../hidden/open", "/", "/proc/self", "../run/fuse", ".."]
    {
        let refused = fails(&host.user(&format!("$ctl image mount seen:1 {target}")));
        assert!(!refused.contains("internal"), "{target}: {refused}");
    }
    assert!(!top.join("roots/new").exists());
    let full = fails(&host.user("mkdir full; touch full/x; $ctl image mount seen:1 full"));
    assert!(full.contains("not empty"), "{full}");
    assert_eq!(ok(&host.daemon.ctl(&["mount", "ls", "-q"])), "");
    // Another mount namespace would not show it.
    let script = format!("$ctl image mount seen:1 {}", host.home.join("elsewhere").display());
    let inner = format!("exec setpriv --reuid {USER} --regid {USER} --groups 100 bash -c '{script}'");
    let ctl = format!("{} -H unix://{}", top.join("ctl").display(), host.daemon.socket().display());
    let output = Command::new("timeout").args(["300", "unshare", "-m", "bash", "-c", &inner]).env("ctl", ctl).output().unwrap();
    let refused = fails(&output);
    assert!(refused.contains("mount namespace"), "{refused}");
    ok(&host.user("mkdir own; $ctl image mount seen:1 own; $ctl umount own"));
    assert!(host.home.join("own").is_dir(), "a folder that was there stays");
}

#[test]
fn a_user_looks_into_containers_and_volumes_with_a_right_of_its_own() {
    if !(has_fuse() && has("setpriv")) {
        return;
    }
    let Some(busybox) = images::made("busybox.tar") else { return };
    let host = Host::new();
    ok(&host.daemon.ctl(&["load", "-q", "-i", busybox.to_str().unwrap()]));
    let script = "echo secret > /d/secret; chmod 600 /d/secret; mkdir -m 700 /d/closed; echo in > /d/closed/in; echo own > /own; chmod 600 /own";
    ok(&host.daemon.ctl(&["run", "--network", "none", "--name", "box", "-v", "data:/d", "busybox", "sh", "-c", script]));
    let said = ok(&host.user(
        "m=$($ctl volume mount data); cat $m/secret $m/closed/in; stat -c %u $m/secret; ! echo x > $m/secret
         c=$($ctl container mount --rw box); cat $c/own; echo changed > $c/own; cat $c/own; rm -r $c/bin; ls $c/bin 2> /dev/null || echo gone",
    ));
    assert_eq!(said, format!("secret\nin\n{USER}\nown\nchanged\ngone\n"));
    ok(&host.user("$ctl umount -a"));
    let kept = host.daemon.ctl(&["run", "--rm", "--network", "none", "-v", "data:/d", "busybox", "cat", "/d/secret"]);
    assert_eq!(ok(&kept), "secret\n");
    let directory = host.daemon.dir().join("root/volumes/data/_data");
    assert_eq!(std::fs::metadata(directory.join("secret")).unwrap().uid(), 0);
}

#[test]
fn a_session_of_a_user_that_is_killed_leaves_nothing() {
    if !(has_fuse() && has("setpriv")) {
        return;
    }
    let host = Host::new();
    let dir = host.at("dir");
    let mount = || ok(&host.user("$ctl image mount --rw seen:1 dir"));
    mount();
    kill(session(&dir)[1]);
    until("the guard to clean up", || !is_mounted(&dir));
    until("the daemon to notice", || ok(&host.daemon.ctl(&["mount", "ls", "-q"])).is_empty());
    assert!(!dir.exists());
    mount();
    for pid in session(&dir) {
        kill(pid);
    }
    until("their end", || session(&dir).is_empty());
    until("the daemon to see that nobody holds the lock", || ok(&host.daemon.ctl(&["mount", "ls", "-q"])).is_empty());
    assert!(!is_mounted(&dir) && !dir.exists());
    assert!(std::fs::read_dir(host.daemon.dir().join("root/scratch")).unwrap().next().is_none(), "what was written is gone");
}

#[test]
fn a_session_that_is_killed_is_served_again_if_asked() {
    if !(has_fuse() && has("setpriv")) {
        return;
    }
    let host = Host::new();
    for (who, command) in [("root", "image mount --fuse --rw --restart seen:1"), ("user", "image mount --rw --restart seen:1")] {
        let dir = host.at(who);
        let as_user = |script: &str| if who == "user" { host.user(script) } else { root(&host, script) };
        ok(&as_user(&format!("$ctl {command} {}", dir.display())));
        ok(&as_user(&format!("echo kept > {0}/etc/new; sync {0}/etc/new; rm {0}/etc/one", dir.display())));
        for round in 0..3 {
            let before = session(&dir);
            kill(*before.last().unwrap());
            let is_new = || session(&dir).iter().any(|pid| !before.contains(pid));
            until("the guard to mount it again", || is_new() && is_mounted(&dir));
            let read = format!("cat {0}/etc/new {0}/etc/two; ls {0}/etc", dir.display());
            until("it to be served", || as_user(&read).status.success());
            assert_eq!(ok(&as_user(&read)), "kept\ntwo\nnew\ntwo\n", "{who}, round {round}: what was synced is there");
        }
        until("the daemon's word", || ok(&host.daemon.ctl(&["mount", "ls", "--format", "{{.State}}"])) == "mounted\n");
        // With nobody left the daemon does it.
        for pid in session(&dir) {
            kill(pid);
        }
        until("their end", || session(&dir).is_empty());
        until("the daemon to mount it again", || {
            ok(&host.daemon.ctl(&["mount", "ls", "--format", "{{.State}}"])) == "mounted\n"
                && as_user(&format!("cat {}/etc/new", dir.display())).status.success()
        });
        assert_eq!(ok(&as_user(&format!("cat {0}/etc/new; ls {0}/etc", dir.display()))), "kept\nnew\ntwo\n");
        ok(&as_user(&format!("$ctl umount {}", dir.display())));
        until("the session's end", || session(&dir).is_empty());
        assert!(!is_mounted(&dir) && !dir.exists());
    }
    // What is asked of the kernel does not die.
    let refused = fails(&host.daemon.ctl(&["image", "mount", "--restart", "seen:1"]));
    assert!(refused.contains("--fuse"), "{refused}");
    until("what was written to be gone", || std::fs::read_dir(host.daemon.dir().join("root/scratch")).unwrap().next().is_none());
}

#[test]
fn a_writable_mount_says_what_was_changed_without_being_looked_through() {
    if !(has_fuse() && has("setpriv")) {
        return;
    }
    let host = Host::new();
    for who in ["root", "user"] {
        let as_user = |script: &str| if who == "user" { host.user(script) } else { root(&host, script) };
        let dir = host.at(who);
        let at = |script: &str| ok(&as_user(&format!("m={}; {script}", dir.display())));
        at("$ctl image mount --fuse --rw seen:1 $m > /dev/null");
        assert_eq!(at("$ctl mount diff $m; $ctl mount diff --total $m"), "0\n");
        at("echo longer >> $m/etc/one; rm $m/etc/two; mkdir $m/new; echo x > $m/new/x; touch $m/etc");
        let listed = "C /etc\nC /etc/one\nD /etc/two\nA /new\nA /new/x\n";
        assert_eq!(at("$ctl mount diff $m"), listed, "{who}");
        assert_eq!(at("$ctl mount diff --total $m"), "5\n", "seven bytes more, four less, and two");
        let sized = at("$ctl mount diff -s $m");
        assert!(
            sized.contains("C       +7B content  /etc/one\n") && sized.contains("D       -4B content  /etc/two\n"),
            "{sized}"
        );
        // What is written by who has it open shows too, and what is taken back does not.
        let script = "exec 7>> $m/new/x; $ctl mount diff --total $m; head -c 1000000 /dev/zero >&7; sync $m/new/x; $ctl mount diff --total $m
            exec 7>&-; mv $m/new/x $m/new/y; rm -r $m/new; echo one > $m/etc/one; chmod 600 $m/etc/one; $ctl mount diff -s $m";
        let said = at(script);
        let (totals, list) = said.split_at("5\n1000005\n".len());
        assert_eq!(totals, "5\n1000005\n", "{who}");
        assert!(list.contains("C       +0B metadata /etc/one\n") && !list.contains("new"), "{list}");
        // More than one answer holds.
        at(
            "mkdir $m/many; cd $m/many; for i in $(seq 1200); do echo > a-long-name-so-that-many-of-them-are-more-than-one-answer-$i; done",
        );
        assert_eq!(at("$ctl mount diff $m | wc -l"), "1204\n");
        let json = at("$ctl mount diff --format json $m | tail -n 1");
        assert!(json.contains("\"kind\":\"added\"") && json.contains("answer-999"), "{json}");
        if who == "user" {
            let refused = fails(&root(&host, &format!("$ctl mount diff {}", dir.display())));
            assert!(refused.contains("only user 65534 can see what was changed"), "{refused}");
        }
        at("$ctl umount $m");
        assert_eq!(at("$ctl image mount seen:1 $m > /dev/null; $ctl mount diff $m; $ctl umount $m > /dev/null"), "");
    }
    let refused = fails(&host.user("$ctl mount diff /"));
    assert!(refused.contains("not the top of a tree that FUSE serves"), "{refused}");
}

fn root(host: &Host, script: &str) -> Output {
    let ctl = format!("{} -H unix://{}", host.daemon.dir().join("ctl").display(), host.daemon.socket().display());
    Command::new("timeout").args(["300", "bash", "-euc", script]).env("ctl", ctl).output().unwrap()
}

#[test]
fn a_daemon_without_privilege_mounts_by_fuse() {
    if !(has_fuse() && has("setpriv") && has("fusermount3")) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    for name in ["ctl", "fsd", "fsd-fuse", "fsd-shim"] {
        program_in(&home, name);
    }
    let layer = images::layer(&[("etc/one", "one\n"), ("etc/two", "two\n")]);
    std::fs::write(home.join("image.tar"), images::docker_archive("seen:1", &[&layer])).unwrap();
    // The device is everybody's on a common host. Where it is not, a namespace has one that is.
    let script = r#"set -e; chown -R 65534:65534 .; mknod ../fuse c 10 229; chmod 666 ../fuse; mount --bind ../fuse /dev/fuse
        exec setpriv --reuid 65534 --regid 65534 --clear-groups bash -euc '
            ./fsd --root root --run run > log 2>&1 & daemon=$!; trap "kill $daemon; wait $daemon || true" EXIT
            ctl="./ctl -H unix://$PWD/run/fsd.sock"
            until $ctl info > /dev/null 2>&1; do kill -0 $daemon; sleep 0.1; done
            $ctl load -q -i image.tar > /dev/null
            m=$($ctl image mount seen:1); cat $m/etc/one; stat -c %u $m/etc/one; ! echo x 2> /dev/null > $m/etc/one
            $ctl image mount --rw seen:1 here > /dev/null; echo mine > here/etc/one; cat here/etc/one
            $ctl volume create data > /dev/null; echo in > root/volumes/data/_data/file; v=$($ctl volume mount --fuse data); cat $v/file
            $ctl mount ls --format "{{.Object}} {{.Driver}} {{.Mode}} {{.State}}"
            $ctl umount -a > /dev/null; $ctl mount ls -q; grep -c $PWD /proc/mounts || true; ls here 2> /dev/null || echo away'"#;
    let output =
        Command::new("timeout").args(["600", "unshare", "-m", "bash", "-c", script]).current_dir(&home).output().unwrap();
    let log = std::fs::read_to_string(home.join("log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}\n{}\n{log}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let said = ok(&output);
    let wanted = "one\n65534\nmine\nin\nseen:1 fuse ro mounted\nseen:1 fuse rw mounted\ndata fuse ro mounted\n0\naway\n";
    assert_eq!(said, wanted, "{}\n{log}", String::from_utf8_lossy(&output.stderr));
}
