//! `POST /why`: what becomes of a request, by this replica's own table, health, counts and drain.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::timeout;

use super::Live;
use crate::{
    web::{self, Answer},
    why::{self, Known, Question},
};

/// Answers the question in the request's body.
pub(super) async fn answer(live: &Live, request: Request<Incoming>) -> Answer {
    let body = timeout(PATIENCE, Limited::new(request.into_body(), MAX_QUESTION).collect()).await;
    let refuse = |status, why: String| web::text(status, format!("{why}\n"));
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, format!("the question cannot be read: {error}")),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the question did not arrive in time".to_owned()),
    };
    let question = match serde_json::from_slice::<Question>(&body) {
        Ok(question) => question,
        Err(error) => {
            let write = r#"write {"url": "wss://...", "headers": ["Name: value"], "client": "192.0.2.1"}"#;
            return refuse(StatusCode::BAD_REQUEST, format!("{error}; {write}"));
        }
    };
    let request = match why::Request::of(&question) {
        Ok(request) => request,
        Err(invalid) => return refuse(StatusCode::BAD_REQUEST, invalid.to_string()),
    };
    let (snapshot, judgement) = (live.proxy.published.load_full(), live.judgements.load());
    let known = Known {
        table: &snapshot.table,
        certificates: &snapshot.certificates,
        judgement: &judgement,
        proxy: Some(&live.proxy),
    };
    let document = Document {
        version: 1,
        replica: &live.replica,
        answer: why::Answer::of(&known, &request),
    };
    web::json(StatusCode::OK, &serde_json::to_value(document).unwrap_or_default())
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    replica: &'a str,
    #[serde(flatten)]
    answer: why::Answer,
}

/// How long a question may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// A handshake's head is at most half as large.
const MAX_QUESTION: usize = 64 * 1024;
