//! The answer of `why` for a person.

use std::fmt::Write as _;

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
    rules(&mut table, answer);
    picks(&mut table, answer);
    policy(&mut table, answer);
    out.push_str(&table.render(screen));
    if let Some(reason) = answer.reason {
        let _ = writeln!(out, "holdfast explain {reason}");
    } else if answer.problems > 0 {
        let _ = writeln!(out, "Something is wrong with other objects there: holdfast check says what.");
    }
    out
}

fn headline(out: &mut String, answer: &Answer, screen: &Screen) {
    let rule = answer.rule.as_ref().map(|rule| format!("{rule}  ")).unwrap_or_default();
    if let Some(reason) = answer.reason {
        let status = screen.toned(Tone::Bad, &format!("{} {reason}", answer.status));
        let _ = writeln!(out, "{status}  {rule}{}", answer.refusal);
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
    let entry = answer.entry.as_deref().unwrap_or("-");
    table.row(["host", &answer.host, entry, &answer.entry_kind]);
}

fn rules(table: &mut Table, answer: &Answer) {
    for (index, entry) in answer.considered.iter().enumerate() {
        let title = if index == 0 { "rules" } else { "" };
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
}

fn picks(table: &mut Table, answer: &Answer) {
    let mut title = "pick";
    for (index, candidate) in answer.candidates.iter().enumerate() {
        table.row([
            title,
            &candidate.by,
            &place(&candidate.name, &candidate.address),
            &ordinal(index + 1),
        ]);
        title = "";
    }
    for other in &answer.others {
        table.row([
            title,
            "-",
            &format!("{} {}", place(&other.name, &other.address), other.state),
            &other.by,
        ]);
        title = "";
    }
}

fn policy(table: &mut Table, answer: &Answer) {
    let mut title = "policy";
    for value in &answer.policy {
        table.row([title, value.name, &value.value, &value.origin]);
        title = "";
    }
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
