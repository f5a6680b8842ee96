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

#[test]
fn a_parent_outside_of_the_hierarchy_is_refused() {
    let error = Cgroup::create(Some("/a/../../b"), "x", &LinuxResources::default()).unwrap_err();
    assert!(error.to_string().contains("cgroup parent"), "{error}");
    assert!(Cgroup::create(Some("user.slice"), "x", &LinuxResources::default()).is_err());
}
