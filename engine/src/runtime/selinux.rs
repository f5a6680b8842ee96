//! Going over to an SELinux label, and mounting what shows its files under one. Source: kernel
//! `security/selinux/hooks.c`, `selinux_setprocattr` and `selinux_set_mnt_opts`.

use fs_base::sys::mount::{FsContext, Mount};
use fs_base::sys::xattr;
use fs_base::{Error, Result};
use oci_spec::runtime::Spec;
use rustix::io::Errno;

use super::attr::{self, When};

/// Where a file's label is.
const ATTRIBUTE: &str = "security.selinux";

/// Has the keyrings that this process makes from now on belong to `label`.
pub fn label_keys(label: &str) -> Result<()> {
    attr::write(&["keycreate"], label).map_err(|error| explained(error, label))
}

/// Has this process go over to `label`. A filter of system calls must not be in force yet.
pub fn confine(label: &str, when: When) -> Result<()> {
    let file = match when {
        When::Exec => "exec",
        When::Now => "current",
    };
    attr::write(&[file], label).map_err(|error| {
        let denied = error.raw_os_error() == Some(Errno::ACCESS.raw_os_error());
        let error = explained(error, label);
        if denied && when == When::Now {
            // The small init is no program of its own.
            error.with_hint("the policy lets no process go over to it without a new program (dyntransition): leave --init out")
        } else {
            error
        }
    })
}

fn explained(error: Error, label: &str) -> Error {
    let error = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::INVAL) => Error::invalid("the host's policy does not have it"),
        Some(Errno::ACCESS) => Error::denied("the host's policy forbids it"),
        _ => error,
    };
    error.context(format!("unable to apply SELinux label {label:?}"))
}

/// The label of the files of what a spec has mounted.
pub fn of_mounts(spec: &Spec) -> Option<&str> {
    let label = spec.linux().as_ref()?.mount_label().as_deref();
    label.filter(|label| !label.is_empty())
}

/// Tells a file system that is about to be made to show its files under the spec's label, if it is one that can. The
/// kernel's own ones keep what the policy has for them.
pub fn set_context(spec: &Spec, typ: &str, context: &FsContext) -> Result<()> {
    match of_mounts(spec) {
        Some(label) if matches!(typ, "tmpfs" | "devpts") => context.string("context", label),
        _ => Ok(()),
    }
}

/// Labels the root of a file system that can't be told so before it is made: that of message queues is as old as its
/// namespace.
pub fn label_root(spec: &Spec, typ: &str, mount: &Mount) -> Result<()> {
    match of_mounts(spec) {
        Some(label) if typ == "mqueue" => {
            xattr::set(mount, ATTRIBUTE, label.as_bytes()).map_err(|error| error.context("label /dev/mqueue"))
        }
        _ => Ok(()),
    }
}
