//! `holdfast explain WORD`: what a reason, a cause or a condition means and what to do. Needs no cluster and no network.
//!
//! docs/reasons.md is the same text, written by `make generate` and compared by a test.

mod entries;

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::cli::output::{ColorChoice, Format, Screen, Table, document, print};
use crate::cli::{Failure, NO};
use crate::proxy::end::Cause;
use crate::proxy::error::Reason;

use entries::{ENTRIES, Entry, Kind};

/// Arguments of `holdfast explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The word, as no_route or NoRoute; without it, all words are listed.
    word: Option<String>,
    /// The shape of the answer.
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    /// Write docs/reasons.md.
    #[arg(long, hide = true, conflicts_with_all = ["word", "output"])]
    markdown: bool,
}

/// Explains. 1 when the word is not known.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    match answer(args, &Screen::stdout(color)).and_then(|text| Ok(print(&text)?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(color),
    }
}

/// docs/reasons.md, whole.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(MARKDOWN_HEAD);
    for (title, intro, of) in SECTIONS {
        let _ = write!(out, "\n## {title}\n\n{intro}\n");
        for entry in ENTRIES.iter().filter(|entry| of(entry.kind)) {
            let _ = write!(out, "\n### {}\n\n{}\n{}\n\n", entry.word, entry.brief, entry.how);
            for (label, text) in entry.details() {
                let _ = writeln!(out, "- **{label}:** {text}");
            }
        }
    }
    out
}

/// Every word with what it means.
#[must_use]
pub fn words() -> Value {
    ENTRIES.iter().map(Entry::json).collect()
}

/// What a reason or a cause means, in a sentence.
pub(super) fn brief(word: &str) -> Option<&'static str> {
    let entry = ENTRIES.iter().find(|entry| entry.word == word);
    entry.map(|entry| entry.brief)
}

fn answer(args: &Args, screen: &Screen) -> Result<String, Failure> {
    if args.markdown {
        return Ok(markdown());
    }
    let Some(word) = &args.word else {
        return Ok(document(args.output, &json!({ "words": words() }))?.unwrap_or_else(|| list(screen)));
    };
    let found: Vec<&Entry> = ENTRIES.iter().filter(|entry| plain(entry.word) == plain(word)).collect();
    if found.is_empty() {
        return Err(unknown(word));
    }
    let shown = json!({ "words": found.iter().map(|entry| entry.json()).collect::<Vec<_>>() });
    let text = || found.iter().map(|entry| entry.text(screen)).collect::<Vec<_>>().join("\n");
    Ok(document(args.output, &shown)?.unwrap_or_else(text))
}

fn list(screen: &Screen) -> String {
    let mut out = String::new();
    for (title, _, of) in SECTIONS {
        let mut table = Table::new(["", "", "", ""]);
        for entry in ENTRIES.iter().filter(|entry| of(entry.kind)) {
            table.row(["", entry.word, &entry.short(), entry.brief]);
        }
        let _ = write!(out, "{title}\n{}\n", table.render(screen));
    }
    out + "holdfast explain WORD says more.\n"
}

impl Entry {
    fn text(&self, screen: &Screen) -> String {
        let mut out = format!("{}  ({})\n\n", self.word, self.kind.label());
        for line in screen.wrap(&format!("{} {}", self.brief, self.how), 0) {
            let _ = writeln!(out, "{line}");
        }
        let mut table = Table::new(["", ""]);
        for (label, text) in self.details() {
            table.row([label.to_owned(), text]);
        }
        out + "\n" + &table.render(screen)
    }

    /// Who sees what, and what to do.
    fn details(&self) -> Vec<(&'static str, String)> {
        let mut details = match self.kind {
            Kind::Reason => vec![("client sees", self.answered()), ("endpoint sees", self.seen.to_owned())],
            Kind::Cause => vec![("client sees", self.told(true)), ("endpoint sees", self.told(false))],
            Kind::Failure => vec![("seen", self.seen.to_owned())],
            Kind::Condition => vec![("note", self.seen.to_owned())],
            Kind::Finding(section) => vec![("section", section.to_owned()), ("effect", self.seen.to_owned())],
            Kind::ConditionReason(types) => {
                vec![("condition", types.to_owned()), ("effect", self.seen.to_owned())]
            }
        };
        details.push(("what to do", self.fix.to_owned()));
        details
    }

    /// What the client of a refusal gets.
    fn answered(&self) -> String {
        let Some(reason) = self.reason() else { return String::new() };
        let answer = reason.answer();
        let Some(error) = answer.proxy_error else {
            return "Nothing: it has left.".to_owned();
        };
        let retry = if reason.retry_after().is_some() { ", Retry-After" } else { "" };
        format!(
            "{}{retry}, Proxy-Status: holdfast; error={error}; details=\"{}\"",
            answer.status, self.word
        )
    }

    /// What a side of a tunnel is told.
    fn told(&self, client: bool) -> String {
        let Some(cause) = self.cause() else { return String::new() };
        let codes = cause.codes();
        match if client { codes.client } else { codes.endpoint } {
            Some(code) => format!("Close {code} \"{}\"", cause.close_reason()),
            None if !self.seen.is_empty() => self.seen.to_owned(),
            None if cause == Cause::Internal => "The connection ends without a Close (1006).".to_owned(),
            None => "Nothing: it is gone.".to_owned(),
        }
    }

    /// The code that a list shows.
    fn short(&self) -> String {
        let code = |code: Option<u16>| code.map_or_else(|| "-".to_owned(), |code| code.to_string());
        match self.kind {
            Kind::Reason => self
                .reason()
                .map(|reason| reason.status().as_u16().to_string())
                .unwrap_or_default(),
            Kind::Cause => {
                let codes = self.cause().map(Cause::codes);
                codes
                    .map(|codes| format!("{} / {}", code(codes.client), code(codes.endpoint)))
                    .unwrap_or_default()
            }
            Kind::Failure | Kind::Condition => String::new(),
            Kind::ConditionReason(types) => types.to_owned(),
            Kind::Finding(section) => section.to_owned(),
        }
    }

    fn json(&self) -> Value {
        let mut value = Map::new();
        value.insert("word".to_owned(), self.word.into());
        value.insert("kind".to_owned(), self.kind.label().into());
        value.insert("meaning".to_owned(), format!("{} {}", self.brief, self.how).into());
        for (label, text) in self.details() {
            value.insert(label.replace(' ', "_"), text.into());
        }
        Value::Object(value)
    }

    fn reason(&self) -> Option<Reason> {
        Reason::ALL
            .into_iter()
            .find(|reason| self.kind == Kind::Reason && reason.word() == self.word)
    }

    fn cause(&self) -> Option<Cause> {
        Cause::ALL
            .into_iter()
            .find(|cause| self.kind == Kind::Cause && cause.word() == self.word)
    }
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Reason => "reason of a refusal, before the 101",
            Self::Cause => "cause of a tunnel's end",
            Self::Failure => "what an endpoint is left out for",
            Self::Condition => "condition of a WebSocketRoute",
            Self::ConditionReason(_) => "reason of a condition",
            Self::Finding(_) => "finding of holdfast check about an installation",
        }
    }
}

fn unknown(word: &str) -> Failure {
    let mut near: Vec<(usize, &str)> = ENTRIES
        .iter()
        .map(|entry| match plain(entry.word).contains(&plain(word)) {
            true => (0, entry.word), // a part of it was said
            false => (distance(&plain(entry.word), &plain(word)), entry.word),
        })
        .filter(|(distance, _)| *distance <= FAR)
        .collect();
    near.sort_unstable();
    near.dedup();
    let near: Vec<&str> = near.into_iter().map(|(_, word)| word).take(SUGGESTIONS).collect();
    let hint = if near.is_empty() {
        "holdfast explain lists all words".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    Failure {
        code: NO,
        text: format!("no reason, cause, condition or finding is called {word:?}; {hint}"),
    }
}

/// `no_route`, `NoRoute`, `no-route` and `NO ROUTE` are one word.
fn plain(word: &str) -> String {
    word.chars()
        .filter(char::is_ascii_alphanumeric)
        .take(LONGEST)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// How many letters must be inserted, deleted or replaced.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// A title, an introduction, and which words belong there.
type Section = (&'static str, &'static str, fn(Kind) -> bool);

const SECTIONS: [Section; 6] = [
    (
        "Reasons: refusals before the 101",
        "In the access log (`error.type`), in the `reason` label of `holdfast_handshakes_total`, and for the client in \
         `Proxy-Status`.",
        |kind| kind == Kind::Reason,
    ),
    (
        "Causes: ends of tunnels",
        "In the access log (`holdfast.end.cause`), in the `cause` label of `holdfast_ends_total`, and as the text of the Close \
         frame.",
        |kind| kind == Kind::Cause,
    ),
    (
        "Failures of endpoints",
        "In the log, and in the `reason` label of `holdfast_endpoint_ejected` and `holdfast_endpoint_ejections_total`, as are \
         words of refusals and ends that are an endpoint's fault.",
        |kind| kind == Kind::Failure,
    ),
    (
        "Conditions of a WebSocketRoute",
        "In its status, and in what `holdfast check` says.",
        |kind| kind == Kind::Condition,
    ),
    ("Reasons of conditions", "In the `reason` of a condition.", |kind| {
        matches!(kind, Kind::ConditionReason(_))
    }),
    (
        "Findings about an installation",
        "In what `holdfast check` without a path says, by its sections.",
        |kind| matches!(kind, Kind::Finding(_)),
    ),
];

const MARKDOWN_HEAD: &str = "\
<!-- Written by `make generate` from src/cli/explain/entries.rs. -->
# Words that Holdfast uses for what went wrong

`holdfast explain WORD` says the same offline.
";
/// Letters that may differ between a word and what it is suggested for.
const FAR: usize = 4;
/// Words suggested for one that is unknown.
const SUGGESTIONS: usize = 3;
/// Letters of a word that are looked at.
const LONGEST: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn words(of: fn(Kind) -> bool) -> BTreeSet<&'static str> {
        let words: Vec<_> = ENTRIES
            .iter()
            .filter(|entry| of(entry.kind))
            .map(|entry| entry.word)
            .collect();
        let set: BTreeSet<_> = words.iter().copied().collect();
        assert_eq!(set.len(), words.len(), "a word is explained twice: {words:?}");
        set
    }

    #[test]
    fn every_reason_and_every_cause_is_explained_and_nothing_else() {
        assert_eq!(
            words(|kind| kind == Kind::Reason),
            Reason::ALL.iter().map(|reason| reason.word()).collect()
        );
        assert_eq!(
            words(|kind| kind == Kind::Cause),
            Cause::ALL.iter().map(|cause| cause.word()).collect()
        );
    }

    #[test]
    fn every_failure_of_an_endpoint_is_explained() {
        use crate::routing::health;
        let explained: BTreeSet<_> = ENTRIES.iter().map(|entry| entry.word).collect();
        let failures: BTreeSet<_> = health::Failure::ALL.iter().map(|failure| failure.word()).collect();
        assert!(failures.is_subset(&explained), "{:?}", failures.difference(&explained));
        assert!(words(|kind| kind == Kind::Failure).is_subset(&failures));
    }

    #[test]
    fn every_reason_of_a_condition_is_explained() {
        use crate::control::Reason;
        let all = [
            Reason::Accepted,
            Reason::UnsupportedValue,
            Reason::HostnameConflict,
            Reason::IncompatibleFilters,
            Reason::ResolvedRefs,
            Reason::BackendNotFound,
            Reason::RefNotPermitted,
            Reason::InvalidKind,
            Reason::UnsupportedProtocol,
            Reason::InvalidCertificateRef,
            Reason::Programmed,
            Reason::Pending,
            Reason::Invalid,
            Reason::Shadowed,
        ];
        let explained: BTreeSet<_> = ENTRIES.iter().map(|entry| entry.word.to_owned()).collect();
        for reason in all {
            assert!(explained.contains(&reason.to_string()), "{reason}");
        }
        // Does not compile with a variant that is not named here: add it above too.
        let (Reason::Accepted
        | Reason::UnsupportedValue
        | Reason::HostnameConflict
        | Reason::IncompatibleFilters
        | Reason::ResolvedRefs
        | Reason::BackendNotFound
        | Reason::RefNotPermitted
        | Reason::InvalidKind
        | Reason::UnsupportedProtocol
        | Reason::InvalidCertificateRef
        | Reason::Programmed
        | Reason::Pending
        | Reason::Invalid
        | Reason::Shadowed) = all[0];
    }

    #[test]
    fn every_entry_says_who_sees_what_and_what_to_do() {
        for entry in ENTRIES {
            for (label, text) in entry.details() {
                assert!(!text.is_empty(), "{}: {label}", entry.word);
            }
            for text in [entry.brief, entry.how, entry.fix] {
                assert!(text.ends_with('.') && !text.contains("  "), "{}: {text:?}", entry.word);
            }
        }
    }

    #[test]
    fn the_wire_is_what_the_enums_say() {
        let shown = |word, kind| ENTRIES.iter().find(|e| e.word == word && e.kind == kind).unwrap().details();
        let refused = shown("no_ready_endpoint", Kind::Reason);
        let expected = "503 Service Unavailable, Retry-After, Proxy-Status: holdfast; error=destination_unavailable; \
                        details=\"no_ready_endpoint\"";
        assert_eq!(refused[0], ("client sees", expected.to_owned()));
        let ended = shown("drain", Kind::Cause);
        assert_eq!(ended[0].1, "Close 1012 \"drain\"");
        assert_eq!(ended[1].1, "Close 1001 \"drain\"");
    }

    #[test]
    fn docs_reasons_md_is_this_text() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reasons.md");
        assert_eq!(std::fs::read_to_string(path).unwrap(), markdown(), "run make generate");
    }

    #[test]
    fn spelling_does_not_matter_and_near_words_are_suggested() {
        for spelling in ["no_route", "NoRoute", "no-route", "NO_ROUTE"] {
            assert_eq!(plain(spelling), "noroute");
        }
        assert!(
            unknown("no_rout").text.contains("did you mean no_route"),
            "{}",
            unknown("no_rout").text
        );
        assert!(
            unknown("stalled").text.contains("client_stalled"),
            "{}",
            unknown("stalled").text
        );
        assert!(unknown("xyzzyxyzzyxyzzy").text.contains("lists all words"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
