//! Trees that are written through FUSE, beside the kernel's overlayfs and fuse-overlayfs: the same work gives the same
//! tree, and what one wrote the others open.
//!
//! Every server is a process of its own; all work is under a timeout, and what was mounted is detached at the end.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use system_tests::fuse::{Place, fuse, has_fuse, kernel, same, within};
use system_tests::{can, has, ok, program, sh};

/// Two lower layers.
const LOWERS: &str = "mkdir -p l1/dir/sub l1/tree l1/opaque l2/dir l2/opaque
    echo one > l1/dir/one; ln l1/dir/one l1/dir/hard; echo two > l1/dir/two; ln -s dir/one l1/link; echo low > l1/opaque/low
    for d in a b c; do mkdir -p l1/tree/$d/x; for i in $(seq 50); do echo $d$i > l1/tree/$d/x/f$i; done; done
    echo over > l2/dir/two; mknod l2/dir/gone c 0 0; setfattr -n trusted.overlay.opaque -v y l2/opaque; echo high > l2/opaque/high
    seq 100000 > l1/long; truncate -s 3M l1/sparse; echo end >> l1/sparse; chmod 4755 l1/dir/two; chown -R 7:8 l1/tree/b
    touch -d @1000000000 l1/dir/one l1/tree/a/x/*; setfattr -n user.k -v v l1/long";

/// Work on a tree, in it.
const WORK: &str = "echo more >> dir/one; echo x > dir/new; mv dir/two dir/moved; rm -r tree/a; mkdir tree/a; echo back > tree/a/x
    mv tree/b/x/f1 tree/c/; ln dir/hard dir/third; ln -s nowhere dangling; mkfifo pipe; rm opaque/high; rmdir opaque; mkdir opaque
    mkdir -p deep/er/still; echo y > deep/er/still/y; mv deep/er flat; rm -r tree/c/x; mv tree/c tree/d 2>/dev/null || true
    chmod 600 long; chown 5:6 sparse; setfattr -n user.new -v 1 long; setfattr -x user.k long; touch -d @5 link -h
    dd if=/dev/zero of=long bs=1 count=10 seek=100 conv=notrunc status=none; truncate -s 100 dir/moved; rm -f dir/third
    echo a > swap1; echo b > swap2; python3 -c '
import ctypes, os, mmap
libc = ctypes.CDLL(None, use_errno=True)
assert libc.renameat2(-100, b\"swap1\", -100, b\"swap2\", 2) == 0
assert libc.renameat2(-100, b\"swap1\", -100, b\"swap2\", 1) == -1 and ctypes.get_errno() == 17
f = os.open(\"mapped\", os.O_RDWR | os.O_CREAT, 0o644); os.ftruncate(f, 8192)
m = mmap.mmap(f, 8192); m[5000:5005] = b\"hello\"; m.flush(); m.close()
os.unlink(\"mapped\"); os.lseek(f, 5000, 0); assert os.read(f, 5) == b\"hello\"; os.close(f)
d = os.open(\"dir\", os.O_RDONLY); os.fsync(d); os.close(d)
' 2>&1 || echo python failed >&2
    flock swap1 -c 'flock -n swap1 -c true && echo locked twice >&2 || true'
    mkdir acl; if setfacl -d -m u:7:rwx acl 2>/dev/null; then touch acl/f; mkdir acl/d; fi; mkdir sg; chmod 2775 sg; chown 0:9 sg; touch sg/f; mkdir sg/d
    fallocate -l 1M space; fallocate -p -o 4096 -l 65536 space; cp --sparse=always sparse copied
    if command -v git > /dev/null; then git init -q repo; cd repo; cp -r ../tree .; git add .; git -c user.name=n -c user.email=e commit -qm c
        git status --short; rm -rf tree/d; git checkout -q .; git status --short; rm -rf .git; cd ..; fi";

/// All that a tree shows; the times that the work set itself.
const SHOW: &str = "find . -printf '%p %y %m %U:%G %l %n\\n' | sed -E 's/^(.* d [0-9]+ [0-9:]+ ).*/\\1/' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum; stat -c '%n %Y %s' link sparse tree/b/x/*; stat -c '%n %s' long dir/one
    find . -print0 | sort -z | xargs -0 getfattr -h -d -m - 2>/dev/null | grep -v '^$' || true; find . -type f -size +100k -printf '%p %k\\n' | sort | grep -v long";

fn old(upper: &str, work: &str, at: &str) -> String {
    format!("mkdir -p {upper} {work} {at}; fuse-overlayfs -o lowerdir=l2:l1,upperdir={upper},workdir={work} {at} 2>/dev/null")
}

#[test]
fn the_same_work_gives_the_same_tree_and_each_opens_what_the_others_wrote() {
    if !has_fuse() || !has("python3") || !has("setfattr") {
        return;
    }
    let place = Place::new();
    sh(place.dir(), LOWERS);
    let ours = within(&place, &fuse("u1", "w1", "m1"), "m1", &format!("{WORK}; {SHOW}"));
    let theirs = within(&place, &kernel("u2", "w2", "m2"), "m2", &format!("{WORK}; {SHOW}"));
    same("the work, through FUSE and the kernel", &compared(&ours), &compared(&theirs));

    let again = |mount: String, at: &str| compared(&within(&place, &mount, at, SHOW));
    let wanted = compared(&ours);
    same("ours, opened again", &again(fuse("u1", "w1", "m1"), "m1"), &wanted);
    same("ours, opened by the kernel", &again(kernel("u1", "w3", "m3"), "m3"), &wanted);
    same("the kernel's, opened by us", &again(fuse("u2", "w4", "m4"), "m4"), &wanted);
    if has("fuse-overlayfs") {
        same("ours, opened by fuse-overlayfs", &again(old("u1", "w5", "m5"), "m5"), &wanted);
        within(
            &place,
            &old("u6", "w6", "m6"),
            "m6",
            "rm -r tree/a dir/two; mkdir tree/a; echo n > tree/a/n; mv dir/one moved; rm -r opaque",
        );
        let by_old = within(&place, &old("u6", "w6", "m6"), "m6", NAMES);
        same("fuse-overlayfs's, opened by us", &within(&place, &fuse("u6", "w7", "m7"), "m7", NAMES), &by_old);
    }
}

const NAMES: &str = "find . -printf '%p %y %m %U:%G %l\\n' | sort; find . -type f -print0 | sort -z | xargs -0 sha256sum";

/// Without what the kernel does otherwise by design: it splits hard links of lower layers when it copies up (its
/// documented deviation), ours stay one file.
fn compared(shown: &str) -> String {
    let hard = |line: &&str| !["./dir/hard", "./dir/one", "./dir/third"].iter().any(|name| line.contains(name));
    shown.lines().filter(hard).collect::<Vec<_>>().join("\n")
}

#[test]
fn hard_links_of_a_layer_stay_when_one_is_written_to() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    sh(place.dir(), LOWERS);
    let shown = within(
        &place,
        &fuse("u", "w", "m"),
        "m",
        "echo more >> dir/one; cat dir/hard; stat -c '%h %i' dir/one dir/hard | uniq | wc -l",
    );
    assert_eq!(shown, "one\nmore\n1\n");
    assert_eq!(within(&place, &kernel("u", "w", "m"), "m", "cat dir/hard"), "one\nmore\n", "on the disk too");
}

#[test]
fn owners_are_mapped_as_fuse_overlayfs_maps_them() {
    if !has_fuse() || !has("fuse-overlayfs") {
        return;
    }
    let place = Place::new();
    sh(place.dir(), "mkdir l m; touch l/a l/b; chown 1000:100005 l/a");
    for option in [
        "uidmapping=1000:0:1:100000:1:65536,gidmapping=1000:0:1:100000:1:65536",
        "squash_to_uid=77,squash_to_gid=78",
        "squash_to_root",
        "static_nlink",
    ] {
        let look = |program: &str, name: &str| {
            let script = format!(
                "mkdir u-{name} w-{name}; {program} -o lowerdir=l,upperdir=u-{name},workdir=w-{name},{option} m 2>/dev/null
                 cd m; touch new; chown 6:7 new; echo x >> a; mkdir d; stat -c '%n %u:%g' a b new d; stat -c %h d; cd ..; umount m
                 cd u-{name}; stat -c 'stored %n %u:%g' a new d; cd ..; rm -r u-{name} w-{name}"
            );
            ok(&place.bash(&script))
        };
        same(option, &look("\"$FUSE\"", "ours"), &look("fuse-overlayfs", "theirs"));
    }
}

#[test]
fn a_session_that_ends_late_leaves_what_is_mounted_in_its_place_alone() {
    if !has_fuse() || !has("getfattr") {
        return;
    }
    let place = Place::new();
    // The kernel gives the number of a mount that is gone to the next one.
    let script = "mkdir l m u1 w1 u2 w2; mount=\"$FUSE -o lowerdir=l\"; $mount,upperdir=u1,workdir=w1 m; first=$(mounted m)
        all=\"$(guard m) $(server m)\"; kill -STOP $all; umount m
        $mount,upperdir=u2,workdir=w2 m; second=$(mounted m); [ \"$first\" != \"$second\" ] || echo same number >&2
        kill -CONT $all; while kill -0 $all 2>/dev/null; do sleep 0.05; done; echo x > m/x; cat u2/x; \"$FUSE\" -u m; ls m";
    assert_eq!(ok(&place.bash(script)), "x\n");
}

#[test]
fn a_session_whose_connection_is_aborted_is_taken_away() {
    let connections = Path::new("/sys/fs/fuse/connections");
    if !has_fuse() || !has("getfattr") || !can("fusectl (no /sys/fs/fuse/connections)", connections.exists()) {
        return;
    }
    let place = Place::new();
    let script = "mkdir l m u w ctl; mount -t fusectl fusectl ctl; \"$FUSE\" -o lowerdir=l,upperdir=u,workdir=w m; all=$(guard m)
        echo 1 > ctl/$(($(stat -c %d m) & 0xff | $(stat -c %d m) >> 12 & 0xfff00))/abort; umount ctl
        while kill -0 $all 2>/dev/null; do sleep 0.05; done; mounted m; ls m";
    assert_eq!(ok(&place.bash(script)), "");
}

#[test]
fn a_killed_session_loses_nothing_that_was_synced() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    sh(place.dir(), LOWERS);
    let script = format!(
        "{}; cd m; dd if=/dev/urandom of=new bs=64k count=20 conv=fsync status=none; sha256sum new > ../sum
         echo tail >> long; sync long; cd ..; kill -9 $(server m); until [ -z \"$(mounted m)\" ]; do sleep 0.05; done
         cd u; sha256sum -c ../sum; tail -1 long",
        fuse("u", "w", "m")
    );
    assert_eq!(ok(&place.bash(&script)), "new: OK\ntail\n");
}

#[test]
fn what_is_not_served_is_refused_and_nobody_reaches_outside() {
    if !has_fuse() {
        return;
    }
    let place = Place::new();
    sh(place.dir(), LOWERS);
    let refused = place.bash("mkdir u w m; \"$FUSE\" -o lowerdir=l1,upperdir=u,workdir=w,metacopy=on m");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("metacopy=on"), "{refused:?}");
    let refused = place.bash("\"$FUSE\" -o lowerdir=l1,upperdir=u m");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("workdir"));
    // Links that point out of the tree are only text; a set-id bit goes when a stranger writes; modes are checked.
    let shown = within(
        &place,
        &fuse("u", "w", "m"),
        "m",
        "echo secret > ../outside; ln -s ../outside out; chmod 666 out ../outside 2>/dev/null || true; chmod 755 ..; chmod 1777 .
         as() { setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"; }
         install -m 4777 /dev/null suid; as bash -c 'echo x > suid'; stat -c %a suid
         as touch mine; stat -c %u:%g mine; as bash -c 'rm -f dir/one' 2>/dev/null || echo denied; as cat long > /dev/null && echo read
         echo private > secret; chmod 600 secret; as cat secret 2>/dev/null || echo denied",
    );
    assert_eq!(shown, "777\n65534:65534\ndenied\nread\ndenied\n");
}

/// Runs inside a mount, in a process of its own; see below.
#[test]
#[ignore = "is run by another test, in a mount"]
fn random_io_in_dir() {
    let Some(dir) = std::env::var_os("FSD_RANDOM_IO") else { return };
    let path = Path::new(&dir).join("random");
    let mut file = std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let mut model = std::fs::read(&path).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let seconds = std::env::var("FSD_RANDOM_IO_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    let mut rounds = 0u64;
    while std::time::Instant::now() < end {
        rounds += 1;
        let (offset, length) = (random(1 << 20), 1 + random(70_000) as usize);
        match random(12) {
            0..4 => {
                let data: Vec<u8> = (0..length).map(|i| (i as u64 + rounds) as u8).collect();
                file.write_all_at(&data, offset).unwrap();
                let stop = offset as usize + length;
                if model.len() < stop {
                    model.resize(stop, 0);
                }
                model[offset as usize..stop].copy_from_slice(&data);
            }
            4..9 => {
                let mut data = vec![0; length];
                let got = file.read_at(&mut data, offset).unwrap();
                let start = model.len().min(offset as usize);
                assert!(data[..got] == model[start..][..got], "round {rounds}: {got} bytes at {offset}");
                assert!(got == length || offset as usize + got >= model.len());
            }
            9 => {
                file.set_len(offset).unwrap();
                model.resize(offset as usize, 0);
            }
            10 => {
                file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
                assert_eq!(file.metadata().unwrap().len(), model.len() as u64);
            }
            _ => {
                let other = std::fs::read(&path).unwrap();
                assert!(other == model, "round {rounds}: another reader sees something else");
            }
        }
    }
    drop(file);
    assert!(std::fs::read(&path).unwrap() == model);
    println!("{rounds} rounds");
}

#[test]
fn random_io_is_what_a_model_says_by_passthrough_and_by_the_writeback_cache() {
    if !has_fuse() || !has("unshare") {
        return;
    }
    let place = Place::new();
    sh(place.dir(), "mkdir -p l1 l2; seq 100000 > l1/random");
    let run =
        format!("FSD_RANDOM_IO=m {} --exact random_io_in_dir --ignored --nocapture", std::env::current_exe().unwrap().display());
    let said = ok(&place.bash(&format!("{}; {run}; umount m", fuse("u", "w", "m"))));
    assert!(said.contains("rounds"), "{said}");
    // In a user namespace the kernel grants no passthrough.
    let inner = format!("{}; {run}; umount m", fuse("u2", "w2", "m"));
    let output = Command::new("timeout")
        .args(["-k", "5", "600", "unshare", "-Urm", "bash", "-euc", &inner])
        .current_dir(place.dir())
        .env("FUSE", program("fsd-fuse"))
        .output()
        .unwrap();
    assert!(ok(&output).contains("rounds"));
}

#[test]
fn programs_work_on_it() {
    if !has_fuse() || !has("git") || !has("gcc") || !has("make") || !has("python3") {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "mkdir -p l1/src l2; for i in $(seq 40); do echo \"int f$i(void) { return $i; }\" > l1/src/f$i.c; done
        echo 'int f1(void); int main(void) { return f1() - 1; }' > l1/src/main.c
        printf 'O = $(patsubst %%.c,%%.o,$(wildcard *.c))\\nprog: $O\\n\\tgcc -o $@ $^\\n' > l1/src/Makefile",
    );
    let work = "cd src; make -s -j4 prog; ./prog; make -s prog; touch f1.c; make -s prog; rm -f *.o; cd ..
        git init -q r; cp -r src/*.c r; cd r; git add .; git -c user.name=n -c user.email=e commit -qm one; git status --short
        echo x >> f1.c; rm f2.c; git status --short; git stash -q -- 2>/dev/null || git checkout -q .; git fsck --strict 2>&1 | grep -v dangling || true; cd ..
        python3 -c '
import sqlite3, os, mmap
db = sqlite3.connect(\"db\"); assert db.execute(\"pragma journal_mode=wal\").fetchone()[0] == \"wal\"
db.execute(\"create table t (a integer primary key, b text)\")
other = sqlite3.connect(\"db\")
for i in range(50):
    db.execute(\"insert into t (b) values (?)\", (\"x\" * i,)); db.commit()
    assert other.execute(\"select count(*) from t\").fetchone()[0] == i + 1
assert db.execute(\"pragma integrity_check\").fetchone()[0] == \"ok\"
db.close(); other.close()
# What a process has mapped, another sees; what is private stays so.
f = os.open(\"shared\", os.O_RDWR | os.O_CREAT); os.ftruncate(f, 1 << 20)
m = mmap.mmap(f, 1 << 20); p = mmap.mmap(f, 1 << 20, mmap.MAP_PRIVATE)
m[70000:70005] = b\"hello\"; assert os.pread(f, 5, 70000) == b\"hello\"
os.pwrite(f, b\"world\", 70000); assert m[70000:70005] == b\"world\"
p[0:1] = b\"p\"; assert os.pread(f, 1, 0) == bytes(1)
'
        mkdir deep; cd deep; for i in $(seq 60); do mkdir d; cd d; done; echo bottom > f; cat f; cd ../../..; rm -rf d; cd $OLDPWD 2>/dev/null || true";
    let said = within(&place, &fuse("u", "w", "m"), "m", &format!("({work}); find . -name prog -o -name db | sort"));
    assert_eq!(said, " M f1.c\n D f2.c\nbottom\n./db\n./src/prog\n");
}
