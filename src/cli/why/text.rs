//! The answer of `why` for a person.

use std::fmt::Write as _;

use crate::cli::offline::counted;
use crate::cli::output::{Cell, Screen, Table, Tone};

use super::answer::Answer;

/// The whole answer: what the client gets, then why.
pub(super) fn render(answer: &Answer, screen: &Screen) -> String {
    let mut out = String::new();
    headline(&mut out, answer, screen);
    if let Some(nearest) = &answer.nearest {
        let _ = writeln!(out, "nearest  {nearest}");
    }
    let mut table = Table::new([]);
    host(&mut table, answer);
    if let Some(rewritten) = &answer.rewritten {
        table.row([
            title("asked", 0),
            rewritten.clone(),
            "of the endpoint".to_owned(),
            String::new(),
        ]);
    }
    rules(&mut table, answer);
    picks(&mut table, answer);
    out.push_str(&table.render(screen));
    policy(&mut out, answer);
    if let Some(reason) = answer.reason {
        let _ = writeln!(out, "holdfast explain {reason}");
    } else if answer.problems > 0 {
        let _ = writeln!(out, "{} there: holdfast check says what", counted(answer.problems, "problem"));
    }
    out
}

fn headline(out: &mut String, answer: &Answer, screen: &Screen) {
    let rule = answer
        .rule
        .as_ref()
        .map(|rule| format!("{}  ", rule.with_word()))
        .unwrap_or_default();
    if let Some(reason) = answer.reason {
        let status = screen.toned(Tone::Bad, &format!("{} {reason}", answer.status));
        let _ = writeln!(out, "{status}  {rule}{}", answer.refusal);
        return;
    }
    if let Some(answered) = &answer.answered {
        let status = match answer.status {
            0 => "plain request".to_owned(),
            status => status.to_string(),
        };
        let _ = writeln!(out, "{}  {rule}{answered}", screen.toned(Tone::Good, &status));
        return;
    }
    let to = answer
        .candidates
        .first()
        .map(|first| match first.address.starts_with(&first.name) {
            true => first.address.clone(), // an endpoint without a pod has its address for a name
            false => format!("{} {}", first.name, first.address),
        });
    let status = match answer.status {
        0 => "plain request".to_owned(),
        status => status.to_string(),
    };
    let _ = writeln!(
        out,
        "{}  {rule}->  {}",
        screen.toned(Tone::Good, &status),
        to.unwrap_or_default()
    );
}

fn host(table: &mut Table, answer: &Answer) {
    let owner = answer
        .owner
        .as_ref()
        .map_or_else(String::new, |owner| format!("owner namespace {owner}"));
    table.row([title("host", 0), answer.host.clone(), answer.entry_kind.clone(), owner]);
}

fn rules(table: &mut Table, answer: &Answer) {
    for (index, entry) in answer.considered.iter().enumerate() {
        let title = title("rules", index);
        let verdict = match entry.is_match {
            true => Cell::toned(Tone::Good, entry.verdict.clone()),
            false => Cell::from(entry.verdict.clone()),
        };
        table.row([
            Cell::from(title),
            Cell::from(entry.rule.to_string()),
            Cell::from(entry.conditions.clone()),
            verdict,
        ]);
    }
    if answer.omitted > 0 {
        table.row(["", &format!("and {} more", answer.omitted), "", ""]);
    }
    for (index, route) in answer.rejected.iter().enumerate() {
        let title = title("out", index);
        let reason = Cell::toned(Tone::Bad, route.reason.clone());
        table.row([
            Cell::from(title),
            Cell::from(route.to_string()),
            Cell::from("Accepted=False"),
            reason,
        ]);
    }
}

fn picks(table: &mut Table, answer: &Answer) {
    let chosen = answer.candidates.iter().enumerate().map(|(index, candidate)| {
        let place = place(&candidate.name, &candidate.address);
        [candidate.by.clone(), place, ordinal(index + 1)]
    });
    let others = answer.others.iter().map(|other| {
        let place = format!("{} {}", place(&other.name, &other.address), other.state);
        ["-".to_owned(), place, other.by.clone()]
    });
    for (index, [by, place, why]) in chosen.chain(others).enumerate() {
        table.row([title("pick", index), by, place, why]);
    }
}

/// Several to a line, with the short names.
fn policy(out: &mut String, answer: &Answer) {
    for (index, line) in answer.policy.chunks(POLICIES).enumerate() {
        let title = title("policy", index);
        let words = line.iter().map(|policy| {
            let name = policy.name.trim_start_matches("timeouts.").trim_end_matches(".interval");
            format!("{name} {} {}", policy.value, policy.origin)
        });
        let _ = writeln!(out, "{title}  {}", words.collect::<Vec<_>>().join("   "));
    }
}

/// The first column: a word in the first row of a part, as wide as the widest.
fn title(word: &str, row: usize) -> String {
    format!("{:7}", if row == 0 { word } else { "" })
}

fn place(name: &str, address: &str) -> String {
    if address.starts_with(name) {
        address.to_owned()
    } else {
        format!("{name} {address}")
    }
}

fn ordinal(number: usize) -> String {
    match number {
        1 => "1st".to_owned(),
        2 => "2nd".to_owned(),
        3 => "3rd".to_owned(),
        number => format!("{number}th"),
    }
}

/// In one line.
const POLICIES: usize = 4;
