//! Datagrams from many sockets by way of one buffer, so that each costs only its socket.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;

/// How long to wait after what failed, for want of memory say.
const BREATH: Duration = Duration::from_millis(50);

/// The largest datagram.
const SIZE: usize = 65_536;

/// A place for one datagram, used in turn.
#[derive(Debug, Clone)]
pub struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer(Arc::new(Mutex::new(vec![0; SIZE])))
    }
}

impl Buffer {
    /// The next datagram, and who sent it. Others get their turn before it, however many there are.
    pub async fn next(&self, socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        loop {
            tokio::task::yield_now().await;
            let _ = socket.readable().await;
            let received = {
                let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                socket.try_recv_from(&mut buffer).map(|(length, from)| (buffer[..length].to_vec(), from))
            };
            match received {
                Ok(datagram) => return datagram,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                // Of a connected socket it is the answer to one datagram (nobody listens), not the end.
                Err(_) => tokio::time::sleep(BREATH).await,
            }
        }
    }
}
