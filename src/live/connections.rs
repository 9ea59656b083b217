//! `/connections`: open tunnels, in groups or one by one, and `/connections/ID`: one connection's life.

use std::{collections::HashMap, time::Duration};

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Live,
    ends::{entry, id as id_text, now, put_endpoint, put_handshake, put_moved, put_rule, put_target, timestamp},
    query::{Query, Wrong, id},
};
use crate::{
    proxy::view::{AGES, Answer as Told, By, Filter, Group, Groups, Key, Known, Leg, Life, Open, Order, Standing},
    web::{self, Answer},
};

/// What may be asked.
const KNOWN: [&str; 10] = [
    "by", "list", "interval", "limit", "route", "rule", "endpoint", "client", "id", "sort",
];

impl Live {
    pub(super) async fn connections(&self, query: Option<&str>) -> Answer {
        match self.connections_document(query).await {
            Ok(document) => web::json(StatusCode::OK, &document),
            Err(wrong) => wrong.answer(),
        }
    }

    /// The life of one connection, open or ended.
    pub(super) async fn connection(&self, text: &str) -> Answer {
        let Some(id) = id(text) else {
            return web::text(
                StatusCode::BAD_REQUEST,
                "an id is 16 hexadecimal digits, as access lines have it\n",
            );
        };
        let Told { of: life, silent } = self.view.one(id).await;
        // Not 404: whoever asks several replicas has an answer from each.
        let (state, fields) = match &life {
            Some(Life::Open(tunnel)) => ("open", open(tunnel, true)),
            Some(Life::Over(end)) => ("over", entry(end)),
            None => ("unknown", Value::Null),
        };
        let document = json!({
            "version": 1,
            "replica": self.replica,
            "time": timestamp(now()),
            "state": state,
            "silent_workers": silent,
            "connection": fields,
        });
        web::json(StatusCode::OK, &document)
    }

    async fn connections_document(&self, query: Option<&str>) -> Result<Value, Wrong> {
        let query = Query::parse(query, &KNOWN)?;
        let filter = query.filter(now())?;
        let by = query.word("by", By::ALL, By::word)?;
        let order = query.word("sort", Order::ALL, Order::word)?;
        let is_list = query.parsed("list", "true or false", |value| value.parse::<bool>().ok())?;
        let limit = query.limit()?;
        let interval = query.parsed("interval", "seconds from 0 to 10", |value| {
            let seconds = value.parse().ok().filter(|seconds| (0.0..=10.0).contains(seconds))?;
            Some(Duration::from_secs_f64(seconds))
        })?;
        let mut document = Map::new();
        let mut put = |name: &str, value: Value| drop(document.insert(name.to_owned(), value));
        put("version", 1.into());
        put("replica", self.replica.as_str().into());
        put("time", timestamp(now()).into());
        put("connections", self.metrics.connections().into());
        put("drain", self.drain_state());
        if is_list == Some(true) {
            let told = self.view.list(filter, order.unwrap_or(Order::Age), limit).await;
            put("silent_workers", told.silent.into());
            put("list", told.of.iter().map(|tunnel| open(tunnel, false)).collect());
            return Ok(Value::Object(document));
        }
        let by = by.unwrap_or(By::Endpoint);
        let known = self.known(&filter, by);
        let interval = interval.unwrap_or_default();
        let Told { of: groups, silent } = self.view.groups(filter, by, interval).await;
        put("silent_workers", silent.into());
        put("by", by.word().into());
        put("interval_seconds", interval.as_secs_f64().into());
        put("ends_5m_complete", groups.knows_ends.into());
        let open: u64 = groups.groups.values().map(|group| group.open).sum::<u64>() + groups.others;
        put("open", open.into());
        let (rows, more) = rows(groups, known, open, limit, !interval.is_zero());
        put("others", more);
        put("groups", rows.into());
        Ok(Value::Object(document))
    }

    /// Endpoints that no tunnel may show. A filter by client or id is not about them.
    fn known(&self, filter: &Filter, by: By) -> HashMap<Key, Known> {
        match by {
            By::Endpoint => self.view.endpoints(filter),
            _ => HashMap::new(),
        }
    }
}

/// The largest groups first, and how many tunnels are in those that are left out.
fn rows(groups: Groups, known: HashMap<Key, Known>, open: u64, limit: usize, has_rates: bool) -> (Vec<Value>, Value) {
    let mut all: Vec<(Key, Group)> = groups.groups.into_iter().collect();
    for key in known.keys() {
        if !all.iter().any(|(other, _)| other == key) {
            all.push((key.clone(), Group::default()));
        }
    }
    if all.iter().all(|(key, _)| matches!(key, Key::Age(_) | Key::Worker(_))) {
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
    } else {
        all.sort_by(|(a, x), (b, y)| y.open.cmp(&x.open).then(a.cmp(b)));
    }
    let left_out = all.split_off(all.len().min(limit));
    let others = groups.others + left_out.iter().map(|(_, group)| group.open).sum::<u64>();
    let row = |(key, group): (Key, Group)| row(&key, group, known.get(&key), open, has_rates);
    let rows = all.into_iter().map(row).collect();
    (rows, json!({"groups": left_out.len(), "open": others}))
}

fn row(key: &Key, mut group: Group, known: Option<&Known>, open: u64, has_rates: bool) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put_key(&mut put, key, known);
    put("open", group.open.into());
    put("share", (open > 0).then(|| group.open as f64 / open as f64).into());
    group.ages.sort_unstable();
    group.round_trips.sort_unstable();
    let of =
        |sorted: &[u32], percent: usize, unit: f64| Value::from(quantile(sorted, percent).map(|value| f64::from(value) / unit));
    put("age_p50_seconds", of(&group.ages, 50, TENTHS));
    put("age_max_seconds", of(&group.ages, 100, TENTHS));
    put("rtt_p50_seconds", of(&group.round_trips, 50, MILLIS));
    put("rtt_p99_seconds", of(&group.round_trips, 99, MILLIS));
    put_moved(&mut put, group.bytes, group.messages);
    if has_rates {
        put("messages_per_second.to_endpoint", round(group.rates[0]).into());
        put("messages_per_second.to_client", round(group.rates[1]).into());
    }
    put("stalled", group.stalled.into());
    put("delayed", group.delayed.into());
    put("ending", group.ending.into());
    if !matches!(key, Key::Age(_)) {
        put("ends_5m", group.ended.into());
    }
    // By these the answers of several replicas become one.
    put("ages", histogram(&group.ages, TENTHS));
    put("rtts", histogram(&group.round_trips, MILLIS));
    Value::Object(fields)
}

fn put_key(put: &mut impl FnMut(&str, Value), key: &Key, known: Option<&Known>) {
    match key {
        Key::Endpoint(service, name, port) => {
            put("holdfast.endpoint.service", service.to_string().into());
            put("holdfast.endpoint.pod", (**name).into());
            if let Some(address) = known.and_then(|known| known.address) {
                put("destination.address", address.ip().to_canonical().to_string().into());
            }
            put("destination.port", (*port).into());
            let state = known.map_or(Standing::Removed, |known| known.state);
            put("state", state.word().into());
            if let Standing::Ejected(Some(reason)) = state {
                put("ejected_for", reason.word().into());
            }
            if let Some(limit) = known.and_then(|known| known.limit) {
                put("limit", limit.into());
            }
        }
        Key::Route(route) => {
            put("holdfast.route.namespace", (*route.namespace).into());
            put("holdfast.route.name", (*route.name).into());
        }
        Key::Rule(rule) => put_rule(put, rule),
        Key::Client(ip) => put("client.address", ip.to_string().into()),
        Key::Worker(worker) => put("worker", (*worker).into()),
        Key::Age(index) => {
            let from = index.checked_sub(1).and_then(|before| AGES.get(before)).copied();
            put("age_from_seconds", from.unwrap_or(0).into());
            put("age_to_seconds", AGES.get(*index).copied().into());
        }
    }
}

/// An open tunnel; `whole`: with what its policies and heartbeats say.
fn open(open: &Open, whole: bool) -> Value {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
    put("holdfast.connection.id", id_text(open.id).into());
    put_rule(&mut put, &open.rule);
    put("client.address", open.client.ip().to_canonical().to_string().into());
    put("client.port", open.client.port().into());
    put_target(&mut put, &open.target);
    put_endpoint(&mut put, &open.service, &open.endpoint_name, open.endpoint.into());
    put("worker", open.worker.into());
    if let Some(version) = open.tls_version {
        put("tls.protocol.version", version.word().into());
    }
    if let Some(limit) = open.would_be_refused_by {
        put("holdfast.limit.dry_run", limit.word().into());
    }
    if open.attempts > 1 {
        put("holdfast.handshake.attempts", open.attempts.into());
    }
    let [client, endpoint] = &open.legs;
    put("holdfast.duration_seconds", round(open.age).into());
    put("idle_seconds", round(open.idle).into());
    put_handshake(&mut put, client.took, endpoint.took);
    put_moved(&mut put, [client.bytes, endpoint.bytes], [client.messages, endpoint.messages]);
    if let Some(rtt) = client.heartbeat.round_trip {
        put("holdfast.heartbeat.rtt_seconds", (f64::from(rtt) / MILLIS).into());
    }
    put("ending", open.is_ending.into());
    put("client", leg(client, whole));
    put("endpoint", leg(endpoint, whole));
    if whole {
        put(
            "timeouts",
            json!({
                "idle_seconds": open.idle_timeout,
                "max_duration_seconds": open.max_duration,
                "send_seconds": open.send_timeout,
            }),
        );
    }
    Value::Object(fields)
}

fn leg(leg: &Leg, whole: bool) -> Value {
    let mut fields = json!({
        "stalled_seconds": leg.stalled.map(round),
        "delayed": leg.is_delayed,
    });
    if whole {
        let heartbeat = &leg.heartbeat;
        fields["silent_seconds"] = round(leg.silent).into();
        fields["heartbeat"] = json!({
            "interval_seconds": heartbeat.interval,
            "missed_allowed": heartbeat.missed_allowed,
            "missed": heartbeat.missed,
            "outstanding": heartbeat.outstanding,
            "has_answered": heartbeat.answers,
            "rtt_seconds": heartbeat.round_trip.map(|rtt| f64::from(rtt) / MILLIS),
        });
    }
    fields
}

/// The value that so many percent of sorted ones do not exceed.
fn quantile(sorted: &[u32], percent: usize) -> Option<u32> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

/// Counts by upper bound, eight for each doubling: whoever adds up several loses at most a tenth of a value.
fn histogram(sorted: &[u32], unit: f64) -> Value {
    let mut counts: Vec<(f64, u64)> = Vec::new();
    for value in sorted {
        let bound = match value {
            0 => 0.0,
            value => ((f64::from(*value).log2() * PER_DOUBLING).ceil() / PER_DOUBLING).exp2() / unit,
        };
        match counts.last_mut() {
            Some((last, count)) if *last == bound => *count += 1,
            _ => counts.push((bound, 1)),
        }
    }
    counts
        .into_iter()
        .map(|(bound, count)| json!([round(bound), count]))
        .collect()
}

/// To milliseconds.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

const TENTHS: f64 = 10.0;
const MILLIS: f64 = 1000.0;
const PER_DOUBLING: f64 = 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_there() {
        assert_eq!(quantile(&[], 50), None);
        assert_eq!(quantile(&[7], 50), Some(7));
        let sorted: Vec<u32> = (1..=200).collect();
        assert_eq!(
            (quantile(&sorted, 50), quantile(&sorted, 99), quantile(&sorted, 100)),
            (Some(100), Some(198), Some(200))
        );
    }

    #[test]
    fn a_histogram_keeps_values_within_a_tenth() {
        let sorted: Vec<u32> = (0..5_000).map(|n| n * n / 7).collect();
        let told = histogram(&sorted, 1000.0);
        let bounds: Vec<(f64, u64)> = serde_json::from_value(told).unwrap();
        assert_eq!(bounds.iter().map(|(_, count)| count).sum::<u64>(), 5_000);
        assert!(bounds.len() < 200, "{}", bounds.len());
        let mut seen = 0;
        for (bound, count) in bounds {
            let largest = f64::from(sorted[(seen + count - 1) as usize]) / 1000.0;
            assert!(
                bound >= largest - 0.001 && bound <= largest * 1.1 + 0.001,
                "{bound} for {largest}"
            );
            seen += count;
        }
    }
}
