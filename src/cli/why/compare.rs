//! Whether the replicas answer alike, by what matters to a client: status, rule, what is asked of the endpoint, and the policies
//! that hold. How many connections each has, and which endpoint it would pick, is its own affair.

use serde::Serialize;
use serde_json::Value;

use crate::cli::live::Answers;
use crate::cli::{Failure, NO};
use crate::why::Answer;

/// The answer that most replicas give, and how the others differ from it.
#[derive(Debug, Serialize)]
pub(super) struct Compared {
    #[serde(flatten)]
    pub(super) answer: Answer,
    /// Who has answered, and who has not.
    replicas: Value,
    differences: Vec<Difference>,
    /// Whether no replica refuses the request.
    #[serde(skip)]
    pub(super) all_serve: bool,
    #[serde(skip)]
    counted: String,
}

/// One replica that answers otherwise.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    replica: String,
    /// What the answer is there, and what it is with most.
    what: Vec<Differing>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Differing {
    name: String,
    there: String,
    here: String,
}

impl Compared {
    /// # Errors
    /// An answer cannot be read, because a replica is of another version.
    pub(super) fn of(answers: &Answers) -> Result<Self, Failure> {
        let mut read = Vec::new();
        for document in &answers.documents {
            let replica = document["replica"].as_str().unwrap_or("?").to_owned();
            let answer: Answer = serde_json::from_value(document.clone()).map_err(|error| Failure {
                code: NO,
                text: format!("{replica}: its answer cannot be read, it is perhaps of another version: {error}"),
            })?;
            let facets = facets(&answer);
            read.push((replica, answer, facets));
        }
        let alike = |facets: &Facets| read.iter().filter(|(_, _, other)| other == facets).count();
        // The first of those that most agree with; there is one, since somebody has answered.
        let most = read.iter().map(|(_, _, facets)| alike(facets)).max().unwrap_or_default();
        let Some((_, answer, shown)) = read.iter().find(|(_, _, facets)| alike(facets) == most) else {
            return Err(Failure {
                code: NO,
                text: "nobody has answered".to_owned(),
            });
        };
        let others = read.iter().filter(|(_, _, facets)| facets != shown);
        let differences = others.map(|(replica, _, facets)| Difference {
            replica: replica.clone(),
            what: differing(facets, shown),
        });
        Ok(Self {
            answer: answer.clone(),
            replicas: answers.summary(),
            differences: differences.collect(),
            all_serve: read.iter().all(|(_, answer, _)| answer.is_served()),
            counted: counted(&answers.closing(), most, read.len(), read.len() + answers.failed.len()),
        })
    }

    /// The last lines: who differs and in what, who has answered alike, and what to ask next.
    pub(super) fn closing(&self) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            for (index, differing) in difference.what.iter().enumerate() {
                let Differing { name, there, here } = differing;
                let whose = match index {
                    0 => format!("differs  {}  ", difference.replica),
                    _ => " ".repeat("differs  ".len() + difference.replica.len() + 2),
                };
                text.push_str(&format!("{whose}{name} is {there}, not {here}\n"));
            }
        }
        text.push_str(&self.counted);
        if let Some(reason) = &self.answer.reason {
            text.push_str(&format!(".   holdfast explain {reason}"));
        }
        text.push('\n');
        text
    }
}

/// `3/3 replicas answer alike`. One alone is like nobody.
fn counted(closing: &str, alike: usize, answered: usize, asked: usize) -> String {
    if asked == 1 {
        return closing.to_owned();
    }
    let counts = format!("{answered}/{asked} replicas");
    closing.replacen(&counts, &format!("{alike}/{asked} replicas answer alike"), 1)
}

/// What is compared, by name.
type Facets = Vec<(String, String)>;

fn facets(answer: &Answer) -> Facets {
    let status = match &answer.reason {
        Some(reason) => format!("{} {reason}", answer.status),
        None => answer.status.to_string(),
    };
    let or_none = |text: Option<&String>| text.map_or_else(|| "none".to_owned(), Clone::clone);
    let rule = answer.rule.as_ref().map(ToString::to_string);
    let mut facets = vec![
        ("status".to_owned(), status),
        ("host entry".to_owned(), or_none(answer.entry.as_ref())),
        ("rule".to_owned(), or_none(rule.as_ref())),
        ("what answers".to_owned(), or_none(answer.answered.as_ref())),
        ("what is asked of the endpoint".to_owned(), or_none(answer.rewritten.as_ref())),
    ];
    let policy = answer.policy.iter();
    facets.extend(policy.map(|policy| (policy.name.clone(), format!("{} {}", policy.value, policy.origin))));
    facets
}

fn differing(there: &Facets, here: &Facets) -> Vec<Differing> {
    let value = |facets: &Facets, name: &str| {
        let found = facets.iter().find(|(other, _)| other == name);
        found.map_or_else(|| "unset".to_owned(), |(_, value)| value.clone())
    };
    let names = here
        .iter()
        .chain(there.iter().filter(|(name, _)| here.iter().all(|(other, _)| other != name)));
    let compared = names.map(|(name, _)| Differing {
        name: name.clone(),
        there: value(there, name),
        here: value(here, name),
    });
    compared.filter(|differing| differing.there != differing.here).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::live::Missing;

    fn document(replica: &str, status: u16, policy: &str) -> Value {
        let mut document = json!({
            "version": 1, "replica": replica, "http.response.status_code": status, "server.address": "a", "url.path": "/",
            "considered": [], "omitted": 0, "rejected": [], "guards": [], "candidates": [], "not_candidates": [], "problems": 0,
            "policy": [{"name": "timeouts.idle", "value": policy, "origin": "route"}], "host.entry": "a",
        });
        if status == 404 {
            document["error.type"] = json!("no_route");
        }
        document
    }

    fn compared(documents: Vec<Value>, failed: &[&str]) -> Compared {
        let mut answers = Answers::default();
        answers.documents.extend(documents);
        answers.failed.extend(failed.iter().map(|replica| Missing {
            replica: (*replica).to_owned(),
            reason: "timeout".to_owned(),
        }));
        Compared::of(&answers).unwrap()
    }

    #[test]
    fn replicas_that_say_the_same_answer_alike_whatever_is_open_there() {
        let mut busy = document("b", 101, "1h");
        busy["guards"] =
            json!([{"guard": "limits.maxConnections", "value": "7 of 9", "used": 7, "allowed": 9, "verdict": "lets it in"}]);
        let same = compared(vec![document("a", 101, "1h"), busy], &[]);
        assert_eq!(
            (same.closing().as_str(), same.all_serve),
            ("2/2 replicas answer alike\n", true)
        );
        let missing = compared(vec![document("a", 404, "1h"), document("b", 404, "1h")], &["c"]);
        assert_eq!(
            missing.closing(),
            "2/3 replicas answer alike, c: timeout.   holdfast explain no_route\n"
        );
        assert!(!missing.all_serve);
        assert_eq!(compared(vec![document("a", 101, "1h")], &[]).closing(), "1/1 replica\n");
    }

    #[test]
    fn the_answer_is_that_of_most_and_the_others_say_in_what_they_differ() {
        let documents = vec![document("a", 404, "2h"), document("b", 101, "1h"), document("c", 101, "1h")];
        let differ = compared(documents, &["d"]);
        assert_eq!((differ.answer.status, differ.all_serve), (101, false));
        assert_eq!(
            differ.closing(),
            "differs  a  status is 404 no_route, not 101\n            timeouts.idle is 2h route, not 1h route\n\
             2/4 replicas answer alike, d: timeout\n"
        );
    }
}
