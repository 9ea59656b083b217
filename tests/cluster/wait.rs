//! Waiting for what other processes bring about.

use std::{fmt::Debug, time::Instant};

use tokio::time::{Duration, sleep};

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

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);
