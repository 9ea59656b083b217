//! The cluster that all tests share: a control plane, nodes, and what stands in for the rest of a cluster.

use std::{
    env,
    ffi::OsStr,
    io::{self, Write as _},
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use futures::FutureExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    process::Command,
    runtime::{Builder, Runtime},
    sync::RwLock,
    time::timeout,
};

use crate::{
    kubelet::{Node, Pod},
    services::Services,
    wait::until,
};

/// A cluster with nodes.
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Where everything is that is written.
    dir: PathBuf,
    /// Host and port of the API server.
    api_server: (String, String),
    services: Arc<Services>,
    nodes: Mutex<Vec<Arc<Node>>>,
    last_node: AtomicU8,
    /// The kubelets and the other stand-ins run here, whichever test is running.
    runtime: Runtime,
}

/// Runs a test beside others on the cluster, or says that it is skipped. When it fails, everything that was said in the pods of
/// its namespaces is shown.
pub fn on_the_cluster(test: impl AsyncFnOnce(&Cluster)) {
    run(async |cluster| {
        let _turn = TURN.read().await;
        bounded(cluster, test).await;
    });
}

/// The same for a test that must be alone: it changes what all share, or it measures.
pub fn alone_on_the_cluster(test: impl AsyncFnOnce(&Cluster)) {
    run(async |cluster| {
        let _turn = TURN.write().await;
        bounded(cluster, test).await;
    });
}

/// A namespace of a test's own. Deleted by [`Namespace::delete`]; left there by a test that fails.
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    pub name: String,
}

impl Cluster {
    /// Where tests may write; removed when all have passed.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The administrator's client, for the runtime that this is called on.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// Where endpoints of Services are.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// A namespace of this name, with `pod-security.kubernetes.io/enforce: restricted`.
    pub async fn namespace(&self, name: &str) -> Namespace<'_> {
        self.namespace_for(name, "restricted").await
    }

    /// One whose pods may take ports of their nodes.
    pub async fn privileged_namespace(&self, name: &str) -> Namespace<'_> {
        self.namespace_for(name, "privileged").await
    }

    async fn namespace_for(&self, name: &str, level: &str) -> Namespace<'_> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": level}},
        });
        let namespaces: Api<core::Namespace> = Api::all(self.client().await);
        let apply = PatchParams::apply("e2e").force();
        namespaces.patch(name, &apply, &Patch::Apply(namespace)).await.unwrap();
        OWN.with(|own| own.lock().unwrap().push(name.to_owned()));
        Namespace {
            cluster: self,
            name: name.to_owned(),
        }
    }

    /// One more node. `own`: only for pods with `nodeSelector: {own: VALUE}` and a toleration of the taint `own`.
    pub async fn add_node(&self, own: Option<&str>) -> Arc<Node> {
        let number = self.last_node.fetch_add(1, Relaxed) + 1;
        let (kubeconfig, api_server, dir) = (self.kubeconfig.clone(), self.api_server.clone(), self.dir.join("pods"));
        let own = own.map(str::to_owned);
        let starting = self.runtime.spawn(async move {
            let client = client(&kubeconfig).await;
            Node::start(client, number, own.as_deref(), api_server, dir).await
        });
        let node = starting.await.expect("the node does not start");
        self.nodes.lock().unwrap().push(Arc::clone(&node));
        node
    }

    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.lock().unwrap().clone()
    }

    /// The nodes that everybody's pods come to.
    pub fn shared_nodes(&self) -> Vec<Arc<Node>> {
        self.nodes()[..NODES].to_vec()
    }

    /// What runs, or ran last, as the pod of this name.
    pub fn pod(&self, namespace: &str, name: &str) -> Arc<Pod> {
        let found = self.nodes().iter().find_map(|node| node.pod(namespace, name));
        found.unwrap_or_else(|| panic!("no node has had a pod {namespace}/{name}"))
    }

    /// Makes the CustomResourceDefinition be there.
    pub async fn define(&self) {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/crds/websocketroutes.yaml");
        self.kubectl(&["apply", "--server-side", "-f", file]).await;
        self.kubectl(&["wait", "--for=condition=Established", "-f", file, "--timeout=60s"])
            .await;
    }

    /// Runs kubectl as the administrator. What it said on stdout; panics with the rest if it fails.
    pub async fn kubectl(&self, args: &[&str]) -> String {
        let mut command = Command::new(env::var_os("CONTROL_PLANE").unwrap());
        command
            .args(["kubectl", "--cache-dir"])
            .arg(self.dir.join("kubectl-cache"))
            .args(args);
        self.says(command).await
    }

    /// `kubectl apply --server-side` of a text.
    pub async fn apply(&self, objects: &str) {
        let file = self.dir.join(format!("apply-{}.yaml", fastrand::u64(..)));
        std::fs::write(&file, objects).unwrap();
        self.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", file.to_str().unwrap()])
            .await;
    }

    /// Runs Helm as the administrator. What it said on stdout; panics with the rest if it fails.
    pub async fn helm(&self, args: &[impl AsRef<OsStr>]) -> String {
        let mut command = Command::new(env::var_os("HELM").unwrap());
        for (name, dir) in [
            ("HELM_CACHE_HOME", "cache"),
            ("HELM_CONFIG_HOME", "config"),
            ("HELM_DATA_HOME", "data"),
        ] {
            command.env(name, self.dir.join("helm").join(dir));
        }
        command.args(args);
        self.says(command).await
    }

    /// Runs the program of these tests as somebody with the administrator's kubeconfig, outside of every pod: from a laptop.
    pub fn holdfast(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.env("KUBECONFIG", &self.kubeconfig).args(args).kill_on_drop(true);
        command
    }

    /// Runs a command to its end. What it said on stdout; panics with the rest if it fails.
    pub async fn says(&self, mut command: Command) -> String {
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .kill_on_drop(true)
            .stdin(std::process::Stdio::null());
        let output = command.output().await.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{:?}: {}\n{out}{err}",
            command.as_std(),
            output.status
        );
        out.into_owned()
    }

    fn start() -> Self {
        let dir: PathBuf = env::var_os("CONTROL_PLANE_DIR").unwrap().into();
        let kubeconfig = PathBuf::from(env::var_os("KUBECONFIG").unwrap());
        let limit = getrlimit(Resource::Nofile).maximum;
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit,
                maximum: limit,
            },
        )
        .unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let server = Kubeconfig::read_from(&kubeconfig).unwrap().clusters[0]
            .cluster
            .clone()
            .unwrap()
            .server
            .unwrap();
        let address = server
            .trim_start_matches("https://")
            .rsplit_once(':')
            .expect("an address and a port");
        let services = runtime.block_on(async { Services::start(&client(&kubeconfig).await) });
        let cluster = Self {
            api_server: (address.0.to_owned(), address.1.to_owned()),
            kubeconfig,
            dir,
            services,
            nodes: Mutex::default(),
            last_node: AtomicU8::new(0),
            runtime,
        };
        let waiting = Builder::new_current_thread().enable_all().build().unwrap();
        waiting.block_on(async {
            for _ in 0..NODES {
                cluster.add_node(None).await;
            }
            cluster.define().await;
            cluster
                .kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=60s"])
                .await;
        });
        cluster
    }

    /// Shows what was said in the pods of this thread's namespaces.
    fn show(&self) {
        for namespace in OWN.with(|own| own.lock().unwrap().clone()) {
            for pod in self.nodes().iter().flat_map(|node| node.pods(&namespace)) {
                println!(
                    "---- {namespace}/{} on {}",
                    pod.object.metadata.name.as_deref().unwrap_or_default(),
                    pod.node()
                );
                let story = pod.story();
                let skipped = story.len().saturating_sub(SHOWN);
                if skipped > 0 {
                    println!("({skipped} lines before)");
                }
                story[skipped..].iter().for_each(|line| println!("{line}"));
            }
        }
    }
}

impl Namespace<'_> {
    /// Deletes it, and returns when nothing in it runs any more.
    pub async fn delete(self) {
        self.empty().await;
        let namespaces: Api<core::Namespace> = Api::all(self.cluster.client().await);
        namespaces.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }

    /// Ends everything that runs in it. Before a namespace is deleted: whose controller, once it has found pods that end, looks again after
    /// half of their grace period only.
    pub async fn empty(&self) {
        let kinds = "deployments,daemonsets,jobs,pods";
        let all = ["-n", &self.name, "delete", kinds, "--all", "--wait=false"];
        self.cluster.kubectl(&all).await;
        let pods: Api<core::Pod> = Api::namespaced(self.cluster.client().await, &self.name);
        until(&format!("nothing runs in {}", self.name), async || {
            let left = pods.list(&ListParams::default()).await.unwrap().items;
            if left.is_empty() { Ok(()) } else { Err(left.len()) }
        })
        .await;
    }
}

/// The cluster, started by the first test that asks; `None`: these tests were not started by scripts/e2e.sh.
fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    if env::var_os("HOLDFAST_E2E").is_some() {
        return Some(SHARED.get_or_init(Cluster::start));
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Past the test runner, which shows nothing of a test that does not fail.
        let name = thread::current().name().unwrap_or_default().to_owned();
        let _ = writeln!(
            io::stderr(),
            "SKIPPED {name} and all other end to end tests; scripts/e2e.sh runs them, as root"
        );
    });
    None
}

fn run(test: impl AsyncFnOnce(&Cluster)) {
    let Some(cluster) = shared() else { return };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(AssertUnwindSafe(test(cluster)).catch_unwind());
    if let Err(panic) = done {
        cluster.show();
        resume_unwind(panic);
    }
}

async fn bounded(cluster: &Cluster, test: impl AsyncFnOnce(&Cluster)) {
    let done = timeout(LIMIT, test(cluster)).await;
    assert!(done.is_ok(), "the test takes longer than {LIMIT:?}");
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

thread_local! {
    /// The namespaces of the test that runs on this thread.
    static OWN: Mutex<Vec<String>> = const { Mutex::new(Vec::new()) };
}
static TURN: RwLock<()> = RwLock::const_new(());
/// Nodes that everybody's pods come to.
const NODES: usize = 3;
/// The longest that a test may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Lines of each pod that are shown when a test fails.
const SHOWN: usize = 100;
