//! Kubernetes: the control plane that all tests share, and those that a test starts for itself to do bad things to.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Once, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tokio::{runtime::Builder, sync::Semaphore, time::timeout};

use crate::{process::Process, wait::until};

/// A control plane whose API server is there, with the CustomResourceDefinition in it.
pub struct ControlPlane {
    /// Where its credentials, data, logs and pid files are; `None`: a cluster of the user's, of which nothing is known.
    dir: Option<PathBuf>,
    kubeconfig: PathBuf,
    /// One that a test has started for itself.
    process: Option<Process>,
}

/// A part of a control plane that runs as a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    Etcd,
    ApiServer,
}

/// What etcd had in it at some time.
pub struct Backup(PathBuf);

/// Runs a test on the shared control plane, with its network around it; or says that it is skipped.
pub fn on_the_cluster(test: impl AsyncFnOnce(&ControlPlane)) {
    if has_own_network() {
        on_any_cluster(test);
    }
}

/// The same for a test that needs nothing but an API server: one of the user's will do.
pub fn on_any_cluster(test: impl AsyncFnOnce(&ControlPlane)) {
    let Some(control_plane) = shared() else { return };
    run(async {
        control_plane.prepare().await;
        test(control_plane).await;
    });
}

/// Runs a test on a control plane of its own, or says that it is skipped. `args` are those of tests/control-plane.
pub fn on_its_own_cluster(args: &[&str], test: impl AsyncFnOnce(&ControlPlane)) {
    if !has_own_network() {
        return;
    }
    // A few, which hardly need a processor once they run, and start one after the other.
    static PLACES: Semaphore = Semaphore::const_new(3);
    static START: Semaphore = Semaphore::const_new(1);
    run(async {
        let _place = PLACES.acquire().await.unwrap();
        let start = START.acquire().await.unwrap();
        let control_plane = ControlPlane::start(args).await;
        control_plane.prepare().await;
        drop(start);
        test(&control_plane).await;
    });
}

/// Whether the tests run where each address of the pod range is this machine's. If not, the test is skipped.
fn has_own_network() -> bool {
    let Some(shared) = shared() else { return false };
    if shared.dir.is_none() {
        skip("it needs the network of scripts/cluster.sh, or a control plane to break");
    }
    shared.dir.is_some()
}

/// Says that a test, or a part of one, is skipped: past the test runner, which shows nothing of a test that does not fail.
pub fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(io::stderr(), "SKIPPED {name}: {why}");
}

impl ControlPlane {
    /// Starts one, and returns when it is ready.
    async fn start(args: &[&str]) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let name = format!("holdfast-cluster-{}-{}", std::process::id(), STARTED.fetch_add(1, Relaxed));
        let dir = env::temp_dir().join(name);
        let mut command = Command::new(program());
        command.arg("--dir").arg(&dir).args(args).args(audit_args());
        let process = Process::spawn("the control plane", &mut command);
        process.line_within(START, "ready after").await;
        Self {
            kubeconfig: dir.join("kubeconfig"),
            dir: Some(dir),
            process: Some(process),
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The administrator's client, for this test's runtime.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig).await
    }

    /// Runs kubectl as the administrator.
    pub fn kubectl(&self, args: &[&str]) -> Output {
        let mut command = match &self.dir {
            Some(_) => Command::new(program()),
            None => Command::new("kubectl"),
        };
        if let Some(dir) = &self.dir {
            command.arg("kubectl").arg("--cache-dir").arg(dir.join("kubectl-cache"));
        }
        command.env("KUBECONFIG", &self.kubeconfig).args(args);
        tokio::task::block_in_place(|| command.output()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The same with success and text expected.
    pub fn kubectl_says(&self, args: &[&str]) -> String {
        let output = self.kubectl(args);
        let (out, err) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "kubectl {args:?}: {out}{err}");
        out
    }

    /// The audit log so far: one `audit.k8s.io/v1` Event for each answered request of anybody but the control plane itself.
    pub fn audit(&self) -> Vec<Value> {
        self.audit_of("")
    }

    /// Those of its lines that have `text` in them: all tests share one log.
    pub fn audit_of(&self, text: &str) -> Vec<Value> {
        let log = fs::read_to_string(self.file("audit.log")).unwrap();
        // The last line may be half written.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        let lines = whole.lines().filter(|line| line.contains(text));
        lines.map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Ends a component at once; it is started again at once.
    pub async fn kill(&self, component: Component) {
        self.signal(component, Signal::KILL).await;
        self.wait_for_answer().await;
    }

    /// Ends a component at once, and keeps it down until [`ControlPlane::release`].
    pub async fn hold(&self, component: Component) {
        fs::write(self.hold_file(component), "").unwrap();
        let pid = self.pid(component);
        self.signal(component, Signal::KILL).await;
        until("the end of a component", async || match test_kill_process(pid) {
            Ok(()) => Err(component),
            Err(_) => Ok(()),
        })
        .await;
    }

    /// Lets a component start again, and waits until the API server answers.
    pub async fn release(&self, component: Component) {
        fs::remove_file(self.hold_file(component)).unwrap();
        self.wait_for_answer().await;
    }

    /// A component keeps its connections, and answers nothing any more until [`ControlPlane::resume`].
    pub async fn hang(&self, component: Component) {
        self.signal(component, Signal::STOP).await;
    }

    pub async fn resume(&self, component: Component) {
        self.signal(component, Signal::CONT).await;
    }

    /// Copies what etcd has in it.
    pub async fn back_up(&self) -> Backup {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let backup = self.file(&format!("backup-{}", MADE.fetch_add(1, Relaxed)));
        // Stopped between two system calls is as killed there, which it recovers from.
        self.hang(Component::Etcd).await;
        copy(&self.file("etcd"), &backup);
        self.resume(Component::Etcd).await;
        Backup(backup)
    }

    /// Puts a backup in place of what etcd has, as administrators do: with the API server down.
    pub async fn restore(&self, backup: &Backup) {
        self.hold(Component::ApiServer).await;
        self.hold(Component::Etcd).await;
        fs::remove_dir_all(self.file("etcd")).unwrap();
        copy(&backup.0, &self.file("etcd"));
        fs::remove_file(self.hold_file(Component::Etcd)).unwrap();
        self.release(Component::ApiServer).await;
    }

    /// Puts the CustomResourceDefinition there.
    pub async fn prepare(&self) {
        let client = self.client().await;
        let definition = serde_json::from_value(holdfast::api::crd()).unwrap();
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        let definitions: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
        let (name, apply) = ("websocketroutes.holdfast.dev", PatchParams::apply("holdfast-tests").force());
        let patch: Patch<DynamicObject> = Patch::Apply(definition);
        definitions
            .patch(name, &apply, &patch)
            .await
            .unwrap_or_else(|error| panic!("the API server refuses our definition: {error}"));
        // What kubectl asks first; its answer lags behind the definition's own status.
        until("the kind is there", async || {
            let groups = client.list_api_groups_aggregated().await.unwrap().items;
            let group = groups.into_iter().find(|group| {
                let name = group.metadata.as_ref().and_then(|metadata| metadata.name.as_deref());
                name == Some(holdfast::api::GROUP)
            });
            group
                .filter(|group| group.versions.iter().any(|version| !version.resources.is_empty()))
                .ok_or("not yet")
        })
        .await;
    }

    async fn wait_for_answer(&self) {
        let client = self.client().await;
        until("the API server answers", async || {
            let request = Request::get("/readyz").body(Vec::new()).unwrap();
            match timeout(ANSWER, client.request_text(request)).await {
                Ok(answer) => answer.map_err(|error| error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        })
        .await;
    }

    async fn signal(&self, component: Component, signal: Signal) {
        kill_process(self.pid(component), signal).unwrap();
    }

    fn pid(&self, component: Component) -> Pid {
        assert!(self.process.is_some(), "the others need it: use on_its_own_cluster");
        let pid = fs::read_to_string(self.file(&format!("{}.pid", component.name()))).unwrap();
        Pid::from_raw(pid.parse().unwrap()).unwrap()
    }

    fn hold_file(&self, component: Component) -> PathBuf {
        self.file(&format!("{}.hold", component.name()))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir
            .as_ref()
            .expect("nothing is known of a cluster of the user's")
            .join(name)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let Some(process) = &mut self.process else { return };
        // Its children end with it, by the kernel's hand.
        process.kill();
        if let Some(dir) = &self.dir
            && !std::thread::panicking()
        {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

impl Component {
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
        }
    }
}

/// A client by a kubeconfig.
pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    Client::try_from(config).unwrap()
}

/// The control plane that the tests were started in.
fn shared() -> Option<&'static ControlPlane> {
    static SHARED: OnceLock<Option<ControlPlane>> = OnceLock::new();
    let found = SHARED.get_or_init(|| {
        let kubeconfig = env::var_os("KUBECONFIG").map(PathBuf::from);
        let of_the_user = env::var("USE_EXISTING_CLUSTER").is_ok_and(|word| word == "true");
        match (env::var_os("CONTROL_PLANE_DIR"), kubeconfig) {
            (Some(dir), Some(kubeconfig)) => Some(ControlPlane {
                dir: Some(dir.into()),
                kubeconfig,
                process: None,
            }),
            (None, Some(kubeconfig)) if of_the_user => Some(ControlPlane {
                dir: None,
                kubeconfig,
                process: None,
            }),
            _ => None,
        }
    });
    if found.is_none() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| match env::var_os("KUBECONFIG") {
            None => skip("and all other cluster tests; scripts/cluster.sh -- cargo test --test cluster gives them a cluster"),
            Some(_) => skip(
                "and all other cluster tests: to have them use the cluster of KUBECONFIG, set USE_EXISTING_CLUSTER=true; \
                 scripts/cluster.sh -- cargo test --test cluster gives them one of their own",
            ),
        });
    }
    found.as_ref()
}

fn program() -> PathBuf {
    env::var_os("CONTROL_PLANE")
        .expect("CONTROL_PLANE says where the program is")
        .into()
}

fn audit_args() -> [String; 2] {
    let policy = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/audit-policy.yaml");
    [
        format!("--apiserver-arg=--audit-policy-file={policy}"),
        "--apiserver-arg=--audit-log-path={dir}/audit.log".to_owned(),
    ]
}

fn run(test: impl Future<Output = ()>) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async { timeout(LIMIT, test).await });
    assert!(done.is_ok(), "the test takes longer than {LIMIT:?}");
}

fn copy(from: &Path, to: &Path) {
    let output = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The longest that a test may take.
const LIMIT: Duration = Duration::from_secs(600);
/// The longest that a control plane may take to get ready beside everything else that runs.
const START: Duration = Duration::from_secs(120);
/// The longest that one question to an API server may take that is perhaps not there.
const ANSWER: Duration = Duration::from_secs(2);
