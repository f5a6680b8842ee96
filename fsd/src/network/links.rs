//! Kernel settings of a container's links: `--sysctl net.ipv4.conf.eth0.…`. They are there once the links are, which is
//! after the runtime has set all others.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use engine::network::namespace;
use fs_base::{IoContext, Result};

use super::Mode;
use crate::container::ContainerRow;

const LINKS: [&str; 4] = ["net/ipv4/conf/eth", "net/ipv6/conf/eth", "net/ipv4/neigh/eth", "net/ipv6/neigh/eth"];

/// Where the setting is; `None` if it is none of a link's.
fn path_of(name: &str) -> Option<PathBuf> {
    let slashes = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    let is_plain = slashes.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    (is_plain && LINKS.iter().any(|prefix| slashes.starts_with(prefix))).then(|| PathBuf::from("/proc/sys").join(slashes))
}

/// Whether a setting of a container is about a link that it gets.
pub fn is_of_link(row: &ContainerRow, name: &str) -> bool {
    matches!(Mode::of(row), Mode::Bridges(_)) && path_of(name).is_some()
}

/// Sets those of a container whose links are there.
pub fn set(row: &ContainerRow, own: BorrowedFd<'_>) -> Result<()> {
    let wanted = row.definition.host_config["Sysctls"].as_object().into_iter().flatten();
    let settings: Vec<(PathBuf, String)> =
        wanted.filter_map(|(name, value)| Some((path_of(name)?, value.as_str()?.to_owned()))).collect();
    if settings.is_empty() {
        return Ok(());
    }
    // The kernel shows each thread the settings of its own network namespace.
    namespace::inside(own, || settings.iter().try_for_each(|(path, value)| std::fs::write(path, value).at("write", path)))
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn only_settings_of_links_are_told_apart() {
        let path = |name: &str| path_of(name).map(|path| path.display().to_string());
        assert_eq!(path("net.ipv4.conf.eth0.arp_ignore").as_deref(), Some("/proc/sys/net/ipv4/conf/eth0/arp_ignore"));
        assert_eq!(path("net/ipv6/conf/eth1/accept_ra").as_deref(), Some("/proc/sys/net/ipv6/conf/eth1/accept_ra"));
        for other in ["net.ipv4.ip_forward", "net.ipv4.conf.all.x", "net/ipv4/conf/eth0/../../../kernel/x", "kernel.shmmax"] {
            assert_eq!(path(other), None, "{other}");
        }
    }
}
