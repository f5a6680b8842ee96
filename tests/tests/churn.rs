//! Starts and removals in a row with networks, ports, names and volumes: nothing of them stays, whatever happens to the
//! daemon meanwhile. So many of each as `FSD_STRESS` says; a few in the usual suite, a thousand before a release.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::network::netlink::Socket;
use engine::network::nft::{Family, Ruleset, element_count};
use engine::network::{Host, Scope};
use system_tests::containers::{own_memory, with_busybox};
use system_tests::networks::{address, curl, free_port, has_ipv6, idle, server};
use system_tests::{Daemon, ok, until};

/// What works at once.
const THREADS: usize = 4;

/// How many starts there are, where nothing else is said.
const FEW: usize = 30;

fn count() -> usize {
    std::env::var("FSD_STRESS").ok().and_then(|text| text.parse().ok()).unwrap_or(FEW)
}

fn entries(dir: &Path) -> usize {
    let below = |path: PathBuf| if path.is_dir() && !path.is_symlink() { entries(&path) } else { 0 };
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| 1 + below(entry.path())).sum()
}

/// Folders below the mounted cgroup hierarchies that have a name that begins so.
fn cgroups(ids: &[String]) -> usize {
    fn below(dir: &Path, depth: u32, ids: &[String]) -> usize {
        let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let folders = found.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let of = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let own = usize::from(ids.iter().any(|id| name.contains(id.as_str())));
            own + if depth == 0 { 0 } else { below(path, depth - 1, ids) }
        };
        folders.map(|entry| of(&entry.path())).sum()
    }
    below(Path::new("/sys/fs/cgroup"), 4, ids)
}

/// The processes that have this daemon's folder among their words: shims, and what else serves containers.
fn processes(daemon: &Daemon) -> usize {
    let dir = daemon.dir().join("run");
    let words = |pid: &Path| std::fs::read(pid.join("cmdline")).unwrap_or_default();
    let own = format!("/proc/{}", daemon.pid());
    let of_ours = |pid: &PathBuf| {
        let words = words(pid);
        pid.as_os_str() != own.as_str() && String::from_utf8_lossy(&words).contains(&*dir.to_string_lossy())
    };
    std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(of_ours).count()
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The number of the process that serves names and ports, if there is one.
fn helper(daemon: &Daemon) -> Option<u32> {
    let text = std::fs::read_to_string(daemon.dir().join("run/network/pid")).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// What a container could leave behind.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    mounts: usize,
    bridges: usize,
    wires: usize,
    rules: usize,
    /// Below root and run, but for the database's own.
    files: usize,
    processes: usize,
    volumes: usize,
}

impl Left {
    fn is_within(&self, before: &Left) -> bool {
        let counts = |of: &Left| [of.mounts, of.bridges, of.wires, of.rules, of.files, of.processes, of.volumes];
        counts(self).iter().zip(counts(before)).all(|(now, before)| *now <= before)
    }
}

fn left(daemon: &Daemon) -> Left {
    let dir = daemon.dir();
    let scope = Scope::of_root(&dir.join("root"));
    let (bridges, wires) = Host::new(scope.clone()).links().unwrap();
    let mut socket = Socket::netfilter().unwrap();
    let rules = Ruleset { table: &scope.table };
    let sets = ["bridges", "internal", "same", "nets4", "masq4", "nets6", "masq6"];
    // There is no table while there is no network.
    let elements = |set: &str| element_count(&mut Socket::netfilter().unwrap(), Family::Inet, &scope.table, set).unwrap_or(0);
    let rules = rules.ports(&mut socket).unwrap_or(0) + sets.into_iter().map(elements).sum::<usize>();
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", daemon.pid())).unwrap();
    let below = format!(" {}/", dir.display());
    Left {
        mounts: table.lines().filter(|line| line.contains(&below)).count(),
        bridges: bridges.len(),
        wires: wires.len(),
        rules,
        files: ["root/containers", "root/trash", "root/tmp", "root/volumes", "run"]
            .iter()
            .map(|name| entries(&dir.join(name)))
            .sum(),
        processes: processes(daemon),
        volumes: ok(&daemon.ctl(&["volume", "ls", "-q"])).lines().count(),
    }
}

/// The database's bytes, with those of its log.
fn database(daemon: &Daemon) -> u64 {
    let size = |name: &str| std::fs::metadata(daemon.dir().join("root").join(name)).map_or(0, |found| found.len());
    size("meta.db") + size("meta.db-wal")
}

/// What is growing, where anything does: of the daemon and of its helper.
#[derive(Debug)]
struct Size {
    memory: u64,
    descriptors: usize,
    helper_memory: u64,
    helper_descriptors: usize,
    database: u64,
}

fn size(daemon: &Daemon) -> Size {
    let helper = helper(daemon).unwrap_or(0);
    Size {
        memory: own_memory(daemon.pid()),
        descriptors: descriptors(daemon.pid()),
        helper_memory: own_memory(helper),
        helper_descriptors: descriptors(helper),
        database: database(daemon),
    }
}

impl Size {
    /// Threads of the pools come and go, with what they hold, and what was given back to malloc may stay with it. So a few
    /// containers show only what is grossly wrong, but a thousand show 32 kB of each.
    fn is_outgrown_by(&self, now: &Size) -> bool {
        let slack = if count() > FEW { 32 << 10 } else { 64 << 10 };
        now.memory > self.memory + slack
            || now.descriptors > self.descriptors + 16
            || now.helper_memory > self.helper_memory + slack / 2
            || now.helper_descriptors > self.helper_descriptors + 8
            || now.database > self.database + (16 << 20)
    }
}

/// How a container is started that is to leave nothing.
type Words = fn(usize) -> Vec<String>;

fn in_the_default_network(number: usize) -> Vec<String> {
    let local = if has_ipv6() { "[::1]::80" } else { "127.0.0.1::80" };
    let words: &[&str] = if number.is_multiple_of(2) { &["-p", "80", "-p", "127.0.0.1::53/udp"] } else { &["-p", local] };
    words.iter().map(|&word| word.to_owned()).collect()
}

fn in_a_users_network(number: usize) -> Vec<String> {
    let mut words: Vec<String> =
        ["--network", "net", "-p", "80", "--network-alias", "same", "-v", "/anonymous"].map(str::to_owned).to_vec();
    words.extend(["--network-alias".to_owned(), format!("alias{number}"), "--link".to_owned(), "stays:friend".to_owned()]);
    if number.is_multiple_of(3) {
        words.extend(["-v".to_owned(), "named:/named".to_owned()]);
    }
    words
}

/// Starts and removes this many, some at once, in the ways in which people do it. Errors are the caller's to judge.
fn churn(daemon: &Daemon, count: usize, words: Words, judge: &(dyn Fn(usize, &std::process::Output) + Sync)) {
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                for number in (thread..count).step_by(THREADS) {
                    one(daemon, number, &words(number), judge);
                }
            });
        }
    });
}

fn one(daemon: &Daemon, number: usize, flags: &[String], judge: &(dyn Fn(usize, &std::process::Output) + Sync)) {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let name = format!("c{number}");
    let run = |words: &[&str]| {
        let output = daemon.ctl(words);
        judge(number, &output);
        output
    };
    if number.is_multiple_of(2) {
        run(&[&["run", "--rm", "--name", &name], &flags[..], &["busybox", "true"]].concat());
        return;
    }
    run(&[&["run", "-d", "--name", &name], &flags[..], &["busybox", "sleep", "1000"]].concat());
    if number.is_multiple_of(5) {
        run(&["stop", "-t", "0", &name]);
    }
    run(&["rm", "-f", "-v", &name]);
}

fn succeeded(number: usize, output: &std::process::Output) {
    assert!(output.status.success(), "{number}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What is there when nothing goes away any more: removals have their answers before all of it is gone.
#[track_caller]
fn settled(daemon: &Daemon) -> Left {
    let end = Instant::now() + system_tests::PATIENCE;
    let (mut last, mut since) = (left(daemon), Instant::now());
    while since.elapsed() < Duration::from_millis(1500) {
        std::thread::sleep(Duration::from_millis(100));
        let now = left(daemon);
        if now != last {
            assert!(Instant::now() < end, "{last:?} is still becoming {now:?}");
            (last, since) = (now, Instant::now());
        }
    }
    last
}

/// Waits until no more is left than there was before. What goes late, later than anybody waited for it, may be in that.
#[track_caller]
fn no_more_than(daemon: &Daemon, before: &Left) {
    let end = Instant::now() + system_tests::PATIENCE;
    loop {
        let now = left(daemon);
        if now.is_within(before) {
            return;
        }
        assert!(Instant::now() < end, "{now:?} instead of {before:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[track_caller]
fn no_larger_than(daemon: &Daemon, before: &Size) {
    let end = Instant::now() + system_tests::PATIENCE;
    loop {
        let now = size(daemon);
        if !before.is_outgrown_by(&now) {
            println!("{before:?} became {now:?}");
            return;
        }
        assert!(Instant::now() < end, "{before:?} became {now:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A daemon with a network, a volume, and a container that keeps both, and the helper, in use.
fn prepared() -> Option<Daemon> {
    let daemon = with_busybox()?;
    ok(&daemon.ctl(&["network", "create", "net"]));
    ok(&daemon.ctl(&["volume", "create", "named"]));
    let port = free_port().to_string();
    server(&daemon, "stays", &["--network", "net", "-p", &format!("{port}:80"), "-v", "named:/named"]);
    idle(&daemon, "other", &[]);
    Some(daemon)
}

#[test]
fn containers_in_networks_leave_nothing() {
    let Some(daemon) = prepared() else { return };
    for (which, words) in [("default", in_the_default_network as Words), ("user", in_a_users_network)] {
        // What grows once, at first use, is no growth.
        churn(&daemon, 20, words, &succeeded);
        let (before, sizes) = (settled(&daemon), size(&daemon));
        churn(&daemon, count(), words, &succeeded);
        println!("{which}: {} started and removed", count());
        no_more_than(&daemon, &before);
        no_larger_than(&daemon, &sizes);
    }
    assert_eq!(curl(&address(&daemon, "stays")).as_deref(), Some("I am stays"));
    let ids: Vec<String> = ok(&daemon.ctl(&["ps", "-q", "--no-trunc"])).lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), 2);
    assert!(cgroups(&ids) >= 2);
    daemon.checks_clean();
}

#[test]
fn containers_leave_nothing_whenever_the_daemon_is_killed() {
    let Some(mut daemon) = prepared() else { return };
    // A new daemon has a new one's size.
    daemon.kill();
    daemon.restart();
    churn(&daemon, 20, in_a_users_network, &succeeded);
    let before = settled(&daemon);
    let next = AtomicUsize::new(0);
    let socket = daemon.socket();
    let made = Mutex::new(Vec::new());
    let kills = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count() {
                            return;
                        }
                        apart(&socket, number, &made);
                    }
                })
            })
            .collect();
        let mut kills = 0;
        // One that has panicked is finished too.
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            // Moments that nobody chose.
            let random = u64::from_str_radix(&fs_base::id::random_hex::<2>().unwrap(), 16).unwrap();
            std::thread::sleep(Duration::from_millis(random % 900 + 50));
            daemon.kill();
            daemon.restart();
            kills += 1;
        }
        kills
    });
    println!("killed {kills} times");
    // What was between two steps when the daemon died is there, as a container: people see it and remove it.
    until("those that end by themselves have ended", || ok(&daemon.ctl(&["ps", "-q", "--filter", "name=^r"])).is_empty());
    let rest = ok(&daemon.ctl(&["ps", "-a", "--format", "{{.Names}}"]));
    let rest: Vec<&str> = rest.lines().filter(|name| !matches!(*name, "stays" | "other")).collect();
    println!("{} containers to remove", rest.len());
    if !rest.is_empty() {
        // Some of them may be going by themselves just now.
        until("they are removed", || {
            daemon.ctl(&[&["rm", "-f", "-v"], &rest[..]].concat());
            ok(&daemon.ctl(&["ps", "-aq"])).lines().count() == 2
        });
    }
    daemon.kill();
    daemon.restart();
    let volumes = ok(&daemon.ctl(&["volume", "ls", "-q"]));
    println!("volumes: {volumes}");
    no_more_than(&daemon, &before);
    until("no cgroup of theirs is there", || cgroups(&made.lock().unwrap()) == 0);
    assert_eq!(curl(&address(&daemon, "stays")).as_deref(), Some("I am stays"));
    daemon.checks_clean();
}

/// One container of a daemon that may go away at any moment.
fn apart(socket: &Path, number: usize, made: &Mutex<Vec<String>>) {
    let host = format!("unix://{}", socket.display());
    let ctl =
        |words: &[&str]| system_tests::patient(system_tests::program("ctl")).args(["-H", &host]).args(words).output().unwrap();
    let words = if number.is_multiple_of(3) { in_the_default_network(number) } else { in_a_users_network(number) };
    let flags: Vec<&str> = words.iter().map(String::as_str).collect();
    if number.is_multiple_of(2) {
        let name = format!("r{number}");
        ctl(&[&["run", "--rm", "--name", &name], &flags[..], &["busybox", "true"]].concat());
    } else {
        let name = format!("d{number}");
        let output = ctl(&[&["run", "-d", "--name", &name], &flags[..], &["busybox", "sleep", "1000"]].concat());
        let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !id.is_empty() {
            made.lock().unwrap().push(id);
        }
        ctl(&["rm", "-f", "-v", &name]);
    }
}

#[test]
fn many_at_once_in_a_network_know_each_other_and_leave_nothing() {
    let Some(daemon) = prepared() else { return };
    let (many, at_the_same_moment) = if count() > FEW { (200, 50) } else { (12, 12) };
    churn(&daemon, 20, in_a_users_network, &succeeded);
    let before = settled(&daemon);
    let mut first = None;
    for _ in 0..2 {
        many_at_once(&daemon, many);
        no_more_than(&daemon, &before);
        all_at_the_same_moment(&daemon, at_the_same_moment);
        no_more_than(&daemon, &before);
        // What many take once, for threads that serve them, is no growth; the same again would be.
        let sizes = first.get_or_insert_with(|| size(&daemon));
        no_larger_than(&daemon, sizes);
    }
    daemon.checks_clean();
}

fn many_at_once(daemon: &Daemon, many: usize) {
    let flags = ["run", "-d", "--network", "net", "--network-alias", "all", "-p", "80", "--name"];
    for number in 0..many {
        let name = format!("m{number}");
        ok(&daemon.ctl(&[&flags[..], &[&name, "busybox", "sleep", "1000"]].concat()));
    }
    assert_eq!(ok(&daemon.ctl(&["ps", "-q"])).lines().count(), many + 2);
    let last = format!("m{}", many - 1);
    for name in ["stays", "m0"] {
        assert!(daemon.ctl(&["exec", &last, "ping", "-c", "1", "-w", "60", name]).status.success(), "{name}");
    }
    println!("with {many}: {:?}", size(daemon));
    let names: Vec<String> = (0..many).map(|number| format!("m{number}")).collect();
    ok(&daemon.ctl(&[vec!["rm", "-f"], names.iter().map(String::as_str).collect()].concat()));
}

fn all_at_the_same_moment(daemon: &Daemon, many: usize) {
    std::thread::scope(|scope| {
        for number in 0..many {
            scope.spawn(move || {
                let name = format!("p{number}");
                let words = ["run", "--rm", "--network", "net", "-p", "80", "--name", &name, "busybox", "echo", &name];
                assert_eq!(ok(&daemon.ctl(&words)), format!("{name}\n"));
            });
        }
    });
}
