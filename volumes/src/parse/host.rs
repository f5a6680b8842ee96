//! The fields of a container's creation that ask for mounts, read from the API's JSON.

use std::collections::BTreeMap;

use fs_base::Result;
use serde::Deserialize;

use super::{MountValue, Request, Sources, merge, volumes_from};

/// What of `HostConfig` is about mounts. Absent and null fields are the same; other fields are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostMounts {
    /// `-v` strings.
    pub binds: Option<Vec<String>>,
    /// `--mount` values.
    pub mounts: Option<Vec<MountValue>>,
    /// `--tmpfs`: target to options.
    pub tmpfs: Option<BTreeMap<String, String>>,
    /// `--volume-driver`.
    pub volume_driver: Option<String>,
    /// `--volumes-from`; read with [`HostMounts::inherits_from`].
    pub volumes_from: Option<Vec<String>>,
}

impl HostMounts {
    /// The containers whose mounts are wanted, each with whether they become read-only. The caller finds them and
    /// hands their mounts, as requests, to [`HostMounts::requests`].
    pub fn inherits_from(&self) -> Result<Vec<(&str, bool)>> {
        self.volumes_from.iter().flatten().map(|spec| volumes_from(spec)).collect()
    }

    /// All mounts of the container: these, the inherited ones, and a volume for each target of `volumes`
    /// (`Config.Volumes` of the container and of its image) that nothing else is at.
    pub fn requests(&self, inherited: Vec<Request>, volumes: impl IntoIterator<Item = String>) -> Result<Vec<Request>> {
        merge(&Sources {
            inherited,
            binds: self.binds.as_deref().unwrap_or_default(),
            mounts: self.mounts.as_deref().unwrap_or_default(),
            tmpfs: self.tmpfs.clone().unwrap_or_default(),
            volumes: volumes.into_iter().collect(),
            volume_driver: self.volume_driver.as_deref().filter(|driver| !driver.is_empty()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As docker CLI 28 sends it.
    #[test]
    fn a_host_config_of_the_docker_cli_is_read() {
        let host: HostMounts = serde_json::from_value(serde_json::json!({
            "Binds": ["nv:/v/n", "/tmp:/x/b:ro"], "NetworkMode": "default", "VolumeDriver": "", "VolumesFrom": ["db:ro"],
            "Mounts": [{"Type": "volume", "Target": "/v/m"}], "Tmpfs": {"/q": "size=1m"}, "Memory": 0
        }))
        .unwrap();
        assert_eq!(host.inherits_from().unwrap(), [("db", true)]);
        let inherited = vec![super::super::bind("other:/v/o", None).unwrap()];
        let requests = host.requests(inherited, ["/v/image".to_owned(), "/q".to_owned()]).unwrap();
        let targets: Vec<_> = requests.iter().map(|request| request.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/q", "/v/image", "/v/m", "/v/n", "/v/o", "/x/b"]);
        let empty: HostMounts = serde_json::from_str(r#"{"Binds":null,"Mounts":null,"Tmpfs":null}"#).unwrap();
        assert!(empty.requests(Vec::new(), []).unwrap().is_empty());
    }
}
