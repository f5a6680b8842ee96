//! The command line.

use std::path::{Path, PathBuf};

use clap::{ArgAction, CommandFactory, Parser};
use fs_base::sys::user::User;
use fs_base::{IoContext, Result};

/// Mount a tree by FUSE: layers under an optional writable directory, or an image file.
///
/// The options are those of fuse-overlayfs(1), so that it can stand in its place (`mount_program` of Podman and Buildah).
#[derive(Debug, Parser)]
#[command(name = "fsd-fuse", version, disable_version_flag = true, after_help = AFTER, after_long_help = long())]
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
    /// Mount it again, a little later each time, when the process that serves it dies
    #[arg(long, conflicts_with = "foreground")]
    pub restart: bool,
    /// For root: mount it for this user, who must be allowed to mount over the directory; the tree is that user's alone
    #[arg(long, value_name = "UID:GID[:GROUP,…]", value_parser = user)]
    pub user: Option<User>,
    /// A file to be locked for as long as the session lives; if it is removed, nothing is mounted again
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Started by a guard, in place of a session that was killed
    #[arg(long, hide = true)]
    pub again: bool,
    /// The writable directory of a session that was killed
    #[arg(long, hide = true, overrides_with = "scratch", value_name = "DIR")]
    pub scratch: Option<PathBuf>,
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
  max_threads=N         how many requests are worked on at once [default: as many as there are processors, 2 to 8]
  fsname=TEXT           what the mount table says is mounted
  live                  lower directories may be changed by others meanwhile: nothing of them is remembered
Taken and without effect, as they tune what needs no tuning here: threaded, writeback, clone_fd, max_write,
max_idle_threads, timeout, xino, noacl, redirect_dir=off, default_permissions, auto_unmount, rw, exec, atime, noatime, relatime.";

const DEVIATIONS: &str = "\
Where it is not as the kernel's overlayfs:
  - Names that begin with .wh. mean whiteouts in layers: they are not shown, and can't be made (EINVAL).
  - All names of a hard-linked file of a layer stay one file when it is written to; the kernel splits them.
  - A file that is open for reading when it is written to for the first time shows what is written; the kernel goes on
    showing the lower file.
  - Files without a name (O_TMPFILE) can't be made: EOPNOTSUPP. Programs make a named one and remove the name.
  - What the kernel's options redirect_dir and metacopy left in a layer or upper directory is not followed, as the kernel
    does not follow it without them: such a directory can't be looked up, and such a file not be read, written, linked or
    renamed, but removed (EPERM). A directory that is in a layer can't be renamed (EXDEV; mv copies it). The same goes
    for directories whose whiteouts are attributes.
  - Reading changes no time of last access.
  - fsync makes a file durable, but syncfs(2) reaches no further than this mount's own cache: FUSE passes it to nobody.
  - fallocate sets space aside, punches holes and zeroes; it does not collapse or insert ranges. Requests by ioctl(2)
    (attributes of chattr, FICLONE) are not served; copy_file_range(2) is, and shares blocks where the disk can.
  - Locks are the mount's own: who locks the file in the upper directory itself is not seen.
  - No file handles are given out that last longer than the mount (NFS).
  - Layers must not change while they are mounted, nor may the upper directory by others; what changes may go unseen.
  - A layer that is damaged, or that is cut off while it is mounted, gives EIO for what it lacks.";

/// The long help, which the manual page has too.
fn long() -> String {
    format!("{AFTER}\n\n{DEVIATIONS}")
}

/// `UID:GID` or `UID:GID:GROUP,…`.
fn user(text: &str) -> std::result::Result<User, String> {
    let wrong = || format!("{text:?} is not UID:GID or UID:GID:GROUP,…");
    let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
    let mut parts = text.splitn(3, ':');
    let (uid, gid) = (number(parts.next().unwrap_or_default())?, number(parts.next().unwrap_or_default())?);
    let groups = parts.next().unwrap_or_default();
    let groups = groups.split(',').filter(|group| !group.is_empty()).map(number).collect::<std::result::Result<_, _>>()?;
    Ok(User { uid, gid, groups })
}

/// Writes the manual page.
pub fn manual(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).at("make directory", dir)?;
    let man = clap_mangen::Man::new(Cli::command()).section("8");
    man.generate_to(dir).at("write manual pages into", dir).map(drop)
}
