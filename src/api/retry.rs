//! What happens when an endpoint refuses a handshake.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// What happens when an endpoint refuses a handshake.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many more endpoints may get the handshake, one after the other and none twice, within timeouts.handshake.
    /// From 1 to 3. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 3))]
    pub attempts: Option<i32>,

    /// How long one endpoint may take to answer the handshake, from when it was sent. 0s: as long as timeouts.handshake
    /// leaves. Default: 0s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Duration>,

    /// Statuses of an endpoint's answer that send the handshake to the next endpoint. From 400 to 599, at most 16.
    /// Default: 502, 503, 504.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(range(min = 400, max = 599)), extend("x-kubernetes-list-type" = "set"))]
    pub codes: Vec<i32>,
}
