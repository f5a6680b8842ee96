//! Names in networks of users: each container that is in one asks at 127.0.0.11, as under Docker.
//!
//! The sockets are made in the container's own network namespace, so only it can ask; rules there lead port 53 of that
//! address to them, so that it may have port 53 for itself. Who is called what is looked up in the database each time:
//! there is nothing that could be out of date. Other names are asked of the host's servers from the host's namespace,
//! so that those on its loopback can be asked too, but not for a container whose networks are all internal: names can
//! carry what must not get out. (CVE-2024-29018)
//!
//! The sockets are this process's and end with it; [`super::recover()`] makes them again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use engine::network::dns::{Code, Question};
use engine::network::netlink::Socket;
use engine::network::{namespace, nft};
use fs_base::{ContainerId, IoContext, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::files::{RESOLVER, upstream};
use crate::app::App;
use crate::container::ContainerRow;
use crate::db::Db;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may say nothing.
const SILENT: Duration = Duration::from_secs(10);
/// Questions of one container at once; more are dropped, and asked again by who asked.
const AT_ONCE: usize = 128;
/// The largest message over UDP. Source: RFC 6891.
const DATAGRAM: usize = 4096;
/// How many servers are asked. Source: resolv.conf(5).
const SERVERS: usize = 3;
const PORT: u16 = 53;

/// What answers one container.
struct Resolver {
    db: Db,
    container: ContainerId,
    upstream: Vec<IpAddr>,
    places: Arc<Semaphore>,
}

/// Answers a container whose namespace this is, until it ends. Must be called on a thread of the runtime's.
pub fn start(app: &App, row: &ContainerRow, own: BorrowedFd<'_>) -> Result<()> {
    let usual = usual_port(&row.id);
    let (udp, tcp) = namespace::inside(own, || {
        let (udp, tcp) = match sockets(usual) {
            Ok(both) => both,
            // Somebody in the container has it.
            Err(_) => sockets(0)?,
        };
        let port = |address: std::io::Result<SocketAddr>| address.map(|address| address.port()).at("look at", "socket");
        let ports = (port(udp.local_addr())?, port(tcp.local_addr())?);
        nft::redirect_names(&mut Socket::netfilter()?, RESOLVER, ports, ports == (usual, usual))?;
        udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).at("configure", "socket")?;
        Ok((udp, tcp))
    })?;
    let runtime = tokio::runtime::Handle::current();
    let _entered = runtime.enter();
    let udp = UdpSocket::from_std(udp).at("listen on", RESOLVER.to_string())?;
    let tcp = TcpListener::from_std(tcp).at("listen on", RESOLVER.to_string())?;
    let resolver = Arc::new(Resolver {
        db: app.db.clone(),
        container: row.id.clone(),
        upstream: upstream(row),
        places: Arc::new(Semaphore::new(AT_ONCE)),
    });
    let datagrams = runtime.spawn(serve_udp(Arc::clone(&resolver), Arc::new(udp)));
    let streams = runtime.spawn(serve_tcp(resolver, tcp));
    app.networks.keep(&row.id, vec![datagrams, streams]);
    Ok(())
}

/// The port that a container's names are answered at: the same each time, so that the rules in its namespace still hold
/// when the daemon comes back. It is among those that are nobody's. Source: RFC 6335.
fn usual_port(id: &ContainerId) -> u16 {
    let number = u16::from_str_radix(&id.as_str()[..4], 16).unwrap_or(0);
    49_152 + number % 16_384
}

fn sockets(port: u16) -> Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let address = SocketAddr::from((RESOLVER, port));
    let udp = std::net::UdpSocket::bind(address).at("bind", address.to_string())?;
    let tcp = std::net::TcpListener::bind(address).at("bind", address.to_string())?;
    Ok((udp, tcp))
}

async fn serve_udp(resolver: Arc<Resolver>, socket: Arc<UdpSocket>) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        while tasks.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&resolver.places).try_acquire_owned() else { continue };
        let (resolver, socket, message) = (Arc::clone(&resolver), Arc::clone(&socket), buffer[..length].to_vec());
        tasks.spawn(async move {
            if let Some(answer) = resolver.answer(message, false).await {
                let _ = socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

async fn serve_tcp(resolver: Arc<Resolver>, listener: TcpListener) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let Ok(place) = Arc::clone(&resolver.places).try_acquire_owned() else { continue };
                let resolver = Arc::clone(&resolver);
                tasks.spawn(async move {
                    converse(&resolver, stream).await;
                    drop(place);
                });
            }
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Question after question, each with its length in front. Source: RFC 1035, 4.2.2.
async fn converse(resolver: &Arc<Resolver>, mut stream: TcpStream) {
    while let Ok(Ok(message)) = tokio::time::timeout(SILENT, read_message(&mut stream)).await {
        let Some(answer) = resolver.answer(message, true).await else { return };
        if write_message(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    stream.write_u16(message.len() as u16).await?;
    stream.write_all(message).await
}

/// What is known of a question without asking anybody.
enum Known {
    /// The whole answer.
    Answer(Vec<u8>),
    /// Somebody else may know.
    Ask,
    /// Somebody else may know, but must not be asked.
    Closed,
}

impl Resolver {
    async fn answer(self: &Arc<Self>, message: Vec<u8>, stream: bool) -> Option<Vec<u8>> {
        let question = Question::parse(&message)?;
        let (resolver, asked, bytes) = (Arc::clone(self), question.clone(), message.clone());
        let known = tokio::task::spawn_blocking(move || resolver.look_up(&asked, &bytes)).await.ok()?;
        match known {
            Ok(Known::Answer(answer)) => Some(answer),
            Ok(Known::Ask) => {
                for server in self.upstream.iter().take(SERVERS) {
                    let asking = ask((*server, PORT).into(), &message, stream);
                    if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asking).await {
                        return Some(answer);
                    }
                }
                Some(question.empty(&message, Code::Failed))
            }
            Ok(Known::Closed) | Err(_) => Some(question.empty(&message, Code::Failed)),
        }
    }

    /// Blocks on the database.
    fn look_up(&self, question: &Question, message: &[u8]) -> Result<Known> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        let (mut leads_out, mut is_known) = (false, false);
        let asked = question.address();
        for endpoint in self.db.endpoints_of(&self.container)? {
            if endpoint.lease.is_none() {
                continue;
            }
            let network = self.db.find_network(&endpoint.network)?;
            leads_out |= !network.spec.internal;
            if !network.is_user_defined() {
                continue;
            }
            for named in self.db.named_in(&network.id)? {
                let own = [named.lease.address(true), named.lease.address(false)].into_iter().flatten();
                if let Some(address) = asked {
                    if own.clone().any(|own| own == address) {
                        let name = format!("{}.{}", named.names[0], network.name);
                        return Ok(Known::Answer(question.pointer(message, &name)));
                    }
                } else if named.is_called(&question.name, &network.name) {
                    is_known = true;
                    addresses.extend(own);
                }
            }
        }
        if is_known {
            // So that who takes the first takes them in turn.
            let turn = message.get(1).map_or(0, |byte| usize::from(*byte)) % addresses.len().max(1);
            addresses.rotate_left(turn);
            return Ok(Known::Answer(question.addresses(message, &addresses)));
        }
        Ok(if leads_out { Known::Ask } else { Known::Closed })
    }
}

async fn ask(server: SocketAddr, message: &[u8], stream: bool) -> std::io::Result<Vec<u8>> {
    if stream {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, message).await?;
        return read_message(&mut stream).await;
    }
    let any: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { ([0u16; 8], 0).into() };
    // A port of its own for each question, and the question's number, make it hard to answer in the server's place.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(message).await?;
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= 2 && buffer[..2] == message[..2] {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}
