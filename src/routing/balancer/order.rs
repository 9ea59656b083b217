//! The algorithms: in which order the endpoints of one backendRef are tried. All of them count alike, for weights belong to
//! backendRefs.

use std::sync::Arc;

use smallvec::SmallVec;

use super::MAX_CANDIDATES;
use crate::routing::{endpoint::Endpoint, rendezvous::rank};

/// How endpoints are ordered for one client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// One after the other.
    Turn,
    /// Those with the fewest open connections.
    Fewest,
    /// Of two at random the one with fewer.
    TwoChoices,
    Random,
    /// By the client's hash.
    Hash(u64),
}

/// Places in a slice of endpoints.
pub(super) type Places = SmallVec<[usize; MAX_CANDIDATES]>;

impl Order {
    /// The order of what is tried after a failed dial. The turns of others are left to them, and those who come to a dead
    /// endpoint do not all go to its neighbour.
    pub(super) fn for_retries(self) -> Self {
        match self {
            Self::Turn => Self::Random,
            other => other,
        }
    }

    /// The best few of `endpoints`, at most [`MAX_CANDIDATES`]. `turn` is asked at most once.
    pub(super) fn best(self, endpoints: &[Arc<Endpoint>], turn: impl FnOnce() -> u64) -> Places {
        let open = |place: usize| endpoints[place].open();
        match self {
            Self::Hash(client) => least(endpoints, |endpoint| rank(client, endpoint.digest())),
            Self::Fewest => least(endpoints, |endpoint| (endpoint.open(), fastrand::u32(..))),
            Self::Random => draw(endpoints.len(), Places::new(), |first, _| first),
            Self::TwoChoices => draw(endpoints.len(), Places::new(), |first, second| {
                if open(second) < open(first) { second } else { first }
            }),
            Self::Turn => {
                let first = turn().checked_rem(endpoints.len() as u64);
                let first = first.and_then(|place| usize::try_from(place).ok());
                draw(endpoints.len(), first.into_iter().collect(), |first, _| first)
            }
        }
    }
}

/// The places with the least keys, in order of them. One pass, each key read once.
fn least<K: Ord + Copy>(endpoints: &[Arc<Endpoint>], key: impl Fn(&Endpoint) -> K) -> Places {
    let mut least = SmallVec::<[(K, usize); MAX_CANDIDATES + 1]>::new();
    for (place, endpoint) in endpoints.iter().enumerate() {
        let key = key(endpoint);
        let rank = least.partition_point(|(other, _)| *other <= key);
        if rank < MAX_CANDIDATES {
            least.insert(rank, (key, place));
            least.truncate(MAX_CANDIDATES);
        }
    }
    least.into_iter().map(|(_, place)| place).collect()
}

/// Adds places below `count` to those that are `drawn` already, each time the better of two at random.
fn draw(count: usize, mut drawn: Places, better: impl Fn(usize, usize) -> usize) -> Places {
    while drawn.len() < count.min(MAX_CANDIDATES) {
        let Some(first) = other_than(&drawn, count) else { break };
        let mut both = drawn.clone();
        both.push(first);
        let second = other_than(&both, count).unwrap_or(first);
        drawn.push(better(first, second));
    }
    drawn
}

/// A random place below `count` that is not one of `taken`.
fn other_than(taken: &[usize], count: usize) -> Option<usize> {
    let left = count.checked_sub(taken.len()).filter(|left| *left > 0)?;
    let mut taken = SmallVec::<[usize; MAX_CANDIDATES + 1]>::from_slice(taken);
    taken.sort_unstable();
    let place = fastrand::usize(0..left);
    Some(
        taken
            .iter()
            .fold(place, |place, taken| if *taken <= place { place + 1 } else { place }),
    )
}
