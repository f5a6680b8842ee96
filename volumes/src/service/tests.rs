//! The service over a real store and a catalog in memory: every step of a volume's and a container's life.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_base::sys::mount;
use fs_base::{Class, ContainerId, MountKind, Propagation};

use crate::conformance::{Memory, sample};
use crate::parse::{self, MountValue, Request, Sources};
use crate::volume::ANONYMOUS_LABEL;
use crate::{Catalog, Filters, ListFilter, NewVolume, PointKind, PruneFilter, Volumes};

struct Store {
    root: tempfile::TempDir,
    catalog: Arc<Memory>,
    volumes: Volumes,
}

fn store() -> Store {
    let root = tempfile::tempdir().unwrap();
    let catalog = Arc::new(Memory::default());
    let volumes = Volumes::open(root.path(), catalog.clone()).unwrap();
    Store { root, catalog, volumes }
}

impl Drop for Store {
    /// A test that fails leaves no mount behind either.
    fn drop(&mut self) {
        let root = self.root.path().canonicalize().unwrap_or_default();
        for left in mount::mount_table().unwrap_or_default().iter().filter(|mount| mount.target.starts_with(&root)) {
            let _ = mount::unmount(&left.target, true);
        }
    }
}

impl Store {
    fn named(&self, name: &str) -> crate::Volume {
        self.volumes.create(NewVolume { name: Some(name.into()), ..NewVolume::default() }).unwrap().0
    }

    fn data(&self, name: &str) -> PathBuf {
        self.root.path().join("volumes").join(name).join("_data")
    }

    fn names(&self) -> Vec<String> {
        let listed = self.volumes.list(&ListFilter::default()).unwrap();
        listed.into_iter().map(|(volume, _)| volume.name.to_string()).collect()
    }

    fn nothing_is_left(&self) {
        for dir in ["volumes", "tmp", "trash"] {
            let left: Vec<_> = std::fs::read_dir(self.root.path().join(dir)).unwrap().map(|e| e.unwrap().path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

fn container() -> ContainerId {
    ContainerId::random().unwrap()
}

fn binds(list: &[&str]) -> Vec<Request> {
    let binds: Vec<String> = list.iter().map(|&bind| bind.to_owned()).collect();
    parse::merge(&Sources { binds: &binds, ..Sources::default() }).unwrap()
}

fn map(pairs: &[(&str, &str)]) -> crate::driver::Options {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn may_mount() -> bool {
    let context = mount::FsContext::open("tmpfs").and_then(|c| c.mount(rustix::mount::MountAttrFlags::empty()));
    if let Err(error) = &context {
        eprintln!("SKIPPED: mount: {error}");
    }
    context.is_ok()
}

#[test]
fn a_volume_is_made_once_and_found_by_name() {
    let store = store();
    let new = NewVolume { name: Some("data".into()), labels: Some(map(&[("a", "b")])), ..NewVolume::default() };
    let (volume, created) = store.volumes.create(new.clone()).unwrap();
    assert!(created && store.data("data").is_dir());
    assert_eq!((volume.driver.as_str(), volume.options.clone()), ("local", None));
    let again = NewVolume { labels: Some(map(&[("other", "label")])), ..new };
    assert_eq!(store.volumes.create(again).unwrap(), (volume.clone(), false), "as it is, as Docker does");
    assert_eq!(store.volumes.get("data").unwrap(), volume);
    assert_eq!(store.volumes.mountpoint(&volume).unwrap(), store.data("data"));
    assert_eq!(store.volumes.scope(&volume).unwrap(), "local");
}

#[test]
fn an_anonymous_volume_says_so() {
    let store = store();
    let (volume, _) = store.volumes.create(NewVolume::default()).unwrap();
    assert_eq!(volume.name.as_str().len(), 64);
    assert!(volume.is_anonymous());
    assert_eq!(volume.labels, Some(map(&[(ANONYMOUS_LABEL, "")])));
}

#[test]
fn refusals_are_in_dockers_words() {
    let store = store();
    let create = |name: &str, driver: &str, pairs: &[(&str, &str)]| {
        let driver = Some(driver.to_owned());
        let new = NewVolume { name: Some(name.into()), driver, options: Some(map(pairs)), labels: None };
        let error = store.volumes.create(new).unwrap_err();
        (error.class(), error.to_string())
    };
    assert_eq!(
        create("w1", "nope", &[]),
        (Class::NotFound, "create w1: error looking up volume plugin nope: plugin \"nope\" not found".into())
    );
    assert_eq!(create("w2", "", &[("foo", "bar")]), (Class::Invalid, "create w2: invalid option: \"foo\"".into()));
    assert_eq!(
        create("w3", "local", &[("type", "tmpfs")]),
        (Class::Invalid, "create w3: missing required option: \"device\"".into())
    );
    assert_eq!(
        create("w6", "local", &[("size", "1g")]),
        (Class::Invalid, "create w6: quota size requested but no quota support".into())
    );
    assert_eq!(create("w7", "local", &[("type", "nfs"), ("device", ":/x")]).0, Class::Unsupported);
    assert_eq!(
        create("x", "", &[]).1,
        "create x: volume name is too short, names should be at least two alphanumeric characters"
    );
    for name in ["nosuch", "../etc", ""] {
        let error = store.volumes.get(name).unwrap_err();
        assert_eq!((error.class(), error.to_string()), (Class::NotFound, format!("get {name}: no such volume")));
        assert_eq!(store.volumes.remove(name, false).unwrap_err().to_string(), format!("get {name}: no such volume"));
        store.volumes.remove(name, true).unwrap();
    }
    store.nothing_is_left();
}

#[test]
fn a_used_volume_is_not_removed_not_even_by_force() {
    let store = store();
    let id = container();
    let attached = store.volumes.attach(&id, &binds(&["data:/x"])).unwrap();
    assert_eq!(attached.created.len(), 1);
    for force in [false, true] {
        let error = store.volumes.remove("data", force).unwrap_err();
        assert_eq!(error.class().http_status(), 409);
        assert_eq!(error.to_string(), format!("remove data: volume is in use - [{id}]"));
    }
    assert!(store.volumes.prune(&PruneFilter::default().including_named()).unwrap().deleted.is_empty());
    assert!(store.volumes.detach(&id, &attached.points, true).unwrap().is_empty(), "a named volume outlives rm -v");
    store.volumes.remove("data", false).unwrap();
    store.nothing_is_left();
}

#[test]
fn anonymous_volumes_go_with_their_container_if_asked() {
    let store = store();
    let (one, two) = (container(), container());
    let requests = binds(&["/anon", "data:/named"]);
    let first = store.volumes.attach(&one, &requests).unwrap();
    let inherited: Vec<_> = first.points.iter().map(|point| point.to_request(true)).collect();
    let second = store.volumes.attach(&two, &inherited).unwrap();
    assert!(second.created.is_empty() && second.points.iter().all(|point| point.read_only));
    assert!(store.volumes.detach(&one, &first.points, true).unwrap().is_empty(), "the other still uses it");
    assert!(store.volumes.detach(&two, &second.points, true).unwrap().is_empty(), "it was not made for this one");
    assert_eq!(store.names().len(), 2);

    let third = store.volumes.attach(&one, &binds(&["/anon"])).unwrap();
    assert_eq!(store.volumes.detach(&one, &third.points, true).unwrap(), [third.created[0].name.clone()]);
    store.volumes.detach(&one, &third.points, true).unwrap();
    let fourth = store.volumes.attach(&one, &binds(&["/anon"])).unwrap();
    store.volumes.detach(&one, &fourth.points, false).unwrap();
    assert_eq!(store.names().len(), 3);
}

#[test]
fn inspect_shows_modes_as_docker_does() {
    let store = store();
    let requests = binds(&["/anon", "data:/named", "other:/ro:ro", "/tmp:/bind", "/tmp:/bz:Z"]);
    let points = store.volumes.attach(&container(), &requests).unwrap().points;
    let shown: Vec<_> = points.iter().filter_map(crate::MountPoint::shown).collect();
    let modes: Vec<_> = shown.iter().map(|mount| (mount.destination.to_str().unwrap(), mount.mode.as_str())).collect();
    assert_eq!(modes, [("/anon", ""), ("/bind", ""), ("/bz", "Z"), ("/named", "z"), ("/ro", "ro")]);
}

/// Recorded from dockerd 20.10.
#[test]
fn inspect_shows_mounts_in_dockers_shape() {
    let store = store();
    let binds = ["data:/v/n", "/tmp:/x/b:ro"].map(str::to_owned);
    let tmpfs = MountValue { kind: Some("tmpfs".into()), target: Some("/q/t".into()), ..MountValue::default() };
    let hidden = [("/q/u".to_owned(), String::new())].into();
    let sources = Sources { binds: &binds, mounts: &[tmpfs], tmpfs: hidden, ..Sources::default() };
    let points = store.volumes.attach(&container(), &parse::merge(&sources).unwrap()).unwrap().points;
    let shown: Vec<_> = points.iter().filter_map(crate::MountPoint::shown).collect();
    let want = serde_json::json!([
        {"Type": "tmpfs", "Source": "", "Destination": "/q/t", "Mode": "", "RW": true, "Propagation": ""},
        {"Type": "volume", "Name": "data", "Source": store.data("data"), "Destination": "/v/n", "Driver": "local",
            "Mode": "z", "RW": true, "Propagation": ""},
        {"Type": "bind", "Source": "/tmp", "Destination": "/x/b", "Mode": "ro", "RW": false, "Propagation": "rprivate"},
    ]);
    assert_eq!(serde_json::to_value(shown).unwrap(), want);
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let store = store();
    let id = container();
    let mut requests = binds(&["aa:/a", "/anon"]);
    let bad = MountValue {
        kind: Some("bind".into()),
        source: Some("/nonexistent".into()),
        target: Some("/z".into()),
        ..MountValue::default()
    };
    requests.push(parse::mount(&bad).unwrap());
    let error = store.volumes.attach(&id, &requests).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(error.to_string(), "invalid mount config for type \"bind\": bind source path does not exist: /nonexistent");
    assert!(store.names().is_empty() && store.catalog.all_uses().unwrap().is_empty());
    store.volumes.sweep();
    store.nothing_is_left();
}

#[test]
fn mounts_are_prepared_from_the_top_down() {
    let store = store();
    let host = store.root.path().join("host/made");
    let bind = format!("{}:/a/b/c", host.display());
    let binds = [bind, "deep:/a/b".to_owned(), "/proc:/proc2:ro".to_owned()];
    let tmpfs = [("/a".to_owned(), "size=1m,ro".to_owned())].into();
    let requests = parse::merge(&Sources { binds: &binds, tmpfs, ..Sources::default() }).unwrap();
    let points = store.volumes.attach(&container(), &requests).unwrap().points;
    assert!(!host.exists(), "the source is made at the start, as Docker does");
    let specs = store.volumes.prepare(&points).unwrap();
    assert!(host.is_dir());
    let targets: Vec<_> = specs.iter().map(|spec| (spec.target.to_str().unwrap(), spec.read_only)).collect();
    assert_eq!(targets, [("/a", true), ("/proc2", true), ("/a/b", false), ("/a/b/c", false)]);
    assert!(matches!(&specs[0].kind, MountKind::Tmpfs { size: Some(1_048_576), mode: None, options } if options.len() == 3));
    assert_eq!(specs[2].kind, MountKind::Volume { name: "deep".into(), source: store.data("deep") });
    assert_eq!(specs[3].kind, MountKind::Bind { source: host, propagation: Propagation::Private, recursive: true });
    let saved = serde_json::to_string(&points).unwrap();
    assert_eq!(serde_json::from_str::<Vec<crate::MountPoint>>(&saved).unwrap(), points);
}

#[test]
fn a_missing_source_that_can_not_be_made_is_said() {
    let store = store();
    let points = store.volumes.attach(&container(), &binds(&["/proc/none/x:/x"])).unwrap().points;
    let error = store.volumes.prepare(&points).unwrap_err().to_string();
    assert!(error.starts_with("error while creating mount source path '/proc/none/x': mkdir /proc/none/x:"), "{error}");
}

#[test]
fn shared_binds_need_a_shared_mount() {
    if !may_mount() {
        return;
    }
    let store = store();
    let dir = store.root.path().canonicalize().unwrap().join("peer");
    std::fs::create_dir(&dir).unwrap();
    let context = mount::FsContext::open("tmpfs").unwrap();
    let held = context.mount(rustix::mount::MountAttrFlags::empty()).unwrap();
    held.set_propagation(Propagation::Private, false).unwrap();
    held.attach(&dir).unwrap();
    let prepare = |mode: &str| {
        let bind = format!("{}/sub:/x:{mode}", dir.display());
        store.volumes.prepare(&store.volumes.attach(&container(), &binds(&[&bind])).unwrap().points).map(drop)
    };
    let private: Vec<_> = ["rprivate", "rshared", "slave"].map(|mode| prepare(mode).map_err(|e| e.to_string())).into();
    held.set_propagation(Propagation::Shared, false).unwrap();
    let shared: Vec<_> = ["rshared", "slave"].map(|mode| prepare(mode).is_ok()).into();
    drop(held);
    mount::unmount(&dir, false).unwrap();
    let text = |kind: &str| Err(format!("path {0}/sub is mounted on {0} but it is not {kind} mount", dir.display()));
    assert_eq!(private, [Ok(()), text("a shared"), text("a shared or slave")]);
    assert_eq!(shared, [true, true]);
}

#[test]
fn a_volume_in_memory_lives_while_a_container_runs() {
    if !may_mount() {
        return;
    }
    let store = store();
    let options = Some(map(&[("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m")]));
    store.volumes.create(NewVolume { name: Some("mem".into()), options, ..NewVolume::default() }).unwrap();
    let (one, two) = (container(), container());
    let points = store.volumes.attach(&one, &binds(&["mem:/x"])).unwrap().points;
    store.volumes.attach(&two, &binds(&["mem:/x"])).unwrap();
    assert!(store.volumes.fill(&points[0]).unwrap().is_none(), "memory is not filled");
    store.volumes.prepare(&points).unwrap();
    std::fs::write(store.data("mem").join("f"), "1").unwrap();
    store.volumes.prepare(&points).unwrap();
    assert!(store.data("mem").join("f").exists(), "the second container sees what the first wrote");
    let mut running = HashSet::from([two.clone()]);
    store.volumes.release(&points, &|id| running.contains(id)).unwrap();
    assert!(store.data("mem").join("f").exists());
    running.clear();
    store.volumes.release(&points, &|id| running.contains(id)).unwrap();
    assert!(!store.data("mem").join("f").exists());

    store.volumes.prepare(&points).unwrap();
    store.volumes.recover(&|_| true, &|_| false).unwrap();
    let real = store.data("mem").canonicalize().unwrap();
    assert!(mount::mount_table().unwrap().iter().all(|mount| mount.target != real), "left mounted after a crash");
    store.volumes.prepare(&points).unwrap();
    store.volumes.detach(&one, &points, true).unwrap();
    store.volumes.detach(&two, &points, true).unwrap();
    store.volumes.remove("mem", false).unwrap();
    store.nothing_is_left();
}

#[test]
fn prune_takes_what_nobody_uses_and_says_how_much_came_back() {
    let store = store();
    let (anonymous, _) = store.volumes.create(NewVolume::default()).unwrap();
    store.named("named");
    let used = store.volumes.attach(&container(), &binds(&["/anon"])).unwrap();
    std::fs::write(store.data(anonymous.name.as_str()).join("f"), vec![1; 100_000]).unwrap();
    let bytes = store.volumes.usage(&anonymous).unwrap().unwrap().bytes;
    assert!(bytes >= 100_000);
    let pruned = store.volumes.prune(&PruneFilter::default()).unwrap();
    assert_eq!((pruned.deleted, pruned.reclaimed), (vec![anonymous.name], bytes));
    let all: Filters = [("all".to_owned(), vec!["true".to_owned()])].into();
    let pruned = store.volumes.prune(&PruneFilter::parse(&all).unwrap()).unwrap();
    assert_eq!(pruned.deleted, ["named".parse().unwrap()]);
    assert_eq!(store.names(), [used.created[0].name.to_string()]);
}

#[test]
fn dangling_volumes_are_those_without_a_container() {
    let store = store();
    store.named("free");
    store.volumes.attach(&container(), &binds(&["used:/x"])).unwrap();
    let listed = |value: &str| {
        let filters: Filters = [("dangling".to_owned(), vec![value.to_owned()])].into();
        let listed = store.volumes.list(&ListFilter::parse(&filters).unwrap()).unwrap();
        listed.into_iter().map(|(volume, uses)| (volume.name.to_string(), uses)).collect::<Vec<_>>()
    };
    assert_eq!(listed("true"), [("free".to_owned(), 0)]);
    assert_eq!(listed("false"), [("used".to_owned(), 1)]);
}

#[test]
fn a_volume_is_filled_once_by_one_of_many() {
    let store = store();
    let points = store.volumes.attach(&container(), &binds(&["data:/x", "none:/y:nocopy", "/tmp:/z"])).unwrap().points;
    assert!(store.volumes.fill(&points[1]).unwrap().is_none());
    assert!(store.volumes.fill(&points[2]).unwrap().is_none());
    let filled: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let Some(filling) = store.volumes.fill(&points[0]).unwrap() else { return 0 };
                    std::fs::write(filling.dir().join("f"), "image").unwrap();
                    filling.publish().unwrap();
                    1
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(filled, 1);
    assert_eq!(std::fs::read_to_string(store.data("data").join("f")).unwrap(), "image");
}

#[test]
fn a_bind_volume_is_filled_in_its_device() {
    let store = store();
    let device = store.root.path().join("device");
    std::fs::create_dir(&device).unwrap();
    let options = Some(map(&[("type", "none"), ("o", "bind"), ("device", device.to_str().unwrap())]));
    store.volumes.create(NewVolume { name: Some("bound".into()), options, ..NewVolume::default() }).unwrap();
    let points = store.volumes.attach(&container(), &binds(&["bound:/x"])).unwrap().points;
    let filling = store.volumes.fill(&points[0]).unwrap().unwrap();
    std::fs::write(filling.dir().join("f"), "image").unwrap();
    filling.publish().unwrap();
    let names: Vec<_> = std::fs::read_dir(&device).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
    let specs = store.volumes.prepare(&points).unwrap();
    assert_eq!(specs[0].kind, MountKind::Volume { name: "bound".into(), source: device });
}

#[test]
fn recovery_puts_rows_and_bytes_together() {
    let store = store();
    let (kept, lost) = (container(), container());
    let points = store.volumes.attach(&kept, &binds(&["data:/x"])).unwrap().points;
    store.volumes.attach(&lost, &binds(&["data:/x"])).unwrap();
    // A crash between bytes and row, one between row and bytes, and one within a filling.
    std::fs::create_dir_all(store.data("norow")).unwrap();
    for name in ["halfgone", "restored"] {
        std::fs::create_dir_all(store.data(name)).unwrap();
        std::fs::write(store.data(name).join("f"), "1").unwrap();
    }
    std::fs::write(store.root.path().join("volumes/halfgone/_removing"), "").unwrap();
    std::fs::create_dir_all(store.root.path().join("volumes/data/_fill")).unwrap();
    std::fs::write(store.root.path().join("volumes/data/_fill/f"), "1").unwrap();
    store.catalog.insert(&sample("nodata")).unwrap();

    let findings: Vec<_> = store.volumes.check().unwrap().into_iter().map(|finding| finding.volume.to_string()).collect();
    assert_eq!(findings, ["nodata", "halfgone", "norow", "restored"]);
    store.volumes.recover(&|id| *id == kept, &|_| false).unwrap();
    assert!(!store.data("norow").exists() && !store.data("halfgone").exists());
    assert!(store.data("restored").join("f").exists(), "data from elsewhere is not ours to throw away");
    let taken = store.volumes.create(NewVolume { name: Some("restored".into()), ..NewVolume::default() }).unwrap_err();
    assert!(taken.to_string().ends_with("exists, but is no volume that is known"), "{taken}");
    std::fs::remove_dir_all(store.root.path().join("volumes/restored")).unwrap();
    assert!(store.data("data").join("f").exists());
    assert_eq!(store.catalog.uses(&"data".parse().unwrap()).unwrap(), [kept]);
    let findings = store.volumes.check().unwrap();
    assert_eq!(findings.len(), 1, "the data that is gone is said, not made up: {findings:?}");
    store.volumes.remove("nodata", false).unwrap();
    assert!(store.volumes.check().unwrap().is_empty());
    assert!(matches!(&points[0].kind, PointKind::Volume { copy: true, anonymous: false, .. }));
    assert!(Path::new(&store.data("data")).is_dir());
}

/// Containers come and go on one volume while somebody keeps removing it: whoever attached has it.
#[test]
fn attach_and_remove_may_race() {
    let store = store();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..30 {
                    let id = container();
                    let points = store.volumes.attach(&id, &binds(&["data:/x"])).unwrap().points;
                    assert!(store.volumes.prepare(&points).is_ok());
                    store.volumes.detach(&id, &points, true).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..60 {
                match store.volumes.remove("data", true) {
                    Ok(()) => {}
                    Err(error) => assert!(matches!(error.class(), Class::Busy | Class::NotFound), "{error}"),
                }
            }
        });
    });
    store.volumes.remove("data", true).unwrap();
    store.nothing_is_left();
}
