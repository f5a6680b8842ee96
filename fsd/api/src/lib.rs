//! Wire types of the daemon's own endpoints, `/fsd/v1/…`: what they take and what they answer. Serde values, no I/O.
//!
//! Docker's endpoints have Docker's types (`bollard-stubs`); here is what Docker has no word for: looking into an image
//! without a container, mounts on the host, the difference of any two trees, what layers have in common, a check of the store, and what this host can do.
//! Errors are Docker's shape, with a hint beside the message: [`ErrorBody`].
//!
//! | request | answer |
//! |---|---|
//! | `GET /fsd/v1/images/{name}/tree?`[`TreeQuery`] | `[`[`TreeEntry`]`]` |
//! | `GET`, `HEAD /fsd/v1/images/{name}/archive?`[`PathQuery`] | a tar; header [`PATH_STAT_HEADER`] as in Docker's archive endpoint |
//! | `GET /fsd/v1/images/{name}/file?`[`PathQuery`] | the file's bytes |
//! | `POST /fsd/v1/images/{name}/mount` [`MountRequest`] | 201 [`Mounted`] |
//! | `POST /fsd/v1/containers/{name}/mount` [`MountRequest`] | 201 [`Mounted`] |
//! | `POST /fsd/v1/volumes/{name}/mount` [`MountRequest`] | 201 [`Mounted`] |
//! | `GET /fsd/v1/mounts` | `[`[`MountInfo`]`]` |
//! | `DELETE /fsd/v1/mounts/{id or target}?`[`UnmountQuery`] | 204 |
//! | `GET /fsd/v1/mounts/{id or target}/changes` | `[`[`DiffEntry`]`]`: what was written to it |
//! | `POST /fsd/v1/mounts/prune` | [`PrunedMounts`] |
//! | `GET /fsd/v1/diff?`[`DiffQuery`] | `[`[`DiffEntry`]`]` |
//! | `GET /fsd/v1/duplicates?`[`DuplicatesQuery`] | [`Duplicates`] |
//! | `POST /fsd/v1/check?`[`CheckQuery`] | a stream of JSON lines, each a [`CheckEvent`], [`CheckEvent::Summary`] last |
//! | `GET /fsd/v1/info` | [`Info`] |
//!
//! Docker's `GET /system/df` answers with one key more, `Mounts`: `[`[`UsedMount`]`]`.
//!
//! In a URL's path an image's name is percent-encoded as a whole (`debian%3A12`, `localhost%3A5000%2Fa%2Fb`), and so is
//! the target of a mount. Times are RFC 3339 in UTC. A path is a string; where its bytes are not UTF-8 it is shown with
//! replacement characters and given exactly by the `*_base64` field beside it.
//!
//! ```
//! let line = r#"{"finding":{"object":"layer sha256:1","kind":"missing","message":"its index is gone","remedy":"run it with --repair"}}"#;
//! let event: fsd_api::CheckEvent = serde_json::from_str(line).unwrap();
//! assert!(matches!(event, fsd_api::CheckEvent::Finding(finding) if finding.kind == "missing"));
//! ```

pub mod check;
pub mod duplicates;
mod duration;
pub mod info;
pub mod mounts;
pub mod trees;
pub mod words;

pub use check::{CheckEvent, CheckProgress, CheckQuery, CheckSummary, Finding};
pub use duplicates::{ComparedLayer, DuplicateContent, DuplicateFile, DuplicateGroup, Duplicates, DuplicatesQuery, LayerPlace};
pub use duration::human_duration;
pub use info::{Info, ProbeAnswer, ProbeInfo};
pub use mounts::{MountInfo, MountRequest, MountState, Mounted, ObjectKind, PrunedMounts, UnmountQuery, UsedMount};
pub use trees::{ChangeKind, DiffEntry, DiffQuery, EntryKind, PATH_STAT_HEADER, PathQuery, TreeEntry, TreeQuery};

use serde::{Deserialize, Serialize};

/// What an endpoint, Docker's or ours, answers with when it fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, naming the object. Docker's own text where Docker has one.
    pub message: String,
    /// What the person can do about it. Docker's clients don't look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
