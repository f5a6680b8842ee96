//! `--link`: a container that knows another one by a name of its own.
//!
//! In networks of users that is one more name that is answered, to this container alone ([`super::helper::names::Asker`]).
//! In the default network, where no names are answered, it is a line in the container's `/etc/hosts`, which follows the
//! other's address, and variables that tell of the other at the start. Source: moby, `daemon/links.go`, `daemon/links`.

use std::fmt::Write;
use std::net::IpAddr;

use fs_base::{Class, ContainerId, Error, IoContext, Result};
use serde_json::Value;

use super::model::BRIDGE;
use super::{Lease, Mode, ports};
use crate::app::App;
use crate::container::{ContainerRow, files};

/// A link that a new container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What it calls the other.
    pub alias: String,
    /// The other.
    pub linked: ContainerId,
    /// The other's name.
    pub name: String,
}

/// A link of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Whose.
    pub container: ContainerId,
    /// The name of that.
    pub own_name: String,
    /// What it calls the other.
    pub alias: String,
    /// The other; it may be gone.
    pub linked: ContainerId,
    /// The other's name, or what it was when it was removed.
    pub name: String,
}

impl Link {
    /// The name that the other one has by this.
    pub fn path(&self) -> String {
        format!("/{}/{}", self.own_name, self.alias)
    }

    /// As `HostConfig.Links` shows it.
    pub fn shown(&self) -> String {
        format!("/{}:{}", self.name, self.path())
    }
}

/// The name and the alias of a `--link`: `NAME`, `NAME:ALIAS`, or as `inspect` shows it, `/NAME:/OWN/ALIAS`.
pub fn parse(text: &str) -> Result<(&str, &str)> {
    if text.is_empty() {
        return Err(Error::invalid("empty string specified for links"));
    }
    let bad = || Error::invalid(format!("bad format for links: {text}"));
    let bare = text.strip_prefix('/');
    let (name, alias) = match bare.unwrap_or(text).split_once(':') {
        None => (bare.unwrap_or(text), bare.unwrap_or(text)),
        Some((name, path)) if bare.is_some() => (name, path.rsplit('/').next().unwrap_or(path)),
        Some(both) => both,
    };
    // It becomes part of a line of a file, and of a path.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.is_empty() || matches!(alias, "" | "." | "..") || !alias.bytes().all(is_plain) {
        return Err(bad());
    }
    Ok((name, alias))
}

/// What a host config asks for.
pub fn requested(host_config: &Value) -> Vec<String> {
    host_config["Links"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What a new container asks for outside of users' networks; it is taken out of its host config.
pub fn asked(app: &App, host_config: &mut Value) -> Result<Vec<Asked>> {
    let texts = requested(host_config);
    host_config["Links"] = Value::Null;
    let mode = Mode::parse(host_config["NetworkMode"].as_str().unwrap_or_default());
    if matches!(&mode, Mode::Bridges(name) if name != BRIDGE) {
        return Ok(Vec::new());
    }
    texts.iter().map(|text| resolve(app, text)).collect()
}

fn resolve(app: &App, text: &str) -> Result<Asked> {
    let (name, alias) = parse(text)?;
    let find = |name: &str| {
        // A client that is told of something that is not found would pull an image.
        let invalid = |error: Error| if error.class() == Class::NotFound { error.with_class(Class::Invalid) } else { error };
        app.db.find_container(name).map_err(|error| invalid(error).context(format!("could not get container for {name}")))
    };
    let mut other = find(name)?;
    // Whose network it is in has the address.
    while let Mode::Of(id) = Mode::of(&other) {
        other = find(&id)?;
    }
    if Mode::of(&other) == Mode::Host {
        return Err(of_host());
    }
    Ok(Asked { alias: alias.to_owned(), linked: other.id, name: other.name })
}

/// Docker's words for links of the host's network.
pub fn of_host() -> Error {
    Error::invalid("conflicting options: host type networking can't be used with links. This would result in undefined behavior")
}

/// What a container is told of those that it knows, at its start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Variables.
    pub env: Vec<String>,
    /// Lines for `/etc/hosts`.
    pub hosts: String,
}

/// Of a container that is about to start. Those that it knows must run.
pub fn known(app: &App, row: &ContainerRow) -> Result<Known> {
    let links = app.db.links_of(&row.id)?;
    let mut known = Known::default();
    if links.is_empty() || !is_in_default(app, &row.id)? {
        return Ok(known);
    }
    for link in &links {
        let other = app.db.container(&link.linked)?;
        if other.is_some() && !is_in_default(app, &link.linked)? {
            return Err(Error::internal(format!("Cannot link to /{}, as it does not belong to the default network", link.name)));
        }
        let Some(other) = other.filter(|other| other.state.is_up()) else {
            let (name, path) = (&link.name, link.path());
            return Err(Error::internal(format!("Cannot link to a non running container: /{name} AS {path}")));
        };
        // One that is about to be started again is written down when it has been.
        let Some(lease) = lease_of(app, &link.linked)? else { continue };
        known.hosts.push_str(&lines(link, &other, &lease));
        if let Some(address) = lease.address(true) {
            known.env.extend(variables(link, &other, address)?);
        }
    }
    Ok(known)
}

fn is_in_default(app: &App, container: &ContainerId) -> Result<bool> {
    Ok(app.db.endpoints_of(container)?.iter().any(|endpoint| endpoint.name == BRIDGE))
}

fn lease_of(app: &App, container: &ContainerId) -> Result<Option<Lease>> {
    Ok(app.db.endpoints_of(container)?.into_iter().find(|endpoint| endpoint.name == BRIDGE).and_then(|endpoint| endpoint.lease))
}

/// The names of a line: what it is called here first.
fn names(link: &Link, other: &ContainerRow) -> String {
    let hostname = other.definition.config_text("Hostname");
    let own = if link.alias == other.name { "" } else { &other.name };
    format!("{} {hostname} {own}", link.alias).trim_end().to_owned()
}

fn addresses(lease: &Lease) -> impl Iterator<Item = IpAddr> {
    [true, false].into_iter().filter_map(|is_v4| lease.address(is_v4))
}

fn lines(link: &Link, other: &ContainerRow, lease: &Lease) -> String {
    let names = names(link, other);
    addresses(lease).fold(String::new(), |mut text, address| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{address}\t{names}");
        text
    })
}

/// The variables that tell of another container: its ports, runs of them, its name and its own variables.
fn variables(link: &Link, other: &ContainerRow, address: IpAddr) -> Result<Vec<String>> {
    let alias = prefix_of(&link.alias);
    let mut ports: Vec<(&str, u16)> =
        ports::exposed(&other.definition.config)?.into_iter().map(|(port, protocol)| (protocol.as_str(), port)).collect();
    ports.sort_unstable_by_key(|&(protocol, port)| (protocol != "tcp", protocol, port));
    ports.dedup();
    let url = |(protocol, port): (&str, u16)| format!("{protocol}://{address}:{port}");
    let prefix = |(protocol, port): (&str, u16)| format!("{alias}PORT_{port}_{}", protocol.to_uppercase());
    let mut env = Vec::new();
    env.extend(ports.first().map(|first| format!("{alias}PORT={}", url(*first))));
    for one in &ports {
        let (prefix, (protocol, port)) = (prefix(*one), *one);
        env.push(format!("{prefix}={}", url(*one)));
        env.push(format!("{prefix}_ADDR={address}"));
        env.push(format!("{prefix}_PORT={port}"));
        env.push(format!("{prefix}_PROTO={protocol}"));
    }
    for run in ports.chunk_by(|one, next| one.0 == next.0 && one.1.checked_add(1) == Some(next.1)) {
        if let [first, .., last] = run {
            let prefix = prefix(*first);
            env.push(format!("{prefix}_START={}", url(*first)));
            env.push(format!("{prefix}_PORT_START={}", first.1));
            env.push(format!("{prefix}_END={}", url(*last)));
            env.push(format!("{prefix}_PORT_END={}", last.1));
        }
    }
    env.push(format!("{alias}NAME={}", link.path()));
    for pair in other.definition.config_texts("Env") {
        match pair.split_once('=') {
            Some(("HOME" | "PATH", _)) | None => {}
            Some((name, value)) => env.push(format!("{alias}ENV_{name}={value}")),
        }
    }
    Ok(env)
}

/// The variables of those that a container knew when it was started, for its further processes.
pub fn env_of_running(app: &App, row: &ContainerRow) -> Result<Vec<String>> {
    let links = app.db.links_of(&row.id)?;
    if links.is_empty() {
        return Ok(Vec::new());
    }
    let path = app.run_dir(&row.id).join("config.json");
    let spec = std::fs::read(&path).at("read", &path)?;
    let spec: Value = serde_json::from_slice(&spec).map_err(|error| Error::corrupt(format!("{}: {error}", path.display())))?;
    let prefixes: Vec<String> = links.iter().map(|link| prefix_of(&link.alias)).collect();
    let env = spec["process"]["env"].as_array().into_iter().flatten().filter_map(Value::as_str);
    Ok(env.filter(|pair| prefixes.iter().any(|prefix| pair.starts_with(prefix))).map(str::to_owned).collect())
}

/// With what the variables of a link begin.
fn prefix_of(alias: &str) -> String {
    format!("{}_", alias.to_uppercase().replace('-', "_"))
}

/// A container has an address in the default network: who knows it finds it there, and it finds whom it knows, also if
/// they came by another address since its file was written.
pub fn settle(app: &App, row: &ContainerRow) {
    let moved = || -> Result<()> {
        let (to, own) = (app.db.links_to(&row.id)?, app.db.links_of(&row.id)?);
        if to.is_empty() && own.is_empty() || !is_in_default(app, &row.id)? {
            return Ok(());
        }
        for link in to {
            if is_in_default(app, &link.container)? {
                follow(app, &link, row)?;
            }
        }
        for link in own {
            if let Some(other) = app.db.container(&link.linked)? {
                follow(app, &link, &other)?;
            }
        }
        Ok(())
    };
    if let Err(error) = moved() {
        tracing::warn!(container = %row.id, %error, "a linked container may not be found under its name");
    }
}

fn follow(app: &App, link: &Link, other: &ContainerRow) -> Result<()> {
    let Some(lease) = lease_of(app, &other.id)? else { return Ok(()) };
    let hostname = other.definition.config_text("Hostname");
    edit(app, &link.container, |text| {
        let is_there = text.lines().any(|line| is_of(line, &link.alias, hostname));
        if is_there { moved(text, &link.alias, hostname, &lease) } else { text.to_owned() + &lines(link, other, &lease) }
    })
}

/// Changes a container's `/etc/hosts`, if it has been started.
fn edit(app: &App, container: &ContainerId, change: impl FnOnce(&str) -> String) -> Result<()> {
    let path = app.container_dir(container).join(files::HOSTS);
    let _alone = app.networks.hosts();
    let old = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        text => text.at("read", &path)?,
    };
    let new = change(&old);
    // Written in place: the container sees this very file.
    if new == old { Ok(()) } else { std::fs::write(&path, new).at("write", path) }
}

/// Whether a line is that of a link.
fn is_of(line: &str, alias: &str, hostname: &str) -> bool {
    line.split_once('\t').is_some_and(|(_, names)| {
        let mut names = names.split_whitespace();
        names.next() == Some(alias) && names.next() == Some(hostname)
    })
}

fn moved(text: &str, alias: &str, hostname: &str, lease: &Lease) -> String {
    let follow = |line: &str| {
        let (old, names) = line.split_once('\t').filter(|_| is_of(line, alias, hostname))?;
        let address = lease.address(old.trim().parse::<IpAddr>().ok()?.is_ipv4())?;
        Some(format!("{address}\t{names}"))
    };
    text.split_inclusive('\n').map(|line| follow(line).unwrap_or_else(|| line.to_owned())).collect()
}

fn without(text: &str, alias: &str, hostname: &str) -> String {
    text.split_inclusive('\n').filter(|line| !is_of(line, alias, hostname)).collect()
}

/// `rm --link /OWN/ALIAS`: a container knows another one no longer by that name.
pub fn remove(app: &App, name: &str) -> Result<()> {
    let other = app.db.find_container(name)?;
    let path = format!("/{}", name.strip_prefix('/').unwrap_or(name));
    let link = app.db.links_to(&other.id)?.into_iter().find(|link| link.path() == path);
    let link = link.ok_or_else(|| Error::internal("Conflict, cannot remove the default link name of the container"))?;
    app.db.remove_link(&link)?;
    edit(app, &link.container, |text| without(text, &link.alias, other.definition.config_text("Hostname")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::{Definition, State};

    #[test]
    fn a_link_is_read_as_people_write_it_and_as_it_is_shown() {
        for (text, both) in [
            ("db", ("db", "db")),
            ("db:store", ("db", "store")),
            ("/db:/web/store", ("db", "store")),
            ("/db", ("db", "db")),
            ("db:a.b-c_d", ("db", "a.b-c_d")),
        ] {
            assert_eq!(parse(text).unwrap(), both, "{text}");
        }
        assert_eq!(parse("").unwrap_err().to_string(), "empty string specified for links");
        for bad in ["a:b:c", ":b", "a:", "a:b c", "a:b\n1.2.3.4 x", "a:..", "a:x/y", "a:b#"] {
            assert_eq!(parse(bad).unwrap_err().to_string(), format!("bad format for links: {bad}"));
        }
    }

    fn sample() -> (Link, ContainerRow) {
        let id: ContainerId = "a".repeat(64).parse().unwrap();
        let config = json!({
            "Hostname": "aaaaaaaaaaaa", "Env": ["PATH=/bin", "HOME=/", "PASSWORD=x=y", "NONE"],
            "ExposedPorts": {"53/udp": {}, "8001/tcp": {}, "8000/tcp": {}, "8002/tcp": {}, "80/tcp": {}},
        });
        let row = ContainerRow {
            id: id.clone(),
            name: "db".to_owned(),
            image: format!("sha256:{}", "1".repeat(64)).parse().unwrap(),
            image_name: String::new(),
            created: 0,
            definition: Definition { config, host_config: json!({}), mounts: Vec::new(), labels: None },
            state: State::created(),
        };
        let container = "b".repeat(64).parse().unwrap();
        let link = Link { container, own_name: "web".to_owned(), alias: "my-db".to_owned(), linked: id, name: "db".to_owned() };
        (link, row)
    }

    #[test]
    fn variables_tell_of_ports_names_and_variables() {
        let (link, row) = sample();
        let env = variables(&link, &row, [172, 17, 0, 2].into()).unwrap();
        for want in [
            "MY_DB_PORT=tcp://172.17.0.2:80",
            "MY_DB_PORT_80_TCP=tcp://172.17.0.2:80",
            "MY_DB_PORT_80_TCP_ADDR=172.17.0.2",
            "MY_DB_PORT_80_TCP_PORT=80",
            "MY_DB_PORT_80_TCP_PROTO=tcp",
            "MY_DB_PORT_53_UDP=udp://172.17.0.2:53",
            "MY_DB_PORT_8000_TCP_START=tcp://172.17.0.2:8000",
            "MY_DB_PORT_8000_TCP_PORT_START=8000",
            "MY_DB_PORT_8000_TCP_END=tcp://172.17.0.2:8002",
            "MY_DB_PORT_8000_TCP_PORT_END=8002",
            "MY_DB_NAME=/web/my-db",
            "MY_DB_ENV_PASSWORD=x=y",
        ] {
            assert!(env.iter().any(|pair| pair == want), "{want}: {env:?}");
        }
        assert_eq!(env.len(), 1 + 5 * 4 + 4 + 1 + 1, "{env:?}");
    }

    #[test]
    fn lines_of_hosts_follow_an_address_and_no_others_do() {
        let (link, row) = sample();
        let lease = |last: u8| Lease {
            id: "e".repeat(64),
            link: "eth0".to_owned(),
            mac: String::new(),
            ipv4: Some([172, 17, 0, last].into()),
            ipv6: None,
        };
        let line = lines(&link, &row, &lease(2));
        assert_eq!(line, "172.17.0.2\tmy-db aaaaaaaaaaaa db\n");
        let others = "127.0.0.1\tlocalhost\n10.0.0.1\tmy-db\n#172.17.0.2\tx\n172.17.0.2\tother my-db\n";
        let text = format!("{others}{line}fd00::2\tmy-db aaaaaaaaaaaa db\n");
        let hostname = row.definition.config_text("Hostname");
        let want = format!("{others}172.17.0.9\tmy-db aaaaaaaaaaaa db\nfd00::2\tmy-db aaaaaaaaaaaa db\n");
        assert_eq!(moved(&text, "my-db", hostname, &lease(9)), want);
        assert_eq!(without(&text, "my-db", hostname), others);
        assert_eq!(names(&Link { alias: "db".to_owned(), ..link }, &row), "db aaaaaaaaaaaa");
    }
}
