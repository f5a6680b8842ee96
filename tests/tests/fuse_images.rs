//! Image trees served by FUSE: by the daemon, by `ctl` alone, for ordinary users; what happens when somebody is killed.
//!
//! Every server is a process of its own. Whatever a test does is under a timeout, and what it mounted is detached when
//! it fails, so that nothing waits for a dead server.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use system_tests::fuse::{Place, has_fuse, is_mounted, kill, session};
use system_tests::{Daemon, fails, images, ok, program, program_in, sh, until};

/// Two layers with all that a tree can have: made by GNU tar.
fn layers(dir: &Path) -> [Vec<u8>; 2] {
    sh(
        dir,
        "mkdir -p a/etc a/dir/deep a/gone a/opaque b/etc b/opaque
         echo one > a/etc/one; echo two > a/etc/two; ln a/etc/one a/dir/hard; ln -s ../etc/one a/dir/link
         mknod a/dir/null c 1 3; mkfifo a/dir/pipe; echo x > a/gone/x; echo y > a/opaque/hidden
         seq 1 200000 > a/dir/long; truncate -s 1M a/dir/sparse; echo end >> a/dir/sparse
         printf odd > \"$(printf 'a/dir/odd\\nname \\377')\"; for i in $(seq 500); do echo $i > a/dir/deep/file-$i; done
         chmod 4755 a/etc/two; chown 12:34 a/etc/one; touch -d @1234567890.123456789 a/dir/long; chmod 1777 a/dir
         setfattr -n user.note -v hello a/etc/one 2>/dev/null || true
         echo new > b/etc/two; : > b/.wh.gone; : > b/opaque/.wh..wh..opq; echo seen > b/opaque/seen; : > b/etc/.wh.one
         tar --xattrs --sparse --format=pax -cf a.tar -C a . ; tar --format=pax -cf b.tar -C b .",
    );
    ["a.tar", "b.tar"].map(|name| std::fs::read(dir.join(name)).unwrap())
}

/// All that a tree shows, as text.
fn shown(tree: &Path) -> String {
    sh(
        tree,
        "timeout 300 find . -printf '%p %y %m %U:%G %s %T@ %l\\n' | sed -E 's/^(.* d [0-9]+ [0-9:]+) [0-9]+/\\1/' | sort
         timeout 300 find . -type f -print0 | sort -z | xargs -0 sha256sum
         timeout 300 find . -name hard -printf '%n\\n'; timeout 300 stat -c '%t:%T' dir/null
         timeout 300 getfattr -R -d -m - . 2>/dev/null || true",
    )
}

fn loaded(daemon: &Daemon, place: &Place) {
    let [a, b] = layers(place.dir());
    images::load(daemon, "seen:1", &[&a, &b]);
}

/// The folder that a session writes to.
fn scratch(server: i32) -> PathBuf {
    let open = std::fs::read_dir(format!("/proc/{server}/fd")).unwrap().flatten();
    let paths = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let upper = paths.into_iter().find(|path| path.ends_with("upper")).unwrap();
    upper.parent().unwrap().to_owned()
}

#[test]
fn an_image_by_fuse_is_the_image_by_the_kernel_and_outlives_the_daemon() {
    if !has_fuse() {
        return;
    }
    let (place, mut daemon) = (Place::new(), Daemon::start());
    loaded(&daemon, &place);
    let (kernel, fuse) = (place.join("kernel"), place.join("fuse"));
    ok(&daemon.ctl(&["image", "mount", "seen:1", kernel.to_str().unwrap()]));
    let said = ok(&daemon.ctl(&["image", "mount", "--fuse", "seen:1", fuse.to_str().unwrap()]));
    assert_eq!(said.trim(), fuse.to_str().unwrap());
    assert_eq!(shown(&fuse), shown(&kernel));
    assert!(!fuse.join("gone").exists() && !fuse.join("opaque/hidden").exists() && fuse.join("opaque/seen").exists());
    assert!(std::fs::write(fuse.join("etc/new"), "").is_err(), "it is read-only");
    let list = ok(&daemon.ctl(&["mount", "ls", "--format", "{{.Target}} {{.Driver}} {{.State}}"]));
    assert!(list.contains(&format!("{} fuse mounted", fuse.display())), "{list}");

    daemon.kill();
    assert_eq!(std::fs::read_to_string(fuse.join("etc/two")).unwrap(), "new\n");
    daemon.restart();
    assert_eq!(std::fs::read_to_string(fuse.join("opaque/seen")).unwrap(), "seen\n");
    assert!(fails(&daemon.ctl(&["rmi", "-f", "seen:1"])).contains("mounted"));
    ok(&daemon.ctl(&["image", "umount", fuse.to_str().unwrap()]));
    assert!(!is_mounted(&fuse) && !fuse.exists() && session(&fuse).is_empty());
    ok(&daemon.ctl(&["umount", kernel.to_str().unwrap()]));
}

/// The storage driver for a kernel without overlayfs: whole trees by FUSE, a container's too.
#[test]
fn containers_run_on_trees_that_fuse_serves() {
    if !has_fuse() {
        return;
    }
    let Some(archive) = images::made("busybox.tar") else { return };
    let mut daemon = Daemon::start_in(tempfile::tempdir().unwrap(), &["--storage-driver", "fuse"]);
    let ctl = |daemon: &Daemon, words: &[&str]| ok(&daemon.ctl(words)).trim().to_owned();
    ctl(&daemon, &["load", "-q", "-i", archive.to_str().unwrap()]);
    let info = ctl(&daemon, &["info"]);
    for said in [
        "driver fuse: in use",
        "driver erofs: not tried: the configuration names fuse",
        "stacking options: not tried: fuse serves whole trees",
    ] {
        assert!(info.contains(said), "{said:?} is not in {info}");
    }
    let script = "echo out > /f; cp /f /etc/passwd; rm /bin/wget; echo $(cat /f /etc/passwd)";
    assert_eq!(ctl(&daemon, &["run", "--rm", "--network", "none", "busybox", "sh", "-c", script]), "out out");
    let stay = "echo here > /here; while :; do sleep 1; done";
    ctl(&daemon, &["run", "-d", "--name", "stay", "--network", "none", "busybox", "sh", "-c", stay]);
    ctl(&daemon, &["exec", "stay", "sh", "-c", "until [ -e /here ]; do sleep 0.1; done; [ -c /dev/null ] && su -c true"]);

    daemon.kill();
    daemon.restart();
    assert_eq!(ctl(&daemon, &["exec", "stay", "cat", "/here"]), "here", "its tree is served without the daemon");
    assert_eq!(ctl(&daemon, &["diff", "stay"]), "A /here");
    // Asked of who serves it, and not of the disk: while something is open to be written to, too.
    ctl(&daemon, &["exec", "stay", "sh", "-c", "exec 7> /open; echo x >&7; mkdir /d; rm /bin/wget; touch /etc/passwd"]);
    assert_eq!(ctl(&daemon, &["diff", "stay"]), "C /bin\nD /bin/wget\nA /d\nA /here\nA /open");
    ctl(&daemon, &["exec", "stay", "sh", "-c", "rm -r /open /d"]);
    ctl(&daemon, &["commit", "stay", "two:1"]);
    ctl(&daemon, &["stop", "-t", "0", "stay"]);
    assert_eq!(ctl(&daemon, &["cp", "stay:/here", daemon.dir().join("copied").to_str().unwrap()]), "");
    assert_eq!(std::fs::read_to_string(daemon.dir().join("copied")).unwrap(), "here\n");
    ctl(&daemon, &["start", "stay"]);
    assert_eq!(ctl(&daemon, &["exec", "stay", "cat", "/here"]), "here");
    ctl(&daemon, &["rm", "-f", "stay"]);
    assert_eq!(ctl(&daemon, &["run", "--rm", "--network", "none", "two:1", "cat", "/here"]), "here");
    let target = ctl(&daemon, &["image", "mount", "two:1"]);
    assert_eq!(std::fs::read_to_string(Path::new(&target).join("here")).unwrap(), "here\n");
    assert_eq!(ctl(&daemon, &["mount", "ls", "--format", "{{.Driver}} {{.State}}"]), "fuse mounted");
    ctl(&daemon, &["umount", &target]);
    daemon.stop();
    until("the sessions' end", || serving(&daemon.dir().join("root")) == 0);
}

/// How many processes serve trees of a store.
fn serving(root: &Path) -> usize {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let of_root = |entry: &std::fs::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("fsd-fuse\0--serve\0") && line.contains(root.to_str().unwrap())
    };
    entries.filter(of_root).count()
}

#[test]
fn a_damaged_layer_fails_for_its_files_alone() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let [a, b] = layers(place.dir());
    std::fs::write(place.join("image.tar"), images::docker_archive("seen:1", &[&b, &a])).unwrap();
    let target = place.join("tree");
    std::fs::create_dir(&target).unwrap();
    let mut mount = Command::new("timeout");
    mount.arg("300").arg(program("fsd-fuse")).args(["--image", "image.tar", "tree"]).current_dir(place.dir());
    ok(&mount.output().unwrap());
    // The lower layer lies first in the file; what is cut off belongs to the upper one.
    let file = std::fs::File::options().write(true).open(place.join("image.tar")).unwrap();
    file.set_len((b.len() + 4096) as u64).unwrap();
    let error = std::fs::read(target.join("dir/long")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert_eq!(std::fs::read_to_string(target.join("opaque/seen")).unwrap(), "seen\n");
    assert!(std::fs::read_dir(target.join("dir/deep")).unwrap().count() >= 500);
}

#[test]
fn a_writable_mount_keeps_nothing() {
    if !has_fuse() {
        return;
    }
    let (place, daemon) = (Place::new(), Daemon::start());
    loaded(&daemon, &place);
    let target = place.join("fuse");
    let mount = || ok(&daemon.ctl(&["image", "mount", "--fuse", "--rw", "seen:1", target.to_str().unwrap()]));
    mount();
    let scratch = scratch(session(&target)[1]);
    assert!(scratch.join("work").exists());
    sh(&target, "echo own > etc/two; rm -r dir; mkdir dir; echo x > dir/x; ln dir/x dir/y; cat etc/two");
    assert_eq!(std::fs::read_to_string(target.join("dir/y")).unwrap(), "x\n");
    ok(&daemon.ctl(&["umount", target.to_str().unwrap()]));
    assert!(session(&target).is_empty() && !scratch.exists(), "who unmounts waits for the session's end");
    mount();
    assert_eq!(std::fs::read_to_string(target.join("etc/two")).unwrap(), "new\n");
    ok(&daemon.ctl(&["umount", target.to_str().unwrap()]));
    let refused = fails(&daemon.ctl(&["image", "mount", "--name", "x", "seen:1"]));
    assert!(refused.contains("--fuse"), "{refused}");
}

#[test]
fn a_killed_session_leaves_no_dead_mount() {
    if !has_fuse() {
        return;
    }
    let (place, daemon) = (Place::new(), Daemon::start());
    loaded(&daemon, &place);
    let target = place.join("fuse");
    let mount = || ok(&daemon.ctl(&["image", "mount", "--fuse", "seen:1", target.to_str().unwrap()]));
    mount();
    let pids = session(&target);
    assert_eq!(pids.len(), 2, "a guard and a server: {pids:?}");
    kill(pids[1]);
    until("the guard to clean up", || !is_mounted(&target));
    until("the daemon to notice", || ok(&daemon.ctl(&["mount", "ls", "-q"])).trim().is_empty());
    assert!(!target.exists(), "the folder was made for the mount");

    mount();
    let pids = session(&target);
    kill(pids[0]);
    kill(pids[1]);
    until("their end", || session(&target).is_empty());
    until("the daemon to notice", || ok(&daemon.ctl(&["mount", "ls", "-q"])).trim().is_empty());
    assert!(!is_mounted(&target) && !target.exists(), "with nobody left to clean up the daemon does it");
}

#[test]
fn an_image_file_is_mounted_without_a_daemon() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let [a, b] = layers(place.dir());
    let gzipped = images::gzip(&b);
    let config = images::config(&[&a, &b]);
    let manifest = serde_json::to_vec(&json!([{"Config": "c.json", "RepoTags": ["mixed:1"], "Layers": ["0", "1"]}])).unwrap();
    let mixed = images::archive(&[("manifest.json", &manifest), ("0", &a), ("c.json", &config), ("1", &gzipped)]);
    let files = [
        ("docker.tar", images::docker_archive("seen:1", &[&a, &b])),
        ("oci.tar", images::oci_archive("seen:1", &[&a, &b])),
        ("docker.tar.gz", images::gzip(&images::docker_archive("seen:1", &[&a, &b]))),
        ("mixed.tar", mixed),
    ];
    let target = place.join("file");
    let ctl = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command.arg("300").arg(program("ctl")).args(["-H", "unix:///nowhere"]).args(arguments).current_dir(place.dir());
        command.env("TMPDIR", place.dir()).output().unwrap()
    };
    let mut trees = Vec::new();
    for (name, bytes) in &files {
        std::fs::write(place.join(name), bytes).unwrap();
        assert_eq!(ok(&ctl(&["image", "mount", "--fuse", name, "file"])).trim(), target.to_str().unwrap());
        trees.push(shown(&target));
        assert!(trees[0].contains("opaque/seen") && !trees[0].contains("hidden"));
        assert_eq!(trees.last(), trees.first(), "{name}");
        ok(&ctl(&["image", "umount", "file"]));
        assert!(!is_mounted(&target));
    }
    std::fs::create_dir(place.join("layout")).unwrap();
    sh(&place.join("layout"), "tar xf ../oci.tar");
    ok(&ctl(&["image", "mount", "--fuse", "layout", "file"]));
    assert_eq!(shown(&target), trees[0]);
    ok(&ctl(&["umount", "file"]));
    assert!(fails(&ctl(&["image", "mount", "--fuse", "--name", "other:1", "docker.tar", "file"])).contains("it has: seen:1"));
    std::fs::write(place.join("text"), "no image").unwrap();
    assert!(fails(&ctl(&["image", "mount", "--fuse", "./text", "file"])).contains("not an image"));
    let left = sh(place.dir(), "ls -A | grep fsd-fuse || true");
    assert_eq!(left, "", "temporary folders are gone");
    assert_eq!(session(Path::new("file")), [0; 0], "who unmounts waits for the session's end");
}

#[test]
fn an_ordinary_user_mounts_an_image_file_by_the_helper() {
    if !has_fuse() || !system_tests::has("fusermount3") || !system_tests::has("setpriv") {
        return;
    }
    let place = Place::new();
    let [a, b] = layers(place.dir());
    let dir = place.join("of-user");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("image.tar"), images::docker_archive("seen:1", &[&a, &b])).unwrap();
    program_in(&dir, "fsd-fuse");
    // The device is everybody's on a common host. Where it is not, a namespace has one that is.
    let script =
        "set -e; chmod 755 .. .; chown 65534:65534 .; mknod ../fuse c 10 229; chmod 666 ../fuse; mount --bind ../fuse /dev/fuse
        setpriv --reuid 65534 --regid 65534 --clear-groups bash -ec '
            export TMPDIR=$PWD; mkdir m; timeout 300 ./fsd-fuse --image image.tar m
            cat m/etc/two; stat -f -c %T m; stat -c %u:%g m/etc/two; timeout 300 ./fsd-fuse -u m
            ! grep -q \"$PWD/m \" /proc/mounts; ls -A m
            timeout 300 ./fsd-fuse --rw --image image.tar m; echo mine > m/etc/two; rm -r m/dir; ls m; cat m/etc/two; timeout 300 ./fsd-fuse -u m
            ls -d fsd-fuse-* 2>/dev/null || true'";
    let output = Command::new("timeout").args(["600", "unshare", "-m", "bash", "-c", script]).current_dir(&dir).output().unwrap();
    let wanted = "new\nfuseblk\n65534:65534\netc\nopaque\nmine\n";
    assert_eq!(ok(&output), wanted, "{}", String::from_utf8_lossy(&output.stderr));
}

/// Who made a layout may have made its entries symlinks, to files of whoever looks into it.
#[test]
fn the_links_of_a_layout_lead_nowhere_else() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    let [a, b] = layers(place.dir());
    std::fs::write(place.join("oci.tar"), images::oci_archive("seen:1", &[&a, &b])).unwrap();
    // The same layout, each time with one part of it, or a folder on the way there, a link that leads out.
    let script = r"tar xf ../oci.tar; largest=$(ls -S blobs/sha256 | head -n 1); smallest=$(ls -S blobs/sha256 | tail -n 1)";
    let ways = [
        ("layer", r"mv blobs/sha256/$largest ../layer; ln -s ../../../layer blobs/sha256/$largest"),
        ("absolute", r#"mv blobs/sha256/$largest ../absolute; ln -s "$(realpath ..)/absolute" blobs/sha256/$largest"#),
        ("manifest", r"mv blobs/sha256/$smallest ../manifest; ln -s ../../../manifest blobs/sha256/$smallest"),
        ("folder", r"mv blobs ../folder; ln -s ../folder blobs"),
        ("index", r"mv index.json ../index; ln -s ../index index.json"),
        ("proc", r"mv index.json ../proc; exec 7< ../proc; ln -s /proc/self/fd/7 index.json"),
    ];
    for (name, way) in ways {
        let layout = place.join(&format!("layout-{name}"));
        std::fs::create_dir(&layout).unwrap();
        std::fs::create_dir_all(place.join("tree")).unwrap();
        sh(&layout, &format!("{script}; {way}"));
        let mut mount = Command::new("timeout");
        mount
            .arg("300")
            .arg(program("fsd-fuse"))
            .args(["--image", layout.to_str().unwrap()])
            .arg(place.join("tree"))
            .current_dir(place.dir());
        let refused = fails(&mount.output().unwrap());
        assert!(refused.contains("does not have it") || refused.contains("not an image"), "{name}: {refused}");
        assert!(!is_mounted(&place.join("tree")), "{name}");
    }
    // One that stays inside is followed.
    let layout = place.join("inside");
    std::fs::create_dir(&layout).unwrap();
    sh(
        &layout,
        &format!("{script}; mv blobs real; ln -s /real blobs; mv index.json real/; ln -s ../../real/index.json index.json"),
    );
    let mut mount = Command::new("timeout");
    mount
        .arg("300")
        .arg(program("fsd-fuse"))
        .args(["--image", layout.to_str().unwrap()])
        .arg(place.join("tree"))
        .current_dir(place.dir());
    ok(&mount.output().unwrap());
    assert_eq!(std::fs::read_to_string(place.join("tree/opaque/seen")).unwrap(), "seen\n");
}
