//! What `retry` and `health` come to, with the built-in values where a route that has them says nothing.

use std::time::Duration;

use crate::{
    api::{self, WebSocketRouteSpec},
    routing::{health::Passive, retry::Retry},
};

/// What a spec says of handshakes that are refused.
pub(in crate::control) fn retry(spec: &WebSocketRouteSpec) -> Option<Retry> {
    let given = spec.retry.as_ref()?;
    Some(Retry {
        attempts: number(given.attempts, 1),
        per_try_timeout: given.per_try_timeout.map_or(Duration::ZERO, Duration::from),
        codes: codes(&given.codes, &RETRY_CODES),
    })
}

/// What a spec says of endpoints' passive health.
pub(in crate::control) fn passive(spec: &WebSocketRouteSpec) -> Option<Passive> {
    let given = spec.health.as_ref()?.passive.as_ref()?;
    let time = |given: Option<api::Duration>, built_in| given.map_or(built_in, Duration::from);
    let base_ejection_time = time(given.base_ejection_time, BASE_EJECTION_TIME);
    Some(Passive {
        failures: number(given.failures, FAILURES),
        window: time(given.window, WINDOW),
        min_failure_percent: number(given.min_failure_percent, MIN_FAILURE_PERCENT),
        codes: codes(&given.codes, &HEALTH_CODES),
        early_close_within: time(given.early_close_within, EARLY_CLOSE_WITHIN),
        base_ejection_time,
        max_ejection_time: time(given.max_ejection_time, MAX_EJECTION_TIME.max(base_ejection_time)),
        max_ejection_percent: number(given.max_ejection_percent, MAX_EJECTION_PERCENT),
    })
}

/// `complete`, of which some is the route's and some the process's, without a contradiction between the two: where the longest
/// ejection would be shorter than the first, the process's gives way. `route`: what the route says itself.
pub(in crate::control) fn agreed(route: Option<&api::Health>, mut complete: Option<api::Health>) -> Option<api::Health> {
    let own = route.and_then(|health| health.passive.as_ref());
    let passive = complete.as_mut().and_then(|health| health.passive.as_mut());
    if let (Some(own), Some(passive)) = (own, passive)
        && let (Some(base), Some(max)) = (passive.base_ejection_time, passive.max_ejection_time)
        && Duration::from(max) < Duration::from(base)
    {
        match (own.base_ejection_time, own.max_ejection_time) {
            (Some(_), None) => passive.max_ejection_time = Some(base),
            (None, Some(_)) => passive.base_ejection_time = Some(max),
            _ => {}
        }
    }
    complete
}

/// The values of both, where a spec has them, with their fields' paths, as they are written in a manifest.
pub(super) fn listed(spec: &WebSocketRouteSpec) -> Vec<(&'static str, String)> {
    let time = |time: Duration| api::Duration::from(time).to_string();
    let codes = |codes: &[u16]| serde_json::to_string(codes).unwrap_or_default();
    let mut listed = Vec::new();
    if let Some(retry) = retry(spec) {
        listed.extend([
            ("retry.attempts", retry.attempts.to_string()),
            ("retry.perTryTimeout", time(retry.per_try_timeout)),
            ("retry.codes", codes(&retry.codes)),
        ]);
    }
    if let Some(passive) = passive(spec) {
        listed.extend([
            ("health.passive.failures", passive.failures.to_string()),
            ("health.passive.window", time(passive.window)),
            ("health.passive.minFailurePercent", passive.min_failure_percent.to_string()),
            ("health.passive.codes", codes(&passive.codes)),
            ("health.passive.earlyCloseWithin", time(passive.early_close_within)),
            ("health.passive.baseEjectionTime", time(passive.base_ejection_time)),
            ("health.passive.maxEjectionTime", time(passive.max_ejection_time)),
            ("health.passive.maxEjectionPercent", passive.max_ejection_percent.to_string()),
        ]);
    }
    listed
}

/// The schema bounds what is given.
fn number<T: TryFrom<i32>>(given: Option<i32>, built_in: T) -> T {
    given.and_then(|given| T::try_from(given).ok()).unwrap_or(built_in)
}

fn codes(given: &[i32], built_in: &[u16]) -> Box<[u16]> {
    let given: Box<[u16]> = given.iter().filter_map(|code| u16::try_from(*code).ok()).collect();
    if given.is_empty() { built_in.into() } else { given }
}

const RETRY_CODES: [u16; 3] = [502, 503, 504];
const HEALTH_CODES: [u16; 4] = [500, 502, 503, 504];
const FAILURES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(30);
const MIN_FAILURE_PERCENT: u32 = 50;
const EARLY_CLOSE_WITHIN: Duration = Duration::from_secs(1);
const BASE_EJECTION_TIME: Duration = Duration::from_secs(30);
const MAX_EJECTION_TIME: Duration = Duration::from_secs(300);
const MAX_EJECTION_PERCENT: usize = 50;
