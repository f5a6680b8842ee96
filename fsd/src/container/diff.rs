//! What a container changed.

use std::path::Path;

use fs_base::Result;
use layerfs::diff::{Change, ChangeKind, of_upper};

use super::{ContainerRow, files, make};
use crate::app::App;

/// What the runtime makes in every tree to mount something on; Docker keeps these in a layer of its own.
const OURS: &[&str] = &[
    "/dev",
    "/proc",
    "/sys",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/dev/pts",
    "/dev/shm",
    "/dev/mqueue",
    "/dev/console",
];

/// The changes over its image, in the order of a walk.
pub fn changes(app: &App, row: &ContainerRow) -> Result<Vec<Change>> {
    let upper = app.container_dir(&row.id).join(files::UPPER);
    let (true, Some(image)) = (upper.exists(), app.db.image(&row.image)?) else { return Ok(Vec::new()) };
    let mut changes = match kept(app, row) {
        Some(changes) => changes,
        None => of_upper(&make::layers_of(app, &image)?, &upper)?,
    };
    let mut bare = Vec::new();
    changes.retain(|change| {
        let ours = change.kind == ChangeKind::Added && change.size == 0 && is_ours(&change.path);
        if ours {
            bare.extend(
                Path::new(std::str::from_utf8(&change.path).unwrap_or_default())
                    .ancestors()
                    .skip(1)
                    .map(|p| p.as_os_str().as_encoded_bytes().to_vec()),
            );
        }
        !ours
    });
    // A directory that is listed only for what we made in it is not changed; one of ours that was made for them is not new.
    let kept = changes.clone();
    changes.retain(|change| {
        let has_more = kept
            .iter()
            .any(|other| other.path.len() > change.path.len() && other.path.starts_with(&[&change.path[..], b"/"].concat()));
        let only_for_us =
            change.kind == ChangeKind::Modified && !change.content && !change.metadata || change.kind == ChangeKind::Added;
        has_more || !only_for_us || !bare.contains(&change.path)
    });
    Ok(changes)
}

/// What the session that serves a running container's tree has kept of what was changed, if one does: then nothing has to
/// be walked.
fn kept(app: &App, row: &ContainerRow) -> Option<Vec<Change>> {
    if !row.state.is_running() || app.mounter.capabilities().stacks {
        return None;
    }
    let kept = app.shim(&row.id).root().and_then(layerfs::driver::fuse::changes_of);
    kept.unwrap_or_else(|error| {
        tracing::debug!(container = %row.id, %error, "what it changed is walked for");
        None
    })
}

fn is_ours(path: &[u8]) -> bool {
    OURS.iter().any(|ours| ours.as_bytes() == path)
}
