//! The answer of `check` for a person.

use std::fmt::Write as _;

use crate::cli::offline::counted;
use crate::cli::output::{Screen, Table, Tone};

use super::excerpt::excerpt;
use super::report::{Other, Remark, Report, RouteReport};

/// The whole answer.
pub(super) fn render(report: &Report, screen: &Screen, with_values: bool) -> String {
    let names = report.routes.iter().map(|route| route.name.to_string().chars().count());
    let width = names.max().unwrap_or_default().min(MAX_NAME);
    let mut out = String::new();
    for other in &report.others {
        object(&mut out, other, screen);
    }
    for entry in &report.routes {
        route(&mut out, entry, width, screen);
        if entry.of_cluster {
            let _ = writeln!(out, "{INDENT}it is in the cluster, and the files change what becomes of it");
        }
        if with_values {
            values(&mut out, entry, screen);
        }
    }
    for note in &report.notes {
        let _ = writeln!(out, "{}  {note}", screen.mark(Tone::Warning));
    }
    let bad = match (report.rejected, report.warnings) {
        (0, 0) => "all accepted".to_owned(),
        (0, warnings) => counted(warnings, "warning"),
        (rejected, 0) => format!("{rejected} rejected"),
        (rejected, warnings) => format!("{rejected} rejected, {}", counted(warnings, "warning")),
    };
    let next = report
        .reason()
        .map_or_else(String::new, |reason| format!(".   holdfast explain {reason}"));
    let _ = writeln!(out, "{}: {bad}{next}", report.counts.join(", "));
    out
}

fn object(out: &mut String, other: &Other, screen: &Screen) {
    let _ = writeln!(out, "{}  {}", screen.mark(Tone::Bad), other.name);
    other.remarks.iter().for_each(|entry| remark(out, entry, screen));
}

fn route(out: &mut String, entry: &RouteReport, width: usize, screen: &Screen) {
    let name = entry.name.to_string();
    let mut line = |tone, text: &str| {
        let _ = writeln!(out, "{}  {name:width$}  {text}", screen.mark(tone));
    };
    if entry.tone == Tone::Good {
        line(Tone::Good, &entry.serves);
        return;
    }
    if !entry.refused.is_empty() {
        line(Tone::Bad, &screen.toned(Tone::Bad, "refused as it is"));
        entry.refused.iter().for_each(|entry| remark(out, entry, screen));
    }
    let mut condition = "";
    for entry in &entry.remarks {
        if entry.condition != condition {
            condition = &entry.condition;
            let tone = if condition.starts_with("Accepted") {
                Tone::Bad
            } else {
                Tone::Warning
            };
            let reason = entry.reason.as_deref().unwrap_or_default();
            let _ = writeln!(
                out,
                "{}  {name:width$}  {condition} {}",
                screen.mark(tone),
                screen.toned(tone, reason)
            );
        }
        remark(out, entry, screen);
    }
}

/// The line of the file, a caret under the place, what is wrong, and what to do.
fn remark(out: &mut String, entry: &Remark, screen: &Screen) {
    let message = &entry.fault.message;
    let Some(location) = &entry.location else {
        let _ = writeln!(out, "{INDENT}{}", entry.fault);
        return;
    };
    match excerpt(location) {
        None => {
            let _ = writeln!(out, "{INDENT}{location}  {message}");
        }
        Some(excerpt) => {
            let place = location.to_string();
            let _ = writeln!(out, "{INDENT}{place}  {}", excerpt.line);
            let blank = " ".repeat(place.chars().count() + 2 + excerpt.before);
            let carets = screen.toned(Tone::Bad, &"^".repeat(excerpt.carets));
            let _ = writeln!(out, "{INDENT}{blank}{carets} {message}");
        }
    }
    if let Some(fix) = &entry.fix {
        let _ = writeln!(out, "{INDENT}fix: {fix}");
    }
}

fn values(out: &mut String, entry: &RouteReport, screen: &Screen) {
    for rule in &entry.rules {
        let _ = writeln!(out, "{INDENT}{rule}");
    }
    let mut table = Table::new([]);
    for value in &entry.values {
        table.row([value.name.clone(), value.value.clone(), value.origin.to_string()]);
    }
    for line in table.render(screen).lines() {
        let _ = writeln!(out, "{INDENT}{line}");
    }
}

const INDENT: &str = "    ";
/// Longer names do not push everybody's line to the right.
const MAX_NAME: usize = 40;
