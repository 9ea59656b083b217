//! How much of what this machine and this pod allow is used: file descriptors, memory, source ports. Read from the kernel when
//! somebody asks.

use std::{fs, ops::RangeInclusive, path::Path};

use rustix::process::{Resource, getrlimit};

/// So much of so much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub used: u64,
    /// `None`: nothing limits it.
    pub allowed: Option<u64>,
}

/// File descriptors of this process.
#[must_use]
pub fn descriptors() -> Share {
    let folder = Path::new("/proc/self/fd");
    // Since Linux 6.2 the size says how many there are; to count them takes a while where there are many.
    let size = fs::metadata(folder).map_or(0, |metadata| metadata.len());
    let used = match size {
        0 => fs::read_dir(folder).map_or(0, |entries| entries.count() as u64),
        size => size,
    };
    Share {
        used,
        allowed: getrlimit(Resource::Nofile).current,
    }
}

/// Bytes of memory. In a container with a limit those that count against it, the kernel's for sockets included.
#[must_use]
pub fn memory() -> Share {
    let of_limit = || {
        let allowed = memory_limit()?;
        let current: u64 = cgroup("memory.current")?.trim().parse().ok()?;
        let used = current.saturating_sub(reclaimable(&cgroup("memory.stat")?));
        Some(Share {
            used,
            allowed: Some(allowed),
        })
    };
    of_limit().unwrap_or_else(|| Share {
        used: resident(),
        allowed: None,
    })
}

/// The memory limit of the cgroup that this process runs in (cgroup v2, as a container sees it).
#[must_use]
pub fn memory_limit() -> Option<u64> {
    cgroup("memory.max")?.trim().parse().ok()
}

/// The ports that connections to one address of an endpoint may come from.
#[must_use]
pub fn source_ports() -> Option<RangeInclusive<u16>> {
    range(&fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// Cached files that the kernel drops before it kills anybody: what `kubectl top` leaves out too.
fn reclaimable(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or_default()
}

fn cgroup(file: &str) -> Option<String> {
    fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(range("none"), None);
        assert_eq!(reclaimable("anon 5\ninactive_file 4096\nactive_file 1\n"), 4096);
        assert_eq!(reclaimable("anon 5\n"), 0);
    }

    #[test]
    fn this_process_has_descriptors_and_memory() {
        let descriptors = descriptors();
        assert!(descriptors.used >= 3 && descriptors.allowed.is_none_or(|allowed| allowed >= descriptors.used));
        assert!(memory().used > 100_000);
    }
}
