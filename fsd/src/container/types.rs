//! The JSON types of what a container is made from: a field of a wrong type would else be taken for one that says nothing.

use fs_base::{Error, Result};
use serde_json::{Map, Value, json};

/// What a field has to be, besides null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Flag,
    Number,
    Texts,
    /// A list of texts; one text is a list of one. Source: moby, `strslice`.
    Words,
    Object,
}

/// The fields of `Config` that are not read into a type of their own.
const CONFIG: &[(Kind, &[&str])] = &[
    (Kind::Text, &["Hostname", "Domainname", "User", "WorkingDir", "Image", "StopSignal", "MacAddress"]),
    (Kind::Flag, &["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce", "NetworkDisabled"]),
    (Kind::Number, &["StopTimeout"]),
    (Kind::Texts, &["Env", "OnBuild"]),
    (Kind::Words, &["Cmd", "Entrypoint", "Shell"]),
    (Kind::Object, &["ExposedPorts", "Volumes", "Labels", "Healthcheck"]),
];

/// The same of `HostConfig`.
const HOST: &[(Kind, &[&str])] = &[
    (
        Kind::Text,
        &[
            "NetworkMode",
            "IpcMode",
            "PidMode",
            "UTSMode",
            "UsernsMode",
            "CgroupnsMode",
            "Runtime",
            "Isolation",
            "VolumeDriver",
            "CgroupParent",
        ],
    ),
    (Kind::Flag, &["AutoRemove", "Privileged", "PublishAllPorts", "ReadonlyRootfs", "Init", "OomKillDisable"]),
    (Kind::Number, &["ShmSize", "OomScoreAdj", "Memory", "MemorySwap", "NanoCpus", "PidsLimit"]),
    (
        Kind::Texts,
        &[
            "Binds",
            "Dns",
            "DnsOptions",
            "DnsSearch",
            "ExtraHosts",
            "GroupAdd",
            "Links",
            "SecurityOpt",
            "VolumesFrom",
            "MaskedPaths",
            "ReadonlyPaths",
        ],
    ),
    (Kind::Words, &["CapAdd", "CapDrop"]),
    (Kind::Object, &["PortBindings", "Sysctls", "Tmpfs", "LogConfig", "RestartPolicy"]),
];

/// Checks the container's part, and turns single words into lists.
pub fn config(config: &mut Map<String, Value>) -> Result<()> {
    check(config, CONFIG, "")
}

/// Checks the host's part, and turns single words into lists.
pub fn host_config(host: &mut Map<String, Value>) -> Result<()> {
    check(host, HOST, "HostConfig.")
}

fn check(object: &mut Map<String, Value>, known: &[(Kind, &[&str])], path: &str) -> Result<()> {
    for (kind, keys) in known {
        for key in *keys {
            let Some(value) = object.get_mut(*key).filter(|value| !value.is_null()) else { continue };
            if let (Kind::Words, Value::String(word)) = (kind, &*value) {
                *value = json!([word]);
            }
            if !kind.fits(value) {
                return Err(Error::invalid(format!("invalid JSON: {path}{key} must be {}", kind.words())));
            }
        }
    }
    Ok(())
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Flag => value.is_boolean(),
            Kind::Number => value.is_number(),
            Kind::Texts | Kind::Words => value.as_array().is_some_and(|list| list.iter().all(Value::is_string)),
            Kind::Object => value.is_object(),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Kind::Text => "a string",
            Kind::Flag => "true or false",
            Kind::Number => "a number",
            Kind::Texts | Kind::Words => "a list of strings",
            Kind::Object => "an object",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_type_is_told_and_one_word_is_a_list() {
        let mut body = json!({"Cmd": "true", "User": null, "Env": [], "Unknown": 7});
        config(body.as_object_mut().unwrap()).unwrap();
        assert_eq!(body["Cmd"], json!(["true"]));
        for (body, text) in [
            (json!({"User": 7}), "invalid JSON: User must be a string"),
            (json!({"Env": "A=1"}), "invalid JSON: Env must be a list of strings"),
            (json!({"Env": [1]}), "invalid JSON: Env must be a list of strings"),
            (json!({"Labels": []}), "invalid JSON: Labels must be an object"),
        ] {
            assert_eq!(config(body.clone().as_object_mut().unwrap()).unwrap_err().to_string(), text);
        }
        let error = host_config(json!({"Privileged": "true"}).as_object_mut().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "invalid JSON: HostConfig.Privileged must be true or false");
    }
}
