use super::*;
use oci_spec::runtime::{LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResourcesBuilder};
use std::process::{Command, Stdio};

fn able() -> bool {
    let able = rustix::process::geteuid().is_root() && hierarchy::mounted().is_ok_and(|list| !list.is_empty());
    if !able {
        println!("SKIPPED: cgroups: needs root and a mounted hierarchy");
    }
    able
}

fn name() -> String {
    format!("test-{}", fs_base::id::random_hex::<8>().unwrap())
}

/// A shell that has joined the cgroup by itself, as a container's first process does, and waits for its input.
fn shell(cgroup: &Cgroup, then: &str) -> std::process::Child {
    let join: Vec<String> = cgroup
        .members
        .iter()
        .map(|member| {
            format!("echo 0 > {}/{}", member.path.display(), if member.hierarchy.is_v2() { "cgroup.procs" } else { "tasks" })
        })
        .collect();
    Command::new("sh")
        .args(["-c", &format!("{} && echo in && {then}", join.join(" && "))])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until_in(child: &mut std::process::Child) {
    use std::io::Read;
    let mut word = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
}

#[test]
fn a_cgroup_limits_lists_kills_and_goes() {
    if !able() {
        return;
    }
    let name = name();
    let memory = LinuxMemoryBuilder::default().limit(64i64 << 20).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(20i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).pids(pids).build().unwrap();
    let cgroup = Cgroup::create(None, &name, &resources).unwrap().cgroup;
    let mut child = shell(&cgroup, "read x");
    wait_until_in(&mut child);
    assert_eq!(cgroup.processes().unwrap(), [child.id() as i32]);
    assert_eq!(Cgroup::open(None, &name).unwrap().processes().unwrap(), [child.id() as i32]);
    cgroup.freeze().unwrap();
    cgroup.thaw().unwrap();
    cgroup.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
    cgroup.delete().unwrap();
    assert!(Cgroup::open(None, &name).unwrap().members.is_empty());
    cgroup.delete().unwrap();
}

#[test]
fn memory_that_is_not_allowed_is_not_had_and_counted() {
    if !able() {
        return;
    }
    let memory = LinuxMemoryBuilder::default().limit(16i64 << 20).swap(16i64 << 20).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    let cgroup = Cgroup::create(None, &name(), &resources).unwrap().cgroup;
    let mut child = shell(&cgroup, "x=$(head -c 64M /dev/zero | tr '\\0' x)");
    assert!(!child.wait().unwrap().success());
    assert!(cgroup.oom_kills().unwrap() > 0);
    cgroup.delete().unwrap();
}

fn resources(value: serde_json::Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

/// Gone at the end, however the test ends.
struct Held(Cgroup);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill_all();
        self.0.delete().unwrap();
        assert!(!self.0.dirs().any(Path::exists));
    }
}

fn held(limits: serde_json::Value) -> Option<Held> {
    able().then(|| Held(Cgroup::create(None, &name(), &resources(limits)).unwrap().cgroup))
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(300), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn kill_all_ends_what_forks_what_is_frozen_and_what_made_cgroups_of_its_own() {
    let Some(held) = held(serde_json::json!({ "pids": { "limit": 200 } })) else { return };
    let mut forks = shell(&held.0, "for i in $(seq 30); do while :; do sleep 0.01; done & done; wait");
    wait_for("it forks", || held.0.processes().unwrap().len() > 20);
    held.0.kill_all().unwrap();
    assert!(!forks.wait().unwrap().success());
    assert!(held.0.processes().unwrap().is_empty());
    let mut frozen = shell(&held.0, "while :; do :; done");
    wait_until_in(&mut frozen);
    for dir in held.0.dirs() {
        std::fs::create_dir_all(dir.join("inner/most")).unwrap();
    }
    held.0.freeze().unwrap();
    assert!(held.0.is_frozen().unwrap());
    held.0.kill_all().unwrap();
    assert!(!frozen.wait().unwrap().success());
}

#[test]
fn a_process_that_is_in_v1_alone_is_killed_too() {
    let Some(held) = held(serde_json::json!({})) else { return };
    if held.0.is_pure_v2() {
        println!("SKIPPED: cgroup v1: the host has v2 alone");
        return;
    }
    // The thread enters, and what a thread starts is where the thread is.
    let start = || {
        held.0.joiner().unwrap().join_self().unwrap();
        Command::new("sh").args(["-c", "exec sleep 100"]).spawn().unwrap()
    };
    let mut child = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    let dir = held.0.v1_dir("memory").unwrap().join("inner");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
    assert_eq!(held.0.processes().unwrap(), [child.id() as i32]);
    held.0.kill_all().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn a_frozen_process_does_nothing_until_it_is_thawed() {
    let Some(held) = held(serde_json::json!({})) else { return };
    let mut child = shell(&held.0, "while :; do :; done");
    wait_until_in(&mut child);
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(11).unwrap().parse::<u64>().unwrap()
    };
    wait_for("it runs", || ticks() > 2);
    held.0.freeze().unwrap();
    let before = ticks();
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(ticks(), before);
    held.0.thaw().unwrap();
    assert!(!held.0.is_frozen().unwrap());
    wait_for("it runs again", || ticks() > before);
    held.0.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn limits_of_processes_and_devices_are_in_force_and_change() {
    let dev_null = serde_json::json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" });
    let devices = serde_json::json!([{ "allow": false, "access": "rwm" }, dev_null]);
    let Some(held) = held(serde_json::json!({ "pids": { "limit": 5 }, "devices": devices })) else { return };
    let run = |script: &str| {
        let output = shell(&held.0, script).wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run("(for i in 1 2 3 4 5 6; do sleep 1 & done; wait) 2>&1").contains("fork"));
    held.0.kill_all().unwrap();
    assert!(held.0.apply(&resources(serde_json::json!({ "pids": { "limit": -1 } }))).unwrap().is_empty());
    let out = run("head -c 1 /dev/null; echo null=$?; head -c 1 /dev/zero; echo zero=$?");
    assert!(out.contains("null=0") && out.contains("zero=1"), "{out}");
}

#[test]
fn memory_limits_go_up_and_down_in_the_order_that_the_kernel_wants() {
    let Some(held) = held(serde_json::json!({ "memory": { "limit": 32 << 20, "swap": 32 << 20 } })) else { return };
    for limit in [64_i64 << 20, 16 << 20, 128 << 20] {
        let memory = serde_json::json!({ "limit": limit, "swap": 2 * limit });
        assert!(held.0.apply(&resources(serde_json::json!({ "memory": memory }))).unwrap().is_empty());
    }
    assert!(held.0.apply(&resources(serde_json::json!({ "memory": { "limit": -1 } }))).unwrap().is_empty());
    // What is 0 is not given.
    let zeros = serde_json::json!({ "memory": { "limit": 0, "swap": 0, "reservation": 0 }, "cpu": { "shares": 0, "period": 0, "cpus": "" } });
    assert!(held.0.apply(&resources(zeros)).unwrap().is_empty());
}

#[test]
fn what_the_host_can_not_do_is_told_and_what_the_kernel_refuses_leaves_nothing() {
    if !able() {
        return;
    }
    let name = name();
    let error = Cgroup::create(None, &name, &resources(serde_json::json!({ "cpu": { "cpus": "0-9999" } }))).unwrap_err();
    assert!(error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(Cgroup::open(None, &name).unwrap().members.is_empty());
    let limits = resources(serde_json::json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }] }));
    let error = Cgroup::create(None, &name, &limits).unwrap_err();
    assert!(error.to_string().contains("hugepageLimits is not supported"), "{error}");
    let created = Cgroup::create(None, &name, &resources(serde_json::json!({ "memory": { "kernel": 1 << 30 } }))).unwrap();
    let held = Held(created.cgroup);
    assert!(created.warnings[0].contains("kernel memory"), "{:?}", created.warnings);
    // It is in no cpuset, as it was made without one; to be told so beats being ignored.
    let late = held.0.apply(&resources(serde_json::json!({ "cpu": { "cpus": "0" } }))).unwrap();
    assert!(late.iter().any(|text| text.contains("cpuset")) || held.0.is_pure_v2(), "{late:?}");
}

#[test]
fn the_program_of_v2_limits_devices_in_the_real_kernel() {
    let Some(held) = held(serde_json::json!({})) else { return };
    let Some(fd) = held.0.unified_dir() else {
        println!("SKIPPED: cgroup v2: no such hierarchy");
        return;
    };
    let dev_null = serde_json::json!({ "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw" });
    let rules = serde_json::json!({ "devices": [{ "allow": false, "access": "rwm" }, dev_null] });
    if let Err(error) = v2::limit_devices(fd, resources(rules).devices().as_ref().unwrap()) {
        println!("SKIPPED: bpf: {error}");
        return;
    }
    let script = "head -c 1 /dev/null; echo null=$?; head -c 1 /dev/zero; echo zero=$?";
    let out = shell(&held.0, script).wait_with_output().unwrap().stdout;
    let out = String::from_utf8_lossy(&out).into_owned();
    assert!(out.contains("null=0") && out.contains("zero=1"), "{out}");
}

#[test]
fn what_it_uses_is_counted() {
    let Some(held) = held(serde_json::json!({ "memory": { "limit": 64 << 20 }, "pids": { "limit": 7 } })) else { return };
    let mut child = shell(&held.0, "while :; do :; done");
    wait_until_in(&mut child);
    wait_for("it uses a processor", || held.0.stats().unwrap().cpu.total > 20_000_000);
    let stats = held.0.stats().unwrap();
    assert!(stats.cpu.user + stats.cpu.system > 0, "{:?}", stats.cpu);
    assert_eq!((stats.pids, stats.memory.limit), (Pids { current: 1, limit: Some(7) }, Some(64 << 20)));
    assert!(stats.memory.usage > 0 && stats.memory.stats.len() > 10, "{:?}", stats.memory);
    held.0.kill_all().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_parent_outside_of_the_hierarchy_is_refused() {
    let error = Cgroup::create(Some("/a/../../b"), "x", &LinuxResources::default()).unwrap_err();
    assert!(error.to_string().contains("cgroup parent"), "{error}");
    for (parent, name) in [("/a\nb", "x"), ("/a", ".."), ("/a", "b/c"), ("/a", "")] {
        assert!(Cgroup::create(Some(parent), name, &LinuxResources::default()).is_err());
    }
    assert!(Cgroup::create(Some("user.slice"), "x", &LinuxResources::default()).is_err());
}

/// Run by hand: `cargo test --release -p engine cgroup::tests::how_fast -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_fast() {
    if !able() {
        return;
    }
    let mut times: Vec<[f64; 5]> = Vec::new();
    for _ in 0..30 {
        let clock = |work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1000.0
        };
        let mut made = None;
        let create = clock(&mut || made = Some(Cgroup::create(None, &name(), &resources(serde_json::json!({}))).unwrap().cgroup));
        let cgroup = made.unwrap();
        let open = clock(&mut || drop(cgroup.joiner().unwrap()));
        let joiner = cgroup.joiner().unwrap();
        // The kernel's lock is cheap for a while after a writer had it; containers start further apart.
        let apart = || std::thread::sleep(Duration::from_millis(60));
        apart();
        let join = std::thread::scope(|scope| scope.spawn(|| clock(&mut || joiner.join_self().unwrap())).join().unwrap());
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        apart();
        let by_pid = clock(&mut || {
            for dir in cgroup.dirs() {
                std::fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
            }
        });
        child.kill().unwrap();
        child.wait().unwrap();
        times.push([create, open, join, by_pid, clock(&mut || cgroup.delete().unwrap())]);
    }
    for (at, what) in ["create", "joiner", "join_self", "by writing the pid", "delete"].iter().enumerate() {
        let mut all: Vec<f64> = times.iter().map(|one| one[at]).collect();
        all.sort_by(f64::total_cmp);
        println!("{what}: {:.3} ms, from {:.3} to {:.3}", all[15], all[0], all[29]);
    }
}
