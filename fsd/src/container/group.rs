//! The cgroup of a container that runs.

use engine::cgroup::Cgroup;
use fs_base::Result;

use super::ContainerRow;

/// It, as the container's shim made it.
pub fn of(row: &ContainerRow) -> Result<Cgroup> {
    let parent = Some(row.definition.host_text("CgroupParent")).filter(|parent| !parent.is_empty());
    Cgroup::open(parent, row.id.as_str())
}
