//! `fsd-fuse`: one mounted tree and the process that serves it.
//!
//! It takes fuse-overlayfs's command line, and image files besides. It mounts, goes to the background and serves until
//! the tree is unmounted, or until it is told to end, which unmounts it. A second process, the guard, waits for the
//! first to end: should it be killed, the guard takes the dead mount away.

mod archive;
mod cli;
mod layout;
mod lock;
mod options;
mod process;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fs_base::sys::fuse::{self, Mounted};
use fs_base::sys::user::{self, User};
use fs_base::{Error, IoContext, Result};
use layerfs::driver::fuse::{Fs, FsOptions, Session};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use archive::Scratch;
use cli::Cli;
use lock::SessionLock;
use process::{Again, Serving};

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fsd-fuse: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    if let Some(dir) = &cli.man {
        return cli::manual(dir);
    }
    if cli.serve {
        return serve_given(cli);
    }
    let target = cli.target.as_ref().ok_or_else(|| Error::invalid("a mount point is needed"))?;
    if cli.unmount {
        let target = target.canonicalize().unwrap_or_else(|_| target.clone());
        let target = std::path::absolute(&target).at("find", &target)?;
        if Mounted::at(&target)?.is_none() {
            return Err(Error::not_found(format!("No such mount: {}", target.display())));
        }
        return fuse::unmount(&target, true);
    }
    process::raise_limits();
    let options = options::Options::read(&cli.options)?;
    let mut tree = options.tree(process::most_open_files())?;
    if let Some(image) = &cli.image {
        tree.lowers.extend(archive::layers(image, cli.name.as_deref())?);
    }
    let own = User::own();
    let user = cli.user.as_ref().unwrap_or(&own);
    if user.uid != own.uid && !own.is_root() {
        return Err(Error::denied("--user is for root"));
    }
    let lock = cli.lock.as_deref().map(|path| SessionLock::take(path, cli.again)).transpose()?;
    let (scratch, held) = if cli.rw { Some(scratch(&mut tree, user, cli.scratch.as_deref())?) } else { None }.unzip();
    if cli.image.is_some() || cli.rw || cli.user.is_some() {
        options.own_all(&mut tree, user);
    }
    let fs = user::as_reading_user(user, || {
        let fs = Fs::new(tree)?;
        if cli.rw && cli.scratch.is_none() {
            fs.dress_root().map_err(|error| Error::io("set attributes of", "the writable directory", error))?;
        }
        Ok(Arc::new(fs))
    })?;
    drop(held);
    let other = cli.user.clone().filter(|user| user.uid != own.uid);
    let session = Session::mount(target, &options.session(&fs, target, other.as_ref())?)?;
    if let (Some(lock), Some(place)) = (&lock, session.place()) {
        // Where it can't be written down, the mount is known by its path alone.
        let _ = lock.note(place);
    }
    let again = cli.restart.then(|| Again::new(scratch.as_ref(), lock.as_ref())).transpose()?;
    let serving = Serving { user: other, reads_all: options.has_directories(), scratch, lock, again };
    if cli.again {
        return serving.again(session, fs);
    }
    serving.serve(session, fs, cli.foreground || cli.debug)
}

/// Serves a tree that the daemon has mounted, until the kernel lets go of it.
fn serve_given(cli: &Cli) -> Result<()> {
    process::raise_limits();
    let options = options::Options::read(&cli.options)?;
    let fs = Arc::new(Fs::new(options.tree(process::most_open_files())?)?);
    let device = rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).at("duplicate", "standard input")?;
    Serving::default().serve(Session::of_device(device, options.threads()), fs, cli.foreground || cli.debug)
}

/// A writable directory for as long as the tree is mounted, or the one of the session before, and what the tree is to be
/// opened by: the directories are a user's, who may put something else in their place at any moment.
fn scratch(tree: &mut FsOptions, user: &User, before: Option<&Path>) -> Result<(Scratch, [OwnedFd; 3])> {
    if tree.upper.is_some() {
        return Err(Error::invalid("--rw makes a writable directory of its own: leave out upperdir"));
    }
    let scratch = before.map_or_else(Scratch::new, |path| Ok(Scratch::of(path)))?;
    let path = scratch.path();
    let top = directory(CWD, path, path)?;
    let [upper, work] = ["upper", "work"].map(|name| {
        if before.is_none() {
            rustix::fs::mkdirat(&top, name, Mode::RWXU | Mode::RGRP | Mode::XGRP | Mode::ROTH | Mode::XOTH)
                .at("make directory", path.join(name))?;
        }
        directory(top.as_fd(), Path::new(name), &path.join(name))
    });
    let held = [upper?, work?, top];
    if before.is_none() && user.uid != User::own().uid {
        for fd in &held {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).at("set owner of", path)?;
        }
    }
    let [upper, work, _] = held.each_ref().map(|fd| PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())));
    tree.upper = Some((upper, work));
    Ok((scratch, held))
}

/// Opens a directory and nothing else.
fn directory(dir: BorrowedFd<'_>, name: &Path, shown: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => Err(Error::denied(format!("{} is no directory any more", shown.display()))),
        other => other.at("open", shown),
    }
}
