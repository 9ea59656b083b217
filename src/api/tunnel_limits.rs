//! What each side of a WebSocket may send: how much, and how large.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// What may pass through one WebSocket. A WebSocket keeps the limits that it was opened with.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TunnelLimits {
    /// What a client may send. One that sends too much is told by a Close with 1008, or 1009 for what is too large; its
    /// endpoint is told 1001. Nothing of what was too much reaches the endpoint, and everything before it does.
    /// Default: no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_client: Option<SideLimits>,

    /// What an endpoint may send to one client. One that sends too much is told by a Close with 1008, or 1009 for what is too
    /// large; its client is told 1012, as it may try again. Default: no limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_endpoint: Option<SideLimits>,
}

/// What one side may send. Sizes are those on the wire: of compressed messages, the compressed ones.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.onExceeded) || has(self.messages) || has(self.bytes)")
        .message("onExceeded needs messages or bytes, the rates that it is about"),
    validation = Rule::new(
        "!has(self.maxFrameBytes) || !has(self.maxMessageBytes) || self.maxFrameBytes <= self.maxMessageBytes"
    )
    .message("maxFrameBytes is more than maxMessageBytes, which a frame alone would exceed")
)]
#[serde(rename_all = "camelCase")]
pub struct SideLimits {
    /// How many messages. A message counts once, with its first frame. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<FrameRate>,

    /// How many bytes, the headers of frames included. A message larger than burst exceeds it, however slowly messages come,
    /// unless it is sent slowly itself. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<FrameRate>,

    /// How many Pings and Pongs, and fragments that carry nothing. Answers to pings of Holdfast do not count. One more ends
    /// the WebSocket, whatever onExceeded says. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_frames: Option<FrameRate>,

    /// How many bytes of payload one frame may have, as it is sent: compressed, where the two sides compress. A larger one ends the WebSocket before a byte of it has passed. From 1 to
    /// 1000000000000. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub max_frame_bytes: Option<i64>,

    /// How many bytes of payload all frames of one message may have together, as they are sent: compressed, where the
    /// two sides compress. The frame with which there would be more ends
    /// the WebSocket before a byte of it has passed. From 1 to 1000000000000. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000_i64))]
    pub max_message_bytes: Option<i64>,

    /// What becomes of a side that sends more messages or bytes than it may. Close: the WebSocket ends. Delay: the side is not
    /// read until its rate allows more, so that its own sending comes to wait; nothing is lost, its Pongs wait too, and the
    /// other side is not slowed down. Default: Close.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_exceeded: Option<OnExceeded>,
}

/// How many: an even pace, and how many at once.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("self.interval.matches('[1-9]')").message("interval must be more than 0s")
)]
#[serde(rename_all = "camelCase")]
pub struct FrameRate {
    /// How many in each interval, evenly: 100 in 1s is one in 10ms. From 1 to 1000000000.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub count: i32,

    /// The interval. More than 0s.
    pub interval: Duration,

    /// How many may come at once, after a pause that is long enough. From 1 to 1000000000. Default: as many as count.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub burst: Option<i32>,
}

/// What becomes of a side that sends more than it may.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum OnExceeded {
    #[default]
    Close,
    Delay,
}
