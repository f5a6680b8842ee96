use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use engine::network::dns::Question;
use engine::network::nft::Protocol;
use fs_base::ContainerId;

use super::names::{Alias, Asker, Known, Member, Names, Table};
use super::wire::{self, DESCRIPTORS, Passage, Reply, Request, Served};
use crate::network::Published;

fn ask(name: &str, kind: u8) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for part in name.split('.') {
        message.push(part.len() as u8);
        message.extend(part.as_bytes());
    }
    message.extend([0, 0, kind, 0, 1]);
    message
}

fn member(names: &[&str], last: u8) -> Member {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Member { container: ContainerId::random().unwrap(), names, addresses: vec![[10, 0, 0, last].into()] }
}

#[test]
fn a_container_knows_who_is_in_its_networks() {
    let (web, other) = (member(&["web", "www", "Box"], 2), member(&["other", "www"], 3));
    let mut names = Names::default();
    let table = |network: &str, members: Vec<Member>| Table { network: network.to_owned(), name: format!("n{network}"), members };
    names.set(table("1", vec![web.clone(), other]));
    names.set(table("2", vec![member(&["far"], 4)]));
    let asker = Asker { networks: vec!["1".to_owned()], leads_out: true, ..Asker::default() };
    let known = |names: &Names, asker: &Asker, name: &str, kind: u8| {
        let message = ask(name, kind);
        names.answer(asker, &Question::parse(&message).unwrap(), &message)
    };
    let count = |known: Known| match known {
        Known::Answer(bytes) => i32::from(bytes[7]),
        Known::Ask => -1,
        Known::Closed => -2,
    };
    for (name, kind, answers) in [
        ("web", 1, 1),
        ("WEB", 1, 1),
        ("web.n1", 1, 1),
        ("box", 1, 1),
        ("www", 1, 2),
        ("web", 28, 0),
        ("web.n2", 1, -1),
        ("far", 1, -1),
        ("2.0.0.10.in-addr.arpa", 12, 1),
        ("4.0.0.10.in-addr.arpa", 12, -1),
    ] {
        assert_eq!(count(known(&names, &asker, name, kind)), answers, "{name}");
    }
    let alias = |alias: &str, name: &str| Alias { network: "1".to_owned(), own: alias.to_owned(), name: name.to_owned() };
    let aliases = vec![alias("db", "nobody"), alias("db", "web"), alias("box", "other"), alias("gone", "left")];
    let linked = Asker { aliases, ..asker.clone() };
    for (name, answers) in [("db", 1), ("DB.n1", 1), ("web", 1), ("box", 1), ("gone", -1), ("db.n2", -1)] {
        assert_eq!(count(known(&names, &linked, name, 1)), answers, "{name}");
    }
    let last = |known: Known| if let Known::Answer(bytes) = known { bytes.last().copied() } else { None };
    assert_eq!(last(known(&names, &linked, "db", 1)), Some(2), "the last of two");
    assert_eq!(last(known(&names, &linked, "box", 1)), Some(3), "it hides who is called so");
    assert_eq!(count(known(&names, &asker, "db", 1)), -1, "it is no other container's");
    let inside = Asker { leads_out: false, ..asker.clone() };
    assert_eq!(count(known(&names, &inside, "nobody", 1)), -2, "it must not ask");
    names.forget(&web.container);
    assert_eq!((count(known(&names, &asker, "web", 1)), count(known(&names, &asker, "www", 1))), (-1, 1));
    names.set(table("1", Vec::new()));
    assert_eq!(count(known(&names, &asker, "www", 1)), -1);
}

#[test]
fn messages_arrive_whole_with_their_descriptors() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let sockets: Vec<UdpSocket> = (0..DESCRIPTORS).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let passage = |socket: &UdpSocket| {
        let address = socket.local_addr().unwrap();
        let (host, host_port) = (address.ip(), address.port());
        let port = Published { container_port: 1, protocol: Protocol::Udp, host, host_port };
        Passage { port, to: (Ipv4Addr::LOCALHOST, 1).into() }
    };
    let served = Served { container: ContainerId::random().unwrap(), ports: sockets.iter().map(passage).collect(), names: false };
    let sender = std::thread::spawn({
        let served = served.clone();
        move || {
            wire::send(&ours, &Reply::Left(served), &sockets.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
            // Longer than what a socket holds.
            let names = vec!["x".repeat(200); 5000];
            let members = vec![Member { container: ContainerId::random().unwrap(), names, addresses: Vec::new() }];
            let table = Table { network: String::new(), name: String::new(), members };
            wire::send(&ours, &Request::Tables(vec![table]), &[]).unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            assert!(wire::send(&ours, &Reply::Done, &vec![listener.as_fd(); DESCRIPTORS + 1]).is_err());
        }
    });
    let (reply, descriptors) = wire::receive::<Reply>(&theirs).unwrap();
    let Reply::Left(received) = reply else { panic!("{reply:?}") };
    assert_eq!(received, served);
    for (descriptor, sent) in descriptors.into_iter().zip(&served.ports) {
        assert_eq!(UdpSocket::from(descriptor).local_addr().unwrap().port(), sent.port.host_port);
    }
    let (request, descriptors) = wire::receive::<Request>(&theirs).unwrap();
    assert!(matches!(request, Request::Tables(tables) if tables[0].members[0].names.len() == 5000) && descriptors.is_empty());
    sender.join().unwrap();
    assert!(wire::receive::<Reply>(&theirs).is_err(), "nobody is there any more");
}
