//! Open tunnels for a person.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::ends::text::{Side, moved, or_none, route, target};
use crate::cli::figures::{age, count, fraction, number, short, text, time};
use crate::cli::output::{Cell, Screen, Table, Tone};

use super::merge::Merged;

/// The answer in a sentence, the rows, and who has answered.
pub(super) fn render(merged: &Merged, wide: bool, screen: &Screen) -> String {
    let mut out = match &merged.by {
        Some(by) => headline(merged, by, screen),
        None => format!(
            "{}  {} listed\n",
            screen.mark(Tone::Good),
            connections(merged.rows.len() as u64)
        ),
    };
    for drain in &merged.draining {
        let _ = writeln!(out, "{}  {}", screen.mark(Tone::Warning), draining(drain));
    }
    if !merged.rows.is_empty() {
        out.push_str(&match &merged.by {
            Some(by) => groups(&merged.rows, by, wide).render(screen),
            None => list(&merged.rows, wide).render(screen),
        });
    }
    let [left_out, open] = merged.others;
    if left_out > 0 || open > 0 {
        let _ = writeln!(out, "... and {} more with {}: --limit", count(left_out), connections(open));
    }
    if merged.by.is_some() && !merged.knows_ends {
        let _ = writeln!(
            out,
            "{}  ENDS 5m is not all: so many ended that some are forgotten (--recent-ends)",
            screen.mark(Tone::Warning)
        );
    }
    for replica in &merged.silent {
        let _ = writeln!(out, "{}  {replica}: a worker does not answer", screen.mark(Tone::Bad));
    }
    let next = match (&merged.by, merged.rows.first()) {
        (None, Some(first)) => format!("holdfast connections --explain {}", text(&first["holdfast.connection.id"])),
        _ => "holdfast ends --since 5m".to_owned(),
    };
    let _ = writeln!(out, "{}.   {next}", merged.closing);
    out
}

fn headline(merged: &Merged, by: &str, screen: &Screen) -> String {
    let sum = |what: &str| merged.rows.iter().map(|row| number(&row[what])).sum::<u64>();
    let with = merged.rows.iter().filter(|row| number(&row["open"]) > 0).count() as u64 + merged.others[0];
    let kinds = if with == 1 { by.to_owned() } else { format!("{by}s") };
    let mut said = format!("{} open", connections(merged.open));
    if merged.open > 0 && !matches!(by, "age" | "worker") {
        let _ = write!(said, " on {} {kinds}", count(with));
        if by == "client" {
            said = said.replace(" on ", " of ");
        }
    }
    let stalled = sum("stalled");
    if stalled > 0 {
        let _ = write!(said, ", {} stalled", count(stalled));
    }
    let tone = match stalled {
        0 => Tone::Good,
        _ => Tone::Warning,
    };
    format!("{}  {said}\n", screen.mark(tone))
}

fn draining(drain: &Value) -> String {
    let replica = text(&drain["replica"]);
    let (delay, window) = (fraction(&drain["delay_seconds"]), fraction(&drain["window_seconds"]));
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs_f64() - fraction(&drain["since"]);
    match text(&drain["stage"]) {
        "announced" => format!(
            "{replica} shuts down: it begins to end its tunnels in {}",
            age((delay - since).max(0.0))
        ),
        "closing" => format!(
            "{replica} shuts down: it ends its tunnels with 1012, {} left",
            age((window - since).max(0.0))
        ),
        _ => format!("{replica} has drained"),
    }
}

fn groups(rows: &[Value], by: &str, wide: bool) -> Table {
    let mut columns: Vec<&'static str> = match by {
        "endpoint" => vec!["ENDPOINT", "STATE"],
        "route" => vec!["ROUTE"],
        "rule" => vec!["ROUTE", "RULE"],
        "client" => vec!["CLIENT"],
        "worker" => vec!["REPLICA", "WORKER"],
        _ => vec!["AGE"],
    };
    let names = columns.len();
    let has_ends = by != "age";
    columns.extend(["OPEN", "SHARE", "AGE p50 / max", "MSG/S IN / OUT", "RTT p50 / p99", "STALLED"]);
    if has_ends {
        columns.push("ENDS 5m");
    }
    if wide {
        columns.extend(["BYTES IN / OUT", "DELAYED", "ENDING"]);
        if by == "endpoint" {
            columns.extend(["ADDRESS", "SERVICE"]);
        }
    }
    if by == "endpoint" {
        columns.push(""); // what is to be said of one
    }
    let figures = names..names + 6 + usize::from(has_ends);
    let mut table = Table::new(columns).right(figures);
    for row in rows {
        let mut cells = naming(row, by);
        let pair = |a: &str, b: &str, write: fn(f64) -> String| {
            let one = |name: &str| row[name].as_f64().map_or_else(|| "-".to_owned(), write);
            format!("{} / {}", one(a), one(b))
        };
        let stalled = number(&row["stalled"]);
        cells.extend([
            Cell::from(count(number(&row["open"]))),
            Cell::from(
                row["share"]
                    .as_f64()
                    .map_or_else(|| "-".to_owned(), |share| format!("{:.1}%", 100.0 * share)),
            ),
            Cell::from(pair("age_p50_seconds", "age_max_seconds", age)),
            Cell::from(pair(
                "messages_per_second.to_endpoint",
                "messages_per_second.to_client",
                short,
            )),
            Cell::from(pair("rtt_p50_seconds", "rtt_p99_seconds", time)),
            match stalled {
                0 => Cell::from("0"),
                stalled => Cell::toned(Tone::Warning, count(stalled)),
            },
        ]);
        if has_ends {
            cells.push(Cell::from(count(number(&row["ends_5m"]))));
        }
        if wide {
            cells.extend([
                Cell::from(moved(row, "bytes")),
                Cell::from(count(number(&row["delayed"]))),
                Cell::from(count(number(&row["ending"]))),
            ]);
            if by == "endpoint" {
                let address = or_none(text(&row["destination.address"])).to_owned();
                cells.push(Cell::from(format!("{address}:{}", number(&row["destination.port"]))));
                cells.push(Cell::from(text(&row["holdfast.endpoint.service"])));
            }
        }
        if by == "endpoint" {
            cells.push(Cell::from(remark(row)));
        }
        table.row(cells);
    }
    table
}

fn naming(row: &Value, by: &str) -> Vec<Cell> {
    match by {
        "endpoint" => {
            let state = text(&row["state"]);
            let tone = match state {
                "ready" => Tone::Good,
                "ejected" | "not_ready" => Tone::Bad,
                _ => Tone::Warning,
            };
            vec![Cell::from(text(&row["holdfast.endpoint.pod"])), Cell::toned(tone, state)]
        }
        "route" => vec![Cell::from(route(row))],
        "rule" => vec![Cell::from(route(row)), Cell::from(text(&row["holdfast.rule.name"]))],
        "client" => vec![Cell::from(text(&row["client.address"]))],
        "worker" => vec![
            Cell::from(text(&row["replica"])),
            Cell::from(number(&row["worker"]).to_string()),
        ],
        _ => {
            let from = age(fraction(&row["age_from_seconds"]));
            vec![Cell::from(match row["age_to_seconds"].as_f64() {
                Some(to) => format!("{from} to {}", age(to)),
                None => format!("over {from}"),
            })]
        }
    }
}

/// What is to be said of an endpoint.
fn remark(row: &Value) -> String {
    let mut said = Vec::new();
    if let Some(reason) = row["ejected_for"].as_str() {
        said.push(format!("left out for {reason}"));
    }
    if text(&row["state"]) == "removed" {
        said.push("in no route any more; keeps its tunnels".to_owned());
    }
    if let Some(limit) = row["limit"].as_u64() {
        said.push(format!("limit {} a replica", count(limit)));
    }
    said.join(", ")
}

fn list(rows: &[Value], wide: bool) -> Table {
    let mut columns = vec![
        "ID",
        "ROUTE",
        "CLIENT",
        "ENDPOINT",
        "AGE",
        "IDLE",
        "MESSAGES IN / OUT",
        "IN / OUT",
        "RTT",
    ];
    if wide {
        columns.extend(["HANDSHAKE", "TLS", "REPLICA", "TARGET"]);
    }
    columns.push("");
    let mut table = Table::new(columns).right([4, 5]);
    for row in rows {
        let or_dash = |name: &str| row[name].as_f64().map_or_else(|| "-".to_owned(), time);
        let mut cells = vec![
            Cell::from(text(&row["holdfast.connection.id"])),
            Cell::from(route(row)),
            Cell::from(text(&row["client.address"])),
            Cell::from(text(&row["holdfast.endpoint.pod"])),
            Cell::from(age(fraction(&row["holdfast.duration_seconds"]))),
            Cell::from(age(fraction(&row["idle_seconds"]))),
            Cell::from(moved(row, "messages")),
            Cell::from(moved(row, "bytes")),
            Cell::from(or_dash("holdfast.heartbeat.rtt_seconds")),
        ];
        if wide {
            cells.extend([
                Cell::from(or_dash("holdfast.handshake.duration_seconds")),
                Cell::from(or_none(text(&row["tls.protocol.version"]))),
                Cell::from(text(&row["replica"])),
                Cell::from(target(row)),
            ]);
        }
        cells.push(trouble(row));
        table.row(cells);
    }
    table
}

/// Whether a side of a tunnel does not move.
fn trouble(row: &Value) -> Cell {
    let mut said = Vec::new();
    for side in [Side::Client, Side::Endpoint].map(Side::word) {
        if let Some(stalled) = row[side]["stalled_seconds"].as_f64() {
            said.push(format!("{side} stalled for {}", age(stalled)));
        }
        if row[side]["delayed"] == true {
            said.push(format!("{side} slowed down"));
        }
    }
    if row["ending"] == true {
        said.push("ending".to_owned());
    }
    match said.is_empty() {
        true => Cell::from(""),
        false => Cell::toned(Tone::Warning, said.join(", ")),
    }
}

fn connections(open: u64) -> String {
    format!("{} connection{}", count(open), if open == 1 { "" } else { "s" })
}
