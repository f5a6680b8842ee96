//! Filters on system calls: the program that the kernel runs before each of them.
//!
//! Source: seccomp(2) and the kernel's `Documentation/userspace-api/seccomp_filter.rst`.

use std::io;

use crate::{Class, Error, Result};

/// Instructions that the kernel takes in one program. Source: `BPF_MAXINSNS` in `linux/bpf_common.h`.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction of classic BPF, laid out as the kernel's `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Class, operation and operand kinds.
    pub code: u16,
    /// How many instructions a conditional jump leaves out if its condition holds.
    pub skip_true: u8,
    /// How many it leaves out otherwise.
    pub skip_false: u8,
    /// The operand.
    pub value: u32,
}

// What `install` casts on.
const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
const _: () = assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());

/// How a filter is installed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// For all threads of the process rather than the calling one (`SECCOMP_FILTER_FLAG_TSYNC`).
    pub all_threads: bool,
    /// Log every decision but "allow" (`SECCOMP_FILTER_FLAG_LOG`).
    pub log: bool,
    /// Leave the processor's speculative store bypass as it is (`SECCOMP_FILTER_FLAG_SPEC_ALLOW`).
    pub allow_speculation: bool,
}

/// Puts the calling thread, and what it starts from now on, under `filter`, for good.
///
/// The kernel wants `no_new_privs` set or `CAP_SYS_ADMIN` held; neither is done here. It allocates nothing unless it
/// fails, so a process may call it between fork and exec.
pub fn install(filter: &[Instruction], flags: Flags) -> Result<()> {
    if filter.is_empty() || filter.len() > MAX_INSTRUCTIONS {
        let count = filter.len();
        return Err(Error::invalid(format!("a seccomp filter has 1 to {MAX_INSTRUCTIONS} instructions, this one has {count}")));
    }
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut().cast() };
    let bits = [
        (flags.all_threads, libc::SECCOMP_FILTER_FLAG_TSYNC),
        (flags.log, libc::SECCOMP_FILTER_FLAG_LOG),
        (flags.allow_speculation, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
    ];
    let bits = bits.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit);
    // SAFETY: the program points to `len` instructions that outlive the call, and the kernel only reads them.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, bits, &raw const program) };
    match done {
        0 => Ok(()),
        -1 => Err(failed(io::Error::last_os_error())),
        thread => Err(Error::busy(format!("install seccomp filter: thread {thread} has another one"))),
    }
}

fn failed(error: io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::EACCES) => Some("it takes no_new_privs or CAP_SYS_ADMIN"),
        Some(libc::ENOSYS) => Some("this kernel is built without seccomp; run the container with seccomp=unconfined"),
        _ => None,
    };
    let wrapped = Error::new(Class::of_io(&error), "install seccomp filter").with_source(error);
    match hint {
        Some(hint) => wrapped.with_hint(hint),
        None => wrapped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0000;

    fn instruction(code: u16, value: u32) -> Instruction {
        Instruction { code, skip_true: 0, skip_false: 0, value }
    }

    #[test]
    fn a_thread_under_a_filter_gets_the_errno_and_others_do_not() {
        let call = || {
            // SAFETY: asks for a keyring that need not exist; no memory is passed.
            let done = unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) };
            (done == -1).then(|| io::Error::last_os_error().raw_os_error().unwrap())
        };
        let before = call();
        let under = std::thread::spawn(move || {
            let filter = [
                instruction(LOAD, 0),
                Instruction { code: JUMP_IF_EQUAL, skip_true: 0, skip_false: 1, value: libc::SYS_keyctl as u32 },
                instruction(RETURN, REFUSE | libc::EXDEV as u32),
                instruction(RETURN, ALLOW),
            ];
            rustix::thread::set_no_new_privs(true).unwrap();
            install(&filter, Flags { allow_speculation: true, log: false, all_threads: false }).unwrap();
            call()
        });
        assert_eq!(under.join().unwrap(), Some(libc::EXDEV));
        assert_eq!(call(), before);
    }

    #[test]
    fn what_is_no_program_is_refused() {
        for filter in [vec![], vec![instruction(RETURN, ALLOW); MAX_INSTRUCTIONS + 1]] {
            let error = install(&filter, Flags::default()).unwrap_err();
            assert_eq!(error.class(), Class::Invalid);
            assert!(error.to_string().ends_with(&format!("this one has {}", filter.len())));
        }
        // It ends without an answer. Only who can't gain privileges may set a filter without having some.
        rustix::thread::set_no_new_privs(true).unwrap();
        let error = install(&[instruction(LOAD, 0)], Flags::default()).unwrap_err();
        assert_eq!((error.class(), error.raw_os_error()), (Class::Invalid, Some(libc::EINVAL)));
    }
}
