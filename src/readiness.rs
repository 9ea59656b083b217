//! When the process may say that it is ready: when every part that has to be is.

use std::sync::{Arc, Mutex, PoisonError};

/// What is still waited for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<&'static str>,
    closed: bool,
}

/// One part's promise: the process is not ready before it is dropped.
#[derive(Debug)]
pub struct Guard {
    readiness: Readiness,
    part: &'static str,
}

impl Readiness {
    /// Waits for `part` until the guard is dropped.
    pub fn wait_for(&self, part: &'static str) -> Guard {
        self.state(|state| state.waiting.push(part));
        Guard {
            readiness: self.clone(),
            part,
        }
    }

    /// From now on the process is not ready, whatever else happens: it is shutting down.
    pub fn close(&self) {
        self.state(|state| state.closed = true);
    }

    /// The parts that are not ready; empty: all are.
    pub fn missing(&self) -> Vec<&'static str> {
        self.state(|state| match state.closed {
            true => vec!["shutting down"],
            false => state.waiting.clone(),
        })
    }

    fn state<T>(&self, with: impl FnOnce(&mut State) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.readiness.state(|state| {
            if let Some(at) = state.waiting.iter().position(|part| *part == self.part) {
                state.waiting.swap_remove(at);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_guard_is_dropped_and_never_again_after_closing() {
        let readiness = Readiness::default();
        let (routes, proxy) = (readiness.wait_for("routes"), readiness.wait_for("proxy"));
        drop(proxy);
        assert_eq!(readiness.missing(), ["routes"]);
        drop(routes);
        assert!(readiness.missing().is_empty());
        readiness.close();
        assert_eq!(readiness.missing(), ["shutting down"]);
    }
}
