//! Smaller values.

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

/// Go's booleans.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// `--ulimit NAME=SOFT[:HARD]`.
pub fn ulimit(text: &str) -> Result<Value> {
    let bad = || anyhow!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard): (i64, i64) = (soft.parse().map_err(|_| bad())?, hard.parse().map_err(|_| bad())?);
    if hard >= 0 && (soft > hard || soft < 0) {
        bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
    }
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

/// `--device HOST[:CONTAINER[:rwm]]`.
pub fn device(text: &str) -> Result<Value> {
    let rights = |part: &str| !part.is_empty() && part.chars().all(|c| "rwm".contains(c));
    let (host, container, permissions) = match text.split(':').collect::<Vec<_>>().as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, part] if rights(part) => (*host, *host, *part),
        [host, container] => (*host, *container, "rwm"),
        [host, container, part] if rights(part) => (*host, *container, *part),
        _ => bail!("invalid device specification: {text}"),
    };
    Ok(json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": permissions}))
}

/// `--cpus 1.5` in billionths of a CPU.
pub fn cpus(text: &str) -> Result<i64> {
    let cpus: f64 = text.parse().map_err(|_| anyhow!("failed to parse {text} as a rational number"))?;
    let nano = cpus * 1e9;
    if (nano - nano.round()).abs() > 1e-3 {
        bail!("value is too precise");
    }
    Ok(nano.round() as i64)
}

/// `--restart NAME[:COUNT]`.
pub fn restart(text: &str) -> Result<Value> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    if name.is_empty() && count.is_some() {
        bail!("invalid restart policy format: no policy provided before colon");
    }
    let count = count
        .map_or(Ok(0), str::parse::<i64>)
        .map_err(|_| anyhow!("invalid restart policy format: maximum retry count must be an integer"))?;
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

/// `--security-opt`; a seccomp profile's file is read and sent along.
pub fn security(text: &str) -> Result<String> {
    let Some((key, value)) = text.split_once(['=', ':']) else {
        if text == "no-new-privileges" {
            return Ok(text.to_owned());
        }
        bail!("invalid --security-opt: {text:?}");
    };
    if key != "seccomp" || value == "unconfined" || value == "builtin" {
        return Ok(text.to_owned());
    }
    let profile = std::fs::read(value).map_err(|error| anyhow!("opening seccomp profile ({value}) failed: {error}"))?;
    let profile: Value = serde_json::from_slice(&profile)
        .map_err(|error| anyhow!("compacting json for seccomp profile ({value}) failed: {error}"))?;
    Ok(format!("seccomp={profile}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_values_are_read() {
        assert_eq!(ulimit("nofile=10:20").unwrap(), json!({"Name": "nofile", "Soft": 10, "Hard": 20}));
        assert!(ulimit("nofile=20:10").is_err());
        assert_eq!(device("/dev/null:r").unwrap()["CgroupPermissions"], "r");
        assert_eq!(device("/dev/null:/dev/x:rw").unwrap()["PathInContainer"], "/dev/x");
        assert!(device("a:b:c").is_err());
        assert_eq!(cpus("1.5").unwrap(), 1_500_000_000);
        assert_eq!(restart("on-failure:3").unwrap(), json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert_eq!(security("no-new-privileges").unwrap(), "no-new-privileges");
        assert!(security("seccomp=/nonexistent").is_err());
    }
}
