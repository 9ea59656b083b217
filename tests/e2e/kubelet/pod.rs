//! One pod of a node: from the order to run it to the removal of its object, in the order that the real kubelet keeps.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use k8s_openapi::{api::core::v1 as core, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    container::{Container, Kind, Line},
    place::Place,
    status, volumes,
};
use crate::network::lead;

/// A pod that is bound to this node.
pub struct Pod {
    pub object: core::Pod,
    client: Client,
    place: OnceLock<Arc<Place>>,
    /// Init containers in order, then the others.
    containers: OnceLock<Vec<Arc<Container>>>,
    /// When its time is over, once it is to be deleted. It can only come closer.
    deadline: watch::Sender<Option<Instant>>,
    /// Its object is gone.
    gone: watch::Sender<bool>,
    /// It ends: nothing is started any more.
    ending: watch::Sender<bool>,
    /// Something of its status may have changed.
    changed: watch::Sender<()>,
    story: Mutex<Story>,
}

/// What its status has in it that its containers do not know.
#[derive(Default)]
pub struct Story {
    pub started: Option<Timestamp>,
    pub initialized: bool,
    /// Succeeded or Failed, and why.
    pub outcome: Option<(&'static str, Option<&'static str>)>,
    /// What each condition said last, and since when.
    pub conditions: HashMap<&'static str, (bool, Timestamp)>,
    /// What was written last.
    written: Option<Value>,
}

/// Where a node puts a pod.
pub struct Plot {
    pub node: u8,
    pub number: u8,
    pub api_server: (String, String),
    pub dir: PathBuf,
}

impl Pod {
    pub fn new(object: core::Pod, client: Client) -> Arc<Self> {
        let pod = Self {
            client,
            place: OnceLock::new(),
            containers: OnceLock::new(),
            deadline: watch::Sender::new(None),
            gone: watch::Sender::new(false),
            ending: watch::Sender::new(false),
            changed: watch::Sender::new(()),
            story: Mutex::default(),
            object,
        };
        pod.heed(&pod.object);
        Arc::new(pod)
    }

    /// Looks at a newer version of the object: only that it is to be deleted matters.
    pub fn heed(&self, object: &core::Pod) {
        let Some(grace) = object
            .metadata
            .deletion_timestamp
            .as_ref()
            .and(object.metadata.deletion_grace_period_seconds)
        else {
            return;
        };
        let at = Instant::now() + Duration::from_secs(grace.try_into().unwrap_or(0));
        self.deadline.send_if_modified(|deadline| {
            let closer = deadline.is_none_or(|known| at + Duration::from_secs(1) < known);
            if closer {
                *deadline = Some(at);
            }
            closer
        });
    }

    /// Its object is gone: it has no time left.
    pub fn forget(&self) {
        self.deadline.send_replace(Some(Instant::now()));
        self.gone.send_replace(true);
    }

    /// Lives its life, to the end.
    pub async fn live(self: Arc<Self>, plot: Plot) {
        self.story.lock().unwrap().started = Some(Timestamp::now());
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&self).tell());
        let outcome = tokio::select! {
            outcome = self.run(plot, &mut tasks) => Some(outcome),
            () = self.time_is_over() => Some(("Failed", Some("DeadlineExceeded"))),
            () = self.is_to_end() => None,
        };
        self.terminate(outcome.is_some()).await;
        let succeeded = self.app_containers().all(|container| status::exit_code(container) == Some(0));
        let ended = if succeeded { ("Succeeded", None) } else { ("Failed", None) };
        self.story.lock().unwrap().outcome = Some(outcome.unwrap_or(ended));
        self.changed.send_replace(());
        self.is_to_end().await;
        // The last word before the object goes.
        self.write_status().await;
        self.remove().await;
    }

    pub fn place(&self) -> Option<&Arc<Place>> {
        self.place.get()
    }

    pub fn containers(&self) -> &[Arc<Container>] {
        self.containers.get().map_or(&[], Vec::as_slice)
    }

    pub fn container(&self, name: &str) -> Option<&Arc<Container>> {
        self.containers().iter().find(|container| container.name() == name)
    }

    /// The name of its node.
    pub fn node(&self) -> &str {
        self.object
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .unwrap_or_default()
    }

    pub fn is_gone(&self) -> bool {
        *self.gone.borrow()
    }

    /// Everything that was said in it and of it, by time: `HH:MM:SS.mmm container: text`.
    pub fn story(&self) -> Vec<String> {
        let of = |container: &Arc<Container>| {
            let name = container.name().to_owned();
            container
                .log()
                .lines()
                .into_iter()
                .map(move |line| (line, name.clone()))
                .collect::<Vec<_>>()
        };
        let mut lines: Vec<(Line, String)> = self.containers().iter().flat_map(of).collect();
        lines.sort_by_key(|(line, _)| line.at);
        let text = |(line, name): (Line, String)| {
            let kubelet = if line.is_event { "[kubelet] " } else { "" };
            format!("{} {name}: {kubelet}{}", line.at.strftime("%H:%M:%S%.3f"), line.text)
        };
        lines.into_iter().map(text).collect()
    }

    /// Ends all its processes without a word to anybody.
    pub fn kill(&self) {
        for container in self.containers() {
            container.signal(Signal::KILL);
        }
    }

    pub fn with_story<T>(&self, look: impl FnOnce(&mut Story) -> T) -> T {
        look(&mut self.story.lock().unwrap())
    }

    /// Starts everything in order, and returns when all app containers have finished, and how.
    async fn run(&self, plot: Plot, tasks: &mut JoinSet<()>) -> (&'static str, Option<&'static str>) {
        let place = Place::make(self.object.clone(), plot.node, plot.number, plot.api_server, plot.dir).await;
        let place = Arc::new(place);
        let _ = self.place.set(Arc::clone(&place));
        let _ = self.containers.set(self.make_containers(&place));
        self.changed.send_replace(());
        volumes::make(&place, &self.client, |why| {
            self.containers()[0].log().event(&why);
        })
        .await;
        for (of_node, of_pod) in host_ports(&self.object) {
            tasks.spawn(lead((place.node_ip, of_node).into(), (place.ip, of_pod).into()));
        }
        let client = self.client.clone();
        tasks.spawn(async move { volumes::keep(&place, &client).await });
        for container in self.containers().iter().filter(|container| container.kind != Kind::App) {
            tasks.spawn(Arc::clone(container).run());
            if container.kind == Kind::Sidecar {
                container.started().await;
            } else if container.finished().await.is_none_or(|ended| ended.code != 0) {
                return ("Failed", None);
            }
        }
        self.story.lock().unwrap().initialized = true;
        for container in self.app_containers() {
            tasks.spawn(Arc::clone(container).run());
        }
        let mut outcome = ("Succeeded", None);
        for container in self.app_containers() {
            if container.finished().await.is_none_or(|ended| ended.code != 0) {
                outcome = ("Failed", None);
            }
        }
        outcome
    }

    fn make_containers(&self, place: &Arc<Place>) -> Vec<Arc<Container>> {
        let spec = self.object.spec.clone().unwrap_or_default();
        let kind = |container: &core::Container| match container.restart_policy.as_deref() {
            Some("Always") => Kind::Sidecar,
            _ => Kind::Init,
        };
        let init = spec
            .init_containers
            .into_iter()
            .flatten()
            .map(|container| (kind(&container), container));
        let app = spec.containers.into_iter().map(|container| (Kind::App, container));
        let make =
            |(kind, container)| Container::new(container, kind, place, &self.client, &self.changed, self.ending.subscribe());
        init.chain(app).map(make).collect()
    }

    fn app_containers(&self) -> impl Iterator<Item = &Arc<Container>> {
        self.containers().iter().filter(|container| container.kind == Kind::App)
    }

    /// All hooks begin at once. App containers get SIGTERM when their own hook has ended; a sidecar when, besides, all app containers and
    /// all sidecars after it have ended.
    async fn terminate(&self, by_itself: bool) {
        self.ending.send_replace(true);
        let grace = self
            .object
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let at = Instant::now() + Duration::from_secs(grace.and_then(|grace| grace.try_into().ok()).unwrap_or(30));
        let deadline = watch::Sender::new(self.deadline.borrow().filter(|_| !by_itself).unwrap_or(at));
        let stopping = self.containers().iter().enumerate().map(|(number, container)| {
            let after = self.containers().iter().skip(number + 1);
            let turn = async move {
                for other in after.filter(|_| container.kind != Kind::App) {
                    other.ended().await;
                }
            };
            container.stop(deadline.subscribe(), turn)
        });
        let mut closer = self.deadline.subscribe();
        let heed = async {
            loop {
                if closer.changed().await.is_err() {
                    return std::future::pending().await;
                }
                if let Some(at) = *closer.borrow_and_update() {
                    deadline.send_if_modified(|deadline| {
                        let is_closer = at < *deadline;
                        *deadline = at.min(*deadline);
                        is_closer
                    });
                }
            }
        };
        tokio::select! {
            _ = futures::future::join_all(stopping) => {}
            () = heed => {}
        }
    }

    async fn is_to_end(&self) {
        let _ = self.deadline.subscribe().wait_for(Option::is_some).await;
    }

    async fn time_is_over(&self) {
        match self.object.spec.as_ref().and_then(|spec| spec.active_deadline_seconds) {
            Some(seconds) => sleep(Duration::from_secs(seconds.try_into().unwrap_or(0))).await,
            None => std::future::pending().await,
        }
    }

    /// Writes the status whenever it has changed.
    async fn tell(self: Arc<Self>) {
        let mut changed = self.changed.subscribe();
        loop {
            self.write_status().await;
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Until the API server has it, or the object is gone.
    async fn write_status(&self) {
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), &self.object.namespace().unwrap());
        loop {
            let status = status::of(self);
            if self.story.lock().unwrap().written.as_ref() == Some(&status) {
                return;
            }
            let patch = serde_json::json!({"metadata": {"uid": self.object.uid()}, "status": status});
            let written = pods
                .patch_status(&self.object.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
                .await;
            match written {
                Ok(_) => self.story.lock().unwrap().written = Some(status),
                // Gone, or another pod of this name.
                Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }

    async fn remove(&self) {
        let pods: Api<core::Pod> = Api::namespaced(self.client.clone(), &self.object.namespace().unwrap());
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        loop {
            match pods.delete(&self.object.name_any(), &now).await {
                Ok(_) => return,
                Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => return,
                Err(_) => sleep(AGAIN).await,
            }
        }
    }
}

/// The ports of its node that a pod takes, and its own that they lead to.
fn host_ports(pod: &core::Pod) -> Vec<(u16, u16)> {
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let ports = containers.iter().flat_map(|container| container.ports.iter().flatten());
    let pair =
        |port: &core::ContainerPort| Some((u16::try_from(port.host_port?).ok()?, u16::try_from(port.container_port).ok()?));
    ports.filter_map(pair).collect()
}

/// Before a question to an API server that did not answer.
const AGAIN: Duration = Duration::from_millis(500);
