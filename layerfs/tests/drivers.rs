//! The conformance suite of the mount drivers: whatever the driver, the kernel shows what the tree in user space shows.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{Listing, assert_same, fuse_program, list_dir, list_tree, may_mount, named, place_of, sh};
use fs_base::sys::mount::mount_table;
use fs_base::{Class, LayerId};
use layerfs::diff::{ChangeKind, of_upper};
use layerfs::driver::{Choice, Mounter, Verdict, Writable, names};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;
use layerfs::tree::Tree;

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    fn name(&mut self) -> String {
        ["a", "b", "c", "d-e", "d", "f"][self.below(6) as usize].to_owned()
    }

    fn path(&mut self) -> String {
        (0..=self.below(3)).map(|_| self.name()).collect::<Vec<_>>().join("/")
    }
}

/// A layer of random files, whiteouts and opaque directories, as a tar.
fn random_layer(random: &mut Random, dir: &Path) -> Vec<u8> {
    use std::fmt::Write;
    let mut script = String::from("rm -rf l; mkdir l; cd l\n");
    for _ in 0..30 {
        let (path, other) = (random.path(), random.path());
        let parent = Path::new(&path).parent().unwrap().display().to_string();
        let parent = if parent.is_empty() { ".".to_owned() } else { parent };
        let name = Path::new(&path).file_name().unwrap().to_str().unwrap().to_owned();
        let number = random.below(1000);
        let make = match random.below(12) {
            0..=2 => format!("mkdir -p {path}"),
            3..=5 => format!("[ ! -p {path} ] && seq {number} > {path}"),
            // Never absolute: changes made through a mount on the host would follow it there.
            6 => format!("ln -s {other} {path}"),
            7 => format!("ln {other} {path}"),
            8 => format!("mkfifo {path}"),
            9 => format!("setfattr -n user.k -v {number} {path}"),
            10 => format!("chmod {} {path}; chown {number}:7 {path}", ["700", "4755", "1777", "640"][random.below(4) as usize]),
            _ => format!("truncate -s {}K {path}", number * 7),
        };
        let _ = writeln!(script, "mkdir -p {parent} && {{ {make}; }} || :");
        if random.below(3) == 0 {
            let _ = writeln!(script, "mkdir -p {parent} && rm -rf {path} && touch {parent}/.wh.{name} || :");
        }
        if random.below(12) == 0 {
            let _ = writeln!(script, "mkdir -p {path} && touch {path}/.wh..wh..opq || :");
        }
    }
    script += "tar --xattrs -S --format=pax -cf ../l.tar .";
    let quiet = format!("{{ {script}\n}} 2>/dev/null");
    sh(dir, &quiet);
    std::fs::read(dir.join("l.tar")).unwrap()
}

fn random_chain(random: &mut Random, dir: &Path, store: &Store, count: usize) -> Vec<LayerId> {
    (0..count).map(|_| store.ingest(&mut &random_layer(random, dir)[..], &IngestOptions::default()).unwrap().id).collect()
}

fn layers(store: &Store, ids: &[LayerId]) -> Vec<Arc<layerfs::store::Layer>> {
    ids.iter().map(|id| store.layer(id).unwrap()).collect()
}

/// What a container might do to its tree.
fn random_changes(random: &mut Random, place: &Path) {
    for _ in 0..25 {
        let (path, other) = (place.join(random.path()), place.join(random.path()));
        if std::fs::metadata(&path).is_ok_and(|m| std::os::unix::fs::FileTypeExt::is_fifo(&m.file_type())) {
            continue; // would wait for its other end
        }
        // Most of it fails because something else is there, which is fine.
        let _ = match random.below(13) {
            0 => std::fs::write(&path, format!("new {}", random.below(100))),
            1 => std::fs::remove_file(&path),
            2 => std::fs::remove_dir_all(&path),
            3 => std::fs::create_dir_all(&path),
            4 => std::fs::rename(&path, &other),
            5 => std::os::unix::fs::symlink("target", &path),
            6 => std::fs::read(&path).and_then(|same| std::fs::write(&path, same)),
            7 => std::os::unix::fs::chown(&path, Some(random.below(3) as u32), None),
            8 => std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600 + random.below(64) as u32)),
            9 => std::fs::remove_dir_all(&path).and_then(|()| std::fs::create_dir(&path)),
            10 => std::fs::File::open(&path).and_then(|f| f.set_modified(std::time::SystemTime::UNIX_EPOCH)),
            11 => std::fs::hard_link(&path, &other),
            _ => std::fs::File::options().append(true).open(&path).and_then(|f| f.set_len(random.below(5000))),
        };
    }
}

/// The changes between two listings, by brute force, as Docker would list them.
fn expected_changes(before: &Listing, after: &Listing) -> Vec<(char, String)> {
    // Without the time and the count of links, which are not compared.
    let essence = |line: &String| {
        let mut words: Vec<&str> = line.split(' ').filter(|word| !word.starts_with("links=")).collect();
        words.remove(2);
        words.join(" ")
    };
    let is_dir = |line: &String| line.starts_with('4') && line.len() > 5 && line.split(' ').next().unwrap().len() == 5;
    let mut changes: BTreeMap<Vec<Vec<u8>>, char> = BTreeMap::new();
    let key = |path: &[u8]| -> Vec<Vec<u8>> { path.split(|&b| b == b'/').skip(1).map(<[u8]>::to_vec).collect() };
    for path in before.keys().chain(after.keys()) {
        let kind = match (before.get(path), after.get(path)) {
            (Some(a), Some(b)) if essence(a) == essence(b) => continue,
            (Some(_), Some(_)) => 'C',
            (None, _) => 'A',
            (Some(_), None) => {
                // Gone with a directory above it, or replaced with it?
                let above = path.iter().rposition(|&b| b == b'/').unwrap();
                if after.get(&path[..above]).is_none_or(|line| !is_dir(line)) {
                    continue;
                }
                'D'
            }
        };
        changes.insert(key(path), kind);
    }
    for path in changes.keys().cloned().collect::<Vec<_>>() {
        for length in 1..path.len() {
            changes.entry(path[..length].to_vec()).or_insert('C');
        }
    }
    let shown = |path: Vec<Vec<u8>>| format!("/{}", String::from_utf8_lossy(&path.join(&b'/')));
    changes.into_iter().map(|(path, kind)| (kind, shown(path))).collect()
}

fn changes_of(lower: &Tree, upper: &Path) -> Vec<(char, String)> {
    let kind = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    of_upper(lower, upper).unwrap().into_iter().map(|c| (kind(c.kind), String::from_utf8(c.path).unwrap())).collect()
}

/// The mounter, or a loud word that this can't be tested here.
fn mounter(store: &Arc<Store>, choice: Choice<'_>) -> Option<Mounter> {
    match Mounter::new(Arc::clone(store), choice) {
        Ok(mounter) => Some(mounter),
        Err(error) if error.class() == Class::Unsupported => {
            println!("SKIPPED: {choice:?}: {error}");
            None
        }
        Err(error) => panic!("{choice:?}: {error}"),
    }
}

/// What every driver must do, on the file system that holds `dir`.
fn conformance(dir: &Path, choice: Choice<'_>, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let store = Arc::new(Store::open(&dir.join("store")).unwrap());
    let Some(mounter) = mounter(&store, choice) else { return };
    let driver = mounter.driver_name().unwrap();
    let ids = random_chain(&mut random, dir, &store, 4);
    for length in 1..=ids.len() {
        let mount = mounter.image(&ids[..length]).unwrap_or_else(|e| panic!("{driver}: {e} {:?}", e.hint()));
        let tree = list_tree(&Tree::new(layers(&store, &ids[..length])));
        assert_same(&tree, &list_dir(&place_of(&mount)), &format!("{driver}, seed {seed}, {length} layers"));
        assert!(std::fs::write(place_of(&mount).join("x"), "x").is_err(), "{driver}: an image is read-only");
    }
    let (upper, work) = (dir.join("store/containers/upper"), dir.join("store/containers/work"));
    std::fs::create_dir(dir.join("store/containers")).unwrap();
    let lower = Tree::new(layers(&store, &ids));
    let before = list_tree(&lower);
    for round in 0..3 {
        let mount =
            mounter.container(&ids, Writable::new(&upper, &work)).unwrap_or_else(|e| panic!("{driver}: {e} {:?}", e.hint()));
        let what = format!("{driver}, seed {seed}, round {round}");
        if round == 0 {
            assert_same(&before, &list_dir(&place_of(&mount)), &what);
            assert_eq!(changes_of(&lower, &upper), [], "{what}");
        }
        random_changes(&mut random, &place_of(&mount));
        let after = list_dir(&place_of(&mount));
        assert_same(&list_tree(&Tree::with_upper(layers(&store, &ids), &upper).unwrap()), &after, &what);
        assert_eq!(changes_of(&lower, &upper), expected_changes(&before, &after), "{what}");
    }
    assert!(mount_table().unwrap().iter().all(|m| !m.target.starts_with(dir)), "{driver}: nothing is in the mount table");
    let left: Vec<_> = std::fs::read_dir(dir.join("store/tmp")).unwrap().collect();
    assert!(left.is_empty(), "{driver}: {left:?}");
    let unpacked: u64 = ids.iter().map(|id| store.usage(id).unwrap().unpacked).sum();
    assert_eq!(unpacked == 0, mounter.capabilities().in_place, "{driver}: {unpacked} bytes");
    removal(&store, &mounter, &ids);
}

/// A mounted layer that is removed is served on, or not, as the driver says; never mounted again.
fn removal(store: &Store, mounter: &Mounter, ids: &[LayerId]) {
    let mount = mounter.image(ids).unwrap();
    let before = list_dir(&place_of(&mount));
    for id in ids {
        mounter.forget(id);
        store.remove(id).unwrap();
    }
    store.sweep().unwrap();
    if mounter.capabilities().outlives_removal {
        assert_same(&before, &list_dir(&place_of(&mount)), "removed and mounted");
    }
    assert_eq!(mounter.image(ids).unwrap_err().class(), Class::NotFound);
    assert!(ids.iter().all(|id| store.usage(id).unwrap().total() == 0));
}

#[test]
fn every_driver_shows_what_the_tree_in_user_space_shows() {
    if may_mount() {
        for (driver, seed) in names().into_iter().flat_map(|driver| (1..=3).map(move |seed| (driver, seed))) {
            conformance(tempfile::tempdir().unwrap().path(), named(driver), seed);
        }
    }
}

/// The writable side lies in the store, as a container's does, so that no way of stacking may hide it.
#[test]
fn every_driver_is_stacked_in_every_way() {
    if may_mount() {
        let ways = ["descriptors", "paths", "options"].map(Some);
        for (driver, stacking) in names().into_iter().flat_map(|driver| ways.map(|way| (driver, way))) {
            let dir = tempfile::tempdir().unwrap();
            let choice = Choice { stacking, ..named(driver) };
            let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
            if driver == "fuse" {
                let error = Mounter::new(store, choice).unwrap_err();
                assert!(
                    ["stacks no layers", "does not work here"].iter().any(|said| error.to_string().contains(said)),
                    "{error}"
                );
                continue;
            }
            conformance(dir.path(), choice, 31);
            let Some(mounter) = mounter(&store, choice) else { continue };
            let taken = |name: &str| mounter.probed().iter().any(|p| p.name == name && p.verdict == Verdict::Taken);
            assert!(taken(driver) && taken(stacking.unwrap()), "{:?}", mounter.probed());
            assert!(mounter.probed().iter().all(|p| (p.verdict == Verdict::Taken) == p.why().is_none()));
        }
    }
}

#[test]
fn a_merged_chain_shows_what_its_layers_show() {
    if may_mount() {
        for driver in ["erofs", "erofs-loop"] {
            for seed in 41..47 {
                let dir = tempfile::tempdir().unwrap();
                conformance(dir.path(), Choice { merge_above: Some(1), ..named(driver) }, seed);
            }
        }
    }
}

/// A writable directory is in one format: each driver goes on where another stopped.
#[test]
fn a_container_moves_from_driver_to_driver() {
    if !may_mount() {
        return;
    }
    let (dir, mut random) = (tempfile::tempdir().unwrap(), Random(51));
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let ids = random_chain(&mut random, dir.path(), &store, 3);
    let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
    let before = list_tree(&Tree::new(layers(&store, &ids)));
    for driver in ["erofs", "fuse", "overlay", "fuse", "erofs-loop", "fuse", "erofs"] {
        let Some(mounter) = mounter(&store, named(driver)) else { continue };
        let mount = mounter.container(&ids, Writable::new(&upper, &work)).unwrap();
        if upper.read_dir().unwrap().next().is_some() {
            let tree = list_tree(&Tree::with_upper(layers(&store, &ids), &upper).unwrap());
            assert_same(&tree, &list_dir(&place_of(&mount)), driver);
        }
        random_changes(&mut random, &place_of(&mount));
        let after = list_dir(&place_of(&mount));
        let lower = Tree::new(layers(&store, &ids));
        assert_eq!(changes_of(&lower, &upper), expected_changes(&before, &after), "{driver}");
    }
}

/// Whether a program is there; said loudly if not.
fn has(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program} > /dev/null")]).status().unwrap().success();
    if !found {
        println!("SKIPPED: {program}: it is not installed");
    }
    found
}

/// Whoever has the tree, the ids on the disk are those inside, and so are those that an ACL or a capability names.
#[test]
fn every_driver_serves_a_tree_for_a_user_namespace() {
    use fs_base::sys::ids::{ActingAs, IdMap, IdRange};
    use std::os::unix::fs::{MetadataExt, chown};
    if !may_mount() || !["setfacl", "setfattr"].into_iter().all(has) {
        return;
    }
    let range = |inside, outside, count| IdRange { inside, outside, count };
    let users = vec![range(0, 200_000, 1000), range(1000, 300_000, 100)];
    let ids = IdMap::new(users, vec![range(0, 400_000, 65_536)]).unwrap();
    let owner = |path: &Path| std::fs::symlink_metadata(path).map(|there| (there.uid(), there.gid())).unwrap();
    for driver in names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let Some(mounter) = mounter(&store, named(driver)) else { continue };
        let owners = layerfs::driver::Owners::new(ids.clone()).unwrap();
        match mounter.probe_owners(&owners) {
            // What the kernel stacks needs mounts with a mapping of ids, which not every kernel and file system has.
            Err(error) if error.class() == Class::Unsupported && driver != "fuse" => {
                println!("SKIPPED: {driver}: {error}");
                continue;
            }
            probed => probed.unwrap_or_else(|error| panic!("{driver}: {error}")),
        }
        sh(
            dir.path(),
            &format!(
                "mkdir -p l/shared; for f in changed kept gone able; do echo $f > l/$f; done; chown 1000:7 l/changed l/kept
                 setfacl -m u:1005:r,g:9:rw l/kept l/changed; setfacl -d -m u:1001:rwx l/shared
                 setfattr -n security.capability -v {MAY_CHOWN} l/able; setfattr -n security.capability -v {MAY_CHOWN} l/kept
                 tar --xattrs --xattrs-include='*' --numeric-owner -C l -cf l.tar ."
            ),
        );
        let layer = store.ingest(&mut std::fs::File::open(dir.path().join("l.tar")).unwrap(), &IngestOptions::default()).unwrap();
        let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
        let held = mounter.container_of(&[layer.id], Writable::new(&upper, &work), &owners).unwrap();
        let tree = place_of(&held);
        assert_eq!((owner(&tree.join("kept")), owner(&tree)), ((300_000, 400_007), (200_000, 400_000)), "{driver}");
        let shown = named_by_acl(&tree.join("kept"));
        // overlayfs shows them as they are on the disk before Linux 6.2.
        assert!(shown == [300_005, 400_009] || driver != "fuse" && shown == [1005, 9], "{driver}: {shown:?}");
        assert_eq!(root_of_capability(&tree.join("kept")), Some(200_000), "{driver}");
        {
            let _acting = ActingAs::root_of(&ids).unwrap();
            std::fs::write(tree.join("changed"), "by root inside").unwrap();
            std::fs::write(tree.join("shared/new"), "x").unwrap();
            chown(tree.join("shared/new"), Some(300_009), Some(400_003)).unwrap();
            std::fs::remove_file(tree.join("gone")).unwrap();
            std::fs::set_permissions(tree.join("able"), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
            set_capability(&tree.join("changed"), 200_000);
        }
        assert!(chown(tree.join("shared/new"), Some(0), None).is_err(), "{driver}: the host's root is nobody there");
        assert_eq!((owner(&upper.join("changed")), owner(&upper.join("shared/new"))), ((1000, 7), (1009, 3)), "{driver}");
        assert_eq!(
            (named_by_acl(&upper.join("changed")), named_by_acl(&upper.join("shared/new"))),
            (vec![1005, 9], vec![1001]),
            "{driver}"
        );
        for changed in ["able", "changed"] {
            assert_eq!(root_of_capability(&upper.join(changed)), Some(0), "{driver}: {changed}");
        }
        assert!(!upper.join("kept").exists(), "{driver}");
        drop(held);
        // The same directories, for the host's users.
        let plain = mounter.container(&[layer.id], Writable::new(&upper, &work)).unwrap();
        let tree = place_of(&plain);
        assert_eq!((owner(&tree.join("shared/new")), owner(&tree.join("kept"))), ((1009, 3), (1000, 7)), "{driver}");
        assert_eq!(root_of_capability(&tree.join("changed")), Some(0), "{driver}");
    }
}

/// `cap_chown=ep`, without a root of its own.
const MAY_CHOWN: &str = "0x0100000201000000000000000000000000000000";

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = [0u8; 256];
    rustix::fs::lgetxattr(path, name, &mut value[..]).ok().map(|length| value[..length].to_vec())
}

/// The users and groups that a file's ACL names besides its own, in their order.
fn named_by_acl(path: &Path) -> Vec<u32> {
    let value = attribute(path, "system.posix_acl_access").unwrap_or_default();
    let entries = value.get(4..).unwrap_or_default().chunks_exact(8).filter(|entry| [2, 8].contains(&entry[0]));
    entries.map(|entry| u32::from_le_bytes(entry[4..].try_into().unwrap())).collect()
}

/// Whose root has a file's capabilities.
fn root_of_capability(path: &Path) -> Option<u32> {
    let value = attribute(path, "security.capability")?;
    Some(value.get(20..24).map_or(0, |root| u32::from_le_bytes(root.try_into().unwrap())))
}

fn set_capability(path: &Path, root: u32) {
    let value = [&[1, 0, 0, 3, 1][..], &[0; 15], &root.to_le_bytes()].concat();
    rustix::fs::lsetxattr(path, "security.capability", &value, rustix::fs::XattrFlags::empty()).unwrap();
}

#[test]
fn where_nothing_stacks_whole_trees_are_served() {
    use layerfs::driver::Part;
    if !may_mount() || fuse_program().is_none() {
        return;
    }
    // The kernel is not asked for what is not tried: a driver that is named is the only one.
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let mounter = Mounter::new(Arc::clone(&store), named("fuse")).unwrap();
    let passed = |part| mounter.probed().iter().filter(move |p| p.part == part && p.verdict != Verdict::Taken).count();
    assert_eq!((passed(Part::Driver), passed(Part::Stacking)), (3, 3), "{:?}", mounter.probed());
    let missing = Choice { fuse: Some(Path::new("/nonexistent/fsd-fuse")), ..named("fuse") };
    let error = Mounter::new(store, missing).unwrap_err();
    assert!(error.class() == Class::Unsupported && error.to_string().contains("/nonexistent/fsd-fuse"), "{error}");
}

#[test]
fn a_store_on_tmpfs_falls_back_and_says_why() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let mounter = Mounter::new(Arc::clone(&store), Choice::default()).unwrap();
    assert!(matches!(mounter.probed()[0].verdict, Verdict::Failed(_)), "file-backed EROFS is refused on tmpfs");
    assert!(mounter.probed()[0].why().is_some_and(|why| !why.is_empty()));
    assert_ne!(mounter.driver_name(), Some("erofs"));
    drop(mounter);
    for driver in ["erofs-loop", "overlay", "fuse"] {
        let place = dir.path().join(driver);
        std::fs::create_dir(&place).unwrap();
        conformance(&place, named(driver), 9);
    }
    let loops = |what: &str| sh(dir.path(), &format!("losetup -a | grep -c {} || true # {what}", dir.path().display()));
    // Some kernels do it a moment after their last user has gone.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while loops("after").trim() != "0" {
        assert!(std::time::Instant::now() < end, "loop devices free themselves");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// A file system of its own, from a file through a loop device, until this value goes.
struct Image(tempfile::TempDir);

impl Image {
    /// `None`, and a loud word, if this host can't make or mount one.
    fn of(kind: &str) -> Option<Image> {
        let dir = tempfile::tempdir().unwrap();
        // 300 MiB is the least that mkfs.xfs takes. A file system that the kernel does not know is skipped, and said.
        let script =
            format!("truncate -s 400M image; mkfs.{kind} -q image > mkfs.log 2>&1; mkdir mnt; mount -o loop -t {kind} image mnt");
        let output = std::process::Command::new("sh").args(["-euc", &script]).current_dir(dir.path()).output().unwrap();
        if !output.status.success() {
            let log = std::fs::read_to_string(dir.path().join("mkfs.log")).unwrap_or_default();
            println!("SKIPPED: store on {kind}: {} {}", log.trim(), String::from_utf8_lossy(&output.stderr).trim());
            return None;
        }
        Some(Image(dir))
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A FUSE session ends a little after its tree has gone.
        let (place, end) = (self.0.path().join("mnt"), std::time::Instant::now() + std::time::Duration::from_secs(300));
        while fs_base::sys::mount::unmount(&place, false).is_err_and(|error| error.class() == Class::Busy) {
            if std::time::Instant::now() > end {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn every_driver_works_on_a_store_on_ext4_xfs_and_btrfs() {
    if !may_mount() {
        return;
    }
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(image) = Image::of(kind) else { continue };
        for (driver, seed) in names().into_iter().zip(21..) {
            let place = image.0.path().join("mnt").join(driver);
            std::fs::create_dir(&place).unwrap();
            conformance(&place, named(driver), seed);
        }
        let root = image.0.path().to_owned();
        drop(image);
        assert!(mount_table().unwrap().iter().all(|mount| !mount.target.starts_with(&root)), "{kind}: nothing holds it");
    }
}

fn one_file_layer(store: &Store, name: &str, content: &str) -> LayerId {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content.as_bytes()).unwrap();
    store.ingest(&mut &builder.into_inner().unwrap()[..], &IngestOptions::default()).unwrap().id
}

/// A chain of this many layers is seen whole, written to, and compared with its tree.
fn deep_chain(dir: &Path, store: &Arc<Store>, mounter: &Mounter, ids: &[LayerId], what: &str) {
    let count = ids.len();
    let image = mounter.image(ids).unwrap_or_else(|e| panic!("{what} {count}: {e} {:?}", e.hint()));
    assert_eq!(std::fs::read_dir(place_of(&image)).unwrap().count(), count, "{what}");
    let (upper, work) = (dir.join(format!("{what}-u{count}")), dir.join(format!("{what}-w{count}")));
    let mount =
        mounter.container(ids, Writable::new(&upper, &work)).unwrap_or_else(|e| panic!("{what} {count}: {e} {:?}", e.hint()));
    std::fs::write(place_of(&mount).join("new"), "x").unwrap();
    assert_eq!(std::fs::read_dir(place_of(&mount)).unwrap().count(), count + 1, "{what}");
    for number in [0, count / 2, count.saturating_sub(1)].into_iter().filter(|n| *n < count) {
        let content = std::fs::read_to_string(place_of(&mount).join(format!("f{number}"))).unwrap();
        assert_eq!(content, number.to_string(), "{what} {count}");
    }
    assert_eq!(changes_of(&Tree::new(layers(store, ids)), &upper), [('A', "/new".to_owned())], "{what} {count}");
}

#[test]
fn chains_of_no_layers_one_and_very_many() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let many: Vec<_> = (0..600).map(|n| one_file_layer(&store, &format!("f{n}"), &n.to_string())).collect();
    for driver in names() {
        let Some(mounter) = mounter(&store, named(driver)) else { continue };
        // Each of its layers takes two loop devices.
        let counts = if driver == "erofs-loop" { &[0, 1, 2, 120][..] } else { &[0, 1, 2, 120, 500] };
        for count in counts {
            deep_chain(dir.path(), &store, &mounter, &many[..*count], driver);
        }
        match mounter.image(&many) {
            Ok(_) => deep_chain(dir.path(), &store, &mounter, &many, driver),
            Err(error) => {
                assert!(error.class() == Class::Unsupported && error.to_string().contains("600 layers"), "{driver}: {error}");
                assert!(error.hint().unwrap().contains(driver), "{error:?}");
                assert!(!mounter.capabilities().merges, "{driver}");
            }
        }
    }
    for stacking in ["paths", "options"].map(Some) {
        let choice = Choice { stacking, ..Choice::default() };
        let Some(mounter) = mounter(&store, choice) else { continue };
        deep_chain(dir.path(), &store, &mounter, &many[..500], stacking.unwrap());
    }
}

#[test]
fn a_new_writable_layer_has_the_roots_owner_and_mode() {
    if !may_mount() {
        return;
    }
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir r; chmod 1751 r; chown 12:34 r; setfattr -n user.a -v b r; tar --xattrs -C r -cf r.tar .");
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let id = store.ingest(&mut std::fs::File::open(dir.path().join("r.tar")).unwrap(), &IngestOptions::default()).unwrap().id;
    let mounter = Mounter::new(Arc::clone(&store), Choice::default()).unwrap();
    let (upper, work) = (dir.path().join("upper"), dir.path().join("work"));
    let mount = mounter.container(&[id], Writable::new(&upper, &work)).unwrap();
    let stat = std::fs::metadata(place_of(&mount)).unwrap();
    assert_eq!((stat.mode() & 0o7777, stat.uid(), stat.gid()), (0o1751, 12, 34));
    assert_eq!(changes_of(&Tree::new(layers(&store, &[id])), &upper), []);
    sh(&place_of(&mount), "chmod 755 .");
    assert_eq!(changes_of(&Tree::new(layers(&store, &[id])), &upper), [('C', "/".to_owned())]);
}

#[test]
fn images_on_the_host_have_no_devices_and_no_set_user_id() {
    if !may_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(dir.path(), "mkdir r; mknod r/null c 1 3; chmod 666 r/null; tar -C r -cf r.tar .");
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let id = store.ingest(&mut std::fs::File::open(dir.path().join("r.tar")).unwrap(), &IngestOptions::default()).unwrap().id;
    let other = one_file_layer(&store, "x", "x");
    let mounter = Mounter::new(Arc::clone(&store), Choice::default()).unwrap();
    for ids in [&[id][..], &[id, other]] {
        let image = mounter.image(ids).unwrap();
        assert!(std::fs::File::open(place_of(&image).join("null")).is_err(), "{} layers", ids.len());
        let flags = rustix::fs::fstatvfs(&image).unwrap().f_flag;
        use rustix::fs::StatVfsMountFlags as F;
        assert!(flags.contains(F::NOSUID | F::NODEV | F::RDONLY), "{flags:?}");
        let container = mounter.container(ids, Writable::new(&dir.path().join("upper"), &dir.path().join("work"))).unwrap();
        assert!(std::fs::File::open(place_of(&container).join("null")).is_ok(), "a container has its devices");
    }
}

#[test]
fn containers_start_side_by_side() {
    if !may_mount() {
        return;
    }
    for driver in names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let Some(mounter) = mounter(&store, named(driver)) else { continue };
        let ids = random_chain(&mut Random(77), dir.path(), &store, 3);
        std::thread::scope(|scope| {
            let mounter = &mounter;
            let (ids, dir) = (&ids, dir.path());
            for number in 0..8 {
                scope.spawn(move || {
                    let at = |name: &str| dir.join(format!("{name}{number}"));
                    let mount = mounter.container(ids, Writable::new(&at("upper"), &at("work"))).unwrap();
                    std::fs::write(place_of(&mount).join("mine"), number.to_string()).unwrap();
                    assert!(mounter.image(ids).is_ok());
                });
            }
        });
        for number in 0..8 {
            assert_eq!(std::fs::read_to_string(dir.path().join(format!("upper{number}/mine"))).unwrap(), number.to_string());
        }
    }
}

#[test]
fn an_unknown_driver_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(dir.path()).unwrap());
    let error = Mounter::new(Arc::clone(&store), named("zfs")).unwrap_err();
    assert!(error.to_string().contains("\"zfs\""), "{error}");
    assert!(error.hint().unwrap().contains("erofs"));
    let error = Mounter::new(store, Choice { stacking: Some("glue"), ..Choice::default() }).unwrap_err();
    assert!(error.to_string().contains("\"glue\"") && error.hint().unwrap().contains("descriptors"), "{error}");
}

/// Runs the test of this name again as an ordinary user; `true` if this is that run.
fn as_ordinary_user(test: &str) -> bool {
    use std::os::unix::process::CommandExt;
    if std::env::var_os("LAYERFS_TEST_ORDINARY").is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    // The user may not be able to reach the build folder.
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("test");
    // By a process of its own: what this one has open for writing, others that it is just starting have too, and as long
    // as anybody has it nobody can run it.
    sh(dir.path(), &format!("cp {} test; chmod 755 . test", std::env::current_exe().unwrap().display()));
    let output = std::process::Command::new(&copy)
        .args([test, "--exact", "--nocapture"])
        .env("LAYERFS_TEST_ORDINARY", "1")
        .current_dir("/")
        .gid(65534)
        .uid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

#[test]
fn an_ordinary_user_can_do_everything_but_mount() {
    use layerfs::archive::{TarOptions, stat_in_tree, tar_of_tree};
    if !as_ordinary_user("an_ordinary_user_can_do_everything_but_mount") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
    let script = r"mkdir -p 1/etc/deep 2/etc; seq 9 > 1/etc/f; seq 8 > 1/etc/gone; ln 1/etc/f 1/etc/deep/g; ln -s f 1/etc/l; mkfifo 1/p
        truncate -s 1M 1/hole; chmod 2711 1/etc/deep; touch 2/etc/.wh.gone 2/new; for l in 1 2; do tar -C $l -Scf $l.tar .; done";
    sh(dir.path(), script);
    let ids = ["1.tar", "2.tar"].map(|name| {
        store.ingest(&mut std::fs::File::open(dir.path().join(name)).unwrap(), &IngestOptions::default()).unwrap().id
    });
    let mounter = Mounter::new(Arc::clone(&store), Choice::default()).unwrap();
    assert_eq!(mounter.driver_name(), None);
    assert!(mounter.probed().iter().all(|p| p.why().is_some_and(|why| !why.is_empty())));
    for error in [
        mounter.image(&ids).unwrap_err(),
        mounter.container(&ids, Writable::new(&dir.path().join("upper"), &dir.path().join("work"))).unwrap_err(),
    ] {
        assert_eq!(error.class(), Class::Unsupported);
        assert!(error.hint().unwrap().contains("CAP_SYS_ADMIN"), "{error}");
    }
    let tree = Tree::new(layers(&store, &ids));
    assert!(!list_tree(&tree).is_empty());
    assert!(stat_in_tree(&tree, Path::new("/")).is_ok());
    let mut bytes = Vec::new();
    assert!(tar_of_tree(&tree, Path::new("/"), &mut bytes, TarOptions::default()).unwrap().entries > 5);
    assert!(store.check(&ids[0], true).unwrap().is_empty());
    // What such a tar says about owners can't be done, the rest can.
    let to = dir.path().join("to");
    std::fs::create_dir(&to).unwrap();
    let root = fs_base::sys::root::Root::open(&to).unwrap();
    layerfs::archive::copy_of_tree(&tree, Path::new("/"), &root).unwrap();
    assert_same(&list_tree(&tree), &list_dir(&to), "copied");
    layerfs::archive::extract(&root, Path::new("/"), &mut &bytes[..], &layerfs::archive::Extract::default()).unwrap();
    let (mut want, mut got) = (list_tree(&tree), list_dir(&to));
    // Unpacking leaves the top's own metadata alone, but for its time.
    want.remove(&b""[..]);
    got.remove(&b""[..]);
    assert_same(&want, &got, "unpacked");
}

#[test]
fn names_that_are_no_utf8_are_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    std::fs::create_dir(dir.path().join("r")).unwrap();
    std::fs::write(dir.path().join("r").join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
    sh(dir.path(), "tar -C r -cf r.tar .");
    let id = store.ingest(&mut std::fs::File::open(dir.path().join("r.tar")).unwrap(), &IngestOptions::default()).unwrap().id;
    let tree = Tree::new(vec![store.layer(&id).unwrap()]);
    assert_eq!(tree.lookup(b"/\xff\xfe", true).unwrap().unwrap().metadata.size, 1);
}
