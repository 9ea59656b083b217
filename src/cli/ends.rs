//! `holdfast ends`: who ended what, why, and what each side saw of it. Refusals of handshakes are ends before the 101.
//!
//! Asks the running Holdfast, merges what its replicas say, and follows with `-w`.

mod answer;
mod life;
pub(super) mod text;

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::live::{Reach, Replicas};
use crate::cli::output::{ColorChoice, Format, Screen, document, error, print};
use crate::cli::{Failure, Interrupts, block_on, duration};

use answer::Answer;
pub(super) use life::explain;

/// Arguments of `holdfast ends`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    since: Duration,
    /// Go on: show each end as it comes
    #[arg(long, short)]
    watch: bool,
    #[command(flatten)]
    filters: Filters,
    /// Of these causes or reasons; repeatable, or with commas
    #[arg(long, value_name = "WORD", value_delimiter = ',')]
    cause: Vec<String>,
    /// That this side began
    #[arg(long, value_name = "WHO", value_parser = ["client", "endpoint", "holdfast"])]
    by: Option<String>,
    /// Where a side was told or said this close code, or a refusal had this status; 1006: a side was told nothing
    #[arg(long, value_name = "CODE")]
    code: Option<u16>,
    /// How many are listed, the newest; all are counted
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// The life of one connection: its id, as access lines and lists have it, or its request id
    #[arg(long, value_name = "ID", conflicts_with_all = ["watch", "route", "rule", "endpoint", "client", "id", "cause", "by", "code"])]
    explain: Option<String>,
    /// The shape of the answer; json with --watch: a line for each end
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Which connections a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct Filters {
    /// Of this route
    #[arg(long, value_name = "NAMESPACE/NAME")]
    route: Option<String>,
    /// Of the rule with this name
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// With this endpoint: a pod's name, an address, or address and port
    #[arg(long, value_name = "ENDPOINT")]
    endpoint: Option<String>,
    /// Of clients with this address, or in this network
    #[arg(long, value_name = "ADDRESS")]
    client: Option<String>,
    /// With this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

impl Filters {
    /// Adds them to a question.
    pub(super) fn ask(&self, question: &mut Question) {
        for (name, value) in [
            ("route", &self.route),
            ("rule", &self.rule),
            ("endpoint", &self.endpoint),
            ("client", &self.client),
            ("id", &self.id),
        ] {
            if let Some(value) = value {
                question.with(name, value);
            }
        }
    }
}

/// A path with its parameters.
pub(super) struct Question {
    path: &'static str,
    parameters: form_urlencoded::Serializer<'static, String>,
}

impl Question {
    pub(super) fn new(path: &'static str) -> Self {
        Self {
            path,
            parameters: form_urlencoded::Serializer::new(String::new()),
        }
    }

    pub(super) fn with(&mut self, name: &str, value: &str) -> &mut Self {
        self.parameters.append_pair(name, value);
        self
    }

    pub(super) fn path(mut self) -> String {
        format!("{}?{}", self.path, self.parameters.finish())
    }
}

/// Answers. 1 when nobody could be asked, or nobody knows the connection that is to be explained.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, ends(args, color))
}

async fn ends(args: &Args, color: ColorChoice) -> Result<u8, Failure> {
    let mut replicas = Replicas::find(&args.reach).await?;
    let screen = Screen::stdout(color);
    if let Some(id) = &args.explain {
        return explain(&replicas, id, args.output, &screen).await;
    }
    if args.watch {
        return follow(args, &mut replicas, &screen).await;
    }
    let answer = Answer::of(&replicas.get(&question(args, None)).await?, usize::from(args.limit));
    let text = match document(args.output, &answer.document())? {
        Some(text) => text,
        None => text::render(&answer, args.since, args.output == Format::Wide, &screen),
    };
    print(&text)?;
    Ok(0)
}

/// Shows what has ended, and each end as it comes, until it is interrupted. Replicas may come and go meanwhile.
async fn follow(args: &Args, replicas: &mut Replicas, screen: &Screen) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut lines = text::Lines::new(args.output == Format::Wide);
    let mut cursor: Option<String> = None;
    let mut told = String::new();
    for look in 0_u32.. {
        let limit = if cursor.is_some() {
            usize::MAX
        } else {
            usize::from(args.limit)
        };
        let asked = replicas.get(&question(args, cursor.as_deref())).await;
        let (is_behind, trouble) = match asked {
            Ok(answers) => {
                let mut answer = Answer::of(&answers, limit);
                answer.entries.reverse(); // in their order
                show(&answer, args.output, &mut lines, screen)?;
                cursor = Some(answer.cursor(cursor.as_deref()));
                let trouble = if answer.failed.is_empty() {
                    String::new()
                } else {
                    answer.closing
                };
                (answer.is_behind, trouble)
            }
            Err(failure) if look == 0 => return Err(failure),
            Err(failure) => (false, failure.text),
        };
        if trouble != told && !trouble.is_empty() {
            error(ColorChoice::Auto, &trouble);
        }
        told = trouble;
        if !told.is_empty() || look % FIND_EVERY == FIND_EVERY - 1 {
            replicas.find_again(&args.reach).await;
        }
        tokio::select! {
            () = interrupts.next() => break,
            () = sleep(if is_behind { Duration::ZERO } else { LOOK }) => {}
        }
    }
    Ok(0)
}

fn show(answer: &Answer, format: Format, lines: &mut text::Lines, screen: &Screen) -> Result<(), Failure> {
    match format {
        Format::Table | Format::Wide => print(&lines.render(answer, screen))?,
        Format::Json => print(&answer.entries.iter().map(|entry| format!("{entry}\n")).collect::<String>())?,
        Format::Yaml => {
            for entry in &answer.entries {
                print(&format!("---\n{}", document(Format::Yaml, entry)?.unwrap_or_default()))?;
            }
        }
    }
    Ok(())
}

/// `cursor`: up to where each replica has told its ends already.
fn question(args: &Args, cursor: Option<&str>) -> String {
    let mut question = Question::new("/ends");
    question.with("since", &args.since.as_secs_f64().to_string());
    args.filters.ask(&mut question);
    if !args.cause.is_empty() {
        question.with("cause", &args.cause.join(","));
    }
    if let Some(by) = &args.by {
        question.with("by", by);
    }
    if let Some(code) = args.code {
        question.with("code", &code.to_string());
    }
    match cursor {
        Some(cursor) => question.with("after", cursor).with("limit", "1000"),
        None => question.with("limit", &args.limit.to_string()),
    };
    question.path()
}

/// How often `--watch` asks.
const LOOK: Duration = Duration::from_secs(1);
/// After how many looks new replicas are looked for.
const FIND_EVERY: u32 = 10;
