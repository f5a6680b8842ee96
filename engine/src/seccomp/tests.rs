//! What filters decide, call by call, run by an interpreter; that the kernel takes them is tested by processes under them.

use std::collections::HashMap;

use fs_base::Class;
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompOperator as Operator, LinuxSyscall,
};

use super::abi::{Abi, Machine, is_int};
use super::compile::{Filter, compile_for};
use super::interpreter::{Call, run};
use super::profile::{Host, argument, resolve};
use super::rules::{ALLOW, KILL_PROCESS, NO_SUCH_CALL};
use super::{default, to_spec};
use crate::{capability, config};

const EPERM: u32 = 0x0005_0001;

fn host(machine: Machine, capabilities: &[Capability]) -> Host {
    Host { machine, kernel: (6, 18), capabilities: capabilities.to_vec() }
}

fn default_filter(machine: Machine, capabilities: &[Capability]) -> Filter {
    compile_for(&default::spec(&host(machine, capabilities)).unwrap(), machine).unwrap()
}

fn custom(text: &str) -> LinuxSeccomp {
    resolve(text, &host(Machine::X86_64, &capability::DEFAULT)).unwrap().unwrap()
}

fn answer(filter: &Filter, abi: Abi, nr: u32, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    run(filter.instructions(), &Call { nr, arch: abi.audit(), args: all }).0
}

fn number(abi: Abi, name: &str) -> u32 {
    abi.calls().into_iter().find(|(call, _)| *call == name).unwrap_or_else(|| panic!("{name} of {abi:?}")).1
}

fn named(filter: &Filter, abi: Abi, name: &str, args: &[u64]) -> u32 {
    answer(filter, abi, number(abi, name), args)
}

#[test]
fn the_default_profile_on_every_way_into_the_kernel() {
    for machine in [Machine::X86_64, Machine::Aarch64] {
        let filter = default_filter(machine, &capability::DEFAULT);
        let abis: &[Abi] = match machine {
            Machine::X86_64 => &[Abi::X86_64, Abi::X32, Abi::X86],
            Machine::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        };
        for abi in abis {
            for name in ["read", "execve", "ioctl", "futex", "chroot", "ptrace", "rt_sigreturn", "listxattrat"] {
                assert_eq!(named(&filter, *abi, name, &[]), ALLOW, "{name} {abi:?}");
            }
            for name in ["mount", "unshare", "keyctl", "bpf", "setns", "reboot", "io_uring_setup", "userfaultfd", "move_pages"] {
                assert_eq!(named(&filter, *abi, name, &[]), EPERM, "{name} {abi:?}");
            }
            assert_eq!(named(&filter, *abi, "clone3", &[]), NO_SUCH_CALL, "{abi:?}");
            for (flags, expected) in [(0x11, ALLOW), (0x003d_0f00, ALLOW), (0x1000_0011, EPERM), (0x0002_0000, EPERM)] {
                assert_eq!(named(&filter, *abi, "clone", &[flags]), expected, "clone {flags:#x} {abi:?}");
            }
            for (domain, expected) in [(0, ALLOW), (8, ALLOW), (0x2_0008, ALLOW), (0xffff_ffff, ALLOW), (3, EPERM)] {
                assert_eq!(named(&filter, *abi, "personality", &[domain]), expected, "personality {domain:#x} {abi:?}");
            }
            for family in 0..64 {
                let expected = if matches!(family, 38 | 40) { EPERM } else { ALLOW };
                assert_eq!(named(&filter, *abi, "socket", &[family]), expected, "socket {family} {abi:?}");
            }
            // Newer than the profile, or no number at all.
            let newest = if *abi == Abi::X32 { 547 } else { 466 };
            for nr in [newest + 1, 1000, 0x3fff_ffff, 0x7fff_ffff, u32::MAX] {
                assert_eq!(answer(&filter, *abi, abi.base() | nr, &[]), NO_SUCH_CALL, "{nr} {abi:?}");
            }
        }
    }
}

#[test]
fn the_upper_half_of_an_int_hides_nothing() {
    let filter = default_filter(Machine::X86_64, &[]);
    for (family, expected) in [(0x1_0000_0026, EPERM), (0xffff_ffff_0000_0028, EPERM), (0xffff_ffff_0000_0002, ALLOW)] {
        assert_eq!(named(&filter, Abi::X86_64, "socket", &[family]), expected, "{family:#x}");
    }
    // The flags of clone are a long.
    assert_eq!(named(&filter, Abi::X86_64, "clone", &[0xffff_ffff_1000_0000]), EPERM);
}

#[test]
fn numbers_that_stand_for_something_else_elsewhere() {
    let filter = default_filter(Machine::X86_64, &[]);
    // execve of x86-64, with the bit of x32, is a call of neither; x32 has its own.
    assert_eq!(answer(&filter, Abi::X86_64, 59, &[]), ALLOW);
    assert_eq!(answer(&filter, Abi::X32, 0x4000_003b, &[]), EPERM);
    assert_eq!(answer(&filter, Abi::X32, 0x4000_0208, &[]), ALLOW);
    assert_eq!(answer(&filter, Abi::X86_64, 520, &[]), NO_SUCH_CALL);
    // mount of x86 is sendto of aarch64 less one; here only the architectures of the machine are known.
    assert_eq!(answer(&filter, Abi::Aarch64, number(Abi::Aarch64, "read"), &[]), KILL_PROCESS);
    assert_eq!(answer(&filter, Abi::X86, 21, &[]), EPERM);
    let filter = default_filter(Machine::Aarch64, &[]);
    assert_eq!(answer(&filter, Abi::X86_64, 0, &[]), KILL_PROCESS);
    for (nr, expected) in [(0xf0005, ALLOW), (0xf0003, NO_SUCH_CALL), (0xf0006, NO_SUCH_CALL), (500, NO_SUCH_CALL)] {
        assert_eq!(answer(&filter, Abi::Arm, nr, &[]), expected, "{nr:#x}");
    }
    assert_eq!(named(&filter, Abi::Aarch64, "newfstatat", &[]), ALLOW);
}

#[test]
fn capabilities_open_calls() {
    let cases: [(Capability, &[&str]); 10] = [
        (Capability::SysAdmin, &["mount", "unshare", "clone3", "bpf", "setns", "umount2", "sethostname"]),
        (Capability::DacReadSearch, &["open_by_handle_at"]),
        (Capability::SysBoot, &["reboot"]),
        (Capability::SysModule, &["init_module", "finit_module", "delete_module"]),
        (Capability::SysPtrace, &["kcmp", "pidfd_getfd", "process_madvise"]),
        (Capability::SysTime, &["settimeofday", "clock_settime"]),
        (Capability::SysNice, &["mbind", "set_mempolicy"]),
        (Capability::Syslog, &["syslog"]),
        (Capability::Perfmon, &["perf_event_open"]),
        (Capability::SysChroot, &["chroot"]),
    ];
    let without = default_filter(Machine::X86_64, &[]);
    for (capability, names) in cases {
        let with = default_filter(Machine::X86_64, &[capability]);
        for name in names {
            assert_ne!(named(&without, Abi::X86_64, name, &[]), ALLOW, "{name}");
            assert_eq!(named(&with, Abi::X86_64, name, &[]), ALLOW, "{name}");
        }
    }
    let with = default_filter(Machine::X86_64, &[Capability::SysAdmin]);
    assert_eq!(named(&with, Abi::X86_64, "clone", &[0x1000_0000]), ALLOW);
    let mut old = host(Machine::X86_64, &[]);
    old.kernel = (4, 7);
    let filter = compile_for(&default::spec(&old).unwrap(), Machine::X86_64).unwrap();
    assert_eq!(named(&filter, Abi::X86_64, "ptrace", &[]), EPERM);
}

#[test]
fn common_calls_take_few_instructions() {
    for (machine, abi) in [(Machine::X86_64, Abi::X86_64), (Machine::Aarch64, Abi::Aarch64)] {
        let filter = default_filter(machine, &capability::DEFAULT);
        let mut counts = Vec::new();
        for (name, nr) in abi.calls() {
            let call = Call { nr, arch: abi.audit(), args: [2, 0, 0, 0, 0, 0] };
            counts.push((run(filter.instructions(), &call).1, name));
        }
        counts.sort_unstable();
        let of = |name: &str| counts.iter().find(|(_, call)| *call == name).unwrap().0;
        let some = ["read", "write", "openat", "mmap", "futex", "close", "socket", "clone"].map(|name| (name, of(name)));
        let (median, most) = (counts[counts.len() / 2], counts[counts.len() - 1]);
        println!("{machine:?}: {} instructions, median {median:?}, most {most:?}, {some:?}", filter.instructions().len());
        assert!(median.0 <= 10 && most.0 <= 24, "{median:?} {most:?}");
        assert!(filter.instructions().len() < 1024);
    }
}

#[test]
fn rules_about_one_call() {
    let text = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13, "syscalls": [
        {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
        {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}, {"index": 2, "value": 4294967296, "op": "SCMP_CMP_LE"}]},
        {"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_EQ"}]},
        {"name": "write", "action": "SCMP_ACT_ALLOW", "args": [
            {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]},
        {"names": ["close", "no_such_call"], "action": "SCMP_ACT_LOG"},
        {"names": ["close"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}]},
        {"names": ["dup"], "action": "SCMP_ACT_KILL", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_NE"}]},
        {"names": ["dup"], "action": "SCMP_ACT_TRACE", "errnoRet": 77},
        {"names": ["lseek"], "action": "SCMP_ACT_KILL_PROCESS", "args": [
            {"index": 1, "value": 18374686479671623680, "valueTwo": 72057594037927936, "op": "SCMP_CMP_MASKED_EQ"}]}
    ]}"#;
    let filter = compile_for(&custom(text), Machine::X86_64).unwrap();
    let of = |name: &str, args: &[u64]| named(&filter, Abi::X86_64, name, args);
    let default = 0x0005_000d;
    assert_eq!(of("getpid", &[]), default);
    assert_eq!(of("read", &[3, 0, 1 << 32]), ALLOW);
    assert_eq!(of("read", &[3, 0, (1 << 32) + 1]), 0x0003_0000, "the second rule");
    assert_eq!(of("read", &[4, 0, 0]), default);
    // Two comparisons of one argument: one of them suffices.
    assert_eq!(of("write", &[1]), ALLOW);
    assert_eq!(of("write", &[2]), ALLOW);
    assert_eq!(of("write", &[3]), default);
    // What has no condition makes what has one void, before and after it.
    assert_eq!(of("close", &[1]), 0x7ffc_0000);
    assert_eq!(of("dup", &[1]), 0x7ff0_004d);
    assert_eq!(of("lseek", &[0, 0x01ff_ffff_ffff_ffff]), KILL_PROCESS);
    assert_eq!(of("lseek", &[0, 0x02ff_ffff_ffff_ffff]), default);
    // Only what is listed, and what has no number there, is not the architecture's.
    assert_eq!(answer(&filter, Abi::X86, 3, &[]), KILL_PROCESS);
    assert_eq!(answer(&filter, Abi::X86_64, 0x4000_0000, &[]), KILL_PROCESS);
    assert_eq!(answer(&filter, Abi::X86_64, u32::MAX, &[]), default);
    assert_eq!(answer(&filter, Abi::X86_64, number(Abi::X86_64, "getpid") + 1, &[]), NO_SUCH_CALL);
}

#[test]
fn calls_of_many_calls_follow_what_they_stand_for() {
    let allow = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["bind", "shmget"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#;
    let filter = compile_for(&custom(allow), Machine::X86_64).unwrap();
    for (call, which, expected) in [("socketcall", 2, ALLOW), ("socketcall", 1, EPERM), ("ipc", 23, ALLOW), ("ipc", 1, EPERM)] {
        assert_eq!(named(&filter, Abi::X86, call, &[which]), expected, "{call} {which}");
    }
    let refuse = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
        {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]}]}"#;
    let filter = compile_for(&custom(refuse), Machine::X86_64).unwrap();
    assert_eq!(named(&filter, Abi::X86, "socketcall", &[1]), EPERM);
    assert_eq!(named(&filter, Abi::X86, "socketcall", &[2]), ALLOW);
    assert_eq!(answer(&filter, Abi::X86, 400, &[]), ALLOW, "nothing is unknown to a profile that allows");
}

#[test]
fn conditions_of_rules() {
    let rule = |condition: &str| {
        format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{{"names":["read"],"action":"SCMP_ACT_ALLOW",{condition}}}]}}"#)
    };
    let cases = [
        (r#""includes": {}, "excludes": {}, "comment": "for all""#, true),
        (r#""includes": {"arches": ["amd64"]}"#, true),
        (r#""includes": {"arches": ["arm64", "x32"]}"#, false),
        (r#""excludes": {"arches": ["amd64"]}"#, false),
        (r#""includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}"#, true),
        (r#""includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}"#, false),
        (r#""includes": {"caps": ["CAP_OF_TOMORROW"]}"#, false),
        (r#""excludes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}"#, false),
        (r#""excludes": {"caps": ["CAP_SYS_ADMIN"]}"#, true),
        (r#""includes": {"minKernel": "6.18"}"#, true),
        (r#""includes": {"minKernel": "7.0"}"#, false),
        (r#""includes": {"minKernel": "6.19"}"#, false),
        (r#""excludes": {"minKernel": "4.8"}"#, false),
        (r#""args": null, "includes": null, "errnoRet": null, "name": """#, true),
    ];
    for (condition, counts) in cases {
        let spec = custom(&rule(condition));
        assert_eq!(spec.syscalls().as_ref().unwrap().len(), usize::from(counts), "{condition}");
    }
}

#[test]
fn what_is_no_profile_is_refused_by_name() {
    let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{{rule}}}]}}"#);
    let arg = |arg: &str| rule(&format!(r#""names": ["read"], "action": "SCMP_ACT_LOG", "args": [{{{arg}}}]"#));
    let cases = [
        ("{".to_owned(), "Decoding seccomp profile failed: EOF"),
        (r#"{"defaultActoin": "SCMP_ACT_ALLOW"}"#.to_owned(), "unknown field `defaultActoin`"),
        (r#"{"defaultAction": "SCMP_ACT_PASS"}"#.to_owned(), "unknown variant `SCMP_ACT_PASS`"),
        (r#"{"syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG"}]}"#.to_owned(), "defaultAction is missing"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.to_owned(), "SCMP_ACT_NOTIFY is not supported"),
        (r#"{"defaultAction": "SCMP_ACT_LOG", "listenerPath": "/x"}"#.to_owned(), "listenerPath is not supported"),
        (
            r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#.to_owned(),
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is not supported",
        ),
        (r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["X"]}"#.to_owned(), "unknown variant `X`"),
        (r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_VAX"]}"#.to_owned(), "`SCMP_ARCH_VAX`"),
        (
            r#"{"defaultAction": "SCMP_ACT_LOG", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#
                .to_owned(),
            "'architectures' and 'archMap' were specified",
        ),
        (rule(r#""names": ["read"], "name": "read", "action": "SCMP_ACT_LOG""#), "'name' and 'names' were specified"),
        (rule(r#""action": "SCMP_ACT_LOG""#), "a rule names no system call"),
        (rule(r#""names": [""], "action": "SCMP_ACT_LOG""#), "empty string is not a valid syscall"),
        (rule(r#""names": ["read"]"#), "missing field `action`"),
        (rule(r#""names": ["read"], "action": "SCMP_ACT_LOG", "errno": "EPERM""#), "unknown field `errno`"),
        (rule(r#""names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#), "errnoRet 4096 of SCMP_ACT_ERRNO"),
        (rule(r#""names": ["read"], "action": "SCMP_ACT_NOTIFY""#), "SCMP_ACT_NOTIFY is not supported"),
        (rule(r#""names": ["read"], "action": "SCMP_ACT_LOG", "includes": {"cap": []}"#), "unknown field `cap`"),
        (rule(r#""names": ["read"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "6"}"#), "kernel version: \"6\""),
        (arg(r#""index": 6, "value": 1, "op": "SCMP_CMP_EQ""#), "read: there is no argument 6"),
        (arg(r#""index": 1, "value": 1, "op": "SCMP_CMP_IS""#), "unknown variant `SCMP_CMP_IS`"),
        (arg(r#""index": 1, "value": -1, "op": "SCMP_CMP_EQ""#), "integer `-1`"),
    ];
    for (text, part) in cases {
        let error = to_spec(&config::Seccomp::Profile(text.clone()), &[], false).unwrap_err();
        assert!(error.to_string().contains(part), "{text}: {error}");
        assert!(matches!(error.class(), Class::Invalid | Class::Unsupported), "{text}");
    }
}

#[test]
fn who_gets_no_filter() {
    let empty = config::Seccomp::Profile("{}".to_owned());
    assert_eq!(to_spec(&empty, &[], false).unwrap(), None);
    assert_eq!(to_spec(&config::Seccomp::Unconfined, &[], false).unwrap(), None);
    assert_eq!(to_spec(&config::Seccomp::Default, &[], true).unwrap(), None);
    assert!(to_spec(&config::Seccomp::Default, &[], false).unwrap().is_some());
}

#[test]
fn a_filter_too_long_for_the_kernel_is_refused() {
    let mut syscalls = Vec::new();
    for (name, _) in Abi::X86_64.calls() {
        for index in 0..6 {
            let arg = argument(index, Operator::ScmpCmpEq, 0x1_0000_0001, None).unwrap();
            syscalls.push(rule(&[name], Action::ScmpActErrno, &[arg]));
        }
    }
    let mut spec = LinuxSeccomp::default();
    spec.set_syscalls(Some(syscalls));
    let error = compile_for(&spec, Machine::X86_64).unwrap_err();
    assert_eq!(error.class(), Class::Invalid);
    assert!(error.to_string().contains("instructions, the kernel takes 4096"), "{error}");
}

fn rule(names: &[&str], action: Action, args: &[oci_spec::runtime::LinuxSeccompArg]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect()).set_action(action);
    rule.set_args((!args.is_empty()).then(|| args.to_vec()));
    rule
}

/// Numbers without a pattern, the same in every run. Source: Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

const VALUES: [u64; 12] =
    [0, 1, 2, 38, 40, 0x7e02_0000, 0xffff_ffff, 1 << 32, 0x1_0000_0026, 0xffff_ffff_0000_0000, 1 << 63, u64::MAX];

const NAMES: [&str; 11] =
    ["read", "mmap", "socket", "clone", "personality", "ioctl", "prctl", "mount", "clone3", "kcmp", "getcpu"];

fn random_profile(random: &mut Random) -> LinuxSeccomp {
    let actions = [
        Action::ScmpActAllow,
        Action::ScmpActErrno,
        Action::ScmpActLog,
        Action::ScmpActTrap,
        Action::ScmpActKillProcess,
        Action::ScmpActTrace,
    ];
    let operators = [
        Operator::ScmpCmpNe,
        Operator::ScmpCmpLt,
        Operator::ScmpCmpLe,
        Operator::ScmpCmpEq,
        Operator::ScmpCmpGe,
        Operator::ScmpCmpGt,
        Operator::ScmpCmpMaskedEq,
    ];
    let mut rules = Vec::new();
    for _ in 0..random.below(40) {
        let args: Vec<_> = (0..random.of(&[0, 1, 1, 2, 3]))
            .map(|_| argument(random.below(3), random.of(&operators), random.of(&VALUES), Some(random.of(&VALUES))).unwrap())
            .collect();
        rules.push(rule(&[random.of(&NAMES), random.of(&NAMES)], random.of(&actions), &args));
    }
    let mut spec = LinuxSeccomp::default();
    let arches: Vec<Arch> = [Arch::ScmpArchX86, Arch::ScmpArchX32].into_iter().filter(|_| random.below(2) == 0).collect();
    spec.set_default_action(random.of(&actions)).set_architectures(Some(arches)).set_syscalls(Some(rules));
    spec
}

/// What a profile says, read straight from it.
fn expected(spec: &LinuxSeccomp, abi: Abi, calls: &HashMap<u32, &str>, nr: u32, args: [u64; 6]) -> u32 {
    let code = |action: Action| action.as_u32(None);
    let default = code(spec.default_action());
    let rules: Vec<&LinuxSyscall> = spec.syscalls().iter().flatten().collect();
    let mentions = |rule: &LinuxSyscall, name: &str| rule.names().iter().any(|other| other == name);
    let newest = calls.iter().filter(|(_, name)| rules.iter().any(|rule| mentions(rule, name))).map(|(nr, _)| *nr).max();
    let permissive = matches!(spec.default_action(), Action::ScmpActAllow | Action::ScmpActLog | Action::ScmpActTrace);
    if newest.is_some_and(|newest| nr > newest) && !permissive {
        return NO_SUCH_CALL;
    }
    let Some(name) = calls.get(&nr) else { return default };
    let about: Vec<&&LinuxSyscall> = rules.iter().filter(|rule| mentions(rule, name) && code(rule.action()) != default).collect();
    if let Some(rule) = about.iter().find(|rule| rule.args().is_none()) {
        return code(rule.action());
    }
    for rule in about {
        let args_of: Vec<_> = rule.args().iter().flatten().collect();
        let mut indices: Vec<usize> = args_of.iter().map(|arg| arg.index()).collect();
        indices.sort_unstable();
        indices.dedup();
        let mut holds = args_of.iter().map(|arg| {
            let narrow = abi.is_32_bit() || is_int(name, arg.index());
            let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
            let (have, value, two) = (cut(args[arg.index()]), cut(arg.value()), cut(arg.value_two().unwrap()));
            match arg.op() {
                Operator::ScmpCmpNe => have != value,
                Operator::ScmpCmpLt => have < value,
                Operator::ScmpCmpLe => have <= value,
                Operator::ScmpCmpEq => have == value,
                Operator::ScmpCmpGe => have >= value,
                Operator::ScmpCmpGt => have > value,
                Operator::ScmpCmpMaskedEq => have & value == two & value,
            }
        });
        if if indices.len() < args_of.len() { holds.any(|one| one) } else { holds.all(|one| one) } {
            return code(rule.action());
        }
    }
    default
}

#[test]
fn any_profile_decides_as_it_reads() {
    let mut random = Random(42);
    let calls = |abi: Abi| abi.calls().into_iter().map(|(name, nr)| (nr, name)).collect::<HashMap<_, _>>();
    let tables = [Abi::X86_64, Abi::X32, Abi::X86].map(|abi| (abi, calls(abi)));
    for _ in 0..150 {
        let spec = random_profile(&mut random);
        let filter = compile_for(&spec, Machine::X86_64).unwrap();
        let listed = spec.architectures().as_ref().unwrap();
        for (abi, table) in &tables {
            let named = table.iter().filter(|(_, name)| NAMES.contains(name)).flat_map(|(nr, _)| [*nr, *nr + 1, *nr]);
            let others: Vec<u32> = (0..30).map(|_| abi.base() + random.below(560) as u32).collect();
            for nr in named.chain(others).chain([abi.base() + 0x3fff_ffff]) {
                // These follow other calls on x86, which has a test of its own.
                if *abi == Abi::X86 && matches!(nr, 102 | 117) {
                    continue;
                }
                let mut args = [0; 6];
                args.fill_with(|| random.of(&VALUES));
                let has = *abi == Abi::X86_64 || listed.contains(&abi.arch());
                let right = if has { expected(&spec, *abi, table, nr, args) } else { KILL_PROCESS };
                assert_eq!(answer(&filter, *abi, nr, &args), right, "{abi:?} {nr} {args:x?} {spec:#?}");
            }
        }
    }
}
