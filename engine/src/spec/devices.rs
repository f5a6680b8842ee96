//! Device nodes and the rules for using them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use fs_base::{IoContext, Result};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

/// What every container may use, as character devices: null, zero, full, random, urandom, tty, console, ptmx, and the
/// terminals of its own devpts. Source: moby `oci/defaults.go` and runc's allowed devices.
const DEFAULT: &[(i64, Option<i64>)] = &[
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(1)),
    (5, Some(2)),
    (136, None),
];
/// Folders of /dev whose nodes belong to file systems that a container has of its own.
const OTHERS: &[&str] = &["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"];

/// The rules: nothing but the default devices, of which any may be made; all for a privileged container.
pub fn allowed(privileged: bool) -> Vec<LinuxDeviceCgroup> {
    if privileged {
        return vec![rule(true, None, None, None, "rwm")];
    }
    let mut rules = vec![rule(false, None, None, None, "rwm")];
    for kind in [LinuxDeviceType::C, LinuxDeviceType::B] {
        rules.push(rule(true, Some(kind), None, None, "m"));
    }
    rules.extend(DEFAULT.iter().map(|(major, minor)| rule(true, Some(LinuxDeviceType::C), Some(*major), *minor, "rwm")));
    rules
}

fn rule(allow: bool, typ: Option<LinuxDeviceType>, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(typ).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}

/// All device nodes of the host, for a privileged container.
pub fn of_host() -> Result<Vec<LinuxDevice>> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found)?;
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<LinuxDevice>) -> Result<()> {
    for entry in std::fs::read_dir(dir).at("read directory", dir)? {
        let entry = entry.at("read directory", dir)?;
        if dir == Path::new("/dev") && OTHERS.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        // A node that went away meanwhile is none.
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() {
            collect(&entry.path(), found)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            found.push(node(&entry.path(), &metadata));
        }
    }
    Ok(())
}

fn node(path: &Path, metadata: &std::fs::Metadata) -> LinuxDevice {
    let kind = if metadata.file_type().is_block_device() { LinuxDeviceType::B } else { LinuxDeviceType::C };
    let number = metadata.rdev();
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind)
        .set_major(i64::from(rustix::fs::major(number)))
        .set_minor(i64::from(rustix::fs::minor(number)))
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    device
}
