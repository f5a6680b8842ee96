use super::*;
use fs_base::{Class, ContainerId};

fn image(defaults: &Value) -> ImageConfig {
    let config = json!({"config": defaults, "rootfs": {"type": "layers", "diff_ids": []}});
    ImageConfig::parse(config.to_string().as_bytes()).unwrap()
}

/// As docker CLI 28 sends it: every field, most of them empty.
fn body(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut body = json!({
        "Hostname": "", "User": "", "AttachStdin": false, "AttachStdout": true, "Tty": false, "OpenStdin": false, "Env": null,
        "Cmd": null, "Image": "busybox", "Volumes": {}, "WorkingDir": "", "Entrypoint": null, "OnBuild": null, "Labels": {},
        "HostConfig": {
            "Binds": null, "LogConfig": {"Type": "", "Config": {}}, "NetworkMode": "none", "PortBindings": {},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "AutoRemove": true, "ConsoleSize": [0, 0], "CapAdd": null,
            "CgroupnsMode": "", "Dns": [], "ExtraHosts": null, "IpcMode": "", "OomScoreAdj": 0, "Privileged": false,
            "SecurityOpt": null, "ShmSize": 0, "Memory": 0, "NanoCpus": 0, "BlkioWeight": 0, "BlkioWeightDevice": [],
            "Devices": [], "DeviceRequests": null, "MemorySwappiness": -1, "OomKillDisable": false, "PidsLimit": 0, "Ulimits": [],
        },
        "NetworkingConfig": {"EndpointsConfig": {"none": {"IPAMConfig": null, "Links": null, "MacAddress": ""}}},
    });
    change(&mut body);
    serde_json::to_vec(&body).unwrap()
}

fn settle(change: impl FnOnce(&mut Value), defaults: &Value) -> Result<Settled> {
    let mut new = decode(&body(change))?;
    new.choose_log(&config(&[]))?;
    new.settle(&image(defaults), &ContainerId::random()?)
}

/// The daemon's, from these flags.
fn config(flags: &[&str]) -> Config {
    use clap::Parser;
    Config::load(&crate::config::Cli::parse_from([&["fsd"], flags].concat()).options).unwrap()
}

#[test]
fn the_daemons_log_driver_and_its_options_are_those_of_containers_that_name_none() {
    let config = config(&["--log-driver", "local", "--log-opt", "max-size=5m", "--log-opt", "mode=non-blocking"]);
    let chosen = |log: Value| {
        let mut new = decode(&body(|body| body["HostConfig"]["LogConfig"] = log)).unwrap();
        new.choose_log(&config).map(|()| new.host_config["LogConfig"].clone())
    };
    let defaults = json!({"max-size": "5m", "mode": "non-blocking"});
    assert_eq!(chosen(Value::Null).unwrap(), json!({"Type": "local", "Config": defaults}));
    let own = chosen(json!({"Type": "", "Config": {"max-size": "1m"}})).unwrap();
    assert_eq!(own["Config"], json!({"max-size": "1m", "mode": "non-blocking"}));
    assert_eq!(chosen(json!({"Type": "json-file"})).unwrap(), json!({"Type": "json-file", "Config": {}}));
    let blocking = chosen(json!({"Type": "local", "Config": {"mode": "blocking"}}));
    assert_eq!(blocking.unwrap()["Config"], json!({"max-size": "5m", "mode": "blocking"}));
    assert_eq!(chosen(json!({"Config": {"x": "y"}})).unwrap_err().to_string(), "unknown log opt 'x' for log driver local");
}

#[test]
fn what_the_container_says_wins_over_its_image() {
    let defaults = json!({"Entrypoint": ["/entry"], "Cmd": ["arg"], "Env": ["PATH=/p", "A=image", "B=image"], "User": "app", "Labels": {"a": "1", "b": "1"}, "Volumes": {"/data": {}}});
    let plain = settle(|_| {}, &defaults).unwrap();
    assert_eq!((&plain.config["Entrypoint"], &plain.config["Cmd"]), (&json!(["/entry"]), &json!(["arg"])));
    assert_eq!(plain.volumes, ["/data"]);
    assert_eq!(plain.config["Hostname"].as_str().unwrap().len(), 12);
    let own = settle(
        |body| {
            body["Entrypoint"] = json!(["/own"]);
            body["Env"] = json!(["A=own"]);
            body["Labels"] = json!({"b": "2"});
        },
        &defaults,
    )
    .unwrap();
    assert_eq!(
        (&own.config["Entrypoint"], &own.config["Cmd"]),
        (&json!(["/own"]), &json!(null)),
        "the image's arguments are not its own"
    );
    assert_eq!(own.config["Env"], json!(["A=own", "PATH=/p", "B=image"]));
    assert_eq!(own.config["Labels"], json!({"a": "1", "b": "2"}));
    assert_eq!(own.config["User"], json!("app"));
}

#[test]
fn a_container_without_a_command_is_refused() {
    assert_eq!(settle(|_| {}, &json!({})).unwrap_err().to_string(), "no command specified");
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    type Change = fn(&mut Value);
    let cases: &[(&str, Change)] = &[
        ("--log-driver syslog", |b| b["HostConfig"]["LogConfig"]["Type"] = json!("syslog")),
        ("HostConfig.TimeMachine", |b| b["HostConfig"]["TimeMachine"] = json!(true)),
    ];
    for (flag, change) in cases {
        let error = settle(change, &json!({"Cmd": ["true"]})).unwrap_err();
        assert_eq!(error.class(), Class::Unsupported, "{flag}: {error}");
        assert!(error.to_string().starts_with(flag), "{flag}: {error}");
    }
}

#[test]
fn values_that_make_no_sense_are_refused_in_dockers_words() {
    type Change = fn(&mut Value);
    let cases: &[(&str, Change)] = &[
        ("can't create 'AutoRemove' container with restart policy", |b| {
            b["HostConfig"]["RestartPolicy"]["Name"] = json!("always");
        }),
        ("Range of blkio weight is from 10 to 1000", |b| b["HostConfig"]["BlkioWeight"] = json!(5)),
        ("Minimum memory limit allowed is 6MB", |b| b["HostConfig"]["Memory"] = json!(1000)),
        ("Range of CPUs is from 0.01", |b| b["HostConfig"]["NanoCpus"] = json!(9_000_000_000_000_u64)),
        ("the working directory 'x' is invalid", |b| b["WorkingDir"] = json!("x")),
        ("invalid signal: NOPE", |b| b["StopSignal"] = json!("NOPE")),
        ("unknown log opt 'gelf-address' for json-file log driver", |b| {
            b["HostConfig"]["LogConfig"]["Config"] = json!({"gelf-address": "x"});
        }),
        ("invalid suffix: 'q'", |b| b["HostConfig"]["LogConfig"]["Config"] = json!({"max-size": "1q"})),
        ("sysctl \"net.ipv4.ip_forward\" not allowed in host network namespace", |b| {
            b["HostConfig"]["NetworkMode"] = json!("host");
            b["HostConfig"]["Sysctls"] = json!({"net.ipv4.ip_forward": "0"});
        }),
        ("sysctl \"kernel/shmmax\" is not allowed in the hosts ipc namespace", |b| {
            b["HostConfig"]["IpcMode"] = json!("host");
            b["HostConfig"]["Sysctls"] = json!({"kernel/shmmax": "0"});
        }),
        ("invalid --security-opt 1: \"nonsense\"", |b| b["HostConfig"]["SecurityOpt"] = json!(["nonsense"])),
        ("invalid --security-opt 2: \"no=sense\"", |b| b["HostConfig"]["SecurityOpt"] = json!(["no=sense"])),
        ("invalid --security-opt 2: \"no-new-privileges:maybe\"", |b| {
            b["HostConfig"]["SecurityOpt"] = json!(["no-new-privileges:maybe"]);
        }),
        ("conflicting options: hostname and the UTS mode", |b| {
            b["HostConfig"]["UTSMode"] = json!("host");
            b["Hostname"] = json!("h");
        }),
        ("conflicting options: domainname and the UTS mode", |b| {
            b["HostConfig"]["UTSMode"] = json!("host");
            b["Domainname"] = json!("d");
        }),
        ("bad format for add-host", |b| b["HostConfig"]["ExtraHosts"] = json!(["nonsense"])),
    ];
    for (text, change) in cases {
        let error = settle(change, &json!({"Cmd": ["true"]})).unwrap_err().to_string();
        assert!(error.starts_with(text), "{text}: {error}");
    }
}

#[test]
fn a_container_has_the_hosts_name_with_its_network_or_its_uts_namespace() {
    let name = |key: &str, mode: &str| {
        let settled = settle(|b| b["HostConfig"][key] = json!(mode), &json!({"Cmd": ["true"]})).unwrap();
        settled.config["Hostname"].as_str().unwrap().to_owned()
    };
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(name("NetworkMode", "host"), host);
    assert_eq!(name("UTSMode", "host"), host);
    assert_eq!(name("NetworkMode", "none").len(), 12);
}

#[test]
fn the_default_network_is_the_bridge() {
    let mode = |mode: &str| settle(|b| b["HostConfig"]["NetworkMode"] = json!(mode), &json!({"Cmd": ["true"]}));
    for text in ["", "default", "bridge"] {
        assert_eq!(mode(text).unwrap().host_config["NetworkMode"], json!("bridge"), "{text}");
    }
    assert_eq!(mode("mine").unwrap().host_config["NetworkMode"], json!("mine"));
    let conflict = settle(
        |b| {
            b["HostConfig"]["NetworkMode"] = json!("container:x");
            b["Hostname"] = json!("h");
        },
        &json!({"Cmd": ["true"]}),
    );
    assert_eq!(conflict.unwrap_err().to_string(), "conflicting options: hostname and the network mode");
}
