//! The live listener: what this replica does right now, and the order to drain. Loopback only: whoever reaches it is in the pod,
//! or came by `kubectl exec` or a port-forward, which needs rights. It names clients, so [`admin`](crate::admin) does not have it.
//!
//! `app` starts it and takes its orders; it knows nothing of how a drain is done.

mod connections;
mod ends;
mod events;
mod history;
mod page;
mod query;
mod routes;
mod state;
mod why;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::{
    control::Judgements,
    proxy::{Shared, metrics::Metrics, view::View},
    routing::query::parameter,
    web::{self, Answer},
};

pub use self::{
    events::Followers,
    history::History,
    state::{About, State},
};

/// How far this process is with its shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Serving,
    /// A drain has begun, and new handshakes are served while load balancers notice.
    Announced {
        since: SystemTime,
    },
    /// New handshakes are refused, and tunnels are ended over the window.
    Closing {
        since: SystemTime,
    },
    /// No tunnel is left, or the time for the last ones is over.
    Drained {
        since: SystemTime,
    },
}

impl Stage {
    fn word(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Announced { .. } => "announced",
            Self::Closing { .. } => "closing",
            Self::Drained { .. } => "drained",
        }
    }

    /// Seconds since 1970.
    fn since(self) -> Option<f64> {
        match self {
            Self::Serving => None,
            Self::Announced { since } | Self::Closing { since } | Self::Drained { since } => {
                Some(since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64())
            }
        }
    }
}

/// The drain, as others see it and ask for it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Drain {
    pub stage: watch::Receiver<Stage>,
    /// An order to drain and stay.
    pub order: mpsc::Sender<()>,
    pub delay: Duration,
    pub window: Duration,
    waiting: Arc<Semaphore>,
}

impl Drain {
    pub fn new(stage: watch::Receiver<Stage>, order: mpsc::Sender<()>, delay: Duration, window: Duration) -> Self {
        Self {
            stage,
            order,
            delay,
            window,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    /// Answers when the drain is over; a pod's other containers wait for that before they end.
    pub async fn drained(mut self) -> Answer {
        let Ok(_place) = self.waiting.try_acquire() else {
            return web::text(StatusCode::SERVICE_UNAVAILABLE, "too many are waiting already\n");
        };
        // An error means that the process ends: then it has drained, too.
        let _ = self.stage.wait_for(|stage| matches!(stage, Stage::Drained { .. })).await;
        web::text(StatusCode::OK, "drained\n")
    }
}

/// What the live listener tells of.
#[derive(Debug)]
pub struct Live {
    pub drain: Drain,
    pub metrics: Arc<Metrics>,
    pub proxy: Arc<Shared>,
    /// What became of each route.
    pub judgements: Judgements,
    pub state: State,
    /// Open tunnels, and what ended lately.
    pub view: View,
    /// This replica's name.
    pub replica: String,
    /// What every word means, as `holdfast explain` says it.
    pub words: fn() -> Value,
    pub history: Arc<History>,
    pub followers: Followers,
}

impl Live {
    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        if let Err(refusal) = is_local(request.method(), request.headers()) {
            return web::text(StatusCode::FORBIDDEN, refusal);
        }
        let query = request.uri().query();
        match (request.method().as_str(), request.uri().path()) {
            ("GET", "/connections") => self.connections(query).await,
            ("GET", "/ends") => self.ends(query).await,
            ("GET", path) if path.starts_with(CONNECTION) => self.connection(&path[CONNECTION.len()..]).await,
            ("GET", "/drain") => web::json(StatusCode::OK, &self.drain_state()),
            ("POST", "/drain") => {
                let _ = self.drain.order.try_send(()); // full: it has been ordered already
                web::json(StatusCode::ACCEPTED, &self.drain_state())
            }
            ("GET", "/state") => web::json(StatusCode::OK, &self.state()),
            ("GET", "/routes") => routes::answer(&self, query),
            ("POST", "/why") => why::answer(&self, request).await,
            (_, "/why") => web::text(StatusCode::METHOD_NOT_ALLOWED, "POST\n"),
            (_, "/drain") => web::text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n"),
            ("GET", "/history") => self.answer_history(query),
            ("GET", "/events") => self.events(),
            ("GET", "/words") => web::json(
                StatusCode::OK,
                &json!({ "version": 1, "replica": self.replica, "words": (self.words)() }),
            ),
            ("GET", path) => page::file(path).unwrap_or_else(|| web::text(StatusCode::NOT_FOUND, PATHS)),
            _ => web::text(StatusCode::METHOD_NOT_ALLOWED, "GET\n"),
        }
    }

    fn answer_history(&self, query: Option<&str>) -> Answer {
        let route = match parameter(query, "route").map(|route| routes::object_name(&String::from_utf8_lossy(&route))) {
            Some(None) => return web::text(StatusCode::BAD_REQUEST, "route: write NAMESPACE/NAME\n"),
            route => route.flatten(),
        };
        web::json(StatusCode::OK, &self.history.document(&self.replica, route.as_ref()))
    }

    /// What the head of the page shows.
    fn summary(&self) -> Value {
        let stage = *self.drain.stage.borrow();
        json!({
            "replica": self.replica,
            "service.version": env!("CARGO_PKG_VERSION"),
            "stage": stage.word(),
            "since": stage.since(),
            "connections": self.metrics.connections(),
            "generation": self.proxy.published.load().generation,
        })
    }

    fn state(&self) -> Value {
        let stage = *self.drain.stage.borrow();
        let mut drain = self.state.shutdown();
        drain["stage"] = json!(stage.word());
        drain["since"] = json!(stage.since());
        drain["delay_seconds"] = json!(self.drain.delay.as_secs_f64());
        drain["window_seconds"] = json!(self.drain.window.as_secs_f64());
        let mut document = json!({"version": 1, "replica": self.replica});
        if let Some(fields) = document.as_object_mut() {
            fields.extend(self.state.fields(&self.proxy));
            fields.insert("drain".to_owned(), drain);
        }
        document
    }

    fn drain_state(&self) -> Value {
        let stage = *self.drain.stage.borrow();
        json!({
            "version": 1,
            "replica": self.replica,
            "stage": stage.word(),
            "since": stage.since(),
            "connections": self.metrics.connections(),
            "delay_seconds": self.drain.delay.as_secs_f64(),
            "window_seconds": self.drain.window.as_secs_f64(),
        })
    }
}

/// Whether a request is meant for this listener. A page in a browser can make one send requests here, under a name of the page's
/// choice; it cannot choose `Host`, nor set a header of its own without asking first.
fn is_local(method: &Method, headers: &HeaderMap) -> Result<(), &'static str> {
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name != "localhost" && !address.is_ok_and(|address| address.is_loopback()) {
        return Err("ask for localhost or a loopback address\n");
    }
    // Browsers say so. It could not read the answers, but it could take the places of those who may.
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return Err("a page of another site asks\n");
    }
    if method != Method::GET && method != Method::HEAD && !headers.contains_key(ORDER_HEADER) {
        return Err("an order needs the header Holdfast-Order\n");
    }
    Ok(())
}

/// What goes before the id of one connection.
const CONNECTION: &str = "/connections/";
/// What an order must carry.
pub const ORDER_HEADER: &str = "holdfast-order";
/// Who waits for the end of a drain at once: the other containers of a pod.
const MAX_WAITING: usize = 16;
/// What is answered where nothing is.
const PATHS: &str =
    "/ (a page), /connections, /connections/ID, /drain, /ends, /events, /history, /routes, /state, /why, /words\n";

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_who_asks_for_this_machine_is_answered_and_orders_need_a_header() {
        let asked = |method: Method, host: &'static str, orders: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            if orders {
                headers.insert(ORDER_HEADER, HeaderValue::from_static("1"));
            }
            is_local(&method, &headers).is_ok()
        };
        for host in [
            "localhost",
            "localhost:9478",
            "127.0.0.1:1",
            "127.9.0.1",
            "[::1]:9478",
            "[::1]",
        ] {
            assert!(asked(Method::GET, host, false), "{host}");
            assert!(asked(Method::POST, host, true), "{host}");
            assert!(!asked(Method::POST, host, false), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example:9478",
            "10.0.0.1:9478",
            "127.0.0.1.evil.example",
        ] {
            assert!(!asked(Method::GET, host, false), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_not_answered() {
        let asked = |site: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("localhost:9478"));
            headers.insert("sec-fetch-site", HeaderValue::from_static(site));
            is_local(&Method::GET, &headers).is_ok()
        };
        assert!(asked("none") && asked("same-origin") && asked("same-site"));
        assert!(!asked("cross-site"));
    }
}
