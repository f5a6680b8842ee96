//! Going over to an AppArmor profile. Source: kernel `aa_change_profile`.

use fs_base::{Error, Result};
use rustix::io::Errno;

use super::attr::{self, When};

/// Has this process go over to `profile`, which has to be loaded. A filter of system calls must not be in force yet.
/// `no_new_privs` makes no difference to one that is unconfined.
pub fn confine(profile: &str, when: When) -> Result<()> {
    // Before 5.8 modules share one folder.
    let (files, word) = match when {
        When::Exec => (["apparmor/exec", "exec"], "exec"),
        When::Now => (["apparmor/current", "current"], "changeprofile"),
    };
    attr::write(&files, &format!("{word} {profile}")).map_err(|error| {
        let error = match error.raw_os_error().map(Errno::from_raw_os_error) {
            // The kernel's word for it is "no such file or directory", which people take for their program.
            Some(Errno::NOENT) => Error::unavailable("it is not loaded"),
            _ => error,
        };
        error.context(format!("unable to apply AppArmor profile {profile:?}"))
    })
}
