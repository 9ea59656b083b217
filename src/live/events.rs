//! GET /events: what changes, as server-sent events, for as long as the client listens.
//!
//! Each client has a task that remembers what it has told and looks for what is new. While the client does not read, nothing is
//! collected for it: what it is told next is what is true then. So a slow client costs one part of an answer, and one that does
//! not read at all is given up after [`PATIENCE`].
//!
//! | event | when | what |
//! | --- | --- | --- |
//! | `state` | it has changed, and every [`BEAT`] | stage, connections, generation; a page sees by its absence that contact is lost |
//! | `sample` | every step of the history | what happened in it, see [`history`](super::history) |
//! | `ends` | something ended | the newest ends and refusals, as /ends has them, and whether there were more |

use std::{fmt::Write as _, sync::Arc, time::Duration};

use http::StatusCode;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{Live, ends::entry};
use crate::{
    proxy::view::{Filter, Wanted},
    web::{self, Answer},
};

/// Who follows.
#[derive(Debug)]
pub struct Followers(Arc<Semaphore>);

impl Default for Followers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_FOLLOWERS)))
    }
}

impl Live {
    /// Begins to tell one client.
    pub(super) fn events(self: Arc<Self>) -> Answer {
        let Ok(place) = Arc::clone(&self.followers.0).try_acquire_owned() else {
            return web::text(StatusCode::SERVICE_UNAVAILABLE, "too many follow already\n");
        };
        let (sender, parts) = mpsc::channel(1);
        tokio::spawn(tell(self, sender));
        web::stream("text/event-stream", parts, place)
    }
}

/// Tells one client until it leaves.
async fn tell(live: Arc<Live>, client: mpsc::Sender<Bytes>) {
    let mut told = Told::new(&live);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = client.closed() => return,
        }
        let news = told.news(&live).await;
        if !news.is_empty() && !matches!(timeout(PATIENCE, client.send(news.into())).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// What a client has been told.
struct Told {
    state: Value,
    at: Instant,
    /// The number of the last sample.
    sample: u64,
    /// The highest number of an end.
    end: u64,
}

impl Told {
    fn new(live: &Live) -> Self {
        Self {
            state: Value::Null,
            at: Instant::now(),
            sample: live.history.last(),
            end: live.view.last_end(),
        }
    }

    async fn news(&mut self, live: &Live) -> String {
        let mut out = String::new();
        let state = live.summary();
        if state != self.state || self.at.elapsed() >= BEAT {
            event(&mut out, "state", &state);
            self.state = state;
            self.at = Instant::now();
        }
        for sample in live.history.since(self.sample) {
            event(&mut out, "sample", &sample.json());
            self.sample = sample.number;
        }
        if live.view.last_end() > self.end {
            let ends = self.ends(live).await;
            event(&mut out, "ends", &ends);
        }
        out
    }

    /// The newest ends. In a storm it is those that matter, not a growing backlog.
    async fn ends(&mut self, live: &Live) -> Value {
        let wanted = Wanted {
            after: None,
            limit: ENDS,
        };
        let mut ends = live.view.ends(Filter::default(), wanted).await.of;
        ends.entries.retain(|end| end.sequence > self.end);
        self.end = self.end.max(ends.last);
        json!({
            "last": ends.last,
            "more": ends.entries.len() >= ENDS,
            "ends": ends.entries.iter().map(entry).collect::<Vec<_>>(),
        })
    }
}

fn event(out: &mut String, kind: &str, data: &Value) {
    let _ = write!(out, "event: {kind}\ndata: {data}\n\n"); // JSON on one line
}

/// How often a client's task looks for news.
const LOOK: Duration = Duration::from_millis(500);

/// How long a client hears nothing at most.
const BEAT: Duration = Duration::from_secs(5);

/// How many ends are told at once.
const ENDS: usize = 100;

/// How long a client may not read before it is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many may follow at once: pages of a few people.
const MAX_FOLLOWERS: usize = 16;
