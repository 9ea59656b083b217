//! What is counted of the control plane.

pub mod names;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use super::{
    object::{Event, ObjectKind},
    outlook::{Outlook, TableState},
    verdict::Verdict,
};
use crate::routing::Certificate;

/// The control plane's metrics, and what it tells of itself. A clone counts the same.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    routes: IntGaugeVec,
    generation: IntGauge,
    build: Histogram,
    last_event: GaugeVec,
    errors: IntCounterVec,
    leader: IntGauge,
    expiry: IntGaugeVec,
    ticket_keys: IntGauge,
    outlook: Outlook,
}

impl Metrics {
    /// Registers them.
    pub(super) fn new(registry: &Registry, outlook: Outlook) -> prometheus::Result<Self> {
        let metrics = Self {
            routes: IntGaugeVec::new(names::ROUTES.opts(), &names::ROUTES.label_names())?,
            generation: IntGauge::with_opts(names::SNAPSHOT_GENERATION.opts())?,
            build: Histogram::with_opts(
                HistogramOpts::from(names::SNAPSHOT_BUILD_DURATION_SECONDS.opts())
                    .buckets(vec![0.0001, 0.001, 0.005, 0.02, 0.1, 0.5, 2.0]),
            )?,
            last_event: GaugeVec::new(
                names::WATCH_LAST_EVENT_TIMESTAMP_SECONDS.opts(),
                &names::WATCH_LAST_EVENT_TIMESTAMP_SECONDS.label_names(),
            )?,
            errors: IntCounterVec::new(names::WATCH_ERRORS_TOTAL.opts(), &names::WATCH_ERRORS_TOTAL.label_names())?,
            leader: IntGauge::with_opts(names::LEADER.opts())?,
            expiry: IntGaugeVec::new(
                names::CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS.opts(),
                &names::CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS.label_names(),
            )?,
            ticket_keys: IntGauge::with_opts(names::TICKET_KEYS_ROTATED_TIMESTAMP_SECONDS.opts())?,
            outlook,
        };
        registry.register(Box::new(metrics.routes.clone()))?;
        registry.register(Box::new(metrics.generation.clone()))?;
        registry.register(Box::new(metrics.build.clone()))?;
        registry.register(Box::new(metrics.last_event.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.leader.clone()))?;
        registry.register(Box::new(metrics.expiry.clone()))?;
        registry.register(Box::new(metrics.ticket_keys.clone()))?;
        metrics.errors.with_label_values(&[MANIFEST]).reset();
        Ok(metrics)
    }

    pub(super) fn outlook(&self) -> &Outlook {
        &self.outlook
    }

    pub(super) fn published(&self, generation: u64, took: Duration, verdicts: &[Verdict]) {
        let rejected = verdicts.iter().filter(|verdict| !verdict.is_accepted()).count();
        for (state, count) in [
            ("programmed", verdicts.len() - rejected),
            ("pending", 0),
            ("rejected", rejected),
        ] {
            self.routes
                .with_label_values(&[state])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.build.observe(took.as_secs_f64());
    }

    /// The same table, told by its digest.
    pub(super) fn table(&self, table: TableState) {
        self.outlook.with(|known| known.table = Some(table));
    }

    /// Tells when each certificate in use expires.
    pub(super) fn certificates<'a>(&self, used: impl Iterator<Item = &'a Arc<Certificate>>) {
        self.expiry.reset();
        let mut certificates = BTreeMap::new();
        for certificate in used {
            let secret = certificate.secret();
            let labels = [&*secret.namespace, &*secret.name];
            self.expiry.with_label_values(&labels).set(certificate.expires());
            certificates.insert(secret.clone(), certificate.expires());
        }
        self.outlook.with(|known| known.certificates = certificates);
    }

    /// Keys of session tickets were taken over that were rotated then; 0: nobody knows when.
    pub(super) fn ticket_keys(&self, rotated: i64) {
        let now = || jiff::Timestamp::now().as_second();
        let rotated = if rotated == 0 { now() } else { rotated };
        self.ticket_keys.set(rotated);
        self.outlook.with(|known| known.ticket_keys = Some(rotated));
    }

    pub(super) fn event(&self, event: &Event) {
        let kind = match event {
            Event::Apply(object) => object.key().kind,
            Event::Delete(key) => key.kind,
            Event::Resolved { .. } => ObjectKind::Service,
        };
        self.heard(kind);
        self.outlook.heard(kind.word(), None);
    }

    /// Something was said about objects of this kind, were it that nothing has changed.
    pub(super) fn heard(&self, kind: ObjectKind) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_event.with_label_values(&[kind.word()]).set(now.as_secs_f64());
    }

    pub(super) fn watch_failed(&self, kind: ObjectKind) {
        self.errors.with_label_values(&[kind.word()]).inc();
    }

    pub(super) fn leading(&self, leads: bool) {
        self.leader.set(leads.into());
        self.outlook.with(|known| known.leads = leads);
    }

    pub(super) fn trouble(&self, count: usize) {
        self.errors.with_label_values(&[MANIFEST]).inc_by(count as u64);
    }
}

/// The kind of what could not be read.
const MANIFEST: &str = "Manifest";
