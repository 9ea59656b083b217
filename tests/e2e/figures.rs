//! What each event cost the crowd: asserted by the scenarios, printed, and written into a document when that is asked for.

use std::{collections::BTreeMap, env, fmt::Display, fs, path::Path, time::Duration};

use serde_json::{Value, json};

use crate::{crowd::Tally, record};

/// The rows of a scenario, under its name.
pub struct Figures {
    name: String,
    rows: Vec<Row>,
}

/// One event.
pub struct Row {
    pub event: String,
    /// Connections that were open when it began.
    pub connections: usize,
    /// Reconnects a second that were asked for, where somebody asked.
    pub pace: Option<f64>,
    pub took: Duration,
    pub tally: Tally,
}

impl Row {
    /// Reconnects for each client of the crowd.
    pub fn per_client(&self) -> f64 {
        self.tally.reconnected() as f64 / self.connections as f64
    }
}

impl Figures {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, and shows it.
    pub fn add(&mut self, row: Row) -> &Row {
        println!("{}", line(&row));
        self.rows.push(row);
        self.rows.last().unwrap()
    }

    /// Writes every figure below target/tmp, and, if HOLDFAST_E2E_RECORD is set, the table into docs/continuity.md.
    pub fn write(&self) {
        let document = json!({"version": 1, "events": self.rows.iter().map(document).collect::<Vec<_>>()});
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("continuity-{}.json", self.name));
        fs::write(file, format!("{document:#}\n")).unwrap();
        if env::var_os("HOLDFAST_E2E_RECORD").is_some() {
            let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/continuity.md");
            record::put(&page, &self.name, &self.table()).unwrap_or_else(|error| panic!("{error}"));
        }
    }

    fn table(&self) -> String {
        self.rows.iter().fold(HEAD.to_owned(), |table, row| table + &line(row) + "\n")
    }
}

const HEAD: &str = "\
| event | messages echoed meanwhile | connections ended | messages lost | handshakes refused | reconnects per client | most reconnects in a second | longest without a connection |
| --- | ---: | --- | --- | --- | ---: | --- | ---: |
";

fn line(row: &Row) -> String {
    let Row { event, tally, pace, .. } = row;
    let per_client = match tally.reconnected() {
        0 => "0".to_owned(),
        _ => format!("{:.3}", row.per_client()),
    };
    let peak = match (tally.peak_reconnects(), pace) {
        (0, _) => "-".to_owned(),
        (peak, None) => peak.to_string(),
        (peak, Some(pace)) => format!("{peak}, asked for {pace:.0}"),
    };
    let away = match tally.longest_away() {
        Duration::ZERO => "-".to_owned(),
        away => format!("{:.2} s", away.as_secs_f64()),
    };
    let (ended, lost, refused) = (counts(&tally.ends), counts(&tally.lost), counts(&tally.refused));
    let echoed = thousands(tally.echoed);
    format!("| {event} | {echoed} | {ended} | {lost} | {refused} | {per_client} | {peak} | {away} |")
}

/// `0`, or each count with what is counted.
fn counts<K: Display>(counts: &BTreeMap<K, u64>) -> String {
    let parts: Vec<String> = counts
        .iter()
        .map(|(what, count)| format!("{} × {what}", thousands(*count)))
        .collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn document(row: &Row) -> Value {
    let tally = &row.tally;
    json!({
        "event": row.event,
        "connections": row.connections,
        "seconds": row.took.as_secs_f64(),
        "sent": tally.sent,
        "echoed": tally.echoed,
        "lost": words(&tally.lost),
        "ended": words(&tally.ends),
        "refused": tally.refused,
        "reconnects": tally.reconnected(),
        "reconnects_per_client": row.per_client(),
        "most_reconnects_of_a_client": tally.most_reconnects(),
        "peak_reconnects_per_second": tally.peak_reconnects(),
        "peak_ends_per_second": tally.peak_ends(),
        "pace": row.pace,
        "seconds_from_first_to_last_end": tally.ending_took().as_secs_f64(),
        "longest_without_connection_seconds": tally.longest_away().as_secs_f64(),
    })
}

fn words<K: Display>(counts: &BTreeMap<K, u64>) -> BTreeMap<String, u64> {
    counts.iter().map(|(what, count)| (what.to_string(), *count)).collect()
}
