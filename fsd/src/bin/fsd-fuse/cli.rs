//! The command line.

use std::path::{Path, PathBuf};

use clap::{ArgAction, CommandFactory, Parser};
use fs_base::{IoContext, Result};

/// Mount a tree by FUSE: layers under an optional writable directory, or an image file.
///
/// The options are those of fuse-overlayfs(1), so that it can stand in its place (`mount_program` of Podman and Buildah).
#[derive(Debug, Parser)]
#[command(name = "fsd-fuse", version, disable_version_flag = true, after_help = AFTER)]
pub struct Cli {
    /// Options, separated by commas
    #[arg(short = 'o', value_name = "OPTION[=VALUE],…", action = ArgAction::Append)]
    pub options: Vec<String>,
    /// Stay in the foreground
    #[arg(short = 'f', long)]
    pub foreground: bool,
    /// As -f; there for fuse-overlayfs's sake
    #[arg(short = 'd', hide = true)]
    pub debug: bool,
    /// The layers of this image: what `docker save` writes, an OCI layout in a tar, or an OCI layout's directory
    #[arg(long, value_name = "FILE|DIR")]
    pub image: Option<PathBuf>,
    /// Let it be written to: changes go to a temporary folder, and with the mount away
    #[arg(long)]
    pub rw: bool,
    /// Which image, where the file holds several: NAME:TAG, or the reference that an OCI layout names
    #[arg(long, value_name = "NAME", requires = "image")]
    pub name: Option<String>,
    /// Take the mount away instead
    #[arg(short = 'u', long)]
    pub unmount: bool,
    /// Write the manual page into a folder
    #[arg(long, hide = true, value_name = "DIR")]
    pub man: Option<PathBuf>,
    /// Serve what is mounted already: its device is the standard input
    #[arg(long, hide = true, conflicts_with_all = ["target", "unmount", "rw", "image"])]
    pub serve: bool,
    /// Print version
    #[arg(short = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    /// The directory to mount over
    #[arg(value_name = "MOUNTPOINT")]
    pub target: Option<PathBuf>,
}

const AFTER: &str = "\
Options after -o:
  lowerdir=DIR[:DIR…]   the layers, the top one first; @DIR is a layer of a store (a folder with data and index).
                        A backslash before a colon or comma takes its meaning away
  upperdir=DIR          where changes go, in overlayfs's format; nothing can be written without
  workdir=DIR           a folder on the same file system, for upperdir
  squash_to_root        everything belongs to user and group 0
  squash_to_uid=UID     everything belongs to this user
  squash_to_gid=GID     everything belongs to this group
  uidmapping=HOST:ID:COUNT[:…]  users as they are on the disk, and as they are shown
  gidmapping=HOST:ID:COUNT[:…]  the same for groups
  ro                    read-only
  volatile, fsync=0     what is synced need not survive a crash of the machine
  static_nlink          directories have one link
  allow_other           other users may use the mount (always so if root mounts)
  dev                   devices count (if root mounts)
  suid, nosuid          set-user-id bits count, or not (if root mounts; they do where something can be written)
  max_threads=N         how many requests are worked on at once [default: one more than there are processors]
  fsname=TEXT           what the mount table says is mounted
Taken and without effect, as they tune what needs no tuning here: threaded, writeback, clone_fd, max_write,
max_idle_threads, timeout, xino, noacl, redirect_dir=off, default_permissions, auto_unmount, rw, exec, atime, noatime, relatime.";

/// Writes the manual page.
pub fn manual(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).at("make directory", dir)?;
    let man = clap_mangen::Man::new(Cli::command()).section("8");
    man.generate_to(dir).at("write manual pages into", dir).map(drop)
}
