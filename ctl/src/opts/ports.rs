//! `-p` and `--expose`. Source of forms and texts: docker/go-connections `nat`.

use std::ops::RangeInclusive;

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// A port's key (`80/tcp`), and where it is published.
pub type Binding = (String, Value);

/// `[IP:][HOST[-HOST]:]CONTAINER[-CONTAINER][/PROTOCOL]`, or `published=…,target=…,protocol=…`.
pub fn publish(text: &str) -> Result<Vec<Binding>> {
    if text.contains('=') {
        return publish(&short_form(text)?);
    }
    let (rest, protocol) = split_protocol(text)?;
    let (ip, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        Some((ip, rest)) => (ip, rest),
        None if rest.matches(':').count() >= 2 => match rest.rsplit_once(':') {
            Some((front, container)) => match front.rsplit_once(':') {
                Some((ip, host)) => (ip, &rest[rest.len() - host.len() - container.len() - 1..]),
                None => ("", rest),
            },
            None => ("", rest),
        },
        None => ("", rest),
    };
    if !ip.is_empty() && ip.parse::<std::net::IpAddr>().is_err() {
        bail!("invalid IP address: {ip}");
    }
    let (host, container) = rest.rsplit_once(':').unwrap_or(("", rest));
    if container.is_empty() {
        bail!("no port specified: {text}<empty>");
    }
    let Some(containers) = range(container) else { bail!("invalid containerPort: {container}") };
    let hosts = match host {
        "" => None,
        text => match range(text) {
            Some(range) => Some(range),
            None => bail!("invalid hostPort: {text}"),
        },
    };
    let count = |range: &RangeInclusive<u16>| range.end() - range.start();
    let one_of_many = hosts.as_ref().is_some_and(|hosts| count(hosts) != count(&containers));
    if one_of_many && count(&containers) != 0 {
        bail!("invalid ranges specified for container and host Ports: {container} and {host}");
    }
    let bindings = containers.clone().map(|port| {
        let host_port = match &hosts {
            None => String::new(),
            // The daemon takes one of them.
            Some(hosts) if one_of_many => format!("{}-{}", hosts.start(), hosts.end()),
            Some(hosts) => (hosts.start() + (port - containers.start())).to_string(),
        };
        (format!("{port}/{protocol}"), json!({"HostIp": ip, "HostPort": host_port}))
    });
    Ok(bindings.collect())
}

/// `PORT[-PORT][/PROTOCOL]`: the ports' keys.
pub fn expose(text: &str) -> Result<Vec<String>> {
    if text.contains(':') {
        bail!("invalid port format for --expose: {text}");
    }
    let (ports, protocol) = split_protocol(text)?;
    let Some(range) = range(ports) else { bail!("invalid range format for --expose: {ports}, error: invalid port") };
    Ok(range.map(|port| format!("{port}/{protocol}")).collect())
}

fn split_protocol(text: &str) -> Result<(&str, String)> {
    let (rest, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    match protocol.to_lowercase().as_str() {
        known @ ("tcp" | "udp" | "sctp") => Ok((rest, known.to_owned())),
        _ => bail!("invalid proto: {protocol}"),
    }
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

/// The form with names, as the short one.
fn short_form(text: &str) -> Result<String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some(("mode", "ingress" | "host")) => {}
            _ => bail!("invalid field {field}"),
        }
    }
    Ok(if published.is_empty() { format!("{target}/{protocol}") } else { format!("{published}:{target}/{protocol}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let bindings = publish(text).unwrap();
        let line = |(port, binding): &Binding| {
            format!("{}:{}->{port}", binding["HostIp"].as_str().unwrap(), binding["HostPort"].as_str().unwrap())
        };
        bindings.iter().map(line).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn published_ports_are_read_as_dockers() {
        for (text, want) in [
            ("80", ":->80/tcp"),
            ("8080:80", ":8080->80/tcp"),
            ("127.0.0.1:8080:80/udp", "127.0.0.1:8080->80/udp"),
            ("127.0.0.1::80", "127.0.0.1:->80/tcp"),
            ("[::1]:8080:80", "::1:8080->80/tcp"),
            ("::1:8080:80", "::1:8080->80/tcp"),
            ("8080-8081:80-81", ":8080->80/tcp :8081->81/tcp"),
            ("8080-8090:80", ":8080-8090->80/tcp"),
            ("80-81", ":->80/tcp :->81/tcp"),
            ("published=8080,target=80,protocol=udp", ":8080->80/udp"),
        ] {
            assert_eq!(shown(text), want, "{text}");
        }
        for (text, want) in [
            ("x", "invalid containerPort: x"),
            ("y:80", "invalid hostPort: y"),
            ("8080:", "no port specified: 8080:<empty>"),
            ("80/icmp", "invalid proto: icmp"),
            ("1.2.3:80:80", "invalid IP address: 1.2.3"),
            ("8080-8082:80-81", "invalid ranges specified for container and host Ports: 80-81 and 8080-8082"),
        ] {
            assert_eq!(publish(text).unwrap_err().to_string(), want, "{text}");
        }
        assert_eq!(expose("53-54/udp").unwrap(), ["53/udp", "54/udp"]);
        assert!(expose("80:80").is_err());
    }
}
