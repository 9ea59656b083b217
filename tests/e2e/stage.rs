//! What a scenario plays on: one release, an application behind it, and a crowd of clients; and how each event is judged and written
//! down. What the clients saw and what Holdfast says must agree after each.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    cluster::Cluster,
    crowd::{Crowd, End, Plan, Tally},
    echo::host,
    figures::{Figures, Row},
    kubelet::Pod,
    release::Release,
    support::{Answer, Scrape, ask},
    wait::{until, within},
};

/// A release with clients.
pub struct Stage<'a> {
    pub cluster: &'a Cluster,
    pub release: Release<'a>,
    pub crowd: Crowd,
    figures: Figures,
    began: Instant,
    /// Every end that the clients have seen, as Holdfast has to have recorded it.
    seen: Ends,
}

/// Who ended how many tunnels, and why.
pub type Ends = BTreeMap<(String, String), u64>;

/// Clients of the crowd.
pub const CLIENTS: usize = 2_000;

impl<'a> Stage<'a> {
    /// The clients arrive, at the hostname `NAMESPACE.example.com`, and are all connected when this returns.
    pub async fn set(cluster: &'a Cluster, release: Release<'a>, figures: &str) -> Self {
        let crowd = crowd(cluster, &release.namespace, CLIENTS);
        let stage = Self {
            cluster,
            crowd,
            release,
            figures: Figures::new(figures),
            began: Instant::now(),
            seen: Ends::new(),
        };
        let tally = stage.settled().await;
        assert_eq!(
            (tally.ended(), tally.refused.len()),
            (0, 0),
            "while the clients arrive: {tally:?}"
        );
        stage
    }

    /// Something is going to happen; nothing has ended since the last event.
    pub fn begin(&mut self) {
        let tally = self.crowd.take();
        assert_eq!((tally.ended(), tally.faults.len()), (0, 0), "between two events: {tally:?}");
        self.began = Instant::now();
    }

    /// It has happened. Waits until all clients are connected, messages come back to all of them, and every end is recorded; adds a
    /// row to the figures.
    pub async fn end(&mut self, event: &str, pace: Option<f64>) -> &Row {
        let tally = self.settled().await;
        self.conclude(event, pace, tally).await
    }

    /// The same for an event that leaves no client connected.
    pub async fn end_of_all(&mut self, event: &str, pace: Option<f64>) -> &Row {
        eventually_all(&self.crowd, 0).await;
        let tally = self.crowd.take();
        self.conclude(event, pace, tally).await
    }

    async fn conclude(&mut self, event: &str, pace: Option<f64>, tally: Tally) -> &Row {
        assert!(tally.faults.is_empty(), "{event}: {:?}", tally.faults);
        self.account(&tally, event).await;
        self.figures.add(Row {
            event: event.to_owned(),
            connections: CLIENTS,
            pace,
            took: self.began.elapsed(),
            tally,
        })
    }

    /// More clients come, say something, and leave by themselves. Where they were, by endpoint.
    pub async fn visit(&mut self, clients: usize, event: &str) -> BTreeMap<String, f64> {
        let before = self.by_endpoint().await;
        let visitors = crowd(self.cluster, &self.release.namespace, clients);
        eventually_all(&visitors, clients).await;
        let mut grown = self.by_endpoint().await;
        for (endpoint, open) in &mut grown {
            *open -= before.get(endpoint).copied().unwrap_or(0.0);
        }
        visitors.stop();
        eventually_all(&visitors, 0).await;
        let tally = visitors.take();
        assert_eq!((tally.lost(), tally.faults.len()), (0, 0), "{event}: {tally:?}");
        self.account(&tally, event).await;
        grown
    }

    /// Writes the figures.
    pub fn close(self) {
        self.figures.write();
    }

    /// The replicas that new connections go to.
    pub fn replicas(&self) -> Vec<SocketAddr> {
        self.cluster.services().endpoints(&self.release.namespace, "holdfast", 80)
    }

    /// Waits until each replica's answer to a plain request for `path` has this status.
    pub async fn all_answer(&self, path: &str, status: u16) {
        until(&format!("every replica answers {path} with {status}"), async || {
            for replica in self.replicas() {
                let answer = self.plain(replica, path).await;
                if answer.status != status {
                    return Err(answer.status);
                }
            }
            Ok(())
        })
        .await;
    }

    /// Its answer to a plain request.
    pub async fn plain(&self, replica: SocketAddr, path: &str) -> Answer {
        let host = host(&self.release.namespace);
        ask(
            replica,
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    /// Open tunnels of each endpoint, over all replicas.
    pub async fn by_endpoint(&self) -> BTreeMap<String, f64> {
        let mut open = BTreeMap::new();
        for replica in self.replicas() {
            let scrape = scrape(replica.ip()).await;
            for line in scrape.series("holdfast_endpoint_connections_active") {
                let pod = label(line, "endpoint_pod").to_owned();
                *open.entry(pod).or_default() += value(line);
            }
        }
        open
    }

    /// Open tunnels of one replica.
    pub async fn open_of(&self, replica: IpAddr) -> u64 {
        scrape(replica).await.sum("holdfast_connections_active", &[]) as u64
    }

    /// Runs kubectl in the release's namespace.
    pub async fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(&[&["-n", &self.release.namespace], args].concat()).await
    }

    /// Waits until the pods of these names are gone.
    pub async fn are_gone(&self, pods: &[String]) {
        within(ROLLOUT, "the old pods are gone", async || {
            let there = self.kubectl(&["get", "pods", "-o", "name"]).await;
            let left: Vec<_> = pods.iter().filter(|pod| there.contains(&format!("pod/{pod}\n"))).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
    }

    /// What happened since the last event, once all clients are connected, and messages of each have come back.
    async fn settled(&self) -> Tally {
        eventually_all(&self.crowd, CLIENTS).await;
        let mark = self.crowd.mark();
        within(PATIENCE, "messages come back to all clients", async || {
            match self.crowd.is_settled(&mark) {
                true => Ok(()),
                false => Err(self.crowd.connected()),
            }
        })
        .await;
        self.crowd.take()
    }

    /// What the clients have seen is what Holdfast has recorded, in its log and in its metrics.
    async fn account(&mut self, tally: &Tally, event: &str) {
        for (end, count) in &tally.ends {
            if let Some(words) = in_holdfasts_words(end) {
                *self.seen.entry(words).or_default() += count;
            }
        }
        within(
            PATIENCE,
            &format!("{event}: what the clients saw is what Holdfast recorded"),
            async || {
                let recorded = self.recorded();
                if recorded == self.seen {
                    Ok(())
                } else {
                    Err(format!("they saw {:?}, it recorded {recorded:?}", self.seen))
                }
            },
        )
        .await;
        within(PATIENCE, &format!("{event}: metrics and records agree"), async || {
            for pod in self.pods().filter(is_running) {
                let replica = pod.place().ok_or("no place")?.ip;
                let (counted, recorded) = (counted(&scrape(replica.into()).await), recorded_by(&pod, true));
                if counted != recorded {
                    return Err(format!("a replica counted {counted:?}, and recorded {recorded:?}"));
                }
            }
            Ok::<(), String>(())
        })
        .await;
    }

    /// By the access lines of all replicas that there have been.
    fn recorded(&self) -> Ends {
        let mut all = Ends::new();
        for pod in self.pods() {
            for (words, count) in recorded_by(&pod, false) {
                *all.entry(words).or_default() += count;
            }
        }
        all
    }

    fn pods(&self) -> impl Iterator<Item = Arc<Pod>> {
        let pods = self
            .cluster
            .nodes()
            .into_iter()
            .flat_map(|node| node.pods(&self.release.namespace));
        pods.filter(|pod| pod.container("holdfast").is_some())
    }
}

fn crowd(cluster: &Cluster, namespace: &str, clients: usize) -> Crowd {
    let (services, release) = (Arc::clone(cluster.services()), namespace.to_owned());
    Crowd::start(Plan {
        clients,
        url: format!("ws://{}/chat", host(namespace)),
        every: Duration::from_secs(2),
        arrival: Duration::from_secs(4).mul_f64(clients as f64 / CLIENTS as f64),
        address: Box::new(move || services.pick(&release, "holdfast", 80)),
    })
}

async fn eventually_all(crowd: &Crowd, wanted: usize) {
    within(PATIENCE, &format!("{wanted} clients are connected"), async || {
        match crowd.connected() {
            connected if connected == wanted => Ok(()),
            connected => Err(connected),
        }
    })
    .await;
}

/// Who ended a tunnel and why, by what its client saw; `None`: nobody was left to record it.
fn in_holdfasts_words(end: &End) -> Option<(String, String)> {
    let words = |initiator: &str, cause: &str| Some((initiator.to_owned(), cause.to_owned()));
    match (end.code, &*end.reason) {
        (1000, "") => words("client", "closed"),
        (1001, "endpoint is stopping") => words("endpoint", "closed"),
        (1012, "endpoint_gone") => words("endpoint", "endpoint_gone"),
        (1012, cause) => words("holdfast", cause),
        (1006, "") => None,
        _ => panic!("no client is told {end}"),
    }
}

/// By the access lines of one replica; of its present process only, if so.
fn recorded_by(pod: &Pod, present: bool) -> Ends {
    let mut ends = Ends::new();
    let Some(container) = pod.container("holdfast") else {
        return ends;
    };
    let run = container.state().restarts;
    for line in container.log().lines() {
        if line.text.contains(" ended    id=") && (line.run == run || !present) {
            let words = (word(&line.text, "by").to_owned(), word(&line.text, "cause").to_owned());
            *ends.entry(words).or_default() += 1;
        }
    }
    ends
}

fn is_running(pod: &Arc<Pod>) -> bool {
    pod.container("holdfast").is_some_and(|container| container.state().ready)
}

/// By its metrics.
fn counted(scrape: &Scrape) -> Ends {
    let mut ends = Ends::new();
    for line in scrape.series("holdfast_ends_total").filter(|line| value(line) > 0.0) {
        let words = (label(line, "initiator").to_owned(), label(line, "cause").to_owned());
        *ends.entry(words).or_default() += value(line) as u64;
    }
    ends
}

async fn scrape(replica: IpAddr) -> Scrape {
    ask(
        SocketAddr::new(replica, ADMIN),
        "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
    )
    .await
    .into_scrape()
}

/// What a line of text has under a key.
fn word<'a>(line: &'a str, key: &str) -> &'a str {
    let mut words = line.split(' ').filter_map(|word| word.split_once('='));
    words
        .find(|(name, _)| *name == key)
        .unwrap_or_else(|| panic!("no {key}: {line}"))
        .1
}

fn label<'a>(line: &'a str, name: &str) -> &'a str {
    let (_, rest) = line
        .split_once(&format!("{name}=\""))
        .unwrap_or_else(|| panic!("no {name}: {line}"));
    rest.split('"').next().unwrap()
}

fn value(line: &str) -> f64 {
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The port of /metrics.
const ADMIN: u16 = 9477;
/// For clients that may have to wait for an endpoint, on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);
/// For pods that drain.
const ROLLOUT: Duration = Duration::from_secs(90);
