//! Keeps a storm of handshakes from starving live tunnels: the costly steps of a worker's handshakes pass one by one, a few in
//! each turn of its loop, in the order in which they came.

use std::{cell::Cell, rc::Rc};

use tokio::{sync::Semaphore, task};

/// Lets at most two steps pass in each turn of a worker's loop.
#[derive(Debug)]
pub struct Gate {
    left: Semaphore,
    /// Whether the next turn has been asked for.
    is_turning: Cell<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            left: Semaphore::new(STEPS),
            is_turning: Cell::new(false),
        }
    }
}

impl Gate {
    /// Waits for a turn with room for one more step.
    pub async fn pass(self: &Rc<Self>) {
        if let Ok(permit) = self.left.acquire().await {
            permit.forget();
        }
        if self.is_turning.replace(true) {
            return;
        }
        let gate = Rc::clone(self);
        task::spawn_local(async move {
            task::yield_now().await; // comes back after the sockets were looked at
            gate.is_turning.set(false);
            gate.left.add_permits(STEPS - gate.left.available_permits().min(STEPS));
        });
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
                        gate.pass().await;
                        passed.set(passed.get() + 1);
                    });
                }
                turns.await
            })
            .await;
        assert!(most.get() <= 2 * STEPS, "{} steps between two looks", most.get()); // a look may fall between two turns
        assert!(turns >= 25, "{turns} turns");
    }
}
