//! The ways into the kernel that one machine has, and what a call is numbered in each.

use fs_base::{Error, Result};
use oci_spec::runtime::Arch;
use syscalls::{aarch64, arm, x86, x86_64};

/// One way into the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    /// 64-bit registers with 32-bit pointers: shares its architecture with `X86_64`, its numbers have a bit of their own.
    X32,
    X86,
    Aarch64,
    Arm,
}

/// What tells numbers of x32 from those of x86-64. Source: `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;
/// Where 32-bit Arm's private calls begin. Source: `__ARM_NR_BASE`.
pub(super) const ARM_PRIVATE: u32 = 0x000f_0000;

const AUDIT_64BIT: u32 = 0x8000_0000;
const AUDIT_LITTLE_ENDIAN: u32 = 0x4000_0000;

/// The processors that the engine runs containers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// The one that this program was built for.
    pub(super) fn here() -> Result<Machine> {
        if cfg!(target_arch = "x86_64") {
            Ok(Machine::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Ok(Machine::Aarch64)
        } else {
            let here = std::env::consts::ARCH;
            Err(Error::unsupported(format!("seccomp is not supported on {here}: there is no table of its system calls"))
                .with_hint("run the container with --security-opt seccomp=unconfined"))
        }
    }

    /// Its name in Docker's profiles, which is Go's.
    pub(super) fn docker_name(self) -> &'static str {
        match self {
            Machine::X86_64 => "amd64",
            Machine::Aarch64 => "arm64",
        }
    }

    /// What its own programs use.
    pub(super) fn native(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }

    /// The way in that an OCI architecture stands for, if this machine has it.
    pub(super) fn abi(self, arch: Arch) -> Option<Abi> {
        match (self, arch) {
            (_, Arch::ScmpArchNative) => Some(self.native()),
            (Machine::X86_64, Arch::ScmpArchX86_64) => Some(Abi::X86_64),
            (Machine::X86_64, Arch::ScmpArchX32) => Some(Abi::X32),
            (Machine::X86_64, Arch::ScmpArchX86) => Some(Abi::X86),
            (Machine::Aarch64, Arch::ScmpArchAarch64) => Some(Abi::Aarch64),
            (Machine::Aarch64, Arch::ScmpArchArm) => Some(Abi::Arm),
            _ => None,
        }
    }
}

impl Abi {
    /// The OCI name.
    pub(super) fn arch(self) -> Arch {
        match self {
            Abi::X86_64 => Arch::ScmpArchX86_64,
            Abi::X32 => Arch::ScmpArchX32,
            Abi::X86 => Arch::ScmpArchX86,
            Abi::Aarch64 => Arch::ScmpArchAarch64,
            Abi::Arm => Arch::ScmpArchArm,
        }
    }

    /// What the kernel reports as the architecture of a call: the ELF machine and its properties.
    /// Source: `AUDIT_ARCH_*` in `linux/audit.h`.
    pub(super) fn audit(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0x3e | AUDIT_64BIT | AUDIT_LITTLE_ENDIAN,
            Abi::X86 => 0x03 | AUDIT_LITTLE_ENDIAN,
            Abi::Aarch64 => 0xb7 | AUDIT_64BIT | AUDIT_LITTLE_ENDIAN,
            Abi::Arm => 0x28 | AUDIT_LITTLE_ENDIAN,
        }
    }

    /// The first number that its calls can have.
    pub(super) fn base(self) -> u32 {
        if self == Abi::X32 { X32_BIT } else { 0 }
    }

    /// Whether its registers have 32 bits. Those of x32 have 64, and the kernel uses them all.
    pub(super) fn is_32_bit(self) -> bool {
        matches!(self, Abi::X86 | Abi::Arm)
    }

    /// Every call that it has, by name and number, in no order.
    pub(super) fn calls(self) -> Vec<(&'static str, u32)> {
        let mut calls: Vec<_> = match self {
            Abi::X86_64 => x86_64::Sysno::iter().map(|call| (call.name(), call.id() as u32)).collect(),
            Abi::X32 => x86_64::Sysno::iter().filter_map(x32_number).collect(),
            Abi::X86 => x86::Sysno::iter().map(|call| (call.name(), call.id() as u32)).collect(),
            Abi::Aarch64 => aarch64::Sysno::iter().map(|call| (call.name(), call.id() as u32)).collect(),
            Abi::Arm => arm::Sysno::iter().map(|call| (call.name(), call.id() as u32)).collect(),
        };
        if self == Abi::Aarch64 {
            // The calls of 32-bit machines for a time after 2038 keep their numbers free on all others.
            calls.retain(|(_, number)| !(403..=423).contains(number));
            calls.push(("newfstatat", aarch64::Sysno::fstatat as u32));
        }
        if self == Abi::Arm {
            calls.extend(ARM_CALLS.iter().map(|(name, offset)| (*name, ARM_PRIVATE + offset)));
        }
        calls.extend(NEWER.iter().map(|(name, number)| (*name, self.base() + number)));
        calls
    }
}

/// Calls newer than the table of the `syscalls` crate; since Linux 5.0 a new call has one number everywhere.
const NEWER: [(&str, u32); 2] = [("listns", 470), ("rseq_slice_yield", 471)];

/// Source: `arch/arm/include/uapi/asm/unistd.h`.
const ARM_CALLS: [(&str, u32); 6] =
    [("breakpoint", 1), ("cacheflush", 2), ("usr26", 3), ("usr32", 4), ("set_tls", 5), ("get_tls", 6)];

/// x32 has the numbers of x86-64, but for calls that pass pointers in memory.
/// Source: the lines marked `64` and `x32` in `arch/x86/entry/syscalls/syscall_64.tbl`.
fn x32_number(call: x86_64::Sysno) -> Option<(&'static str, u32)> {
    use x86_64::Sysno as S;
    let number = match call {
        S::rt_sigaction => 512,
        S::rt_sigreturn => 513,
        S::ioctl => 514,
        S::readv => 515,
        S::writev => 516,
        S::recvfrom => 517,
        S::sendmsg => 518,
        S::recvmsg => 519,
        S::execve => 520,
        S::ptrace => 521,
        S::rt_sigpending => 522,
        S::rt_sigtimedwait => 523,
        S::rt_sigqueueinfo => 524,
        S::sigaltstack => 525,
        S::timer_create => 526,
        S::mq_notify => 527,
        S::kexec_load => 528,
        S::waitid => 529,
        S::set_robust_list => 530,
        S::get_robust_list => 531,
        S::vmsplice => 532,
        S::move_pages => 533,
        S::preadv => 534,
        S::pwritev => 535,
        S::rt_tgsigqueueinfo => 536,
        S::recvmmsg => 537,
        S::sendmmsg => 538,
        S::process_vm_readv => 539,
        S::process_vm_writev => 540,
        S::setsockopt => 541,
        S::getsockopt => 542,
        S::io_setup => 543,
        S::io_submit => 544,
        S::execveat => 545,
        S::preadv2 => 546,
        S::pwritev2 => 547,
        S::_sysctl
        | S::create_module
        | S::get_kernel_syms
        | S::query_module
        | S::nfsservctl
        | S::uselib
        | S::epoll_ctl_old
        | S::epoll_wait_old
        | S::get_thread_area
        | S::set_thread_area
        | S::vserver => return None,
        other => other.id() as u32,
    };
    Some((call.name(), X32_BIT | number))
}

/// Calls of 32-bit x86 that also have a number in an older call for many: `socketcall` or `ipc`, and which.
/// Source: `linux/net.h` and `linux/ipc.h`.
pub(super) fn multiplexed(name: &str) -> Option<(&'static str, u64)> {
    const SOCKET: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if let Some(place) = SOCKET.iter().position(|call| *call == name) {
        return Some(("socketcall", place as u64 + 1));
    }
    IPC.iter().find(|(call, _)| *call == name).map(|(_, which)| ("ipc", *which))
}

/// Whether the kernel looks only at the lower 32 bits of an argument, though the register has 64: the parameter is an
/// `int`, and the upper half is the caller's to fill. To compare that half would let 0x1_0000_0026 pass for "not 38",
/// and the kernel open a socket of family 38 (so it went with TIOCSTI in CVE-2019-10063).
pub(super) fn is_int(name: &str, index: usize) -> bool {
    let ints: &[usize] = match name {
        "socket" | "socketpair" => &[0, 1, 2],
        "personality" | "prctl" | "arch_prctl" | "keyctl" | "bpf" => &[0],
        "seccomp" | "kill" => &[0, 1],
        "ioctl" | "fcntl" | "setns" | "open" | "memfd_create" => &[1],
        "getsockopt" | "setsockopt" => &[1, 2],
        "openat" => &[0, 2],
        _ => &[],
    };
    ints.contains(&index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(abi: Abi, name: &str) -> Option<u32> {
        abi.calls().into_iter().find(|(call, _)| *call == name).map(|(_, number)| number)
    }

    #[test]
    fn a_call_has_the_number_of_each_way_in() {
        let cases = [
            ("read", [Some(0), Some(0x4000_0000), Some(3), Some(63), Some(3)]),
            ("execve", [Some(59), Some(0x4000_0208), Some(11), Some(221), Some(11)]),
            ("clone3", [Some(435), Some(0x4000_01b3), Some(435), Some(435), Some(435)]),
            ("newfstatat", [Some(262), Some(0x4000_0106), None, Some(79), None]),
            ("socketcall", [None, None, Some(102), None, None]),
            ("set_thread_area", [Some(205), None, Some(243), None, None]),
            ("set_tls", [None, None, None, None, Some(0xf0005)]),
            ("clock_gettime64", [None, None, Some(403), None, Some(403)]),
            ("listns", [Some(470), Some(0x4000_01d6), Some(470), Some(470), Some(470)]),
            ("no_such_call", [None; 5]),
        ];
        for (name, expected) in cases {
            let found = [Abi::X86_64, Abi::X32, Abi::X86, Abi::Aarch64, Abi::Arm].map(|abi| number(abi, name));
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn numbers_are_unique() {
        for abi in [Abi::X86_64, Abi::X32, Abi::X86, Abi::Arm] {
            let mut numbers: Vec<u32> = abi.calls().into_iter().map(|(_, number)| number).collect();
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "{abi:?}");
        }
    }

    #[test]
    fn calls_of_many_calls() {
        assert_eq!(multiplexed("socket"), Some(("socketcall", 1)));
        assert_eq!(multiplexed("sendmmsg"), Some(("socketcall", 20)));
        assert_eq!(multiplexed("shmctl"), Some(("ipc", 24)));
        assert_eq!(multiplexed("read"), None);
    }
}
