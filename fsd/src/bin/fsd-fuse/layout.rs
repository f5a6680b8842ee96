//! An OCI layout or a `docker save` archive, looked into without unpacking: by the names of its members.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fs_base::sys::root::Root;
use fs_base::{Class, Error, IoContext, Result};
use layerfs::ingest::Media;
use layerfs::tar::{EntryKind, Limits, Links, Reader, clean};

/// Largest manifest or config. Source: the distribution spec asks registries to take manifests of 4 MiB.
const SMALL: u64 = 4 << 20;

/// Where a member lies.
#[derive(Debug)]
pub struct Member {
    /// What holds it.
    pub file: File,
    /// Where in it.
    pub start: u64,
    /// How many bytes.
    pub size: u64,
}

/// The members of an image file.
#[derive(Debug)]
pub enum Layout {
    /// A directory, which may be a stranger's: nothing in it leads out.
    Dir(Root),
    /// A tar: files by name, and links to other names.
    Tar { file: File, files: HashMap<String, (u64, u64)>, links: Links },
}

impl Layout {
    /// Opens an image file or directory.
    pub fn open(path: &Path) -> Result<Layout> {
        let file = File::open(path).at("open", path)?;
        if file.metadata().at("stat", path)?.is_dir() {
            return Ok(Layout::Dir(Root::open(path)?));
        }
        let mut head = [0; 4];
        let got = file.read_at(&mut head, 0).at("read", path)?;
        let file = match Media::of_magic(&head[..got]) {
            Media::Plain | Media::Auto => file,
            packed => inflate(&file, packed, path)?,
        };
        let (mut files, mut links) = (HashMap::new(), Links::default());
        let reader = BufReader::with_capacity(1 << 13, file.try_clone().at("duplicate", path)?);
        let mut reader = Reader::seekable(reader, Limits::default());
        let wrong = |error: Error| error.context(format!("{} is not an image archive", path.display()));
        while let Some(entry) = reader.next_entry().map_err(wrong)? {
            let name = links.note(&entry);
            if let EntryKind::File(segments) = &entry.kind {
                // A sparse member is no layer and no manifest.
                let start = match &segments[..] {
                    [] => Some(0),
                    [one] if one.length == entry.size => Some(one.stream_offset),
                    _ => None,
                };
                files.extend(start.map(|start| (name, (start, entry.size))));
            }
        }
        Ok(Layout::Tar { file, files, links })
    }

    /// A member by its name.
    pub fn member(&self, name: &str) -> Result<Option<Member>> {
        match self {
            Layout::Dir(dir) => {
                let path = PathBuf::from(clean(name));
                let file = match dir.read(&path) {
                    Err(error) if error.class() == Class::NotFound => return Ok(None),
                    other => other?,
                };
                let size = file.metadata().at("stat", &path)?.len();
                Ok(Some(Member { file, start: 0, size }))
            }
            Layout::Tar { file, files, links } => {
                let Some((start, size)) = links.follow(name, |name| files.get(name).copied()) else { return Ok(None) };
                let file = file.try_clone().at("duplicate", "image file")?;
                Ok(Some(Member { file, start, size }))
            }
        }
    }

    /// The bytes of a member that is small.
    pub fn small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(member) = self.member(name)? else { return Ok(None) };
        if member.size > SMALL {
            return Err(Error::invalid(format!("{name} in the image file has {} bytes: that is no manifest", member.size)));
        }
        let mut bytes = vec![0; member.size as usize];
        member.file.read_exact_at(&mut bytes, member.start).at("read", name)?;
        Ok(Some(bytes))
    }
}

/// A whole archive may be compressed: it is unpacked to a file without a name.
fn inflate(file: &File, media: Media, path: &Path) -> Result<File> {
    let mut input: Box<dyn Read> = match media {
        Media::Zstd => Box::new(zstd::Decoder::new(file).at("read", path)?),
        _ => Box::new(flate2::read::MultiGzDecoder::new(file)),
    };
    let dir = super::archive::scratch_dir();
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(&dir, flags, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).at("make a file in", &dir)?;
    let mut out = File::from(fd);
    std::io::copy(&mut input, &mut out).at("unpack", path)?;
    out.rewind().at("rewind", path)?;
    Ok(out)
}
