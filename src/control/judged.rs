//! What the control plane makes of each route, for whoever tells of it: the live listener and the command line.
//!
//! Published beside each table, by the same owner. It shares the objects and the verdicts that the control plane holds anyway,
//! so that it costs a rebuild nothing that grows with what routes say. The data plane never looks at it.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;

use super::{
    defaults::Defaults,
    index::Index,
    object::Route,
    policy::{self, Effective},
    status::{self, Ledger, Programmed},
    verdict::Verdict,
};
use crate::{api::Condition, routing::ObjectName};

/// All routes of our class, as one build judged them.
#[derive(Clone, Debug, Default)]
pub struct Judgement {
    /// By name.
    routes: Arc<[Judged]>,
    defaults: Defaults,
    /// Whether routes of every namespace may share a hostname.
    pub share_hosts: bool,
}

/// One route, and what became of it.
#[derive(Clone, Debug)]
pub struct Judged {
    pub route: Arc<Route>,
    pub verdict: Arc<Verdict>,
}

impl Judgement {
    /// `routes`: by name.
    pub(super) fn new(index: &Index, routes: Arc<[Judged]>) -> Self {
        Self {
            routes,
            defaults: index.settings().defaults.clone(),
            share_hosts: index.settings().share_hosts,
        }
    }

    /// Of an index and the verdicts that were built of it.
    pub fn of(index: &Index, verdicts: &[Verdict]) -> Self {
        let judged = |(route, verdict): (&Arc<Route>, &Verdict)| Judged {
            route: Arc::clone(route),
            verdict: Arc::new(verdict.clone()),
        };
        Self::new(index, index.routes().zip(verdicts).map(judged).collect())
    }

    /// By name.
    pub fn routes(&self) -> &[Judged] {
        &self.routes
    }

    pub fn get(&self, name: &ObjectName) -> Option<&Judged> {
        find(&self.routes, name)
    }

    /// The values that hold for a route, and where each comes from.
    pub fn effective(&self, route: &Route) -> Vec<Effective> {
        policy::effective(&route.spec, &self.defaults)
    }
}

/// The route of that name among those in order of name.
pub(super) fn find<'a>(routes: &'a [Judged], name: &ObjectName) -> Option<&'a Judged> {
    let at = routes.binary_search_by(|judged| judged.route.name.cmp(name)).ok()?;
    routes.get(at)
}

/// Where the last [`Judgement`] is. A clone shows the same.
#[derive(Clone, Debug, Default)]
pub struct Judgements(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last: ArcSwap<Judgement>,
    /// In a cluster: what the API server holds of routes.
    ledger: OnceLock<Arc<Ledger>>,
}

impl Judgements {
    /// The last one. Before the first table it has no routes.
    pub fn load(&self) -> Arc<Judgement> {
        self.0.last.load_full()
    }

    pub(super) fn store(&self, judgement: Judgement) {
        self.0.last.store(Arc::new(judgement));
    }

    pub(super) fn in_cluster(&self, ledger: Arc<Ledger>) {
        let _ = self.0.ledger.set(ledger); // a process has one source
    }

    /// A route's conditions as its status has them, or would have them where there is no API server. Programmed is what the
    /// replica that leads last wrote of it.
    pub fn conditions(&self, judged: &Judged) -> Vec<Condition> {
        let verdict = &judged.verdict;
        let generation = verdict.generation.unwrap_or_default();
        let programmed = match self.0.ledger.get() {
            _ if !verdict.is_accepted() => Programmed::Never,
            None => Programmed::Alone,
            Some(ledger) => ledger.programmed(&verdict.route, generation),
        };
        status::desired(verdict, generation, &programmed).conditions
    }
}
