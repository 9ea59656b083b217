//! `holdfast check` without a path: whether the installation is as it should be. Reads and dials; changes nothing.
//!
//! [`gather`] asks the API server and the replicas for facts, [`judge`] makes findings of them, a pure function; what may not be
//! looked at is said, and is no fault.

mod dial;
mod facts;
mod gather;
mod judge;
mod rights;

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Args;
use crate::cli::offline::counted;
use crate::cli::output::{ColorChoice, Format, Screen, Tone, document, print};
use crate::cli::{Failure, NO};

/// What is said about one side of the installation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Section {
    name: &'static str,
    items: Vec<Item>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    status: Status,
    text: String,
    finding: Option<Finding>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Good,
    Warning,
    Problem,
    /// Nobody could look, or there is nothing to look at.
    NotLooked,
}

/// What is wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// What `holdfast explain` knows.
    word: &'static str,
    object: String,
    /// Empty: the whole object.
    field: String,
    fix: String,
}

impl Item {
    fn good(text: impl Into<String>) -> Self {
        Self::plain(Status::Good, text)
    }

    fn not_looked(text: impl Into<String>) -> Self {
        Self::plain(Status::NotLooked, text)
    }

    fn plain(status: Status, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            finding: None,
        }
    }

    fn problem(word: &'static str, text: impl Into<String>) -> Self {
        Self::found(Status::Problem, word, text)
    }

    fn warning(word: &'static str, text: impl Into<String>) -> Self {
        Self::found(Status::Warning, word, text)
    }

    fn found(status: Status, word: &'static str, text: impl Into<String>) -> Self {
        let finding = Finding {
            word,
            object: String::new(),
            field: String::new(),
            fix: String::new(),
        };
        Self {
            status,
            text: text.into(),
            finding: Some(finding),
        }
    }

    /// Names the object, its field, and the fix.
    fn at(mut self, object: impl Into<String>, field: impl Into<String>, fix: impl Into<String>) -> Self {
        if let Some(finding) = &mut self.finding {
            finding.object = object.into();
            finding.field = field.into();
            finding.fix = fix.into();
        }
        self
    }
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
            Self::NotLooked => "not_looked_at",
        }
    }

    fn mark(self, screen: &Screen) -> String {
        match self {
            Self::Good => screen.mark(Tone::Good),
            Self::Warning => screen.mark(Tone::Warning),
            Self::Problem => screen.mark(Tone::Bad),
            Self::NotLooked => "--".to_owned(),
        }
    }
}

/// Checks. 1 when there is a problem; warnings alone are 0.
pub(super) async fn run(args: &Args, color: ColorChoice) -> Result<u8, Failure> {
    let facts = gather::gather(&args.reach).await?;
    let sections = judge::judge(&facts);
    let text = document(args.output, &fields(&sections, &facts.asked))?;
    let screen = Screen::stdout(color);
    print(&text.unwrap_or_else(|| render(&sections, &facts.closing, &screen, args.output == Format::Wide)))?;
    Ok(if count(&sections, Status::Problem) == 0 { 0 } else { NO })
}

fn count(sections: &[Section], status: Status) -> usize {
    let items = sections.iter().flat_map(|section| &section.items);
    items.filter(|item| item.status == status).count()
}

fn fields(sections: &[Section], asked: &Value) -> Value {
    let item = |section: &Section, item: &Item| {
        let mut fields = json!({
            "section": section.name,
            "status": item.status.word(),
            "text": item.text,
        });
        if let Some(finding) = &item.finding {
            fields["reason"] = json!(finding.word);
            fields["object"] = json!(finding.object);
            fields["field"] = json!(finding.field);
            fields["fix"] = json!(finding.fix);
        }
        fields
    };
    let items = sections
        .iter()
        .flat_map(|section| section.items.iter().map(move |one| item(section, one)));
    json!({
        "problems": count(sections, Status::Problem),
        "warnings": count(sections, Status::Warning),
        "checks": items.collect::<Vec<_>>(),
        "replicas": asked,
    })
}

/// One line for what is good of a section, one for each of the rest, with where it is and what to do.
fn render(sections: &[Section], closing: &str, screen: &Screen, wide: bool) -> String {
    let mut out = String::new();
    for section in sections {
        let mut name = section.name;
        let mut line = |out: &mut String, text: &str| {
            let _ = writeln!(out, "{name:WIDTH$}{text}");
            name = "";
        };
        let good: Vec<String> = section
            .items
            .iter()
            .filter(|item| item.status == Status::Good)
            .map(|item| format!("{} {}", item.status.mark(screen), item.text))
            .collect();
        match wide {
            true => good.iter().for_each(|text| line(&mut out, text)),
            false if good.is_empty() => {}
            false => line(&mut out, &good.join("   ")),
        }
        for item in section.items.iter().filter(|item| item.status != Status::Good) {
            let mark = item.status.mark(screen);
            let Some(finding) = &item.finding else {
                line(&mut out, &format!("{mark} {}", item.text));
                continue;
            };
            line(&mut out, &format!("{mark} {}   explain {}", item.text, finding.word));
            let place = format!("{} {}", finding.object, finding.field);
            for text in [place.trim().to_owned(), format!("fix: {}", finding.fix)] {
                if !text.is_empty() && text != "fix: " {
                    line(&mut out, &format!("   {text}"));
                }
            }
        }
    }
    let said = |status, what| match count(sections, status) {
        0 => None,
        several => Some(counted(several, what)),
    };
    let found = [said(Status::Problem, "problem"), said(Status::Warning, "warning")];
    let found: Vec<String> = found.into_iter().flatten().collect();
    let found = if found.is_empty() {
        "all well".to_owned()
    } else {
        found.join(", ")
    };
    let next = worst(sections).map_or_else(String::new, |finding| format!("   holdfast explain {}", finding.word));
    let _ = writeln!(out, "{found}; {closing}.{next}");
    out
}

/// The first finding of the worst kind.
fn worst(sections: &[Section]) -> Option<&Finding> {
    let of = |status| {
        let mut items = sections.iter().flat_map(|section| &section.items);
        items.find(|item| item.status == status)?.finding.as_ref()
    };
    of(Status::Problem).or_else(|| of(Status::Warning))
}

/// Of the names of sections.
const WIDTH: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    fn sections() -> Vec<Section> {
        vec![
            Section {
                name: "cluster",
                items: vec![
                    Item::good("Kubernetes v1.37.1"),
                    Item::not_looked("CRD: may not read it"),
                    Item::good("x"),
                ],
            },
            Section {
                name: "reach",
                items: vec![
                    Item::warning("NotHoldfast", "y"),
                    Item::problem("ServicePortMissing", ":80 refused").at("Service edge/holdfast", "spec.ports", "add one"),
                ],
            },
        ]
    }

    #[test]
    fn good_things_share_a_line_and_each_finding_says_where_and_what_to_do() {
        let screen = Screen::decide(ColorChoice::Never, false, None, |_| None);
        let text = render(&sections(), "2/2 replicas", &screen, false);
        let expected = "\
cluster       ok Kubernetes v1.37.1   ok x
              -- CRD: may not read it
reach         !! y   explain NotHoldfast
              xx :80 refused   explain ServicePortMissing
                 Service edge/holdfast spec.ports
                 fix: add one
1 problem, 1 warning; 2/2 replicas.   holdfast explain ServicePortMissing
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_document_has_every_item() {
        let fields = fields(&sections(), &json!({"asked": 2}));
        assert_eq!((&fields["problems"], &fields["warnings"]), (&json!(1), &json!(1)));
        assert_eq!(fields["checks"].as_array().unwrap().len(), 5);
        assert_eq!(fields["checks"][4]["reason"], "ServicePortMissing");
    }
}
