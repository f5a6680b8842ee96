//! Trees that a FUSE session serves: each a process of its own, which survives this one.
//!
//! A session holds a lock on a file under the run folder for as long as it lives, which tells a dead one from one that is
//! slow or that hides its tree from us. Without that file nobody makes its mount again.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fs_base::sys::user::User;
use fs_base::{Error, IoContext, Result};
use layerfs::driver::fuse::option_path;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::subject::Subject;
use crate::app::App;
use crate::db::mounts::MountRow;

/// How long a server may take to answer whether it lives.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a session that was unmounted may take to end.
const ENDING: Duration = Duration::from_millis(500);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(5);
/// The driver of trees that a session serves.
pub const FUSE: &str = "fuse";

/// Serves a tree at a row's target, as the row says. It is there when this returns.
pub fn start(app: &App, subject: &Subject, row: &MountRow, user: &User) -> Result<()> {
    let program = &app.config.fuse;
    let plain = subject.dir.iter().map(|dir| option_path(dir));
    let layers = subject.layers.iter().rev().map(|id| format!("@{}", option_path(&app.store.layer_dir(id))));
    let dirs: Vec<String> = plain.chain(layers).collect();
    if dirs.is_empty() {
        return Err(Error::unsupported(format!("{} has no layers: FUSE has nothing to serve", subject.shown())));
    }
    let lives = if subject.lives { "live," } else { "" };
    let options = format!("nosuid,nodev,{lives}fsname={},lowerdir={}", subject.name.replace(',', "\\,"), dirs.join(":"));
    let lock = lock_file(&app.config.run, &row.id);
    if let Some(dir) = lock.parent() {
        std::fs::create_dir_all(dir).at("make directory", dir)?;
    }
    let mut command = Command::new(program);
    command.args(row.writable.then_some("--rw")).args(row.restart.then_some("--restart")).arg("--lock").arg(&lock);
    if !user.is_root() {
        let groups: Vec<String> = user.groups.iter().map(u32::to_string).collect();
        command.args(["--user", &format!("{}:{}:{}", user.uid, user.gid, groups.join(","))]);
    }
    if row.writable {
        // With the row goes what was written, whoever may have been killed.
        let scratch = app.scratch_dir().join(&row.id);
        std::fs::create_dir_all(&scratch).at("make directory", &scratch)?;
        // All processes of a session may have been killed at once: what was written is there.
        if let Some(before) = written_before(&scratch) {
            command.arg("--scratch").arg(before);
        }
        command.env("TMPDIR", scratch);
    }
    let command = command.arg("-o").arg(options).arg("--").arg(&row.target).stdin(Stdio::null());
    let output = command.output().at("run", program);
    let output = output.map_err(|error| error.with_hint("fsd-fuse belongs beside fsd: install both, or name it with --fuse"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::unavailable(format!("mount {} by FUSE: {}", subject.shown(), said.trim().trim_start_matches("fsd-fuse: "))))
}

/// The writable directory of the session before.
fn written_before(scratch: &Path) -> Option<PathBuf> {
    let mut dirs = std::fs::read_dir(scratch).ok()?.flatten().map(|entry| entry.path());
    dirs.find(|dir| dir.join("upper").is_dir() && dir.join("work").is_dir())
}

/// The file that a session holds a lock on, and writes down its mount's numbers in.
pub fn lock_file(run: &Path, id: &str) -> PathBuf {
    run.join("fuse").join(id)
}

/// Whether a mount is served by a session of its own.
pub fn is_one(run: &Path, id: &str) -> bool {
    lock_file(run, id).exists()
}

/// Whether a process of the session lives: the one that serves it, or the one that watches over that.
pub fn lives(run: &Path, id: &str) -> bool {
    let Ok(file) = std::fs::File::open(lock_file(run, id)) else { return false };
    if rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        return true;
    }
    // Not by closing it: what is just being started has a copy of it.
    let _ = rustix::fs::flock(file.as_fd(), FlockOperation::Unlock);
    false
}

/// Whether a session ends that nothing is seen of any more: one that was unmounted does, one whose folder was moved does not.
pub fn ends(run: &Path, id: &str) -> bool {
    let since = Instant::now();
    while lives(run, id) {
        if since.elapsed() > ENDING {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

/// Lets nobody mount it again.
pub fn end(run: &Path, id: &str) {
    let path = lock_file(run, id);
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "can't remove the lock of a FUSE session");
    }
}

/// Whether nobody serves what is mounted at `target` any more, by FUSE but without a session of ours. One that is only slow
/// is not dead.
pub fn is_dead(target: &Path) -> bool {
    let (to, from) = mpsc::channel();
    let path = target.to_owned();
    // A server that hangs holds up this thread, and nobody else.
    let asked = std::thread::Builder::new().spawn(move || {
        let _ = to.send(rustix::fs::statfs(&path).err() == Some(Errno::NOTCONN));
    });
    asked.is_ok() && from.recv_timeout(ANSWER).unwrap_or(false)
}
