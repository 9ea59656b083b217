//! Challenges of ACME that are being answered (RFC 8555, 8.3): one host and one path each, for as long as an order takes.

use std::{collections::HashMap, sync::Arc};

use crate::routing::route::Rule;

/// Where challenges are asked for; a token follows.
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Rules by host and path.
#[derive(Debug, Default)]
pub(super) struct Challenges(HashMap<Box<str>, HashMap<Box<str>, Arc<Rule>>>);

impl Challenges {
    /// The first to claim a host and path has it.
    pub(super) fn add(&mut self, host: &str, path: &str, rule: Arc<Rule>) {
        let paths = self.0.entry(host.into()).or_default();
        paths.entry(path.into()).or_insert(rule);
    }

    /// Any other path costs a comparison.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<(&str, &Arc<Rule>)> {
        if !path.starts_with(CHALLENGE_PATH) {
            return None;
        }
        let (path, rule) = self.0.get(host)?.get_key_value(path)?;
        Some((path, rule))
    }
}
