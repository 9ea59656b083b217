//! Follows the objects of one kind in a cluster: lists them, then watches, for as long as the process runs.
//!
//! Knows no kind and keeps no object: it hands each on as soon as it has been read. kube's own watcher does not tell when the
//! API server was last heard, nor up to which resourceVersion nothing has changed, and its list may wait for ever; how old
//! the view is, and what a replica serves, could not be said with it.

use std::{collections::BTreeMap, fmt, mem, sync::Arc, time::Duration};

use futures::{TryStreamExt, pin_mut};
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ObjectList, Request},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};

/// An object as an API server sends it, less what nobody looks at.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Watched {
    #[serde(default)]
    pub(super) metadata: Meta,
    /// Everything but the metadata.
    #[serde(flatten)]
    pub(super) fields: Map<String, Value>,
}

/// The metadata of a [`Watched`]. managedFields, the most of it, are passed over while reading.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    pub(super) generation: Option<i64>,
    pub(super) creation_timestamp: Option<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// What to follow.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) client: Client,
    /// Rung when everything is to be listed again.
    pub(super) again: Arc<Notify>,
    /// URL paths of the collection: the first one that the API server knows.
    pub(super) paths: Vec<String>,
    /// Whether it may be unknown to the API server: then there are none.
    pub(super) optional: bool,
    /// Whether it may be forbidden to look at them: then there are none, until it is allowed.
    pub(super) may_be_forbidden: bool,
    pub(super) label_selector: Option<String>,
    pub(super) field_selector: Option<String>,
    /// When to list everything again although nothing seems wrong, give or take a third. A watch from a resourceVersion that
    /// a restored cluster has not reached yet is silent, and only a list shows it.
    pub(super) relist: Duration,
}

/// What is said about the objects.
#[derive(Debug)]
pub(super) enum News<T> {
    /// These are all; those that are not among them are gone.
    All {
        objects: Vec<T>,
        version: u64,
    },
    /// New, or changed.
    Changed {
        object: T,
        version: u64,
    },
    Gone {
        object: T,
        version: u64,
    },
    /// Nothing has changed, up to this resourceVersion if one is known.
    Heard(Option<u64>),
    /// The API server could not be asked; it will be asked again.
    Failed(Failure),
}

impl<T> News<T> {
    /// The resourceVersion up to which everything is known by it.
    pub(super) fn version(&self) -> Option<u64> {
        match self {
            Self::All { version, .. } | Self::Changed { version, .. } | Self::Gone { version, .. } => Some(*version),
            Self::Heard(version) => *version,
            Self::Failed(_) => None,
        }
    }
}

/// Why the API server could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It refused.
    Refused {
        code: u16,
        message: String,
        retry_after: Option<Duration>,
    },
    /// It does not know the kind.
    Unknown,
    /// It said nothing for too long.
    Silent,
    /// It could not be reached, or spoke nonsense.
    Lost(String),
}

/// Why following stops for a moment.
enum Stop {
    Failed(Failure),
    /// The watch is too old to go on from: everything must be listed again.
    Outdated,
    /// Nobody listens any longer.
    Closed,
}

/// Follows `target` until nobody takes the messages that `wrap` makes of what is heard. `read` reduces each object to what
/// is kept of it.
pub(super) async fn follow<T, M>(
    target: Target,
    read: impl Fn(Watched) -> T + Send,
    wrap: impl Fn(News<T>) -> M + Send,
    out: mpsc::Sender<M>,
) {
    let mut follower = Follower {
        target,
        read,
        wrap,
        out,
        path: 0,
        unknown: 0,
        reached: None,
        relist_at: Instant::now(),
        has_listed: false,
        is_forbidden: false,
        failures: 0,
        answers: true,
        outdated: 0,
    };
    loop {
        let pause = match follower.advance().await {
            Ok(()) => continue,
            Err(Stop::Closed) => return,
            Err(Stop::Outdated) => {
                follower.reached = None;
                follower.failures = 0; // it is there again, and says so
                follower.outdated += 1;
                pause(SPREAD, follower.outdated)
            }
            Err(Stop::Failed(failure)) => {
                let answers = failure.is_answer();
                if answers && !follower.answers {
                    follower.failures = follower.failures.min(RETURNING);
                }
                follower.answers = answers;
                follower.failures += 1;
                let pause = pause(FIRST_PAUSE, follower.failures).max(failure.asked());
                if follower.tell(News::Failed(failure)).await.is_err() {
                    return;
                }
                pause
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = follower.out.closed() => return,
        }
    }
}

struct Follower<T, M, R: Fn(Watched) -> T, W: Fn(News<T>) -> M> {
    target: Target,
    read: R,
    wrap: W,
    out: mpsc::Sender<M>,
    /// Which of the target's paths the API server knows.
    path: usize,
    /// How many of them, the present one the last, it has said not to know.
    unknown: usize,
    /// Up to which resourceVersion everything has been told.
    reached: Option<u64>,
    relist_at: Instant,
    /// Whether the objects were ever listed.
    has_listed: bool,
    /// Whether it has been said that they must not be.
    is_forbidden: bool,
    /// In a row, without anything heard on a watch.
    failures: u32,
    /// Whether the last of them was an answer.
    answers: bool,
    /// How often in a row a watch could not go on from where the list or the last watch had come to.
    outdated: u32,
}

impl<T, M, R: Fn(Watched) -> T, W: Fn(News<T>) -> M> Follower<T, M, R, W> {
    /// Lists if that is due, else watches for a while.
    async fn advance(&mut self) -> Result<(), Stop> {
        match self.reached.filter(|_| Instant::now() < self.relist_at) {
            Some(reached) => self.watch(reached).await,
            None => self.list().await,
        }
    }

    async fn list(&mut self) -> Result<(), Stop> {
        let mut objects = Vec::new();
        let mut params = ListParams {
            label_selector: self.target.label_selector.clone(),
            field_selector: self.target.field_selector.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let version = loop {
            let request = Request::new(&self.target.paths[self.path]).list(&params).map_err(built)?;
            let page = match in_time(LIST, self.target.client.request::<ObjectList<Watched>>(request)).await {
                Err(Stop::Failed(Failure::Unknown)) => return self.unknown().await,
                Err(Stop::Failed(Failure::Refused { code: 403, message, .. }))
                    if self.target.may_be_forbidden && !self.has_listed =>
                {
                    return self.forbidden(&message).await;
                }
                page => page?,
            };
            objects.extend(page.items.into_iter().map(&self.read));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => break number(page.metadata.resource_version.as_deref()),
            }
        };
        self.unknown = 0;
        self.reached = version;
        self.has_listed = true;
        self.relist_at = Instant::now() + self.target.relist.mul_f64(2.0 / 3.0 + fastrand::f64() * 2.0 / 3.0);
        let version = version.ok_or_else(|| Stop::Failed(Failure::Lost("the list has no resourceVersion".to_owned())))?;
        self.tell(News::All { objects, version }).await
    }

    /// The API server does not know the path: tries the others, for a definition may have moved on from one version to
    /// another. If it knows none there are no objects, or that is a failure.
    async fn unknown(&mut self) -> Result<(), Stop> {
        self.reached = None;
        self.unknown += 1;
        if self.unknown < self.target.paths.len() {
            self.path = (self.path + 1) % self.target.paths.len();
            return Ok(());
        }
        (self.path, self.unknown) = (0, 0);
        if !self.target.optional {
            return Err(Stop::Failed(Failure::Unknown));
        }
        self.none().await
    }

    /// It was never allowed to look at the objects. What was allowed once is a failure when it is no longer: then what is known
    /// stays.
    async fn forbidden(&mut self, message: &str) -> Result<(), Stop> {
        if !mem::replace(&mut self.is_forbidden, true) {
            tracing::info!("as if there were none: {message}");
        }
        self.none().await
    }

    /// There are no objects, and that is looked at again after a while.
    async fn none(&mut self) -> Result<(), Stop> {
        self.tell(News::All {
            objects: Vec::new(),
            version: 0,
        })
        .await?;
        tokio::select! {
            () = sleep(LOOK_AGAIN.mul_f64(0.75 + fastrand::f64() / 4.0)) => Ok(()),
            () = self.out.closed() => Err(Stop::Closed),
        }
    }

    async fn watch(&mut self, from: u64) -> Result<(), Stop> {
        let started = Instant::now();
        let window = WINDOW.mul_f64(2.0 / 3.0 + fastrand::f64() / 3.0);
        let window = window.min(self.relist_at - started).max(Duration::from_secs(1));
        let params = WatchParams {
            label_selector: self.target.label_selector.clone(),
            field_selector: self.target.field_selector.clone(),
            timeout: u32::try_from(window.as_secs()).ok(),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(&self.target.paths[self.path])
            .watch(&params, &from.to_string())
            .map_err(built)?;
        let events = match in_time(START, self.target.client.request_events::<Watched>(request)).await {
            Err(Stop::Failed(Failure::Unknown)) => return Err(Stop::Outdated), // the kind was removed, or came back anew
            events => events?,
        };
        pin_mut!(events);
        self.tell(News::Heard(None)).await?;
        let mut is_silent = true;
        loop {
            let event = tokio::select! {
                event = timeout_at(started + window + GRACE, events.try_next()) => event,
                () = self.target.again.notified() => {
                    self.relist_at = Instant::now();
                    return Ok(());
                }
            };
            let event = match event {
                Err(_) => return Err(Stop::Failed(Failure::Silent)),
                Ok(event) => event.map_err(failed)?,
            };
            let Some(event) = event else {
                // A watch that ends as soon as it began, again and again, would be a storm.
                let is_futile = is_silent && started.elapsed() < FUTILE && started.elapsed() < window;
                if is_futile {
                    return Err(Stop::Failed(Failure::Lost("the watch ended at once".to_owned())));
                }
                (self.failures, self.outdated) = (0, 0);
                return self.tell(News::Heard(None)).await;
            };
            self.event(event).await?;
            is_silent = false;
            (self.failures, self.outdated) = (0, 0);
        }
    }

    async fn event(&mut self, event: WatchEvent<Watched>) -> Result<(), Stop> {
        let (object, is_gone) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                let version = number(Some(&bookmark.metadata.resource_version));
                self.reached = version.or(self.reached);
                return self.tell(News::Heard(version)).await;
            }
            WatchEvent::Error(status) => {
                // Whatever it is, going on from here would meet it again.
                tracing::debug!(
                    code = status.code,
                    message = status.message,
                    "a watch cannot go on; listing again"
                );
                return Err(Stop::Outdated);
            }
        };
        let Some(version) = number(Some(&object.metadata.resource_version)) else {
            return Err(Stop::Outdated);
        };
        self.reached = Some(version);
        let object = (self.read)(object);
        self.tell(match is_gone {
            true => News::Gone { object, version },
            false => News::Changed { object, version },
        })
        .await
    }

    async fn tell(&self, news: News<T>) -> Result<(), Stop> {
        self.out.send((self.wrap)(news)).await.map_err(|_| Stop::Closed)
    }
}

/// How long to wait after the `nth` failure in a row: longer each time, and never as long as everybody else does.
fn pause(first: Duration, nth: u32) -> Duration {
    let most = first.saturating_mul(1 << nth.saturating_sub(1).min(10)).min(LONGEST_PAUSE);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

impl Failure {
    /// Whether it is the same trouble, were it in other words.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused { code, .. }, Self::Refused { code: other, .. }) => code == other,
            _ => mem::discriminant(self) == mem::discriminant(other),
        }
    }

    /// Whether the API server itself said so.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unknown)
    }

    /// How long the API server asks us to wait.
    fn asked(&self) -> Duration {
        match self {
            Self::Refused { retry_after, .. } => retry_after.unwrap_or_default().min(MOST_ASKED),
            Self::Unknown | Self::Silent | Self::Lost(_) => Duration::ZERO,
        }
    }
}

/// The answer to a call, if it comes in time.
async fn in_time<T>(limit: Duration, call: impl Future<Output = kube::Result<T>>) -> Result<T, Stop> {
    match timeout(limit, call).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(Stop::Failed(Failure::Silent)),
    }
}

fn failed(error: kube::Error) -> Stop {
    match error {
        kube::Error::Api(status) if status.code == 410 => Stop::Outdated,
        kube::Error::Api(status) if status.code == 404 => Stop::Failed(Failure::Unknown),
        kube::Error::Api(status) => Stop::Failed(Failure::Refused {
            code: status.code,
            retry_after: status
                .details
                .as_ref()
                .map(|details| Duration::from_secs(details.retry_after_seconds.into()))
                .or((status.code == 429).then_some(TOO_BUSY)),
            message: status.message,
        }),
        other => Stop::Failed(Failure::Lost(innermost(&other))),
    }
}

fn built(error: kube::core::request::Error) -> Stop {
    Stop::Failed(Failure::Lost(innermost(&error)))
}

/// What went wrong in the end: the outer errors say only who was told.
pub(super) fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn number(version: Option<&str>) -> Option<u64> {
    version?.parse().ok()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message, .. } => write!(f, "the API server answers {code}: {message}"),
            Self::Unknown => f.write_str("the API server does not know this kind"),
            Self::Silent => f.write_str("the API server says nothing"),
            Self::Lost(reason) => write!(f, "the API server cannot be reached: {reason}"),
        }
    }
}

/// Objects in one answer to a list.
const PAGE: u32 = 500;
/// How long an answer to a list may take.
const LIST: Duration = Duration::from_secs(30);
/// How long it may take until a watch is granted.
const START: Duration = Duration::from_secs(10);
/// How long a watch lasts at most; the API server ends it then, and so shows that it is still there.
const WINDOW: Duration = Duration::from_secs(45);
/// How much longer it may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// A silent watch that lasted less than this has not helped.
const FUTILE: Duration = Duration::from_secs(1);
/// When to ask again for a kind that the API server does not know, and that need not be there.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Over which those that have to list again at the same moment are spread.
const SPREAD: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An API server that answers again, were it that it is not ready yet, is asked as after so many failures, however many there
/// were: it soon will be.
const RETURNING: u32 = 2;
/// What an API server that is too busy asks for in a header, which the client does not show.
const TOO_BUSY: Duration = Duration::from_secs(1);
/// How long an API server may ask us to wait.
const MOST_ASKED: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    type Answer = Result<(u16, &'static str), &'static str>;

    const OBJECTS: Answer = Ok((200, r#"{"metadata": {"resourceVersion": "10"}, "items": []}"#));
    const TOO_OLD: Answer = Ok((
        410,
        r#"{"status": "Failure", "message": "too old resource version", "code": 410}"#,
    ));
    const NOT_READY: Answer = Ok((503, r#"{"status": "Failure", "message": "try again", "code": 503}"#));
    const FORBIDDEN: Answer = Ok((
        403,
        r#"{"status": "Failure", "message": "secrets is forbidden", "code": 403}"#,
    ));
    const GONE: Answer = Err("connection refused");

    /// Follows an API server that gives these answers, and none after them. Returns how long after the answer before each
    /// question came.
    async fn pauses(answers: &[Answer]) -> Vec<Duration> {
        heard(answers).await.0
    }

    /// And the news, `+` for a list that came, `!` for a failure.
    async fn heard(answers: &[Answer]) -> (Vec<Duration>, String) {
        let asked: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let (script, times) = (answers.to_vec(), Arc::clone(&asked));
        let service = tower::service_fn(move |_: Request<Body>| {
            let mut times = times.lock().unwrap();
            times.push(Instant::now());
            let answer = script.get(times.len() - 1).copied();
            async move {
                match answer {
                    None => std::future::pending().await,
                    Some(Ok((code, body))) => {
                        let body = Body::from(body.as_bytes().to_vec());
                        Ok(Response::builder().status(code).body(body).unwrap())
                    }
                    Some(Err(error)) => Err::<_, Box<dyn std::error::Error + Send + Sync>>(error.into()),
                }
            }
        });
        let target = Target {
            client: Client::new(service, "default"),
            again: Arc::default(),
            paths: vec!["/api/v1/services".to_owned()],
            optional: false,
            may_be_forbidden: true,
            label_selector: None,
            field_selector: None,
            relist: Duration::from_secs(3600),
        };
        let (out, mut news) = mpsc::channel(64);
        tokio::spawn(follow(target, drop, |news| news, out));
        let mut heard = String::new();
        while asked.lock().unwrap().len() <= answers.len() {
            match news.recv().await {
                Some(News::All { .. }) => heard.push('+'),
                Some(News::Failed(_)) => heard.push('!'),
                _ => {}
            }
        }
        let asked = asked.lock().unwrap();
        (asked.windows(2).map(|pair| pair[1] - pair[0]).collect(), heard)
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_be_reached_is_asked_less_and_less_often() {
        let pauses = pauses(&[GONE; 20]).await;
        assert!(pauses[0] <= FIRST_PAUSE, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST_PAUSE / 2), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_too_busy_is_left_alone_for_a_while() {
        let pauses = pauses(&[Ok((429, "Too many requests, please try again later.")); 10]).await;
        assert!(pauses.iter().all(|pause| *pause >= TOO_BUSY), "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_outage_everything_is_listed_soon() {
        let mut answers = [GONE; 12];
        answers[0] = OBJECTS;
        answers[10] = NOT_READY;
        answers[11] = TOO_OLD;
        let pauses = pauses(&answers).await;
        assert!(pauses[9] > Duration::from_secs(1), "{pauses:?}");
        assert!(pauses[10] < Duration::from_secs(1), "it answers: {pauses:?}");
        assert!(pauses[11] <= SPREAD, "it knows, and only the watch is too old: {pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_not_be_looked_at_is_not_there_until_it_was_seen_once() {
        let (pauses, heard) = heard(&[FORBIDDEN, FORBIDDEN, OBJECTS, TOO_OLD, FORBIDDEN]).await;
        assert!(
            heard.starts_with("+++!"),
            "what is known stays when the right is taken away: {heard}"
        );
        assert_eq!(heard.matches('+').count(), 3, "{heard}");
        assert!(pauses[0] >= LOOK_AGAIN / 2, "{pauses:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn watches_that_are_too_old_as_soon_as_they_are_listed_are_no_storm() {
        let answers: Vec<Answer> = [OBJECTS, TOO_OLD].repeat(10);
        let pauses = pauses(&answers).await;
        assert!(pauses[1] <= SPREAD, "{pauses:?}");
        assert!(pauses[19] >= LONGEST_PAUSE / 2, "{pauses:?}");
    }
}
