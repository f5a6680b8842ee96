//! Rules by netlink: tables, chains, sets and maps of nf_tables, changed in batches that are done whole or not at all.
//!
//! Source: linux/netfilter/nf_tables.h, linux/netfilter/nfnetlink.h. No `nft` is needed, and none is run.

mod expr;
mod rules;

use std::net::IpAddr;

use fs_base::Result;

use super::netlink::{self, ACK, CREATE, Message, Socket};
pub use expr::{DROP, Steps};
pub use rules::{Change, Port, Protocol, Ruleset, redirect_names};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const INTERVAL_END: u32 = 1;

/// Which packets a table is about. Source: linux/netfilter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ipv4 = 2,
}

/// Where on a packet's way a chain is asked. Source: linux/netfilter.h.
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    /// It has come.
    Prerouting = 0,
    /// It goes through.
    Forward = 2,
    /// It is sent from here.
    Output = 3,
    /// It leaves.
    Postrouting = 4,
}

/// Changes that are made together.
#[derive(Debug)]
pub struct Batch {
    family: Family,
    table: String,
    messages: Vec<Message>,
}

impl Batch {
    /// Changes of one table.
    pub fn new(family: Family, table: &str) -> Batch {
        let mut begin = Message::new(BATCH_BEGIN, 0);
        begin.put(&[0, 0, 0, 10]);
        Batch { family, table: table.to_owned(), messages: vec![begin] }
    }

    fn add(&mut self, kind: u16, flags: u16) -> &mut Message {
        let mut message = Message::new(SUBSYSTEM | kind, flags);
        message.put(&[self.family as u8, 0, 0, 0]).text(1, &self.table);
        self.messages.push(message);
        let last = self.messages.len() - 1;
        &mut self.messages[last]
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    /// The table; it may be there already.
    pub fn table(&mut self) {
        self.add(NEW_TABLE, CREATE);
    }

    /// Takes the table away, which must be there.
    pub fn delete_table(&mut self) {
        self.add(DELETE_TABLE, 0);
    }

    /// A chain that others jump to.
    pub fn chain(&mut self, name: &str) {
        self.add(NEW_CHAIN, CREATE).text(3, name);
    }

    /// A chain that the kernel asks; what no rule of it decides goes on.
    pub fn base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        self.add(NEW_CHAIN, CREATE).text(3, name).text(7, kind).nest(4, |m| {
            m.number_be(1, hook as u32).number_be(2, priority as u32);
        });
    }

    /// A rule at the end of a chain.
    pub fn rule(&mut self, chain: &str, steps: &Steps) {
        let rule = self.add(NEW_RULE, CREATE | netlink::APPEND);
        rule.text(2, chain);
        steps.write(rule, 4);
    }

    /// A set, or a map if `data` says what it maps to. Kinds and lengths as `rules` knows them.
    pub fn set(&mut self, name: &str, key: Kind, data: Option<Kind>, interval: bool) {
        let flags = if interval { SET_INTERVAL } else { 0 } | if data.is_some() { SET_MAP } else { 0 };
        let id = self.messages.len() as u32;
        let set = self.add(NEW_SET, CREATE);
        set.text(2, name).number_be(3, flags).number_be(4, key.kind).number_be(5, key.length);
        if let Some(data) = data {
            set.number_be(6, data.kind).number_be(7, data.length);
        }
        set.number_be(10, id);
    }

    /// Puts an element into a set, or a pair into a map. What is there already stays.
    pub fn put(&mut self, set: &str, key: &[u8], data: Option<&[u8]>) {
        self.element(NEW_ELEMENT, CREATE, set, &[(key, 0)], data);
    }

    /// Takes an element away, which must be there.
    pub fn take(&mut self, set: &str, key: &[u8]) {
        self.element(DELETE_ELEMENT, 0, set, &[(key, 0)], None);
    }

    /// Puts all addresses from `first` up to, but without, `end` into a set of intervals.
    pub fn put_interval(&mut self, set: &str, first: &[u8], end: &[u8]) {
        self.element(NEW_ELEMENT, CREATE, set, &[(first, 0), (end, INTERVAL_END)], None);
    }

    /// Takes them away.
    pub fn take_interval(&mut self, set: &str, first: &[u8], end: &[u8]) {
        self.element(DELETE_ELEMENT, 0, set, &[(first, 0), (end, INTERVAL_END)], None);
    }

    fn element(&mut self, kind: u16, flags: u16, set: &str, keys: &[(&[u8], u32)], data: Option<&[u8]>) {
        self.add(kind, flags).text(2, set).nest(3, |list| {
            for (key, flags) in keys {
                list.nest(1, |element| {
                    if *flags != 0 {
                        element.number_be(3, *flags);
                    }
                    element.nest(1, |value| {
                        value.attr(1, key);
                    });
                    if let Some(data) = data {
                        element.nest(2, |value| {
                            value.attr(1, data);
                        });
                    }
                });
            }
        });
    }

    /// Does it all, or nothing.
    pub fn commit(mut self, socket: &mut Socket) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let mut end = Message::new(BATCH_END, 0);
        end.put(&[0, 0, 0, 10]);
        self.messages.push(end);
        socket.batch(&format!("nftables table {}", self.table), &mut self.messages)
    }
}

/// What a set holds: the number that `nft` shows it by, and its length in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    kind: u32,
    length: u32,
}

impl Kind {
    /// One after the other, each taking a multiple of 4 bytes. Source: `nft`'s concatenated data types.
    fn and(self, other: Kind) -> Kind {
        Kind { kind: self.kind << 6 | other.kind, length: self.length.next_multiple_of(4) + other.length.next_multiple_of(4) }
    }
}

const IPV4_ADDRESS: Kind = Kind { kind: 7, length: 4 };
const IPV6_ADDRESS: Kind = Kind { kind: 8, length: 16 };
const PROTOCOL: Kind = Kind { kind: 12, length: 1 };
const SERVICE: Kind = Kind { kind: 13, length: 2 };
const LINK_NAME: Kind = Kind { kind: 41, length: 16 };

/// Whether there is such a table.
pub fn has_table(socket: &mut Socket, family: Family, table: &str) -> Result<bool> {
    let mut message = Message::new(SUBSYSTEM | GET_TABLE, 0);
    message.put(&[family as u8, 0, 0, 0]).text(1, table);
    Ok(socket.get(message)?.is_some())
}

/// Whether there is such a chain, and what becomes of what it does not decide; `None` if it is not there.
pub fn chain_policy(socket: &mut Socket, family: Family, table: &str, chain: &str) -> Result<Option<i32>> {
    let mut message = Message::new(SUBSYSTEM | GET_CHAIN, 0);
    message.put(&[family as u8, 0, 0, 0]).text(1, table).text(3, chain);
    let found = socket.get(message)?;
    Ok(found.map(|chain| {
        let policy = chain.attr(4, 5).and_then(|bytes| bytes.get(..4));
        policy.map_or(expr::ACCEPT, |bytes| i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }))
}

/// How many elements a set holds.
pub fn element_count(socket: &mut Socket, family: Family, table: &str, set: &str) -> Result<usize> {
    let mut message = Message::new(SUBSYSTEM | GET_ELEMENT, ACK);
    message.put(&[family as u8, 0, 0, 0]).text(1, table).text(2, set);
    let lists = socket.dump(message)?;
    Ok(lists.iter().filter_map(|list| list.attr(4, 3)).map(|elements| netlink::attrs(elements).count()).sum())
}

/// An address's bytes as they are on the wire.
fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
