//! What the data plane does right now, for whoever asks from another thread: open tunnels, grouped or listed, and what ended lately.
//!
//! [`live`](crate::live) asks through [`View`]; a task in each worker answers from its own tunnels, in slices between which the
//! others run, so that a question about 100,000 tunnels delays nobody by a millisecond. Nothing is locked, and nothing of it is on
//! the message path. One question is answered at a time; more wait, a bounded number of them.

mod endpoints;
mod ends;
mod filter;
mod groups;
mod list;

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    Shared,
    recent::{Entry, Ring},
    slot::Slot,
    worker::Worker,
};

pub use endpoints::{Known, Standing};
pub use ends::{Ends, Summary, Tally, Wanted};
pub use filter::{ClientFilter, Code, Filter};
use groups::Counted;
pub use groups::{AGES, By, Group, Groups, Key, LATELY};
pub use list::{Heartbeat, Leg, Open, Order};

/// Asks the workers.
#[derive(Clone, Debug)]
pub struct View {
    shared: Arc<Shared>,
    workers: Arc<[mpsc::Sender<Question>]>,
}

/// What the workers said to one question.
#[derive(Debug)]
pub struct Answer<T> {
    pub of: T,
    /// Workers that did not answer in time.
    pub silent: Vec<usize>,
}

/// A connection, as it is or as it was.
#[derive(Debug)]
pub enum Life {
    Open(Box<Open>),
    Over(Box<Entry>),
}

/// What a worker is asked, and who waits for its answer.
#[derive(Debug)]
pub enum Question {
    Count(Arc<Filter>, oneshot::Sender<Counted>),
    Groups(Box<groups::Asked>, oneshot::Sender<Groups>),
    List(Arc<Filter>, Order, usize, oneshot::Sender<Vec<Open>>),
    Ends(Arc<Filter>, Wanted, u64, oneshot::Sender<Ends>),
    One(u64, oneshot::Sender<Option<Life>>),
}

impl View {
    pub(super) fn new(shared: Arc<Shared>, workers: Vec<mpsc::Sender<Question>>) -> Self {
        let workers = workers.into();
        Self { shared, workers }
    }

    /// The open tunnels that pass `filter`, in groups. `interval`: how long to watch them for rates; zero: there are none.
    pub async fn groups(&self, filter: Filter, by: By, interval: Duration) -> Answer<Groups> {
        let filter = Arc::new(filter);
        let mut earlier: Vec<Option<Counted>> = self.workers.iter().map(|_| None).collect();
        if !interval.is_zero() {
            earlier = self.each(|_, reply| Question::Count(Arc::clone(&filter), reply)).await;
            sleep(interval).await;
        }
        let mut earlier = earlier.into_iter();
        let answers = self
            .each(|worker, reply| {
                let asked = groups::Asked {
                    filter: Arc::clone(&filter),
                    by,
                    worker,
                    earlier: earlier.next().flatten(),
                };
                Question::Groups(Box::new(asked), reply)
            })
            .await;
        let (silent, parts) = told(answers);
        let mut all = Groups {
            knows_ends: true,
            ..Groups::default()
        };
        for groups in parts {
            all.merge(groups);
        }
        Answer { of: all, silent }
    }

    /// The first `limit` of the open tunnels that pass `filter`, in an order.
    pub async fn list(&self, filter: Filter, order: Order, limit: usize) -> Answer<Vec<Open>> {
        let filter = Arc::new(filter);
        let answers = self
            .each(|_, reply| Question::List(Arc::clone(&filter), order, limit, reply))
            .await;
        let (silent, lists) = told(answers);
        let mut all: Vec<Open> = lists.into_iter().flatten().collect();
        order.sort(&mut all);
        all.truncate(limit);
        Answer { of: all, silent }
    }

    /// What ended lately and passes `filter`.
    pub async fn ends(&self, filter: Filter, wanted: Wanted) -> Answer<Ends> {
        let filter = Arc::new(filter);
        // Read before anybody is asked: whatever has a number up to it is in its worker's ring by the time that worker answers.
        let last = self.shared.sequence.last();
        let answers = self
            .each(|_, reply| Question::Ends(Arc::clone(&filter), wanted, last, reply))
            .await;
        let (silent, parts) = told(answers);
        Answer {
            of: Ends::merge(parts, wanted, last),
            silent,
        }
    }

    /// The highest number of an end so far. Asks nobody.
    pub fn last_end(&self) -> u64 {
        self.shared.sequence.last()
    }

    /// The connection with this id; `None`: nobody knows it, or not any more.
    pub async fn one(&self, id: u64) -> Answer<Option<Life>> {
        let answers = self.each(|_, reply| Question::One(id, reply)).await;
        let (silent, lives) = told(answers);
        Answer {
            of: lives.into_iter().flatten().next(),
            silent,
        }
    }

    /// The endpoints of the table as it is now that pass `filter`, those without a tunnel too.
    pub fn endpoints(&self, filter: &Filter) -> HashMap<Key, Known> {
        endpoints::known(&self.shared, filter)
    }

    /// How many ends are remembered, of tunnels as of refusals.
    pub fn remembers(&self) -> usize {
        self.shared.settings.recent_ends
    }

    /// Asks every worker at once. `None`: it has not answered in time.
    async fn each<T>(&self, mut question: impl FnMut(usize, oneshot::Sender<T>) -> Question) -> Vec<Option<T>> {
        let asked = self.workers.iter().enumerate().map(|(index, worker)| {
            let (reply, answer) = oneshot::channel();
            let question = question(index, reply);
            timeout(PATIENCE, async move {
                worker.send(question).await.ok()?;
                answer.await.ok()
            })
        });
        let asked: Vec<_> = asked.collect();
        join_all(asked)
            .await
            .into_iter()
            .map(|answer| answer.ok().flatten())
            .collect()
    }
}

/// Who did not answer, and what the others said.
fn told<T>(answers: Vec<Option<T>>) -> (Vec<usize>, Vec<T>) {
    let silent = answers.iter().enumerate().filter(|(_, answer)| answer.is_none());
    let silent = silent.map(|(index, _)| index).collect();
    (silent, answers.into_iter().flatten().collect())
}

/// Answers the questions to one worker, one after the other, until nobody can ask any more.
pub(super) async fn answer_all(worker: Rc<Worker>, mut questions: mpsc::Receiver<Question>) {
    while let Some(question) = questions.recv().await {
        // Who has stopped waiting for an answer is not owed one.
        match question {
            Question::Count(filter, reply) => {
                let counted = groups::count(&worker, &filter, || reply.is_closed()).await;
                let _ = reply.send(counted);
            }
            Question::Groups(asked, reply) => {
                let groups = groups::groups(&worker, *asked, || reply.is_closed()).await;
                let _ = reply.send(groups);
            }
            Question::List(filter, order, limit, reply) => {
                let list = list::list(&worker, &filter, order, limit, || reply.is_closed()).await;
                let _ = reply.send(list);
            }
            Question::Ends(filter, wanted, last, reply) => {
                let ends = ends::ends(&worker, &filter, wanted, last, || reply.is_closed()).await;
                let _ = reply.send(ends);
            }
            Question::One(id, reply) => {
                let life = one(&worker, id, || reply.is_closed()).await;
                let _ = reply.send(life);
            }
        }
    }
}

async fn one(worker: &Worker, id: u64, is_over: impl Fn() -> bool) -> Option<Life> {
    let mut found = None;
    each_tunnel(worker, &is_over, |slot| {
        if slot.of.id == id {
            found = Some(Life::Open(Box::new(Open::of(worker, slot))));
        }
    })
    .await;
    if found.is_some() {
        return found;
    }
    for ring in [worker.recent.tunnels(), worker.recent.refusals()] {
        let mut entry = None;
        each_entry(ring, u64::MAX, &is_over, |found| {
            if found.id == id && entry.is_none() {
                entry = Some(Box::new(found.clone()));
            }
        })
        .await;
        if let Some(entry) = entry {
            return Some(Life::Over(entry));
        }
    }
    None
}

/// Calls `look` for every open tunnel of a worker, in slices. Each that is open all the while is met once.
async fn each_tunnel(worker: &Worker, is_over: impl Fn() -> bool, mut look: impl FnMut(&Slot)) {
    worker.slots.begin_walk();
    while !is_over() && worker.slots.walk(SLICE, |slot| look(slot)) {
        tokio::task::yield_now().await;
    }
}

/// Calls `look` for every entry of a ring with a number below `below`, newest first, in slices.
async fn each_entry(ring: &RefCell<Ring>, below: u64, is_over: impl Fn() -> bool, mut look: impl FnMut(&Entry)) {
    let mut below = Some(below);
    while let Some(next) = below.filter(|_| !is_over()) {
        below = ring.borrow().walk(next, SLICE, &mut look);
        tokio::task::yield_now().await;
    }
}

/// Tunnels or entries that are looked at in one go: about a quarter of a millisecond.
const SLICE: usize = 256;

/// How long a worker may take for one answer, other questions before it included.
const PATIENCE: Duration = Duration::from_secs(3);
