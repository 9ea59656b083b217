//! `holdfast why URL`: which rule serves a request and why, which endpoints would be tried, and why the others lost.
//!
//! Answers by the running replicas, each from its own table, or from files, as a process that serves them would. It never opens
//! a socket to an endpoint.

mod compare;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::live::{Reach, Replicas};
use crate::cli::offline::{Offline, View, counted};
use crate::cli::output::{ColorChoice, Format, Screen, document, print};
use crate::cli::{Failure, NO, block_on};
use crate::why::{Answer, Known, Question, Request, header};

use compare::Compared;

/// Arguments of `holdfast why`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The URL as a client asks for it: ws:// or wss:// for a handshake, http:// or https:// for a plain request
    #[arg(value_name = "URL")]
    url: String,
    /// A header that the client sends; repeatable
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = checked_header)]
    header: Vec<String>,
    /// The client's address
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// Answer from folders or files with the routes, not by the running replicas; repeatable
    #[arg(long, value_name = "DIR")]
    manifests: Vec<PathBuf>,
    /// The shape of the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    view: View,
    #[command(flatten)]
    reach: Reach,
}

/// Answers. 1 when the request would be refused, or nobody answers.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, async {
        let question = Question {
            url: args.url.clone(),
            headers: args.header.clone(),
            client: args.client,
        };
        let request = Request::of(&question).map_err(|invalid| Failure::usage(invalid.to_string()))?;
        let screen = Screen::stdout(color);
        if args.manifests.is_empty() {
            by_replicas(args, &question, &screen).await
        } else {
            by_files(args, &request, &screen).await
        }
    })
}

async fn by_files(args: &Args, request: &Request, screen: &Screen) -> Result<u8, Failure> {
    let mut offline = Offline::read(&args.manifests, &args.view)?;
    offline.resolve().await;
    let mut answer = Answer::of(
        &Known {
            table: &offline.built.table,
            certificates: &offline.built.certificates,
            judgement: &offline.judgement,
            proxy: None,
        },
        request,
    );
    answer.problems += offline.manifests.problems.len();
    let text = || {
        let mut text = text::render(&answer, screen);
        if let Some(reason) = &answer.reason {
            text.push_str(&format!("holdfast explain {reason}\n"));
        } else if answer.problems > 0 {
            let problems = counted(answer.problems, "problem");
            text.push_str(&format!("{problems} there: holdfast check says what\n"));
        }
        text
    };
    print(&document(args.output, &answer)?.unwrap_or_else(text))?;
    Ok(if answer.is_served() { 0 } else { NO })
}

async fn by_replicas(args: &Args, question: &Question, screen: &Screen) -> Result<u8, Failure> {
    let replicas = Replicas::find(&args.reach).await?;
    let question = serde_json::to_value(question).map_err(|error| Failure::usage(error.to_string()))?;
    let compared = Compared::of(&replicas.post("/why", Some(&question)).await?)?;
    let text = || text::render(&compared.answer, screen) + &compared.closing();
    print(&document(args.output, &compared)?.unwrap_or_else(text))?;
    Ok(if compared.all_serve { 0 } else { NO })
}

fn checked_header(text: &str) -> Result<String, String> {
    header(text).map(|_| text.to_owned())
}
