//! A profile in Docker's JSON form, resolved for one container on one host.
//!
//! Source: <https://docs.docker.com/engine/security/seccomp/> and the types of moby/profiles.

use fs_base::{Error, Result};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompFilterFlag as FilterFlag, LinuxSeccompOperator as Operator, LinuxSyscall,
};
use serde::Deserialize;

use super::abi::Machine;
use crate::capability;

/// What the conditions of a profile are about.
pub(super) struct Host {
    pub(super) machine: Machine,
    /// The kernel's version: 6.18 is (6, 18).
    pub(super) kernel: (u64, u64),
    /// What the container has in its bounding set.
    pub(super) capabilities: Vec<Capability>,
}

impl Host {
    /// This one.
    pub(super) fn here(capabilities: &[Capability]) -> Result<Host> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let kernel = version(&release).ok_or_else(|| Error::internal(format!("failed to parse kernel version \"{release}\"")))?;
        Ok(Host { machine: Machine::here()?, kernel, capabilities: capabilities.to_vec() })
    }

    fn has(&self, name: &str) -> bool {
        self.capabilities.iter().any(|capability| capability::name(*capability) == name)
    }
}

/// The first two numbers of a kernel's release, whatever follows.
fn version(release: &str) -> Option<(u64, u64)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The file. What it may hold is here in full: a field that is not is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    default_action: Option<Action>,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<FilterFlag>>,
    listener_path: Option<String>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Architecture {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: Action,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    /// For readers.
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Arg {
    index: usize,
    #[serde(default)]
    value: u64,
    value_two: Option<u64>,
    op: Operator,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads a profile; `None` if it says nothing at all, which for Docker means that nothing is filtered.
pub(super) fn resolve(text: &str, host: &Host) -> Result<Option<LinuxSeccomp>> {
    let profile: Profile =
        serde_json::from_str(text).map_err(|error| Error::invalid(format!("Decoding seccomp profile failed: {error}")))?;
    let rules = profile.syscalls.unwrap_or_default();
    let Some(default_action) = profile.default_action else {
        return if rules.is_empty() { Ok(None) } else { Err(Error::invalid("seccomp profile: defaultAction is missing")) };
    };
    let mut spec = LinuxSeccomp::default();
    spec.set_default_action(default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(architectures(profile.architectures, profile.arch_map, host.machine)?)
        .set_flags(profile.flags)
        .set_listener_path(profile.listener_path.filter(|path| !path.is_empty()).map(Into::into))
        .set_listener_metadata(profile.listener_metadata.filter(|text| !text.is_empty()));
    let mut syscalls = Vec::new();
    for rule in rules {
        if rule.counts(host)? {
            syscalls.push(rule.into_spec()?);
        }
    }
    spec.set_syscalls(Some(syscalls));
    Ok(Some(spec))
}

/// Those that are listed; else this machine's entry of the map.
fn architectures(listed: Option<Vec<Arch>>, map: Option<Vec<Architecture>>, machine: Machine) -> Result<Option<Vec<Arch>>> {
    let (listed, map) = (listed.unwrap_or_default(), map.unwrap_or_default());
    if !listed.is_empty() && !map.is_empty() {
        return Err(Error::invalid(
            "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'",
        ));
    }
    let native = machine.native().arch();
    let entry = map.into_iter().find(|entry| entry.architecture == native);
    Ok(Some(match entry {
        Some(entry) => [vec![native], entry.sub_architectures.unwrap_or_default()].concat(),
        None => listed,
    }))
}

impl Rule {
    fn counts(&self, host: &Host) -> Result<bool> {
        if let Some(excludes) = &self.excludes
            && (excludes.arches().iter().any(|arch| arch == host.machine.docker_name())
                || excludes.caps().iter().any(|name| host.has(name))
                || excludes.min_kernel()?.is_some_and(|least| host.kernel >= least))
        {
            return Ok(false);
        }
        let Some(includes) = &self.includes else { return Ok(true) };
        let arches = includes.arches();
        Ok((arches.is_empty() || arches.iter().any(|arch| arch == host.machine.docker_name()))
            && includes.caps().iter().all(|name| host.has(name))
            && includes.min_kernel()?.is_none_or(|least| host.kernel >= least))
    }

    fn into_spec(self) -> Result<LinuxSyscall> {
        let names = match (self.name.filter(|name| !name.is_empty()), self.names.unwrap_or_default()) {
            (Some(_), names) if !names.is_empty() => {
                return Err(Error::invalid(
                    "'name' and 'names' were specified in the seccomp profile, use either 'name' or 'names'",
                ));
            }
            (Some(name), _) => vec![name],
            (None, names) if names.is_empty() => {
                return Err(Error::invalid("seccomp profile: a rule names no system call"));
            }
            (None, names) => names,
        };
        let args = self.args.unwrap_or_default().into_iter();
        let args = args.map(|arg| argument(arg.index, arg.op, arg.value, arg.value_two)).collect::<Result<Vec<_>>>()?;
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args((!args.is_empty()).then_some(args));
        Ok(syscall)
    }
}

/// A comparison, as an OCI spec holds it.
pub(super) fn argument(index: usize, operator: Operator, value: u64, value_two: Option<u64>) -> Result<LinuxSeccompArg> {
    let builder = LinuxSeccompArgBuilder::default().index(index).op(operator).value(value);
    let builder = match value_two {
        Some(value) => builder.value_two(value),
        None => builder,
    };
    builder.build().map_err(|error| Error::internal("seccomp profile: argument").with_source(error))
}

impl Condition {
    fn caps(&self) -> &[String] {
        self.caps.as_deref().unwrap_or_default()
    }

    fn arches(&self) -> &[String] {
        self.arches.as_deref().unwrap_or_default()
    }

    fn min_kernel(&self) -> Result<Option<(u64, u64)>> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = |text: &str| text.parse::<u8>().ok().map(u64::from);
        let version = text.split_once('.').and_then(|(kernel, major)| Some((number(kernel)?, number(major)?)));
        match version {
            Some((0, 0)) | None => Err(Error::invalid(format!(
                "Decoding seccomp profile failed: invalid kernel version: \"{text}\", expected \"<kernel>.<major>\""
            ))),
            version => Ok(version),
        }
    }
}
