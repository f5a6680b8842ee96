//! Power cuts. A virtual machine's daemon makes and removes images, volumes and containers while every write to its disk
//! is logged; then it is killed. From the log come disks as a cut leaves them at any moment, writes since the last flush
//! dropped or torn. On each the next daemon finds what was acknowledged before the cut, and of what was under way all or
//! nothing. Most of it is done on ext4, a share on xfs.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::cut::{Chance, Disk, Left, Request, read_log};
use system_tests::images::{config, digest, docker_archive, layer};
use system_tests::{Daemon, can, has, may_mount, ok, program, sh};

/// The store's disk, in MiB; the last of them is for the mark.
const DISK: u64 = 64;
const MARK_AT: u64 = (DISK - 1) << 20;
/// How long a machine may take; a good one on a host at rest takes ten seconds.
const DEADLINE: Duration = Duration::from_secs(900);

/// What a kernel is told. On a host that is busy it thinks that processors hang, and would say so in the middle of our lines.
const KERNEL: &str = "console=ttyS0 quiet loglevel=3 nowatchdog rcupdate.rcu_cpu_stall_suppress=1 panic=-1";

/// What lies below a store, and how often its power is cut.
struct Ground {
    kind: &'static str,
    /// Makes it in a file, with as many MiB as follow.
    make: &'static str,
    /// Cuts that are looked at on this host, and in a machine that is booted again.
    cuts: usize,
    boots: usize,
    /// The machine is killed and booted again too.
    killed: bool,
}

// What the file systems do later by themselves would only blur the log. mkfs.xfs makes none of less than 300 MB for use.
const GROUNDS: [Ground; 2] = [
    Ground {
        kind: "ext4",
        make: "mke2fs -q -t ext4 -E root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0 -b 4096 store.img $1M",
        cuts: 32,
        boots: 1,
        killed: true,
    },
    Ground {
        kind: "xfs",
        make: "mkfs.xfs --unsupported -q -d size=$1m store.img 2> /dev/null",
        cuts: 14,
        boots: 0,
        killed: false,
    },
];

/// What is there, by what it is and its name: images and their ids.
type Things = BTreeMap<String, String>;

/// What is done, and what is there after it.
struct Step {
    command: &'static str,
    after: Things,
}

/// Of what it is only known that it is there.
const THERE: &str = "there";

/// What an image has as its value: the id of one that was made at a time of day is not known.
fn shown_image(name: &str, id: &str) -> (String, String) {
    let id = if ["made:1", "imported:1"].contains(&name) { THERE } else { id };
    (format!("image {name}"), id.to_owned())
}

fn steps(ids: &BTreeMap<&str, String>) -> Vec<Step> {
    let mut things = Things::new();
    let mut all = Vec::new();
    let mut step = |command: &'static str, change: &dyn Fn(&mut Things)| {
        change(&mut things);
        all.push(Step { command, after: things.clone() });
    };
    let (a, b, new) = (&ids["a"], &ids["b"], &ids["new"]);
    let add = |name: &'static str, id: &str| {
        let (name, id) = shown_image(name, id);
        move |things: &mut Things| drop(things.insert(name.clone(), id.clone()))
    };
    let make = |thing: &'static str| move |things: &mut Things| drop(things.insert(thing.to_owned(), THERE.to_owned()));
    let remove = |thing: &'static str| move |things: &mut Things| drop(things.remove(thing));
    step("load -q -i /a.tar", &add("a:1", a));
    step("load -q -i /b.tar", &add("b:1", b));
    step("tag a:1 c:1", &add("c:1", a));
    step("volume create --label k=v v1", &make("volume v1"));
    step("create --name c1 --network none -v v1:/data b:1", &make("container c1"));
    step("load -q -i /new.tar", &add("a:1", new));
    step("commit c1 made:1", &add("made:1", ""));
    step("rm c1", &remove("container c1"));
    step("import /imported.tar imported:1", &add("imported:1", ""));
    step("rmi b:1", &remove("image b:1"));
    step("volume create v2", &make("volume v2"));
    step("volume rm v1", &remove("volume v1"));
    step("rmi c:1", &remove("image c:1"));
    step("create --name c2 --network none made:1", &make("container c2"));
    step("load -q -i /b.tar", &add("b:1", b));
    step("rmi a:1", &remove("image a:1"));
    step("rm c2", &remove("container c2"));
    all
}

fn noise(seed: u64, size: usize) -> String {
    let mut chance = Chance(seed);
    (0..size).map(|_| char::from(b'!' + chance.below(64) as u8)).collect()
}

/// Makes the machine's disks, and returns the steps. The archives share a layer.
fn prepare(dir: &Path) -> Vec<Step> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts");
    let programs = ["fsd", "ctl"].map(|name| program(name).display().to_string()).join(" ");
    sh(
        dir,
        &format!("{}/vm/programs root {programs}; install -m 755 {}/vm/power root/checks", scripts.display(), scripts.display()),
    );
    let base = layer(&[("base", &noise(1, 700_000))]);
    let mut ids = BTreeMap::new();
    for (name, tag, seed) in [("a", "a:1", 2), ("b", "b:1", 3), ("new", "a:1", 4)] {
        let own = layer(&[("own", &noise(seed, 300_000)), ("small", name)]);
        ids.insert(name, digest(&config(&[&base, &own])));
        std::fs::write(dir.join(format!("root/{name}.tar")), docker_archive(tag, &[&base, &own])).unwrap();
    }
    std::fs::write(dir.join("root/imported.tar"), layer(&[("imported", &noise(5, 200_000))])).unwrap();
    let steps = steps(&ids);
    let text: Vec<String> = steps.iter().map(|step| format!("{}\n", step.command)).collect();
    std::fs::write(dir.join("root/steps"), text.concat()).unwrap();
    sh(dir, "mke2fs -q -t ext4 -E root_owner=0:0 -d root system.img 512M > /dev/null");
    steps
}

/// A virtual machine; killed when dropped.
struct Machine {
    child: Child,
    log: PathBuf,
}

impl Machine {
    fn boot(dir: &Path, mode: &str, kind: &str, store: &[&str]) -> Machine {
        let vm = vm_dir();
        let kernel = std::fs::read_dir(vm.join("kernel/boot")).unwrap().flatten().map(|entry| entry.path());
        let kernel = kernel.into_iter().find(|path| path.to_string_lossy().contains("vmlinuz")).unwrap();
        let log = dir.join(format!("{mode}.log"));
        let console = std::fs::File::create(&log).unwrap();
        // It ends with this process, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "512", "-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(vm.join("first.cpio"))
            .args(["-append", &format!("{KERNEL} mode={mode} kind={kind} mark_at={}", MARK_AT / 512)])
            .args(["-drive", "file=system.img,format=raw,if=none,id=system,snapshot=on,cache=unsafe"])
            .args(["-device", "virtio-blk-pci,drive=system"])
            .args(store)
            .args(["-device", "virtio-blk-pci,drive=store", "-serial", "stdio"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .unwrap();
        Machine { child, log }
    }

    /// Waits until it says that it is done, and cuts its power. Returns what it has said.
    fn run(mut self) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let said = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned();
            if said.contains("VM-OK") {
                return said;
            }
            let ended = self.child.try_wait().unwrap();
            let hopeless = said.contains("VM-FAILED") || ended.is_some() || Instant::now() > end;
            assert!(!hopeless, "{ended:?}: {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn vm_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/vm")
}

/// Whether a machine can be booted here; says loudly if not.
fn has_machine() -> bool {
    let first = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm/first");
    let output = Command::new("timeout").arg("900").arg(first).arg(vm_dir()).output().unwrap();
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(matches!(output.status.code(), Some(0 | 77)), "{}", String::from_utf8_lossy(&output.stderr));
    output.status.success()
}

/// A moment of the log: after how many requests, and how many steps were acknowledged by then.
#[derive(Debug, Clone, Copy)]
struct Moment {
    requests: usize,
    acknowledged: usize,
}

/// The flush that follows a mark is the mark's own; a step has to make itself durable.
fn without_marks_flushes(log: Vec<Request>) -> Vec<Request> {
    let mut marked = false;
    let mut kept = Vec::new();
    for request in log {
        let dropped = marked && matches!(request, Request::Flush);
        marked = (marked && !dropped) || matches!(request, Request::Write { offset: MARK_AT, .. });
        kept.extend(Some(request).filter(|_| !dropped));
    }
    kept
}

/// Moments at which there was something to lose, from the first mark on.
fn moments(log: &[Request]) -> Vec<Moment> {
    let (mut found, mut marked, mut at_stake) = (Vec::new(), None, 0);
    for (number, request) in log.iter().enumerate() {
        match request {
            Request::Flush => at_stake = 0,
            Request::Write { offset: MARK_AT, data, .. } => {
                let text = String::from_utf8_lossy(data);
                marked = text.lines().next().and_then(|line| line.strip_prefix("MARK ")?.parse().ok()).or(marked);
            }
            Request::Write { .. } => at_stake += 1,
        }
        if let Some(acknowledged) = marked.filter(|_| at_stake > 0) {
            found.push(Moment { requests: number + 1, acknowledged });
        }
    }
    found
}

/// The states that may be found at a moment: that of the last acknowledged step, and that of the one under way.
fn allowed<'a>(steps: &'a [Step], moment: Moment, none: &'a Things) -> Vec<&'a Things> {
    let before = moment.acknowledged.checked_sub(1).map_or(none, |last| &steps[last].after);
    let under_way = steps.get(moment.acknowledged).map(|step| &step.after);
    std::iter::once(before).chain(under_way).collect()
}

/// What a daemon of this host finds on a disk.
fn look(image: &Path) -> Things {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    sh(dir.path(), &format!("mount -o loop {} root", image.display()));
    let mut daemon = Daemon::start_in(dir, &[]);
    let get = |path: &str| serde_json::from_str::<Value>(&ok(&daemon.curl(&[&format!("http://d{path}")]))).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (images, volumes, containers) = (get("/images/json"), get("/volumes"), get("/containers/json?all=true"));
    let mut things = Things::new();
    for image in images.as_array().unwrap() {
        let tags = image["RepoTags"].as_array().into_iter().flatten();
        things.extend(tags.map(|tag| shown_image(tag.as_str().unwrap(), image["Id"].as_str().unwrap())));
    }
    let named = |kind: &str, name: String| (format!("{kind} {}", name.trim_start_matches('/')), THERE.to_owned());
    things.extend(volumes["Volumes"].as_array().into_iter().flatten().map(|volume| named("volume", text(&volume["Name"]))));
    things.extend(containers.as_array().unwrap().iter().map(|container| named("container", text(&container["Names"][0]))));
    let events = ok(&daemon.curl(&["-X", "POST", "http://d/fsd/v1/check?data=true"]));
    assert!(events.contains("\"findings\":0"), "{events}");
    let left = sh(daemon.dir(), "find root/tmp root/trash -mindepth 1");
    assert!(left.is_empty(), "left: {left}");
    daemon.stop();
    things
}

/// What a machine that is booted with a disk finds.
fn boot_and_look(dir: &Path, kind: &str, image: &str) -> Things {
    let drive = format!("driver=raw,node-name=store,file.driver=file,file.filename={image},cache.no-flush=on");
    let said = Machine::boot(dir, "look", kind, &["-blockdev", &drive]).run();
    assert!(said.contains(": clean"), "{said}");
    let lines = said.lines().filter_map(|line| line.trim().split_once(' ')?.1.split_once(' ').map(|rest| (line.trim(), rest)));
    lines
        .filter_map(|(line, (name, value))| match line.split(' ').next() {
            Some("IMAGE") if name.ends_with(":<none>") => None,
            Some("IMAGE") => Some(shown_image(name, value)),
            Some(kind @ ("VOLUME" | "CONTAINER")) => Some((format!("{} {name}", kind.to_lowercase()), value.to_owned())),
            _ => None,
        })
        .collect()
}

/// Whether a store can lie on this in the machine, and its disk be mounted here; says loudly if not.
fn has_ground(kind: &str) -> bool {
    let modules = sh(&vm_dir(), "cat kernel/lib/modules/*/modules.builtin kernel/lib/modules/*/modules.dep");
    let here = sh(Path::new("/"), "modprobe xfs > /dev/null 2>&1 || true; cat /proc/filesystems");
    let both = modules.contains(&format!("/{kind}.ko")) && here.lines().any(|line| line.trim() == kind);
    can(&format!("power cuts on {kind} (no such file system in the machine or here)"), both)
}

/// Takes all steps on a disk whose writes are logged, cuts its power in between, and looks at what is left.
fn cut(dir: &Path, ground: &Ground, steps: &[Step]) {
    let (kind, none) = (ground.kind, Things::new());
    sh(dir, &format!("rm -f store.img writes.log; truncate -s {DISK}M store.img; set -- {}; {}", DISK - 1, ground.make));
    let empty = std::fs::read(dir.join("store.img")).unwrap();
    let logged = [
        "-blockdev",
        "driver=raw,node-name=disk,file.driver=file,file.filename=store.img",
        "-blockdev",
        "driver=file,node-name=log,filename=writes.log",
        "-blockdev",
        "driver=blklogwrites,node-name=store,file=disk,log=log,log-sector-size=512",
    ];
    std::fs::write(dir.join("writes.log"), "").unwrap();
    Machine::boot(dir, "write", kind, &logged).run();
    if ground.killed {
        // Killed, and booted again with what had reached the disk.
        let last = Moment { requests: 0, acknowledged: steps.len() };
        assert_eq!(boot_and_look(dir, kind, "store.img"), *allowed(steps, last, &none)[0], "killed and booted again");
    }
    let log = without_marks_flushes(read_log(&dir.join("writes.log")));
    let moments = moments(&log);
    let flushes = log.iter().filter(|request| matches!(request, Request::Flush)).count();
    println!(
        "{kind}: {} requests, {flushes} of them flushes; {} moments at which something could be lost",
        log.len(),
        moments.len()
    );
    assert!(flushes > 50 && moments.len() > 50 && moments.iter().any(|moment| moment.acknowledged == steps.len() - 1));
    let (mut disk, mut done, mut chance, mut between) = (Disk::new(empty), 0, Chance(7), 0);
    let (image, all) = (dir.join("cut.img"), ground.cuts + ground.boots);
    for number in 0..all {
        let moment = moments[number * (moments.len() - 1) / (all - 1)];
        log[done..moment.requests].iter().for_each(|request| disk.take(request));
        done = moment.requests;
        let left = [Left::Nothing, Left::AllButTheLast, Left::Some(chance.below(1 << 30))][number % 3];
        std::fs::write(&image, disk.cut(left)).unwrap();
        let boots = ground.boots > 0 && (number + 1) % (all / ground.boots) == 0;
        let found = if boots { boot_and_look(dir, kind, "cut.img") } else { look(&image) };
        let allowed = allowed(steps, moment, &none);
        assert!(
            allowed.contains(&&found),
            "{kind}: cut after {moment:?}, {left:?} of {} requests left: {found:?}, not one of {allowed:?}",
            disk.at_stake()
        );
        between += usize::from(allowed.len() == 2 && found == *allowed[1]);
    }
    println!(
        "{kind}: {} cuts looked at here, {} in a machine booted again; {between} times what was under way was done",
        ground.cuts, ground.boots
    );
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    if !may_mount() || !has("setpriv") || !has_machine() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let steps = prepare(dir.path());
    for ground in GROUNDS.iter().filter(|ground| has_ground(ground.kind)) {
        cut(dir.path(), ground, &steps);
    }
}
