//! What this machine and this pod allow: cores, file descriptors, memory.

use std::{num::NonZero, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{headroom::memory_limit, proxy::Limit};

/// The cores that this process may use, cgroup quotas included.
pub(super) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// How many connections may be served: what was asked for, or what fits; each costs two sockets and some memory. The limit on
/// file descriptors is raised as far as it goes first.
pub(super) fn connections(asked: Option<u32>) -> Limit {
    let descriptors = raise_descriptors();
    let fit = usize::try_from(descriptors.saturating_sub(OWN_DESCRIPTORS) / 2).unwrap_or(usize::MAX);
    let by_memory = memory_limit().map_or(usize::MAX, |bytes| {
        usize::try_from(bytes / MEMORY_PER_CONNECTION).unwrap_or(usize::MAX)
    });
    let limit = limit(asked, fit.min(by_memory));
    if let Some(asked) = asked.filter(|asked| *asked as usize > limit.connections) {
        tracing::warn!(
            asked,
            serving = limit.connections,
            descriptors,
            "--max-connections is more than file descriptors and memory allow, with a reserve for those that are told so; \
             serving what fits"
        );
    }
    limit
}

/// So many connections as were asked for and fit, next to the reserve for those that are only told that there are too many.
fn limit(asked: Option<u32>, fit: usize) -> Limit {
    let reserve = (fit / 20).max(1);
    let most = fit.saturating_sub(reserve).max(1);
    let connections = asked.map_or(most, |asked| most.min(asked as usize));
    Limit { connections, reserve }
}

/// Bytes that may be queued for sides that accept nothing, unless the user says otherwise.
pub(super) fn queue_memory() -> u64 {
    memory_limit().map_or(256 << 20, |limit| limit / 4)
}

fn raise_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => limit.current,
    };
    current.unwrap_or(1 << 20) // no limit
}

/// Descriptors for listeners, files, the API server and scrapes.
const OWN_DESCRIPTORS: u64 = 128;

/// What a connection may cost in user and kernel memory while it carries messages (bench/README.md has what it does cost).
const MEMORY_PER_CONNECTION: u64 = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_never_takes_the_reserve() {
        for (asked, fit, connections) in [
            (None, 1000, 950),
            (Some(100), 1000, 100),
            (Some(950), 1000, 950),
            (Some(1000), 1000, 950),
            (Some(5000), 1000, 950),
            (Some(1), 1, 1),
            (None, 0, 1),
        ] {
            let limit = limit(asked, fit);
            assert_eq!(limit.connections, connections, "{asked:?} of {fit}");
            assert!(limit.reserve >= 1 && (limit.connections + limit.reserve <= fit || fit < 2));
        }
    }
}
