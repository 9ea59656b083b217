//! A node: its object, its heartbeat, and the pods that are bound to it.

use std::{
    collections::HashMap,
    fs, mem,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1 as core},
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::{runtime::Handle, task::JoinSet, time::sleep};

use super::{
    pod::{Plot, Pod},
    server,
};
use crate::{
    network::{add_address, node_ip},
    watching::{Change, follow},
};

/// A node with its kubelet.
pub struct Node {
    name: String,
    /// Makes its address and those of its pods.
    number: u8,
    api_server: (String, String),
    /// Where pods have their directories.
    dir: PathBuf,
    client: Client,
    /// Where everything of it runs.
    runtime: Handle,
    /// By their UIDs, those that have ended too.
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    tasks: Mutex<JoinSet<()>>,
    last_address: AtomicU8,
}

impl Node {
    /// Starts one, on the runtime that it is called on. Pods come to it as soon as the control plane has seen its heartbeat. With
    /// `own`, only pods that tolerate the taint `own` and select the label `own` of this value do.
    pub async fn start(client: Client, number: u8, own: Option<&str>, api_server: (String, String), dir: PathBuf) -> Arc<Self> {
        let node = Arc::new(Self {
            name: format!("node-{number}"),
            number,
            api_server,
            dir,
            client,
            runtime: Handle::current(),
            pods: Mutex::default(),
            tasks: Mutex::default(),
            last_address: AtomicU8::new(1),
        });
        add_address(node.ip()).await;
        let following = Arc::downgrade(&node);
        let pods: Api<core::Pod> = Api::all(node.client.clone());
        let fields = format!("spec.nodeName={}", node.name);
        {
            let mut tasks = node.tasks.lock().unwrap();
            tasks.spawn(server::serve(node.ip(), Arc::downgrade(&node)));
            tasks.spawn(async move {
                follow(pods, &fields, |change| {
                    if let Some(node) = following.upgrade() {
                        node.heed(change);
                    }
                })
                .await;
            });
        }
        node.register(own).await;
        node.tasks.lock().unwrap().spawn(beat(node.client.clone(), node.name.clone()));
        node
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn ip(&self) -> Ipv4Addr {
        node_ip(self.number)
    }

    /// The pod of this name that is here, or that was here last.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pods = self.pods.lock().unwrap();
        let is_it = |pod: &&Arc<Pod>| pod.object.name_any() == name && pod.object.namespace().as_deref() == Some(namespace);
        let found = pods
            .values()
            .filter(is_it)
            .max_by_key(|pod| (!pod.is_gone(), pod.object.creation_timestamp()));
        found.cloned()
    }

    /// All pods of a namespace that have ever been here.
    pub fn pods(&self, namespace: &str) -> Vec<Arc<Pod>> {
        let pods = self.pods.lock().unwrap();
        let of = pods
            .values()
            .filter(|pod| pod.object.namespace().as_deref() == Some(namespace));
        of.cloned().collect()
    }

    /// Loses the node, as when its power fails: no packet arrives in either direction any more and nobody is told, its processes end
    /// unseen, its heartbeat ends. Its objects stay; [`Node::remove`] removes them.
    pub async fn lose(&self) {
        let pods: Vec<_> = self.pods.lock().unwrap().values().cloned().collect();
        let cutting = pods.iter().filter_map(|pod| pod.place()).map(|place| place.cable.cut());
        futures::future::join_all(cutting).await;
        let mut tasks = mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
    }

    /// Removes its object, and those of the pods that are still bound to it, as an administrator does who knows that it is lost.
    pub async fn remove(&self) {
        let mut tasks = mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
        let now = DeleteParams::default().grace_period(0);
        let nodes: Api<core::Node> = Api::all(self.client.clone());
        let _ = nodes.delete(&self.name, &now).await;
        let pods: Vec<_> = self.pods.lock().unwrap().values().cloned().collect();
        for pod in pods.iter().filter(|pod| !pod.is_gone()) {
            let api: Api<core::Pod> = Api::namespaced(self.client.clone(), &pod.object.namespace().unwrap());
            let _ = api.delete(&pod.object.name_any(), &now).await;
        }
    }

    fn heed(&self, change: Change<core::Pod>) {
        let known = self.pods.lock().unwrap().clone();
        let uid = |pod: &core::Pod| pod.uid().unwrap_or_default();
        match change {
            Change::All(pods) => {
                let there: Vec<_> = pods.iter().map(uid).collect();
                known
                    .iter()
                    .filter(|(uid, _)| !there.contains(uid))
                    .for_each(|(_, pod)| pod.forget());
                pods.into_iter().for_each(|pod| self.heed(Change::Applied(pod)));
            }
            Change::Applied(object) => match known.get(&uid(&object)) {
                Some(pod) => pod.heed(&object),
                None => self.run(object),
            },
            Change::Deleted(object) => {
                if let Some(pod) = known.get(&uid(&object)) {
                    pod.forget();
                }
            }
        }
    }

    fn run(&self, object: core::Pod) {
        let uid = object.uid().unwrap_or_default();
        let plot = Plot {
            node: self.number,
            number: self.free_address(),
            api_server: self.api_server.clone(),
            dir: self.dir.join(&uid),
        };
        let dir = plot.dir.clone();
        let pod = Pod::new(object, self.client.clone());
        self.pods.lock().unwrap().insert(uid, Arc::clone(&pod));
        let living = async move {
            pod.live(plot).await;
            let _ = fs::remove_dir_all(dir);
        };
        self.tasks.lock().unwrap().spawn_on(living, &self.runtime);
    }

    /// Each once, until all have been used: who still connects to an old pod's address must not find another there.
    fn free_address(&self) -> u8 {
        let pods = self.pods.lock().unwrap();
        let taken: Vec<u8> = pods
            .values()
            .filter(|pod| !pod.is_gone())
            .filter_map(|pod| Some(pod.place()?.ip.octets()[3]))
            .collect();
        loop {
            let next = self.last_address.fetch_add(1, Relaxed).wrapping_add(1);
            if (2..=254).contains(&next) && !taken.contains(&next) {
                return next;
            }
        }
    }

    async fn register(&self, own: Option<&str>) {
        let nodes: Api<core::Node> = Api::all(self.client.clone());
        let mut node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}},
        });
        if let Some(own) = own {
            node["metadata"]["labels"]["own"] = json!(own);
            node["spec"] = json!({"taints": [{"key": "own", "value": own, "effect": "NoSchedule"}]});
        }
        let apply = PatchParams::apply("kubelet").force();
        nodes
            .patch(&self.name, &apply, &Patch::Apply(node))
            .await
            .expect("the node is refused");
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let fine = |kind: &str, is_so: &str| json!({"type": kind, "status": is_so, "reason": "Kubelet", "message": "", "lastHeartbeatTime": now, "lastTransitionTime": now});
        let resources = json!({"cpu": "64", "memory": "256Gi", "pods": "250", "ephemeral-storage": "1Ti"});
        let status = json!({"status": {
            "capacity": resources,
            "allocatable": resources,
            "addresses": [{"type": "InternalIP", "address": self.ip()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": server::PORT}},
            "conditions": [
                fine("Ready", "True"),
                fine("MemoryPressure", "False"),
                fine("DiskPressure", "False"),
                fine("PIDPressure", "False"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "v1.37.1", "kubeProxyVersion": "",
                "bootID": "", "containerRuntimeVersion": "process://1", "kernelVersion": "", "machineID": "", "osImage": "", "systemUUID": "",
            },
        }});
        let patch = Patch::Strategic(status);
        nodes
            .patch_status(&self.name, &PatchParams::default(), &patch)
            .await
            .expect("the node's status is refused");
    }
}

/// The heartbeat, for ever.
async fn beat(client: Client, name: String) {
    let leases: Api<Lease> = Api::namespaced(client, "kube-node-lease");
    loop {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()},
        });
        let apply = PatchParams::apply("kubelet").force();
        let _ = leases.patch(&name, &apply, &Patch::Apply(lease)).await; // the next one may arrive
        sleep(BEAT).await;
    }
}

/// Between two heartbeats; the control plane of the tests waits 10 s for one.
const BEAT: Duration = Duration::from_secs(2);
