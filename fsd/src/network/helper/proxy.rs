//! What comes to the socket of a published port, because no rule carried it past: IPv6 to a container that has IPv4
//! only, and ::1. Each connection is passed on to the container.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use engine::network::nft::Protocol;
use fs_base::{Error, IoContext, Result};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;

use super::datagram::Buffer;
use super::shared::{Connection, Group, Held, Passing, Shared};
use super::wire::Passage;

/// How long a UDP client that says nothing is remembered. Docker's proxy has the same.
const SILENT: Duration = Duration::from_secs(90);
/// UDP clients of one port at once; a further one takes the place of whoever has said nothing for longest.
const CLIENTS: usize = 1024;
/// How long to wait after what failed for want of descriptors.
const BREATH: Duration = Duration::from_millis(100);
/// How long a container may take to accept.
const ACCEPT: Duration = Duration::from_secs(30);
/// After so long without a word it is asked whether the other end is still there.
const ASK_AFTER: Duration = Duration::from_secs(60);

/// Passes on what comes to a port. Must be called in the runtime.
pub fn serve(shared: &Arc<Shared>, passage: Passage, socket: OwnedFd, places: &Arc<Semaphore>) -> Result<Passing> {
    let (cut, receiver) = watch::channel(());
    let (held, task) = match passage.port.protocol {
        Protocol::Tcp => {
            let listener = std::net::TcpListener::from(socket);
            listener.set_nonblocking(true).at("configure", "socket")?;
            let listener = Arc::new(TcpListener::from_std(listener).at("listen on", "published port")?);
            let port = Port { shared: Arc::clone(shared), places: Arc::clone(places), cut: receiver, to: passage.to };
            (Held::Tcp(Arc::clone(&listener)), tokio::spawn(streams(listener, port)))
        }
        Protocol::Udp => {
            let socket = std::net::UdpSocket::from(socket);
            socket.set_nonblocking(true).at("configure", "socket")?;
            let socket = Arc::new(UdpSocket::from_std(socket).at("listen on", "published port")?);
            (Held::Udp(Arc::clone(&socket)), tokio::spawn(datagrams(socket, passage.to, shared.buffer.clone())))
        }
        Protocol::Sctp => return Err(Error::unsupported("SCTP is not passed on")),
    };
    Ok(Passing { passage, held: Some(held), group: Group::new(vec![task], cut) })
}

struct Port {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    cut: watch::Receiver<()>,
    to: SocketAddr,
}

async fn streams(listener: Arc<TcpListener>, port: Port) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let Ok(place) = Arc::clone(&port.places).acquire_owned().await else { return };
        let mut connection = Connection::new(&port.shared, port.cut.clone(), place);
        let to = port.to;
        tokio::spawn(async move {
            tokio::select! {
                () = pass_on(client, to) => {}
                _ = connection.cut.changed() => {}
            }
        });
    }
}

async fn pass_on(mut client: TcpStream, container: SocketAddr) {
    // A container that does not listen is told of by hanging up.
    if let Ok(Ok(mut inside)) = tokio::time::timeout(ACCEPT, TcpStream::connect(container)).await {
        for stream in [&client, &inside] {
            // Who is gone without a word must not keep a place for ever.
            let _ = sockopt::set_socket_keepalive(stream, true).and_then(|()| sockopt::set_tcp_keepidle(stream, ASK_AFTER));
        }
        let _ = tokio::io::copy_bidirectional(&mut client, &mut inside).await;
    }
}

/// A UDP client: the socket by which the container knows it, and when one of both last said something.
struct Client {
    socket: Arc<UdpSocket>,
    last: Arc<Mutex<Instant>>,
    answers: AbortHandle,
}

impl Client {
    fn last(&self) -> Instant {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

fn touch(last: &Mutex<Instant>) {
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
}

async fn datagrams(socket: Arc<UdpSocket>, container: SocketAddr, buffer: Buffer) {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    loop {
        let (message, from) = buffer.next(&socket).await;
        if !clients.contains_key(&from) {
            make_room(&mut clients);
            match new_client(&socket, from, container, &buffer).await {
                Ok(client) => drop(clients.insert(from, client)),
                Err(_) => tokio::time::sleep(BREATH).await,
            }
        }
        if let Some(client) = clients.get(&from) {
            touch(&client.last);
            // What does not go now is lost, as datagrams may be.
            let _ = client.socket.try_send(&message);
        }
    }
}

fn make_room(clients: &mut HashMap<SocketAddr, Client>) {
    clients.retain(|_, client| client.last().elapsed() <= SILENT);
    if clients.len() >= CLIENTS
        && let Some(from) = clients.iter().min_by_key(|(_, client)| client.last()).map(|(from, _)| *from)
    {
        clients.remove(&from);
    }
}

async fn new_client(port: &Arc<UdpSocket>, from: SocketAddr, to: SocketAddr, buffer: &Buffer) -> std::io::Result<Client> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = Arc::new(UdpSocket::bind((any, 0)).await?);
    socket.connect(to).await?;
    let last = Arc::new(Mutex::new(Instant::now()));
    let answers = tokio::spawn(answers(Arc::clone(&socket), Arc::downgrade(port), from, Arc::clone(&last), buffer.clone()));
    Ok(Client { socket, last, answers: answers.abort_handle() })
}

/// `port` is not held: it is free as soon as it is closed.
async fn answers(inside: Arc<UdpSocket>, port: Weak<UdpSocket>, to: SocketAddr, last: Arc<Mutex<Instant>>, buffer: Buffer) {
    loop {
        let (message, _) = buffer.next(&inside).await;
        touch(&last);
        let Some(port) = port.upgrade() else { return };
        let _ = port.try_send_to(&message, to);
    }
}
