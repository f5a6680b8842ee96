//! Filters in the kernel: threads put under one, and the programs they start.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use engine::{capability, config, seccomp};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// Runs `work` in a thread that is under the profile; what it starts is too.
fn under<T: Send + 'static>(profile: &config::Seccomp, work: impl FnOnce() -> T + Send + 'static) -> T {
    let spec = seccomp::to_spec(profile, &capability::DEFAULT, false).unwrap().unwrap();
    let filter = seccomp::compile(&spec).unwrap();
    let thread = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        filter.install().unwrap();
        work()
    });
    thread.join().unwrap()
}

fn profile(text: &str) -> config::Seccomp {
    config::Seccomp::Profile(text.to_owned())
}

fn sh(script: &str) -> Output {
    Command::new("/bin/sh").args(["-c", script]).output().unwrap()
}

/// Makes system calls as they are written, a number and arguments each, and prints the errno of each; 0 for none.
const CALLS: &str = r#"
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
for line in sys.argv[1].split(";"):
    ctypes.set_errno(0)
    libc.syscall(*[ctypes.c_long(int(word, 0)) for word in line.split()])
    print(ctypes.get_errno())
"#;

/// The output of that; `None` if there is no python3 to do it.
fn raw(calls: &str) -> Option<Output> {
    let output = Command::new("python3").args(["-c", CALLS, calls]).output();
    if output.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        println!("SKIPPED: tools: python3 is not there, it makes raw system calls");
        return None;
    }
    Some(output.unwrap())
}

#[test]
fn calls_that_change_the_machine_are_refused() {
    let unmount = || rustix::mount::unmount("/nonexistent", UnmountFlags::empty());
    let refused = under(&config::Seccomp::Default, move || {
        let mount = rustix::mount::mount("none", "/nonexistent", "tmpfs", MountFlags::empty(), None);
        (mount, unmount())
    });
    assert_eq!(refused, (Err(Errno::PERM), Err(Errno::PERM)));
    // Without the filter there is nothing to unmount.
    assert!(!rustix::process::geteuid().is_root() || unmount() == Err(Errno::NOENT));
}

#[test]
fn ordinary_programs_run() {
    let (pipe, files, python) = under(&config::Seccomp::Default, || {
        // The C library and ours ask for clone3 first, and do without it.
        assert_eq!(std::thread::spawn(|| 6 * 7).join().unwrap(), 42);
        let pipe = sh("ls / | sort | wc -l && (sleep 0 & wait) && echo $(( 2 + 3 ))");
        let files =
            sh("cp /bin/sh /dev/null && find /etc -maxdepth 1 -newer /bin/sh >/dev/null; grep Seccomp: /proc/self/status");
        let script = "import socket, threading, subprocess; print(socket.socket().fileno() > 0)";
        (pipe, files, Command::new("python3").args(["-c", script]).output())
    });
    let text = String::from_utf8(pipe.stdout).unwrap();
    assert!(pipe.status.success() && text.ends_with("5\n"), "{text}");
    let text = String::from_utf8(files.stdout).unwrap();
    assert_eq!((files.status.success(), text.as_str()), (true, "Seccomp:\t2\n"));
    match python {
        Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout), "True\n", "{output:?}"),
        Err(_) => println!("SKIPPED: tools: python3 is not there"),
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn raw_calls_get_dockers_errors() {
    let cases = [
        ("250 0 -3 0", 1, "keyctl"),
        ("272 0x10000000", 1, "unshare"),
        ("272 0", 1, "unshare of nothing"),
        ("435 0 0", 38, "clone3"),
        ("56 0x10000011 0 0", 1, "clone with a user namespace"),
        ("425 1 0", 1, "io_uring_setup"),
        ("323 0", 1, "userfaultfd"),
        ("321 0 0 0", 1, "bpf"),
        ("135 0xffffffff", 0, "personality, asked"),
        ("135 0x0004000", 1, "personality, changed"),
        ("41 38 5 0", 1, "socket of AF_ALG"),
        ("41 40 1 0", 1, "socket of AF_VSOCK"),
        ("41 0x100000026 5 0", 1, "socket of AF_ALG, disguised"),
        ("41 1 1 0", 0, "socket of AF_UNIX"),
        ("467 0 0 0", 38, "open_tree_attr, newer than the profile"),
        ("5000", 38, "no call at all"),
        ("39", 0, "getpid"),
    ];
    let calls: Vec<&str> = cases.iter().map(|(call, _, _)| *call).collect();
    let calls = calls.join(";");
    let Some(output) = under(&config::Seccomp::Default, move || raw(&calls)) else { return };
    let text = String::from_utf8(output.stdout).unwrap();
    let errors: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(errors.len(), cases.len(), "{}", String::from_utf8_lossy(&output.stderr));
    for (error, (_, expected, name)) in errors.iter().zip(cases) {
        assert_eq!(*error, expected, "{name}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_architecture_that_is_not_listed_ends_the_process() {
    let only_native = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 55}]}"#;
    let Some(output) = under(&profile(only_native), || raw("39")) else { return };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "55\n");
    // getpid of x32.
    let Some(output) = under(&profile(only_native), || raw("0x40000027")) else { return };
    assert_eq!(output.status.signal(), Some(rustix::process::Signal::SYS.as_raw()), "{output:?}");
}

#[test]
fn a_profile_with_flags_is_installed() {
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [{"names": ["umount2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}]}"#;
    let done = under(&profile(text), || rustix::mount::unmount("/nonexistent", UnmountFlags::empty()));
    assert_eq!(done, Err(Errno::ADDRNOTAVAIL));
}
