//! Ends for a person: the answer in a sentence, the newest in a table, all by cause, and what to read next.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::figures::{age, asked, clock, count, fraction, percent, short, text, time};
use crate::cli::output::{Cell, Screen, Table, Tone};
use crate::proxy::end::Cause as EndCause;

use super::answer::{Answer, Cause};

/// The whole answer.
pub(super) fn render(answer: &Answer, since: Duration, wide: bool, screen: &Screen) -> String {
    let mut out = headline(answer, since, screen);
    if !answer.entries.is_empty() {
        let mut table = Table::new(columns(wide)).right(right(wide));
        for entry in &answer.entries {
            table.row(row(entry, wide, Timestamp::now()));
        }
        out.push_str(&table.render(screen));
        let listed = answer.entries.len() as u64;
        let all: u64 = answer.counts().iter().sum();
        if all > listed {
            let _ = writeln!(out, "... and {} more: --limit", count(all - listed));
        }
    }
    sums(&mut out, answer, screen);
    out
}

/// What happened, and whether anything of it was unasked for.
fn headline(answer: &Answer, since: Duration, screen: &Screen) -> String {
    let [ended, refused] = answer.counts();
    let failed: u64 = answer
        .causes
        .iter()
        .filter(|cause| !cause.is_refusal && is_failure(&cause.word))
        .map(|cause| cause.count)
        .sum();
    let tone = match (failed, refused) {
        (0, 0) => Tone::Good,
        _ => Tone::Warning,
    };
    let said = match (ended, refused, failed) {
        (0, 0, _) => "nothing has ended".to_owned(),
        (0, refused, _) => format!("nothing has ended, {} refused", handshakes(refused)),
        (ended, _, 0) => format!("{} ended, each because a side or a setting said so", connections(ended)),
        (ended, _, failed) => format!("{} of {} ended without being asked to", count(failed), connections(ended)),
    };
    let refusals = match (ended, refused) {
        (1.., 1..) => format!(", {} refused", handshakes(refused)),
        _ => String::new(),
    };
    format!("{}  {said}{refusals} in {}\n", screen.mark(tone), asked(since))
}

/// All by cause, whether that is all, who has answered, and the next command.
fn sums(out: &mut String, answer: &Answer, screen: &Screen) {
    let counts = answer.counts();
    for (is_refusal, whole) in [(false, counts[0]), (true, counts[1])] {
        let of: Vec<&Cause> = answer.causes.iter().filter(|cause| cause.is_refusal == is_refusal).collect();
        if of.is_empty() {
            continue;
        }
        let mut words: Vec<String> = of.iter().take(NAMED).map(|cause| sum(cause, whole)).collect();
        let rest: u64 = of.iter().skip(NAMED).map(|cause| cause.count).sum();
        if rest > 0 {
            words.push(format!("others {}", count(rest)));
        }
        let title = if is_refusal { "refused: " } else { "" };
        let _ = writeln!(out, "{title}{}", words.join("  "));
    }
    for (since, what) in answer.complete_since.iter().zip(["ends", "refusals"]) {
        if let Some(since) = since {
            let since = clock(since, Timestamp::now());
            let remembers = count(answer.remembers);
            let _ = writeln!(
                out,
                "{}  {what} before {since} are not all here: a replica remembers {remembers} (--recent-ends)",
                screen.mark(Tone::Warning)
            );
        }
    }
    if answer.remembers == 0 {
        let _ = writeln!(
            out,
            "{}  nothing is remembered: --recent-ends is 0",
            screen.mark(Tone::Warning)
        );
    }
    for replica in &answer.silent {
        let _ = writeln!(out, "{}  {replica}: a worker does not answer", screen.mark(Tone::Bad));
    }
    let next = match remarkable(&answer.causes) {
        Some(word) => format!("holdfast explain {word}"),
        None => "holdfast connections".to_owned(),
    };
    let _ = writeln!(out, "{} open, {}.   {next}", count(answer.connections), answer.closing);
}

/// `endpoint_gone 201 (18%: chat-0)`.
fn sum(cause: &Cause, whole: u64) -> String {
    let mut endpoints: Vec<(&String, &u64)> = cause.endpoints.iter().collect();
    endpoints.sort_by(|a, b| b.1.cmp(a.1));
    // An endpoint is worth its name where it has most of a cause that is a failure.
    let mostly = match endpoints.first() {
        Some((name, most)) if is_failure(&cause.word) && 2 * **most > cause.count => format!(": {name}"),
        _ => String::new(),
    };
    format!(
        "{} {} ({}{mostly})",
        cause.word,
        count(cause.count),
        percent(cause.count, whole)
    )
}

/// The cause to read about first: the most frequent one that nobody asked for, else the most frequent refusal, else what there is.
fn remarkable(causes: &[Cause]) -> Option<&str> {
    let mut ranked: Vec<&Cause> = causes.iter().filter(|cause| cause.word != OF_ENDPOINT).collect();
    ranked.sort_by_key(|cause| (rank(cause), std::cmp::Reverse(cause.count)));
    ranked.first().map(|cause| cause.word.as_str())
}

fn rank(cause: &Cause) -> u8 {
    match (cause.is_refusal, &*cause.word) {
        (_, "internal") => 0,
        (false, word) if is_failure(word) => 1,
        (true, _) => 2,
        (false, _) => 3,
    }
}

/// Ends as they come: a table whose columns only ever get wider.
pub(super) struct Lines {
    wide: bool,
    widths: Vec<usize>,
    begun: bool,
}

impl Lines {
    pub(super) fn new(wide: bool) -> Self {
        Self {
            wide,
            widths: Vec::new(),
            begun: false,
        }
    }

    /// These entries, oldest first, below the header the first time.
    pub(super) fn render(&mut self, answer: &Answer, screen: &Screen) -> String {
        let rows: Vec<Vec<Cell>> = answer
            .entries
            .iter()
            .map(|entry| row(entry, self.wide, Timestamp::now()))
            .collect();
        if self.begun && rows.is_empty() {
            return String::new();
        }
        let header = match std::mem::replace(&mut self.begun, true) {
            true => vec![""; columns(self.wide).len()],
            false => columns(self.wide),
        };
        let mut table = Table::new(header).right(right(self.wide)).at_least(&self.widths);
        for row in rows {
            table.row(row);
        }
        self.widths = table.widths();
        table.render(screen)
    }
}

fn columns(wide: bool) -> Vec<&'static str> {
    let mut columns = vec![
        "TIME",
        "ROUTE",
        "CLIENT",
        "ENDPOINT",
        "AGE",
        "BY",
        "CAUSE",
        "CLIENT SAW",
        "ENDPOINT SAW",
        "IN / OUT",
    ];
    if wide {
        columns.extend(["MESSAGES", "RTT", "ID", "REPLICA", "TARGET"]);
    }
    columns
}

fn right(_wide: bool) -> [usize; 1] {
    [4]
}

fn row(entry: &Value, wide: bool, today: Timestamp) -> Vec<Cell> {
    let is_refusal = entry["event.name"] == "holdfast.connection.refused";
    let word = if is_refusal {
        &entry["error.type"]
    } else {
        &entry["holdfast.end.cause"]
    };
    let word = text(word);
    let cause = match is_refusal || is_failure(word) {
        true => Cell::toned(Tone::Bad, word),
        false => Cell::from(word),
    };
    let mut row = vec![
        Cell::from(clock(text(&entry["timestamp"]), today)),
        Cell::from(route(entry)),
        Cell::from(text(&entry["client.address"])),
        Cell::from(or_none(text(&entry["holdfast.endpoint.pod"]))),
        Cell::from(if is_refusal {
            "-".to_owned()
        } else {
            age(fraction(&entry["holdfast.duration_seconds"]))
        }),
        Cell::from(text(&entry["holdfast.end.initiator"])),
        cause,
        Cell::from(saw(entry, Side::Client)),
        Cell::from(saw(entry, Side::Endpoint)),
        Cell::from(moved(entry, "bytes")),
    ];
    if wide {
        let rtt = &entry["holdfast.heartbeat.rtt_seconds"];
        row.extend([
            Cell::from(moved(entry, "messages")),
            Cell::from(rtt.as_f64().map_or_else(|| "-".to_owned(), time)),
            Cell::from(text(&entry["holdfast.connection.id"])),
            Cell::from(text(&entry["replica"])),
            Cell::from(target(entry)),
        ]);
    }
    row
}

/// One of the two sides of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Side {
    Client,
    Endpoint,
}

impl Side {
    pub(in crate::cli) fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
        }
    }
}

/// What a side made of the end: the code that it was told, the status of a refusal, or that it was told nothing.
pub(super) fn saw(entry: &Value, side: Side) -> String {
    if let Some(status) = entry["http.response.status_code"].as_u64() {
        return match side {
            Side::Client => status.to_string(),
            Side::Endpoint => "-".to_owned(),
        };
    }
    let code = match side {
        Side::Client => &entry["holdfast.close.client.code"],
        Side::Endpoint => &entry["holdfast.close.endpoint.code"],
    };
    if let Some(code) = code.as_u64() {
        return code.to_string();
    }
    match (side, text(&entry["holdfast.end.cause"])) {
        (Side::Client, "reset") | (Side::Endpoint, "endpoint_gone") => "- (gone)",
        (Side::Client, "client_vanished") | (Side::Endpoint, "endpoint_vanished") => "- (vanished)",
        _ => "1006 (cut)",
    }
    .to_owned()
}

/// Namespace and name; a dash where no rule matched.
pub(in crate::cli) fn route(entry: &Value) -> String {
    match (
        entry["holdfast.route.namespace"].as_str(),
        entry["holdfast.route.name"].as_str(),
    ) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => "-".to_owned(),
    }
}

/// Host and path.
pub(in crate::cli) fn target(entry: &Value) -> String {
    let target = format!("{}{}", text(&entry["server.address"]), text(&entry["url.path"]));
    or_none(&target).to_owned()
}

/// What came from the client, and from the endpoint.
pub(in crate::cli) fn moved(entry: &Value, what: &str) -> String {
    let amount = |direction| entry[format!("holdfast.{what}.{direction}")].as_u64();
    match (amount("to_endpoint"), amount("to_client")) {
        (Some(to_endpoint), Some(to_client)) => format!("{} / {}", short(to_endpoint as f64), short(to_client as f64)),
        _ => "-".to_owned(),
    }
}

pub(in crate::cli) fn or_none(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Whether an end of this cause is one that nobody asked for.
pub(super) fn is_failure(word: &str) -> bool {
    EndCause::ALL.iter().any(|cause| cause.word() == word && cause.is_failure())
}

fn connections(ended: u64) -> String {
    format!("{} connection{}", count(ended), if ended == 1 { "" } else { "s" })
}

fn handshakes(refused: u64) -> String {
    format!("{} handshake{}", count(refused), if refused == 1 { "" } else { "s" })
}

/// The reason word of an endpoint's own answer, which is not ours to explain.
pub(super) const OF_ENDPOINT: &str = "endpoint";

/// Causes that are named in a line.
const NAMED: usize = 6;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cause(word: &str, count: u64, is_refusal: bool) -> Cause {
        Cause {
            word: word.to_owned(),
            is_refusal,
            count,
            ..Cause::default()
        }
    }

    #[test]
    fn what_nobody_asked_for_is_read_about_first() {
        let word = |causes: &[Cause]| remarkable(causes).map(str::to_owned);
        let closed = cause("closed", 900, false);
        assert_eq!(word(&[]), None);
        assert_eq!(word(std::slice::from_ref(&closed)).as_deref(), Some("closed"));
        let refused = [closed.clone(), cause("no_route", 3, true), cause("endpoint", 9, true)];
        assert_eq!(word(&refused).as_deref(), Some("no_route"));
        let gone = [
            closed,
            cause("reset", 4, false),
            cause("endpoint_gone", 7, false),
            cause("no_route", 99, true),
        ];
        assert_eq!(word(&gone).as_deref(), Some("endpoint_gone"));
    }

    #[test]
    fn an_end_without_a_close_is_a_1006_unless_that_side_was_gone() {
        let end = |cause: &str, client: Option<u16>, endpoint: Option<u16>| {
            let entry = json!({"holdfast.end.cause": cause, "holdfast.close.client.code": client, "holdfast.close.endpoint.code": endpoint});
            [saw(&entry, Side::Client), saw(&entry, Side::Endpoint)]
        };
        assert_eq!(end("closed", Some(1000), Some(1000)), ["1000", "1000"]);
        assert_eq!(end("reset", None, Some(1001)), ["- (gone)", "1001"]);
        assert_eq!(end("endpoint_vanished", Some(1012), None), ["1012", "- (vanished)"]);
        assert_eq!(end("client_stalled", None, Some(1001)), ["1006 (cut)", "1001"]);
        let refusal = json!({"http.response.status_code": 503});
        assert_eq!([saw(&refusal, Side::Client), saw(&refusal, Side::Endpoint)], ["503", "-"]);
    }
}
