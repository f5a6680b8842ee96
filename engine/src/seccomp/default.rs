//! Docker's default profile, as data: what a container may ask of the kernel when nothing else is said.
//!
//! The list is that of `seccomp/default.json` in moby/profiles v0.2.3, for the architectures that we run on. What is not
//! in it is refused with EPERM. Changing it changes which programs run: take over what Docker changes, nothing else.

use fs_base::Result;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::abi::{Abi, Machine};
use super::profile::{Host, argument};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Calls that are always allowed, by what they are about.
const ALLOWED: &[&str] = &[
    "close close_range copy_file_range creat dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl fcntl64 \
        fdatasync flock fsync ftruncate ftruncate64 ioctl _llseek lseek name_to_handle_at open openat openat2 pipe \
        pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readv sendfile sendfile64 splice \
        sync sync_file_range syncfs tee truncate truncate64 vmsplice write writev",
    // Names, folders and what is known about files.
    "access chdir chmod chown chown32 faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
        fchownat fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getcwd getdents getdents64 lchown lchown32 \
        link linkat listmount lstat lstat64 mkdir mkdirat mknod mknodat newfstatat readlink readlinkat rename \
        renameat renameat2 rmdir stat stat64 statfs statfs64 statmount statx symlink symlinkat umask unlink \
        unlinkat utime utimensat utimensat_time64 utimes",
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat llistxattr \
        lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Waiting for several things, and being told of changes.
    "epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
        eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch _newselect \
        poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4",
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get \
        ioprio_set",
    // Memory.
    "brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall \
        mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
        remap_file_pages",
    // Processes and threads. `clone` has rules of its own.
    "execve execveat exit exit_group fork get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid \
        getpriority getrlimit getrusage getsid gettid kill pidfd_open pidfd_send_signal prctl prlimit64 \
        process_mrelease restart_syscall rseq set_robust_list set_thread_area set_tid_address setpgid setpriority \
        setrlimit setsid tgkill times tkill ugetrlimit vfork wait4 waitid waitpid",
    "futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake",
    // Who one is. The capabilities decide what comes of it.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid \
        getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 \
        setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 \
        setuid setuid32",
    "landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp",
    // Signals.
    "pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
        rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn",
    // Time. To set the clock takes a capability, which these check themselves.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
        clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time \
        timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
        timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64",
    // Scheduling.
    "sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
        sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
        sched_setparam sched_setscheduler sched_yield",
    // Sockets. `socket` has rules of its own.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
        recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V and POSIX message queues, semaphores, shared memory.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
        mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop semtimedop_time64 \
        shmat shmctl shmdt shmget",
    "getrandom riscv_hwprobe sysinfo uname uretprobe",
];

/// When a rule counts.
enum When {
    Always,
    On(Machine),
    /// On this kernel or a newer one.
    Since(u64, u64),
    With(Capability),
    Without(Capability),
}

/// A rule that does not always count, or not for all arguments.
struct Rule {
    when: When,
    names: &'static str,
    /// What the first argument must be.
    first: Option<(Operator, u64)>,
    /// The errno it answers with; `None` allows.
    errno: Option<u32>,
}

const fn allow(when: When, names: &'static str) -> Rule {
    Rule { when, names, first: None, errno: None }
}

const fn allow_if(names: &'static str, operator: Operator, value: u64) -> Rule {
    Rule { when: When::Always, names, first: Some((operator, value)), errno: None }
}

/// Flags of clone(2) that make a namespace: time is not among them, as its bit means something else there.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;
/// Families that `socket` leaves out: the kernel's crypto (CVE-2026-31431) and the host of a virtual machine. A program
/// of 32 bits still reaches them by `socketcall`, whose arguments lie in memory; to refuse that one broke such programs,
/// so Docker leaves it to AppArmor or SELinux.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

const CONDITIONAL: &[Rule] = &[
    // Before Linux 4.8 a tracer could have a call changed after the filter had seen it.
    allow(When::Since(4, 8), "process_vm_readv process_vm_writev ptrace"),
    allow_if("socket", Operator::ScmpCmpLt, AF_ALG),
    allow_if("socket", Operator::ScmpCmpEq, AF_ALG + 1),
    allow_if("socket", Operator::ScmpCmpGt, AF_VSOCK),
    // PER_LINUX, PER_LINUX32, both with UNAME26, and the question which one it is.
    allow_if("personality", Operator::ScmpCmpEq, 0),
    allow_if("personality", Operator::ScmpCmpEq, 8),
    allow_if("personality", Operator::ScmpCmpEq, 0x2_0000),
    allow_if("personality", Operator::ScmpCmpEq, 0x2_0008),
    allow_if("personality", Operator::ScmpCmpEq, 0xffff_ffff),
    allow(When::On(Machine::Aarch64), "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"),
    allow(When::On(Machine::X86_64), "arch_prctl modify_ldt"),
    allow(When::With(Capability::DacReadSearch), "open_by_handle_at"),
    allow(
        When::With(Capability::SysAdmin),
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
            lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
            quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    Rule {
        when: When::Without(Capability::SysAdmin),
        names: "clone",
        first: Some((Operator::ScmpCmpMaskedEq, NAMESPACE_FLAGS)),
        errno: None,
    },
    // Its flags lie in memory, where a filter can't look: "no such call" makes the C library use `clone`.
    Rule { when: When::Without(Capability::SysAdmin), names: "clone3", first: None, errno: Some(ENOSYS) },
    allow(When::With(Capability::SysBoot), "reboot"),
    allow(When::With(Capability::SysChroot), "chroot"),
    allow(When::With(Capability::SysModule), "delete_module init_module finit_module"),
    allow(When::With(Capability::SysPacct), "acct"),
    allow(When::With(Capability::SysPtrace), "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    allow(When::With(Capability::SysRawio), "iopl ioperm"),
    allow(When::With(Capability::SysTime), "settimeofday stime clock_settime clock_settime64"),
    allow(When::With(Capability::SysTtyConfig), "vhangup"),
    allow(When::With(Capability::SysNice), "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    allow(When::With(Capability::Syslog), "syslog"),
    allow(When::With(Capability::Bpf), "bpf"),
    allow(When::With(Capability::Perfmon), "perf_event_open"),
];

/// The profile for a container with these capabilities on this host.
pub(super) fn spec(host: &Host) -> Result<LinuxSeccomp> {
    let mut names = ALLOWED.join(" ");
    let mut conditional = Vec::new();
    for rule in CONDITIONAL.iter().filter(|rule| rule.when.holds(host)) {
        match (rule.first, rule.errno) {
            (None, None) => names = [&names, rule.names].join(" "),
            _ => conditional.push(syscall(rule.names, rule.first, rule.errno)?),
        }
    }
    let mut syscalls = vec![syscall(&names, None, None)?];
    syscalls.append(&mut conditional);
    let mut spec = LinuxSeccomp::default();
    spec.set_default_action(Action::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures(host.machine)))
        .set_syscalls(Some(syscalls));
    Ok(spec)
}

/// All ways into the kernel: a program of 32 bits runs as well.
fn architectures(machine: Machine) -> Vec<Arch> {
    let abis: &[Abi] = match machine {
        Machine::X86_64 => &[Abi::X86_64, Abi::X86, Abi::X32],
        Machine::Aarch64 => &[Abi::Aarch64, Abi::Arm],
    };
    abis.iter().map(|abi| abi.arch()).collect()
}

fn syscall(names: &str, first: Option<(Operator, u64)>, errno: Option<u32>) -> Result<LinuxSyscall> {
    let mut syscall = LinuxSyscall::default();
    let action = if errno.is_some() { Action::ScmpActErrno } else { Action::ScmpActAllow };
    syscall.set_names(names.split_whitespace().map(str::to_owned).collect()).set_action(action).set_errno_ret(errno);
    let arg = first.map(|(operator, value)| argument(0, operator, value, None)).transpose()?;
    syscall.set_args(arg.map(|arg| vec![arg]));
    Ok(syscall)
}

impl When {
    fn holds(&self, host: &Host) -> bool {
        match self {
            When::Always => true,
            When::On(machine) => host.machine == *machine,
            When::Since(kernel, major) => host.kernel >= (*kernel, *major),
            When::With(capability) => host.capabilities.contains(capability),
            When::Without(capability) => !host.capabilities.contains(capability),
        }
    }
}
