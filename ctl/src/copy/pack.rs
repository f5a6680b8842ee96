//! Local files as a tar.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use fs_base::tar::append_attribute;

use super::attributes;
use super::plan::{asserts_directory, means_content, split};

/// A local source, looked at.
#[derive(Debug)]
pub struct Source {
    /// Where its bytes are.
    path: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The name under which it travels if it isn't renamed: its own, or `.` for what is in a directory.
    base: String,
}

impl Source {
    /// Looks at what a person named. A link is copied as a link, unless it is to be followed or its name ends in `/`.
    pub fn open(given: &str, follow: bool) -> Result<Source> {
        let trimmed = given.trim_end_matches('/');
        let path = PathBuf::from(if trimmed.is_empty() { "/" } else { trimmed });
        let follow = follow || asserts_directory(given);
        let path = if follow { fs::canonicalize(&path).with_context(|| lstat(&path))? } else { path };
        let meta = fs::symlink_metadata(&path).with_context(|| lstat(&path))?;
        if asserts_directory(given) && !meta.is_dir() {
            bail!("{given}: not a directory");
        }
        let absolute = std::path::absolute(if trimmed.is_empty() { "/" } else { trimmed })?;
        let own = split(&clean(&absolute)).1;
        let base = if means_content(given) || own.is_empty() { ".".to_owned() } else { own };
        Ok(Source { path, is_dir: meta.is_dir(), base })
    }

    /// Writes the tar; everything in it is under `name`, or under its own name.
    pub fn write(&self, name: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        let mut packer = Packer { builder: tar::Builder::new(out), seen: HashMap::new() };
        packer.add(&self.path, Path::new(name.unwrap_or(&self.base)))?;
        packer.builder.finish()
    }
}

fn lstat(path: &Path) -> String {
    format!("lstat {}", path.display())
}

/// `..` taken out, as far as that goes without looking at links.
fn clean(path: &Path) -> String {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean.display().to_string()
}

struct Packer<'a> {
    builder: tar::Builder<&'a mut dyn Write>,
    /// Where a file with several names was put first.
    seen: HashMap<(u64, u64), PathBuf>,
}

impl Packer<'_> {
    fn add(&mut self, path: &Path, name: &Path) -> io::Result<()> {
        let meta = fs::symlink_metadata(path).map_err(|error| at("lstat", path, &error))?;
        let kind = meta.file_type();
        let mut header = header(&meta);
        if kind.is_dir() {
            self.attributes(path)?;
            header.set_entry_type(tar::EntryType::Directory);
            let mut slashed = name.as_os_str().to_owned();
            slashed.push("/");
            self.builder.append_data(&mut header, Path::new(&slashed), io::empty())?;
            let entries = fs::read_dir(path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let mut entries = entries.map_err(|error| at("read the directory", path, &error))?;
            entries.sort_by_key(fs::DirEntry::file_name);
            return entries.iter().try_for_each(|entry| self.add(&entry.path(), &name.join(entry.file_name())));
        }
        if meta.nlink() > 1 {
            if let Some(first) = self.seen.get(&(meta.dev(), meta.ino())) {
                header.set_entry_type(tar::EntryType::Link);
                return self.builder.append_link(&mut header, name, first);
            }
            self.seen.insert((meta.dev(), meta.ino()), name.to_owned());
        }
        if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            let target = fs::read_link(path).map_err(|error| at("read the link", path, &error))?;
            self.attributes(path)?;
            return self.builder.append_link(&mut header, name, target);
        }
        if kind.is_socket() {
            return Ok(());
        }
        if kind.is_file() {
            let file = File::open(path).map_err(|error| at("open", path, &error))?;
            self.attributes(path)?;
            header.set_size(meta.len());
            return self.builder.append_data(&mut header, name, Exactly { file, left: meta.len() });
        }
        header.set_entry_type(match () {
            () if kind.is_char_device() => tar::EntryType::Char,
            () if kind.is_block_device() => tar::EntryType::Block,
            () => tar::EntryType::Fifo,
        });
        header.set_device_major(rustix::fs::major(meta.rdev()))?;
        header.set_device_minor(rustix::fs::minor(meta.rdev()))?;
        self.attributes(path)?;
        self.builder.append_data(&mut header, name, io::empty())
    }

    /// Puts the file's extended attributes before its entry.
    fn attributes(&mut self, path: &Path) -> io::Result<()> {
        let mut records = Vec::new();
        for (name, value) in attributes::of(path)? {
            append_attribute(&mut records, &name, &value);
        }
        if records.is_empty() {
            return Ok(());
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(PAX_NAME)?;
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.builder.append(&header, records.as_slice())
    }
}

/// What a reader that knows no PAX headers takes the attributes for.
const PAX_NAME: &str = "PaxHeaders/attributes";

fn header(meta: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(meta.mode() & 0o7777);
    header.set_uid(u64::from(meta.uid()));
    header.set_gid(u64::from(meta.gid()));
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

fn at(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

/// As many bytes as the header promised, though the file may grow or shrink meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl io::Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let length = io::Read::read(&mut self.file, &mut buffer[..want])?;
        if length == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file became shorter while it was read"));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &Source, name: Option<&str>) -> Vec<String> {
        let mut bytes = Vec::new();
        source.write(name, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entries = archive.entries().unwrap();
        entries.map(|entry| format!("{}", entry.unwrap().path().unwrap().display())).collect()
    }

    #[test]
    fn a_tree_is_packed_under_its_name_or_another() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("d")).unwrap();
        fs::write(top.join("f"), "x").unwrap();
        fs::hard_link(top.join("f"), top.join("g")).unwrap();
        std::os::unix::fs::symlink("f", top.join("l")).unwrap();
        let given = top.to_str().unwrap();
        let source = Source::open(given, false).unwrap();
        assert_eq!(names(&source, None), ["top/", "top/d/", "top/f", "top/g", "top/l"]);
        assert_eq!(names(&source, Some("new")), ["new/", "new/d/", "new/f", "new/g", "new/l"]);
        let content = Source::open(&format!("{given}/."), false).unwrap();
        assert_eq!(names(&content, None)[..2], ["./", "d/"]);
        assert!(Source::open(&format!("{given}/f/"), false).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("top/f", &link).unwrap();
        let followed = Source::open(link.to_str().unwrap(), true).unwrap();
        assert_eq!(names(&followed, None), ["link"]);
    }
}
