//! What may pass through a tunnel, compiled: how much each side may send, and how large.

use super::rate::Rate;

/// The limits of one rule's tunnels. `None`: that side may send what it likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelLimits {
    pub from_client: Option<SideLimits>,
    pub from_endpoint: Option<SideLimits>,
}

/// What one side may send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideLimits {
    pub messages: Option<Rate>,
    /// Of frames, with their headers, as they are on the wire below TLS.
    pub bytes: Option<Rate>,
    /// Pings and Pongs, and fragments that carry nothing.
    pub control_frames: Option<Rate>,
    /// Payload of one frame, compressed or not.
    pub max_frame: Option<u64>,
    /// Payload of all frames of one message.
    pub max_message: Option<u64>,
    pub on_exceeded: OnExceeded,
    /// Whether what would be too much is only counted, as the other limits of the rule say of theirs.
    pub is_dry_run: bool,
}

/// What becomes of a side that sends more messages or bytes than its rates allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExceeded {
    /// Its tunnel ends.
    #[default]
    Close,
    /// It is not read until its rate allows more.
    Delay,
}
