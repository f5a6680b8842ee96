//! Programs that the kernel asks whether a process of a cgroup may use a device: what cgroup v2 has in place of v1's
//! devices controller.
//!
//! Source: bpf(2) and `linux/bpf.h`. The kernel checks a program before it takes it, so that none can do harm.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::{Class, Error, Result};

/// One instruction of extended BPF, laid out as the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Class, operation and operand kinds.
    pub code: u8,
    /// The source register in the upper half, the destination's in the lower.
    pub registers: u8,
    /// A jump's distance, or a field's place.
    pub offset: i16,
    /// The operand.
    pub value: i32,
}

/// `BPF_PROG_LOAD`'s part of `union bpf_attr`, as far as it is used.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// `BPF_PROG_ATTACH`'s part.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;

/// Puts the processes in the v2 cgroup `cgroup`, and in those inside it, under a program on `struct bpf_cgroup_dev_ctx`
/// that answers 1 for yes. It goes with the cgroup. If there are several, all must say yes.
pub fn limit_devices(cgroup: BorrowedFd<'_>, program: &[Instruction]) -> Result<()> {
    let load = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the structure, the instructions and the licence outlive the call, and the kernel only reads them.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if loaded < 0 {
        return Err(failed("load a device filter", io::Error::last_os_error()));
    }
    // SAFETY: a descriptor that the kernel has just made and nobody else has.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded as i32) };
    let attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: loaded.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the structure outlives the call, and the kernel only reads it.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    if attached < 0 {
        return Err(failed("attach a device filter to the cgroup", io::Error::last_os_error()));
    }
    Ok(())
}

fn failed(operation: &str, error: io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::EPERM) => Some("it takes CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN"),
        Some(libc::ENOSYS) => Some("this kernel is built without bpf(2), which devices are limited with on cgroup v2"),
        _ => None,
    };
    let wrapped = Error::new(Class::of_io(&error), operation).with_source(error);
    match hint {
        Some(hint) => wrapped.with_hint(hint),
        None => wrapped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_no_program_is_refused() {
        let dir = std::fs::File::open("/").unwrap();
        let endless = Instruction { code: 0x05, registers: 0, offset: -1, value: 0 };
        for program in [&[][..], &[endless][..]] {
            let error = limit_devices(dir.as_fd(), program).unwrap_err();
            let expected = [Class::Invalid, Class::Denied, Class::Unsupported, Class::Internal];
            assert!(expected.contains(&error.class()) && error.to_string().starts_with("load"), "{error}");
        }
    }
}
