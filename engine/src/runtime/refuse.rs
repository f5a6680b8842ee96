//! What a spec may ask for and this runtime does not do, each by its name in the spec.

use fs_base::{Error, Result};
use oci_spec::runtime::{Process, Spec};

use crate::apparmor::AppArmor;
use crate::selinux::SELinux;

/// Refuses what would else be ignored.
pub fn check(spec: &Spec) -> Result<()> {
    // Semantic versions of one major number are compatible.
    let major = spec.version().split_once('.').map(|(major, rest)| (major, rest.split('.').count()));
    if !matches!(major, Some(("1", 2..))) {
        return Err(Error::invalid(format!("ociVersion {:?} is not supported: version 1 is", spec.version())));
    }
    let hooks = spec.hooks().as_ref().and_then(|hooks| serde_json::to_value(hooks).ok());
    let has_hooks = hooks.is_some_and(|hooks| {
        let lists = hooks.as_object().into_iter().flatten();
        lists.filter_map(|(_, list)| list.as_array()).any(|list| !list.is_empty())
    });
    let mut asked = vec![(has_hooks, "hooks")];
    if let Some(linux) = spec.linux() {
        asked.extend([
            (linux.intel_rdt().is_some(), "linux.intelRdt"),
            (linux.memory_policy().is_some(), "linux.memoryPolicy"),
            (linux.personality().is_some(), "linux.personality"),
            (linux.time_offsets().as_ref().is_some_and(|offsets| !offsets.is_empty()), "linux.timeOffsets"),
            (linux.net_devices().as_ref().is_some_and(|devices| !devices.is_empty()), "linux.netDevices"),
        ]);
    }
    refuse(&asked)?;
    check_label("linux.mountLabel", spec.linux().as_ref().and_then(|linux| linux.mount_label().as_ref()))?;
    spec.process().as_ref().map_or(Ok(()), process)
}

/// The same of a process, the first or a further one.
pub fn process(process: &Process) -> Result<()> {
    refuse(&[
        (process.scheduler().is_some(), "process.scheduler"),
        (process.io_priority().is_some(), "process.ioPriority"),
        (process.exec_cpu_affinity().is_some(), "process.execCPUAffinity"),
    ])?;
    check_label("process.selinuxLabel", process.selinux_label().as_ref())?;
    if says(process.apparmor_profile().as_ref()) && !AppArmor::of_host().is_enabled() {
        return Err(Error::unsupported("process.apparmorProfile is not supported: AppArmor is not enabled on this host"));
    }
    let mut seen = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        if seen.contains(&limit.typ()) {
            return Err(Error::invalid(format!("process.rlimits names {} twice", limit.typ())));
        }
        seen.push(limit.typ());
    }
    Ok(())
}

fn check_label(name: &str, label: Option<&String>) -> Result<()> {
    if !says(label) || SELinux::of_host().is_enabled() {
        return Ok(());
    }
    Err(Error::unsupported(format!("{name} is not supported: SELinux is not enabled on this host")))
}

fn says(text: Option<&String>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn refuse(asked: &[(bool, &str)]) -> Result<()> {
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, name)) => Err(Error::unsupported(format!("{name} is not supported by the built-in runtime"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(&format!("{{\"ociVersion\": \"1.0.2\", {json}}}")).unwrap()
    }

    #[test]
    fn nothing_is_ignored() {
        for (json, name) in [
            (r#""hooks": {"poststop": [{"path": "/bin/true"}]}"#, "hooks"),
            (r#""linux": {"personality": {"domain": "LINUX32"}}"#, "linux.personality"),
            (r#""linux": {"timeOffsets": {"boottime": {"secs": 1, "nanosecs": 0}}}"#, "linux.timeOffsets"),
        ] {
            let said = check(&spec(json)).unwrap_err().to_string();
            assert_eq!(said, format!("{name} is not supported by the built-in runtime"), "{json}");
        }
        for (json, name) in [
            (r#""linux": {"mountLabel": "system_u"}"#, "linux.mountLabel"),
            (r#""process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "selinuxLabel": "x"}"#, "process.selinuxLabel"),
        ] {
            let said = check(&spec(json)).map_err(|error| error.to_string());
            let refused = format!("{name} is not supported: SELinux is not enabled on this host");
            assert_eq!(said, if SELinux::of_host().is_enabled() { Ok(()) } else { Err(refused) }, "{json}");
        }
        for bad in ["", "1", "2.0.0", "1.0", "x.y.z"] {
            let mut spec = spec(r#""hostname": "x""#);
            spec.set_version(bad.to_owned());
            assert!(check(&spec).unwrap_err().to_string().contains("ociVersion"), "{bad}");
        }
        check(&spec(
            r#""hooks": {"poststop": []}, "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "apparmorProfile": ""}"#,
        ))
        .unwrap();
    }
}
