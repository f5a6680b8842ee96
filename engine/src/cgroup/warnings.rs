//! What Docker says about a limit that the host can't do.

macro_rules! discarded {
    ($what:literal, $name:literal) => {
        concat!("Your kernel does not support ", $what, " or the cgroup is not mounted. ", $name, " discarded.")
    };
}

pub(super) const MEMORY: &str = discarded!("memory limit capabilities", "Limitation");
pub(super) const MEMORY_RESERVATION: &str = discarded!("memory soft limit capabilities", "Limitation");
pub(super) const SWAP: &str =
    "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.";
pub(super) const SWAPPINESS: &str = discarded!("memory swappiness capabilities", "Memory swappiness");
pub(super) const OOM_KILLER: &str = "Your kernel does not support OomKillDisable. OomKillDisable discarded.";
pub(super) const KERNEL_MEMORY: &str = discarded!("kernel memory limit capabilities", "Limitation");
pub(super) const KERNEL_MEMORY_TCP: &str = discarded!("kernel memory TCP limit capabilities", "Limitation");
pub(super) const PIDS: &str = discarded!("PIDs limit capabilities", "PIDs limit");
pub(super) const CPU_SHARES: &str = discarded!("CPU shares", "Shares");
pub(super) const CPU_CFS: &str = "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.";
pub(super) const CPU_BURST: &str = discarded!("CPU burst", "CPU burst");
pub(super) const CPU_IDLE: &str = discarded!("CPU idle", "CPU idle");
pub(super) const CPU_REALTIME: &str = discarded!("CPU real-time scheduler", "CPU real-time period/runtime");
pub(super) const CPUSET: &str = discarded!("cpuset", "Cpuset");
pub(super) const IO_WEIGHT: &str = discarded!("Block I/O weight", "Weight");
pub(super) const IO_WEIGHT_DEVICE: &str = discarded!("Block I/O weight_device", "Weight-device");
pub(super) const IO_READ_BPS: &str = discarded!("BPS Block I/O read limit", "Block I/O BPS read limit");
pub(super) const IO_WRITE_BPS: &str = discarded!("BPS Block I/O write limit", "Block I/O BPS write limit");
pub(super) const IO_READ_IOPS: &str = discarded!("IOPS Block read limit", "Block I/O IOPS read limit");
pub(super) const IO_WRITE_IOPS: &str = discarded!("IOPS Block write limit", "Block I/O IOPS write limit");
