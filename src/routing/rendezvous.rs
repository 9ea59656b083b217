//! Weighted rendezvous hashing: every process gives a client the same choice, without asking anybody.
//!
//! Each member gets a score from the client's hash and its own; the highest wins. One that comes takes its share evenly
//! from all others, and nobody else moves; one that goes gives its clients to their second choice. What a score is made of
//! is part of the promise to stay the same: replicas of two releases, on two processors, must choose alike. So the hash is
//! SHA-256, and the rest is arithmetic that IEEE 754 defines to the last bit: no logarithm of the platform.

use std::f64::consts::{LN_2, SQRT_2};

use sha2::{Digest, Sha256};

/// The hash of a client's address, header, or whatever else it is told by. `what` keeps equal values of two kinds apart.
pub(super) fn hash(what: &str, value: &[u8]) -> u64 {
    let mut hasher = Sha256::new_with_prefix(what);
    hasher.update([0]);
    hasher.update(value);
    first_bits(&hasher.finalize())
}

/// Where a client ranks one of many equal members, known by a digest: the least goes first.
pub(super) fn rank(client: u64, member: &[u8; 32]) -> u64 {
    u64::MAX - score(client, first_bits(member))
}

/// The score of a member, known by its hash, whose share is in proportion to `weight`: the highest wins.
pub(super) fn weighted_score(client: u64, member: u64, weight: u32) -> f64 {
    -f64::from(weight) / ln(fraction(score(client, member)))
}

fn first_bits(digest: &[u8]) -> u64 {
    digest.iter().take(8).fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

fn score(client: u64, member: u64) -> u64 {
    mix(mix(client).wrapping_add(member))
}

/// The finalizer of SplitMix64: each bit of the result depends on all of the input.
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// Between 0 and 1, and neither.
fn fraction(bits: u64) -> f64 {
    ((bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
}

/// The natural logarithm of a positive normal number, by the series of artanh, to about 15 digits.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = f64::from((bits >> 52) as u16) - 1023.0;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1023 << 52);
    if mantissa > SQRT_2 {
        mantissa /= 2.0;
        exponent += 1.0;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let square = s * s;
    let series = (0..=10).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    2.0 * s * series + exponent * LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        let smallest = fraction(0);
        for x in [smallest, 1e-9, 0.1, 0.5, 0.7, 0.707, 0.71, 0.9, 0.999_999, fraction(u64::MAX)] {
            let error = (ln(x) - x.ln()).abs() / x.ln().abs();
            assert!(error < 1e-14, "{x}: {error}");
            assert!(ln(x) < 0.0);
        }
    }

    #[test]
    fn scores_never_change() {
        assert_eq!(hash("client", b"192.0.2.1"), 18_340_878_094_257_962_543);
        assert_eq!(score(1, 2), 17_235_469_408_947_973_867);
        assert_eq!(weighted_score(1, 2, 3).to_bits(), 0x4046_15d6_ed72_7dd5);
    }

    #[test]
    fn shares_follow_weights() {
        let weights = [1, 2, 7];
        let mut won = [0_u32; 3];
        for client in 0..10_000_u64 {
            let client = hash("test", &client.to_be_bytes());
            let scores = (0..3).map(|member| weighted_score(client, hash("member", &[member as u8]), weights[member]));
            let best = scores.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0;
            won[best] += 1;
        }
        for (won, weight) in won.into_iter().zip(weights) {
            assert!(won.abs_diff(weight * 1_000) < 200, "{won} of 10,000 at weight {weight}");
        }
    }
}
