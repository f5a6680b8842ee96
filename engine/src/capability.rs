//! What root's power is cut into: names, numbers, and the set that a container gets.
//!
//! Source: capabilities(7) and the kernel's `linux/capability.h`.

use fs_base::{Error, IoContext, Result};
use oci_spec::runtime::Capability;
use rustix::thread::CapabilitySet;

/// Every capability of the kernel with its name, in the order of their numbers.
const TABLE: [(&str, Capability); 41] = [
    ("CAP_CHOWN", Capability::Chown),
    ("CAP_DAC_OVERRIDE", Capability::DacOverride),
    ("CAP_DAC_READ_SEARCH", Capability::DacReadSearch),
    ("CAP_FOWNER", Capability::Fowner),
    ("CAP_FSETID", Capability::Fsetid),
    ("CAP_KILL", Capability::Kill),
    ("CAP_SETGID", Capability::Setgid),
    ("CAP_SETUID", Capability::Setuid),
    ("CAP_SETPCAP", Capability::Setpcap),
    ("CAP_LINUX_IMMUTABLE", Capability::LinuxImmutable),
    ("CAP_NET_BIND_SERVICE", Capability::NetBindService),
    ("CAP_NET_BROADCAST", Capability::NetBroadcast),
    ("CAP_NET_ADMIN", Capability::NetAdmin),
    ("CAP_NET_RAW", Capability::NetRaw),
    ("CAP_IPC_LOCK", Capability::IpcLock),
    ("CAP_IPC_OWNER", Capability::IpcOwner),
    ("CAP_SYS_MODULE", Capability::SysModule),
    ("CAP_SYS_RAWIO", Capability::SysRawio),
    ("CAP_SYS_CHROOT", Capability::SysChroot),
    ("CAP_SYS_PTRACE", Capability::SysPtrace),
    ("CAP_SYS_PACCT", Capability::SysPacct),
    ("CAP_SYS_ADMIN", Capability::SysAdmin),
    ("CAP_SYS_BOOT", Capability::SysBoot),
    ("CAP_SYS_NICE", Capability::SysNice),
    ("CAP_SYS_RESOURCE", Capability::SysResource),
    ("CAP_SYS_TIME", Capability::SysTime),
    ("CAP_SYS_TTY_CONFIG", Capability::SysTtyConfig),
    ("CAP_MKNOD", Capability::Mknod),
    ("CAP_LEASE", Capability::Lease),
    ("CAP_AUDIT_WRITE", Capability::AuditWrite),
    ("CAP_AUDIT_CONTROL", Capability::AuditControl),
    ("CAP_SETFCAP", Capability::Setfcap),
    ("CAP_MAC_OVERRIDE", Capability::MacOverride),
    ("CAP_MAC_ADMIN", Capability::MacAdmin),
    ("CAP_SYSLOG", Capability::Syslog),
    ("CAP_WAKE_ALARM", Capability::WakeAlarm),
    ("CAP_BLOCK_SUSPEND", Capability::BlockSuspend),
    ("CAP_AUDIT_READ", Capability::AuditRead),
    ("CAP_PERFMON", Capability::Perfmon),
    ("CAP_BPF", Capability::Bpf),
    ("CAP_CHECKPOINT_RESTORE", Capability::CheckpointRestore),
];

/// What Docker gives a container that asks for nothing.
pub const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

/// The kernel's number of a capability: 0 to 40.
pub fn number(capability: Capability) -> u32 {
    // The table has every variant, by test.
    TABLE.iter().position(|(_, entry)| *entry == capability).unwrap_or_default() as u32
}

/// Its name, `CAP_` in front.
pub fn name(capability: Capability) -> &'static str {
    TABLE[number(capability) as usize].0
}

/// The capability with this name: `CAP_` may be left out, and case does not count.
pub fn parse(name: &str) -> Option<Capability> {
    let name = full_name(name);
    TABLE.iter().find(|(entry, _)| *entry == name).map(|(_, capability)| *capability)
}

/// Many capabilities, as the kernel's calls take them.
pub fn to_set(capabilities: impl IntoIterator<Item = Capability>) -> CapabilitySet {
    CapabilitySet::from_bits_retain(bits(capabilities))
}

/// What a container gets: Docker's default ones, less `drop`, with `add`; all if `privileged`. In the order of their
/// numbers, each once.
///
/// `ALL` in `add` gives all but those named in `drop`; else `ALL` in `drop` leaves just those in `add`. What is named in
/// both is added. An unknown name is refused, also for a privileged container, whose set it would not change.
pub fn effective_set(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<Capability>> {
    let (add, drop) = (Asked::parse("CapAdd", add)?, Asked::parse("CapDrop", drop)?);
    let all = bits(TABLE.iter().map(|(_, capability)| *capability));
    let set = match (privileged, add.all, drop.all) {
        (true, _, _) => all,
        (false, true, _) => all & !drop.bits,
        (false, false, true) => add.bits,
        (false, false, false) => bits(DEFAULT) & !drop.bits | add.bits,
    };
    Ok(list(set))
}

/// A set cut down to what can be had here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clamped {
    /// What this process can give.
    pub kept: Vec<Capability>,
    /// What it can't.
    pub dropped: Vec<Capability>,
}

/// Takes away what this process does not have in its own bounding set: no child of it can ever have that.
///
/// What `add` asks for by name is refused rather than taken away, as Docker does.
pub fn clamp_to_bounding(set: &[Capability], add: &[String]) -> Result<Clamped> {
    clamp(set, add, bounding()?)
}

/// What this process has in its bounding set, among the capabilities that we know.
fn bounding() -> Result<u64> {
    let mut set = 0;
    for (number, (name, _)) in TABLE.iter().enumerate() {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(one) {
            Ok(true) => set |= one.bits(),
            // An older kernel does not know the newer ones.
            Ok(false) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).at("read bounding set of capability", name),
        }
    }
    Ok(set)
}

fn clamp(set: &[Capability], add: &[String], bounding: u64) -> Result<Clamped> {
    let missing = list(Asked::parse("CapAdd", add)?.bits & !bounding);
    if let Some(first) = missing.first() {
        let what = "capability not supported by your kernel or not available in the current environment";
        return Err(Error::invalid(format!("invalid CapAdd: {what}: \"{}\"", name(*first))));
    }
    let set = bits(set.iter().copied());
    Ok(Clamped { kept: list(set & bounding), dropped: list(set & !bounding) })
}

/// What one of the two options asks for.
struct Asked {
    all: bool,
    bits: u64,
}

impl Asked {
    fn parse(option: &str, names: &[String]) -> Result<Asked> {
        let mut asked = Asked { all: false, bits: 0 };
        for text in names {
            if text.eq_ignore_ascii_case("ALL") {
                asked.all = true;
            } else if let Some(capability) = parse(text) {
                asked.bits |= bits([capability]);
            } else {
                let name = full_name(text);
                return Err(Error::invalid(format!("invalid {option}: unknown capability: {name:?}")));
            }
        }
        Ok(asked)
    }
}

fn full_name(text: &str) -> String {
    let upper = text.to_ascii_uppercase();
    if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") }
}

fn bits(capabilities: impl IntoIterator<Item = Capability>) -> u64 {
    capabilities.into_iter().fold(0, |set, capability| set | 1 << number(capability))
}

fn list(bits: u64) -> Vec<Capability> {
    TABLE.iter().enumerate().filter(|(number, _)| bits >> number & 1 == 1).map(|(_, entry)| entry.1).collect()
}

#[cfg(test)]
mod tests {
    use fs_base::Class;

    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    fn names(add: &[&str], drop: &[&str], privileged: bool) -> Result<Vec<&'static str>> {
        Ok(effective_set(&strings(add), &strings(drop), privileged)?.into_iter().map(name).collect())
    }

    #[test]
    fn names_and_numbers_are_the_kernels() {
        for (place, (name, capability)) in TABLE.iter().enumerate() {
            assert_eq!(number(*capability) as usize, place);
            assert_eq!(serde_json::to_string(capability).unwrap(), format!("\"{name}\""));
            assert_eq!(parse(name), Some(*capability));
            assert_eq!(parse(&name[4..].to_ascii_lowercase()), Some(*capability));
        }
        let of_kernel = [
            (Capability::Mknod, CapabilitySet::MKNOD),
            (Capability::SysAdmin, CapabilitySet::SYS_ADMIN),
            (Capability::SysTime, CapabilitySet::SYS_TIME),
            (Capability::AuditRead, CapabilitySet::AUDIT_READ),
            (Capability::CheckpointRestore, CapabilitySet::CHECKPOINT_RESTORE),
        ];
        for (capability, bit) in of_kernel {
            assert_eq!(to_set([capability]), bit);
        }
        assert_eq!(to_set(DEFAULT).bits(), 0xa804_25fb, "as in /proc/PID/status of a container of Docker's");
    }

    #[test]
    fn add_and_drop_change_the_default_as_docker_does() {
        let default = names(&[], &[], false).unwrap();
        assert_eq!(default.len(), 14);
        assert_eq!(names(&["NET_ADMIN", "cap_kill"], &[], false).unwrap().len(), 15);
        assert!(!names(&[], &["mknod"], false).unwrap().contains(&"CAP_MKNOD"));
        assert_eq!(names(&["chown", "CAP_SYS_TIME"], &["all"], false).unwrap(), ["CAP_CHOWN", "CAP_SYS_TIME"]);
        assert_eq!(names(&[], &["ALL"], false).unwrap(), [""; 0]);
        let all_but_two = names(&["all"], &["SYS_ADMIN", "CHOWN"], false).unwrap();
        assert_eq!(all_but_two.len(), 39);
        assert!(!all_but_two.contains(&"CAP_CHOWN"));
        assert_eq!(names(&["ALL"], &["ALL"], false).unwrap().len(), 41);
        assert!(names(&["MKNOD"], &["MKNOD"], false).unwrap().contains(&"CAP_MKNOD"));
        assert_eq!(names(&[], &["ALL"], true).unwrap().len(), 41);
    }

    #[test]
    fn unknown_names_are_refused() {
        let cases = [
            (names(&["x"], &[], false), "invalid CapAdd: unknown capability: \"CAP_X\""),
            (names(&["CHOWN", "cap_"], &[], true), "invalid CapAdd: unknown capability: \"CAP_\""),
            (names(&[], &["CAP_ALL"], false), "invalid CapDrop: unknown capability: \"CAP_ALL\""),
            (names(&[], &[""], false), "invalid CapDrop: unknown capability: \"CAP_\""),
        ];
        for (result, text) in cases {
            let error = result.unwrap_err();
            assert_eq!((error.to_string().as_str(), error.class()), (text, Class::Invalid));
        }
    }

    #[test]
    fn what_the_process_lacks_is_dropped_or_refused() {
        let here = bits([Capability::Chown, Capability::Kill]);
        let set = [Capability::Chown, Capability::SysResource];
        let clamped = clamp(&set, &strings(&["ALL", "chown"]), here).unwrap();
        assert_eq!(clamped, Clamped { kept: vec![Capability::Chown], dropped: vec![Capability::SysResource] });
        let error = clamp(&set, &strings(&["SYS_RESOURCE"]), here).unwrap_err();
        let what = "capability not supported by your kernel or not available in the current environment";
        assert_eq!(error.to_string(), format!("invalid CapAdd: {what}: \"CAP_SYS_RESOURCE\""));
        assert_eq!(error.class(), Class::Invalid);
    }

    #[test]
    fn the_bounding_set_is_that_of_this_process() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
        let expected = u64::from_str_radix(line.trim(), 16).unwrap();
        assert_eq!(bounding().unwrap(), expected & ((1 << TABLE.len()) - 1));
        let all = effective_set(&[], &[], true).unwrap();
        let clamped = clamp_to_bounding(&all, &[]).unwrap();
        assert_eq!(clamped.kept.len() + clamped.dropped.len(), all.len());
        assert_eq!(bits(clamped.kept), expected & bits(all));
    }
}
