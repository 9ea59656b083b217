//! Says in the log what goes wrong with a Lease: once, and when it is over.

use std::time::Duration;

use tokio::time::Instant;

use super::store::Failure;

/// What goes wrong with one Lease at the moment.
#[derive(Debug)]
pub(super) struct Trouble {
    namespace: String,
    name: String,
    /// What does not work meanwhile.
    effect: &'static str,
    said: Option<(Sort, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Forbidden,
    Foreign,
    Other,
}

impl Trouble {
    pub(super) fn new(namespace: &str, name: &str, effect: &'static str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            effect,
            said: None,
        }
    }

    /// Says it, unless it was said. Returns whether it did.
    pub(super) fn met(&mut self, failure: &Failure, now: Instant) -> bool {
        let sort = match failure {
            Failure::Conflict => return false,
            Failure::Forbidden(_) => Sort::Forbidden,
            Failure::Foreign(_) => Sort::Foreign,
            Failure::Missing(_) | Failure::Silent | Failure::Other(_) => Sort::Other,
        };
        let is_said = match self.said {
            Some((said, at)) => said == sort && (sort != Sort::Foreign || now < at + REMINDER),
            None => false,
        };
        if is_said {
            return false;
        }
        self.said = Some((sort, now));
        let Self {
            namespace, name, effect, ..
        } = self;
        match sort {
            Sort::Forbidden => tracing::warn!(
                "cannot use Lease {namespace}/{name}: {failure}; {effect}: grant get, create, update and delete on \
                 leases.coordination.k8s.io in namespace {namespace}"
            ),
            Sort::Foreign => tracing::error!(
                "Lease {namespace}/{name} is somebody else's: {failure}; it is left alone, and {effect}: delete it, or choose \
                 another --class"
            ),
            Sort::Other => tracing::warn!("cannot use Lease {namespace}/{name}: {failure}; {effect}; trying again"),
        }
        true
    }

    /// A call succeeded.
    pub(super) fn is_over(&mut self) {
        if self.said.take().is_some() {
            tracing::info!("Lease {}/{} can be used again", self.namespace, self.name);
        }
    }
}

/// Between two errors of something that only a person can put right, and of which nothing else would remind.
const REMINDER: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_said_once_and_a_foreign_lease_every_minute() {
        let mut trouble = Trouble::new("holdfast", "chat", "this replica cannot lead");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!trouble.met(&Failure::Conflict, at(0)));
        assert!(trouble.met(&Failure::Silent, at(0)));
        assert!(!trouble.met(&Failure::Other("again".to_owned()), at(600)));
        assert!(trouble.met(&Failure::Forbidden(String::new()), at(601)));
        assert!(!trouble.met(&Failure::Forbidden(String::new()), at(6000)));
        trouble.is_over();
        assert!(trouble.met(&Failure::Foreign(None), at(6000)));
        assert!(!trouble.met(&Failure::Foreign(None), at(6059)));
        assert!(trouble.met(&Failure::Foreign(None), at(6060)));
    }
}
