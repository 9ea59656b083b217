//! Waiting for what other processes bring about.

use std::{fmt::Debug, time::Instant};

use tokio::time::{Duration, sleep, timeout};

use crate::support::PATIENCE;

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    until(what, async || if is_so().await { Ok(()) } else { Err("not so") }).await;
}

/// Waits for a value. Panics with what was in the way at last.
pub async fn until<T, E: Debug>(what: &str, look: impl AsyncFnMut() -> Result<T, E>) -> T {
    within(PATIENCE, what, look).await
}

/// The same with another limit.
pub async fn within<T, E: Debug>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, E>) -> T {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(error) => assert!(started.elapsed() < limit, "never: {what}: {error:?}"),
        }
        sleep(POLL).await;
    }
}

/// Waits for what has to come within [`SOON`]; says when it came.
pub async fn soon(what: &str, coming: impl Future<Output = ()>) -> Duration {
    let started = Instant::now();
    timeout(SOON, coming)
        .await
        .unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
    started.elapsed()
}

/// How soon what happens in a cluster is in effect, even if the API server was away before.
pub const SOON: Duration = Duration::from_secs(10);
/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
