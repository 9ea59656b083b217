//! Follows the Secret of the ticket keys, puts what it says into effect, and, if this replica leads, fills and rotates it.

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Client,
    api::{Patch, PatchParams},
    core::Request,
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    CURRENT, NEXT, PREVIOUS, ROTATED, SECRET, Stored, read,
    rotation::{Found, Step, judge, random},
};
use crate::{
    control::{
        convert,
        metrics::Metrics,
        path::FieldPath,
        watch::{News, Target, Watched, innermost},
    },
    routing::{ObjectName, TicketKey, Tickets},
};

/// What the keeper works with.
pub(in crate::control) struct Keeper {
    pub(in crate::control) client: Client,
    /// The Secret.
    pub(in crate::control) secret: ObjectName,
    pub(in crate::control) leading: watch::Receiver<bool>,
    pub(in crate::control) tickets: Tickets,
    pub(in crate::control) metrics: Metrics,
}

/// A state of the Secret.
pub(in crate::control) struct Seen {
    version: String,
    found: Found,
}

/// The one Secret as something to follow. The right to it is one on its name.
pub(in crate::control) fn target(client: &Client, secret: &ObjectName, relist: Duration) -> Target {
    Target {
        client: client.clone(),
        again: std::sync::Arc::default(),
        paths: vec![format!("/api/v1/namespaces/{}/secrets", secret.namespace)],
        optional: false,
        may_be_forbidden: true,
        label_selector: None,
        field_selector: Some(format!("metadata.name={}", secret.name)),
        relist,
    }
}

/// Reads the Secret as the API server sends it.
pub(in crate::control) fn watched(Watched { metadata, fields }: Watched) -> Seen {
    let secret = convert::from_value(Value::Object(fields), &FieldPath::default());
    let stored = match secret {
        Ok(core::Secret { data, .. }) => read(&data.unwrap_or_default()),
        Err(_) => Err("it cannot be read".to_owned()), // what is in it is not for a log
    };
    Seen {
        version: metadata.resource_version,
        found: match stored {
            Ok(Some(stored)) => Found::Usable(stored),
            Ok(None) => Found::Unusable { why: None },
            Err(why) => Found::Unusable { why: Some(why) },
        },
    }
}

/// Runs for as long as somebody tells it whether this replica leads.
pub(in crate::control) async fn keep(keeper: Keeper, mut news: mpsc::Receiver<News<Seen>>) {
    let mut desk = Desk {
        keeper,
        seen: None,
        since: Instant::now(),
        held: None,
        not_before: Instant::now(),
        failures: 0,
        resets: 0,
    };
    loop {
        let wake = desk.act().await;
        tokio::select! {
            Some(news) = news.recv() => desk.hear(news),
            changed = desk.keeper.leading.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
        }
    }
}

struct Desk {
    keeper: Keeper,
    /// `None`: it has not been listed.
    seen: Option<Seen>,
    /// Since when it is like that, as far as this replica knows.
    since: Instant,
    /// The last good keys; they are in effect.
    held: Option<Stored>,
    /// When the next write may go.
    not_before: Instant,
    /// In a row.
    failures: u32,
    /// How often somebody has taken the keys out since they were rotated.
    resets: u32,
}

impl Desk {
    fn hear(&mut self, news: News<Seen>) {
        match news {
            News::All { objects, .. } => self.see(objects.into_iter().next().unwrap_or(MISSING)),
            News::Changed { object, .. } if self.is_older(&object) => {} // than what this replica has written
            News::Changed { object, .. } => self.see(object),
            News::Gone { .. } => self.see(MISSING),
            News::Failed(failure) => tracing::debug!("{self}: {failure}"),
            News::Heard(_) => {}
        }
    }

    fn is_older(&self, object: &Seen) -> bool {
        let number = |seen: &Seen| seen.version.parse::<u64>().ok();
        number(object) < self.seen.as_ref().and_then(number)
    }

    /// Takes a state of the Secret in, and puts its keys into effect.
    fn see(&mut self, seen: Seen) {
        if self.seen.as_ref().is_some_and(|known| known.found == seen.found) {
            self.seen = Some(seen);
            return;
        }
        match &seen.found {
            Found::Missing => tracing::warn!(
                "{self}: it is not there, or may not be read; create it, of type {SECRET} and empty. {}",
                self.meanwhile()
            ),
            Found::Unusable { why: Some(why) } => tracing::warn!("{self}: {why}. {}", self.meanwhile()),
            Found::Unusable { why: None } => {}
            Found::Usable(stored) => {
                tracing::info!("{self}: its keys are in effect");
                self.keeper.tickets.store(Some(std::sync::Arc::clone(&stored.keys)));
                self.keeper.metrics.ticket_keys(stored.rotated);
                self.held = Some(stored.clone());
            }
        }
        (self.seen, self.since) = (Some(seen), Instant::now());
    }

    fn meanwhile(&self) -> &'static str {
        match self.held {
            Some(_) => "The last good keys stay in effect",
            None => "Until then a session is resumed only by the replica that began it",
        }
    }

    /// Does what is to be done, and returns when to look again.
    async fn act(&mut self) -> Option<Instant> {
        let seen = self.seen.as_ref().filter(|_| *self.keeper.leading.borrow())?;
        let now = Timestamp::now().as_second();
        let stored = match judge(&seen.found, self.held.as_ref(), self.since.elapsed(), now, &mut random) {
            Step::Rest => return None,
            Step::Wait(rest) => return Some(Instant::now() + rest),
            Step::Write(_) if Instant::now() < self.not_before => return Some(self.not_before),
            Step::Write(stored) => stored,
        };
        let was_reset = self.held.is_some() && matches!(seen.found, Found::Unusable { .. });
        self.resets = if was_reset { self.resets + 1 } else { 0 };
        if was_reset {
            tracing::warn!(
                "{self}: somebody has taken its keys out; they are put back. Whatever applies it must leave its data alone"
            );
        }
        self.not_before = Instant::now() + pause(self.resets);
        match self.write(&stored, &seen.version).await {
            Ok(version) => {
                self.failures = 0;
                let found = Found::Usable(stored);
                self.see(Seen { version, found });
            }
            Err(Unwritten::Conflict) => {} // it will be heard of
            Err(Unwritten::Failed(reason)) => {
                if self.failures.is_power_of_two() || self.failures == 0 {
                    tracing::warn!(
                        "{self}: cannot be written and will be later: {reason}; the leader needs the right to patch it"
                    );
                }
                self.failures += 1;
                self.not_before = Instant::now() + pause(self.failures);
            }
        }
        Some(self.not_before)
    }

    /// Writes the keys, if the Secret is still as it was seen; returns its new resourceVersion.
    async fn write(&self, stored: &Stored, version: &str) -> Result<String, Unwritten> {
        let entry = |key: Option<&TicketKey>| key.map(|key| STANDARD.encode(key.bytes()));
        let rotated = Timestamp::from_second(stored.rotated).unwrap_or_default().to_string();
        let patch = json!({
            "metadata": { "resourceVersion": version },
            "data": {
                NEXT: entry(stored.keys.next.as_ref()),
                CURRENT: entry(Some(&stored.keys.current)),
                PREVIOUS: entry(stored.keys.previous.as_ref()),
                ROTATED: STANDARD.encode(rotated),
            },
        });
        let ObjectName { namespace, name } = &self.keeper.secret;
        let path = Request::new(format!("/api/v1/namespaces/{namespace}/secrets"));
        let params = PatchParams {
            field_manager: Some("holdfast".to_owned()),
            ..PatchParams::default()
        };
        let request = path.patch(name, &params, &Patch::Merge(patch));
        let request = request.map_err(|error| Unwritten::Failed(innermost(&error)))?;
        match timeout(CALL, self.keeper.client.request::<Watched>(request)).await {
            Ok(Ok(answer)) => Ok(answer.metadata.resource_version),
            Ok(Err(kube::Error::Api(answer))) if answer.code == 409 => Err(Unwritten::Conflict),
            Ok(Err(error)) => Err(Unwritten::Failed(innermost(&error))),
            Err(_) => Err(Unwritten::Failed("the API server says nothing".to_owned())),
        }
    }
}

/// Why the keys were not written.
enum Unwritten {
    /// Somebody else has written the Secret meanwhile.
    Conflict,
    Failed(String),
}

impl fmt::Display for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--ticket-secret: Secret {}", self.keeper.secret)
    }
}

/// How long to wait after the `nth` time in a row.
fn pause(nth: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << nth.min(16)).min(LONGEST_PAUSE)
}

const MISSING: Seen = Seen {
    version: String::new(),
    found: Found::Missing,
};
/// How long a call may take.
const CALL: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Somebody who empties the Secret whenever it is filled is given way.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
