//! `holdfast connections`: which tunnels are open, in groups first, and one by one when that is asked for.
//!
//! Asks the running Holdfast, merges what its replicas say, and with `-w` looks again and again, as top does.

mod merge;
mod text;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use crate::cli::ends::{Filters, Question, explain};
use crate::cli::live::{Reach, Replicas};
use crate::cli::output::{ColorChoice, Format, Screen, document, print};
use crate::cli::{Failure, Interrupts, block_on, duration};
use crate::proxy::view::{By, Order};

use merge::Merged;

/// Arguments of `holdfast connections`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What makes a group
    #[arg(long, value_name = "WHAT", default_value = By::Endpoint.word(), value_parser = By::ALL.map(By::word))]
    by: String,
    /// One by one instead
    #[arg(long, conflicts_with = "by")]
    list: bool,
    /// The order of a list: the first have most of it
    #[arg(long, value_name = "WHAT", default_value = Order::Age.word(), value_parser = Order::ALL.map(Order::word), requires = "list")]
    sort: String,
    /// Look again and again; on a terminal in place, as top does
    #[arg(long, short)]
    watch: bool,
    /// For how long messages are counted for their rates; with --watch also between two looks
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    #[command(flatten)]
    filters: Filters,
    /// How many rows at most
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// The life of one connection: its id, as access lines and lists have it, or its request id
    #[arg(long, value_name = "ID", conflicts_with_all = ["watch", "list", "by", "route", "rule", "endpoint", "client", "id"])]
    explain: Option<String>,
    /// The shape of the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    reach: Reach,
}

/// Answers. 1 when nobody could be asked, or nobody knows the connection that is to be explained.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, connections(args, color))
}

async fn connections(args: &Args, color: ColorChoice) -> Result<u8, Failure> {
    let mut replicas = Replicas::find(&args.reach).await?;
    let screen = Screen::stdout(color);
    if let Some(id) = &args.explain {
        return explain(&replicas, id, args.output, &screen).await;
    }
    if !args.watch {
        print(&look(args, &replicas, &screen).await?)?;
        return Ok(0);
    }
    watch(args, &mut replicas, &screen).await
}

/// Looks again and again until it is interrupted. Replicas may come and go meanwhile.
async fn watch(args: &Args, replicas: &mut Replicas, screen: &Screen) -> Result<u8, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let mut page: Option<Page> = None;
    for turn in 1_u32.. {
        let shown = tokio::select! {
            () = interrupts.next() => break,
            shown = look(args, replicas, screen) => shown,
        };
        let is_well = shown.is_ok();
        match (shown, &mut page) {
            (Ok(text), Some(page)) => page.show(&text)?,
            (Ok(text), None) => page.insert(Page::begin()?).show(&text)?,
            (Err(failure), Some(page)) if !failure.text.is_empty() => page.show(&format!("{}\n", failure.text))?,
            (Err(failure), _) => return Err(failure), // nobody there from the first, or nobody reads
        }
        if !is_well || turn.is_multiple_of(FIND_EVERY) {
            replicas.find_again(&args.reach).await;
        }
        // Groups have taken their interval to be counted.
        tokio::select! {
            () = interrupts.next() => break,
            () = sleep(if args.list || !is_well { args.interval } else { LEAST }) => {}
        }
    }
    Ok(0)
}

/// One answer, as it is shown.
async fn look(args: &Args, replicas: &Replicas, screen: &Screen) -> Result<String, Failure> {
    let mut question = Question::new("/connections");
    args.filters.ask(&mut question);
    // More than are shown: what is large on all replicas together may be small on each.
    let limit = if args.list { args.limit } else { 1000 };
    question.with("limit", &limit.to_string());
    if args.list {
        question.with("list", "true").with("sort", &args.sort);
    } else {
        let interval = args.interval.as_secs_f64().to_string();
        question.with("by", &args.by).with("interval", &interval);
    }
    let answers = replicas.get(&question.path()).await?;
    let merged = Merged::of(&answers, usize::from(args.limit), &args.sort);
    Ok(match document(args.output, &merged.document())? {
        Some(text) if args.output == Format::Yaml && args.watch => format!("---\n{text}"),
        Some(text) => text,
        None => text::render(&merged, args.output == Format::Wide, screen),
    })
}

/// Where a watch is shown: in place on a terminal, which is given back as it was, else one after the other.
struct Page {
    in_place: bool,
    shown: bool,
}

impl Page {
    fn begin() -> io::Result<Self> {
        let in_place = io::stdout().is_terminal();
        if in_place {
            print(ENTER)?;
        }
        Ok(Self { in_place, shown: false })
    }

    fn show(&mut self, text: &str) -> io::Result<()> {
        if !self.in_place {
            let gap = if std::mem::replace(&mut self.shown, true) { "\n" } else { "" };
            return print(&format!("{gap}{text}"));
        }
        // Each line is cleared behind its end and the rest of the page below it, so that nothing flickers.
        let lines: Vec<&str> = text.lines().collect();
        let rows = terminal_size::terminal_size().map_or(usize::MAX, |(_, rows)| usize::from(rows.0));
        // What does not fit goes from the middle: the last lines say what it comes to.
        let kept = match lines.len() > rows && rows > 4 {
            true => [&lines[..rows - 3], &["..."], &lines[lines.len() - 2..]].concat(),
            false => lines,
        };
        print(&format!("{HOME}{}{BELOW}", kept.join(LINE)))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.in_place {
            // Whoever closed the terminal has none to be given back.
            let _ = io::stdout().write_all(LEAVE.as_bytes()).and_then(|()| io::stdout().flush());
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        interval if (LEAST..=MOST).contains(&interval) => Ok(interval),
        _ => Err(format!("from {LEAST:?} to {MOST:?}")),
    }
}

/// After how many looks new replicas are looked for.
const FIND_EVERY: u32 = 10;
const LEAST: Duration = Duration::from_millis(100);
/// Less than one replica may take for its answer.
const MOST: Duration = Duration::from_secs(4);

/// The terminal's other page, without a cursor; back; its first corner; the end of a line; and everything below.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const LINE: &str = "\x1b[K\n";
const BELOW: &str = "\x1b[K\x1b[J";
