//! All that one container asks to mount, as one list without two mounts at one target.

use std::collections::BTreeMap;

use fs_base::{Error, Result};

use super::{MountValue, Request, anonymous, bind, mount, tmpfs};

/// Where a container's mounts come from. Among them: `binds`, `mounts` and `tmpfs` may not name one target
/// twice; they win over `inherited`; all win over `volumes`.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The mounts of the containers in `HostConfig.VolumesFrom`, later ones over earlier ones.
    pub inherited: Vec<Request>,
    /// `HostConfig.Binds`.
    pub binds: &'a [String],
    /// `HostConfig.Mounts`.
    pub mounts: &'a [MountValue],
    /// `HostConfig.Tmpfs`: target to options.
    pub tmpfs: BTreeMap<String, String>,
    /// Targets of `Config.Volumes`, the image's and the container's own.
    pub volumes: Vec<String>,
    /// `HostConfig.VolumeDriver`.
    pub volume_driver: Option<&'a str>,
}

/// One list from all sources, sorted by target.
pub fn merge(sources: &Sources<'_>) -> Result<Vec<Request>> {
    let mut by_target = BTreeMap::new();
    for raw in sources.binds {
        insert_once(&mut by_target, bind(raw, sources.volume_driver)?)?;
    }
    for value in sources.mounts {
        insert_once(&mut by_target, mount(value)?)?;
    }
    for (target, options) in &sources.tmpfs {
        insert_once(&mut by_target, tmpfs(target, options)?)?;
    }
    for request in sources.inherited.iter().rev() {
        by_target.entry(request.target.clone()).or_insert_with(|| request.clone());
    }
    for target in &sources.volumes {
        let request = anonymous(target, sources.volume_driver)?;
        by_target.entry(request.target.clone()).or_insert(request);
    }
    Ok(by_target.into_values().collect())
}

fn insert_once(by_target: &mut BTreeMap<std::path::PathBuf, Request>, request: Request) -> Result<()> {
    let target = request.target.clone();
    match by_target.insert(target.clone(), request) {
        None => Ok(()),
        Some(_) => Err(Error::invalid(format!("Duplicate mount point: {}", target.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::Kind;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn one_target_is_asked_for_once() {
        let bind_mount = || MountValue {
            kind: Some("bind".into()),
            source: Some("/tmp".into()),
            target: Some("/q/".into()),
            ..MountValue::default()
        };
        let tmpfs = BTreeMap::from([("/q".to_owned(), String::new())]);
        let binds = strings(&["/tmp:/q"]);
        for sources in [
            Sources { binds: &strings(&["/tmp:/q", "vol:/x/../q"]), ..Sources::default() },
            Sources { binds: &binds, mounts: &[bind_mount()], ..Sources::default() },
            Sources { binds: &binds, tmpfs: tmpfs.clone(), ..Sources::default() },
            Sources { mounts: &[bind_mount()], tmpfs, ..Sources::default() },
            Sources { mounts: &[bind_mount(), bind_mount()], ..Sources::default() },
        ] {
            assert_eq!(merge(&sources).unwrap_err().to_string(), "Duplicate mount point: /q");
        }
    }

    #[test]
    fn an_images_volume_gives_way_to_anything_at_its_target() {
        let sources = Sources {
            binds: &strings(&["named:/a"]),
            inherited: vec![bind("old:/b", None).unwrap(), bind("new:/b", None).unwrap(), bind("x:/a", None).unwrap()],
            tmpfs: BTreeMap::from([("/c".to_owned(), "size=1m".to_owned())]),
            volumes: strings(&["/a", "/b/", "/c", "/d", "d"]),
            ..Sources::default()
        };
        let merged = merge(&sources).unwrap();
        let names: Vec<_> = merged
            .iter()
            .map(|request| match &request.kind {
                Kind::Volume(volume) => volume.name.clone().unwrap_or_else(|| "anonymous".into()),
                Kind::Tmpfs { .. } => "tmpfs".into(),
                Kind::Bind { .. } => "bind".into(),
            })
            .collect();
        assert_eq!(names, ["named", "new", "tmpfs", "anonymous"]);
    }
}
