//! Builds and publishes the table, and says in the log what became of each route.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use super::{
    Finding,
    build::{Built, Rules, build_over},
    index::Index,
    metrics::Metrics,
    object::Route,
    verdict::Verdict,
};
use crate::routing::{ObjectName, Published, Snapshot};

/// The one writer of the published snapshot.
#[derive(Debug)]
pub(super) struct Publisher {
    published: Published,
    metrics: Metrics,
    /// Of all routes; one that says the same as before is the same one.
    verdicts: BTreeMap<ObjectName, Arc<Verdict>>,
    /// Of the published table.
    rules: Rules,
}

impl Publisher {
    pub(super) fn new(published: Published, metrics: Metrics) -> Self {
        Self {
            published,
            metrics,
            verdicts: BTreeMap::new(),
            rules: Rules::new(),
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What became of each route in the published table.
    pub(super) fn verdicts(&self) -> &BTreeMap<ObjectName, Arc<Verdict>> {
        &self.verdicts
    }

    /// Publishes what the index comes to.
    pub(super) fn publish(&mut self, index: &Index) {
        let started = Instant::now();
        let Built { table, verdicts } = build_over(index, &self.rules);
        self.rules = table.rules().map(|rule| (rule.id.clone(), Arc::clone(rule))).collect();
        let generation = self.published.load().generation + 1;
        self.published.store(Arc::new(Snapshot {
            generation,
            table,
            certificates: Default::default(),
        }));
        self.metrics.published(generation, started.elapsed(), &verdicts);
        let rejected = verdicts.iter().filter(|verdict| !verdict.is_accepted()).count();
        tracing::info!(generation, routes = verdicts.len(), rejected, "routes published");
        self.report(index, verdicts);
    }

    /// Says what is new about each route.
    fn report(&mut self, index: &Index, verdicts: Vec<Verdict>) {
        let routes: BTreeMap<&ObjectName, &Arc<Route>> = index.routes().map(|route| (&route.name, route)).collect();
        let mut now = BTreeMap::new();
        for verdict in verdicts {
            let before = self.verdicts.get(&verdict.route);
            if let Some(before) = before.filter(|before| ***before == verdict) {
                now.insert(verdict.route, Arc::clone(before));
                continue;
            }
            if before.is_some_and(|before| !before.is_clean()) && verdict.is_clean() {
                tracing::info!("WebSocketRoute {}: everything is in order again", verdict.route);
            }
            let known: Vec<&Finding> = before.into_iter().flat_map(|before| before.findings()).collect();
            for finding in verdict.findings().filter(|finding| !known.contains(finding)) {
                warn(routes.get(&verdict.route).copied(), &verdict.route, finding);
            }
            now.insert(verdict.route.clone(), Arc::new(verdict));
        }
        self.verdicts = now;
    }
}

fn warn(route: Option<&Arc<Route>>, name: &ObjectName, finding: &Finding) {
    let location = route
        .and_then(|route| route.origin.as_ref())
        .map(|origin| origin.locate(&finding.fault));
    let place = location.map_or_else(String::new, |location| format!("{location}: "));
    tracing::warn!(reason = %finding.reason, "{place}WebSocketRoute {name}: {}", finding.fault);
}
