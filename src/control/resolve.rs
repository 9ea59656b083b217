//! Keeps the addresses of DNS names up to date: those of ExternalName Services in a folder, and that of `--to`.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::lookup_host,
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::object::Event;

/// What a look-up said.
pub(super) type Answer = (Arc<str>, io::Result<Vec<IpAddr>>);

/// Looks names up, each on a task of its own, and again from time to time.
#[derive(Debug)]
pub(super) struct Resolver {
    names: HashMap<Arc<str>, Name>,
    answers: mpsc::Sender<Answer>,
}

#[derive(Debug)]
struct Name {
    task: JoinHandle<()>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asked,
    Answered,
    /// Said once in the log.
    Failing,
}

impl Resolver {
    pub(super) fn new(answers: mpsc::Sender<Answer>) -> Self {
        Self {
            names: HashMap::new(),
            answers,
        }
    }

    /// Keeps these names up to date, and no others.
    pub(super) fn want(&mut self, hosts: BTreeSet<Arc<str>>) {
        self.names.retain(|host, name| {
            let is_wanted = hosts.contains(host);
            if !is_wanted {
                name.task.abort();
            }
            is_wanted
        });
        for host in hosts {
            self.names.entry(Arc::clone(&host)).or_insert_with(|| Name {
                task: tokio::spawn(keep_asking(host, self.answers.clone())),
                state: State::Asked,
            });
        }
    }

    /// Whether every name was answered for once, well or badly.
    pub(super) fn is_settled(&self) -> bool {
        self.names.values().all(|name| name.state != State::Asked)
    }

    /// Takes an answer; a failed look-up keeps the addresses that the last good one gave.
    pub(super) fn take(&mut self, (host, answer): Answer) -> Option<Event> {
        let name = self.names.get_mut(&host)?;
        match answer {
            Ok(addresses) => {
                if name.state == State::Failing {
                    tracing::info!("{host} is resolved again");
                }
                name.state = State::Answered;
                Some(Event::Resolved { host, addresses })
            }
            Err(error) => {
                if name.state != State::Failing {
                    tracing::warn!("cannot resolve {host}: {error}; its last addresses stay, next try in {PERIOD:?}");
                }
                name.state = State::Failing;
                None
            }
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.names.values().for_each(|name| name.task.abort());
    }
}

/// The addresses of a name, in the system's order of preference; never empty.
///
/// # Errors
/// When there are none, or no answer in time.
pub async fn lookup(host: &str) -> io::Result<Vec<IpAddr>> {
    let found = timeout(PATIENCE, lookup_host((host, 0)))
        .await
        .map_err(|_| io::Error::other("no answer from DNS"))??;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in found.map(|address| address.ip().to_canonical()) {
        if !addresses.contains(&address) && addresses.len() < MAX_ADDRESSES {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(io::Error::other("it has no addresses"));
    }
    Ok(addresses)
}

async fn keep_asking(host: Arc<str>, answers: mpsc::Sender<Answer>) {
    loop {
        let answer = lookup(&host).await;
        if answers.send((Arc::clone(&host), answer)).await.is_err() {
            return;
        }
        if host.parse::<IpAddr>().is_ok() {
            return; // it is what it says
        }
        sleep(PERIOD).await;
    }
}

/// Between an answer and the next question: the system's resolver does not tell for how long an answer holds.
const PERIOD: Duration = Duration::from_secs(10);
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one name.
const MAX_ADDRESSES: usize = 256;
