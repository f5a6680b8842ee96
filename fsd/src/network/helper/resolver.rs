//! Answers to containers' questions about names, at sockets in their namespaces. What is no container's name is asked of
//! the host's servers, from the host's namespace.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use engine::network::dns::{Code, Question};
use fs_base::{ContainerId, IoContext, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use super::names::Known;
use super::shared::{Answering, Connection, Group, Shared};

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a connection may say nothing.
const SILENT: Duration = Duration::from_secs(10);
/// Questions of one container that others are asked, and its connections, at once; more are dropped, and asked again by
/// who asked.
const AT_ONCE: usize = 128;
/// The largest message over UDP. Source: RFC 6891.
const DATAGRAM: usize = 4096;
/// How many servers are asked. Source: resolv.conf(5).
const SERVERS: usize = 3;
const PORT: u16 = 53;
/// How long to wait after an accept that failed for want of descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// What answers one container.
#[derive(Debug)]
struct Resolver {
    shared: Arc<Shared>,
    container: ContainerId,
    places: Arc<Semaphore>,
    cut: watch::Receiver<()>,
}

/// Answers a container at these sockets. Must be called in the runtime.
pub fn serve(shared: &Arc<Shared>, container: &ContainerId, udp: OwnedFd, tcp: OwnedFd) -> Result<Answering> {
    let (udp, tcp) = (std::net::UdpSocket::from(udp), std::net::TcpListener::from(tcp));
    udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).at("configure", "socket")?;
    let udp = Arc::new(UdpSocket::from_std(udp).at("listen on", "socket for names")?);
    let tcp = Arc::new(TcpListener::from_std(tcp).at("listen on", "socket for names")?);
    let (cut, receiver) = watch::channel(());
    let resolver = Arc::new(Resolver {
        shared: Arc::clone(shared),
        container: container.clone(),
        places: Arc::new(Semaphore::new(AT_ONCE)),
        cut: receiver,
    });
    let datagrams = tokio::spawn(serve_udp(Arc::clone(&resolver), Arc::clone(&udp)));
    let streams = tokio::spawn(serve_tcp(resolver, Arc::clone(&tcp)));
    Ok(Answering { sockets: Some((udp, tcp)), group: Group::new(vec![datagrams, streams], cut) })
}

async fn serve_udp(resolver: Arc<Resolver>, socket: Arc<UdpSocket>) {
    loop {
        let (message, from) = resolver.shared.buffer.next(&socket).await;
        if message.len() > DATAGRAM {
            continue;
        }
        match resolver.own(&message) {
            Some(Own::Answer(answer)) => drop(socket.try_send_to(&answer, from)),
            Some(Own::Ask(question, upstream)) => {
                let Ok(place) = Arc::clone(&resolver.places).try_acquire_owned() else { continue };
                // Whoever is asked, the container's namespace is not held for it.
                let socket = Arc::downgrade(&socket);
                tokio::spawn(async move {
                    let answer = others(&question, &message, &upstream, false).await;
                    if let Some(socket) = socket.upgrade() {
                        let _ = socket.try_send_to(&answer, from);
                    }
                    drop(place);
                });
            }
            None => {}
        }
    }
}

async fn serve_tcp(resolver: Arc<Resolver>, listener: Arc<TcpListener>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(BREATH).await;
            continue;
        };
        let Ok(place) = Arc::clone(&resolver.places).try_acquire_owned() else { continue };
        let resolver = Arc::clone(&resolver);
        let mut connection = Connection::new(&resolver.shared, resolver.cut.clone(), place);
        tokio::spawn(async move {
            tokio::select! {
                () = converse(&resolver, stream) => {}
                _ = connection.cut.changed() => {}
            }
        });
    }
}

/// Question after question, each with its length in front. Source: RFC 1035, 4.2.2.
async fn converse(resolver: &Resolver, mut stream: TcpStream) {
    while let Ok(Ok(message)) = tokio::time::timeout(SILENT, read_message(&mut stream)).await {
        let answer = match resolver.own(&message) {
            Some(Own::Answer(answer)) => answer,
            Some(Own::Ask(question, upstream)) => others(&question, &message, &upstream, true).await,
            None => return,
        };
        if !matches!(tokio::time::timeout(SILENT, write_message(&mut stream, &answer)).await, Ok(Ok(()))) {
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

/// What can be said to a question without waiting.
enum Own {
    /// All of it.
    Answer(Vec<u8>),
    /// That these know.
    Ask(Question, Vec<IpAddr>),
}

impl Resolver {
    fn own(&self, message: &[u8]) -> Option<Own> {
        let question = Question::parse(message)?;
        Some(match self.shared.look_up(&self.container, &question, message) {
            Ok((Known::Answer(answer), _)) => Own::Answer(answer),
            Ok((Known::Ask, upstream)) => Own::Ask(question, upstream),
            Ok((Known::Closed, _)) | Err(_) => Own::Answer(question.empty(message, Code::Failed)),
        })
    }
}

async fn others(question: &Question, message: &[u8], servers: &[IpAddr], stream: bool) -> Vec<u8> {
    for server in servers.iter().take(SERVERS) {
        let asking = ask((*server, PORT).into(), message, stream);
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asking).await {
            return answer;
        }
    }
    question.empty(message, Code::Failed)
}

async fn ask(server: SocketAddr, message: &[u8], stream: bool) -> std::io::Result<Vec<u8>> {
    if stream {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, message).await?;
        return read_message(&mut stream).await;
    }
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A port of its own for each question, and the question's number, make it hard to answer in the server's place.
    let socket = UdpSocket::bind((any, 0)).await?;
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
