//! `--device` and `--device-cgroup-rule`: host devices that a container has, and what it may do with them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};
use serde::Deserialize;
use serde_json::Value;

use super::create::read;

/// Docker's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wanted {
    path_on_host: String,
    #[serde(default)]
    path_in_container: String,
    #[serde(default)]
    cgroup_permissions: String,
}

/// What of the host's devices a container gets.
#[derive(Debug, Default)]
pub struct Devices {
    /// The nodes in its /dev.
    pub nodes: Vec<LinuxDevice>,
    /// What it may do with them, and with others.
    pub rules: Vec<LinuxDeviceCgroup>,
}

/// Whether they could be had; the devices themselves are looked at when the container starts.
pub fn check(host_config: &Value) -> Result<()> {
    let list: Option<Vec<Wanted>> = read(&host_config["Devices"], "Devices")?;
    for wanted in list.iter().flatten() {
        let access = &wanted.cgroup_permissions;
        if !access.chars().all(|c| "rwm".contains(c)) {
            return Err(Error::invalid(format!("invalid device cgroup permissions {access:?}: they are of r, w and m")));
        }
    }
    rules(host_config).map(drop)
}

/// The devices that a container was made with, as they are on the host now.
pub fn of(host_config: &Value) -> Result<Devices> {
    let list: Option<Vec<Wanted>> = read(&host_config["Devices"], "Devices")?;
    let mut devices = Devices { nodes: Vec::new(), rules: rules(host_config)? };
    for wanted in list.iter().flatten() {
        let access = if wanted.cgroup_permissions.is_empty() { "rwm" } else { &wanted.cgroup_permissions };
        let host = Path::new(&wanted.path_on_host);
        let inside = if wanted.path_in_container.is_empty() { host } else { Path::new(&wanted.path_in_container) };
        let missing = |why: &str| {
            Error::invalid(format!(
                "error gathering device information while adding custom device {:?}: {why}",
                host.display().to_string()
            ))
        };
        let known = devices.nodes.len();
        collect(host, inside, access, &mut devices).map_err(|error| match error.class() {
            fs_base::Class::NotFound => missing("no such file or directory"),
            _ => error,
        })?;
        if devices.nodes.len() == known {
            return Err(missing("not a device node"));
        }
    }
    Ok(devices)
}

/// A node, or all nodes below a directory; symlinks are followed at the top, as Docker does.
fn collect(host: &Path, inside: &Path, access: &str, devices: &mut Devices) -> Result<()> {
    let found = std::fs::metadata(host).at("stat", host)?;
    let kind = found.file_type();
    if kind.is_dir() {
        for entry in std::fs::read_dir(host).at("read directory", host)? {
            let entry = entry.at("read directory", host)?;
            // A link below a directory would be its target a second time.
            if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
                collect(&entry.path(), &inside.join(entry.file_name()), access, devices)?;
            }
        }
        return Ok(());
    }
    let kind = match () {
        () if kind.is_block_device() => LinuxDeviceType::B,
        () if kind.is_char_device() => LinuxDeviceType::C,
        () => return Ok(()),
    };
    let (major, minor) = (i64::from(rustix::fs::major(found.rdev())), i64::from(rustix::fs::minor(found.rdev())));
    let mut node = LinuxDevice::default();
    node.set_path(PathBuf::from(inside))
        .set_typ(kind)
        .set_major(major)
        .set_minor(minor)
        .set_file_mode(Some(found.mode() & 0o7777))
        .set_uid(Some(found.uid()))
        .set_gid(Some(found.gid()));
    devices.nodes.push(node);
    devices.rules.push(rule(kind, Some(major), Some(minor), access));
    Ok(())
}

fn rule(kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}

/// `c 1:3 rwm`; `*` for any number.
fn rules(host_config: &Value) -> Result<Vec<LinuxDeviceCgroup>> {
    let texts: Option<Vec<String>> = read(&host_config["DeviceCgroupRules"], "DeviceCgroupRules")?;
    texts.iter().flatten().map(|text| parse(text)).collect()
}

fn parse(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || Error::invalid(format!("invalid device cgroup rule format: '{text}'"));
    let words: Vec<&str> = text.split(' ').collect();
    let [kind, numbers, access] = words[..] else { return Err(bad()) };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if access.is_empty() || access.len() > 3 || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    Ok(rule(kind, number(major)?, number(minor)?, access))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nodes_and_rules_are_those_of_the_host() {
        let devices = of(&json!({
            "Devices": [{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/nought", "CgroupPermissions": "r"}],
            "DeviceCgroupRules": ["b 8:* rm"],
        }))
        .unwrap();
        let node = &devices.nodes[0];
        assert_eq!((node.path().to_str(), node.major(), node.minor()), (Some("/dev/nought"), 1, 5));
        let texts: Vec<_> =
            devices.rules.iter().map(|rule| (rule.major(), rule.minor(), rule.access().clone().unwrap())).collect();
        assert_eq!(texts, [(Some(8), None, "rm".to_owned()), (Some(1), Some(5), "r".to_owned())]);
        for (host, text) in [
            (json!({"Devices": [{"PathOnHost": "/dev/no-such"}]}), "device \"/dev/no-such\": no such file or directory"),
            (json!({"Devices": [{"PathOnHost": "/etc/passwd"}]}), "not a device node"),
            (json!({"DeviceCgroupRules": ["x 1:3 r"]}), "invalid device cgroup rule format: 'x 1:3 r'"),
            (json!({"DeviceCgroupRules": ["c 1 r"]}), "invalid device cgroup rule format: 'c 1 r'"),
        ] {
            let error = of(&host).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
