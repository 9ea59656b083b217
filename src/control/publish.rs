//! Builds and publishes the table, and says in the log what became of each route.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use super::{
    Finding,
    build::{Built, Rules, build_over},
    index::Index,
    judged::{self, Judged, Judgement, Judgements},
    metrics::Metrics,
    object::Route,
    outlook::{Digests, TableState},
    verdict::Verdict,
};
use crate::routing::{ObjectName, Published, Snapshot};

/// The one writer of the published snapshot.
#[derive(Debug)]
pub(super) struct Publisher {
    published: Published,
    judgements: Judgements,
    metrics: Metrics,
    /// All routes, by name; a verdict that says the same as before is the same one.
    judged: Arc<[Judged]>,
    digests: Digests,
    /// Of the published table.
    rules: Rules,
    /// Whether anybody listens for TLS.
    serves_tls: bool,
    /// What was last said that concerns no route.
    said: Option<String>,
    /// What was last said of challenges.
    unanswered: Vec<(ObjectName, String)>,
}

impl Publisher {
    pub(super) fn new(published: Published, judgements: Judgements, metrics: Metrics, serves_tls: bool) -> Self {
        Self {
            published,
            judgements,
            metrics,
            judged: Arc::default(),
            digests: Digests::default(),
            rules: Rules::new(),
            serves_tls,
            said: None,
            unanswered: Vec::new(),
        }
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What became of each route in the published table, by name.
    pub(super) fn judged(&self) -> &[Judged] {
        &self.judged
    }

    /// Publishes what the index comes to.
    pub(super) fn publish(&mut self, index: &Index) {
        let started = Instant::now();
        let Built {
            table,
            certificates,
            verdicts,
            unanswered,
        } = build_over(index, &self.rules);
        self.rules = table.rules().map(|rule| (rule.id.clone(), Arc::clone(rule))).collect();
        let generation = self.published.load().generation + 1;
        self.published.store(Arc::new(Snapshot {
            generation,
            table,
            certificates,
        }));
        self.metrics.published(generation, started.elapsed(), &verdicts);
        self.metrics.certificates(index.certificates().used());
        let rejected = verdicts.iter().filter(|verdict| !verdict.is_accepted()).count();
        let routes = verdicts.len();
        tracing::info!(generation, routes, rejected, "routes published");
        self.judged = self.report(index, verdicts);
        self.digests.take(&self.judged);
        self.metrics.table(TableState {
            generation,
            digest: self.digests.digest(&index.settings().defaults, index.certificates().used()),
            published: SystemTime::now(),
            routes,
            rejected,
        });
        self.judgements.store(Judgement::new(index, Arc::clone(&self.judged)));
        self.warn_of_challenges(unanswered);
        self.warn_of_tls(index);
    }

    /// Says what keeps challenges of ACME from being answered.
    fn warn_of_challenges(&mut self, unanswered: Vec<(ObjectName, String)>) {
        for (ingress, reason) in unanswered.iter().filter(|wrong| !self.unanswered.contains(wrong)) {
            tracing::warn!("Ingress {ingress}: its challenge is not answered: {reason}");
        }
        self.unanswered = unanswered;
    }

    /// Says what is wrong with TLS and is no route's fault.
    fn warn_of_tls(&mut self, index: &Index) {
        let has_tls = !self.published.load().certificates.is_empty();
        let default = index.settings().default_certificate.as_ref();
        let warning = match default.and_then(|secret| index.certificates().fault(secret)) {
            _ if has_tls && !self.serves_tls => {
                Some("hosts have certificates, but nobody listens for TLS: they are not served; add --https".to_owned())
            }
            Some(fault) => Some(format!("--default-certificate: {fault}")),
            None => None,
        };
        if let Some(warning) = warning.as_ref().filter(|warning| self.said.as_ref() != Some(warning)) {
            tracing::warn!("{warning}");
        }
        self.said = warning;
    }

    /// Says what is new about each route, and puts the verdicts, which are in order of name, beside their routes.
    fn report(&self, index: &Index, verdicts: Vec<Verdict>) -> Arc<[Judged]> {
        let judge = |(route, verdict): (&Arc<Route>, Verdict)| {
            let before = judged::find(&self.judged, &route.name).map(|before| &before.verdict);
            let verdict = match before.filter(|before| ***before == verdict) {
                Some(same) => Arc::clone(same),
                None => {
                    tell(route, before.map(Arc::as_ref), &verdict);
                    Arc::new(verdict)
                }
            };
            Judged {
                route: Arc::clone(route),
                verdict,
            }
        };
        index.routes().zip(verdicts).map(judge).collect()
    }
}

/// Says what a verdict has that the one before had not.
fn tell(route: &Route, before: Option<&Verdict>, verdict: &Verdict) {
    if before.is_some_and(|before| !before.is_clean()) && verdict.is_clean() {
        tracing::info!("WebSocketRoute {}: everything is in order again", verdict.route);
    }
    let known: Vec<&Finding> = before.into_iter().flat_map(Verdict::findings).collect();
    for finding in verdict.findings().filter(|finding| !known.contains(finding)) {
        warn(route, finding);
    }
}

fn warn(route: &Route, finding: &Finding) {
    let location = route.origin.as_ref().map(|origin| origin.locate(&finding.fault));
    let place = location.map_or_else(String::new, |location| format!("{location}: "));
    tracing::warn!(reason = %finding.reason, "{place}WebSocketRoute {}: {}", route.name, finding.fault);
}
