//! What becomes of a request, and why: the rule that takes it, what is asked before it is let in, the endpoints that would be
//! tried in which order, why the others lost, and the policies that hold.
//!
//! Answers from a table and what is judged of routes, be they made of files or those of a running process; that one's health,
//! counts and drain are looked at too. It never opens a socket, counts nothing and changes nothing.

mod answer;

use std::net::{IpAddr, Ipv4Addr};
use std::time::SystemTime;

use http::header::HeaderMap;
use http::{HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};

pub use answer::{Answer, Candidate, Considered, Guard, Policy, Rejected, RuleName};

use crate::control::Judgement;
use crate::proxy::Shared;
use crate::proxy::look::Asked;
use crate::routing::{Certificates, Handshake, Table, target};
use crate::routing::{balancer::Client, health::Moment};

/// A question, as it is written: the body of `POST /why`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// As a client asks for it: ws:// or wss:// for a handshake, http:// or https:// for a plain request.
    pub url: String,
    /// Each as `Name: value`.
    #[serde(default)]
    pub headers: Vec<String>,
    /// The client's address.
    #[serde(default = "localhost")]
    pub client: IpAddr,
}

fn localhost() -> IpAddr {
    IpAddr::V4(Ipv4Addr::LOCALHOST)
}

/// The question cannot be answered, because nobody could send such a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidQuestion(String);

/// A request, in the normal form that routing looks at.
#[derive(Debug)]
pub struct Request {
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

/// What an answer is made of.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub table: &'a Table,
    pub certificates: &'a Certificates,
    /// Of the routes that the table was built of.
    pub judgement: &'a Judgement,
    /// `None`: files, which know no health and no connections.
    pub proxy: Option<&'a Shared>,
}

impl Request {
    /// # Errors
    /// Nobody could send such a request.
    pub fn of(question: &Question) -> Result<Self, InvalidQuestion> {
        let wrong = |why: &str| InvalidQuestion(format!("{:?}: {why}; write it as ws://HOST[:PORT][/PATH]", question.url));
        let uri: Uri = question.url.parse().map_err(|_| wrong("not a URL"))?;
        let (is_handshake, is_plain) = match uri.scheme_str() {
            Some("ws") => (true, true),
            Some("wss") => (true, false),
            Some("http") => (false, true),
            Some("https") => (false, false),
            _ => return Err(wrong("not a URL of a WebSocket")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("no host"))?;
        let mut headers = HeaderMap::new();
        for text in &question.headers {
            let (name, value) = header(text).map_err(|why| InvalidQuestion(format!("header {text:?}: {why}")))?;
            headers.append(name, value);
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
            client: question.client,
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

    /// `moment`: on the clock of passive health.
    fn client(&self, moment: Moment) -> Client<'_> {
        Client {
            address: self.client,
            path: &self.path,
            query: self.query.as_deref(),
            headers: &self.headers,
            now: self.now,
            moment,
            tries: false,
        }
    }

    /// Path and query.
    fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    fn asked<'a>(&'a self, target: &'a str) -> Asked<'a> {
        Asked {
            is_handshake: self.is_handshake,
            client: self.client,
            host: &self.host,
            target,
            headers: &self.headers,
        }
    }
}

/// A header as curl takes it.
///
/// # Errors
/// It is none, and why.
pub fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no header's name"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} is no header's value"))?;
    Ok((name, value))
}
