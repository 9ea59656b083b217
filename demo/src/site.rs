//! The demo's page, its buttons, and the live view under /live/.

use std::sync::Arc;

use holdfast::web::{self, Answer};
use http::{HeaderName, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::{
    live,
    stage::{Act, Demo},
};

/// What the page is answered.
#[derive(Debug)]
pub struct Site {
    demo: Arc<Demo>,
    /// Where clients connect.
    http: u16,
    /// Answers of the live view that are under way.
    passing: Arc<Semaphore>,
}

impl Site {
    pub fn new(demo: Arc<Demo>, http: u16) -> Self {
        Self {
            demo,
            http,
            passing: Arc::new(Semaphore::new(MAX_PASSING)),
        }
    }

    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        match (request.method().as_str(), path) {
            ("GET", "/state") => self.state(),
            ("POST", _) => self.press(&request),
            ("GET", "/") => file("text/html; charset=utf-8", include_str!("../page/index.html"), self.http),
            ("GET", "/demo.css") => file("text/css; charset=utf-8", include_str!("../page/demo.css"), self.http),
            ("GET", "/demo.js") => file("text/javascript; charset=utf-8", include_str!("../page/demo.js"), self.http),
            ("GET", path) if path.starts_with(LIVE) => {
                let rest = request
                    .uri()
                    .path_and_query()
                    .map_or("", |whole| &whole.as_str()[LIVE.len()..]);
                match Arc::clone(&self.passing).try_acquire_owned() {
                    Ok(place) => live::pass(self.demo.live(), &format!("/{rest}"), place).await,
                    Err(_) => web::text(StatusCode::SERVICE_UNAVAILABLE, "too many at once\n"),
                }
            }
            _ => web::text(StatusCode::NOT_FOUND, "/ (a page), /live/, /state\n"),
        }
    }

    fn state(&self) -> Answer {
        let mut state = self.demo.state();
        state["http"] = json!(self.http);
        web::json(StatusCode::OK, &state)
    }

    /// Only the page itself may press: another site's page cannot set this header.
    fn press(&self, request: &Request<Incoming>) -> Answer {
        if !request.headers().contains_key("demo") {
            return web::text(StatusCode::FORBIDDEN, "a button of the page does this\n");
        }
        let Some(act) = Act::of(request.uri().path().trim_start_matches('/')) else {
            return web::text(StatusCode::NOT_FOUND, "no such button\n");
        };
        let demo = Arc::clone(&self.demo);
        tokio::spawn(async move { demo.act(act).await });
        self.state()
    }
}

fn file(kind: &'static str, text: &'static str, http: u16) -> Answer {
    let mut answer = web::of_type(StatusCode::OK, kind, text);
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; connect-src 'self' ws://localhost:{http} ws://127.0.0.1:{http}"
    );
    let headers = answer.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("cache-control"), HeaderValue::from_static("no-cache"));
    answer
}

const LIVE: &str = "/live/";

const MAX_PASSING: usize = 32;
