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

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fs_base::sys::fuse::{self, Mounted};
use fs_base::sys::user::{self, User};
use fs_base::{Error, IoContext, Result};
use layerfs::driver::fuse::{Fs, FsOptions, Session};

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
    let scratch = if cli.rw { Some(scratch(&mut tree, user, cli.scratch.as_deref())?) } else { None };
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
    let other = cli.user.clone().filter(|user| user.uid != own.uid);
    let session = Session::mount(target, &options.session(&fs, target, other.as_ref())?)?;
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

/// A writable directory for as long as the tree is mounted, or the one of the session before.
fn scratch(tree: &mut FsOptions, user: &User, before: Option<&Path>) -> Result<Scratch> {
    if tree.upper.is_some() {
        return Err(Error::invalid("--rw makes a writable directory of its own: leave out upperdir"));
    }
    let scratch = before.map_or_else(Scratch::new, |path| Ok(Scratch::of(path)))?;
    let (upper, work) = (scratch.path().join("upper"), scratch.path().join("work"));
    if before.is_some() {
        // They are a user's, who may have put something else there.
        for dir in [scratch.path(), &upper, &work] {
            if !dir.symlink_metadata().at("stat", dir)?.is_dir() {
                return Err(Error::denied(format!("{} is no directory any more", dir.display())));
            }
        }
    } else {
        for dir in [&upper, &work] {
            std::fs::create_dir(dir).at("make directory", dir)?;
        }
        if user.uid != User::own().uid {
            for dir in [scratch.path(), &upper, &work] {
                std::os::unix::fs::chown(dir, Some(user.uid), Some(user.gid)).at("set owner of", dir)?;
            }
        }
    }
    tree.upper = Some((upper, work));
    Ok(scratch)
}
