//! The socket, and the life of the server.

use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use fs_base::sys::pid::Process;
use fs_base::{Class, Error, IoContext, Result, durable};

use crate::api;
use crate::app::App;
use crate::config::Config;

/// First descriptor that systemd passes. Source: sd_listen_fds(3).
const FIRST_PASSED: i32 = 3;
/// How long requests may take that are under way when the daemon is asked to stop. Docker waits as long.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);
/// Whose members may use the socket, if nothing else is configured.
const DEFAULT_GROUP: &str = "fsd";

/// The socket from systemd, or one of our own: made under a name that nobody knows, given its owner and mode, and
/// only then moved to its place, so that it is right from its first moment.
pub fn listen(config: &Config) -> Result<UnixListener> {
    if passed_by_systemd() {
        return fs_base::sys::mount::adopt_inherited(FIRST_PASSED).map(UnixListener::from);
    }
    let path = &config.socket;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).at("make directory", parent)?;
    }
    let hidden = path.with_file_name(format!(".{}.sock", fs_base::id::random_hex::<8>()?));
    let listener = UnixListener::bind(&hidden).at("bind", &hidden)?;
    let placed = give_to_group(&hidden, config.group.as_deref()).and_then(|()| durable::replace(&hidden, path));
    if let Err(error) = placed {
        let _ = std::fs::remove_file(&hidden);
        return Err(error);
    }
    Ok(listener)
}

fn passed_by_systemd() -> bool {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    variable("LISTEN_PID") == Some(std::process::id()) && variable("LISTEN_FDS") >= Some(1)
}

/// A socket that a daemon answers on is refused, a dead one is taken over, anything else is left alone.
pub fn refuse_live(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Err(_) => Ok(()),
        // What answers there is our own socket, which systemd holds.
        Ok(_) if passed_by_systemd() => Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(Error::conflict(format!("{} exists and is not a socket", path.display()))
                .with_hint("remove it, or choose another -H"))
        }
        Ok(_) => match UnixStream::connect(path) {
            Ok(stream) if !is_served(&stream) => Ok(()),
            Ok(_) => Err(Error::conflict(format!("a daemon is already listening on {}", path.display()))
                .with_hint("stop it first, or choose another -H unix://SOCKET")),
            Err(_) => Ok(()),
        },
    }
}

/// Whether whoever listens there still lives, or may. A child that it had just forked when it was killed holds the socket
/// too, but only until it runs its own program.
fn is_served(stream: &UnixStream) -> bool {
    // One that is not in sight is in another process namespace, and alive as far as anybody here can tell.
    let Ok((_, Some(listener))) = fs_base::sys::user::peer(stream) else { return true };
    match Process::open(listener) {
        Ok(process) => !process.has_ended(),
        Err(error) => error.class() != Class::NotFound,
    }
}

fn give_to_group(path: &Path, group: Option<&str>) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).at("set mode of", path)?;
    let id = match group {
        Some(name) => Some(group_id(name)?.ok_or_else(|| {
            Error::not_found(format!("there is no group {name:?}")).with_hint(format!("make it: groupadd --system {name}"))
        })?),
        None => group_id(DEFAULT_GROUP)?.filter(|_| rustix::process::geteuid().is_root()),
    };
    if let Some(id) = id {
        std::os::unix::fs::chown(path, None, Some(id)).at("set group of", path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).at("set mode of", path)?;
    }
    Ok(())
}

/// From /etc/group: the daemon is a static name for its host, no directory service is asked.
fn group_id(name: &str) -> Result<Option<u32>> {
    let path = "/etc/group";
    let text = match std::fs::read_to_string(path) {
        // A host as small as an initrd has no groups.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.at("read", path)?,
    };
    Ok(text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1).and_then(|id| id.parse().ok())).flatten()
    }))
}

/// Serves until SIGTERM or SIGINT; requests under way are finished if they don't take long.
pub async fn serve(app: Arc<App>, listener: UnixListener) -> Result<()> {
    let socket = app.config.socket.clone();
    let activated = passed_by_systemd();
    listener.set_nonblocking(true).at("configure", &socket)?;
    let number = listener.as_raw_fd();
    let listener = tokio::net::UnixListener::from_std(listener).at("listen on", &socket)?;
    tracing::info!(socket = %socket.display(), fd = number, root = %app.config.root.display(), driver = app.mounter.driver_name().unwrap_or("none"), "serving");
    let recovering = Arc::clone(&app);
    let recovered = tokio::task::spawn_blocking(move || crate::container::recover(&recovering)).await;
    recovered.map_err(|_| Error::internal("finding the containers panicked"))??;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let stopping = Arc::clone(&app);
    let (tell, told) = tokio::sync::oneshot::channel();
    let asked = async move {
        asked_to_stop().await;
        let _ = tell.send(());
    };
    let serving = axum::serve(listener, api::router(app).into_make_service_with_connect_info::<api::peer::Peer>())
        .with_graceful_shutdown(asked);
    let stopped = tokio::select! {
        stopped = serving => stopped,
        () = patience(told) => Ok(()),
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let _ = tokio::task::spawn_blocking(move || crate::network::stop(&stopping)).await;
    if !activated {
        let _ = std::fs::remove_file(&socket);
    }
    stopped.at("serve", &socket)
}

/// Ends so long after the word to stop: somebody who follows events, logs or statistics would keep us for ever.
async fn patience(told: tokio::sync::oneshot::Receiver<()>) {
    if told.await.is_err() {
        return std::future::pending().await;
    }
    tokio::time::sleep(PATIENCE).await;
    tracing::info!("requests that are still under way are broken off");
}

async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        tracing::error!("can't listen for signals: only SIGKILL will end this process");
        return std::future::pending().await;
    };
    tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
    tracing::info!("stopping");
}
