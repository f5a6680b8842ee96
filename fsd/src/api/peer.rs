//! Who is on the other end of the socket.

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::serve::IncomingStream;
use fs_base::sys::user::{self, User};
use fs_base::{Error, Result};
use http::request::Parts;
use tokio::net::UnixListener;

use super::error::Failure;

/// A client, as the kernel knows it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Who it is.
    pub user: User,
    /// Its process, as we see it.
    pid: Option<i32>,
}

impl Peer {
    /// Refuses who would not see what we mount. Root is not asked: who lets root talk to us from elsewhere means our mounts.
    pub fn must_see_our_mounts(&self) -> Result<()> {
        let Some(pid) = self.pid.filter(|_| !self.user.is_root()) else { return Ok(()) };
        let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        match (namespace(&pid.to_string()), namespace("self")) {
            (Some(its), Some(ours)) if its != ours => {
                Err(Error::unsupported("you would not see it: the daemon's mounts are not those of your mount namespace")
                    .with_hint("look into an image file without the daemon: ctl image mount --fuse FILE DIR"))
            }
            _ => Ok(()),
        }
    }
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Peer {
        // Who can't be asked about is nobody.
        let nobody = || (User { uid: u32::MAX, gid: u32::MAX, groups: Vec::new() }, None);
        let (user, pid) = user::peer(stream.io()).unwrap_or_else(|error| {
            tracing::warn!(%error, "a client can't be told from others");
            nobody()
        });
        Peer { user, pid }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Peer, Failure> {
        let info = parts.extensions.get::<ConnectInfo<Peer>>();
        info.map(|ConnectInfo(peer)| peer.clone()).ok_or_else(|| Failure(Error::internal("a request without a connection")))
    }
}
