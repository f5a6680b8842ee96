//! Networks, who is in them, and published ports.

use engine::network::nft::Protocol;
use fs_base::{Class, ContainerId, Error, Result};
use rusqlite::{OptionalExtension, Row, Transaction, params};

use super::volumes::{json, to_json};
use super::{Db, parsed};
use crate::network::helper::names::Member;
use crate::network::{Endpoint, Lease, Network, Published, Settings};

const NETWORK: &str = "id, name, created, spec";
const ENDPOINT: &str = "container, network, name, position, settings, lease";

impl Db {
    /// Records a network, whose name must be free; whether it was.
    pub fn add_network(&self, network: &Network) -> Result<bool> {
        self.write(|t| {
            t.prepare_cached(&format!("INSERT INTO network ({NETWORK}) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"))?
                .execute(params![network.id, network.name, network.created, to_json(&network.spec)?])
        })
        .map(|count| count == 1)
    }

    /// Records what a network is now.
    pub fn set_network_spec(&self, network: &Network) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("UPDATE network SET spec = ? WHERE id = ?")?.execute(params![to_json(&network.spec)?, network.id])
        })
        .map(drop)
    }

    /// All networks, oldest first.
    pub fn networks(&self) -> Result<Vec<Network>> {
        self.read(|c| {
            c.prepare_cached(&format!("SELECT {NETWORK} FROM network ORDER BY created, name"))?
                .query_map([], network_row)?
                .collect()
        })
    }

    /// The network that a person means: by its id, its name, or the start of its id.
    pub fn find_network(&self, name: &str) -> Result<Network> {
        let exact = self.read(|c| {
            c.prepare_cached(&format!("SELECT {NETWORK} FROM network WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC LIMIT 1"))?
                .query_row([name], network_row)
                .optional()
        })?;
        if let Some(network) = exact {
            return Ok(network);
        }
        let is_hex = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let mut found: Vec<Network> = self.read(|c| {
            c.prepare_cached(&format!("SELECT {NETWORK} FROM network WHERE id GLOB ? LIMIT 2"))?
                .query_map([if is_hex { format!("{name}*") } else { String::new() }], network_row)?
                .collect()
        })?;
        match (found.pop(), found.is_empty()) {
            (Some(network), true) => Ok(network),
            (Some(_), false) => Err(Error::invalid(format!("network {name} is ambiguous (2 matches found on ID prefix)"))),
            (None, _) => Err(Error::not_found(format!("network {name} not found"))),
        }
    }

    /// Forgets a network that no container is in; those that are, if it is not so.
    pub fn remove_network(&self, id: &str) -> Result<Vec<Endpoint>> {
        self.write(|t| {
            let inside = endpoints(t, "network = ? AND lease IS NOT NULL", id)?;
            if inside.is_empty() {
                t.prepare_cached("DELETE FROM network WHERE id = ?")?.execute([id])?;
            }
            Ok(inside)
        })
    }

    /// Notes a further network that a container is to be in.
    pub fn add_endpoint(&self, endpoint: &Endpoint) -> Result<()> {
        self.write(|t| add_endpoint(t, endpoint))
    }

    /// The networks of a container, in the order in which they were asked for.
    pub fn endpoints_of(&self, container: &ContainerId) -> Result<Vec<Endpoint>> {
        self.read(|c| endpoints(c, "container = ?", container.as_str()))
    }

    /// All places of containers that run.
    pub fn leased_endpoints(&self) -> Result<Vec<Endpoint>> {
        self.read(|c| endpoints(c, "lease IS NOT NULL AND ? = ''", ""))
    }

    /// Who is in a network now.
    pub fn endpoints_in(&self, network: &str) -> Result<Vec<Endpoint>> {
        self.read(|c| endpoints(c, "network = ? AND lease IS NOT NULL", network))
    }

    /// Who is in a network now, by name.
    pub fn named_in(&self, network: &str) -> Result<Vec<Member>> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT c.id, c.name, json_extract(c.spec, '$.config.Hostname'), e.settings, e.lease
                 FROM endpoint e JOIN container c ON c.id = e.container
                 WHERE e.network = ? AND e.lease IS NOT NULL ORDER BY e.container",
            )?
            .query_map([network], named_row)?
            .collect()
        })
    }

    /// All places of all containers.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>> {
        self.read(|c| endpoints(c, "? = ''", ""))
    }

    /// Gives a container its places, each as `choose` says, which sees those that are taken. The network under `from`
    /// becomes the endpoint's own. No container runs on after a reboot, so what it has while it runs waits for no disk.
    pub fn lease(&self, container: &ContainerId, network: &Network, from: &str, choose: &mut Choose<'_>) -> Result<Lease> {
        self.write_until_reboot(|t| {
            let taken = endpoints(t, "network = ? AND lease IS NOT NULL", &network.id)?;
            let lease = match choose(&taken) {
                Ok(lease) => lease,
                Err(error) => return Ok(Err(error)),
            };
            let (v4, v6) = (lease.ipv4.map(|ip| ip.to_string()), lease.ipv6.map(|ip| ip.to_string()));
            t.prepare_cached(
                "UPDATE endpoint SET network = ?, name = ?, lease = ?, ipv4 = ?, ipv6 = ? WHERE container = ? AND network = ?",
            )?
            .execute(params![network.id, network.name, to_json(&lease)?, v4, v6, container.as_str(), from])?;
            Ok(Ok(lease))
        })?
    }

    /// Takes a container's places and ports back; what they were.
    pub fn release(&self, container: &ContainerId) -> Result<(Vec<Endpoint>, Vec<Published>)> {
        self.write_until_reboot(|t| {
            let mut had = endpoints(t, "container = ?", container.as_str())?;
            had.retain(|endpoint| endpoint.lease.is_some());
            let ports = published(t, Some(container))?.into_iter().map(|(_, port)| port).collect();
            t.prepare_cached("UPDATE endpoint SET lease = NULL, ipv4 = NULL, ipv6 = NULL WHERE container = ?")?
                .execute([container.as_str()])?;
            t.prepare_cached("DELETE FROM published WHERE container = ?")?.execute([container.as_str()])?;
            Ok((had, ports))
        })
    }

    /// Forgets one place of a container; what it was.
    pub fn remove_endpoint(&self, container: &ContainerId, network: &str) -> Result<()> {
        self.write(|t| {
            t.prepare_cached("DELETE FROM endpoint WHERE container = ? AND network = ?")?.execute([container.as_str(), network])
        })
        .map(drop)
    }

    /// Forgets what is noted of containers that have no row.
    pub fn remove_lost_endpoints(&self) -> Result<()> {
        self.write(|t| {
            t.execute("DELETE FROM endpoint WHERE container NOT IN (SELECT id FROM container)", [])?;
            t.execute("DELETE FROM published WHERE container NOT IN (SELECT id FROM container)", [])
        })
        .map(drop)
    }

    /// Records published ports. One that another container has is an error that names it.
    pub fn publish(&self, container: &ContainerId, ports: &[Published]) -> Result<()> {
        self.write_until_reboot(|t| {
            for port in ports {
                t.prepare_cached(
                    "INSERT INTO published (container, protocol, host, host_port, container_port) VALUES (?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    container.as_str(),
                    port.protocol.as_str(),
                    port.host.to_string(),
                    port.host_port,
                    port.container_port
                ])?;
            }
            Ok(())
        })
        .map_err(|error| match error.class() {
            Class::Conflict => Error::conflict("port is already allocated"),
            _ => error,
        })
    }

    /// All published ports, or those of one container.
    pub fn published(&self, container: Option<&ContainerId>) -> Result<Vec<(ContainerId, Published)>> {
        self.read(|c| published(c, container))
    }
}

/// Chooses a lease, among those that are taken.
pub type Choose<'a> = dyn FnMut(&[Endpoint]) -> Result<Lease> + 'a;

pub(super) fn add_endpoint(t: &Transaction<'_>, endpoint: &Endpoint) -> rusqlite::Result<()> {
    t.prepare_cached(&format!("INSERT INTO endpoint ({ENDPOINT}) VALUES (?, ?, ?, ?, ?, NULL)"))?
        .execute(params![
            endpoint.container.as_str(),
            endpoint.network,
            endpoint.name,
            endpoint.position,
            to_json(&endpoint.settings)?
        ])
        .map(drop)
}

fn endpoints(c: &rusqlite::Connection, which: &str, value: &str) -> rusqlite::Result<Vec<Endpoint>> {
    c.prepare_cached(&format!("SELECT {ENDPOINT} FROM endpoint WHERE {which} ORDER BY position, name"))?
        .query_map([value], endpoint_row)?
        .collect()
}

fn published(c: &rusqlite::Connection, container: Option<&ContainerId>) -> rusqlite::Result<Vec<(ContainerId, Published)>> {
    c.prepare_cached(
        "SELECT container, protocol, host, host_port, container_port FROM published WHERE ?1 IS NULL OR container = ?1
         ORDER BY container_port, protocol, host, host_port",
    )?
    .query_map([container.map(ContainerId::as_str)], |row| Ok((parsed(row, 0)?, published_row(row)?)))?
    .collect()
}

fn network_row(row: &Row<'_>) -> rusqlite::Result<Network> {
    Ok(Network { id: row.get(0)?, name: row.get(1)?, created: row.get(2)?, spec: json(row, 3)? })
}

fn endpoint_row(row: &Row<'_>) -> rusqlite::Result<Endpoint> {
    let has_lease = row.get_ref(5)? != rusqlite::types::ValueRef::Null;
    Ok(Endpoint {
        container: parsed(row, 0)?,
        network: row.get(1)?,
        name: row.get(2)?,
        position: row.get(3)?,
        settings: json(row, 4)?,
        lease: if has_lease { Some(json(row, 5)?) } else { None },
    })
}

fn named_row(row: &Row<'_>) -> rusqlite::Result<Member> {
    let id: ContainerId = parsed(row, 0)?;
    let settings: Settings = json(row, 3)?;
    let hostname: Option<String> = row.get(2)?;
    let mut names = vec![row.get(1)?];
    names.extend(settings.aliases);
    names.push(id.short().to_owned());
    names.extend(hostname.filter(|name| !name.is_empty()));
    let lease: Lease = json(row, 4)?;
    let addresses = [true, false].into_iter().filter_map(|is_v4| lease.address(is_v4)).collect();
    Ok(Member { container: id, names, addresses })
}

fn published_row(row: &Row<'_>) -> rusqlite::Result<Published> {
    let host: String = row.get(2)?;
    let bad = |error: std::net::AddrParseError| {
        rusqlite::Error::FromSqlConversionFailure(2, rusqlite::types::Type::Text, Box::new(error))
    };
    Ok(Published {
        container_port: row.get(4)?,
        protocol: parsed::<Protocol>(row, 1)?,
        host: host.parse().map_err(bad)?,
        host_port: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::network::Settings;

    fn lease(last: u8) -> Lease {
        let ipv4 = Some(Ipv4Addr::new(10, 0, 0, last));
        Lease { id: "e".repeat(64), link: "eth0".to_owned(), mac: "02:00:00:00:00:01".to_owned(), ipv4, ipv6: None }
    }

    fn endpoint(container: &ContainerId, network: &Network) -> Endpoint {
        Endpoint {
            container: container.clone(),
            network: network.id.clone(),
            name: network.name.clone(),
            position: 0,
            settings: Settings::default(),
            lease: None,
        }
    }

    fn with_db(test: impl FnOnce(&Db, &Network)) {
        let root = tempfile::tempdir().unwrap();
        let db = Db::open(&root.path().join("meta.db")).unwrap();
        let spec = crate::network::sample_spec();
        let network = Network { id: "ab".repeat(32), name: "net".to_owned(), created: 1, spec };
        assert!(db.add_network(&network).unwrap());
        test(&db, &network);
    }

    #[test]
    fn a_network_is_found_by_id_name_or_the_start_of_its_id() {
        with_db(|db, network| {
            assert!(!db.add_network(&Network { id: "cd".repeat(32), ..network.clone() }).unwrap(), "the name is taken");
            db.add_network(&Network { id: "ac".repeat(32), name: "abab".to_owned(), ..network.clone() }).unwrap();
            for (text, name) in [("net", "net"), (&*"ab".repeat(32), "net"), ("aba", "net"), ("abab", "abab"), ("ac", "abab")] {
                assert_eq!(db.find_network(text).unwrap().name, name, "{text}");
            }
            assert_eq!(db.find_network("a").unwrap_err().class(), Class::Invalid);
            for text in ["", "*", "x", "AB"] {
                assert_eq!(db.find_network(text).unwrap_err().to_string(), format!("network {text} not found"));
            }
        });
    }

    #[test]
    fn an_address_is_given_once_and_comes_back() {
        with_db(|db, network| {
            let (one, two) = (ContainerId::random().unwrap(), ContainerId::random().unwrap());
            for container in [&one, &two] {
                db.add_endpoint(&endpoint(container, network)).unwrap();
            }
            let give = |container: &ContainerId, last: u8| db.lease(container, network, &network.id, &mut |_| Ok(lease(last)));
            give(&one, 2).unwrap();
            assert_eq!(give(&two, 2).unwrap_err().class(), Class::Conflict, "whoever chose it");
            let mut seen = 0;
            let chosen = db.lease(&two, network, &network.id, &mut |taken| {
                seen = taken.len();
                Ok(lease(3))
            });
            assert_eq!((chosen.unwrap().ipv4, seen), (lease(3).ipv4, 1));
            assert_eq!(db.remove_network(&network.id).unwrap().len(), 2, "a network in use stays");
            let port = Published { container_port: 80, protocol: Protocol::Tcp, host: [0, 0, 0, 0].into(), host_port: 8080 };
            db.publish(&one, &[port]).unwrap();
            assert_eq!(db.publish(&two, &[port]).unwrap_err().to_string(), "port is already allocated");
            let (had, ports) = db.release(&one).unwrap();
            assert_eq!((had.len(), ports), (1, vec![port]));
            assert_eq!(db.release(&one).unwrap(), (Vec::new(), Vec::new()));
            give(&one, 2).unwrap();
            db.remove_lost_endpoints().unwrap();
            assert!(db.endpoints().unwrap().is_empty(), "neither container has a row");
            assert!(db.remove_network(&network.id).unwrap().is_empty());
        });
    }

    #[test]
    fn containers_of_before_are_in_the_default_network() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("meta.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.execute_batch(include_str!("migrations/001_start.sql")).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        for (digit, mode) in [("a", "default"), ("b", "none"), ("c", "host")] {
            let spec = format!(r#"{{"config":{{}},"host_config":{{"NetworkMode":"{mode}"}},"mounts":[]}}"#);
            connection.pragma_update(None, "foreign_keys", false).unwrap();
            connection
                .execute(
                    "INSERT INTO container (id, name, image, image_name, created, spec, state) VALUES (?, ?, 'i', 'i', 0, ?, '{}')",
                    [&digit.repeat(64), digit, &spec],
                )
                .unwrap();
        }
        drop(connection);
        let db = Db::open(&path).unwrap();
        let places = db.endpoints().unwrap();
        assert_eq!(places.len(), 1);
        assert_eq!((places[0].container.as_str(), places[0].name.as_str()), (&*"a".repeat(64), "bridge"));
    }
}
