//! `holdfast why URL`: which rule serves a request and why, which endpoints would be tried, and why the others lost.
//!
//! Answers from files, as a process that serves them would. It never opens a socket to an endpoint.

mod answer;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use http::header::HeaderMap;
use http::{HeaderName, HeaderValue, Uri};

use crate::cli::offline::{Offline, View};
use crate::cli::output::{ColorChoice, Format, Screen, document, print};
use crate::cli::{Failure, NO, block_on};
use crate::routing::{Handshake, target};
use crate::routing::{balancer::Client, health::Moment};

use answer::Answer;

/// Arguments of `holdfast why`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The URL as a client asks for it: ws:// or wss:// for a handshake, http:// or https:// for a plain request
    #[arg(value_name = "URL")]
    url: String,
    /// A header that the client sends; repeatable
    #[arg(long, short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// Folders or files with the routes; repeatable
    #[arg(long, value_name = "DIR", env = "HOLDFAST_MANIFESTS", required = true)]
    manifests: Vec<PathBuf>,
    /// The client's address
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    client: IpAddr,
    /// The shape of the answer
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t)]
    output: Format,
    #[command(flatten)]
    view: View,
}

/// A request, in the normal form that routing looks at.
#[derive(Debug)]
struct Request {
    is_handshake: bool,
    is_plain: bool,
    host: String,
    /// `None`: the usual one.
    port: Option<u16>,
    path: String,
    query: Option<String>,
    headers: HeaderMap,
    client: IpAddr,
    /// Seconds since 1970.
    now: u64,
}

/// Answers. 1 when the request would be refused.
#[must_use]
pub fn run(args: &Args, color: ColorChoice) -> ExitCode {
    block_on(color, async {
        let request = Request::of(args)?;
        let mut offline = Offline::read(&args.manifests, &args.view)?;
        offline.resolve().await;
        let answer = Answer::of(&offline, &request);
        let screen = Screen::stdout(color);
        print(&document(args.output, &answer)?.unwrap_or_else(|| text::render(&answer, &screen)))?;
        Ok(if answer.is_served() { 0 } else { NO })
    })
}

impl Request {
    fn of(args: &Args) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::usage(format!("{:?}: {why}; write it as ws://HOST[:PORT][/PATH]", args.url));
        let uri: Uri = args.url.parse().map_err(|_| wrong("not a URL"))?;
        let (is_handshake, is_plain) = match uri.scheme_str() {
            Some("ws") => (true, true),
            Some("wss") => (true, false),
            Some("http") => (false, true),
            Some("https") => (false, false),
            _ => return Err(wrong("not a URL of a WebSocket")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &args.header {
            headers.append(name.clone(), value.clone());
        }
        let given = headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
        let host = target::host(given.unwrap_or(authority.as_str()))
            .ok_or_else(|| wrong("no valid host"))?
            .into_owned();
        let path = target::path(uri.path())
            .ok_or_else(|| wrong("a path that Holdfast answers 400"))?
            .into_owned();
        Ok(Self {
            is_handshake,
            is_plain,
            host,
            port: target::port(given.unwrap_or(authority.as_str())),
            path,
            query: uri.query().map(str::to_owned),
            headers,
            client: args.client,
            now: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs(),
        })
    }

    fn handshake(&self) -> Handshake<'_> {
        Handshake {
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
        }
    }

    fn client(&self) -> Client<'_> {
        Client {
            address: self.client,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            now: self.now,
            // Files know no health.
            moment: Moment::default(),
            tries: false,
        }
    }
}

/// A header as curl takes it.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no header's name"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} is no header's value"))?;
    Ok((name, value))
}
