//! Bridges, wires and rules on the real kernel; a process that does nothing stands for a container.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use engine::network::nft::{Change, Port, Protocol};
use engine::network::{Bridge, End, Host, Mac, Scope, namespace};
use fs_base::Result;

fn able() -> bool {
    let root = rustix::process::geteuid().is_root();
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    let able = root && std::fs::read_to_string("/proc/net/netfilter/nf_log").is_ok();
    let able = able && ["ip", "nsenter", "unshare"].into_iter().all(has);
    if !able {
        println!("SKIPPED: networks: need root, netfilter, iproute2 and util-linux");
    }
    able
}

/// A network namespace, as long as this lives.
struct Other {
    child: Child,
    namespace: OwnedFd,
    wire: String,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::zombie_processes, reason = "Other waits when it is dropped")]
fn other() -> Other {
    // It reads what nobody writes, so that it ends when this process does, however that ends.
    let child = Command::new("unshare").args(["-n", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
    let own = namespace::of_process(std::process::id() as i32).unwrap();
    loop {
        let namespace = namespace::of_process(child.id() as i32).unwrap();
        if !namespace::is_same(namespace.as_fd(), own.as_fd()).unwrap() {
            let wire = format!("ft{}", child.id());
            return Other { child, namespace, wire };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Network {
    host: Host,
    bridge: Bridge,
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.host.remove_all();
    }
}

/// A network of its own for a test; `number` makes its subnet.
fn network(number: u8, internal: bool) -> Network {
    let host = Host::new(Scope::of_root(std::path::Path::new(&format!("/test/{number}/{}", std::process::id()))));
    let bridge = bridge(&host.scope().bridge, number, internal);
    host.bring_up(&bridge).unwrap();
    Network { host, bridge }
}

fn bridge(name: &str, number: u8, internal: bool) -> Bridge {
    let v4 = format!("10.249.{number}.1/24").parse().unwrap();
    let v6 = format!("fd00:f5d:{number}::1/64").parse().unwrap();
    let rules = Change { bridge: name.to_owned(), subnets: vec![v4, v6], internal, talkative: true, masquerade: true };
    Bridge { rules, addresses: vec![v4, v6], mtu: None }
}

fn connect(host: &Host, bridge: &Bridge, other: &Other, last: u8) -> Result<IpAddr> {
    let addresses: Vec<ipnet::IpNet> = bridge
        .addresses
        .iter()
        .map(|net| match net.addr() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                ipnet::IpNet::new([a, b, c, last].into(), net.prefix_len()).unwrap()
            }
            IpAddr::V6(v6) => {
                let mut octets = v6.octets();
                octets[15] = last;
                ipnet::IpNet::new(octets.into(), net.prefix_len()).unwrap()
            }
        })
        .collect();
    let gateways: Vec<IpAddr> = bridge.addresses.iter().map(ipnet::IpNet::addr).collect();
    host.connect(&End {
        namespace: other.namespace.as_fd(),
        bridge: &bridge.rules.bridge,
        host_link: &other.wire,
        name: "eth0",
        mac: Mac([2, 0, 0, 0, 1, last]),
        addresses: &addresses,
        gateways: if bridge.rules.internal { &[] } else { &gateways },
        mtu: None,
    })?;
    Ok(addresses[0].addr())
}

/// A server in the namespace that says who asked, as often as it is asked.
fn serve(other: &Other, port: u16) {
    let listener = namespace::inside(&other.namespace, || Ok(TcpListener::bind(("::", port)).unwrap())).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = stream.write_all(from.ip().to_canonical().to_string().as_bytes());
        }
    });
}

fn ask_within(address: SocketAddr, limit: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// What a place answers that should, however long it takes.
fn ask(address: impl Into<SocketAddr>) -> Option<String> {
    ask_within(address.into(), Duration::from_secs(300))
}

fn ask_from(other: &Other, address: impl Into<SocketAddr>) -> Option<String> {
    let address = address.into();
    namespace::inside(&other.namespace, || Ok(ask(address))).unwrap()
}

/// Whether a place that should not answer does not.
fn is_silent(address: impl Into<SocketAddr>) -> bool {
    ask_within(address.into(), Duration::from_secs(1)).is_none()
}

fn is_silent_to(other: &Other, address: impl Into<SocketAddr>) -> bool {
    let address = address.into();
    namespace::inside(&other.namespace, || Ok(is_silent(address))).unwrap()
}

fn port(host: &str, host_port: u16, container: IpAddr) -> Port {
    Port { protocol: Protocol::Tcp, host: host.parse().unwrap(), host_port, container, container_port: 80 }
}

#[test]
fn a_container_is_reached_at_its_address_and_at_published_ports() {
    if !able() {
        return;
    }
    let Network { ref host, ref bridge } = network(1, false);
    let (one, two) = (other(), other());
    let address = connect(host, bridge, &one, 2).unwrap();
    connect(host, bridge, &two, 3).unwrap();
    serve(&one, 80);
    assert_eq!(ask((address, 80)).as_deref(), Some("10.249.1.1"));
    assert_eq!(ask_from(&two, (address, 80)).as_deref(), Some("10.249.1.3"), "containers of a network reach each other");
    let v6: IpAddr = "fd00:f5d:1::2".parse().unwrap();
    assert_eq!(ask((v6, 80)).as_deref(), Some("fd00:f5d:1::1"));
    let ports = [port("0.0.0.0", 19_081, address), port("127.0.0.1", 19_082, address), port("::", 19_081, v6)];
    host.publish(&ports).unwrap();
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let gateway: IpAddr = "10.249.1.1".parse().unwrap();
    assert_eq!(ask((loopback, 19_081)).as_deref(), Some("10.249.1.1"));
    assert_eq!(ask((loopback, 19_082)).as_deref(), Some("10.249.1.1"));
    assert_eq!(ask((gateway, 19_081)).as_deref(), Some("10.249.1.1"));
    assert!(is_silent((gateway, 19_082)), "it is published on 127.0.0.1 only");
    let gateway6: IpAddr = "fd00:f5d:1::1".parse().unwrap();
    assert_eq!(ask((gateway6, 19_081)).as_deref(), Some("fd00:f5d:1::1"));
    assert_eq!(ask_from(&two, (gateway, 19_081)).as_deref(), Some("10.249.1.1"), "another container by the published port");
    assert_eq!(ask_from(&one, (gateway, 19_081)).as_deref(), Some("10.249.1.1"), "a container by its own published port");
    host.unpublish(&ports).unwrap();
    host.unpublish(&ports).unwrap();
    assert!(is_silent((loopback, 19_081)));
    host.disconnect(&one.wire).unwrap();
    host.disconnect(&one.wire).unwrap();
    assert!(is_silent((address, 80)));
}

#[test]
fn networks_are_apart_but_for_what_they_publish() {
    if !able() {
        return;
    }
    let Network { ref host, ref bridge } = network(2, false);
    let second = self::bridge(&format!("ft-{}", std::process::id()), 3, false);
    let inner = self::bridge(&format!("fi-{}", std::process::id()), 4, true);
    host.bring_up(&second).unwrap();
    host.bring_up(&inner).unwrap();
    let (one, two, three) = (other(), other(), other());
    let address = connect(host, bridge, &one, 2).unwrap();
    connect(host, &second, &two, 2).unwrap();
    let inner_address = connect(host, &inner, &three, 2).unwrap();
    serve(&one, 80);
    serve(&three, 80);
    assert!(is_silent_to(&two, (address, 80)), "another network's container is not reached");
    host.publish(&[port("0.0.0.0", 19_083, address)]).unwrap();
    let gateway: IpAddr = "10.249.3.1".parse().unwrap();
    assert!(ask_from(&two, (gateway, 19_083)).is_some(), "but at the port that it publishes");
    assert_eq!(ask((inner_address, 80)).as_deref(), Some("10.249.4.1"), "the host reaches an internal network");
    assert!(is_silent_to(&three, (address, 80)));
    // No way leads out, and if it had one, no packet would pass.
    engine::network::set_way(&engine::network::Way {
        namespace: three.namespace.as_fd(),
        name: "eth0",
        gateways: &["10.249.4.1".parse().unwrap()],
    })
    .unwrap();
    assert!(is_silent_to(&three, (address, 80)));
    let published: IpAddr = "10.249.4.1".parse().unwrap();
    assert!(is_silent_to(&three, (published, 19_083)), "nor does it reach what others publish");
    assert_eq!(host.links().unwrap().0.len(), 3);
    host.take_down(&second).unwrap();
    host.take_down(&second).unwrap();
    host.take_down(&inner).unwrap();
    assert_eq!(host.links().unwrap().0, std::slice::from_ref(&bridge.rules.bridge));
    host.remove_all().unwrap();
    assert!(host.links().unwrap().0.is_empty() && !host.has_rules().unwrap());
}

#[test]
fn what_goes_out_has_the_hosts_address_and_loopback_is_closed() {
    if !able() {
        return;
    }
    let Network { ref host, ref bridge } = network(5, false);
    // Another network's container stands for the world: a link that is no bridge of ours.
    let (one, world) = (other(), other());
    connect(host, bridge, &one, 2).unwrap();
    let wire = format!("fw{}", std::process::id());
    let script = format!(
        "ip link add {wire} type veth peer name eth0 netns {pid} && ip addr add 10.249.6.1/24 dev {wire} && ip link set {wire} up && \
         nsenter -t {pid} -n sh -c 'ip addr add 10.249.6.2/24 dev eth0; ip link set eth0 up'",
        pid = world.child.id()
    );
    assert!(Command::new("sh").args(["-ec", &script]).status().unwrap().success());
    serve(&world, 80);
    let there: IpAddr = "10.249.6.2".parse().unwrap();
    // A wire carries packets a moment after it is up.
    let end = Instant::now() + Duration::from_secs(300);
    while ask_within((there, 80).into(), Duration::from_secs(1)).is_none() {
        assert!(Instant::now() < end, "{there} does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ask_from(&one, (there, 80)).as_deref(), Some("10.249.6.1"));
    let local = TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!(
        "ip route add 127.0.0.0/8 via 10.249.5.1 dev eth0 table local; ip addr del 127.0.0.1/8 dev lo; \
         timeout 1 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{}'",
        local.local_addr().unwrap().port()
    );
    let status = Command::new("nsenter")
        .args(["-t", &one.child.id().to_string(), "-n", "bash", "-c", &script])
        .stderr(std::process::Stdio::null())
        .status();
    assert!(!status.unwrap().success(), "a container reached the host's loopback");
    // Rules that are made anew hold what they are told to hold.
    host.reset_rules(std::slice::from_ref(bridge), &[]).unwrap();
    assert_eq!(ask_from(&one, (there, 80)).as_deref(), Some("10.249.6.1"));
    let used = |net: &str| host.networks_in_use().unwrap().iter().any(|used| used.net == net.parse().unwrap());
    assert!(used("10.249.6.0/24"));
    assert!(!used("10.249.5.0/24"), "our own don't count");
}

#[test]
fn a_firewall_that_drops_lets_our_bridges_through() {
    if !able() {
        return;
    }
    let has = |program: &str| Command::new(program).arg("-V").output().is_ok();
    if !has("iptables-nft") {
        println!("SKIPPED: firewalls: iptables-nft is not installed");
        return;
    }
    // A host of its own, whose firewall is nobody else's.
    let machine = other();
    let run = |script: &str| {
        let output =
            Command::new("nsenter").args(["-t", &machine.child.id().to_string(), "-n", "sh", "-ec", script]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    for (rules, chain) in [
        ("iptables-nft -P FORWARD DROP", "FORWARD"),
        (
            "iptables-nft -N DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN; iptables-nft -I FORWARD -j DOCKER-USER",
            "DOCKER-USER",
        ),
    ] {
        assert!(run(rules).0, "{rules}");
        let host = Host::new(Scope::of_root(std::path::Path::new("/test/firewall")));
        let bridge = bridge(&host.scope().bridge, 7, false);
        let name = host.scope().bridge.clone();
        namespace::inside(&machine.namespace, || {
            host.bring_up(&bridge)?;
            let listens = std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/accept_ra").unwrap();
            assert_eq!(listens.trim(), "2", "a host that forwards still listens to its routers");
            host.bring_up(&bridge)
        })
        .unwrap();
        let (_, listed) = run(&format!("iptables-nft -S {chain}"));
        let ours: Vec<&str> = listed.lines().filter(|line| line.contains(&name)).collect();
        assert_eq!(ours.len(), 2, "{listed}");
        namespace::inside(&machine.namespace, || host.take_down(&bridge)).unwrap();
        let (_, listed) = run("iptables-nft -S");
        assert!(!listed.contains(&name), "{listed}");
    }
}

#[test]
fn what_a_killed_daemon_had_begun_to_make_is_in_nobodys_way() {
    if !able() {
        return;
    }
    // A host of its own, on which nobody else makes any.
    let machine = other();
    let host = Host::new(Scope::of_root(std::path::Path::new("/test/unfinished")));
    let bridge = bridge(&host.scope().bridge, 8, false);
    let name = &bridge.rules.bridge;
    let ip = |words: &str| {
        let words = format!("-t {} -n ip link {words}", machine.child.id());
        assert!(Command::new("nsenter").args(words.split(' ')).status().unwrap().success(), "{words}");
    };
    let inside = |work: &(dyn Fn() -> Result<()> + Sync)| namespace::inside(&machine.namespace, work);
    ip(&format!("add {name} group {} type bridge", host.scope().unfinished()));
    inside(&|| host.remove_unfinished()).unwrap();
    inside(&|| host.bring_up(&bridge)).unwrap();
    // One that is finished is none of them, and one of somebody else's stays his.
    inside(&|| host.remove_unfinished()).unwrap();
    inside(&|| host.take_down(&bridge)).unwrap();
    ip(&format!("add {name} type bridge"));
    inside(&|| host.remove_all()).unwrap();
    let refused = inside(&|| host.bring_up(&bridge)).unwrap_err();
    assert!(refused.to_string().ends_with("is there and not ours"), "{refused}");
}
