//! What became of each route, in the words of its conditions.

use std::fmt;

use super::path::Fault;
use crate::routing::ObjectName;

/// What became of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub route: ObjectName,
    pub generation: Option<i64>,
    /// Why it is not accepted; empty: it is.
    pub rejected: Vec<Finding>,
    /// References that lead nowhere: their share is answered 500, or their hosts are not served.
    pub unresolved: Vec<Finding>,
    /// Rules that can never match.
    pub shadowed: Vec<Finding>,
}

/// One thing that is wrong with a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: Reason,
    pub fault: Fault,
    /// What to do, where the message does not say it.
    pub fix: Option<String>,
}

/// The reason of a condition. Displays as in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Accepted,
    UnsupportedValue,
    HostnameConflict,
    IncompatibleFilters,
    ResolvedRefs,
    BackendNotFound,
    RefNotPermitted,
    InvalidKind,
    UnsupportedProtocol,
    InvalidCertificateRef,
    Programmed,
    Pending,
    Invalid,
    Shadowed,
}

/// One condition, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: &'static str,
    pub status: bool,
    pub reason: Reason,
    /// Empty where the reason says it all.
    pub message: String,
}

impl Verdict {
    pub fn is_accepted(&self) -> bool {
        self.rejected.is_empty()
    }

    /// Whether nothing at all is wrong.
    pub fn is_clean(&self) -> bool {
        self.rejected.is_empty() && self.unresolved.is_empty() && self.shadowed.is_empty()
    }

    /// Everything that is wrong, the worst first.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.rejected.iter().chain(&self.unresolved).chain(&self.shadowed)
    }

    /// Accepted and ResolvedRefs, and Conflicted where it is true.
    pub fn conditions(&self) -> Vec<Condition> {
        let mut conditions = vec![
            condition("Accepted", Reason::Accepted, &self.rejected),
            condition("ResolvedRefs", Reason::ResolvedRefs, &self.unresolved),
        ];
        if !self.shadowed.is_empty() {
            conditions.push(Condition {
                status: true,
                ..condition("Conflicted", Reason::Shadowed, &self.shadowed)
            });
        }
        conditions
    }
}

fn condition(kind: &'static str, fine: Reason, findings: &[Finding]) -> Condition {
    Condition {
        kind,
        status: findings.is_empty(),
        reason: findings.first().map_or(fine, |finding| finding.reason),
        message: findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; "),
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fix {
            Some(fix) => write!(f, "{}: {fix}", self.fault),
            None => fmt::Display::fmt(&self.fault, f),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f) // the variants are the words
    }
}
