//! The work that people do on trees, done on FUSE and on the kernel's overlayfs: what is said and what is left is the same.
//!
//! Random work runs for a few seconds; `FSD_FUSE_SECONDS` says for how many, `FSD_FUSE_SEED` which.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::{Path, PathBuf};
use std::process::Command;

use system_tests::fuse::{Place, fuse, has_fuse, kernel, same, within};
use system_tests::{can, has, ok, program, sh};

/// Names, modes, owners, contents and attributes; no times, and no sizes of directories.
const SHOW: &str = "find . -printf '%p %y %m %U:%G %l %n\\n' | sed -E 's/^(.* d [0-9]+ [0-9:]+ ).*/\\1/' | sort
    find . -type f -print0 | sort -z | xargs -0 sha256sum
    find . -print0 | sort -z | xargs -0 getfattr -h -d -m - -e hex 2>/dev/null | grep -v '^$' || true";

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A program of this folder, with what follows it.
fn python(name: &str, arguments: &str) -> String {
    let seconds = number("FSD_FUSE_SECONDS", 3);
    let seed = number("FSD_FUSE_SEED", u64::from(std::process::id()));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/work").join(name);
    format!("python3 {} {arguments} {seconds} {seed}", path.display())
}

/// Does the same on both and compares what was said, and then what is left.
fn both(place: &Place, work: &str, show: &str) {
    let said = [fuse("u1", "w1", "m"), kernel("u2", "w2", "m")].map(|mount| within(place, &mount, "m", &format!("({work})")));
    same("what was said", &said[0], &said[1]);
    let left = [fuse("u1", "w1", "m"), kernel("u1", "w3", "m"), kernel("u2", "w2", "m"), fuse("u2", "w4", "m")]
        .map(|mount| within(place, &mount, "m", show));
    same("ours, opened again and by the kernel", &left[0], &left[1]);
    same("ours and the kernel's", &left[0], &left[2]);
    same("the kernel's, opened by us", &left[3], &left[2]);
}

#[test]
fn one_file_at_random_by_passthrough_and_by_the_writeback_cache() {
    if !has_fuse() || !has("python3") || !has("unshare") {
        return;
    }
    let place = Place::new();
    sh(place.dir(), "mkdir -p l1 l2; seq 100000 > l1/random");
    let run = python("fsx.py", "m/random");
    let said = ok(&place.bash(&format!("{}; {run}; umount m", fuse("u", "w", "m"))));
    assert!(said.contains("rounds"), "{said}");
    // In a user namespace the kernel grants no passthrough.
    let output = Command::new("timeout")
        .args(["-k", "5", "900", "unshare", "-Urm", "bash", "-euc", &format!("{}; {run}; umount m", fuse("u2", "w2", "m"))])
        .current_dir(place.dir())
        .env("FUSE", program("fsd-fuse"))
        .output()
        .unwrap();
    assert!(ok(&output).contains("rounds"));
}

#[test]
fn a_tree_that_several_processes_change_at_random_is_the_same_when_it_is_opened_again() {
    if !has_fuse() || !has("python3") || !has("getfattr") {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "mkdir -p l1 l2/a/b; for d in a b c d; do mkdir -p l1/$d/a l1/$d/b/c; for i in 1 2 3 4; do echo $d$i > l1/$d/f$i; echo $i > l1/$d/a/f$i; done
        ln l1/$d/f1 l1/$d/a/f8; ln -s f1 l1/$d/d; done; echo over > l2/a/f1; mknod l2/b c 0 0; mkdir l2/c; setfattr -n trusted.overlay.opaque -v y l2/c",
    );
    let left = within(&place, &fuse("u", "w", "m"), "m", &format!("{}; {SHOW}", python("trees.py", ".")));
    same("opened again", &within(&place, &fuse("u", "w", "m"), "m", SHOW), &left);
    same("opened by the kernel", &within(&place, &kernel("u", "w2", "m"), "m", SHOW), &left);
    assert_eq!(sh(place.dir(), "ls -A w/work"), "", "nothing is left half-made");
}

#[test]
fn git_clones_switches_and_finds_its_tree_clean() {
    if !has_fuse() || !has("git") {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
        mkdir -p l1/repo l2; cd l1/repo; git init -q -b main; git config user.name n; git config user.email e
        for d in $(seq 12); do mkdir -p src/$d; for f in $(seq 15); do seq $((d * f)) > src/$d/f$f; done; done; ln -s src/1 link; git add .; git commit -qm one
        git checkout -qb other; git mv src/2 moved; git rm -qr src/3; for f in src/4/*; do echo more >> $f; done; chmod 755 src/5/f1; git add .; git commit -qm two; git checkout -q main",
    );
    let work = "export GIT_AUTHOR_DATE='1700000001 +0000' GIT_COMMITTER_DATE='1700000001 +0000'; cd repo; git status --short; git checkout -q other; git status --short
        ls; git checkout -q main; echo own >> src/1/f1; rm -r src/6; git status --short; git stash -q; git status --short; git stash pop -q; git add -A; git commit -qm three
        git merge -q -m four other 2>&1; git log --format=%H; git gc -q; git fsck --strict 2>&1 | grep -v '^notice' || true; cd ..
        git clone -q repo clone; git -C clone status --short; git -C clone log --format=%H | tail -1; git clone -q --no-local repo packed; git -C packed status --short
        git -C repo worktree add -q ../tree other; git -C tree status --short; rm -r repo/src; git -C repo checkout -q .; git -C repo status --short";
    let show = "find . -name .git -prune -o -type f -print0 | sort -z | xargs -0 sha256sum; find . -name .git -prune -o -printf '%p %y %m %l\\n' | sort
        for r in repo clone packed tree; do git -C $r status --short; git -C $r rev-parse HEAD; done";
    both(&place, work, show);
}

#[test]
fn a_c_project_is_built_and_installed() {
    if !has_fuse() || !has("gcc") || !has("make") {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "mkdir -p l1/src l2; cd l1/src; for i in $(seq 30); do printf '#include \"all.h\"\\nint f%s(void) { return %s; }\\n' $i $i > f$i.c; echo \"int f$i(void);\"; done > all.h
        printf '#include \"all.h\"\\n#include <stdio.h>\\nint main(void) { printf(\"%%d\\\\n\", f1() + f30()); return 0; }\\n' > main.c
        printf 'O = $(patsubst %%.c,%%.o,$(filter-out main.c,$(wildcard *.c)))\\nprog: main.o lib.a\\n\\tgcc -o $@ $^\\nlib.a: $O\\n\\tar crD $@ $^\\n%%.o: %%.c all.h\\n\\tgcc -O1 -c -o $@ $<\\ninstall: prog\\n\\tinstall -D -m 4755 prog ../root/bin/prog; ln -f ../root/bin/prog ../root/bin/p; strip ../root/bin/prog\\n.PHONY: install\\n' > Makefile
        make -s lib.a",
    );
    // Some of it was built in the layer: times have to survive.
    let work = "cd src; make -q lib.a && echo up to date; make -s -j2; ./prog; make -q prog && echo up to date; touch all.h; make -q prog || echo out of date
        make -s -j2 install; ../root/bin/p; rm *.o; make -s -j2; make -q prog && echo up to date";
    both(&place, work, SHOW);
}

#[test]
fn two_processes_write_to_one_sqlite_database() {
    if !has_fuse() || !has("python3") {
        return;
    }
    let place = Place::new();
    let script = r#"
import os, sqlite3, sys
db = sqlite3.connect("db", timeout=600, isolation_level=None)
assert db.execute("pragma journal_mode=wal").fetchone()[0] == "wal"
db.execute("create table if not exists t (who integer, n integer, b blob)")
who = os.fork()
db.close()
db = sqlite3.connect("db", timeout=600, isolation_level=None)
db.execute("pragma synchronous=normal")
for n in range(150):
    db.execute("begin immediate")
    before = db.execute("select count(*) from t where who = ?", (who > 0,)).fetchone()[0]
    assert before == n, (before, n)
    db.execute("insert into t values (?, ?, randomblob(2000))", (who > 0, n))
    db.execute("commit")
    if n % 50 == 49:
        db.execute("pragma wal_checkpoint(truncate)" if who else "pragma wal_checkpoint")
db.close()
if who == 0:
    os._exit(0)
assert os.waitpid(who, 0)[1] == 0
db = sqlite3.connect("db")
print(db.execute("select who, count(*), sum(n) from t group by who").fetchall(), db.execute("pragma integrity_check").fetchone())
"#;
    std::fs::create_dir_all(place.dir().join("l1")).unwrap();
    std::fs::write(place.dir().join("l1/work.py"), script).unwrap();
    sh(
        place.dir(),
        "mkdir l2; cd l1; python3 -c \"import sqlite3; db = sqlite3.connect('db'); db.execute('create table old (a)'); db.commit()\"",
    );
    both(
        &place,
        "python3 work.py; rm -f db-wal db-shm",
        "python3 -c \"import sqlite3; print(sqlite3.connect('db').execute('select who, n from t order by 1, 2').fetchall())\"",
    );
}

#[test]
fn postgresql_makes_a_database_and_recovers_it() {
    if !has_fuse() || !has("setpriv") {
        return;
    }
    let Some(bin) = postgresql() else {
        // Too large to be asked of everybody who runs the tests.
        println!("SKIPPED: postgresql (not installed)");
        return;
    };
    let place = Place::new();
    // The server that is killed leaves its log behind, which the next one replays.
    let work = format!(
        "PATH={}:$PATH; as() {{ setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"; }}
        start() {{ as pg_ctl -D db -w -t 500 -l db/log -o \"-k $PWD/s -c listen_addresses='' -c shared_buffers=1MB\" start > /dev/null; }}
        as initdb -D db -N --no-locale -E UTF8 -A trust > /dev/null; mkdir -p s; chown 65534 s; start
        as psql -q -h $PWD/s -d postgres -c 'create table t as select n, md5(n::text) m from generate_series(1, 3000) n; create index on t (m); checkpoint; update t set n = n + 1'
        kill -9 $(head -1 db/postmaster.pid); until start; do sleep 0.2; done
        as psql -qtA -h $PWD/s -d postgres -c 'select count(*), sum(n), max(m) from t'; as pg_ctl -D db -w -t 500 -m fast stop > /dev/null; rm db/log; ls db; rm -r s",
        bin.display()
    );
    sh(place.dir(), "chmod 755 .; mkdir -p l1/db l2; chown 65534:65534 l1/db; chmod 700 l1/db");
    both(&place, &work, "find db -printf '%y %m %U:%G %P\\n' | grep -vE 'pg_wal/|pg_stat|/[0-9]+(_[a-z]+)?$' | sort");
}

fn postgresql() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions.map(|entry| entry.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

#[test]
fn apt_installs_upgrades_and_removes_packages() {
    let image = std::env::var_os("FSD_TEST_IMAGES").map(PathBuf::from);
    let image = image.map(|path| if path.is_dir() { path.join("debian-rootfs.tar") } else { path }).filter(|path| path.exists());
    if !has_fuse() || !has("dpkg-deb") || !can("the Debian tree of `make images` (FSD_TEST_IMAGES)", image.is_some()) {
        return;
    }
    let place = Place::new();
    sh(
        place.dir(),
        "build() { local d=$1-$2; mkdir -p $d/DEBIAN $d/etc $d/usr/share/$1 $d/usr/bin
            printf 'Package: %s\\nVersion: %s\\nArchitecture: all\\nMaintainer: n <n@example.org>\\nDescription: t\\n%s' $1 $2 \"${3:-}\" > $d/DEBIAN/control
            echo /etc/$1.conf > $d/DEBIAN/conffiles; echo conf $2 > $d/etc/$1.conf; for i in $(seq 60); do echo $1 $2 $i > $d/usr/share/$1/f$i; done
            printf '#!/bin/sh\\necho %s\\n' $2 > $d/usr/bin/$1; chmod 755 $d/usr/bin/$1
            printf '#!/bin/sh\\nset -e\\nif [ \"$1\" = configure ]; then update-alternatives --install /usr/bin/alt alt /usr/bin/%s %s > /dev/null; echo \"$1\" >> /var/lib/%s-state; fi\\n' $1 $2 $1 > $d/DEBIAN/postinst
            printf '#!/bin/sh\\nset -e\\nif [ \"$1\" = purge ]; then rm -f /var/lib/%s-state; fi\\n' $1 > $d/DEBIAN/postrm; chmod 755 $d/DEBIAN/post*
            dpkg-deb --root-owner-group -Zgzip -b $d debs/$1-$2.deb > /dev/null; }
        mkdir debs; build one 1; rm one-1/usr/share/one/f1; build one 2; build two 1 $'Depends: one (>= 2)\\n'",
    );
    sh(place.dir(), &format!("mkdir l1 l2; tar -C l1 --exclude=./dev -xf {}; mkdir -p l1/dev", image.unwrap().display()));
    // The host's devices; the mount shows those of the tree to nobody.
    let work = "mkdir -p dev; mount --bind /dev dev; cp -r ../debs tmp; run() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot . \"$@\"; }
        apt() { run apt-get -qq -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0 \"$@\" > log 2>&1 || { cat log; false; }; }
        apt install /tmp/debs/one-1.deb; echo changed >> etc/one.conf; run one; apt -o Dpkg::Options::=--force-confold install /tmp/debs/one-2.deb /tmp/debs/two-1.deb
        run alt; run dpkg -V one two 2>&1 || true; apt remove two; run dpkg-divert --quiet --rename --add /usr/share/one/f2; apt install --reinstall /tmp/debs/one-2.deb; ls usr/share/one/f2*
        apt purge two; run dpkg --audit; run dpkg -l one two 2>&1 | tail -1 || true; umount dev; rm -r tmp/debs log var/log/* var/cache/*";
    both(&place, work, &SHOW.replace("find .", "find . -xdev"));
}
