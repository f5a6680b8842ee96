//! Image files, looked into without a daemon: `fsd-fuse` does the work.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::out;

/// The program that serves trees.
const PROGRAM: &str = "fsd-fuse";
/// What the mount table calls the mounts of files. Those that the daemon makes are called by their images.
const SOURCE: &str = "fsd-fuse";

/// How files with images are called.
const SUFFIXES: [&str; 4] = [".tar", ".tar.gz", ".tgz", ".tar.zst"];

/// Whether an argument means a file and not an image of the daemon: it is written as a path, or names an image file, or is
/// called as one is (such an image has its tag said).
pub fn is_file(name: &str) -> bool {
    let path = Path::new(name);
    name.starts_with('/')
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
        || name.starts_with("./")
        || name.starts_with("../")
        || path.is_file()
        || path.join("oci-layout").is_file()
}

/// Mounts an image file and says where.
pub fn mount_file(image: &str, name: Option<&str>, target: Option<&str>, rw: bool, restart: bool) -> Result<()> {
    let Some(target) = target else { bail!("say where to mount {image}: ctl image mount --fuse {image} DIR") };
    let made = !Path::new(target).exists();
    if made {
        std::fs::create_dir_all(target).with_context(|| format!("make directory {target}"))?;
    }
    let mut command = Command::new(program());
    command.args(["--image", image]).args(rw.then_some("--rw")).args(restart.then_some("--restart"));
    if let Some(name) = name {
        command.args(["--name", name]);
    }
    let mounted = run(command.arg("--").arg(target));
    if mounted.is_err() && made {
        let _ = std::fs::remove_dir(target);
    }
    mounted?;
    out::line(std::path::absolute(target)?.display().to_string());
    Ok(())
}

/// Whether an image file is mounted at a path.
pub fn is_mounted(path: &str) -> bool {
    let Ok(path) = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path)) else { return false };
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut last = table.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ');
        let (source, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (unescape(target) == path.to_string_lossy()).then_some((source, kind))
    });
    last.next() == Some((SOURCE, "fuse.fsd-fuse"))
}

/// Undoes what the kernel writes for blanks in a path. Source: fstab(5).
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Takes such a mount away.
pub fn unmount(path: &str) -> Result<()> {
    run(Command::new(program()).args(["-u", "--", path]))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {}: it belongs beside ctl", command.get_program().to_string_lossy()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{}", said.trim().strip_prefix("fsd-fuse: ").unwrap_or(said.trim()));
}

/// It is installed with this program; if not, the shell knows where.
fn program() -> PathBuf {
    let own = std::env::current_exe().ok();
    own.map(|own| own.with_file_name(PROGRAM)).filter(|path| path.exists()).unwrap_or_else(|| PROGRAM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_not_an_image_name() {
        assert!(is_file("./x.tar") && is_file("/tmp/x") && is_file("../x"));
        assert!(is_file("nosuch.tar") && !is_file("x.tar:latest"), "one that is not there is not looked for elsewhere");
        assert!(!is_file("debian:12") && !is_file("library/debian"));
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}
