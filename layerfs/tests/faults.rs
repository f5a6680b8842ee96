//! Each durable step of the store fails, once or for good, or is the last thing that the process comes to; then the
//! store is opened again, and holds what it held before, or what it should hold after.
//!
//! The steps are taken by this program started anew ([`writer`]), because a fault and what it closes are the process's.
#![allow(clippy::unwrap_used)] // a failed step fails the test
#![cfg(debug_assertions)] // a release can't be made to fail

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use fs_base::durable::{self, fault};
use fs_base::{Class, LayerId, Result};
use layerfs::driver::{Choice, Mounter};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;

const SCENARIO: &str = "LAYERFS_FAULTS_SCENARIO";
const PLAN: &str = "LAYERFS_FAULTS_PLAN";
const ROOT: &str = "LAYERFS_FAULTS_ROOT";
/// More steps than any scenario has.
const MANY: u64 = 60;

fn tar_of(name: &str, content: &[u8]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap()
}

fn old() -> Vec<u8> {
    tar_of("old", &[b'o'; 5000])
}

fn new() -> Vec<u8> {
    tar_of("new", &vec![b'n'; 70_000])
}

fn ingest(store: &Store, tar: &[u8]) -> Result<LayerId> {
    store.ingest(&mut &tar[..], &IngestOptions::default()).map(|built| built.id)
}

fn id_of(tar: &[u8]) -> LayerId {
    use sha2::Digest;
    LayerId(fs_base::Digest::from_bytes(sha2::Sha256::digest(tar).into()))
}

/// What is done while steps fail.
fn act(scenario: &str, store: &Arc<Store>) -> Result<()> {
    match scenario {
        "ingest" | "replace" => ingest(store, &new()).map(drop),
        "again" => ingest(store, &old()).map(drop),
        "remove" => store.remove(&id_of(&old())).and_then(|()| store.sweep()),
        "rebuild" => store.layer(&id_of(&old())).map(drop),
        "clear" => store.clear_tmp(),
        "unpack" => {
            let choice = Choice { driver: Some("overlay"), ..Choice::default() };
            Mounter::new(Arc::clone(store), choice)?.lease(&[id_of(&old())]).map(drop)
        }
        other => panic!("{other}"),
    }
}

/// A store to do it to.
fn prepare(scenario: &str, root: &Path) {
    let store = Store::open(root).unwrap();
    let old = ingest(&store, &old()).unwrap();
    let dir = |id: LayerId| root.join("layers").join(id.hex());
    match scenario {
        "replace" => {
            let new = ingest(&store, &new()).unwrap();
            let mut bytes = std::fs::read(dir(new).join("data")).unwrap();
            bytes[600] ^= 1;
            std::fs::write(dir(new).join("data"), bytes).unwrap();
        }
        "rebuild" => std::fs::write(dir(old).join("index"), b"no index").unwrap(),
        "clear" => {
            std::fs::create_dir(root.join("tmp/left")).unwrap();
            std::fs::write(root.join("tmp/left/data"), b"half").unwrap();
            std::fs::write(root.join("trash/thrown"), b"away").unwrap();
        }
        _ => {}
    }
}

/// The layers and the bytes of their files.
type State = BTreeMap<(LayerId, &'static str), Vec<u8>>;

fn state(root: &Path) -> State {
    let store = Store::open(root).unwrap();
    let mut state = State::new();
    for id in store.list().unwrap() {
        for name in ["data", "index"] {
            let bytes = std::fs::read(root.join("layers").join(id.hex()).join(name)).unwrap_or_default();
            state.insert((id, name), bytes);
        }
        let unpacked = root.join("layers").join(id.hex()).join("fs");
        if unpacked.exists() {
            let files = std::fs::read_dir(&unpacked).unwrap().map(|entry| entry.unwrap().path());
            let mut files: Vec<Vec<u8>> = files
                .map(|file| [file.file_name().unwrap().as_encoded_bytes(), &std::fs::read(&file).unwrap()].concat())
                .collect();
            files.sort();
            state.insert((id, "fs"), files.concat());
        }
    }
    state
}

/// Not a test: what the others start, told by the environment what to do.
#[test]
fn writer() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let (scenario, plan) = (std::env::var(SCENARIO).unwrap(), std::env::var(PLAN).unwrap());
    let store = Arc::new(Store::open(Path::new(&root)).unwrap());
    fault::arm(plan.parse().unwrap(), |step| eprintln!("{step}"));
    let result = act(&scenario, &store);
    eprintln!("steps: {}", fault::disarm());
    let Err(error) = result else { return };
    eprintln!("refused: {error}");
    let again = act(&scenario, &store);
    if durable::is_poisoned() {
        let error = ingest(&store, &tar_of("later", b"x")).unwrap_err();
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.to_string().contains("the store refuses writes"), "{error}");
        assert!(error.hint().unwrap().contains("system check"));
    } else {
        again.unwrap();
    }
}

fn write(scenario: &str, plan: &str, root: &Path) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writer", "--nocapture", "--test-threads=1"])
        .envs([(SCENARIO, scenario), (PLAN, plan)])
        .env(ROOT, root)
        .output()
        .unwrap()
}

/// Opens the store as a daemon that starts does, and looks at all that is in it.
fn reopen(root: &Path) -> State {
    let store = Store::open(root).unwrap();
    store.clear_tmp().unwrap();
    for id in store.list().unwrap() {
        // One that came damaged may have stayed so.
        if id_of(&std::fs::read(root.join("layers").join(id.hex()).join("data")).unwrap()) == id {
            store.layer(&id).unwrap();
            assert_eq!(store.check(&id, true).unwrap(), [], "{id}");
        }
    }
    for folder in ["tmp", "trash"] {
        assert_eq!(std::fs::read_dir(root.join(folder)).unwrap().count(), 0, "{folder}");
    }
    state(root)
}

/// Hits every step of a scenario in every way. `before` and `after` are the states that may be found.
fn every_step(scenario: &str, allowed: &dyn Fn(&Path) -> Vec<State>) {
    for fault in ["once", "for-good", "kill"] {
        let mut hit = 0;
        for at in 1..MANY {
            let root = tempfile::tempdir().unwrap();
            prepare(scenario, root.path());
            let allowed = allowed(root.path());
            let output = write(scenario, &format!("{fault}@{at}"), root.path());
            let said = String::from_utf8_lossy(&output.stderr);
            let was_hit = said.contains("fault on purpose");
            if fault == "kill" && was_hit {
                assert_eq!(output.status.signal(), Some(9), "{scenario} {fault}@{at}: {said}");
            } else {
                assert!(output.status.success(), "{scenario} {fault}@{at}: {said}{}", String::from_utf8_lossy(&output.stdout));
            }
            let found = reopen(root.path());
            assert!(
                allowed.contains(&found),
                "{scenario} {fault}@{at} left neither the old nor the new: {:?}\n{said}",
                found.keys()
            );
            if !was_hit {
                break;
            }
            hit = at;
        }
        assert!(hit > 0 && hit + 1 < MANY, "{scenario}: {hit} steps");
        println!("{scenario}: {fault}: {hit} steps");
    }
}

fn with(mut state: State, tar: &[u8]) -> State {
    let root = tempfile::tempdir().unwrap();
    ingest(&Store::open(root.path()).unwrap(), tar).unwrap();
    state.extend(self::state(root.path()));
    state
}

#[test]
fn a_layer_comes_in_whole_or_not_at_all() {
    every_step("ingest", &|root| vec![state(root), with(state(root), &new())]);
}

#[test]
fn a_layer_that_is_there_already_stays() {
    every_step("again", &|root| vec![state(root)]);
}

#[test]
fn a_damaged_layer_is_replaced_in_one_step() {
    every_step("replace", &|root| vec![state(root), with(state(root), &new())]);
}

#[test]
fn a_layer_goes_whole_or_not_at_all() {
    every_step("remove", &|root| vec![state(root), State::new()]);
}

#[test]
fn an_index_is_built_again_or_left_to_the_next_time() {
    every_step("rebuild", &|_| vec![with(State::new(), &old())]);
}

#[test]
fn a_layer_is_unpacked_whole_or_not_at_all() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: kernel mounts: needs root");
        return;
    }
    every_step("unpack", &|root| {
        let done = tempfile::tempdir().unwrap();
        prepare("unpack", done.path());
        act("unpack", &Arc::new(Store::open(done.path()).unwrap())).unwrap();
        let after = state(done.path());
        assert!(after.contains_key(&(id_of(&old()), "fs")));
        vec![state(root), after]
    });
}

#[test]
fn what_unfinished_work_left_is_cleared_in_the_end() {
    every_step("clear", &|root| vec![state(root)]);
}
