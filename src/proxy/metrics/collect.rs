//! What a scrape reads: the counters as Prometheus metric families.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use prometheus::{
    core::{Collector as PrometheusCollector, Desc},
    proto::{Bucket, Counter, Gauge, Histogram as HistogramValue, LabelPair, Metric, MetricFamily},
};

use super::{
    Cause, CloseCode, Dial, DialCounts, Dialled, Histogram, Initiator, Metrics, Padded, Peer, Relaxed, RuleMetrics, limited,
    lock, names,
};
use crate::{
    proxy::{limits::Limit, record::Recorder, tls},
    routing::{Endpoint, EndpointKey, Published, health::Failure},
};

/// Reads the counters for a scrape.
#[derive(Debug)]
pub struct Collector {
    pub metrics: Arc<Metrics>,
    pub published: Published,
    pub recorder: Arc<Recorder>,
    /// Whether series are kept for each endpoint.
    pub per_endpoint: bool,
}

impl PrometheusCollector for Collector {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new() // names are fixed here, and nothing else registers them
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let rules = self.rules();
        let mut families = per_rule(&rules);
        families.extend(limited::families(&rules));
        families.extend(self.process());
        if self.per_endpoint {
            families.extend(self.endpoints());
        }
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

impl Collector {
    /// The rules to tell of. Those that are in no table and have no tunnel any more are forgotten.
    fn rules(&self) -> Vec<Arc<RuleMetrics>> {
        let snapshot = self.published.load();
        let present: HashSet<_> = snapshot.table.rules().map(|rule| &rule.id).collect();
        let mut rules = lock(&self.metrics.rules);
        // One more reference means a tunnel or a request under way.
        rules.retain(|id, metrics| Arc::strong_count(metrics) > 1 || present.contains(id));
        let mut all: Vec<_> = rules.values().cloned().collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        all.push(self.metrics.unrouted());
        all
    }

    fn process(&self) -> Vec<MetricFamily> {
        let shared = self.metrics.shared();
        let limits = &self.metrics.limits;
        let legs = [Peer::Client, Peer::Endpoint];
        let missed = legs.map(|leg| counter(&[("leg", leg.word())], shared.heartbeats_missed[leg as usize].load(Relaxed)));
        let rtt = legs.map(|leg| histogram(&[("leg", leg.word())], &shared.heartbeat_rtt[leg as usize]));
        let codes = lock(&shared.close_codes);
        let codes = codes
            .iter()
            .map(|((initiator, code), count)| counter(&[("initiator", initiator.word()), ("code", &code.label())], *count));
        let tls_handshakes = tls::Handshake::ALL.iter().map(|outcome| {
            let count = shared.tls_handshakes[*outcome as usize].load(Relaxed);
            counter(&[("result", outcome.word())], count)
        });
        let ejections = Failure::ALL.iter().filter_map(|reason| {
            let count = shared.ejections[*reason as usize].load(Relaxed);
            (count > 0).then(|| counter(&[("reason", reason.word())], count))
        });
        let per_worker = |values: Vec<f64>, make: fn(&[(&str, &str)], f64) -> Metric| -> Vec<Metric> {
            values
                .into_iter()
                .enumerate()
                .map(|(index, value)| make(&[("worker", &index.to_string())], value))
                .collect()
        };
        let connections = self
            .metrics
            .worker_connections
            .iter()
            .map(|Padded(count)| count.load(Relaxed) as f64)
            .collect();
        let busy = self
            .metrics
            .runtimes()
            .iter()
            .map(|runtime| runtime.worker_total_busy_duration(0).as_secs_f64())
            .collect();
        let stalled: u64 = self
            .metrics
            .worker_stalled
            .iter()
            .map(|Padded(count)| count.load(Relaxed))
            .sum();
        let delayed: u64 = self
            .metrics
            .worker_delayed
            .iter()
            .map(|Padded(count)| count.load(Relaxed))
            .sum();
        let remaining: u64 = self
            .metrics
            .worker_draining
            .iter()
            .map(|Padded(count)| count.load(Relaxed))
            .sum();
        vec![
            family(&names::CLOSE_CODES_TOTAL, codes.collect()),
            family(&names::HEARTBEATS_MISSED_TOTAL, missed.into()),
            family(&names::HEARTBEAT_RTT_SECONDS, rtt.into()),
            family(&names::STALLED_CONNECTIONS, vec![gauge(&[], stalled as f64)]),
            family(&names::DELAYED_CONNECTIONS, vec![gauge(&[], delayed as f64)]),
            family(&names::DRAIN_REMAINING, vec![gauge(&[], remaining as f64)]),
            family(&names::WORKER_CONNECTIONS_ACTIVE, per_worker(connections, gauge)),
            family(&names::WORKER_BUSY_SECONDS_TOTAL, per_worker(busy, counter_of)),
            family(&names::RECORDS_DROPPED_TOTAL, vec![counter(&[], self.recorder.dropped())]),
            family(
                &names::UNTRUSTED_FORWARDERS_TOTAL,
                vec![counter(&[], shared.untrusted_forwarders.load(Relaxed))],
            ),
            family(&names::TLS_HANDSHAKES_TOTAL, tls_handshakes.collect()),
            family(&names::ENDPOINT_EJECTIONS_TOTAL, ejections.collect()),
            family(
                &names::LIMITED_CLIENTS,
                vec![
                    gauge(&[("limit", Limit::ConnectionsPerClient.word())], limits.clients() as f64),
                    gauge(&[("limit", Limit::HandshakeRate.word())], limits.rates.clients() as f64),
                ],
            ),
            family(
                &names::LIMITED_CLIENTS_EVICTED_TOTAL,
                vec![counter(&[], limits.rates.evicted())],
            ),
            family(
                &names::ACCEPT_ERRORS_TOTAL,
                vec![counter(&[], shared.accept_errors.load(Relaxed))],
            ),
        ]
    }

    /// By pod: one that stands behind several ports of a Service is one series.
    fn endpoints(&self) -> Vec<MetricFamily> {
        let mut dials = lock(&self.metrics.dials);
        dials.retain(|_, dialled| dialled.endpoint.strong_count() > 0);
        let mut pods: BTreeMap<PodLabels, (u32, DialCounts)> = BTreeMap::new();
        let present = self.present(&dials);
        for endpoint in &present {
            let key = endpoint.key();
            let (open, counts) = pods.entry(pod_of(endpoint)).or_default();
            *open += endpoint.open();
            if let Some(dialled) = dials.get(key) {
                counts
                    .0
                    .iter_mut()
                    .zip(dialled.counts.0)
                    .for_each(|(sum, count)| *sum += count);
            }
        }
        let ejected = ejected(&present);
        let (mut active, mut results) = (Vec::with_capacity(pods.len()), Vec::new());
        for ((namespace, service, pod), (open, counts)) in &pods {
            let base = pod_labels(namespace, service, pod);
            active.push(with_gauge(base.clone(), f64::from(*open)));
            for dial in Dial::ALL.into_iter().filter(|dial| counts.0[*dial as usize] > 0) {
                let mut labels = base.clone();
                labels.extend(self::labels(&[("result", dial.word())]));
                results.push(with_counter(labels, counts.0[dial as usize] as f64));
            }
        }
        vec![
            family(&names::ENDPOINT_CONNECTIONS_ACTIVE, active),
            family(&names::ENDPOINT_DIALS_TOTAL, results),
            family(&names::ENDPOINT_EJECTED, ejected),
        ]
    }

    /// The endpoints of the table, and those that have left it and still have tunnels.
    fn present(&self, dials: &HashMap<EndpointKey, Dialled>) -> Vec<Arc<Endpoint>> {
        let snapshot = self.published.load();
        let mut present: HashMap<EndpointKey, Arc<Endpoint>> = HashMap::new();
        for rule in snapshot.table.rules() {
            for cell in rule.backends.iter().filter_map(|backend| backend.endpoints.as_ref()) {
                for (endpoint, _) in cell.load().members() {
                    present.entry(endpoint.key().clone()).or_insert_with(|| Arc::clone(endpoint));
                }
            }
        }
        let departed = dials.values().filter_map(|dialled| dialled.endpoint.upgrade());
        for endpoint in departed.filter(|endpoint| endpoint.open() > 0) {
            present.entry(endpoint.key().clone()).or_insert(endpoint);
        }
        present.into_values().collect()
    }
}

/// Namespace, Service, pod.
type PodLabels = (Arc<str>, Arc<str>, String);

fn pod_of(endpoint: &Endpoint) -> PodLabels {
    let service = &endpoint.key().service;
    (
        Arc::clone(&service.namespace),
        Arc::clone(&service.name),
        endpoint.name().to_owned(),
    )
}

fn pod_labels(namespace: &str, service: &str, pod: &str) -> Vec<LabelPair> {
    labels(&[
        ("endpoint_namespace", namespace),
        ("endpoint_service", service),
        ("endpoint_pod", pod),
    ])
}

/// The endpoints that passive health has ever left out, and whether it does now.
fn ejected(endpoints: &[Arc<Endpoint>]) -> Vec<Metric> {
    let mut pods: BTreeMap<(PodLabels, &'static str), bool> = BTreeMap::new();
    for endpoint in endpoints {
        if let Some(reason) = endpoint.ejected_for() {
            *pods.entry((pod_of(endpoint), reason.word())).or_default() |= endpoint.is_ejected();
        }
    }
    let gauge = |(((namespace, service, pod), reason), is_ejected): (&(PodLabels, &'static str), &bool)| {
        let mut labels = pod_labels(namespace, service, pod);
        labels.extend(self::labels(&[("reason", reason)]));
        with_gauge(labels, f64::from(u8::from(*is_ejected)))
    };
    pods.iter().map(gauge).collect()
}

fn per_rule(rules: &[Arc<RuleMetrics>]) -> Vec<MetricFamily> {
    let (mut active, mut handshakes, mut handshake, mut ends, mut connection) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut bytes, mut messages, mut fallback, mut limited, mut retries, mut cross_origin) =
        (vec![], vec![], vec![], vec![], vec![], vec![]);
    for rule in rules {
        let base = rule.labels();
        let with = |extra: &[(&str, &str)]| {
            let mut all = base.clone();
            all.extend(labels(extra));
            all
        };
        for ((code, reason), count) in lock(&rule.handshakes).iter() {
            handshakes.push(with_counter(
                with(&[("code", &code.to_string()), ("reason", reason)]),
                *count as f64,
            ));
        }
        for (code, count) in lock(&rule.fallback).iter() {
            fallback.push(with_counter(with(&[("code", &code.to_string())]), *count as f64));
        }
        for limit in Limit::ALL {
            for (mode, count) in ["enforced", "dry_run"].iter().zip(&rule.limited[limit as usize]) {
                let count = count.load(Relaxed);
                if count > 0 {
                    limited.push(with_counter(with(&[("limit", limit.word()), ("mode", mode)]), count as f64));
                }
            }
        }
        for (count, verdict) in rule.cross_origin.iter().zip(["refused", "passed"]) {
            let count = count.load(Relaxed);
            if count > 0 {
                cross_origin.push(with_counter(with(&[("verdict", verdict)]), count as f64));
            }
        }
        if rule.id.is_none() {
            continue; // without a rule there is no tunnel
        }
        for (reason, count) in lock(&rule.retries).iter() {
            retries.push(with_counter(with(&[("reason", reason)]), *count as f64));
        }
        active.push(with_gauge(base.clone(), rule.active.load(Relaxed) as f64));
        handshake.push(with_histogram(base.clone(), &rule.handshake_duration));
        connection.push(with_histogram(base.clone(), &rule.connection_duration));
        for initiator in Initiator::ALL {
            for cause in Cause::ALL {
                let count = rule.ends[initiator as usize][cause as usize].load(Relaxed);
                if count > 0 {
                    ends.push(with_counter(
                        with(&[("initiator", initiator.word()), ("cause", cause.word())]),
                        count as f64,
                    ));
                }
            }
        }
        for (from, direction) in [(Peer::Client, "to_endpoint"), (Peer::Endpoint, "to_client")] {
            let sum = |counter: fn(&super::Relayed, usize) -> u64| {
                rule.relayed
                    .iter()
                    .map(|Padded(relayed)| counter(relayed, from as usize))
                    .sum::<u64>()
            };
            bytes.push(with_counter(
                with(&[("direction", direction)]),
                sum(|relayed, from| relayed.bytes[from].load(Relaxed)) as f64,
            ));
            messages.push(with_counter(
                with(&[("direction", direction)]),
                sum(|relayed, from| relayed.messages[from].load(Relaxed)) as f64,
            ));
        }
    }
    vec![
        family(&names::CONNECTIONS_ACTIVE, active),
        family(&names::HANDSHAKES_TOTAL, handshakes),
        family(&names::HANDSHAKE_DURATION_SECONDS, handshake),
        family(&names::HANDSHAKE_RETRIES_TOTAL, retries),
        family(&names::ENDS_TOTAL, ends),
        family(&names::CONNECTION_DURATION_SECONDS, connection),
        family(&names::RELAYED_BYTES_TOTAL, bytes),
        family(&names::RELAYED_MESSAGES_TOTAL, messages),
        family(&names::FALLBACK_REQUESTS_TOTAL, fallback),
        family(&names::LIMITED_TOTAL, limited),
        family(&names::CROSS_ORIGIN_HANDSHAKES_TOTAL, cross_origin),
    ]
}

impl RuleMetrics {
    pub(super) fn labels(&self) -> Vec<LabelPair> {
        let (namespace, route, rule) = self
            .id
            .as_ref()
            .map_or(("", "", ""), |id| (&*id.route.namespace, &*id.route.name, &*id.rule));
        labels(&[("route_namespace", namespace), ("route", route), ("rule", rule)])
    }
}

impl CloseCode {
    fn label(self) -> String {
        match self {
            Self::None => "none".to_owned(),
            Self::Standard(code) => code.to_string(),
            Self::Registered => "3xxx".to_owned(),
            Self::Private => "4xxx".to_owned(),
            Self::Invalid => "invalid".to_owned(),
        }
    }
}

pub(super) fn family(name: &names::Name, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.name.to_owned());
    family.set_help(name.help.to_owned());
    family.set_field_type(name.kind);
    family.set_metric(metrics);
    family
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    pairs
        .iter()
        .map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        })
        .collect()
}

fn counter(pairs: &[(&str, &str)], value: u64) -> Metric {
    with_counter(labels(pairs), value as f64)
}

fn counter_of(pairs: &[(&str, &str)], value: f64) -> Metric {
    with_counter(labels(pairs), value)
}

fn gauge(pairs: &[(&str, &str)], value: f64) -> Metric {
    with_gauge(labels(pairs), value)
}

fn histogram(pairs: &[(&str, &str)], value: &Histogram) -> Metric {
    with_histogram(labels(pairs), value)
}

pub(super) fn with_counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn with_gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn with_histogram(labels: Vec<LabelPair>, histogram: &Histogram) -> Metric {
    let mut sum = 0;
    let buckets = histogram
        .bounds
        .iter()
        .zip(&histogram.counts)
        .map(|(bound, count)| {
            sum += count.load(Relaxed);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(sum);
            bucket
        })
        .collect();
    let over = histogram.counts.last().map_or(0, |count| count.load(Relaxed));
    let mut value = HistogramValue::default();
    value.set_bucket(buckets);
    value.set_sample_count(sum + over);
    value.set_sample_sum(histogram.micros.load(Relaxed) as f64 / 1e6);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(value);
    metric
}

#[cfg(test)]
mod tests {
    use arc_swap::ArcSwap;

    use super::*;
    use crate::{
        routing::{
            Backend, EndpointCell, EndpointSet, ServicePort, Snapshot, Table,
            endpoint::State,
            fixture::{prefix, rule, service},
            route::Balancing,
            table::{RouteSpec, RuleSpec},
        },
        telemetry::LogFormat,
    };

    /// A backend on this port of Service chat, which is pod chat-0 alone.
    fn port(number: u16) -> (Backend, Arc<Endpoint>) {
        let service = ServicePort {
            port: number,
            ..service("chat")
        };
        let key = EndpointKey {
            service: service.clone(),
            identity: "uid".into(),
            port: 8000 + number,
        };
        let address = ([10, 0, 0, 1], key.port).into();
        let endpoint = Arc::new(Endpoint::new(key, Some("chat-0".into()), vec![address]));
        let cell = EndpointCell::default();
        cell.store(EndpointSet::new(vec![(Arc::clone(&endpoint), State::Ready)]));
        let backend = Backend {
            service,
            weight: 1,
            endpoints: Some(Arc::new(cell)),
            tls: crate::routing::BackendTls::Off,
        };
        (backend, endpoint)
    }

    #[test]
    fn a_pod_behind_two_ports_of_a_service_is_one_series() {
        let ((first, one), (second, other)) = (port(80), port(81));
        let rule = rule(Balancing::Random, None, vec![first, second]);
        let route = RouteSpec {
            name: rule.id.route.clone(),
            created: 0,
            hostnames: Vec::new(),
            rules: vec![RuleSpec {
                matches: vec![prefix("/")],
                rule: Arc::new(rule),
            }],
        };
        let metrics = Arc::new(Metrics::new(1));
        for endpoint in [&one, &other] {
            metrics.dialled(endpoint, Dial::Connected);
        }
        let snapshot = Snapshot {
            table: Table::build(vec![route]).0,
            ..Snapshot::default()
        };
        let collector = Collector {
            metrics,
            published: Arc::new(ArcSwap::from_pointee(snapshot)),
            recorder: Arc::new(Recorder::new(None, LogFormat::Text, None)),
            per_endpoint: true,
        };
        let held = (one.hold(), other.hold());
        let values = |collector: &Collector| -> Vec<(usize, f64)> {
            let value = |metric: &Metric| metric.get_gauge().get_value() + metric.get_counter().get_value();
            let families = collector.endpoints();
            families
                .iter()
                .map(|family| {
                    let metrics = family.get_metric();
                    (metrics.len(), metrics.iter().map(value).sum())
                })
                .collect()
        };
        assert_eq!(values(&collector), [(1, 2.0), (1, 2.0), (0, 0.0)]);

        // It leaves the table with its tunnels, and is forgotten with the last of them.
        collector.published.store(Arc::default());
        assert_eq!(values(&collector), [(1, 2.0), (1, 2.0), (0, 0.0)]);
        drop(held);
        assert_eq!(values(&collector), [(0, 0.0), (0, 0.0), (0, 0.0)]);
        drop((one, other));
        assert!(values(&collector).iter().all(|(count, _)| *count == 0) && lock(&collector.metrics.dials).is_empty());
    }
}
