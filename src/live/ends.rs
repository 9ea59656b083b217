//! `/ends`: what ended lately, by what each side saw of it. Refusals of handshakes are ends before the 101.

use std::time::SystemTime;

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    Live,
    query::{Query, Wrong},
};
use crate::{
    proxy::{
        end::Initiator,
        recent::{Address, Entry, Refusal, What},
        view::{Answer as Told, Ends, Summary, Tally, Wanted},
    },
    routing::{RuleId, ServicePort},
    web::{self, Answer},
};

/// What may be asked.
const KNOWN: [&str; 11] = [
    "since", "after", "route", "rule", "endpoint", "client", "cause", "by", "code", "id", "limit",
];

impl Live {
    pub(super) async fn ends(&self, query: Option<&str>) -> Answer {
        match self.ends_document(query).await {
            Ok(document) => web::json(StatusCode::OK, &document),
            Err(wrong) => wrong.answer(),
        }
    }

    async fn ends_document(&self, query: Option<&str>) -> Result<Value, Wrong> {
        let query = Query::parse(query, &KNOWN)?;
        let mut filter = query.filter(now())?;
        filter.by = query.word("by", Initiator::ALL, Initiator::word)?;
        let after = query.parsed("after", "the number of an end, or REPLICA:NUMBER,...", |value| {
            self.cursor(value)
        })?;
        let wanted = Wanted {
            after: after.flatten(),
            limit: query.limit()?,
        };
        if wanted.after.is_some() {
            filter.since = 0; // it has been told up to there
        }
        let since = filter.since;
        let Told { of: ends, silent } = self.view.ends(filter, wanted).await;
        Ok(self.ends_answer(&ends, since, silent))
    }

    /// Up to where this replica has told its ends. Of several replicas' numbers its own counts; one that is not named has told
    /// nothing yet.
    fn cursor(&self, text: &str) -> Option<Option<u64>> {
        if let Ok(number) = text.parse() {
            return Some(Some(number));
        }
        let pairs = text
            .split(',')
            .map(|pair| pair.rsplit_once(':')?.1.parse().ok().map(|number| (pair, number)));
        let pairs: Vec<(&str, u64)> = pairs.collect::<Option<_>>()?;
        let is_own = |pair: &str| pair.rsplit_once(':').is_some_and(|(name, _)| name == self.replica);
        Some(pairs.into_iter().find(|(pair, _)| is_own(pair)).map(|(_, number)| number))
    }

    fn ends_answer(&self, ends: &Ends, since: u64, silent: Vec<usize>) -> Value {
        let matched: u64 = ends.summary.values().map(|tally| tally.count).sum();
        let [tunnels, refusals] = ends.forgotten;
        // What was forgotten matters to who asked for that time.
        let complete = |forgotten: u64| (forgotten >= since && forgotten > 0).then(|| timestamp(forgotten));
        json!({
            "version": 1,
            "replica": self.replica,
            "time": timestamp(now()),
            "last": ends.last,
            "more": ends.has_more,
            "remembers": self.view.remembers(),
            "ends_complete_since": complete(tunnels),
            "refusals_complete_since": complete(refusals),
            "connections": self.metrics.connections(),
            "silent_workers": silent,
            "matched": matched,
            "summary": summary(&ends.summary),
            "ends": ends.entries.iter().map(entry).collect::<Vec<_>>(),
        })
    }
}

/// The most frequent cause first.
fn summary(summary: &Summary) -> Vec<Value> {
    let mut rows: Vec<_> = summary.iter().collect();
    rows.sort_by(|(a, x), (b, y)| y.count.cmp(&x.count).then(a.cmp(b)));
    let row = |((word, initiator), tally): (&(&'static str, Initiator), &Tally)| {
        let mut endpoints: Vec<_> = tally.endpoints.iter().collect();
        endpoints.sort_by(|(a, x), (b, y)| y.cmp(x).then(a.cmp(b)));
        let endpoints: Map<String, Value> = endpoints
            .into_iter()
            .take(ENDPOINTS)
            .map(|(name, count)| (name.to_string(), (*count).into()))
            .collect();
        json!({
            "event.name": if tally.is_refusal { REFUSED } else { ENDED },
            "word": word,
            "holdfast.end.initiator": initiator.word(),
            "count": tally.count,
            "first": timestamp(tally.first),
            "latest": timestamp(tally.latest),
            "endpoints": endpoints,
        })
    };
    rows.into_iter().map(row).collect()
}

/// One end, by the names that its access line has.
pub(super) fn entry(entry: &Entry) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("sequence", entry.sequence.into());
    put("timestamp", timestamp(entry.at).into());
    let is_refusal = matches!(entry.what, What::Refusal(_));
    put("event.name", if is_refusal { REFUSED } else { ENDED }.into());
    put("holdfast.connection.id", id(entry.id).into());
    if let Some(rule) = &entry.rule {
        put_rule(&mut put, rule);
    }
    put("client.address", entry.client.ip().to_string().into());
    put("client.port", entry.client.port().into());
    put_target(&mut put, entry.target());
    if let Some((service, address)) = &entry.endpoint {
        put_endpoint(&mut put, service, entry.endpoint_name(), *address);
    }
    if let Some(version) = entry.tls_version {
        put("tls.protocol.version", version.word().into());
    }
    if !entry.request_id().is_empty() {
        put("http.request.id", entry.request_id().into());
    }
    if let Some(limit) = entry.would_be_refused_by {
        put("holdfast.limit.dry_run", limit.word().into());
    }
    if entry.attempts > 1 {
        put("holdfast.handshake.attempts", entry.attempts.into());
    }
    put("holdfast.end.initiator", entry.initiator().word().into());
    match entry.what {
        What::Refusal(refusal) => put_refusal(&mut put, refusal, entry.lasted),
        What::Tunnel(tunnel) => put_tunnel(&mut put, &tunnel, entry.lasted),
    }
    Value::Object(fields)
}

fn put_refusal(put: &mut impl FnMut(&str, Value), refusal: Refusal, lasted: u64) {
    put("http.response.status_code", refusal.status().into());
    put("error.type", refusal.word().into());
    put("holdfast.handshake.duration_seconds", (lasted as f64 / 1000.0).into());
}

fn put_tunnel(put: &mut impl FnMut(&str, Value), tunnel: &crate::proxy::recent::Tunnel, lasted: u64) {
    let end = tunnel.end;
    put("holdfast.end.cause", end.cause.word().into());
    if end.cause.is_failure() {
        put("error.type", end.cause.word().into());
    }
    for (name, code) in [
        ("holdfast.close.client.code", end.told_client),
        ("holdfast.close.client.received", end.client_said),
        ("holdfast.close.endpoint.code", end.told_endpoint),
        ("holdfast.close.endpoint.received", end.endpoint_said),
    ] {
        put(name, code.into());
    }
    if end.mid_frame {
        put("holdfast.end.mid_frame", true.into());
    }
    put("holdfast.duration_seconds", (lasted as f64 / 1000.0).into());
    put("idle_seconds", (f64::from(tunnel.idle) / 1000.0).into());
    put_handshake(put, tunnel.handshake, tunnel.dialling);
    put_moved(put, tunnel.bytes, tunnel.messages);
    if let Some(rtt) = tunnel.round_trip {
        put("holdfast.heartbeat.rtt_seconds", (f64::from(rtt) / 1000.0).into());
    }
}

pub(super) fn put_rule(put: &mut impl FnMut(&str, Value), rule: &RuleId) {
    put("holdfast.route.namespace", (*rule.route.namespace).into());
    put("holdfast.route.name", (*rule.route.name).into());
    put("holdfast.rule.name", (*rule.rule).into());
}

/// Host and path; neither where they are not known.
pub(super) fn put_target(put: &mut impl FnMut(&str, Value), target: &str) {
    if let Some((host, path)) = target.split_once('/') {
        put("server.address", host.into());
        put("url.path", format!("/{path}").into());
    } else if !target.is_empty() {
        put("server.address", target.into());
    }
}

pub(super) fn put_endpoint(put: &mut impl FnMut(&str, Value), service: &ServicePort, name: &str, address: Address) {
    put("holdfast.endpoint.service", service.to_string().into());
    put("holdfast.endpoint.pod", name.into());
    put("destination.address", address.ip().to_string().into());
    put("destination.port", address.port().into());
}

/// `handshake` and the dials in it, in microseconds.
pub(super) fn put_handshake(put: &mut impl FnMut(&str, Value), handshake: u32, dialling: u32) {
    let seconds = |micros: u32| Value::from(f64::from(micros) / 1e6);
    put("holdfast.handshake.duration_seconds", seconds(handshake));
    put("holdfast.handshake.dial_seconds", seconds(dialling));
}

pub(super) fn put_moved(put: &mut impl FnMut(&str, Value), bytes: [u64; 2], messages: [u64; 2]) {
    put("holdfast.bytes.to_endpoint", bytes[0].into());
    put("holdfast.bytes.to_client", bytes[1].into());
    put("holdfast.messages.to_endpoint", messages[0].into());
    put("holdfast.messages.to_client", messages[1].into());
}

pub(super) fn id(id: u64) -> String {
    format!("{id:016x}")
}

/// Milliseconds since 1970 as RFC 3339.
pub(super) fn timestamp(millis: u64) -> String {
    let time = i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok());
    format!("{:.3}", time.unwrap_or_default())
}

/// In milliseconds since 1970.
pub(super) fn now() -> u64 {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or_default()
}

const ENDED: &str = "holdfast.connection.ended";
const REFUSED: &str = "holdfast.connection.refused";

/// Endpoints that are named with a cause: those that it hit most.
const ENDPOINTS: usize = 5;
