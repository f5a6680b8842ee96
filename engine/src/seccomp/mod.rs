//! Which system calls a container may make: from Docker's profiles to the program that the kernel runs before each call.
//!
//! A profile becomes an OCI one when the container's capabilities are known ([`to_spec`]), and that a [`Filter`] when
//! the container starts ([`compile`]). No library is needed for it, and no file is read.

use fs_base::Result;
use oci_spec::runtime::{Capability, LinuxSeccomp};

use crate::config;

mod abi;
mod compile;
mod default;
#[cfg(test)]
mod interpreter;
mod profile;
mod program;
mod rules;
#[cfg(test)]
mod tests;

pub use compile::{Filter, compile};

/// The profile of a container that has `capabilities` in its bounding set, as its OCI spec holds it; `None` if nothing
/// is filtered. A profile that can't be compiled is refused here already.
pub fn to_spec(profile: &config::Seccomp, capabilities: &[Capability], privileged: bool) -> Result<Option<LinuxSeccomp>> {
    if privileged {
        return Ok(None);
    }
    match profile {
        config::Seccomp::Unconfined => Ok(None),
        config::Seccomp::Default => default::spec(&profile::Host::here(capabilities)?).map(Some),
        config::Seccomp::Profile(text) => {
            let spec = profile::resolve(text, &profile::Host::here(capabilities)?)?;
            spec.as_ref().map(compile).transpose()?;
            Ok(spec)
        }
    }
}
