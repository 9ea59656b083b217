//! Figures to medians, medians to ratios, ratios to words. No I/O.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use serde_json::json;

use super::peer::{Peer, Program};
use crate::load::Row;

/// What was measured: per row and peer, a figure per round.
#[derive(Default)]
pub struct Figures(BTreeMap<Row, BTreeMap<Peer, Vec<f64>>>);

/// Under what conditions.
pub struct Setting {
    pub date: String,
    pub machine: String,
    pub rounds: u32,
    /// The share of the machine that other programs took, 0 to 1.
    pub others: f64,
    pub cores: String,
}

/// What Holdfast is held to in a row.
#[derive(Clone, Copy)]
enum Bar {
    /// At most so much.
    AtMost(f64),
    /// At most so many times the best peer's.
    OfBest(f64),
    /// At most so many times its own figure in another row.
    Of(Row, f64),
}

/// How a row came out.
struct Outcome {
    /// Holdfast's figure over the best peer's.
    ratio: Option<f64>,
    bar: String,
    verdict: Verdict,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Holds,
    /// Above the bar by no more than the noise.
    Close,
    Misses,
    /// There is nothing to compare with.
    Open,
}

impl Figures {
    pub fn add(&mut self, row: Row, peer: Peer, figure: f64) {
        self.0.entry(row).or_default().entry(peer).or_default().push(figure);
    }

    fn median(&self, row: Row, peer: Peer) -> Option<f64> {
        let mut figures = self.0.get(&row)?.get(&peer)?.clone();
        figures.sort_unstable_by(f64::total_cmp);
        let (below, above) = (figures.len().checked_sub(1)? / 2, figures.len() / 2);
        Some(figures[below].midpoint(figures[above]))
    }

    /// The lowest median of the others.
    fn best_peer(&self, row: Row) -> Option<f64> {
        let peers = self.0.get(&row)?.keys().filter(|peer| **peer != Peer::Holdfast);
        peers.filter_map(|peer| self.median(row, *peer)).min_by(f64::total_cmp)
    }

    fn outcome(&self, row: Row) -> Outcome {
        let ours = self.median(row, Peer::Holdfast);
        let best = self.best_peer(row);
        let (limit, bar) = match bar(row) {
            Bar::AtMost(limit) => (Some(limit), format!("≤ {}", figure_text(row, limit))),
            Bar::OfBest(times) => (best.map(|best| best * times), format!("≤ {times} × best")),
            Bar::Of(other, times) => {
                let limit = self.median(other, Peer::Holdfast).map(|figure| figure * times);
                (limit, format!("≤ {times} × {}", other.name()))
            }
        };
        let verdict = match (ours, limit) {
            (Some(ours), Some(limit)) if ours <= limit => Verdict::Holds,
            (Some(ours), Some(limit)) if ours <= limit * NOISE => Verdict::Close,
            (Some(_), Some(_)) => Verdict::Misses,
            _ => Verdict::Open,
        };
        Outcome {
            ratio: ours.zip(best).map(|(ours, best)| ours / best),
            bar,
            verdict,
        }
    }
}

impl Setting {
    pub fn new(rounds: u32, others: f64, cores: String) -> Self {
        let date = format!("{:.10}", jiff::Timestamp::now().to_string());
        Self {
            date,
            machine: machine(),
            rounds,
            others,
            cores,
        }
    }

    fn sentence(&self) -> String {
        let rounds = if self.rounds == 1 {
            "1 round".to_owned()
        } else {
            format!("medians of {} rounds", self.rounds)
        };
        let mut text = format!("{}: {}; {rounds}; {}.", self.date, self.machine, self.cores);
        if self.others > QUIET {
            let _ = write!(
                text,
                " Not a quiet machine: other programs took {:.0}% of it.",
                self.others * 100.0
            );
        }
        text
    }
}

fn bar(row: Row) -> Bar {
    match row {
        Row::Idle => Bar::AtMost(2048.0),
        Row::IdleAfterMessage => Bar::Of(Row::Idle, 1.1),
        Row::Echo64 => Bar::OfBest(1.05),
        Row::Echo16K | Row::Echo256K => Bar::OfBest(0.8),
        Row::OpenClose => Bar::OfBest(1.0),
        Row::P99 => Bar::OfBest(1.1),
        Row::TlsIdle => Bar::AtMost(6144.0),
        Row::TlsIdleAfterMessage => Bar::Of(Row::TlsIdle, 1.1),
        Row::TlsEcho64 | Row::TlsOpenClose => Bar::OfBest(1.0),
        Row::TlsEcho16K => Bar::OfBest(0.85),
    }
}

fn title(row: Row) -> &'static str {
    match row {
        Row::Idle => "idle tunnel, bytes",
        Row::IdleAfterMessage => "idle tunnel after 1 MiB each way, bytes",
        Row::Echo64 => "echo 64 B, µs of CPU per message",
        Row::Echo16K => "echo 16 KiB, µs of CPU per message",
        Row::Echo256K => "echo 256 KiB, µs of CPU per message",
        Row::OpenClose => "open + close, µs of CPU per connection",
        Row::P99 => "p99 at 5,000 messages/s over 1,000 tunnels, µs",
        Row::TlsIdle => "idle TLS tunnel, bytes",
        Row::TlsIdleAfterMessage => "idle TLS tunnel after 1 MiB each way, bytes",
        Row::TlsEcho64 => "TLS echo 64 B, µs of CPU per message",
        Row::TlsEcho16K => "TLS echo 16 KiB, µs of CPU per message",
        Row::TlsOpenClose => "TLS open + close, no resumption, µs of CPU per connection",
    }
}

/// A table of medians with ratios and verdicts, and a sentence on how they were taken.
pub fn markdown(setting: &Setting, programs: &[Program], figures: &Figures) -> String {
    let mut table = vec![vec![String::new()]];
    table[0].extend(programs.iter().map(|program| format!("{} {}", program.peer, program.version)));
    table[0].extend(["of best peer", "bar", ""].map(String::from));
    for &row in figures.0.keys() {
        let mut line = vec![title(row).to_owned()];
        line.extend(programs.iter().map(|program| {
            figures
                .median(row, program.peer)
                .map_or(String::new(), |figure| figure_text(row, figure))
        }));
        let outcome = figures.outcome(row);
        line.push(outcome.ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")));
        line.push(outcome.bar);
        line.push(outcome.verdict.word().to_owned());
        table.push(line);
    }
    format!("{}\n\n{}", setting.sentence(), aligned(&table))
}

/// Every figure of every round.
pub fn json(setting: &Setting, programs: &[Program], figures: &Figures) -> String {
    let rows: BTreeMap<_, BTreeMap<_, _>> = figures
        .0
        .iter()
        .map(|(row, peers)| {
            (
                row.name(),
                peers.iter().map(|(peer, figures)| (peer.to_string(), figures)).collect(),
            )
        })
        .collect();
    let versions: BTreeMap<_, _> = programs
        .iter()
        .map(|program| (program.peer.to_string(), &program.version))
        .collect();
    let value = json!({
        "date": setting.date,
        "machine": setting.machine,
        "cores": setting.cores,
        "rounds": setting.rounds,
        "others": setting.others,
        "versions": versions,
        "rows": rows,
    });
    format!("{value:#}\n")
}

/// Whether no row misses its bar.
pub fn bars_hold(figures: &Figures) -> bool {
    figures.0.keys().all(|row| figures.outcome(*row).verdict != Verdict::Misses)
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Close => "holds within noise",
            Self::Misses => "MISSES",
            Self::Open => "",
        }
    }
}

fn figure_text(row: Row, figure: f64) -> String {
    match row {
        Row::Idle | Row::IdleAfterMessage | Row::P99 | Row::TlsIdle | Row::TlsIdleAfterMessage => {
            thousands(figure.round() as i64)
        }
        Row::Echo64 | Row::Echo16K | Row::Echo256K | Row::OpenClose => format!("{figure:.2}"),
        Row::TlsEcho64 | Row::TlsEcho16K | Row::TlsOpenClose => format!("{figure:.2}"),
    }
}

fn thousands(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// As a markdown table whose source reads well too: words left, figures right.
fn aligned(table: &[Vec<String>]) -> String {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|at| table.iter().map(|line| line[at].chars().count()).max().unwrap_or(0).max(3))
        .collect();
    let is_text = |at: usize| at == 0 || at + 2 >= columns;
    let mut text = String::new();
    for (number, line) in table.iter().enumerate() {
        for (at, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if is_text(at) {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if number == 0 {
            for (at, width) in widths.iter().enumerate() {
                let _ = if is_text(at) {
                    write!(text, "| {:-<width$} ", "")
                } else {
                    write!(text, "| {:->width$} ", ":")
                };
            }
            text.push_str("|\n");
        }
    }
    text
}

/// The processor and the kernel.
fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, model)| model);
    let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    format!("{cores} cores of {model}, Linux {kernel}")
}

/// Differences up to this factor are noise.
const NOISE: f64 = 1.03;
/// Above this share of other programs the report says so.
const QUIET: f64 = 0.02;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_medians_to_the_best_peer() {
        let mut figures = Figures::default();
        for (peer, values) in [
            (Peer::Holdfast, [9.0, 1.0, 4.0]),
            (Peer::Nginx, [5.0, 5.0, 100.0]),
            (Peer::Envoy, [8.0, 8.0, 8.0]),
        ] {
            values.into_iter().for_each(|figure| figures.add(Row::Echo16K, peer, figure));
        }
        let outcome = figures.outcome(Row::Echo16K);
        assert_eq!(outcome.ratio, Some(0.8));
        assert!(outcome.verdict == Verdict::Holds);
        figures.add(Row::Echo16K, Peer::Holdfast, 9.0);
        assert_eq!(figures.median(Row::Echo16K, Peer::Holdfast), Some(6.5));
        assert!(!bars_hold(&figures));
    }

    #[test]
    fn a_bar_on_itself_needs_the_other_row() {
        let mut figures = Figures::default();
        figures.add(Row::IdleAfterMessage, Peer::Holdfast, 1100.0);
        assert!(figures.outcome(Row::IdleAfterMessage).verdict == Verdict::Open);
        figures.add(Row::Idle, Peer::Holdfast, 1000.0);
        assert!(figures.outcome(Row::IdleAfterMessage).verdict == Verdict::Holds);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!([0, 999, 1000, -1_234_567].map(thousands), ["0", "999", "1,000", "-1,234,567"]);
    }
}
