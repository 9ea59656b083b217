//! What the plane tells the writer: what each route is judged to be, and what the API server holds of it.
//!
//! Two tasks meet here, neither of which serves a connection; the lock is held for moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    control::{cluster::RouteState, verdict::Verdict},
    routing::ObjectName,
};

/// Every route of our class.
#[derive(Debug, Default)]
pub(in crate::control) struct Ledger {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    lines: BTreeMap<ObjectName, Line>,
    /// Routes to be looked at.
    dirty: BTreeSet<ObjectName>,
}

/// One route.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) state: Option<RouteState>,
    /// The resourceVersion with which the generation came: a view that reaches it includes the generation.
    pub(super) since: u64,
    pub(super) verdict: Option<Arc<Verdict>>,
    /// When it was judged.
    pub(super) judged: Option<Instant>,
}

impl Ledger {
    /// The API server holds this of a route.
    pub(in crate::control) fn seen(&self, name: &ObjectName, state: RouteState) {
        let mut all = self.lock();
        let line = all.lines.entry(name.clone()).or_default();
        let is_same = |old: &RouteState| (&old.uid, old.generation) == (&state.uid, state.generation);
        let is_known = line.state.as_ref().is_some_and(is_same) && line.since <= state.version;
        if !is_known {
            line.since = state.version;
        }
        line.state = Some(state);
        all.dirty.insert(name.clone());
        self.changed.notify_one();
    }

    /// A route is gone, or of another class now.
    pub(in crate::control) fn gone(&self, name: &ObjectName) {
        let mut all = self.lock();
        all.lines.remove(name);
        all.dirty.remove(name);
    }

    /// A table has been built: these are the verdicts of all routes. Equal ones are the same ones as last time.
    pub(in crate::control) fn judged(&self, verdicts: &BTreeMap<ObjectName, Arc<Verdict>>) {
        let now = Instant::now();
        let mut all = self.lock();
        let State { lines, dirty } = &mut *all;
        for (name, line) in lines {
            // One that was made anew since has none until it is built.
            let Some(verdict) = verdicts.get(name) else { continue };
            let is_same = line.verdict.as_ref().is_some_and(|old| Arc::ptr_eq(old, verdict));
            if !is_same {
                (line.verdict, line.judged) = (Some(Arc::clone(verdict)), Some(now));
                dirty.insert(name.clone());
            }
        }
        self.changed.notify_one();
    }

    /// Until something has changed since this was asked last.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Takes the routes that are to be looked at.
    pub(super) fn take_dirty(&self) -> BTreeSet<ObjectName> {
        std::mem::take(&mut self.lock().dirty)
    }

    /// Every route.
    pub(super) fn names(&self) -> Vec<ObjectName> {
        self.lock().lines.keys().cloned().collect()
    }

    pub(super) fn line(&self, name: &ObjectName) -> Option<Line> {
        self.lock().lines.get(name).cloned()
    }

    /// We have written this digest into a route's status.
    pub(super) fn written(&self, name: &ObjectName, uid: &str, digest: u64, programmed: Option<i64>) {
        let mut all = self.lock();
        let state = all.lines.get_mut(name).and_then(|line| line.state.as_mut());
        if let Some(state) = state.filter(|state| *state.uid == *uid) {
            (state.digest, state.programmed) = (digest, programmed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ObjectName {
        ObjectName {
            namespace: "chat".into(),
            name: "chat".into(),
        }
    }

    fn state(uid: &str, generation: i64, version: u64) -> RouteState {
        RouteState {
            uid: uid.into(),
            generation,
            version,
            digest: 0,
            programmed: None,
        }
    }

    #[test]
    fn a_generation_is_as_old_as_its_first_resource_version() {
        let ledger = Ledger::default();
        let since = |state| {
            ledger.seen(&name(), state);
            ledger.line(&name()).unwrap().since
        };
        assert_eq!(since(state("a", 1, 10)), 10);
        assert_eq!(since(state("a", 1, 12)), 10, "only its status changed");
        assert_eq!(since(state("a", 2, 15)), 15);
        assert_eq!(since(state("b", 2, 20)), 20, "made anew under the same name");
        assert_eq!(since(state("b", 2, 5)), 5, "the cluster was restored to an older state");
    }

    #[test]
    fn verdicts_of_routes_that_are_gone_are_forgotten() {
        let ledger = Ledger::default();
        ledger.seen(&name(), state("a", 1, 10));
        assert_eq!(ledger.take_dirty().len(), 1);
        ledger.gone(&name());
        ledger.judged(&verdicts());
        assert!(ledger.take_dirty().is_empty() && ledger.line(&name()).is_none());
    }

    fn verdicts() -> BTreeMap<ObjectName, Arc<Verdict>> {
        let verdict = Verdict {
            route: name(),
            generation: Some(1),
            rejected: Vec::new(),
            unresolved: Vec::new(),
            shadowed: Vec::new(),
        };
        BTreeMap::from([(name(), Arc::new(verdict))])
    }

    #[test]
    fn a_route_is_looked_at_when_its_verdict_is_new_to_it() {
        let ledger = Ledger::default();
        let verdicts = verdicts();
        let is_dirty = || {
            ledger.judged(&verdicts);
            !ledger.take_dirty().is_empty()
        };
        ledger.seen(&name(), state("a", 1, 10));
        ledger.take_dirty();
        assert!(is_dirty());
        assert!(!is_dirty(), "nothing new");
        // Deleted and made again between two tables: the verdict is the same, but this object knows nothing of it.
        ledger.gone(&name());
        ledger.seen(&name(), state("b", 1, 12));
        ledger.take_dirty();
        assert!(is_dirty());
    }
}
