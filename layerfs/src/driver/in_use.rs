//! Whether some overlay stands on a writable directory.

use std::os::fd::AsRawFd;
use std::path::Path;

use fs_base::sys::mount::{FsContext, open_dir};
use fs_base::{Class, Error, Result};
use rustix::mount::MountAttrFlags;

/// Whether an overlay has `upper` as its writable directory, wherever it is mounted: under another name, in another mount
/// namespace, or nowhere any more but with files open. The kernel knows: it is asked for a second overlay over the same
/// directory, which it refuses by this name with `index=on`. One that it would not refuse for that has a work directory
/// that can't be, so that none is ever made and nothing is written. Source: `ovl_get_upper` before `ovl_get_workdir`.
pub fn upper_in_use(upper: &Path) -> Result<bool> {
    let dir = match open_dir(upper) {
        Err(error) if error.class() == Class::NotFound => return Ok(false),
        other => other?,
    };
    let shown = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let context = FsContext::open("overlay")?;
    let asked = || {
        context.string("index", "on")?;
        for key in ["lowerdir", "upperdir", "workdir"] {
            context.string(key, &*shown)?;
        }
        Ok::<_, Error>(())
    };
    match asked().and_then(|()| context.mount(MountAttrFlags::empty())) {
        Err(error) if error.class() == Class::Busy => Ok(true),
        Err(error) if error.class() == Class::Invalid => Ok(false),
        Err(error) => Err(error.context(format!("find out whether {} is mounted", upper.display()))),
        Ok(_) => Err(Error::internal(format!("{} could be mounted over itself", upper.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_not_in_use() {
        assert!(!upper_in_use(Path::new("/nowhere/upper")).unwrap());
    }
}
