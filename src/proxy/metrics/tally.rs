//! The counts of handshakes and ends by route, for whoever looks at how they change.

use std::collections::{BTreeMap, HashMap};

use super::{Cause, Initiator, Metrics, Relaxed, RuleMetrics, lock};
use crate::routing::ObjectName;

/// What can happen at a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Happening {
    /// The answer to a handshake: `accepted`, `endpoint` where it was the endpoint's own refusal, or the word of ours.
    Handshake(&'static str),
    Ended(Initiator, Cause),
}

/// What has happened since the process started, and how many tunnels are open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub open: u64,
    /// Without what has never happened.
    pub counts: BTreeMap<Happening, u64>,
}

impl Metrics {
    /// A tally for each route; `None`: requests that no rule serves. Waits for no worker, and for no longer than a scrape.
    pub fn tallies(&self) -> HashMap<Option<ObjectName>, Tally> {
        let mut rules: Vec<_> = lock(&self.rules).values().cloned().collect();
        rules.push(self.unrouted());
        let mut tallies: HashMap<_, Tally> = HashMap::new();
        for rule in rules {
            let route = rule.id.as_ref().map(|id| id.route.clone());
            rule.add_to(tallies.entry(route).or_default());
        }
        tallies
    }
}

impl RuleMetrics {
    fn add_to(&self, tally: &mut Tally) {
        tally.open += self.active.load(Relaxed);
        for ((_, outcome), count) in lock(&self.handshakes).iter() {
            *tally.counts.entry(Happening::Handshake(outcome)).or_default() += count;
        }
        for initiator in Initiator::ALL {
            for cause in Cause::ALL {
                let count = self.ends[initiator as usize][cause as usize].load(Relaxed);
                if count > 0 {
                    *tally.counts.entry(Happening::Ended(initiator, cause)).or_default() += count;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::routing::RuleId;

    #[test]
    fn the_rules_of_a_route_are_one_tally_and_what_no_rule_serves_another() {
        let metrics = Metrics::new(1);
        let route = ObjectName {
            namespace: "web".into(),
            name: "chat".into(),
        };
        for rule in ["a", "b"] {
            let rule = metrics.rule(&RuleId {
                route: route.clone(),
                rule: rule.into(),
            });
            rule.opened(Duration::ZERO);
            rule.opened(Duration::ZERO);
            rule.ended(Initiator::Endpoint, Cause::EndpointGone, Duration::ZERO);
        }
        metrics.unrouted().handshake(404, "no_route");

        let tallies = metrics.tallies();
        assert_eq!(tallies.len(), 2);
        let expected = Tally {
            open: 2,
            counts: BTreeMap::from([
                (Happening::Handshake("accepted"), 4),
                (Happening::Ended(Initiator::Endpoint, Cause::EndpointGone), 2),
            ]),
        };
        assert_eq!(tallies[&Some(route)], expected);
        assert_eq!(tallies[&None].counts[&Happening::Handshake("no_route")], 1);
        assert_eq!(tallies[&None].open, 0);
    }
}
