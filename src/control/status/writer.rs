//! Writes the status of routes while this replica leads its class: at most so many in a second, nothing that is there
//! already, and never over what a newer view of the route has said.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Client,
    api::{GetParams, Patch, PatchParams},
    core::Request,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Programmed, desired, digest,
    event::Reporter,
    ledger::{Ledger, Line},
    programmed, timed,
};
use crate::{
    api::{self, WebSocketRouteStatus},
    control::{
        certificates::Alarm,
        lease::Replicas,
        object::ObjectKind,
        versions::Versions,
        watch::{Meta, News, Watched, innermost},
    },
    routing::{ObjectName, health::Ejection},
};

/// What the writer works with.
pub(in crate::control) struct Writer {
    pub(in crate::control) client: Client,
    pub(in crate::control) ledger: Arc<Ledger>,
    /// This replica's name.
    pub(in crate::control) replica: String,
    /// What this replica's own table includes; `None` before its first.
    pub(in crate::control) served: watch::Receiver<Option<Versions>>,
    /// What must be done about certificates.
    pub(in crate::control) alarms: watch::Receiver<Vec<(ObjectName, Alarm)>>,
    /// Endpoints that this replica has ejected.
    pub(in crate::control) ejections: mpsc::Receiver<Ejection>,
    pub(in crate::control) leading: watch::Receiver<bool>,
    /// The Leases of the class.
    pub(in crate::control) leases: mpsc::Receiver<News<Lease>>,
}

/// Runs for as long as somebody tells it whether this replica leads.
pub(in crate::control) async fn write(writer: Writer) {
    let reporter = Reporter::new(writer.client.clone(), writer.replica.clone());
    let desk = Desk {
        writer,
        reporter,
        replicas: None,
        queue: BTreeSet::new(),
        pending: BTreeSet::new(),
        later: BTreeMap::new(),
        last: None,
        expiry: None,
        alarm_at: None,
        ejection_at: Instant::now(),
        not_before: Instant::now(),
        failures: 0,
        complained: None,
    };
    desk.run().await;
}

struct Desk {
    writer: Writer,
    reporter: Reporter,
    /// `None`: their Leases have not been listed.
    replicas: Option<Replicas>,
    /// Routes to be looked at.
    queue: BTreeSet<ObjectName>,
    /// Routes that wait for replicas.
    pending: BTreeSet<ObjectName>,
    /// Routes to be looked at again, and when.
    later: BTreeMap<ObjectName, Instant>,
    /// The route that was written last: the next one comes after it, so that every one has its turn.
    last: Option<ObjectName>,
    /// When the next replica expires, if nothing is heard of it.
    expiry: Option<Instant>,
    /// When Events about certificates are due.
    alarm_at: Option<Instant>,
    /// When the next Event about an ejection may go.
    ejection_at: Instant,
    /// When the next write may go.
    not_before: Instant,
    /// In a row.
    failures: u32,
    complained: Option<Instant>,
}

/// What is to be done about a route.
enum Due {
    Nothing,
    Later(Instant),
    Write(WebSocketRouteStatus),
}

/// Why a status was not written.
enum Unwritten {
    /// The API server holds another state of the route than we know; it will tell us.
    Outrun,
    Refused(kube::Error),
    Silent,
}

impl Desk {
    async fn run(mut self) {
        loop {
            let wake = self.wake();
            let may_tell = !self.leads() || self.ejection_at <= Instant::now();
            tokio::select! {
                () = self.writer.ledger.changed() => {}
                changed = self.writer.leading.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.start_over();
                }
                Ok(()) = self.writer.alarms.changed() => self.alarm_at = Some(Instant::now()),
                Ok(()) = self.writer.served.changed() => self.queue.append(&mut self.pending),
                Some(news) = self.writer.leases.recv() => self.lease(news),
                Some(ejection) = self.writer.ejections.recv(), if may_tell => self.ejected(&ejection).await,
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            self.queue.append(&mut self.writer.ledger.take_dirty());
            while let Ok(news) = self.writer.leases.try_recv() {
                self.lease(news);
            }
            if self.leads() {
                self.alarm().await;
                self.look().await;
            } else {
                self.queue.clear();
            }
        }
    }

    /// Whoever begins to lead looks at every route.
    fn start_over(&mut self) {
        self.pending.clear();
        self.later.clear();
        if self.leads() {
            self.queue.extend(self.writer.ledger.names());
            self.alarm_at = Some(Instant::now());
        }
    }

    fn leads(&self) -> bool {
        *self.writer.leading.borrow()
    }

    /// When there is something to do although nothing has changed.
    fn wake(&self) -> Option<Instant> {
        if !self.leads() {
            return None;
        }
        let expiry = self.expiry.filter(|_| !self.pending.is_empty());
        let write = (!self.queue.is_empty()).then_some(self.not_before);
        let ejection = (!self.writer.ejections.is_empty()).then_some(self.ejection_at);
        [expiry, write, ejection, self.alarm_at, self.later.values().min().copied()]
            .into_iter()
            .flatten()
            .min()
    }

    fn lease(&mut self, news: News<Lease>) {
        if self.replicas.is_none() && !matches!(news, News::All { .. }) {
            return; // who else is alive is not known before all are
        }
        let now = Instant::now();
        let replicas = self.replicas.get_or_insert_with(|| Replicas::new(now));
        match news {
            News::All { objects, .. } => replicas.replace_all(&objects, now),
            News::Changed { object, .. } => replicas.apply(&object, now),
            News::Gone { object, .. } => replicas.remove(&object.metadata.name.unwrap_or_default(), now),
            News::Heard(_) => return,
            News::Failed(failure) => {
                tracing::debug!("the Leases of the replicas: {failure}");
                return;
            }
        }
        self.expiry = replicas.next_expiry(now);
        self.queue.append(&mut self.pending);
    }

    /// Tells of certificates, a few at a time, and of each again after a day: an Event is kept for an hour.
    async fn alarm(&mut self) {
        let now = Instant::now();
        if self.alarm_at.is_none_or(|at| now < at) {
            return;
        }
        let alarms = self.writer.alarms.borrow_and_update().clone();
        let mut next = (!alarms.is_empty()).then_some(now + DAY);
        let mut left = ALARMS;
        for (route, alarm) in &alarms {
            let Some(state) = self.writer.ledger.line(route).and_then(|line| line.state) else {
                next = Some(now + LONGEST); // it was not seen yet
                continue;
            };
            if left == 0 {
                next = Some(now + SOON);
                break;
            }
            left -= usize::from(self.reporter.alarm(route, &state.uid, alarm, DAY).await);
        }
        self.alarm_at = next;
    }

    /// Tells of an endpoint that this replica has ejected, if it leads. Each replica judges by what it has seen itself, and an Event
    /// of one says enough to make somebody look.
    async fn ejected(&mut self, ejection: &Ejection) {
        if !self.leads() {
            return;
        }
        let Some(state) = self.writer.ledger.line(&ejection.route).and_then(|line| line.state) else {
            return; // the route has gone
        };
        if self.reporter.ejected(&state.uid, ejection).await {
            self.ejection_at = Instant::now() + BETWEEN_EJECTIONS;
        }
    }

    /// Looks at the queue, and writes the first status that is due if one may be written now.
    async fn look(&mut self) {
        let now = Instant::now();
        let ripe: Vec<ObjectName> = self
            .later
            .iter()
            .filter(|(_, when)| **when <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in ripe {
            self.later.remove(&name);
            self.queue.insert(name);
        }
        if self.expiry.is_some_and(|expiry| expiry <= now) {
            // An expired replica is waited for no longer.
            self.expiry = self.replicas.as_ref().and_then(|replicas| replicas.next_expiry(now));
            self.queue.append(&mut self.pending);
        }
        while let Some(name) = self.next() {
            self.queue.remove(&name);
            let Some(line) = self.writer.ledger.line(&name) else {
                continue;
            };
            match self.due(&name, &line) {
                Due::Nothing => {}
                Due::Later(when) => {
                    self.later.insert(name, when);
                }
                Due::Write(_) if Instant::now() < self.not_before => {
                    self.queue.insert(name);
                    return;
                }
                Due::Write(status) => {
                    self.not_before = Instant::now() + PACE;
                    self.last = Some(name.clone());
                    self.put(name, &line, status).await;
                    return;
                }
            }
        }
    }

    /// The first of the queue after the one that was written last.
    fn next(&self) -> Option<ObjectName> {
        let after = |last: &ObjectName| self.queue.range((Bound::Excluded(last), Bound::Unbounded)).next();
        self.last.as_ref().and_then(after).or_else(|| self.queue.first()).cloned()
    }

    fn due(&mut self, name: &ObjectName, line: &Line) -> Due {
        let (Some(state), Some(verdict)) = (&line.state, &line.verdict) else {
            return Due::Nothing;
        };
        if verdict.generation != Some(state.generation) {
            return Due::Nothing; // the table that has it is being built
        }
        let programmed = match verdict.is_accepted() {
            false => Programmed::Never,
            true if state.programmed == Some(state.generation) => Programmed::Yes,
            true => self.reach(name, line.since),
        };
        let status = desired(verdict, state.generation, &programmed);
        let is_pending = matches!(programmed, Programmed::Pending(_));
        if is_pending {
            self.pending.insert(name.clone());
        }
        if digest(&status) == state.digest {
            return Due::Nothing;
        }
        // Most often the replicas are done before anybody could have read that they are not.
        let patience = line.judged.map(|judged| judged + PATIENCE).filter(|_| is_pending);
        let again_at = line.written.and_then(|written| written.again_at(digest(&status)));
        match patience.max(again_at) {
            Some(when) if Instant::now() < when => Due::Later(when),
            _ => Due::Write(status),
        }
    }

    /// Whether every live replica includes what came with `version`.
    fn reach(&self, name: &ObjectName, version: u64) -> Programmed {
        let includes = |versions: &Versions| versions.include(ObjectKind::WebSocketRoute, &name.namespace, version);
        let Some(replicas) = &self.replicas else {
            return Programmed::Pending("the Leases of the replicas have not been read".to_owned());
        };
        let mut total = 1;
        let mut behind = Vec::new();
        if !self.writer.served.borrow().as_ref().is_some_and(includes) {
            behind.push(self.writer.replica.as_str());
        }
        for (replica, versions) in replicas.live(Instant::now()) {
            if *replica != *self.writer.replica {
                total += 1;
                if !includes(versions) {
                    behind.push(replica);
                }
            }
        }
        if behind.is_empty() {
            return Programmed::Yes;
        }
        let more = match behind.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = behind[..behind.len().min(NAMED)].join(", ");
        Programmed::Pending(format!(
            "{}/{total} replicas, waiting for {named}{more}",
            total - behind.len()
        ))
    }

    /// Writes a status. What fails is tried again later.
    async fn put(&mut self, name: ObjectName, line: &Line, status: WebSocketRouteStatus) {
        let again = match self.try_put(&name, line, &status).await {
            Ok(()) => {
                self.failures = 0;
                self.complained = None;
                return;
            }
            Err(Unwritten::Outrun) => return,
            Err(Unwritten::Refused(kube::Error::Api(answer))) if answer.code == 404 => return,
            Err(Unwritten::Refused(kube::Error::Api(answer))) if answer.code == 409 => {
                self.later.insert(name, Instant::now() + SOON); // somebody wrote this route meanwhile; no other has to wait
                return;
            }
            Err(Unwritten::Refused(error)) => self.complain(&name, &innermost(&error)),
            Err(Unwritten::Silent) => self.complain(&name, "the API server says nothing"),
        };
        self.not_before = Instant::now() + again;
        self.later.insert(name, Instant::now() + again);
    }

    /// Says what failed, now and then, and how long to wait.
    fn complain(&mut self, name: &ObjectName, reason: &str) -> Duration {
        if self.complained.is_none_or(|at| at.elapsed() > REMIND) {
            self.complained = Some(Instant::now());
            tracing::warn!("WebSocketRoute {name}: its status cannot be written and will be later: {reason}");
        }
        self.failures += 1;
        SOON.saturating_mul(1 << self.failures.min(5)).min(LONGEST)
    }

    async fn try_put(&mut self, name: &ObjectName, line: &Line, status: &WebSocketRouteStatus) -> Result<(), Unwritten> {
        let (Some(state), Some(verdict)) = (&line.state, &line.verdict) else {
            return Ok(());
        };
        let request = Request::new(path(name)).get(&name.name, &GetParams::default());
        let found: Watched = self.call(request).await?;
        let before = found
            .fields
            .get("status")
            .and_then(|status| WebSocketRouteStatus::deserialize(status).ok());
        let before = before.unwrap_or_default();
        // So observedGeneration is never lowered: the generation is the present one, and the write fails if that changes.
        let is_known = *found.metadata.uid == *state.uid && found.metadata.generation == Some(state.generation);
        if !is_known {
            return Err(Unwritten::Outrun);
        }
        let is = |status: &WebSocketRouteStatus, metadata: &Meta| {
            let version = metadata.resource_version.parse().unwrap_or_default();
            let ledger = &self.writer.ledger;
            ledger.is(name, &state.uid, version, digest(status), programmed(status));
        };
        // Once programmed, always programmed: another leader may have seen what we have not.
        let is_settled = programmed(&before) == Some(state.generation) && programmed(status).is_none() && verdict.is_accepted();
        if is_settled || digest(&before) == digest(status) {
            is(&before, &found.metadata);
            return Ok(());
        }
        let status = timed(status.clone(), &before, &now());
        let body = json!({
            "apiVersion": format!("{}/{}", api::GROUP, api::VERSION),
            "kind": api::KIND,
            "metadata": { "name": &*name.name, "namespace": &*name.namespace, "resourceVersion": found.metadata.resource_version },
            "status": &status,
        });
        if !self.leads() {
            return Err(Unwritten::Outrun);
        }
        let params = PatchParams::apply(MANAGER).force();
        let request = Request::new(path(name)).patch_subresource("status", &name.name, &params, &Patch::Apply(body));
        let answer: Watched = self.call(request).await?;
        is(&status, &answer.metadata);
        let written = self.writer.ledger.written(name, digest(&status));
        if written.is_some_and(|written| written.is_disputed()) {
            tracing::warn!(
                "WebSocketRoute {name}: somebody else changes its status again and again; from now on it is written less \
                 often. If another class of Holdfast serves it too, say in spec.className whose it is"
            );
        }
        self.reporter.report(name, &found.metadata, &before, &status).await;
        Ok(())
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, Unwritten> {
        let request = request.map_err(|error| Unwritten::Refused(kube::Error::BuildRequest(error)))?;
        match timeout(CALL, self.writer.client.request(request)).await {
            Ok(answer) => answer.map_err(Unwritten::Refused),
            Err(_) => Err(Unwritten::Silent),
        }
    }
}

fn path(name: &ObjectName) -> String {
    format!(
        "/apis/{}/{}/namespaces/{}/websocketroutes",
        api::GROUP,
        api::VERSION,
        name.namespace
    )
}

/// As Kubernetes writes times.
fn now() -> String {
    format!("{:.0}", Timestamp::now())
}

/// The owner of our fields in a status.
const MANAGER: &str = "holdfast";
/// Between two writes: 20 in a second.
const PACE: Duration = Duration::from_millis(50);
/// How long after an Event about an ejection the next one may go.
const BETWEEN_EJECTIONS: Duration = Duration::from_secs(1);
/// Events about certificates at once.
const ALARMS: usize = 20;
/// How often it is told that a certificate expires, or cannot be used.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long a route may wait for replicas before that is written.
const PATIENCE: Duration = Duration::from_millis(500);
/// After a conflict.
const SOON: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);
const REMIND: Duration = Duration::from_secs(60);
/// Replicas that are named in a message.
const NAMED: usize = 3;
