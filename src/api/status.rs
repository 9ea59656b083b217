//! What is reported about a route.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of a route. Written by the replica that leads its class.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WebSocketRouteStatus {
    /// The generation that the conditions speak of; an older one means that they are not up to date.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// Accepted: the route is valid and its hostnames are its own. ResolvedRefs: everything that it refers to exists and
    /// may be referred to. Programmed: every replica serves it. Conflicted: a rule of it can never match.
    /// holdfast explain tells more about each reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// One aspect of a route's state, as everywhere in Kubernetes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What the condition is about.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 316))]
    pub kind: String,

    /// Whether it is so.
    pub status: ConditionStatus,

    /// The generation that it was decided for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,

    /// When the status last changed.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,

    /// Why, in one word that holdfast explain knows.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"))]
    pub reason: String,

    /// Why, in a sentence that names the object and the field.
    #[schemars(length(max = 32768))]
    pub message: String,
}

/// Whether something is so.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}
