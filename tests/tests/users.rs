//! Containers whose users are not the host's: `--userns-remap`, `--userns`.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use system_tests::containers::is_builtin;
use system_tests::fuse::has_fuse;
use system_tests::{Daemon, PATIENCE_SECONDS, fails, has, images, may_mount, ok, sh, until};

/// A daemon with these flags and an image `box`, in which `/own/f` and all else of `/own` belong to 1000.
fn daemon(flags: &[&str]) -> Option<Daemon> {
    if !may_mount() || !has("docker") || !has("busybox") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path());
    let daemon = Daemon::start_in(tempfile::tempdir().unwrap(), flags);
    ok(&daemon.ctl(&["load", "-q", "-i", archive.to_str().unwrap()]));
    Some(daemon)
}

fn archive(dir: &Path) -> PathBuf {
    sh(
        dir,
        "mkdir -p t/bin t/etc t/tmp t/root t/own; cp \"$(command -v busybox)\" t/bin/busybox; \
         for name in $(t/bin/busybox --list); do [ $name = busybox ] || ln -s busybox t/bin/$name; done; chmod 1777 t/tmp; \
         printf 'root::0:0:root:/root:/bin/sh\\nuser:x:1000:1000::/own:/bin/sh\\n' > t/etc/passwd; echo root:x:0: > t/etc/group; \
         echo of the image > t/own/f; mkdir t/suid; cp t/bin/busybox t/suid/; chown 0:0 t/bin/* t/suid/*; chmod 4755 t/suid/busybox; \
         chown -R 1000:1000 t/own; tar -C t --numeric-owner -cf layer.tar .",
    );
    let layer = std::fs::read(dir.join("layer.tar")).unwrap();
    let archive = dir.join("image.tar");
    std::fs::write(&archive, images::docker_archive_with("box:1", &json!({"Cmd": ["sh"]}), &[&layer])).unwrap();
    archive
}

fn remapped() -> Option<Daemon> {
    daemon(&["--userns-remap", "default"])
}

/// The same where a process serves the tree, which maps its owners itself.
fn remapped_on_fuse() -> Option<Daemon> {
    if has_fuse() { daemon(&["--userns-remap", "default", "--storage-driver", "fuse"]) } else { None }
}

/// Runs a container in the background.
fn run(daemon: &Daemon, flags: &[&str], command: &[&str]) -> String {
    ok(&daemon.docker(&[&["run", "-d", "--network", "none"], flags, &["box:1"], command].concat())).trim().to_owned()
}

fn shell(daemon: &Daemon, flags: &[&str], script: &str) -> String {
    ok(&daemon.docker(&[&["run", "--rm", "--network", "none"], flags, &["box:1", "sh", "-c", script]].concat()))
}

fn pid(daemon: &Daemon, name: &str) -> i32 {
    ok(&daemon.docker(&["inspect", "-f", "{{.State.Pid}}", name])).trim().parse().unwrap()
}

/// Waits until a container's script has become what it ends in.
fn has_become(daemon: &Daemon, name: &str, program: &str) {
    let pid = pid(daemon, name);
    let line = || std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    until("its script is through", || line().split('\0').next() == Some(program));
}

fn upper(daemon: &Daemon, name: &str) -> PathBuf {
    let id = ok(&daemon.docker(&["inspect", "-f", "{{.Id}}", name]));
    daemon.dir().join("root/containers").join(id.trim()).join("upper")
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let there = std::fs::symlink_metadata(path).unwrap();
    (there.uid(), there.gid())
}

/// A second daemon, which ends with the test, however that ends.
struct Other(std::process::Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Who root inside is on the host.
fn host_root(daemon: &Daemon, name: &str) -> u32 {
    std::fs::metadata(format!("/proc/{}", pid(daemon, name))).unwrap().uid()
}

#[test]
fn a_containers_files_are_on_the_disk_as_without_and_its_processes_are_somebody_else() {
    [remapped(), remapped_on_fuse()].iter().flatten().for_each(ids_are_those_inside);
}

fn ids_are_those_inside(daemon: &Daemon) {
    let id = run(
        daemon,
        &["--name", "c1"],
        &["sh", "-c", "echo x > /new; chown 1000:7 /new; rm /own/f; echo y > /own/g; exec sleep 1000"],
    );
    assert_ne!(host_root(daemon, "c1"), 0);
    has_become(daemon, "c1", "sleep");
    ok(&daemon.docker(&["exec", "c1", "touch", "/by-exec"]));
    ok(&daemon.docker(&["exec", "-u", "user", "c1", "touch", "/own/by-user"]));
    assert_eq!(
        ok(&daemon.docker(&["exec", "-u", "user", "c1", "/suid/busybox", "su", "-c", "id -u"])).trim(),
        "0",
        "set-user-id works"
    );
    let upper = daemon.dir().join("root/containers").join(&id).join("upper");
    assert_eq!(owner(upper.join("new")), (1000, 7));
    assert_eq!((owner(upper.join("by-exec")), owner(upper.join("own/by-user"))), ((0, 0), (1000, 1000)));
    assert_eq!(owner(upper.join("own")), (1000, 1000), "copied up as it was");
    let diff = ok(&daemon.docker(&["diff", "c1"]));
    for line in ["A /new", "D /own/f", "A /own/g", "C /own"] {
        assert!(diff.lines().any(|there| there == line), "{line} in {diff}");
    }
    // An image of it, and a tar of it, have the ids inside, whoever runs it.
    ok(&daemon.docker(&["commit", "c1", "copy:1"]));
    let stat = "stat -c '%u:%g' /new /own /own/g";
    for flags in [&["--userns=host"][..], &[]] {
        let said = ok(&daemon.docker(&[&["run", "--rm", "--network", "none"], flags, &["copy:1", "sh", "-c", stat]].concat()));
        assert_eq!(said, "1000:7\n1000:1000\n0:0\n", "{flags:?}");
    }
    let out = daemon.dir().join("export.tar");
    ok(&daemon.docker(&["export", "-o", out.to_str().unwrap(), "c1"]));
    let list = sh(daemon.dir(), "tar --numeric-owner -tvf export.tar");
    let of = |name: &str| list.lines().find(|line| line.ends_with(&format!(" {name}"))).unwrap().to_owned();
    assert!(of("new").contains(" 1000/7 ") && of("bin/busybox").contains(" 0/0 "), "{list}");
}

#[test]
fn cp_goes_in_and_out_with_the_ids_inside() {
    [remapped(), remapped_on_fuse()].iter().flatten().for_each(cp_goes_in_and_out);
}

fn cp_goes_in_and_out(daemon: &Daemon) {
    run(daemon, &["--name", "c1", "-v", "data:/data"], &["sleep", "1000"]);
    let file = daemon.dir().join("host");
    std::fs::write(&file, "from the host").unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1000)).unwrap();
    for (stopped, name) in [(false, "live"), (true, "stopped")] {
        if stopped {
            ok(&daemon.docker(&["kill", "c1"]));
        }
        for dir in ["/", "/data/"] {
            ok(&daemon.docker(&["cp", file.to_str().unwrap(), &format!("c1:{dir}{name}")]));
            ok(&daemon.docker(&["cp", "-a", file.to_str().unwrap(), &format!("c1:{dir}{name}-a")]));
            let list = archived(daemon, &format!("c1:{dir}{name}-a"));
            assert!(list.contains(" 1000/1000 "), "{name} {dir}: {list}");
        }
    }
    ok(&daemon.docker(&["start", "c1"]));
    for name in ["/live", "/data/live", "/stopped", "/data/stopped"] {
        let said = ok(&daemon.docker(&["exec", "c1", "stat", "-c", "%u:%g", name, &format!("{name}-a")]));
        assert!(said.lines().nth(1) == Some("1000:1000") && !said.contains("65534"), "{name}: {said}");
    }
    // A folder too, and over what is there.
    sh(daemon.dir(), "mkdir -p tree/a/b; echo 1 > tree/a/b/f; ln -s f tree/a/b/l; ln tree/a/b/f tree/a/b/h");
    ok(&daemon.docker(&["cp", daemon.dir().join("tree").to_str().unwrap(), "c1:/tmp/"]));
    ok(&daemon.docker(&["cp", daemon.dir().join("tree").to_str().unwrap(), "c1:/tmp/"]));
    let said =
        ok(&daemon.docker(&["exec", "c1", "sh", "-c", "cd /tmp/tree/a/b; cat l; stat -c %h f; rm -r /tmp/tree && echo mine"]));
    assert_eq!(said, "1\n2\nmine\n");
}

/// What is at `from` in a container, as the archive that the daemon sends, below the daemon's folder.
fn archived(daemon: &Daemon, from: &str) -> String {
    let tar = daemon.docker(&["cp", from, "-"]);
    std::fs::write(daemon.dir().join("out.tar"), &tar.stdout).unwrap();
    assert!(tar.status.success(), "{from}: {}", String::from_utf8_lossy(&tar.stderr));
    sh(daemon.dir(), "tar --numeric-owner -tvf out.tar")
}

/// `cap_dac_override=ep`, without a root of its own.
const MAY_READ_ALL: &str = "0x0100000202000000000000000000000000000000";

/// The ACL and the capabilities of a file, as bytes.
fn named(path: &Path) -> Vec<Option<Vec<u8>>> {
    let mut value = [0u8; 256];
    ["system.posix_acl_access", "system.posix_acl_default", "security.capability"]
        .map(|name| rustix::fs::lgetxattr(path, name, &mut value[..]).ok().map(|length| value[..length].to_vec()))
        .to_vec()
}

#[test]
fn acls_and_capabilities_are_those_inside() {
    [remapped(), remapped_on_fuse()].iter().flatten().for_each(acls_and_capabilities);
}

fn acls_and_capabilities(daemon: &Daemon) {
    if !has("setfacl") || !has("setfattr") {
        return;
    }
    sh(
        daemon.dir(),
        &format!(
            "mkdir tree; echo secret > tree/secret; chmod 600 tree/secret; echo listed > tree/listed; chmod 600 tree/listed; \
             setfacl -m u:1000:r,g:7:rw tree/listed; setfacl -d -m u:1000:rx tree; cp \"$(command -v busybox)\" tree/busybox-reader; \
             setfattr -n security.capability -v {MAY_READ_ALL} tree/busybox-reader; chmod 755 tree; \
             for n in 0 1; do cp -a tree tree$n; tar --xattrs --xattrs-include='*' -cf tree$n.tar tree$n; done"
        ),
    );
    run(daemon, &["--name", "c1", "-v", "data:/data"], &["sleep", "1000"]);
    let upper = upper(daemon, "c1");
    let volume = daemon.dir().join("root/volumes/data/_data");
    for (tree, stopped) in [("tree0", false), ("tree1", true)] {
        let host = daemon.dir().join(tree);
        if stopped {
            ok(&daemon.docker(&["kill", "c1"]));
        }
        for (inside, disk) in [("/", &upper), ("/data/", &volume)] {
            let archive = format!("{}.tar", host.display());
            ok(&daemon.curl(&["-f", "-T", &archive, &format!("http://d/containers/c1/archive?path={inside}")]));
            archived(daemon, &format!("c1:{inside}{tree}"));
            sh(daemon.dir(), "rm -rf out; mkdir out; tar --xattrs --xattrs-include='*' -C out -xf out.tar");
            let (disk, out) = (disk.join(tree), daemon.dir().join("out").join(tree));
            for name in ["", "listed", "secret", "busybox-reader"] {
                let given = named(&host.join(name));
                assert_eq!(named(&disk.join(name)), given, "{inside}{tree}/{name} on the disk");
                assert_eq!(named(&out.join(name)), given, "{inside}{tree}/{name} came out otherwise");
            }
            let back = daemon.dir().join(format!("back{}{tree}", inside.len()));
            ok(&daemon.docker(&["cp", &format!("c1:{inside}{tree}/busybox-reader"), back.to_str().unwrap()]));
            assert_eq!(named(&back), named(&host.join("busybox-reader")));
        }
    }
    // What they say holds, and in an image of it too, whoever runs that.
    let script = |tree: &str| {
        format!("cat {tree}/listed; cat {tree}/secret 2> /dev/null || echo no; {tree}/busybox-reader cat {tree}/secret")
    };
    let said = |output: std::process::Output, tree: &str| assert_eq!(ok(&output), "listed\nno\nsecret\n", "{tree}");
    ok(&daemon.docker(&["start", "c1"]));
    for tree in ["/tree0", "/tree1", "/data/tree0", "/data/tree1"] {
        said(daemon.docker(&["exec", "-u", "user", "c1", "sh", "-c", &script(tree)]), tree);
    }
    ok(&daemon.docker(&["commit", "c1", "copy:1"]));
    for flags in [&["--userns=host"][..], &[]] {
        let run = ["run", "--rm", "--network", "none", "-u", "user"];
        said(daemon.docker(&[&run, flags, &["copy:1", "sh", "-c", &script("/tree0")]].concat()), "the image's");
    }
    // A user whom the container does not have is nobody that a file of it can name: it goes without, and its mask too.
    sh(
        daemon.dir(),
        "echo x > other; chmod 600 other; setfacl -m u:100000:rw other; tar --acls --xattrs --xattrs-include='*' -cf other.tar other",
    );
    let other = daemon.dir().join("other.tar").display().to_string();
    ok(&daemon.curl(&["-f", "-T", &other, "http://d/containers/c1/archive?path=/"]));
    assert_eq!(named(&upper.join("other")), [None, None, None]);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(upper.join("other")).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_volume_is_shared_by_containers_with_and_without_remapped_users() {
    let Some(mut daemon) = remapped() else { return };
    // Filled from the image on first use.
    assert_eq!(
        shell(&daemon, &["-v", "data:/own"], "stat -c %u /own /own/f; echo 1 > /own/root; chown user /own/root"),
        "1000\n1000\n"
    );
    let said = shell(&daemon, &["--userns=host", "-v", "data:/data"], "stat -c %u /data/f /data/root; echo 2 > /data/host");
    assert_eq!(said, "1000\n1000\n");
    let said = shell(&daemon, &["-v", "data:/data", "-u", "user"], "echo 3 >> /data/root; stat -c %u /data/host; cat /data/root");
    assert_eq!(said, "0\n1\n3\n");
    let volume = daemon.dir().join("root/volumes/data/_data");
    assert_eq!((owner(volume.join("root")), owner(volume.join("host"))), ((1000, 0), (0, 0)));
    // Nobody has to be asked when the daemon's mind changes.
    run(&daemon, &["--name", "c1", "-v", "data:/data"], &["sh", "-c", "echo first > /mine; exec sleep 1000"]);
    has_become(&daemon, "c1", "sleep");
    daemon.stop();
    let dir = daemon.dir().to_owned();
    let plain = system_tests::program("fsd");
    let other = std::process::Command::new(plain)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--run")
        .arg(dir.join("run"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let _other = Other(other);
    until("the daemon answers", || daemon.curl(&["http://d/_ping"]).stdout == b"OK");
    assert_ne!(host_root(&daemon, "c1"), 0, "it goes on as it was");
    std::fs::write(dir.join("f"), "x").unwrap();
    ok(&daemon.docker(&["cp", dir.join("f").to_str().unwrap(), "c1:/in"]));
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "stat", "-c", "%u", "/in", "/mine"])), "0\n0\n");
    ok(&daemon.docker(&["restart", "-t", "0", "c1"]));
    assert_eq!(host_root(&daemon, "c1"), 0);
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "stat", "-c", "%u", "/in", "/mine"])), "0\n0\n");
    ok(&daemon.docker(&["rm", "-f", "c1"]));
}

#[test]
fn the_hosts_files_are_the_hosts() {
    let Some(daemon) = remapped() else { return };
    let secret = daemon.dir().join("secret");
    std::fs::create_dir(&secret).unwrap();
    std::fs::write(secret.join("key"), "of the host").unwrap();
    sh(&secret, "chmod 600 key; chmod 755 .; mknod sda b 8 0; chmod 600 sda; cp \"$(command -v busybox)\" su; chmod 4755 su");
    let bind = format!("{}:/host", secret.display());
    let all =
        ["-v", &bind, "--cap-add", "ALL", "--security-opt", "seccomp=unconfined", "--security-opt", "systempaths=unconfined"];
    let said = shell(
        &daemon,
        &all,
        "id -u; for try in 'cat /host/key' 'echo x >> /host/key' 'touch /host/new' 'chown 0:0 /host/key' 'chmod 777 /host' \
         'rm -f /host/key' 'mv /host/key /host/k' 'mknod /host/x b 8 0' 'mknod /tmp/x c 1 1' 'cat /host/sda' \
         'mount -t tmpfs -o remount,rw none /host/../proc/sys/kernel' 'echo 0 > /proc/sys/kernel/panic' \
         'echo 1 > /proc/sys/vm/drop_caches' 'cat /proc/kmsg' 'hostname -F /host/key' 'mount /dev/vda /tmp' 'chroot /proc/1/root/../../host touch new'; do \
         sh -c \"$try\" > /dev/null 2>&1 && echo \"DONE $try\"; done; echo end",
    );
    assert_eq!(said, "0\nend\n");
    assert_eq!(std::fs::read_to_string(secret.join("key")).unwrap(), "of the host");
    assert_eq!(owner(secret.join("key")), (0, 0));
    // A set-user-id file of the host's root gives nothing: that root is nobody inside.
    let said = shell(&daemon, &["-v", &bind, "-u", "user"], "/host/su id -u || echo refused");
    assert!(said.trim() != "0" && !said.is_empty(), "{said}");
    // With the host's users the same can read it.
    let said = shell(&daemon, &["-v", &bind, "--userns=host"], "cat /host/key");
    assert_eq!(said, "of the host");
}

#[test]
fn what_needs_the_hosts_users_is_refused_in_dockers_words() {
    let Some(daemon) = remapped() else { return };
    for (flags, why) in [
        (&["--privileged"][..], "privileged mode is incompatible with user namespaces.  You must run the container in the host"),
        (&["--network", "host"], "cannot share the host's network namespace when user namespaces are enabled"),
        (&["--pid", "host"], "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let said = fails(&daemon.docker(&[&["run", "--rm"], flags, &["box:1", "true"]].concat()));
        assert!(said.contains(why), "{flags:?}: {said}");
        ok(&daemon.docker(&[&["run", "--rm", "--userns=host"], flags, &["box:1", "true"]].concat()));
    }
    assert!(ok(&daemon.docker(&["info", "-f", "{{.SecurityOptions}}"])).contains("name=userns"));
    ok(&daemon.docker(&["create", "--name", "host1", "--userns=host", "box:1"]));
    assert_eq!(ok(&daemon.docker(&["inspect", "-f", "{{.HostConfig.UsernsMode}}", "host1"])).trim(), "host");
    let said = fails(&daemon.ctl(&["create", "--userns", "keep-id", "box:1"]));
    assert!(said.contains("--userns keep-id is not supported"), "{said}");
}

#[test]
fn networks_ports_names_and_joined_containers_work() {
    let Some(daemon) = remapped() else { return };
    ok(&daemon.docker(&["network", "create", "net1"]));
    let serve = "mkdir /www; echo served > /www/index.html; httpd -p 80 -h /www; exec sleep 1000";
    ok(&daemon.docker(&["run", "-d", "--name", "web", "--network", "net1", "-p", "127.0.0.1::80", "box:1", "sh", "-c", serve]));
    let port = ok(&daemon.docker(&["port", "web", "80"]));
    let url = format!("http://{}/", port.trim());
    let curl = || std::process::Command::new("curl").args(["-sS", "--max-time", "10", &url]).output().unwrap();
    until("it serves", || curl().stdout == b"served\n");
    let get = |flags: &[&str], host: &str| {
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout {PATIENCE_SECONDS} nc {host} 80 | grep served");
        ok(&daemon.docker(&[&["run", "--rm"], flags, &["box:1", "sh", "-c", &script]].concat()))
    };
    assert_eq!(get(&["--network", "net1"], "web"), "served\n", "by its name");
    assert_eq!(get(&["--network", "net1", "--userns=host"], "web"), "served\n");
    assert_eq!(get(&["--network", "container:web"], "127.0.0.1"), "served\n");
    let said = ok(&daemon.docker(&["run", "--rm", "--pid", "container:web", "--network", "container:web", "box:1", "ps"]));
    assert!(said.contains("sleep 1000"), "{said}");
    let sysctl = ["run", "--rm", "--sysctl", "net.core.somaxconn=77", "box:1", "cat", "/proc/sys/net/core/somaxconn"];
    assert_eq!(ok(&daemon.docker(&sysctl)).trim(), "77");
    ok(&daemon.docker(&[
        "run",
        "-d",
        "--name",
        "donor",
        "--ipc",
        "shareable",
        "--network",
        "none",
        "box:1",
        "sh",
        "-c",
        "echo shm > /dev/shm/f; exec sleep 1000",
    ]));
    has_become(&daemon, "donor", "sleep");
    let shared = [
        "run",
        "--rm",
        "--network",
        "none",
        "--ipc",
        "container:donor",
        "box:1",
        "sh",
        "-c",
        "cat /dev/shm/f; stat -c %u /dev/shm/f",
    ];
    assert_eq!(ok(&daemon.docker(&shared)), "shm\n0\n");
    // Whose users the other has not can't be joined.
    run(&daemon, &["--name", "plain", "--userns=host"], &["sleep", "1000"]);
    let said = fails(&daemon.docker(&["run", "--rm", "--network", "container:plain", "box:1", "true"]));
    assert!(said.contains("has the host's users"), "{said}");
}

#[test]
fn a_container_works_as_others_do() {
    let Some(daemon) = remapped() else { return };
    let init: &[&str] = if is_builtin() { &["--init"] } else { &[] };
    let flags = ["--name", "c1", "--memory", "64m", "--pids-limit", "100", "--tmpfs", "/scratch", "--read-only"];
    run(&daemon, &[&flags[..], init, &["--health-cmd", "true", "--device", "/dev/null:/dev/other"]].concat(), &["sleep", "1000"]);
    let script = "echo x > /scratch/f; stat -c %u /scratch/f; touch /f 2>/dev/null || echo ro; echo > /dev/other; stat -c %t:%T /dev/other";
    assert_eq!(ok(&daemon.docker(&["exec", "c1", "sh", "-c", script])), "0\nro\n1:3\n");
    let stats = ok(&daemon.docker(&["stats", "--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}", "c1"]));
    assert!(stats.contains("64MiB"), "{stats}");
    // Its init has a child that becomes it.
    until("it is seen", || ok(&daemon.docker(&["top", "c1"])).contains(" sleep 1000"));
    ok(&daemon.docker(&["pause", "c1"]));
    ok(&daemon.docker(&["unpause", "c1"]));
    ok(&daemon.docker(&["update", "--memory", "128m", "--memory-swap", "-1", "c1"]));
    ok(&daemon.docker(&["restart", "-t", "0", "c1"]));
    ok(&daemon.docker(&["rm", "-f", "c1"]));
    assert_eq!(shell(&daemon, &["--ulimit", "nofile=321:321", "--hostname", "h"], "ulimit -n; hostname"), "321\nh\n");
    let said = fails(&daemon.docker(&["run", "--rm", "-u", "70000", "box:1", "true"]));
    assert!(said.contains("cannot set uid to unmapped user in user namespace"), "{said}");
}

#[test]
fn on_the_host_a_container_is_mounted_as_the_host_knows_it() {
    let Some(daemon) = remapped() else { return };
    let at = daemon.dir().join("at");
    std::fs::create_dir(&at).unwrap();
    let place = at.to_str().unwrap();
    ok(&daemon.docker(&["create", "--name", "c1", "--network", "none", "-v", "data:/data", "box:1", "sleep", "1000"]));
    ok(&daemon.ctl(&["container", "mount", "c1", place]));
    let shown = owner(at.join("own/f"));
    // It runs, ends, is copied to and from, and the mount shows all of it.
    ok(&daemon.docker(&["start", "c1"]));
    assert_eq!(shown, (host_root(&daemon, "c1") + 1000, host_root(&daemon, "c1") + 1000));
    ok(&daemon.docker(&["exec", "-u", "user", "c1", "touch", "/own/new"]));
    assert_eq!(owner(at.join("own/new")).0, shown.0);
    ok(&daemon.docker(&["restart", "-t", "0", "c1"]));
    ok(&daemon.docker(&["kill", "c1"]));
    let file = daemon.dir().join("file");
    std::fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(1000), Some(1000)).unwrap();
    for to in ["/own/copied", "/data/copied"] {
        ok(&daemon.docker(&["cp", "-a", file.to_str().unwrap(), &format!("c1:{to}")]));
        let list = archived(&daemon, &format!("c1:{to}"));
        assert!(list.contains(" 1000/1000 "), "{to}: {list}");
    }
    assert_eq!((owner(at.join("own/copied")), owner(upper(&daemon, "c1").join("own/copied")).0), (shown, 1000));
    assert_eq!(owner(daemon.dir().join("root/volumes/data/_data/copied")), (1000, 1000));
    ok(&daemon.ctl(&["container", "umount", place]));
    // Mounted while it runs it shows the same, and the next run is no other.
    ok(&daemon.docker(&["start", "c1"]));
    ok(&daemon.ctl(&["container", "mount", "c1", place]));
    assert_eq!(owner(at.join("own/f")), shown);
    ok(&daemon.docker(&["restart", "-t", "0", "c1"]));
    assert_eq!(owner(at.join("own/f")), shown);
    ok(&daemon.ctl(&["container", "umount", place]));
    // Where the tree is not the one that it runs on, owners are those inside.
    for how in ["--fuse", "--rw"].into_iter().filter(|how| *how != "--fuse" || has_fuse()) {
        ok(&daemon.ctl(&["container", "mount", how, "c1", place]));
        assert_eq!(owner(at.join("own/f")), (1000, 1000), "{how}");
        ok(&daemon.ctl(&["container", "umount", place]));
    }
    // With the host's users they are the image's.
    ok(&daemon.docker(&["create", "--name", "plain", "--userns=host", "box:1"]));
    ok(&daemon.ctl(&["container", "mount", "plain", place]));
    assert_eq!(owner(at.join("own/f")), (1000, 1000));
    ok(&daemon.ctl(&["container", "umount", place]));
}

#[test]
fn two_containers_have_the_images_pages_in_common() {
    let Some(daemon) = remapped() else { return };
    run(&daemon, &["--name", "one"], &["sleep", "1000"]);
    run(&daemon, &["--name", "two", "--userns=host"], &["sleep", "1000"]);
    for name in ["one", "two"] {
        has_become(&daemon, name, "sleep");
    }
    // The device and the file that pages belong to, as the kernel names them.
    let backing = |name: &str| {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", pid(&daemon, name))).unwrap();
        let line = maps.lines().find(|line| line.ends_with("/bin/busybox")).unwrap();
        let mut fields = line.split_whitespace().skip(3);
        (fields.next().unwrap().to_owned(), fields.next().unwrap().to_owned())
    };
    assert_eq!(backing("one").1, backing("two").1);
}

#[test]
fn without_remapping_a_container_can_ask_for_users_of_its_own() {
    let Some(daemon) = daemon(&[]) else { return };
    ok(&daemon.ctl(&["run", "-d", "--name", "c1", "--userns", "private", "--network", "none", "box:1", "sleep", "1000"]));
    assert_ne!(host_root(&daemon, "c1"), 0);
    run(&daemon, &["--name", "plain"], &["sleep", "1000"]);
    assert_eq!(host_root(&daemon, "plain"), 0);
    let said = fails(&daemon.ctl(&["run", "--rm", "--userns", "private", "--privileged", "box:1", "true"]));
    assert!(said.contains("privileged mode is incompatible with user namespaces"), "{said}");
}

#[test]
fn a_user_without_ids_is_refused_at_start() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (setting, why) in [("no-such-user", "there is no user no-such-user"), ("daemon", "/etc/subuid has no ids for daemon")] {
        let fsd = std::process::Command::new(system_tests::program("fsd"))
            .arg("--root")
            .arg(dir.path().join("root"))
            .arg("--run")
            .arg(dir.path().join("run"))
            .args(["--userns-remap", setting])
            .output()
            .unwrap();
        let said = fails(&fsd);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn the_hosts_dev_is_taken_as_it_is() {
    let Some(daemon) = remapped() else { return };
    let flags = ["run", "--rm", "--network", "none", "-v", "/dev:/dev", "--device", "/dev/null:/dev/fsd-test-users"];
    let masked = "echo x > /dev/null; cat /proc/keys; ls /dev/fsd-test-users 2> /dev/null || echo none";
    assert_eq!(ok(&daemon.docker(&[&flags[..], &["box:1", "sh", "-c", masked]].concat())), "none\n");
}
