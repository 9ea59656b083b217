//! How commands ask the Holdfast that runs: who is meant ([`Reach`]), and one question to all of them at once ([`Replicas`]).
//!
//! A question is a path of the live listener. Each replica has its own time to answer; who does not is named, and the others'
//! answers count. This never decides what an answer means.

use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::app::LIVE;
use crate::cli::{Failure, NO};
use crate::live::ORDER_HEADER;

/// Which Holdfast is asked.
#[derive(Clone, Debug, clap::Args)]
pub struct Reach {
    /// Ask the process with this live listener
    #[arg(long, value_name = "ADDRESS", env = "HOLDFAST_LIVE", default_value_t = LIVE, help_heading = REACH)]
    live: SocketAddr,
}

/// The replicas that a command asks. Connections are kept, so that asking again and again is cheap.
#[derive(Debug)]
pub(super) struct Replicas {
    replicas: Vec<Replica>,
}

impl Replicas {
    /// Finds them; asks none of them anything yet.
    #[expect(clippy::unused_async, reason = "an API server will be asked")]
    pub(super) async fn find(reach: &Reach) -> Result<Self, Failure> {
        Ok(Self {
            replicas: vec![Replica::at(reach.live)],
        })
    }

    /// Asks all of them for the document at this path (with its query).
    ///
    /// # Errors
    /// When none has answered.
    pub(super) async fn get(&self, path: &str) -> Result<Answers, Failure> {
        self.ask(Method::GET, path, None).await
    }

    /// The same with a question that does not fit a path, or an order.
    ///
    /// # Errors
    /// When none has answered.
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Answers, Failure> {
        self.ask(Method::POST, path, body).await
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answers, Failure> {
        let body = body.map(|body| Bytes::from(body.to_string()));
        let asked = self.replicas.iter().map(|replica| replica.ask(&method, path, body.as_ref()));
        let mut answers = Answers::default();
        for (replica, answer) in self.replicas.iter().zip(join_all(asked).await) {
            match answer {
                Ok(document) => answers.documents.push(document),
                Err(reason) => answers.failed.push(Missing {
                    replica: replica.name.clone(),
                    reason,
                }),
            }
        }
        answers.or_none()
    }
}

/// What the replicas have answered to one question; at least one has.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// One document for each replica that answered, in the order of their names; `replica` in it names whose it is.
    pub(super) documents: Vec<Value>,
    pub(super) failed: Vec<Missing>,
}

/// A replica without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) replica: String,
    /// In a few words: `timeout`.
    pub(super) reason: String,
}

#[cfg_attr(not(test), allow(dead_code, reason = "for commands that merge"))]
impl Answers {
    fn or_none(self) -> Result<Self, Failure> {
        if !self.documents.is_empty() {
            return Ok(self);
        }
        let each: Vec<String> = self
            .failed
            .iter()
            .map(|missing| format!("{}: {}", missing.replica, missing.reason))
            .collect();
        Err(Failure {
            code: NO,
            text: format!(
                "{}; is a Holdfast running there? --live names the address of its live listener",
                each.join("; ")
            ),
        })
    }

    /// How many of how many have answered, for the last line of an answer: `3/3 replicas`, or
    /// `2/3 replicas, holdfast-c: timeout`.
    pub(super) fn closing(&self) -> String {
        let asked = self.documents.len() + self.failed.len();
        let mut text = format!(
            "{}/{asked} replica{}",
            self.documents.len(),
            if asked == 1 { "" } else { "s" }
        );
        for missing in &self.failed {
            text.push_str(&format!(", {}: {}", missing.replica, missing.reason));
        }
        text
    }

    /// The same for a document, under the key `replicas`.
    pub(super) fn summary(&self) -> Value {
        let failed: Vec<Value> = self
            .failed
            .iter()
            .map(|missing| json!({"replica": missing.replica, "error": missing.reason}))
            .collect();
        json!({
            "asked": self.documents.len() + self.failed.len(),
            "answered": self.documents.len(),
            "failed": failed,
        })
    }
}

/// One process.
#[derive(Debug)]
struct Replica {
    /// How it is named where it does not answer.
    name: String,
    address: SocketAddr,
    /// The connection to it, while there is one.
    kept: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Replica {
    fn at(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            address,
            kept: Mutex::new(None),
        }
    }

    /// Its answer, or why there is none in a few words.
    async fn ask(&self, method: &Method, path: &str, body: Option<&Bytes>) -> Result<Value, String> {
        let (status, body) = match timeout(PATIENCE, self.exchange(method, path, body)).await {
            Err(_) => return Err("timeout".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(answer)) => answer,
        };
        if !status.is_success() {
            return Err(format!("{status} {}", String::from_utf8_lossy(&body).trim_end()));
        }
        serde_json::from_slice(&body).map_err(|error| format!("its answer is no JSON: {error}"))
    }

    async fn exchange(&self, method: &Method, path: &str, body: Option<&Bytes>) -> Result<(StatusCode, Bytes), Failed> {
        let mut kept = self.kept.lock().await;
        let usable = kept.take().filter(|sender| !sender.is_closed());
        let mut sender = match usable {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string());
        if method != Method::GET {
            request = request.header(ORDER_HEADER, "1");
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body.cloned().unwrap_or_default()))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await?.to_bytes();
        *kept = Some(sender);
        Ok((status, body))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Failed> {
        let socket = TcpStream::connect(self.address).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection); // its failure is the answer's
        Ok(sender)
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Where the help lists these flags.
const REACH: &str = "Which Holdfast";
/// How long one replica may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer.
const MAX_ANSWER: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_not_answered_is_named_and_one_answer_is_enough() {
        let failed = |replica: &str| Missing {
            replica: replica.to_owned(),
            reason: "timeout".to_owned(),
        };
        let mut answers = Answers {
            documents: vec![json!({}), json!({})],
            failed: Vec::new(),
        };
        assert_eq!(answers.closing(), "2/2 replicas");
        answers.failed.push(failed("holdfast-c"));
        assert_eq!(answers.closing(), "2/3 replicas, holdfast-c: timeout");
        assert_eq!(
            answers.summary(),
            json!({"asked": 3, "answered": 2, "failed": [{"replica": "holdfast-c", "error": "timeout"}]})
        );
        answers.documents.clear();
        let told = answers.or_none().unwrap_err();
        assert_eq!(told.code, NO);
        assert!(told.text.starts_with("holdfast-c: timeout; "), "{}", told.text);
    }
}
