//! The answer of `why` for a person.

use std::fmt::Write as _;

use crate::cli::output::{Cell, Screen, Table, Tone};

use crate::why::{Answer, Candidate};

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
    guards(&mut table, answer);
    picks(&mut table, answer);
    out.push_str(&table.render(screen));
    policy(&mut out, answer);
    out
}

fn headline(out: &mut String, answer: &Answer, screen: &Screen) {
    let rule = answer
        .rule
        .as_ref()
        .map(|rule| format!("{}  ", rule.with_word()))
        .unwrap_or_default();
    if let Some(reason) = &answer.reason {
        let status = screen.toned(Tone::Bad, &format!("{} {reason}", answer.status));
        let _ = writeln!(out, "{status}  {rule}{}", answer.message);
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
    let entry = match answer.entry.as_deref() {
        Some(entry) if *entry == answer.host => "exact".to_owned(),
        Some(entry) if entry.starts_with('*') => format!("wildcard {entry}"),
        Some(entry) => entry.to_owned(),
        None => "no route names it, a wildcard over it, or every host".to_owned(),
    };
    table.row([title("host", 0), answer.host.clone(), entry, owner]);
}

fn rules(table: &mut Table, answer: &Answer) {
    for (index, entry) in answer.considered.iter().enumerate() {
        let title = title("rules", index);
        let verdict = match entry.is_match() {
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

fn guards(table: &mut Table, answer: &Answer) {
    for (index, guard) in answer.guards.iter().enumerate() {
        let name = guard.name.rsplit('.').next().unwrap_or(&guard.name);
        let verdict = match guard.refuses() {
            true => Cell::toned(Tone::Bad, guard.verdict.to_string()),
            false => Cell::from(guard.verdict.to_string()),
        };
        table.row([
            Cell::from(title("guards", index)),
            Cell::from(name.to_owned()),
            Cell::from(guard.value.clone()),
            verdict,
        ]);
    }
}

fn picks(table: &mut Table, answer: &Answer) {
    let chosen = answer
        .candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| [candidate.by.clone(), place(candidate), ordinal(index + 1)]);
    let others = answer.others.iter().map(|other| {
        let place = format!("{} {}", place(other), other.state);
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

/// An endpoint without a pod has its address for a name.
fn place(of: &Candidate) -> String {
    let open = of.open.map_or_else(String::new, |open| format!(" ({open} open)"));
    if of.address.starts_with(&of.name) {
        format!("{}{open}", of.address)
    } else {
        format!("{} {}{open}", of.name, of.address)
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
