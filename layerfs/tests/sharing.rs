//! Many trees over the same layers: what is in memory once for one of them is there for all.
#![allow(clippy::unwrap_used)] // a failed step fails the test

mod common;

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use common::{may_mount, named, place_of};
use fs_base::LayerId;
use fs_base::sys::map::Map;
use fs_base::sys::mount::Mount;
use layerfs::driver::{Choice, Mounter, Writable, names};
use layerfs::ingest::IngestOptions;
use layerfs::store::Store;

/// Containers of one image.
const CONTAINERS: usize = 500;
/// Bytes of the file that all of them have.
const SIZE: usize = 4 << 20;

fn layer(store: &Store, name: &str, content: &[u8]) -> LayerId {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, content).unwrap();
    store.ingest(&mut &builder.into_inner().unwrap()[..], &IngestOptions::default()).unwrap().id
}

fn mapped(mount: &Mount, name: &str) -> Map {
    let path = place_of(mount).join(name);
    Map::of(&std::fs::File::open(&path).unwrap(), &path).unwrap()
}

fn read(mount: &Mount, name: &str) -> usize {
    let mut file = std::fs::File::open(place_of(mount).join(name)).unwrap();
    std::io::copy(&mut file.by_ref(), &mut std::io::sink()).unwrap() as usize
}

/// Whether what one has read is in memory for another. The kernel takes pages back when others want memory: they are read
/// again then, by the first.
fn is_shared(from: &Mount, with: &Mount) -> bool {
    (0..100).any(|_| {
        let (there, all) = mapped(with, "big").resident().unwrap();
        if there < all {
            read(from, "big");
        }
        there == all
    })
}

fn containers(mounter: &Mounter, chain: &[LayerId], dir: &Path) -> Vec<Mount> {
    let container = |number: usize| {
        let own = dir.join(format!("c{number}"));
        std::fs::create_dir(&own).unwrap();
        mounter.container(chain, Writable::new(&own.join("upper"), &own.join("work"))).unwrap()
    };
    (0..CONTAINERS).map(container).collect()
}

#[test]
fn five_hundred_containers_share_one_set_of_pages() {
    if !may_mount() {
        return;
    }
    for (driver, merge_above) in [("erofs", None), ("erofs", Some(1)), ("erofs-loop", None)] {
        let what = format!("{driver}, merged above {merge_above:?}");
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let content: Vec<u8> = (0..SIZE).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
        let chain = [layer(&store, "big", &content), layer(&store, "small", b"text")];
        let choice = Choice { driver: Some(driver), merge_above, ..Choice::default() };
        let Ok(mounter) = Mounter::new(Arc::clone(&store), choice) else {
            println!("SKIPPED: driver {driver} does not work here");
            continue;
        };
        let lease = mounter.lease(&chain).unwrap();
        let containers = containers(&mounter, &chain, dir.path());
        let mounted = if merge_above.is_some() { 1 } else { chain.len() };
        assert_eq!(mounter.mounted(), mounted, "{what}: layers are mounted once for {CONTAINERS} containers");
        assert_eq!(mapped(&containers[7], "big").resident().unwrap().0, 0, "{what}: nobody has read it yet");
        assert_eq!(read(&containers[0], "big"), SIZE);
        for (number, container) in containers.iter().enumerate() {
            assert!(is_shared(&containers[0], container), "{what}: container {number} has it in memory");
        }
        // The image that a person looks at stands on the same layers.
        assert!(is_shared(&containers[0], &mounter.image(&chain).unwrap()), "{what}");
        // What is written is the writer's alone.
        std::fs::write(place_of(&containers[3]).join("big"), "mine").unwrap();
        assert_eq!(read(&containers[3], "big"), 4);
        assert!(is_shared(&containers[0], &containers[4]), "{what}");
        // Layers mounted apart share nothing: the measurement can tell.
        let apart = Mounter::new(Arc::clone(&store), choice).unwrap();
        assert_eq!(mapped(&apart.image(&chain).unwrap(), "big").resident().unwrap().0, 0, "{what}");
        drop((containers, lease));
        mounter.trim();
        assert_eq!(mounter.mounted(), 0, "{what}: nothing is held");
    }
}

#[test]
fn a_layer_is_mounted_once_for_all_images_that_have_it() {
    if !may_mount() {
        return;
    }
    for driver in names() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store")).unwrap());
        let Ok(mounter) = Mounter::new(Arc::clone(&store), named(driver)) else {
            println!("SKIPPED: driver {driver} does not work here");
            continue;
        };
        let base = layer(&store, "base", b"base");
        let tops: Vec<_> = (0..30).map(|n| layer(&store, &format!("top{n}"), b"top")).collect();
        let images: Vec<_> = tops.iter().map(|top| mounter.image(&[base, *top]).unwrap()).collect();
        let shared = if mounter.capabilities().stacks { 1 + tops.len() } else { 0 };
        assert_eq!(mounter.mounted(), shared, "{driver}");
        let bases: std::collections::HashSet<_> =
            images.iter().map(|image| std::fs::read_to_string(place_of(image).join("base")).unwrap()).collect();
        assert_eq!(bases.len(), 1, "{driver}");
    }
}
