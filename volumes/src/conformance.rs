//! What every [`Catalog`] must pass: call [`catalog`] from a test of the implementation.

#![allow(clippy::unwrap_used, missing_docs)] // a suite of tests, compiled for tests only

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fs_base::{Class, ContainerId, Error, Result, VolumeName};

use crate::{Catalog, Volume};

/// Runs the suite; `make` gives an empty catalog each time.
pub fn catalog(make: &dyn Fn() -> Arc<dyn Catalog>) {
    rows_come_back_as_they_went_in(&*make());
    a_name_is_taken_once(&*make());
    a_used_volume_stays(&*make());
    uses_are_a_set(&*make());
    one_of_many_threads_inserts(&make());
}

/// A volume to try with.
pub fn sample(name: &str) -> Volume {
    Volume { name: name.parse().unwrap(), driver: "local".into(), created: 1_795_219_000, labels: None, options: None }
}

fn name(text: &str) -> VolumeName {
    text.parse().unwrap()
}

fn rows_come_back_as_they_went_in(catalog: &dyn Catalog) {
    let mut full = sample("bb");
    full.labels = Some(BTreeMap::from([("a".into(), "b".into()), ("empty".into(), String::new())]));
    full.options = Some(BTreeMap::new());
    catalog.insert(&full).unwrap();
    catalog.insert(&sample("aa")).unwrap();
    assert_eq!(catalog.get(&name("bb")).unwrap(), Some(full.clone()), "null and {{}} are told apart");
    assert_eq!(catalog.list().unwrap(), [sample("aa"), full]);
    catalog.remove(&name("aa")).unwrap();
    assert_eq!(catalog.get(&name("aa")).unwrap(), None);
    assert_eq!(catalog.remove(&name("aa")).unwrap_err().class(), Class::NotFound);
}

fn a_name_is_taken_once(catalog: &dyn Catalog) {
    catalog.insert(&sample("aa")).unwrap();
    let mut other = sample("aa");
    other.driver = "other".into();
    assert_eq!(catalog.insert(&other).unwrap_err().class(), Class::Conflict);
    assert_eq!(catalog.get(&name("aa")).unwrap(), Some(sample("aa")));
}

fn a_used_volume_stays(catalog: &dyn Catalog) {
    let container = ContainerId::random().unwrap();
    assert_eq!(catalog.add_use(&name("aa"), &container).unwrap_err().class(), Class::NotFound);
    catalog.insert(&sample("aa")).unwrap();
    catalog.add_use(&name("aa"), &container).unwrap();
    assert_eq!(catalog.remove(&name("aa")).unwrap_err().class(), Class::Busy);
    assert_eq!(catalog.uses(&name("aa")).unwrap(), std::slice::from_ref(&container));
    assert_eq!(catalog.remove_uses(&container).unwrap(), [name("aa")]);
    catalog.remove(&name("aa")).unwrap();
}

fn uses_are_a_set(catalog: &dyn Catalog) {
    let (one, two) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
    catalog.insert(&sample("aa")).unwrap();
    catalog.insert(&sample("bb")).unwrap();
    for (volume, container) in [("aa", &one), ("aa", &one), ("aa", &two), ("bb", &one)] {
        catalog.add_use(&name(volume), container).unwrap();
    }
    let mut both = [one.clone(), two.clone()];
    both.sort();
    assert_eq!(catalog.uses(&name("aa")).unwrap(), both);
    assert_eq!(catalog.all_uses().unwrap().len(), 3);
    let mut freed = catalog.remove_uses(&one).unwrap();
    freed.sort();
    assert_eq!(freed, [name("aa"), name("bb")]);
    assert!(catalog.remove_uses(&one).unwrap().is_empty());
    assert_eq!(catalog.all_uses().unwrap(), [(name("aa"), two)]);
}

fn one_of_many_threads_inserts(catalog: &Arc<dyn Catalog>) {
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let catalog = catalog.clone();
            std::thread::spawn(move || catalog.insert(&sample("aa")).is_ok())
        })
        .collect();
    let winners = threads.into_iter().filter_map(|thread| thread.join().ok()).filter(|won| *won).count();
    assert_eq!(winners, 1);
}

/// A catalog in memory, for tests.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Rows>);

#[derive(Debug, Default)]
struct Rows {
    volumes: BTreeMap<VolumeName, Volume>,
    uses: Vec<(VolumeName, ContainerId)>,
}

impl Catalog for Memory {
    fn insert(&self, volume: &Volume) -> Result<()> {
        let mut rows = self.0.lock().unwrap();
        if rows.volumes.contains_key(&volume.name) {
            return Err(Error::conflict(format!("volume {} exists", volume.name)));
        }
        rows.volumes.insert(volume.name.clone(), volume.clone());
        Ok(())
    }

    fn get(&self, name: &VolumeName) -> Result<Option<Volume>> {
        Ok(self.0.lock().unwrap().volumes.get(name).cloned())
    }

    fn list(&self) -> Result<Vec<Volume>> {
        Ok(self.0.lock().unwrap().volumes.values().cloned().collect())
    }

    fn remove(&self, name: &VolumeName) -> Result<()> {
        let mut rows = self.0.lock().unwrap();
        if rows.uses.iter().any(|(used, _)| used == name) {
            return Err(Error::busy(format!("volume {name} is in use")));
        }
        match rows.volumes.remove(name) {
            Some(_) => Ok(()),
            None => Err(Error::not_found(format!("no volume {name}"))),
        }
    }

    fn add_use(&self, name: &VolumeName, container: &ContainerId) -> Result<()> {
        let mut rows = self.0.lock().unwrap();
        if !rows.volumes.contains_key(name) {
            return Err(Error::not_found(format!("no volume {name}")));
        }
        let wanted = (name.clone(), container.clone());
        if !rows.uses.contains(&wanted) {
            rows.uses.push(wanted);
        }
        Ok(())
    }

    fn remove_uses(&self, container: &ContainerId) -> Result<Vec<VolumeName>> {
        let mut rows = self.0.lock().unwrap();
        let freed = rows.uses.iter().filter(|(_, user)| user == container).map(|(name, _)| name.clone()).collect();
        rows.uses.retain(|(_, user)| user != container);
        Ok(freed)
    }

    fn uses(&self, name: &VolumeName) -> Result<Vec<ContainerId>> {
        let rows = self.0.lock().unwrap();
        let mut users: Vec<_> = rows.uses.iter().filter(|(used, _)| used == name).map(|(_, user)| user.clone()).collect();
        users.sort();
        Ok(users)
    }

    fn all_uses(&self) -> Result<Vec<(VolumeName, ContainerId)>> {
        Ok(self.0.lock().unwrap().uses.clone())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_catalog_in_memory_conforms() {
        super::catalog(&|| std::sync::Arc::new(super::Memory::default()));
    }
}
