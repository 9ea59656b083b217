//! What `spec.limits.tunnel` means.

use super::limits::rate;
use crate::{
    api,
    routing::{
        rate::Rate,
        tunnel_limits::{OnExceeded, SideLimits, TunnelLimits},
    },
};

/// `None`: nothing is limited. The schema bounds every number.
pub(super) fn tunnel_limits(spec: &api::TunnelLimits, is_dry_run: bool) -> Option<TunnelLimits> {
    let side = |spec: &Option<api::SideLimits>| spec.as_ref().and_then(|spec| side_limits(spec, is_dry_run));
    let limits = TunnelLimits {
        from_client: side(&spec.from_client),
        from_endpoint: side(&spec.from_endpoint),
    };
    (limits != TunnelLimits::default()).then_some(limits)
}

fn side_limits(spec: &api::SideLimits, is_dry_run: bool) -> Option<SideLimits> {
    let limits = SideLimits {
        messages: frame_rate(spec.messages.as_ref()),
        bytes: frame_rate(spec.bytes.as_ref()),
        control_frames: frame_rate(spec.control_frames.as_ref()),
        max_frame: spec.max_frame_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        max_message: spec.max_message_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
        on_exceeded: match spec.on_exceeded.unwrap_or_default() {
            api::OnExceeded::Close => OnExceeded::Close,
            api::OnExceeded::Delay => OnExceeded::Delay,
        },
        is_dry_run,
    };
    let nothing = SideLimits {
        on_exceeded: limits.on_exceeded,
        is_dry_run,
        ..SideLimits::default()
    };
    (limits != nothing).then_some(limits)
}

fn frame_rate(spec: Option<&api::FrameRate>) -> Option<Rate> {
    spec.and_then(|spec| rate(spec.count, spec.interval, spec.burst))
}
