//! What `spec.limits.tunnel` means.

use std::time::Duration;

use crate::{
    api,
    routing::tunnel_limits::{OnExceeded, Rate, SideLimits, TunnelLimits},
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
        messages: spec.messages.as_ref().and_then(rate),
        bytes: spec.bytes.as_ref().and_then(rate),
        control_frames: spec.control_frames.as_ref().and_then(rate),
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

fn rate(spec: &api::FrameRate) -> Option<Rate> {
    let count = u32::try_from(spec.count).ok()?;
    let burst = spec.burst.and_then(|burst| u32::try_from(burst).ok()).unwrap_or(count);
    Some(Rate::new(count, Duration::from(spec.interval), burst))
}
