//! What the plane tells the writer: what each route is judged to be, and what the API server holds of it.
//!
//! Two tasks meet here, neither of which serves a connection; the lock is held for moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::Programmed;
use crate::{
    control::{
        cluster::RouteState,
        judged::{self, Judged},
        verdict::Verdict,
    },
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
    pub(super) written: Option<Written>,
}

/// What this replica wrote last into a route's status.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    digest: u64,
    at: Instant,
    /// How often that had been written before, and somebody else had changed it.
    repairs: u32,
}

impl Written {
    /// What is to be remembered of a write after `before`.
    fn after(before: Option<Self>, digest: u64, at: Instant) -> Self {
        let before = before.filter(|before| at < before.at + before.pause() + CALM);
        let repairs = before.map_or(0, |before| before.repairs + u32::from(before.digest == digest));
        Self { digest, at, repairs }
    }

    /// When this digest may be written again. A mistake is put right at once; but somebody who disagrees, another class that
    /// serves the same route for instance, must not be answered for ever.
    pub(super) fn again_at(&self, digest: u64) -> Option<Instant> {
        (self.digest == digest).then(|| self.at + self.pause())
    }

    /// Whether whoever wrote this begins to give way to somebody else.
    pub(super) fn is_disputed(&self) -> bool {
        self.repairs == AT_ONCE
    }

    fn pause(&self) -> Duration {
        match self.repairs.checked_sub(AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => FIRST_PAUSE.saturating_mul(1 << more.min(16)).min(LONGEST_PAUSE),
        }
    }
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
    pub(in crate::control) fn judged(&self, routes: &[Judged]) {
        let now = Instant::now();
        let mut all = self.lock();
        let State { lines, dirty } = &mut *all;
        for (name, line) in lines {
            // One that was made anew since has none until it is built.
            let Some(Judged { verdict, .. }) = judged::find(routes, name) else {
                continue;
            };
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

    /// Whether this generation of a route is programmed, by what the API server has of it.
    pub(in crate::control) fn programmed(&self, name: &ObjectName, generation: i64) -> Programmed {
        let all = self.lock();
        let state = all.lines.get(name).and_then(|line| line.state.as_ref());
        match state {
            Some(state) if state.programmed == Some(generation) => Programmed::Yes,
            Some(state) => Programmed::Pending(state.pending.as_deref().unwrap_or(UNTOLD).to_owned()),
            None => Programmed::Pending(UNTOLD.to_owned()),
        }
    }

    /// A route's status was found to be this already, or is since this resourceVersion.
    pub(super) fn is(&self, name: &ObjectName, uid: &str, version: u64, digest: u64, programmed: Option<i64>) {
        let mut all = self.lock();
        let state = all.lines.get_mut(name).and_then(|line| line.state.as_mut());
        // Somebody else may have been heard of meanwhile, who changed it again.
        if let Some(state) = state.filter(|state| *state.uid == *uid && state.version <= version) {
            (state.digest, state.programmed) = (digest, programmed);
        }
    }

    /// This replica has written this digest into a route's status.
    pub(super) fn written(&self, name: &ObjectName, digest: u64) -> Option<Written> {
        let mut all = self.lock();
        let line = all.lines.get_mut(name)?;
        line.written = Some(Written::after(line.written, digest, Instant::now()));
        line.written
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where nobody has written yet whether a route is programmed.
const UNTOLD: &str = "the replica that leads has not said yet which replicas serve this generation";
/// So often a status that somebody else has changed is put right at once.
const AT_ONCE: u32 = 3;
/// How long to wait after that, twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);
/// When nobody has changed it for this long, all is forgotten.
const CALM: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::WebSocketRouteSpec, control::object::Route};

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
            pending: None,
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

    fn verdicts() -> Vec<Judged> {
        let verdict = Verdict {
            route: name(),
            generation: Some(1),
            rejected: Vec::new(),
            unresolved: Vec::new(),
            shadowed: Vec::new(),
        };
        let route = Route {
            name: name(),
            created: 0,
            generation: Some(1),
            spec: WebSocketRouteSpec::default(),
            unreadable: Vec::new(),
            origin: None,
        };
        vec![Judged {
            route: Arc::new(route),
            verdict: Arc::new(verdict),
        }]
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

    #[test]
    fn what_is_known_of_a_status_is_the_newest() {
        let ledger = Ledger::default();
        let digest = || ledger.line(&name()).unwrap().state.unwrap().digest;
        ledger.seen(&name(), state("a", 1, 10));
        ledger.is(&name(), "a", 12, 7, Some(1));
        assert_eq!(digest(), 7);
        ledger.seen(&name(), state("a", 1, 15));
        ledger.is(&name(), "a", 14, 8, Some(1));
        assert_eq!(digest(), 0, "somebody has changed it since");
        ledger.is(&name(), "b", 20, 8, Some(1));
        assert_eq!(digest(), 0, "another object of the name");
    }

    #[test]
    fn a_status_that_somebody_else_changes_is_put_right_less_and_less_often() {
        let mut now = Instant::now();
        let mut written = Written::after(None, 1, now);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let again_at = written.again_at(1).unwrap();
            pauses.push((again_at - now).as_secs());
            now = again_at;
            written = Written::after(Some(written), 1, now);
        }
        assert_eq!(pauses[..7], [0, 0, 0, 1, 2, 4, 8]);
        assert_eq!(pauses[19], 3600);
        assert_eq!(written.again_at(2), None, "what is new is written at once");
        let news = Written::after(Some(written), 2, now);
        assert_eq!(news.repairs, written.repairs, "and ends no dispute");
        let later = now + written.pause() + CALM;
        assert_eq!(
            Written::after(Some(written), 1, later).repairs,
            0,
            "which is forgotten in time"
        );
    }
}
