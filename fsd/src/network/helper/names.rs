//! Who is called what, as the helper knows it: a table for each network of users.

use std::collections::HashMap;
use std::net::IpAddr;

use engine::network::dns::Question;
use fs_base::ContainerId;
use serde::{Deserialize, Serialize};

/// A container in a network, and what it is called there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Which.
    pub container: ContainerId,
    /// Its name first.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its id.
    pub network: String,
    /// Its name.
    pub name: String,
    /// Who is in it.
    pub members: Vec<Member>,
}

/// A name that a container in a network has for another one there, for itself alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// The network's id.
    pub network: String,
    /// What the container says.
    pub own: String,
    /// What others say.
    pub name: String,
}

/// A container that may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asker {
    /// The ids of the networks of users that it is in.
    pub networks: Vec<String>,
    /// Its own names for others; each hides whoever is called so.
    #[serde(default)]
    pub aliases: Vec<Alias>,
    /// Whether one of its networks leads out: names can carry what must not get out of the others. (CVE-2024-29018)
    pub leads_out: bool,
    /// Who is asked for names that are no container's.
    pub upstream: Vec<IpAddr>,
}

/// What is known of a question without asking anybody.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// The whole answer.
    Answer(Vec<u8>),
    /// Somebody else may know.
    Ask,
    /// Somebody else may know, but must not be asked.
    Closed,
}

/// All tables.
#[derive(Debug, Default)]
pub struct Names {
    tables: HashMap<String, Table>,
}

/// Whether what is asked for means this name, in small letters or great ones, alone or with the network's name behind.
fn means(asked: &str, name: &str, network: &str) -> bool {
    let end = asked.len().checked_sub(network.len() + 1).filter(|end| {
        asked.is_char_boundary(*end) && asked[*end..].starts_with('.') && asked[end + 1..].eq_ignore_ascii_case(network)
    });
    asked.eq_ignore_ascii_case(name) || end.is_some_and(|end| asked[..end].eq_ignore_ascii_case(name))
}

impl Member {
    /// Whether it is called so, alone or with the network's name behind.
    fn is_called(&self, name: &str, network: &str) -> bool {
        self.names.iter().any(|own| means(name, own, network))
    }
}

impl Asker {
    /// What others say for what is asked for in a network.
    fn meant<'a>(&'a self, asked: &'a str, table: &Table) -> &'a str {
        // Of two with one alias the last is had, as Docker has it.
        let own = self.aliases.iter().rev().find(|own| own.network == table.network && means(asked, &own.own, &table.name));
        own.map_or(asked, |own| &own.name)
    }
}

impl Names {
    /// A network is now so; one that nobody is in is forgotten.
    pub fn set(&mut self, table: Table) {
        if table.members.is_empty() {
            self.tables.remove(&table.network);
        } else {
            self.tables.insert(table.network.clone(), table);
        }
    }

    /// A container has ended.
    pub fn forget(&mut self, container: &ContainerId) {
        for table in self.tables.values_mut() {
            table.members.retain(|member| member.container != *container);
        }
        self.tables.retain(|_, table| !table.members.is_empty());
    }

    /// What is known of a container's question.
    pub fn answer(&self, asker: &Asker, question: &Question, message: &[u8]) -> Known {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let mut is_known = false;
        let asked = question.address();
        for table in asker.networks.iter().filter_map(|network| self.tables.get(network)) {
            let name = asker.meant(&question.name, table);
            for member in &table.members {
                if let Some(address) = asked {
                    if let (true, Some(name)) = (member.addresses.contains(&address), member.names.first()) {
                        return Known::Answer(question.pointer(message, &format!("{name}.{}", table.name)));
                    }
                } else if member.is_called(name, &table.name) {
                    is_known = true;
                    addresses.extend(&member.addresses);
                }
            }
        }
        if is_known {
            // So that who takes the first takes them in turn.
            let turn = message.get(1).map_or(0, |byte| usize::from(*byte)) % addresses.len().max(1);
            addresses.rotate_left(turn);
            return Known::Answer(question.addresses(message, &addresses));
        }
        if asker.leads_out { Known::Ask } else { Known::Closed }
    }
}
