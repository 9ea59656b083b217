//! GET /history: how handshakes, ends and open connections went over the last quarter of an hour, in total and by route.
//!
//! A task looks at the counters every [`STEP`] and keeps what has changed. Nothing is counted for it, and no connection's way
//! leads through here. Its memory is bounded: [`KEPT`] samples, of each the [`ROUTES`] busiest routes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    proxy::metrics::{Happening, Metrics, Tally},
    routing::ObjectName,
};

/// The samples of the last minutes.
#[derive(Debug, Default)]
pub struct History {
    ring: Mutex<Ring>,
}

#[derive(Debug, Default)]
struct Ring {
    samples: VecDeque<Arc<Sample>>,
    routes: HashMap<Option<ObjectName>, Known>,
}

/// What is remembered of a route from one sample to the next.
#[derive(Debug, Default)]
struct Known {
    tally: Tally,
    /// What happened at it, the longer ago the less: those with the most are kept.
    busy: f64,
}

/// What happened in one step.
#[derive(Debug)]
pub struct Sample {
    /// Counts up by one from sample to sample.
    pub number: u64,
    at: SystemTime,
    /// Changes, and what is open at the end of the step.
    total: Tally,
    /// The busiest routes, among those at which something was open or happened.
    routes: HashMap<ObjectName, Tally>,
    /// How many more routes there were.
    left_out: usize,
}

impl History {
    /// Samples for as long as the process lives.
    pub async fn follow(self: Arc<Self>, metrics: Arc<Metrics>) {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            steps.tick().await;
            self.sample(metrics.tallies(), SystemTime::now());
        }
    }

    fn sample(&self, now: HashMap<Option<ObjectName>, Tally>, at: SystemTime) {
        self.ring().sample(now, at);
    }

    /// The samples after this one, oldest first.
    pub fn since(&self, number: u64) -> Vec<Arc<Sample>> {
        let ring = self.ring();
        let newer = ring.samples.iter().rev().take_while(|sample| sample.number > number);
        let mut newer: Vec<_> = newer.cloned().collect();
        newer.reverse();
        newer
    }

    /// The number of the newest sample; 0: there is none yet.
    pub fn last(&self) -> u64 {
        self.ring().samples.back().map_or(0, |sample| sample.number)
    }

    /// The whole history, of one route if it is named, as columns: one number a sample. `null` stands where a route may have
    /// been among those left out.
    pub fn document(&self, replica: &str, route: Option<&ObjectName>) -> Value {
        let samples = self.since(0);
        let tallies: Vec<Option<Tally>> = samples.iter().map(|sample| sample.tally(route)).collect();
        let what: BTreeSet<Happening> = tallies
            .iter()
            .flatten()
            .flat_map(|tally| tally.counts.keys().copied())
            .collect();
        let column = |of: &dyn Fn(&Tally) -> u64| -> Value { tallies.iter().map(|tally| tally.as_ref().map(of)).collect() };
        let (mut handshakes, mut ends) = (Vec::new(), Vec::new());
        for happening in what {
            let counts = column(&|tally| tally.counts.get(&happening).copied().unwrap_or(0));
            push(happening, "counts", counts, &mut handshakes, &mut ends);
        }
        let times: Vec<f64> = samples.iter().map(|sample| seconds(sample.at)).collect();
        let mut document = Map::new();
        document.insert("version".to_owned(), 1.into());
        document.insert("replica".to_owned(), replica.into());
        if let Some(route) = route {
            name(&mut document, route);
        }
        document.insert("step_seconds".to_owned(), STEP.as_secs_f64().into());
        document.insert("last".to_owned(), samples.last().map_or(0, |sample| sample.number).into());
        document.insert("at".to_owned(), times.into());
        document.insert("open".to_owned(), column(&|tally| tally.open));
        document.insert("handshakes".to_owned(), handshakes.into());
        document.insert("ends".to_owned(), ends.into());
        if route.is_none() {
            let (routes, left_out) = busiest(&samples);
            document.insert("routes".to_owned(), routes.into());
            document.insert("routes_left_out".to_owned(), left_out.into());
        }
        Value::Object(document)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn sample(&mut self, now: HashMap<Option<ObjectName>, Tally>, at: SystemTime) {
        self.routes.retain(|route, _| now.contains_key(route));
        let is_first = self.samples.is_empty();
        let mut total = Tally::default();
        let mut active = Vec::new();
        for (route, tally) in now {
            let known = self.routes.entry(route.clone()).or_default();
            // What had happened before the first sample did not happen in its step.
            let change = if is_first {
                open(&tally)
            } else {
                change(&known.tally, &tally)
            };
            known.busy = known.busy * FADE + change.counts.values().sum::<u64>() as f64;
            known.tally = tally;
            add(&mut total, &change);
            if let Some(route) = route.filter(|_| change != Tally::default()) {
                active.push((known.busy, route, change));
            }
        }
        active.sort_by(|(a, one, change), (b, other, second)| {
            b.total_cmp(a)
                .then(second.open.cmp(&change.open))
                .then_with(|| one.cmp(other))
        });
        let left_out = active.len().saturating_sub(ROUTES);
        active.truncate(ROUTES);
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back(Arc::new(Sample {
            number: self.samples.back().map_or(1, |sample| sample.number + 1),
            at,
            total,
            routes: active.into_iter().map(|(_, route, change)| (route, change)).collect(),
            left_out,
        }));
    }
}

impl Sample {
    /// `None`: it may have been among the routes left out.
    fn tally(&self, route: Option<&ObjectName>) -> Option<Tally> {
        let Some(route) = route else { return Some(self.total.clone()) };
        match self.routes.get(route) {
            Some(tally) => Some(tally.clone()),
            None => (self.left_out == 0).then(Tally::default),
        }
    }

    /// What whoever follows is told.
    pub fn json(&self) -> Value {
        let mut document = described(&self.total);
        document.insert("sample".to_owned(), self.number.into());
        document.insert("at".to_owned(), seconds(self.at).into());
        let routes = self.routes.iter().map(|(route, tally)| {
            let mut row = Map::new();
            name(&mut row, route);
            row.append(&mut described(tally));
            Value::Object(row)
        });
        document.insert("routes".to_owned(), routes.collect());
        document.insert("routes_left_out".to_owned(), self.left_out.into());
        Value::Object(document)
    }
}

fn described(tally: &Tally) -> Map<String, Value> {
    let (mut handshakes, mut ends) = (Vec::new(), Vec::new());
    for (happening, count) in &tally.counts {
        push(*happening, "count", (*count).into(), &mut handshakes, &mut ends);
    }
    let mut document = Map::new();
    document.insert("open".to_owned(), tally.open.into());
    document.insert("handshakes".to_owned(), handshakes.into());
    document.insert("ends".to_owned(), ends.into());
    document
}

fn push(happening: Happening, key: &str, value: Value, handshakes: &mut Vec<Value>, ends: &mut Vec<Value>) {
    match happening {
        Happening::Handshake(outcome) => handshakes.push(json!({ "outcome": outcome, key: value })),
        Happening::Ended(initiator, cause) => ends.push(json!({
            "holdfast.end.initiator": initiator.word(),
            "holdfast.end.cause": cause.word(),
            key: value,
        })),
    }
}

fn name(document: &mut Map<String, Value>, route: &ObjectName) {
    document.insert("holdfast.route.namespace".to_owned(), (*route.namespace).into());
    document.insert("holdfast.route.name".to_owned(), (*route.name).into());
}

/// The busiest routes of all samples with their sums, and how many more were seen.
fn busiest(samples: &[Arc<Sample>]) -> (Vec<Value>, usize) {
    let mut sums: BTreeMap<&ObjectName, Tally> = BTreeMap::new();
    for (route, tally) in samples.iter().flat_map(|sample| &sample.routes) {
        let sum = sums.entry(route).or_default();
        add(sum, tally);
        sum.open = 0;
    }
    if let Some(last) = samples.last() {
        for (route, tally) in &last.routes {
            sums.entry(route).or_default().open = tally.open;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, tally)| std::cmp::Reverse((tally.counts.values().sum::<u64>(), tally.open)));
    let more = sums.len().saturating_sub(ROUTES) + samples.last().map_or(0, |sample| sample.left_out);
    let rows = sums.into_iter().take(ROUTES).map(|(route, tally)| {
        let mut row = Map::new();
        name(&mut row, route);
        row.append(&mut described(&tally));
        Value::Object(row)
    });
    (rows.collect(), more)
}

/// What has been added since `before`. A count that fell is that of a rule which was forgotten.
fn change(before: &Tally, now: &Tally) -> Tally {
    let counts = now.counts.iter().filter_map(|(happening, count)| {
        let change = count.saturating_sub(before.counts.get(happening).copied().unwrap_or(0));
        (change > 0).then_some((*happening, change))
    });
    Tally {
        open: now.open,
        counts: counts.collect(),
    }
}

fn open(tally: &Tally) -> Tally {
    Tally {
        open: tally.open,
        ..Tally::default()
    }
}

fn add(sum: &mut Tally, tally: &Tally) {
    sum.open += tally.open;
    for (happening, count) in &tally.counts {
        *sum.counts.entry(*happening).or_default() += count;
    }
}

/// Seconds since 1970, to the millisecond.
fn seconds(at: SystemTime) -> f64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1e3
}

/// From one sample to the next.
const STEP: Duration = Duration::from_secs(3);

/// How many samples are kept: a quarter of an hour.
const KEPT: usize = 300;

/// How many routes a sample tells of one by one.
const ROUTES: usize = 64;

/// What of a route's activity still counts a step later; half of it after some two minutes.
const FADE: f64 = 0.98;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::end::{Cause, Initiator};

    const GONE: Happening = Happening::Ended(Initiator::Endpoint, Cause::EndpointGone);
    const ACCEPTED: Happening = Happening::Handshake("accepted");

    fn route(name: &str) -> ObjectName {
        ObjectName {
            namespace: "web".into(),
            name: name.into(),
        }
    }

    fn tally(open: u64, counts: &[(Happening, u64)]) -> Tally {
        Tally {
            open,
            counts: counts.iter().copied().collect(),
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_sample_is_what_has_changed_since_the_one_before() {
        let history = History::default();
        let chat = || Some(route("chat"));
        history.sample(HashMap::from([(chat(), tally(5, &[(ACCEPTED, 9)]))]), at(10));
        history.sample(HashMap::from([(chat(), tally(4, &[(ACCEPTED, 11), (GONE, 3)]))]), at(13));
        history.sample(
            HashMap::from([
                (chat(), tally(4, &[(ACCEPTED, 1), (GONE, 3)])), // a rule was forgotten
                (None, tally(0, &[(Happening::Handshake("no_route"), 2)])),
            ]),
            at(16),
        );
        let all = history.document("holdfast-a", None);
        assert_eq!(all["at"], json!([10.0, 13.0, 16.0]));
        assert_eq!(all["open"], json!([5, 4, 4]));
        assert_eq!(
            all["handshakes"],
            json!([
                { "outcome": "accepted", "counts": [0, 2, 0] },
                { "outcome": "no_route", "counts": [0, 0, 2] },
            ])
        );
        let ends = json!({ "holdfast.end.initiator": "endpoint", "holdfast.end.cause": "endpoint_gone", "counts": [0, 3, 0] });
        assert_eq!(all["ends"], json!([ends]));
        assert_eq!(all["routes"][0]["holdfast.route.name"], "chat");
        assert_eq!(all["routes"][0]["open"], 4);
        assert_eq!(all["routes"][0]["handshakes"], json!([{ "outcome": "accepted", "count": 2 }]));
        assert_eq!(all["routes_left_out"], 0);

        let one = history.document("holdfast-a", Some(&route("chat")));
        assert_eq!(one["handshakes"], json!([{ "outcome": "accepted", "counts": [0, 2, 0] }]));
        assert_eq!(history.document("a", Some(&route("other")))["open"], json!([0, 0, 0]));
        assert_eq!(
            history.since(1).iter().map(|sample| sample.number).collect::<Vec<_>>(),
            [2, 3]
        );
        assert_eq!(history.since(2)[0].json()["handshakes"][0]["outcome"], "no_route");
        assert_eq!(history.last(), 3);
    }

    #[test]
    fn the_busiest_routes_are_kept_and_of_the_others_nothing_is_made_up() {
        let history = History::default();
        let all = |busy: u64| -> HashMap<_, _> {
            (0..200u64)
                .map(|index| (Some(route(&format!("r{index:03}"))), tally(1, &[(ACCEPTED, index * busy)])))
                .collect()
        };
        history.sample(all(0), at(0));
        history.sample(all(1), at(3));
        history.sample(all(1), at(6));
        let open = |name: &str| history.document("a", Some(&route(name)))["open"].clone();
        assert_eq!(
            open("r199"),
            json!([null, 1, 1]),
            "which ones are busy is known from the second on"
        );
        assert_eq!(open("r020"), json!([1, null, null]));
        let document = history.document("a", None);
        assert_eq!(document["open"], json!([200, 200, 200]), "the total is of all");
        assert_eq!(document["routes"].as_array().unwrap().len(), ROUTES);
        assert_eq!(document["routes"][0]["holdfast.route.name"], "r199");
        assert!(document["routes_left_out"].as_u64().unwrap() >= 136);
    }

    #[test]
    fn it_is_bounded_in_time() {
        let history = History::default();
        for step in 0..KEPT as u64 + 20 {
            history.sample(HashMap::new(), at(step));
        }
        let document = history.document("a", None);
        assert_eq!(document["at"].as_array().unwrap().len(), KEPT);
        assert_eq!(document["at"][0], 20.0);
        assert_eq!(document["last"], KEPT + 20);
    }
}
