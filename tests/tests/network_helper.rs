//! Names and published ports while the daemon, or the process that serves them, is away: killed, replaced, asked too much.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use engine::network::{Host, Scope, namespace};
use fs_base::sys::pid::Process;
use system_tests::containers::{daemon_with, inspect, with_busybox};
use system_tests::networks::{address, curl, free_port, idle, published_server, server};
use system_tests::{Daemon, ok, program, program_in, until};

/// Where a container asks for names.
const RESOLVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// An answer to a question that was lost does not come.
const LOST: Duration = Duration::from_millis(500);

/// What a question's answer said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Address(Ipv4Addr),
    /// Something else: that there is none, or that nobody knows.
    No,
}

fn question(name: &str) -> Vec<u8> {
    let mut message = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for part in name.split('.') {
        message.push(part.len() as u8);
        message.extend(part.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// A container, seen from outside: asked of the kernel, no daemon is needed for it.
struct Inside {
    namespace: OwnedFd,
    process: Process,
}

impl Inside {
    fn of(daemon: &Daemon, name: &str) -> Inside {
        let pid: i32 = inspect(daemon, name, "{{.State.Pid}}").parse().unwrap();
        Inside { namespace: namespace::of_process(pid).unwrap(), process: Process::open(pid).unwrap() }
    }

    fn socket(&self) -> UdpSocket {
        let socket = namespace::inside(self.namespace.as_fd(), || Ok(UdpSocket::bind("127.0.0.1:0").unwrap())).unwrap();
        socket.set_read_timeout(Some(LOST)).unwrap();
        socket
    }

    /// One question, once.
    fn ask(&self, name: &str) -> Option<Said> {
        let socket = self.socket();
        socket.send_to(&question(name), RESOLVER).ok()?;
        let mut answer = [0; 600];
        let length = socket.recv(&mut answer).ok()?;
        let is_address = answer[3] % 16 == 0 && answer[7] > 0;
        let last = <[u8; 4]>::try_from(&answer[length - 4..length]).unwrap();
        Some(if is_address { Said::Address(last.into()) } else { Said::No })
    }

    /// Asks until something is said. A datagram may be lost on a machine that is busy.
    #[track_caller]
    fn told(&self, name: &str) -> Said {
        let mut said = None;
        for _ in 0..600 {
            said = self.ask(name);
            if said.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        said.expect("nobody answers")
    }

    #[track_caller]
    fn knows(&self, name: &str, address: &str) {
        assert_eq!(self.told(name), Said::Address(address.parse().unwrap()), "{name}");
    }
}

/// Says that it is the end, also to who must know it when a step has failed.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The helper's process, if there is one.
fn helper(daemon: &Daemon) -> Option<Process> {
    let text = std::fs::read_to_string(daemon.dir().join("run/network/pid")).ok()?;
    Process::open(text.split(' ').next()?.parse().ok()?).ok().filter(|process| !process.has_ended())
}

fn kill_helper(daemon: &Daemon) {
    let helper = helper(daemon).unwrap();
    helper.signal(9).unwrap();
    until("it has ended", || helper.has_ended());
}

fn descriptors(process: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", process.pid())).unwrap().count()
}

/// A TCP server that says what it hears.
fn echo(daemon: &Daemon, name: &str, port: u16, network: &str) {
    let publish = format!("{port}:7");
    ok(&daemon.docker(&[
        "run",
        "-d",
        "--name",
        name,
        "--network",
        network,
        "-p",
        &publish,
        "busybox",
        "nc",
        "-ll",
        "-p",
        "7",
        "-e",
        "cat",
    ]));
}

fn connected(port: u16) -> TcpStream {
    let found = std::cell::RefCell::new(None);
    until("it echoes", || {
        let Ok(stream) = TcpStream::connect(("::1", port)) else { return false };
        let echoes = echoes(&stream);
        found.replace(Some(stream));
        echoes
    });
    found.into_inner().unwrap()
}

fn echoes(mut stream: &TcpStream) -> bool {
    let mut heard = [0; 5];
    stream.write_all(b"hello").and_then(|()| stream.read_exact(&mut heard)).is_ok() && heard == *b"hello"
}

const UDP_ECHO: &str = "use Socket; socket(S,PF_INET,SOCK_DGRAM,0); bind(S,sockaddr_in(9,INADDR_ANY)) or die; \
                        while(defined($a=recv(S,$b,999,0))){ send(S,\"echo $b\",0,$a) }";

/// Whether datagrams come back from a port at ::1.
#[track_caller]
fn datagrams_come(port: u16) {
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.set_read_timeout(Some(LOST)).unwrap();
    until("datagrams come back", || {
        let _ = socket.send_to(b"hello", ("::1", port));
        matches!(socket.recv(&mut [0; 100]), Ok(10))
    });
}

/// A server of names for the world, which knows every name: who is told its address has asked the world.
struct World {
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    address: String,
}

impl World {
    fn new() -> World {
        static WORLDS: AtomicU32 = AtomicU32::new(1);
        // Nobody else has the port at such an address of the loopback network.
        let address = format!("127.77.{}.{}", std::process::id() % 250, WORLDS.fetch_add(1, Ordering::Relaxed));
        let socket = UdpSocket::bind((address.as_str(), 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 600];
            while !told.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let mut answer = buffer[..length].to_vec();
                answer[2..4].copy_from_slice(&[0x81, 0x80]);
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 77]);
                let _ = socket.send_to(&answer, from);
            }
        });
        World { end, thread: Some(thread), address }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn host(daemon: &Daemon) -> Host {
    Host::new(Scope::of_root(&daemon.dir().join("root")))
}

fn nothing_is_left(daemon: &mut Daemon) {
    let all = ok(&daemon.docker(&["ps", "-aq"]));
    ok(&daemon.docker(&[&["rm", "-f"], &all.lines().collect::<Vec<_>>()[..]].concat()));
    ok(&daemon.docker(&["network", "prune", "-f"]));
    let last = helper(daemon);
    daemon.stop();
    until("the helper has ended", || last.as_ref().is_none_or(Process::has_ended));
    until("nothing is left", || host(daemon).links().unwrap() == (Vec::new(), Vec::new()));
    assert!(!daemon.dir().join("run/network").exists());
}

#[test]
fn all_of_it_is_nobody_and_can_make_few_system_calls() {
    let Some(mut daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["network", "create", "net"]));
    idle(&daemon, "asker", &["--network", "net"]);
    let asker = Inside::of(&daemon, "asker");
    asker.knows("asker", &address(&daemon, "asker"));
    let tasks = format!("/proc/{}/task", helper(&daemon).unwrap().pid());
    let mut count = 0;
    for task in std::fs::read_dir(&tasks).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let says = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned();
        // 2 is a filter. Source: proc_pid_status(5).
        assert_eq!((says("Seccomp:").as_str(), says("NoNewPrivs:").as_str()), ("2", "1"), "{status}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(u64::from_str_radix(&says(set), 16), Ok(0), "{status}");
        }
        assert!(says("Uid:").split_whitespace().all(|uid| uid == "65534"), "{status}");
        count += 1;
    }
    assert_eq!(count, 2, "the one that serves and the one that hears the daemon");
    nothing_is_left(&mut daemon);
}

#[test]
fn names_and_ports_go_on_while_the_daemon_is_away() {
    let Some(mut daemon) = daemon_with(&["busybox.tar", "debian.tar"]) else { return };
    let world = World::new();
    let (tcp, udp, gone) = (free_port(), free_port(), free_port());
    for network in ["net", "other"] {
        ok(&daemon.docker(&["network", "create", network]));
    }
    echo(&daemon, "tcp", tcp, "net");
    echo(&daemon, "gone", gone, "net");
    let publish = format!("{udp}:9/udp");
    ok(&daemon.docker(&["run", "-d", "--name", "udp", "--network", "net", "-p", &publish, "debian:12", "perl", "-e", UDP_ECHO]));
    idle(&daemon, "asker", &["--network", "net", "--network-alias", "me", "--dns", &world.address]);
    idle(&daemon, "stranger", &["--network", "other"]);
    let (asker, ending) = (Inside::of(&daemon, "asker"), Inside::of(&daemon, "gone"));
    let (of_tcp, of_gone, of_asker) = (address(&daemon, "tcp"), address(&daemon, "gone"), address(&daemon, "asker"));
    let goes_on = |stream: &TcpStream| {
        asker.knows("tcp", &of_tcp);
        asker.knows("me.net", &of_asker);
        asker.knows("some.world", "192.0.2.77");
        assert!(echoes(stream), "a connection of before");
        connected(tcp);
        datagrams_come(udp);
    };
    let stream = connected(tcp);
    goes_on(&stream);
    daemon.kill();
    goes_on(&stream);
    asker.knows("gone", &of_gone);
    // A container that ends now takes its names and ports along, and nothing holds its namespace.
    let wires = host(&daemon).links().unwrap().1.len();
    connected(gone);
    let Inside { namespace, process } = ending;
    drop(namespace);
    process.signal(9).unwrap();
    until("its name is gone", || asker.told("gone") != Said::Address(of_gone.parse().unwrap()));
    until("its port is free", || TcpListener::bind(("::", gone)).is_ok());
    until("its wire is gone", || host(&daemon).links().unwrap().1.len() == wires - 1);
    let before = helper(&daemon).unwrap().pid();
    daemon.restart();
    assert_eq!(helper(&daemon).unwrap().pid(), before, "it is taken over");
    goes_on(&stream);
    assert_ne!(asker.told("gone"), Said::Address(of_gone.parse().unwrap()));
    let taken = system_tests::fails(&daemon.docker(&["run", "--rm", "-p", &format!("{tcp}:80"), "busybox", "true"]));
    assert!(taken.contains("port is already allocated"), "{taken}");
    // What is changed is known at once.
    ok(&daemon.docker(&["rename", "tcp", "new"]));
    asker.knows("new", &of_tcp);
    assert_ne!(asker.told("tcp"), Said::Address(of_tcp.parse().unwrap()));
    ok(&daemon.docker(&["network", "connect", "--alias", "friend", "net", "stranger"]));
    let of_stranger = inspect(&daemon, "stranger", "{{.NetworkSettings.Networks.net.IPAddress}}");
    asker.knows("friend", &of_stranger);
    Inside::of(&daemon, "stranger").knows("new", &of_tcp);
    ok(&daemon.docker(&["network", "disconnect", "net", "stranger"]));
    assert_ne!(asker.told("friend"), Said::Address(of_stranger.parse().unwrap()));
    assert_ne!(Inside::of(&daemon, "stranger").told("new"), Said::Address(of_tcp.parse().unwrap()));
    nothing_is_left(&mut daemon);
}

#[test]
fn the_helper_is_started_again_when_it_was_killed() {
    let Some(mut daemon) = with_busybox() else { return };
    let port = published_server(&daemon);
    let world = World::new();
    // Whoever asks the world for a container's name is told something else.
    idle(&daemon, "asker", &["--network", "net", "--dns", &world.address]);
    let (asker, of_web) = (Inside::of(&daemon, "asker"), address(&daemon, "web"));
    let is_known = || {
        let said = asker.ask("web");
        assert!(said.is_none() || said == Some(Said::Address(of_web.parse().unwrap())), "{said:?}");
        said.is_some()
    };
    let place = format!("[::1]:{port}");
    for _ in 0..2 {
        kill_helper(&daemon);
        until("there is another", || helper(&daemon).is_some());
        until("it serves", || is_known() && system_tests::networks::curl_within(&place, "2").is_some());
        asker.knows("web", &of_web);
    }
    // Whoever needs it next does not wait.
    kill_helper(&daemon);
    server(&daemon, "late", &["--network", "net", "-p", "80"]);
    asker.knows("late", &address(&daemon, "late"));
    asker.knows("web", &of_web);
    // Without a daemon nobody starts it; the next one does.
    daemon.kill();
    kill_helper(&daemon);
    assert_eq!(asker.ask("web"), None);
    daemon.restart();
    asker.knows("web", &of_web);
    assert_eq!(curl(&place).as_deref(), Some("I am web"));
    // One that hangs is ended, and its work done by another.
    daemon.kill();
    let hung = helper(&daemon).unwrap();
    hung.signal(rustix::process::Signal::STOP.as_raw()).unwrap();
    daemon.restart();
    until("it is ended", || hung.has_ended());
    asker.knows("web", &of_web);
    assert_eq!(curl(&place).as_deref(), Some("I am web"));
    nothing_is_left(&mut daemon);
}

#[test]
fn a_new_version_takes_over_without_a_gap() {
    let Some(mut daemon) = with_busybox() else { return };
    let (port, beside) = (free_port(), free_port());
    ok(&daemon.docker(&["network", "create", "net"]));
    echo(&daemon, "tcp", port, "net");
    server(&daemon, "web", &["--network", "net", "-p", &format!("{beside}:80")]);
    idle(&daemon, "asker", &["--network", "net"]);
    let (asker, of_web) = (Inside::of(&daemon, "asker"), address(&daemon, "web"));
    let (stream, old) = (connected(port), helper(&daemon).unwrap());
    let listening = || TcpStream::connect(("::1", beside)).is_ok();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Whatever fails here, the other thread ends, and is not waited for in vain.
        let ending = Ending(&end);
        let watching = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                assert!(listening(), "a port was closed for a moment");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        daemon.kill();
        // Another file is another version.
        let copy = program_in(daemon.dir(), "fsd");
        let shim = program("fsd-shim").display().to_string();
        daemon.restart_as(&copy, &["--shim", &shim]);
        asker.knows("web", &of_web);
        drop(ending);
        watching.join().unwrap();
    });
    let new = helper(&daemon).unwrap();
    assert_ne!(new.pid(), old.pid());
    assert!(!old.has_ended() && echoes(&stream), "the old one still has a connection");
    assert_eq!(curl(&format!("[::1]:{beside}")).as_deref(), Some("I am web"));
    connected(port);
    drop(stream);
    until("the old one has ended", || old.has_ended());
    nothing_is_left(&mut daemon);
}

/// Which socket listens at a port; another one has another number.
fn listener(port: u16) -> Option<String> {
    let find = || {
        let table = std::fs::read_to_string("/proc/net/tcp6").unwrap();
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found = lines.find(|words| words[1].ends_with(&format!(":{port:04X}")) && words[3] == "0A");
        found.map(|words| words[9].to_owned())
    };
    // The table is read piece by piece: while others come and go one that is there may be missed.
    (0..10).find_map(|_| find())
}

#[test]
fn one_that_leaves_hands_over_all_with_no_connection_left() {
    let Some(mut daemon) = with_busybox() else { return };
    let port = published_server(&daemon);
    let socket = listener(port);
    assert!(socket.is_some());
    let copy = program_in(daemon.dir(), "fsd");
    let shim = program("fsd-shim").display().to_string();
    // Another file is another version, each time.
    for (file, flags) in [(&copy, &["--shim", &*shim][..]), (&program("fsd"), &[]), (&copy, &[]), (&program("fsd"), &[])] {
        let old = helper(&daemon).unwrap();
        daemon.kill();
        daemon.restart_as(file, flags);
        until("the old one has ended", || old.has_ended());
        assert_eq!(listener(port), socket, "the socket is the same");
    }
    assert_eq!(curl(&format!("[::1]:{port}")).as_deref(), Some("I am web"));
    nothing_is_left(&mut daemon);
}

#[test]
fn a_hostile_container_gets_no_more_than_its_share() {
    let Some(mut daemon) = with_busybox() else { return };
    let (port, other, world) = (free_port(), free_port(), World::new());
    ok(&daemon.docker(&["network", "create", "net"]));
    ok(&daemon.docker(&["network", "create", "--internal", "inner"]));
    server(&daemon, "web", &["--network", "net", "-p", &format!("{port}:80"), "--dns", &world.address]);
    idle(&daemon, "bad", &["--network", "net", "-p", &format!("{other}:7")]);
    idle(&daemon, "shut", &["--network", "inner", "--dns", &world.address]);
    let (bad, web, of_web) = (Inside::of(&daemon, "bad"), Inside::of(&daemon, "web"), address(&daemon, "web"));
    let process = helper(&daemon).unwrap();
    let before = descriptors(&process);
    // It opens connections to its resolver, and sends rubbish.
    let open = namespace::inside(bad.namespace.as_fd(), || {
        Ok((0..400).filter_map(|_| TcpStream::connect(RESOLVER).ok()).collect::<Vec<_>>())
    })
    .unwrap();
    let socket = bad.socket();
    for number in 0..20_000u32 {
        let mut message = question("nobody.at.all");
        let at = number as usize % message.len();
        message[at] ^= (number >> 5) as u8;
        let _ = socket.send_to(&message[..message.len() - number as usize % 7], RESOLVER);
    }
    web.knows("web", &of_web);
    assert!(descriptors(&process) < before + 400, "{} descriptors", descriptors(&process));
    drop(open);
    bad.knows("web", &of_web);
    // Whoever holds all places of one container's ports holds none of another's.
    let listener = namespace::inside(bad.namespace.as_fd(), || Ok(TcpListener::bind("0.0.0.0:7").unwrap())).unwrap();
    listener.set_nonblocking(true).unwrap();
    let open: Vec<_> = (0..1300).map(|_| (TcpStream::connect(("::1", other)).ok(), listener.accept().ok())).collect();
    assert_eq!(curl(&format!("[::1]:{port}")).as_deref(), Some("I am web"));
    assert!(descriptors(&process) < before + 2 * 1024 + 100, "{} descriptors", descriptors(&process));
    drop((open, listener));
    // The helper may nothing, and its files are not there.
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    for line in ["Uid:\t65534\t65534\t65534\t65534", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{status}");
    }
    // An internal network's names are known, the world's are not asked for.
    web.knows("some.world", "192.0.2.77");
    assert_eq!(Inside::of(&daemon, "shut").told("some.world"), Said::No);
    until("all is given back", || descriptors(&process) <= before + 2);
    // Nothing adds up.
    for _ in 0..5 {
        ok(&daemon.docker(&["run", "--rm", "--network", "net", "-p", "80", "-p", "81/udp", "busybox", "true"]));
    }
    until("nothing adds up", || descriptors(&process) <= before + 2);
    nothing_is_left(&mut daemon);
}
