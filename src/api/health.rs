//! Which endpoints are left out for a time.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// Which endpoints are left out for a time, besides those that Kubernetes says are not ready.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// By what is seen of their handshakes and connections. {} takes the defaults of all its fields. Default: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealth>,
}

/// When an endpoint is ejected: it gets no new connections for a time, its open ones stay. Failures are handshakes that it
/// refused, left unanswered or answered with one of codes; connections that it ended abnormally within
/// earlyCloseWithin or with Close 1011; and connections that ended because it stopped answering pings, stopped taking bytes,
/// or vanished. Each replica judges by what it sees. Routes that share an endpoint add to the same count.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.window) || self.window.matches('[1-9]')").message("window must be more than 0s"),
    validation = Rule::new("!has(self.baseEjectionTime) || self.baseEjectionTime.matches('[1-9]')")
        .message("baseEjectionTime must be more than 0s")
)]
#[serde(rename_all = "camelCase")]
pub struct PassiveHealth {
    /// How many failures eject an endpoint: so many failed handshakes in a row, or so many failures of any kind within
    /// window, if minFailurePercent says so too. From 1 to 100. Default: 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub failures: Option<i32>,

    /// Over how much time failures are counted. More than 0s. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Duration>,

    /// How many of a hundred handshakes and connections within window must have failed, unless the failed handshakes were in
    /// a row: so that a few failures among thousands do not count. From 1 to 100. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub min_failure_percent: Option<i32>,

    /// Statuses of answers to handshakes that are failures. From 400 to 599, at most 16. Default: 500, 502, 503, 504.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)), extend("x-kubernetes-list-type" = "set"))]
    pub codes: Vec<i32>,

    /// A connection that the endpoint ends sooner than this after its 101, with Close 1001, 1011, 1012, 1013 or 1014, or without a
    /// Close although the client had sent nothing, is a failure. 0s: never. Default: 1s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_close_within: Option<Duration>,

    /// How long the first ejection lasts; the next takes twice as long, then three times. Each such time that the endpoint is
    /// well makes it one less again. After it one handshake tries the endpoint, and its answer lets the others follow. More
    /// than 0s. Default: 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<Duration>,

    /// The longest that an ejection lasts. Not less than baseEjectionTime. Default: 5m, or baseEjectionTime if that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ejection_time: Option<Duration>,

    /// How many of a hundred endpoints of a Service port that are ready may be out at a time. One of several always may, the
    /// last never. From 1 to 100. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_ejection_percent: Option<i32>,
}
