//! Keeps a storm of handshakes from starving live tunnels: the costly steps of a worker's handshakes pass one by one, a few in
//! each turn of its loop. Handshakes that have begun pass before others, so that what was spent on them comes to something.

use std::{cell::Cell, rc::Rc};

use tokio::{sync::Semaphore, task};

/// Which step of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    First,
    /// One of a handshake that has begun.
    Later,
}

/// Lets at most two steps pass in each turn of a worker's loop.
#[derive(Debug)]
pub struct Gate {
    first: Queue,
    later: Queue,
    /// Whether somebody sees to the turns.
    is_turning: Cell<bool>,
}

/// Those who wait, in the order in which they came.
#[derive(Debug)]
struct Queue {
    left: Semaphore,
    waiting: Cell<usize>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            first: Queue::with(STEPS),
            later: Queue::with(0),
            is_turning: Cell::new(false),
        }
    }
}

impl Gate {
    /// Waits for a turn with room for one more step.
    pub async fn pass(self: &Rc<Self>, step: Step) {
        self.turn();
        match step {
            Step::First => self.first.pass().await,
            // What no handshake has taken that begins is free for the others.
            Step::Later if self.first.try_pass() => {}
            Step::Later => self.later.pass().await,
        }
    }

    /// Sees to it that there are turns for as long as somebody waits, and one more.
    fn turn(self: &Rc<Self>) {
        if self.is_turning.replace(true) {
            return;
        }
        let gate = Rc::clone(self);
        task::spawn_local(async move {
            loop {
                task::yield_now().await; // comes back after the sockets were looked at
                let later = gate.later.waiting.get().min(STEPS);
                gate.later.admit(later);
                gate.first.admit(STEPS - later);
                if gate.later.waiting.get() + gate.first.waiting.get() == 0 {
                    return gate.is_turning.set(false);
                }
            }
        });
    }
}

impl Queue {
    fn with(left: usize) -> Self {
        Self {
            left: Semaphore::new(left),
            waiting: Cell::new(0),
        }
    }

    fn try_pass(&self) -> bool {
        self.left.try_acquire().map(|permit| permit.forget()).is_ok()
    }

    async fn pass(&self) {
        let _waiting = Waiting::of(&self.waiting);
        if let Ok(permit) = self.left.acquire().await {
            permit.forget();
        }
    }

    /// So many may pass in this turn; what is left of the last one is void.
    fn admit(&self, count: usize) {
        self.left.forget_permits(usize::MAX);
        self.left.add_permits(count);
    }
}

/// Counts one who waits, until it is dropped.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn of(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A step is about the time of a few hundred messages.
const STEPS: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_than_two_steps_pass_in_a_turn_and_all_pass_in_the_end() {
        let passed = Rc::new(Cell::new(0));
        let most = Rc::new(Cell::new(0));
        let turns = {
            let (passed, most) = (Rc::clone(&passed), Rc::clone(&most));
            async move {
                let mut turns = 0;
                while passed.get() < 100 {
                    let before = passed.get();
                    task::yield_now().await;
                    most.set(most.get().max(passed.get() - before));
                    turns += 1;
                }
                turns
            }
        };
        let gate = Rc::new(Gate::default());
        let turns = task::LocalSet::new()
            .run_until(async {
                for _ in 0..100 {
                    let (gate, passed) = (Rc::clone(&gate), Rc::clone(&passed));
                    task::spawn_local(async move {
                        gate.pass(Step::First).await;
                        passed.set(passed.get() + 1);
                    });
                }
                turns.await
            })
            .await;
        assert!(most.get() <= 2 * STEPS, "{} steps between two looks", most.get()); // a look may fall between two turns
        assert!(turns >= 25, "{turns} turns");
    }

    #[tokio::test]
    async fn who_has_begun_goes_first_and_who_leaves_holds_nobody_up() {
        let gate = Rc::new(Gate::default());
        let passed = Rc::new(Cell::new(0));
        task::LocalSet::new()
            .run_until(async {
                let waiting: Vec<_> = (0..100)
                    .map(|_| {
                        let (gate, passed) = (Rc::clone(&gate), Rc::clone(&passed));
                        task::spawn_local(async move {
                            gate.pass(Step::First).await;
                            passed.set(passed.get() + 1);
                        })
                    })
                    .collect();
                while passed.get() == 0 {
                    task::yield_now().await;
                }
                gate.pass(Step::Later).await;
                assert!(passed.get() <= 4 * STEPS, "{} went before", passed.get());
                // Some leave, perhaps with a place that they were given.
                for task in waiting.iter().step_by(2) {
                    task.abort();
                }
                for task in waiting {
                    let _ = task.await; // aborted, or passed
                }
                assert!(passed.get() >= 50, "{} passed", passed.get());
            })
            .await;
        assert_eq!((gate.first.waiting.get(), gate.later.waiting.get()), (0, 0));
    }
}
