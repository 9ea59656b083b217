//! What several replicas say of their ends, as one answer.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cli::figures::{number, text};
use crate::cli::live::{Answers, Missing};

/// The merged answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Newest first; each with the `replica` that it was on.
    pub(super) entries: Vec<Value>,
    /// All that match, the most frequent first.
    pub(super) causes: Vec<Cause>,
    pub(super) connections: u64,
    /// Since when nothing is forgotten, where that is later than asked: of tunnels, of refusals.
    pub(super) complete_since: [Option<String>; 2],
    /// The replicas whose workers did not answer.
    pub(super) silent: Vec<String>,
    /// How many ends one replica remembers.
    pub(super) remembers: u64,
    pub(super) failed: Vec<Missing>,
    /// `3/3 replicas`.
    pub(super) closing: String,
    /// One of the replicas has more than it told.
    pub(super) is_behind: bool,
    replicas: Value,
    last: BTreeMap<String, u64>,
}

/// One cause or reason, and who moved first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) word: String,
    pub(super) initiator: String,
    pub(super) is_refusal: bool,
    pub(super) count: u64,
    pub(super) first: String,
    pub(super) latest: String,
    /// The endpoints that it hit most.
    pub(super) endpoints: BTreeMap<String, u64>,
}

impl Answer {
    /// Merges, and keeps the newest `limit` entries.
    pub(super) fn of(answers: &Answers, limit: usize) -> Self {
        let mut answer = Self {
            closing: answers.closing(),
            failed: answers.failed.clone(),
            replicas: answers.summary(),
            ..Self::default()
        };
        let mut causes: BTreeMap<(bool, String, String), Cause> = BTreeMap::new();
        for document in &answers.documents {
            answer.take(document);
            for row in document["summary"].as_array().into_iter().flatten() {
                let is_refusal = row["event.name"] == "holdfast.connection.refused";
                let key = (
                    is_refusal,
                    text(&row["word"]).to_owned(),
                    text(&row["holdfast.end.initiator"]).to_owned(),
                );
                causes.entry(key).or_default().add(row, is_refusal);
            }
        }
        answer.causes = causes.into_values().collect();
        answer.causes.sort_by(|a, b| {
            a.is_refusal
                .cmp(&b.is_refusal)
                .then(b.count.cmp(&a.count))
                .then(a.word.cmp(&b.word))
        });
        answer.entries.sort_by(|a, b| {
            text(&b["timestamp"])
                .cmp(text(&a["timestamp"]))
                .then(number(&b["sequence"]).cmp(&number(&a["sequence"])))
        });
        answer.entries.truncate(limit);
        answer
    }

    fn take(&mut self, document: &Value) {
        let replica = text(&document["replica"]);
        let listed = document["ends"].as_array().into_iter().flatten();
        self.entries.extend(listed.map(|entry| {
            let mut entry = entry.clone();
            entry["replica"] = replica.into();
            entry
        }));
        self.connections += number(&document["connections"]);
        for (complete, name) in self
            .complete_since
            .iter_mut()
            .zip(["ends_complete_since", "refusals_complete_since"])
        {
            let since = document[name].as_str().map(str::to_owned);
            *complete = since.max(complete.take());
        }
        if document["silent_workers"].as_array().is_some_and(|silent| !silent.is_empty()) {
            self.silent.push(replica.to_owned());
        }
        self.remembers = self.remembers.max(number(&document["remembers"]));
        self.is_behind |= document["more"] == true;
        self.last.insert(replica.to_owned(), number(&document["last"]));
    }

    /// Up to where each replica has told its ends; of one that did not answer this time, what was known `before`.
    pub(super) fn cursor(&self, before: Option<&str>) -> String {
        let before = before
            .into_iter()
            .flat_map(|before| before.split(','))
            .filter_map(|pair| pair.rsplit_once(':'));
        let mut last: BTreeMap<&str, String> = before.map(|(name, number)| (name, number.to_owned())).collect();
        for (name, number) in &self.last {
            last.insert(name, number.to_string());
        }
        let pairs: Vec<String> = last.iter().map(|(name, number)| format!("{name}:{number}")).collect();
        pairs.join(",")
    }

    pub(super) fn document(&self) -> Value {
        let causes = self.causes.iter().map(|cause| {
            json!({
                "event.name": if cause.is_refusal { "holdfast.connection.refused" } else { "holdfast.connection.ended" },
                "word": cause.word,
                "holdfast.end.initiator": cause.initiator,
                "count": cause.count,
                "first": cause.first,
                "latest": cause.latest,
                "endpoints": cause.endpoints,
            })
        });
        json!({
            "replicas": self.replicas,
            "connections": self.connections,
            "ends_complete_since": self.complete_since[0],
            "refusals_complete_since": self.complete_since[1],
            "summary": causes.collect::<Vec<_>>(),
            "ends": self.entries,
        })
    }

    /// How many tunnels ended, and how many handshakes were refused.
    pub(super) fn counts(&self) -> [u64; 2] {
        [false, true].map(|refusals| {
            let of = self.causes.iter().filter(|cause| cause.is_refusal == refusals);
            of.map(|cause| cause.count).sum()
        })
    }
}

impl Cause {
    fn add(&mut self, row: &Value, is_refusal: bool) {
        text(&row["word"]).clone_into(&mut self.word);
        text(&row["holdfast.end.initiator"]).clone_into(&mut self.initiator);
        self.is_refusal = is_refusal;
        self.count += number(&row["count"]);
        let (first, latest) = (text(&row["first"]), text(&row["latest"]));
        if self.first.is_empty() || first < &*self.first {
            first.clone_into(&mut self.first);
        }
        if latest > &*self.latest {
            latest.clone_into(&mut self.latest);
        }
        for (endpoint, count) in row["endpoints"].as_object().into_iter().flatten() {
            *self.endpoints.entry(endpoint.clone()).or_default() += number(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(replica: &str, last: u64, word: &str, count: u64, at: &str) -> Value {
        json!({
            "replica": replica, "last": last, "connections": 10, "remembers": 100,
            "ends_complete_since": (replica == "b").then_some("2026-01-01T00:00:05.000Z"),
            "summary": [{"event.name": "holdfast.connection.ended", "word": word, "holdfast.end.initiator": "holdfast",
                "count": count, "first": at, "latest": at, "endpoints": {"chat-0": count}}],
            "ends": [{"sequence": last, "timestamp": at}],
        })
    }

    #[test]
    fn replicas_become_one_answer() {
        let mut answers = Answers::default();
        answers.documents.extend([
            document("a", 7, "drain", 2, "2026-01-01T00:00:09.000Z"),
            document("b", 9, "drain", 3, "2026-01-01T00:00:10.000Z"),
            document("c", 1, "memory", 1, "2026-01-01T00:00:08.000Z"),
        ]);
        let answer = Answer::of(&answers, 2);
        let on: Vec<&str> = answer.entries.iter().map(|entry| text(&entry["replica"])).collect();
        assert_eq!(on, ["b", "a"], "the newest");
        assert_eq!((answer.connections, answer.counts()), (30, [6, 0]));
        assert_eq!(answer.causes[0].count, 5);
        assert_eq!(answer.causes[0].endpoints["chat-0"], 5);
        assert_eq!(answer.causes[0].first, "2026-01-01T00:00:09.000Z");
        assert_eq!(answer.complete_since, [Some("2026-01-01T00:00:05.000Z".to_owned()), None]);
        assert_eq!(answer.cursor(Some("a:3,gone:4")), "a:7,b:9,c:1,gone:4");
    }
}
