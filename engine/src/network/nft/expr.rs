//! Expressions of a rule, each a step on a set of registers. Source: linux/netfilter/nf_tables.h.

use super::super::netlink::Message;

const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const VALUE: u16 = 1;
const VERDICT: u16 = 2;

/// A register of 4 bytes, the n-th of 16.
pub const fn register(n: u32) -> u32 {
    8 + n
}
/// Where verdicts go.
const REGISTER_VERDICT: u32 = 0;

/// Verdicts. Source: linux/netfilter.h, linux/netfilter/nf_tables.h.
pub const ACCEPT: i32 = 1;
/// The packet goes nowhere.
pub const DROP: i32 = 0;
/// On with the chain that jumped here.
pub const RETURN: i32 = -5;
const JUMP: i32 = -3;

/// What of a packet's circumstances can be looked at.
#[derive(Debug, Clone, Copy)]
pub enum Meta {
    /// The name of the link that it came from.
    InName = 6,
    /// The name of the link that it leaves by.
    OutName = 7,
    /// IPv4 (2) or IPv6 (10).
    Version = 15,
    /// TCP, UDP, …
    Protocol = 16,
}

/// What of its connection.
#[derive(Debug, Clone, Copy)]
pub enum Connection {
    /// New, established, …: one bit each.
    State = 0,
    /// What was translated, …: one bit each.
    Status = 2,
}

/// IPS_DST_NAT: somebody gave the connection another destination.
pub const STATUS_DNAT: u32 = 1 << 5;
/// NF_CT_STATE_BIT of established and related.
pub const STATE_KNOWN: u32 = 1 << 1 | 1 << 2;
/// NFPROTO_IPV4.
pub const IPV4: u8 = 2;
/// NFPROTO_IPV6.
pub const IPV6: u8 = 10;

/// The steps of one rule.
#[derive(Debug, Default)]
#[must_use]
pub struct Steps(Vec<Message>);

impl Steps {
    /// No step yet.
    pub fn new() -> Steps {
        Steps::default()
    }

    /// Writes the steps as a rule's attribute.
    pub fn write(&self, rule: &mut Message, attribute: u16) {
        rule.nest(attribute, |list| {
            for step in &self.0 {
                list.put(step.body());
            }
        });
    }

    fn step(mut self, name: &str, fill: impl FnOnce(&mut Message)) -> Steps {
        let mut message = Message::new(0, 0);
        message.nest(LIST_ELEMENT, |element| {
            element.text(NAME, name).nest(DATA, fill);
        });
        self.0.push(message);
        self
    }

    /// Loads a circumstance.
    pub fn meta(self, key: Meta, to: u32) -> Steps {
        self.step("meta", |m| {
            m.number_be(1, to).number_be(2, key as u32);
        })
    }

    /// Loads a part of the network header.
    pub fn network(self, offset: u32, length: u32, to: u32) -> Steps {
        self.payload(1, offset, length, to)
    }

    /// Loads the destination's port.
    pub fn port(self, to: u32) -> Steps {
        self.payload(2, 2, 2, to)
    }

    fn payload(self, base: u32, offset: u32, length: u32, to: u32) -> Steps {
        self.step("payload", |m| {
            m.number_be(1, to).number_be(2, base).number_be(3, offset).number_be(4, length);
        })
    }

    /// On only if a register holds this.
    pub fn is(self, from: u32, value: &[u8]) -> Steps {
        self.compare(from, 0, value)
    }

    /// On only if a register holds something else.
    pub fn is_not(self, from: u32, value: &[u8]) -> Steps {
        self.compare(from, 1, value)
    }

    fn compare(self, from: u32, operation: u32, value: &[u8]) -> Steps {
        self.step("cmp", |m| {
            m.number_be(1, from).number_be(2, operation).nest(3, |data| {
                data.attr(VALUE, value);
            });
        })
    }

    /// Keeps some bits of a register.
    pub fn mask(self, register: u32, mask: &[u8]) -> Steps {
        self.step("bitwise", |m| {
            m.number_be(1, register).number_be(2, register).number_be(3, mask.len() as u32);
            m.nest(4, |data| {
                data.attr(VALUE, mask);
            });
            m.nest(5, |data| {
                data.attr(VALUE, &vec![0; mask.len()]);
            });
        })
    }

    /// On only for IPv4 or IPv6.
    pub fn version(self, version: u8) -> Steps {
        self.meta(Meta::Version, register(0)).is(register(0), &[version])
    }

    /// On only if the connection has one of these bits.
    pub fn connection(self, key: Connection, bits: u32) -> Steps {
        self.step("ct", |m| {
            m.number_be(1, register(0)).number_be(2, key as u32);
        })
        .mask(register(0), &bits.to_ne_bytes())
        .is_not(register(0), &[0; 4])
    }

    /// On only if the destination is an address of this host's.
    pub fn to_this_host(self) -> Steps {
        const BY_DESTINATION: u32 = 2;
        const ADDRESS_TYPE: u32 = 3;
        const LOCAL: u32 = 2;
        self.step("fib", |m| {
            m.number_be(1, register(0)).number_be(2, ADDRESS_TYPE).number_be(3, BY_DESTINATION);
        })
        .is(register(0), &LOCAL.to_ne_bytes())
    }

    /// On only if a set holds what begins at a register.
    pub fn in_set(self, from: u32, set: &str) -> Steps {
        self.step("lookup", |m| {
            m.text(1, set).number_be(2, from).number_be(5, 0);
        })
    }

    /// On only if a set does not hold it.
    pub fn not_in_set(self, from: u32, set: &str) -> Steps {
        self.step("lookup", |m| {
            m.text(1, set).number_be(2, from).number_be(5, 1);
        })
    }

    /// On only if a map holds it; what it maps to is loaded.
    pub fn in_map(self, from: u32, map: &str, to: u32) -> Steps {
        self.step("lookup", |m| {
            m.text(1, map).number_be(2, from).number_be(3, to);
        })
    }

    /// Gives the connection the destination that begins at a register: address, then port.
    pub fn destination(self, version: u8, address: u32, port: u32) -> Steps {
        const DNAT: u32 = 1;
        self.step("nat", |m| {
            m.number_be(1, DNAT).number_be(2, u32::from(version)).number_be(3, address).number_be(5, port);
        })
    }

    /// Loads a value.
    pub fn load(self, to: u32, value: &[u8]) -> Steps {
        self.step("immediate", |m| {
            m.number_be(1, to).nest(2, |data| {
                data.attr(VALUE, value);
            });
        })
    }

    /// Gives the connection the address of the link that it leaves by as its source.
    pub fn masquerade(self) -> Steps {
        self.step("masq", |_| {})
    }

    /// Ends the rule.
    pub fn verdict(self, code: i32) -> Steps {
        self.decide(code, None)
    }

    /// Ends the rule with the rules of another chain.
    pub fn jump(self, chain: &str) -> Steps {
        self.decide(JUMP, Some(chain))
    }

    fn decide(self, code: i32, chain: Option<&str>) -> Steps {
        self.step("immediate", |m| {
            m.number_be(1, REGISTER_VERDICT).nest(2, |data| {
                data.nest(VERDICT, |verdict| {
                    verdict.number_be(1, code as u32);
                    if let Some(chain) = chain {
                        verdict.text(2, chain);
                    }
                });
            });
        })
    }
}
