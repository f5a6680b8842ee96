//! Rotated files of a log, compressed: by a process of its own, so that the one that writes the log goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use fs_base::sys::process::{Child, ForkOptions, Forked, close_inherited, exit_now, fork};
use fs_base::{Error, IoContext, Result, durable};

/// Bytes in one piece.
const PIECE: usize = 64 << 10;

/// A compression under way.
#[derive(Debug)]
pub struct Compressing(Child);

impl Compressing {
    /// Waits for its end.
    pub fn wait(self) {
        // What it could not do it left as it was.
        let _ = crate::runtime::reap(self.0.pidfd.as_fd());
    }
}

/// The name of a compressed file.
pub fn compressed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Begins to replace a file that nobody writes any more by a compressed one. Where this process can't be copied, as it
/// has several threads, it is done at once.
pub fn begin(path: &Path) -> Result<Option<Compressing>> {
    match fork(&ForkOptions::default()) {
        Ok(Forked::Parent(child)) => Ok(Some(Compressing(child))),
        Ok(Forked::Child) => {
            // Nobody waits for the end of a stream because we hold it.
            let done = close_inherited().and_then(|()| compress(path));
            exit_now(i32::from(done.is_err()))
        }
        Err(_) => compress(path).map(|()| None),
    }
}

fn compress(path: &Path) -> Result<()> {
    let mut from = File::open(path).at("open", path)?;
    let to = compressed(path);
    let new = to.with_extension("gz.new");
    let file = File::create(&new).at("create", &new)?;
    let mut encoder = GzEncoder::new(file, Compression::default());
    copy(&mut from, &mut encoder).map_err(|error| Error::io("compress", path, error))?;
    encoder.finish().at("write", &new)?;
    durable::replace(&new, &to)?;
    std::fs::remove_file(path).at("remove", path)
}

fn copy(from: &mut dyn Read, to: &mut dyn Write) -> std::io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            count => to.write_all(&piece[..count])?,
        }
    }
}

/// The contents of a compressed file, in memory, as a file.
pub fn open(path: &Path) -> std::io::Result<File> {
    let mut from = MultiGzDecoder::new(File::open(path)?);
    let memory = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    copy(&mut from, &mut file)?;
    std::io::Seek::rewind(&mut file)?;
    Ok(file)
}
