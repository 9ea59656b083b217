//! What several replicas say of their tunnels, as one answer.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::cli::figures::{fraction, number, text};
use crate::cli::live::Answers;

/// The merged answer.
#[derive(Debug)]
pub(super) struct Merged {
    /// What the groups are by; `None`: this is a list.
    pub(super) by: Option<String>,
    /// Groups, the largest first, or tunnels; those of a list each with the `replica` that it is on.
    pub(super) rows: Vec<Value>,
    pub(super) open: u64,
    /// Groups that are not shown, and the tunnels in them.
    pub(super) others: [u64; 2],
    /// Whether all ends of the last five minutes are counted.
    pub(super) knows_ends: bool,
    /// Replicas that drain, with how far they are.
    pub(super) draining: Vec<Value>,
    /// Replicas whose workers did not answer.
    pub(super) silent: Vec<String>,
    /// `3/3 replicas`.
    pub(super) closing: String,
    replicas: Value,
}

impl Merged {
    /// Merges, and keeps the first `limit` rows; `sort`: the order of a list.
    pub(super) fn of(answers: &Answers, limit: usize, sort: &str) -> Self {
        let documents = &answers.documents;
        let by = documents
            .iter()
            .find_map(|document| document["by"].as_str())
            .map(str::to_owned);
        let silent = documents
            .iter()
            .filter(|document| document["silent_workers"].as_array().is_some_and(|silent| !silent.is_empty()));
        let drains = documents.iter().map(|document| &document["drain"]);
        let mut merged = Self {
            open: documents.iter().map(|document| number(&document["open"])).sum(),
            others: ["groups", "open"].map(|what| documents.iter().map(|document| number(&document["others"][what])).sum()),
            knows_ends: documents.iter().all(|document| document["ends_5m_complete"] == true),
            draining: drains.filter(|drain| drain["stage"] != "serving").cloned().collect(),
            silent: silent.map(|document| text(&document["replica"]).to_owned()).collect(),
            closing: answers.closing(),
            replicas: answers.summary(),
            rows: Vec::new(),
            by,
        };
        merged.rows = match &merged.by {
            Some(by) => groups(documents, by, merged.open),
            None => list(documents, sort),
        };
        if merged.by.is_none() {
            merged.open = documents.iter().map(|document| number(&document["connections"])).sum();
        }
        let left_out = merged.rows.split_off(merged.rows.len().min(limit));
        if merged.by.is_some() {
            merged.others[0] += left_out.len() as u64;
            merged.others[1] += left_out.iter().map(|row| number(&row["open"])).sum::<u64>();
        }
        merged
    }

    pub(super) fn document(&self) -> Value {
        let mut document = json!({
            "replicas": self.replicas,
            "open": self.open,
            "draining": self.draining,
        });
        match &self.by {
            Some(by) => {
                document["by"] = by.as_str().into();
                document["ends_5m_complete"] = self.knows_ends.into();
                document["others"] = json!({"groups": self.others[0], "open": self.others[1]});
                document["groups"] = self.rows.clone().into();
            }
            None => document["list"] = self.rows.clone().into(),
        }
        document
    }
}

fn list(documents: &[Value], sort: &str) -> Vec<Value> {
    let mut rows: Vec<Value> = documents
        .iter()
        .flat_map(|document| {
            document["list"].as_array().into_iter().flatten().map(|row| {
                let mut row = row.clone();
                row["replica"] = document["replica"].clone();
                row
            })
        })
        .collect();
    let sum = |row: &Value, what: &str| {
        ["to_endpoint", "to_client"]
            .iter()
            .map(|direction| fraction(&row[format!("holdfast.{what}.{direction}")]))
            .sum()
    };
    let stalled = |row: &Value| fraction(&row["client"]["stalled_seconds"]).max(fraction(&row["endpoint"]["stalled_seconds"]));
    let key = |row: &Value| -> f64 {
        match sort {
            "idle" => fraction(&row["idle_seconds"]),
            "messages" | "bytes" => sum(row, sort),
            "rtt" => fraction(&row["holdfast.heartbeat.rtt_seconds"]),
            "stalled" => stalled(row),
            _ => fraction(&row["holdfast.duration_seconds"]),
        }
    };
    rows.sort_by(|a, b| key(b).total_cmp(&key(a)));
    rows
}

/// The groups of all replicas, the largest first; those by age or worker in their own order.
fn groups(documents: &[Value], by: &str, open: u64) -> Vec<Value> {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for (index, document) in documents.iter().enumerate() {
        for row in document["groups"].as_array().into_iter().flatten() {
            let mut key: Vec<String> = KEYS.iter().map(|key| row[*key].to_string()).collect();
            if by == "age" {
                key = vec![format!("{:012}", number(&row["age_from_seconds"]))];
            } else if by == "worker" {
                // Each replica has workers of its own.
                key = vec![format!("{index:06} {:06}", number(&row["worker"]))];
            }
            groups.entry(key.join(" ")).or_default().add(row, by, &document["replica"]);
        }
    }
    let mut rows: Vec<Value> = groups.into_values().map(|group| group.row(open)).collect();
    if by != "age" && by != "worker" {
        rows.sort_by_key(|row| std::cmp::Reverse(number(&row["open"]))); // stable: by name where they are equal
    }
    rows
}

/// One group of several replicas.
#[derive(Debug, Default)]
struct Group {
    fields: Map<String, Value>,
    parts: usize,
    states: Vec<String>,
    histograms: [BTreeMap<u64, u64>; 2],
}

impl Group {
    fn add(&mut self, row: &Value, by: &str, replica: &Value) {
        self.parts += 1;
        if let Some(state) = row["state"].as_str()
            && !self.states.iter().any(|known| known == state)
        {
            self.states.push(state.to_owned());
        }
        for (histogram, name) in self.histograms.iter_mut().zip(["ages", "rtts"]) {
            for pair in row[name].as_array().into_iter().flatten() {
                *histogram.entry((fraction(&pair[0]) * 1000.0) as u64).or_default() += number(&pair[1]);
            }
        }
        let Some(row) = row.as_object() else { return };
        if self.parts == 1 {
            self.fields = row.clone();
            if by == "worker" {
                self.fields.insert("replica".to_owned(), replica.clone());
            }
            return;
        }
        for (name, value) in row {
            let Some(mine) = self.fields.get_mut(name) else {
                self.fields.insert(name.clone(), value.clone());
                continue;
            };
            if SUMS.contains(&name.as_str()) {
                *mine = (number(mine) + number(value)).into();
            } else if RATES.contains(&name.as_str()) {
                *mine = (fraction(mine) + fraction(value)).into();
            } else if name == "age_max_seconds" {
                *mine = fraction(mine).max(fraction(value)).into();
            }
        }
    }

    fn row(mut self, open: u64) -> Value {
        let mut put = |name: &str, value: Value| drop(self.fields.insert(name.to_owned(), value));
        if self.parts > 1 {
            let [ages, rtts] = &self.histograms;
            put("age_p50_seconds", quantile(ages, 50).into());
            put("rtt_p50_seconds", quantile(rtts, 50).into());
            put("rtt_p99_seconds", quantile(rtts, 99).into());
            for (name, histogram) in ["ages", "rtts"].into_iter().zip(&self.histograms) {
                let pairs = histogram.iter().map(|(bound, count)| json!([*bound as f64 / 1000.0, count]));
                put(name, pairs.collect());
            }
        }
        if !self.states.is_empty() {
            self.states.sort();
            put("state", self.states.join("/").into());
        }
        let own = self.fields.get("open").map(number).unwrap_or_default();
        self.fields
            .insert("share".to_owned(), (open > 0).then(|| own as f64 / open as f64).into());
        Value::Object(self.fields)
    }
}

/// The value that so many percent do not exceed, in seconds.
fn quantile(histogram: &BTreeMap<u64, u64>, percent: u64) -> Option<f64> {
    let count: u64 = histogram.values().sum();
    let mut left = (count * percent).div_ceil(100);
    histogram
        .iter()
        .find(|(_, count)| {
            left = left.saturating_sub(**count);
            left == 0
        })
        .map(|(bound, _)| *bound as f64 / 1000.0)
}

/// What tells groups apart.
const KEYS: [&str; 7] = [
    "holdfast.route.namespace",
    "holdfast.route.name",
    "holdfast.rule.name",
    "holdfast.endpoint.service",
    "holdfast.endpoint.pod",
    "destination.port",
    "client.address",
];
const SUMS: [&str; 9] = [
    "open",
    "stalled",
    "delayed",
    "ending",
    "ends_5m",
    "holdfast.bytes.to_endpoint",
    "holdfast.bytes.to_client",
    "holdfast.messages.to_endpoint",
    "holdfast.messages.to_client",
];
const RATES: [&str; 2] = ["messages_per_second.to_endpoint", "messages_per_second.to_client"];

#[cfg(test)]
mod tests {
    use super::*;

    fn document(replica: &str, groups: Vec<Value>) -> Value {
        let open: u64 = groups.iter().map(|group| number(&group["open"])).sum();
        json!({"replica": replica, "by": "endpoint", "open": open, "ends_5m_complete": true, "groups": groups,
            "others": {"groups": 0, "open": 0}, "drain": {"stage": "serving"}, "silent_workers": []})
    }

    fn group(pod: &str, open: u64, age: f64, state: &str) -> Value {
        json!({"holdfast.endpoint.pod": pod, "open": open, "state": state, "ends_5m": 1, "age_p50_seconds": age, "age_max_seconds": age,
            "messages_per_second.to_client": 1.5, "ages": [[age, open]], "rtts": [], "rtt_p50_seconds": null})
    }

    #[test]
    fn groups_of_replicas_add_up() {
        let mut answers = Answers::default();
        answers.documents.extend([
            document(
                "a",
                vec![group("chat-0", 10, 100.0, "ready"), group("chat-1", 12, 7.0, "ready")],
            ),
            document(
                "b",
                vec![group("chat-0", 30, 300.0, "ejected"), group("chat-2", 1, 7.0, "ready")],
            ),
        ]);
        let merged = Merged::of(&answers, 2, "age");
        assert_eq!((merged.open, merged.rows.len(), merged.others), (53, 2, [1, 1]));
        let first = &merged.rows[0];
        assert_eq!(
            (&first["holdfast.endpoint.pod"], &first["open"]),
            (&"chat-0".into(), &40.into())
        );
        assert_eq!((&first["ends_5m"], &first["state"]), (&2.into(), &"ejected/ready".into()));
        assert_eq!(first["messages_per_second.to_client"], 3.0);
        assert_eq!(
            (&first["age_p50_seconds"], &first["age_max_seconds"]),
            (&300.0.into(), &300.0.into())
        );
        assert!((fraction(&first["share"]) - 40.0 / 53.0).abs() < 1e-9);
        assert_eq!(merged.rows[1]["age_p50_seconds"], 7.0, "of one replica it is exact");
    }

    #[test]
    fn a_quantile_of_a_histogram_is_one_of_its_bounds() {
        let histogram = BTreeMap::from([(10, 50), (20, 49), (900, 1)]);
        assert_eq!(quantile(&histogram, 50), Some(0.010));
        assert_eq!(quantile(&histogram, 99), Some(0.020));
        assert_eq!(quantile(&histogram, 100), Some(0.900));
        assert_eq!(quantile(&BTreeMap::new(), 50), None);
    }
}
