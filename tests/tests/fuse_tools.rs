//! Buildah and Podman, root's and an ordinary user's, with `fsd-fuse` in place of fuse-overlayfs.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use system_tests::fuse::{Place, has_fuse};
use system_tests::{PATIENCE_SECONDS, can, has, ok, program_in};

/// What these tests need.
fn able() -> bool {
    has_fuse() && can("busybox-static (not installed)", Path::new("/bin/busybox").exists())
}

/// A folder that others may look into, with our program.
fn open_place() -> Place {
    let place = Place::new();
    std::fs::set_permissions(place.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    program_in(place.dir(), "fsd-fuse");
    place
}

/// A script in it; if `alone`, in namespaces of its own, with which everything ends that it started: Podman leaves a
/// process of a user's behind.
fn run(place: &Place, alone: bool, script: &str) -> Output {
    let mut command = Command::new("timeout");
    command
        .arg(PATIENCE_SECONDS)
        .args(alone.then_some(["unshare", "-mpf", "--kill-child", "--mount-proc"]).into_iter().flatten());
    command.args(["bash", "-euo", "pipefail", "-c", script]).current_dir(place.dir()).output().unwrap()
}

/// A store in this folder, on our program; and the tree of an image.
const STORE: &str = r#"
printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/root"\n[storage.options.overlay]\nmount_program = "%s"\n' "$PWD" "$PWD" "$FUSE" > storage.conf
export CONTAINERS_STORAGE_CONF=$PWD/storage.conf
mkdir -p image/bin image/etc/d image/tmp; cp /bin/busybox image/bin; for n in sh ls cat rm mkdir mv ln stat chown echo mount; do ln -s busybox image/bin/$n; done
echo low > image/etc/low; echo 1 > image/etc/d/1
"#;

#[test]
fn buildah_makes_images_on_it() {
    if !able() || !has("buildah") {
        return;
    }
    let place = open_place();
    let script = format!(
        r#"export FUSE=$PWD/fsd-fuse; {STORE}
        c=$(buildah from scratch); buildah copy -q $c image / > /dev/null
        m=$(buildah mount $c); grep -q " $m fuse.fsd-fuse " /proc/mounts; cat $m/etc/low
        buildah run --isolation=chroot $c sh -c 'echo x > /new; rm /etc/low; rm -r /etc/d; mkdir /etc/d; ln /new /linked; ls -A /etc/d'
        buildah config --cmd /bin/sh $c; buildah commit -q $c first:1 > /dev/null; buildah rm $c > /dev/null
        c=$(buildah from first:1); buildah run --isolation=chroot $c sh -c 'cat /new; stat -c %h /linked; ls /etc/low' 2> /dev/null || echo gone
        m=$(buildah mount $c); echo more > $m/etc/d/more; buildah commit -q $c second:1 > /dev/null; buildah rm $c > /dev/null
        c=$(buildah from second:1); buildah run --isolation=chroot $c sh -c 'ls -A /etc/d; cat /etc/d/more'; buildah rm $c > /dev/null
        buildah push -q second:1 oci-archive:second.tar; mkdir tree; ./fsd-fuse --image second.tar tree; cat tree/new tree/etc/d/more; ls -A tree/etc/d
        ./fsd-fuse -u tree; buildah rmi -fa > /dev/null
        until ! grep -q " $PWD/root/overlay/" /proc/mounts; do sleep 0.1; done; umount root/overlay 2> /dev/null || true; ! grep $PWD/ /proc/mounts"#
    );
    let output = run(&place, false, &script);
    let said = ok(&output);
    assert_eq!(said, "low\nx\n2\ngone\nmore\nmore\nx\nmore\nmore\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// Podman, and a runtime that takes this host's cgroups, and sets no limits, which some hosts refuse. `$OWN` keeps root's apart
/// from the host's.
const PODMAN: &str = r#"
cat > runc <<'E'
#!/bin/sh
last=
for word in "$@"; do
	case $last in
	--bundle) sed -i 's/,"rlimits":\[[^]]*\]//; s/"rlimits":\[[^]]*\],//' "$word/config.json" ;;
	--process) sed -i 's/,"rlimits":\[[^]]*\]//; s/"rlimits":\[[^]]*\],//' "$word" ;;
	esac
	last=$word
done
exec /usr/sbin/runc "$@"
E
chmod 755 runc
p() { podman --log-level=error --cgroup-manager=cgroupfs --events-backend=file ${OWN-} --runtime "$PWD/runc" "$@"; }
"#;

/// Whether Podman can run something.
fn has_podman() -> bool {
    able() && has("podman") && can("runc (not installed)", Path::new("/usr/sbin/runc").exists())
}

#[test]
fn podman_runs_and_builds_images_on_it() {
    if !has_podman() {
        return;
    }
    let place = open_place();
    let script = format!(
        r#"export FUSE=$PWD/fsd-fuse OWN="--tmpdir $PWD/tmp"; {STORE} {PODMAN}
        tar -C image -c . | p import -q - base:1 > /dev/null
        p run --rm --network none base:1 sh -c 'cat /etc/low; echo x > /etc/low; rm -r /etc/d; ls /etc/d 2> /dev/null; cat /etc/low; mount | while read a b c d e f; do echo $e; break; done'
        mkdir ctx; printf 'FROM base:1\nRUN echo built > /built && rm -r /etc/d && mkdir /etc/d && chown 5 /built && ln /built /linked\nRUN mv /etc/low /etc/high\nCOPY Dockerfile /D\n' > ctx/Dockerfile
        p build -q --isolation=chroot --network host -t built:1 ctx > /dev/null
        p run --rm --network none built:1 sh -c 'cat /built; stat -c %u:%h /linked; ls -A /etc/d; cat /etc/high; ls /etc/low' 2> /dev/null || true
        p rmi -fa > /dev/null; until ! grep -q " $PWD/root/overlay/" /proc/mounts; do sleep 0.1; done
        umount root/overlay 2> /dev/null || true; ! grep $PWD/ /proc/mounts"#
    );
    let output = run(&place, false, &script);
    let said = ok(&output);
    assert_eq!(said, "low\nx\nfuse.fsd-fuse\nbuilt\n5:2\nlow\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a host gives an ordinary user, made in a mount namespace: a home, further ids, the device.
const AS_USER: &str = r#"
# Podman makes these whatever it is told.
for dir in /tmp/podman-run-65534 /tmp/containers-user-65534; do [ -e $dir ] || new="${new-} $dir"; done; trap 'rm -rf ${new-}' EXIT
mkdir etc home; mkdir -m 700 home/run; cp /etc/passwd etc/passwd; sed -i "s#^nobody:.*#nobody:x:65534:65534:nobody:$PWD/home:/bin/bash#" etc/passwd
echo nobody:200000:65536 > etc/subuid; cp etc/subuid etc/subgid; chown 65534:65534 home home/run
for name in passwd subuid subgid; do [ -e /etc/$name ] || { echo "there is no /etc/$name" >&2; exit 77; }; mount --bind etc/$name /etc/$name; done
mknod fuse c 10 229; chmod 666 fuse; mount --bind fuse /dev/fuse
user() { setpriv --reuid 65534 --regid 65534 --clear-groups env -i PATH=$PATH HOME=$PWD/home XDG_RUNTIME_DIR=$PWD/home/run FUSE=$PWD/fsd-fuse bash -euo pipefail -c "cd; $1"; }
"#;

#[test]
fn podman_of_an_ordinary_user_runs_and_builds_on_it() {
    if !has_podman() || !["newuidmap", "setpriv", "fusermount3"].into_iter().all(has) {
        return;
    }
    // Not every kernel lets users have namespaces, and what makes them for users may be kept from it where we are.
    let probe = run(&open_place(), true, &format!("{AS_USER} user 'unshare -U true && podman unshare true'"));
    if !probe.status.success() {
        println!("SKIPPED: rootless Podman: no user namespaces here: {}", String::from_utf8_lossy(&probe.stderr).trim());
        return;
    }
    let place = open_place();
    let inner = format!(
        r"{STORE} {PODMAN}
        tar -C image --owner 0 --group 0 -c . | p import -q - base:1 > /dev/null
        p run --rm --network none base:1 sh -c 'cat /etc/low; echo x > /etc/low; rm -r /etc/d; cat /etc/low; stat -c %u /etc/low /bin; mount | while read a b c d e f; do echo $e; break; done'
        printf 'FROM base:1\nRUN echo built > /built && rm /etc/low && ln /built /linked\nCOPY file /\n' > image/Dockerfile; echo copied > image/file
        p build -q --isolation=chroot --network host -t built:1 image > /dev/null
        p run --rm --network none built:1 sh -c 'cat /built /file; stat -c %h:%u /linked; ls /etc/low' 2> /dev/null || echo gone
        p unshare rm -rf root run"
    );
    std::fs::write(place.dir().join("inner"), inner).unwrap();
    let output = run(&place, true, &format!("{AS_USER} user '. ../inner'"));
    let said = ok(&output);
    let wanted = "low\nx\n0\n0\nfuse.fsd-fuse\nbuilt\ncopied\n2:0\ngone\n";
    assert_eq!(said, wanted, "{}", String::from_utf8_lossy(&output.stderr));
}
