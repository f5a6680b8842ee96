//! The text of the default profile.
//!
//! It lets everything through that the container's capabilities, system calls, devices and mounts leave, but for what
//! would reach the host even with rights of its own: mounting, the kernel's settings and controls in /proc and /sys,
//! and looking into processes that are not confined by it. What a container may do under Docker's profile it may do
//! under this one. Source: apparmor.d(5); what Docker's profile is for: docs.docker.com, "AppArmor security profiles
//! for Docker".

/// What may not even be read: they tell about, or act on, the whole machine.
const CLOSED: &[&str] =
    &["/proc/sysrq-trigger", "/proc/kcore", "/sys/firmware/**", "/sys/kernel/security/**", "/sys/devices/virtual/powercap/**"];

/// What may only be read. A deny rule has no exceptions, so each lists what differs from the one thing let through
/// beside it: in /proc the processes (numbers) and, of the settings, those of System V IPC, which are the container's
/// own; in /sys the cgroups.
const READ_ONLY: &[&str] = &[
    "/proc/[^0-9s]*{,/**}",
    "/proc/s[^y]*{,/**}",
    "/proc/sy[^s]*{,/**}",
    "/proc/sys?*{,/**}",
    "/proc/sys/[^k]*{,/**}",
    "/proc/sys/k[^e]*{,/**}",
    "/proc/sys/kernel/[^ms]*{,/**}",
    "/proc/sys/kernel/m[^s]*{,/**}",
    "/proc/sys/kernel/ms[^g]*{,/**}",
    "/proc/sys/kernel/s[^eh]*{,/**}",
    "/proc/sys/kernel/se[^m]*{,/**}",
    "/proc/sys/kernel/sh[^m]*{,/**}",
    "/sys/[^f]*{,/**}",
    "/sys/f[^s]*{,/**}",
    "/sys/fs/[^c]*{,/**}",
    "/sys/fs/c[^g]*{,/**}",
];

/// The profile `name`, whose processes get the signals of `daemon` too, if the daemon has a profile of its own.
pub fn text(name: &str, daemon: Option<&str>) -> String {
    let mut rules: Vec<String> = ["file", "network", "capability", "umount"].iter().map(|rule| format!("{rule},")).collect();
    // Ubuntu gives other runtimes profiles of these names, which forbid nothing.
    for peer in ["unconfined", "runc", "crun"].into_iter().chain(daemon) {
        rules.push(format!("signal (receive) peer={peer},"));
    }
    rules.push(format!("signal (send, receive) peer={name},"));
    rules.push(format!("ptrace (read, trace, readby, tracedby) peer={name},"));
    rules.extend(["mount", "remount", "pivot_root"].iter().map(|rule| format!("deny {rule},")));
    rules.extend(CLOSED.iter().map(|path| format!("deny {path} rwklx,")));
    rules.extend(READ_ONLY.iter().map(|path| format!("deny {path} wkl,")));
    // Descriptors that come from outside of its tree, and files that were deleted, have names too.
    format!("profile {name} flags=(attach_disconnected, mediate_deleted) {{\n  {}\n}}\n", rules.join("\n  "))
}
