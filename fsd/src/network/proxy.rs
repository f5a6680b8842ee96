//! What comes to the socket of a published port, because no rule carried it past: IPv6 to a container that has IPv4
//! only, and ::1. Each connection is passed on to the container.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fs_base::{IoContext, Result};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

use super::ports::{Bound, Held};

/// How long a UDP client that says nothing is remembered. Docker's proxy has the same.
const SILENT: Duration = Duration::from_secs(90);
/// UDP clients of one port at once.
const CLIENTS: usize = 1024;
/// The largest datagram.
const DATAGRAM: usize = 65_536;
/// How long to wait after an accept that failed for want of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// Passes on what comes to a port. Must be called on a thread of the runtime's.
pub fn serve(bound: Bound, container: SocketAddr) -> Result<Option<JoinHandle<()>>> {
    let runtime = tokio::runtime::Handle::current();
    let _entered = runtime.enter();
    Ok(match bound.held {
        Held::Tcp(listener) => Some(runtime.spawn(streams(adopt(listener)?, container))),
        Held::Udp(socket) => Some(runtime.spawn(datagrams(adopt_udp(socket)?, container))),
        Held::Nothing => None,
    })
}

fn adopt(listener: TcpListener) -> Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true).at("configure", "socket")?;
    tokio::net::TcpListener::from_std(listener).at("listen on", "published port")
}

fn adopt_udp(socket: UdpSocket) -> Result<tokio::net::UdpSocket> {
    socket.set_nonblocking(true).at("configure", "socket")?;
    tokio::net::UdpSocket::from_std(socket).at("listen on", "published port")
}

async fn streams(listener: tokio::net::TcpListener, container: SocketAddr) {
    // Connections end with the port.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => drop(connections.spawn(pass_on(client, container))),
                Err(_) => tokio::time::sleep(BREATH).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass_on(mut client: TcpStream, container: SocketAddr) {
    // A container that does not listen is told of by hanging up.
    if let Ok(mut inside) = TcpStream::connect(container).await {
        let _ = tokio::io::copy_bidirectional(&mut client, &mut inside).await;
    }
}

/// A UDP client: the socket by which the container knows it, and when it last said something.
struct Client {
    socket: Arc<tokio::net::UdpSocket>,
    last: Arc<Mutex<Instant>>,
    answers: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

async fn datagrams(socket: tokio::net::UdpSocket, container: SocketAddr) {
    let socket = Arc::new(socket);
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        if !clients.contains_key(&from) {
            forget_silent(&mut clients).await;
            match new_client(&socket, from, container).await {
                Ok(client) if clients.len() < CLIENTS => drop(clients.insert(from, client)),
                _ => continue,
            }
        }
        if let Some(client) = clients.get(&from) {
            *client.last.lock().await = Instant::now();
            let _ = client.socket.send(&buffer[..length]).await;
        }
    }
}

async fn forget_silent(clients: &mut HashMap<SocketAddr, Client>) {
    let mut silent = Vec::new();
    for (from, client) in clients.iter() {
        if client.last.lock().await.elapsed() > SILENT {
            silent.push(*from);
        }
    }
    for from in silent {
        clients.remove(&from);
    }
}

async fn new_client(port: &Arc<tokio::net::UdpSocket>, from: SocketAddr, container: SocketAddr) -> std::io::Result<Client> {
    let any: SocketAddr = if container.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = Arc::new(tokio::net::UdpSocket::bind(any).await?);
    socket.connect(container).await?;
    let last = Arc::new(Mutex::new(Instant::now()));
    let (inside, outside, said) = (Arc::clone(&socket), Arc::clone(port), Arc::clone(&last));
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; DATAGRAM];
        // An error is an answer to one datagram (nobody listens), not the end.
        loop {
            match inside.recv(&mut buffer).await {
                Ok(length) => {
                    *said.lock().await = Instant::now();
                    let _ = outside.send_to(&buffer[..length], from).await;
                }
                Err(_) => tokio::time::sleep(BREATH).await,
            }
        }
    });
    Ok(Client { socket, last, answers: answers.abort_handle() })
}
