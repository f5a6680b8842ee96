//! Questions about names, and answers. Source: RFC 1035; RFC 3596 for IPv6.
//!
//! Only what a resolver for containers' names needs: one question, read from bytes that nobody vouches for, and
//! answers of addresses and names. What is asked on of other servers is passed on as it came.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes in front of the question.
const HEADER: usize = 12;
/// The longest name, and the longest part of one.
const NAME_MAX: usize = 255;
/// The largest answer over UDP to who did not say that he takes more.
const UDP_MAX: usize = 512;
/// How long an answer may be remembered, in seconds: a container may be gone any moment. Docker says the same.
const TTL: u32 = 600;
/// A name that was said at the beginning of the question.
const POINTER_TO_QUESTION: [u8; 2] = [0xc0, HEADER as u8];
const INTERNET: u16 = 1;

/// What is asked about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Its IPv4 addresses.
    A,
    /// Its IPv6 addresses.
    Aaaa,
    /// The name of an address.
    Ptr,
    /// Something else.
    Other,
}

/// How a question was dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// It is answered, if only by nothing.
    Done = 0,
    /// Nobody could be asked.
    Failed = 2,
    /// There is no such name.
    NoSuchName = 3,
    /// It is no question that is answered here.
    NotImplemented = 4,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name in small letters, without a dot at its end.
    pub name: String,
    /// What is asked about it.
    pub kind: Kind,
    /// Where the question ends.
    end: usize,
}

impl Question {
    /// Reads a message that must hold one question.
    pub fn parse(message: &[u8]) -> Option<Question> {
        let word = |place: usize| Some(u16::from_be_bytes(message.get(place..place + 2)?.try_into().ok()?));
        let flags = word(2)?;
        let is_answer = flags & 0x8000 != 0;
        let operation = flags >> 11 & 0xf;
        if is_answer || operation != 0 || word(4)? != 1 {
            return None;
        }
        let (mut place, mut name) = (HEADER, String::new());
        loop {
            let length = usize::from(*message.get(place)?);
            place += 1;
            match length {
                0 => break,
                // The first name of a message has nothing to point back to.
                1..=63 => {
                    let part = message.get(place..place + length)?;
                    if !name.is_empty() {
                        name.push('.');
                    }
                    // What is no letter can't be a container's name; it is kept apart from those that are.
                    name.extend(part.iter().map(|byte| {
                        if byte.is_ascii_graphic() && *byte != b'.' { byte.to_ascii_lowercase() as char } else { '\u{fffd}' }
                    }));
                    place += length;
                }
                _ => return None,
            }
            if place - HEADER > NAME_MAX {
                return None;
            }
        }
        let kind = match (word(place)?, word(place + 2)?) {
            (1, INTERNET) => Kind::A,
            (28, INTERNET) => Kind::Aaaa,
            (12, INTERNET) => Kind::Ptr,
            _ => Kind::Other,
        };
        Some(Question { name, kind, end: place + 4 })
    }

    /// The address whose name is asked for.
    pub fn address(&self) -> Option<IpAddr> {
        if self.kind != Kind::Ptr {
            return None;
        }
        if let Some(rest) = self.name.strip_suffix(".in-addr.arpa") {
            let mut parts: Vec<u8> = rest.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
            parts.reverse();
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(parts).ok()?).into());
        }
        let digits: String = self.name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
        let is_whole = digits.len() == 32 && self.name.len() == 32 * 2 - 1 + ".ip6.arpa".len();
        is_whole.then(|| u128::from_str_radix(&digits, 16).ok()).flatten().map(|number| Ipv6Addr::from(number).into())
    }

    fn reply(&self, message: &[u8], code: Code, count: u16) -> Vec<u8> {
        let mut reply = message[..self.end].to_vec();
        // An answer; recursion as it was desired, and available.
        reply[2] = 0x80 | message[2] & 0x01;
        reply[3] = 0x80 | code as u8;
        reply[4..12].copy_from_slice(&[0, 1, (count >> 8) as u8, count as u8, 0, 0, 0, 0]);
        reply
    }

    /// An answer without anything in it.
    pub fn empty(&self, message: &[u8], code: Code) -> Vec<u8> {
        self.reply(message, code, 0)
    }

    /// The addresses of the name; of those of the other version there may be some too. What does not fit into a
    /// datagram is left away.
    pub fn addresses(&self, message: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
        let wanted = |address: &&IpAddr| match self.kind {
            Kind::A => address.is_ipv4(),
            Kind::Aaaa => address.is_ipv6(),
            _ => false,
        };
        let records: Vec<Vec<u8>> = addresses
            .iter()
            .filter(wanted)
            .map(|address| match address {
                IpAddr::V4(v4) => record(1, &v4.octets()),
                IpAddr::V6(v6) => record(28, &v6.octets()),
            })
            .collect();
        let room = UDP_MAX.saturating_sub(self.end) / records.first().map_or(1, Vec::len);
        let records = &records[..records.len().min(room)];
        let mut reply = self.reply(message, Code::Done, records.len() as u16);
        reply.extend(records.concat());
        reply
    }

    /// The name of the address.
    pub fn pointer(&self, message: &[u8], name: &str) -> Vec<u8> {
        let mut data = Vec::new();
        for part in name.split('.').filter(|part| (1..=63).contains(&part.len())) {
            data.push(part.len() as u8);
            data.extend(part.as_bytes());
        }
        data.push(0);
        let mut reply = self.reply(message, Code::Done, 1);
        reply.extend(record(12, &data));
        reply
    }
}

fn record(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = POINTER_TO_QUESTION.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    bytes.extend(TTL.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for part in name.split('.') {
            message.push(part.len() as u8);
            message.extend(part.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let message = ask("Web.Net", 1);
        let question = Question::parse(&message).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("web.net", Kind::A));
        let addresses = [IpAddr::from([10, 0, 0, 2]), IpAddr::from([0u16; 8])];
        let reply = question.addresses(&message, &addresses);
        assert_eq!(&reply[..12], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(&reply[reply.len() - 4..], [10, 0, 0, 2]);
        let many: Vec<IpAddr> = (0..=255).map(|n| IpAddr::from([10, 0, 0, n])).collect();
        assert!(question.addresses(&message, &many).len() <= UDP_MAX);
        let six = ask("web", 28);
        assert_eq!(Question::parse(&six).unwrap().addresses(&six, &addresses[..1])[7], 0, "a name without such an address");
        let none = question.empty(&message, Code::NoSuchName);
        assert_eq!((none[3] & 0xf, none.len()), (3, message.len()));
    }

    #[test]
    fn an_address_is_asked_by_its_name() {
        let question = |name: &str| Question::parse(&ask(name, 12)).unwrap();
        assert_eq!(question("2.0.0.10.in-addr.arpa").address(), Some([10, 0, 0, 2].into()));
        let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(question(six).address(), Some("fd00::2".parse().unwrap()));
        for other in ["0.0.10.in-addr.arpa", "x.0.0.10.in-addr.arpa", "2.ip6.arpa", "web"] {
            assert_eq!(question(other).address(), None, "{other}");
        }
        let message = ask("2.0.0.10.in-addr.arpa", 12);
        let reply = question("2.0.0.10.in-addr.arpa").pointer(&message, "web.net");
        assert!(reply.ends_with(b"\x03web\x03net\x00"));
    }

    #[test]
    fn what_is_no_question_is_no_question() {
        let message = ask("web", 1);
        for end in 0..message.len() {
            assert_eq!(Question::parse(&message[..end]), None, "{end}");
        }
        let mut answer = message.clone();
        answer[2] |= 0x80;
        let mut loops = message.clone();
        loops[12..14].copy_from_slice(&[0xc0, 12]);
        let mut two = message.clone();
        two[5] = 2;
        let long = ask(&vec!["a".repeat(63); 5].join("."), 1);
        for bad in [answer, loops, two, long, vec![0xff; 600]] {
            assert_eq!(Question::parse(&bad), None);
        }
        let odd = Question::parse(&ask("a b\u{7}.x", 1)).unwrap();
        assert!(!odd.name.contains(' '));
    }
}
