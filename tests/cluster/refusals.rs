//! An API server that is there and does not do what it is asked: too busy, slow, without the right, or for want of a token.

use std::{fs, path::PathBuf};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, ResourceExt,
    api::PostParams,
    config::{AuthInfo, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::{
    account::Account,
    control_plane::{ControlPlane, on_the_cluster},
    endpoint::Echo,
    namespace::Namespace,
    objects::slice_of,
    proxy::{Fault, Proxy},
    replica::{Holdfast, Replica},
    wait::{eventually, soon, within},
    witness::Witnesses,
};

#[test]
fn a_kind_that_the_api_server_is_too_busy_for_holds_up_only_itself() {
    on_the_cluster(async |control_plane| {
        let scene = Scene::new(control_plane).await;
        let proxy = Proxy::start(control_plane).await;
        let replica = scene.replica().kubeconfig(&proxy.kubeconfig).start().await;
        let witnesses = scene.witnesses(&replica).await;

        proxy.set(Fault::Busy("endpointslices"));
        let busy = Instant::now();
        scene
            .others_go_on_without_slices(&replica, "the API server answers 429: ")
            .await;
        let (tries, most) = (proxy.refused(), 8.0 + busy.elapsed().as_secs_f64() / 2.5);
        assert!(tries as f64 <= most, "{tries} tries in {:?}", busy.elapsed());

        proxy.set(Fault::None);
        let after = scene.slices_are_heard_of_again(&replica).await;
        println!("429: {tries} tries meanwhile; in effect {after:.1?} after it is over");
        witnesses.stop().await;
    });
}

#[test]
fn a_kind_that_may_not_be_read_any_longer_holds_up_only_itself() {
    on_the_cluster(async |control_plane| {
        let scene = Scene::new(control_plane).await;
        let namespace = &scene.namespace;
        let account = Account::new(control_plane, namespace, "holdfast").await;
        namespace
            .apply(&role(json!([
                "",
                "holdfast.dev",
                "coordination.k8s.io",
                "events.k8s.io",
                "gateway.networking.k8s.io"
            ])))
            .await;
        namespace.apply(&binding("rest", "Role", "rest")).await;
        let replica = scene.replica().kubeconfig(&account.kubeconfig).args(OFTEN).start().await;
        let witnesses = scene.witnesses(&replica).await;

        let everything = binding("holdfast", "ClusterRole", "cluster-admin");
        namespace.delete(&everything).await;
        scene
            .others_go_on_without_slices(&replica, "the API server answers 403: ")
            .await;
        replica
            .said(&["EndpointSlice", "see docs/kubernetes.md for the rights"])
            .await;

        namespace.apply(&everything).await;
        let after = scene.slices_are_heard_of_again(&replica).await;
        println!("403: in effect {after:.1?} after the right is given back");
        witnesses.stop().await;
    });
}

#[test]
fn a_slow_api_server_is_followed_slowly() {
    on_the_cluster(async |control_plane| {
        let scene = Scene::new(control_plane).await;
        let proxy = Proxy::start(control_plane).await;
        proxy.set(Fault::Slow(Duration::from_secs(2)));
        let replica = scene.replica().kubeconfig(&proxy.kubeconfig).start().await;
        let witnesses = scene.witnesses(&replica).await;
        scene.move_to_second().await;
        let after = soon(
            "the endpoint",
            replica.until_endpoint(&scene.namespace.host(), "/chat", "second"),
        )
        .await;
        println!("slow: in effect after {after:.1?}");
        assert_eq!(
            replica.metric("holdfast_watch_errors_total", &[]).await,
            0.0,
            "slow is no failure"
        );
        witnesses.stop().await;
    });
}

#[test]
fn a_token_that_replaces_another_one_in_its_file_is_used_within_a_minute() {
    on_the_cluster(async |control_plane| {
        let scene = Scene::new(control_plane).await;
        let namespace = &scene.namespace;
        Account::new(control_plane, namespace, "holdfast").await;
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "token"}});
        let uid = namespace.apply(&secret).await.uid().unwrap();
        let file = namespace.kubeconfig().with_file_name(format!("{}.token", namespace.name()));
        fs::write(&file, token(namespace, Some(uid)).await).unwrap();
        let kubeconfig = kubeconfig_with(namespace, &file);
        let replica = scene.replica().kubeconfig(kubeconfig).args(OFTEN).start().await;
        let witnesses = scene.witnesses(&replica).await;

        namespace.delete(&secret).await;
        for kind in ["WebSocketRoute", "Service", "EndpointSlice"] {
            replica.said(&[kind, "the API server answers 401: "]).await;
        }
        fs::write(&file, token(namespace, None).await).unwrap();
        let replaced = Instant::now();
        scene.move_to_second().await;
        within(A_MINUTE, "the new token is used", async || {
            let endpoints = replica.endpoints(&namespace.host(), "/chat", 1).await;
            if endpoints.contains("second") {
                Ok(())
            } else {
                Err(endpoints)
            }
        })
        .await;
        println!("401: in effect {:.1?} after the token was replaced", replaced.elapsed());
        witnesses.stop().await;
    });
}

/// Route `chat` for `/chat` to Service `chat`, whose endpoint is `chat` and will be `second`.
struct Scene {
    namespace: Namespace,
    _first: Echo,
    second: Echo,
}

impl Scene {
    async fn new(control_plane: &ControlPlane) -> Self {
        let namespace = Namespace::new(control_plane).await;
        let (first, second) = (Echo::behind(&namespace, "chat").await, Echo::start("second").await);
        namespace.apply(&namespace.route("chat", "/chat", "chat")).await;
        Self {
            namespace,
            _first: first,
            second,
        }
    }

    /// One that looks at nothing but the scene, for the cluster is everybody's, and whose log can be read.
    fn replica(&self) -> Replica {
        let only = ["--watch-namespace", self.namespace.name(), "--access-log", "off"];
        Replica::of(&self.namespace, "a").args(&only)
    }

    async fn witnesses(&self, replica: &Holdfast) -> Witnesses {
        Witnesses::start(&[replica], &self.namespace.host(), &["/chat"]).await
    }

    async fn move_to_second(&self) {
        self.namespace.apply(&slice_of("chat", "chat", &[&self.second])).await;
    }

    /// The log says that EndpointSlices are refused, and why. A change of them is missed, and a new route is served.
    async fn others_go_on_without_slices(&self, replica: &Holdfast, why: &str) {
        let scope = format!(" EndpointSlice/{}: ", self.namespace.name());
        replica.said(&[&scope, why, " ago stays in effect"]).await;
        self.move_to_second().await;
        self.namespace.apply(&self.namespace.route("more", "/more", "chat")).await;
        soon("the route", replica.until_endpoint(&self.namespace.host(), "/more", "chat")).await;
        let label = "kind=\"EndpointSlice\"";
        let failures = replica.metric("holdfast_watch_errors_total", &[label]).await;
        let grows = async || replica.metric("holdfast_watch_errors_total", &[label]).await > failures;
        eventually("failures are counted", grows).await;
        for kind in ["WebSocketRoute", "Service"] {
            let failures = replica
                .metric("holdfast_watch_errors_total", &[&format!("kind=\"{kind}\"")])
                .await;
            assert_eq!(failures, 0.0, "{kind}");
        }
    }

    async fn slices_are_heard_of_again(&self, replica: &Holdfast) -> Duration {
        let host = self.namespace.host();
        let after = soon("the endpoint", replica.until_endpoint(&host, "/chat", "second")).await;
        let scope = format!(" EndpointSlice/{}: ", self.namespace.name());
        replica.said(&[&scope, "heard of again after "]).await;
        after
    }
}

/// Everything in these groups, within the namespace.
fn role(groups: Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "rest"},
        "rules": [{"apiGroups": groups, "resources": ["*"], "verbs": ["*"]}],
    })
}

/// What gives a role to ServiceAccount `holdfast`.
fn binding(name: &str, kind: &str, role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "holdfast"}],
    })
}

/// A token of ServiceAccount `holdfast`; one that lasts as long as Secret `token`, if that has this uid.
async fn token(namespace: &Namespace, of_secret: Option<String>) -> String {
    let request = TokenRequest {
        spec: TokenRequestSpec {
            audiences: vec!["https://kubernetes.default.svc".to_owned()],
            bound_object_ref: of_secret.map(|uid| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Secret".to_owned()),
                name: Some("token".to_owned()),
                uid: Some(uid),
            }),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let accounts: Api<ServiceAccount> = namespace.api();
    let answer = accounts
        .create_token_request("holdfast", &PostParams::default(), &request)
        .await;
    answer.unwrap().status.unwrap().token
}

fn kubeconfig_with(namespace: &Namespace, token: &std::path::Path) -> PathBuf {
    let mut kubeconfig = Kubeconfig::read_from(namespace.kubeconfig()).unwrap();
    for user in &mut kubeconfig.auth_infos {
        user.auth_info = Some(AuthInfo {
            token_file: Some(token.display().to_string()),
            ..AuthInfo::default()
        });
    }
    let file = token.with_extension("token-kubeconfig");
    fs::write(&file, serde_saphyr::to_string(&kubeconfig).unwrap()).unwrap();
    file
}

/// So that a right is asked for every few seconds: a watch is granted once.
const OFTEN: &[&str] = &["--relist-interval", "5s"];
/// Between two looks at a token file, and a pause between two tries.
const A_MINUTE: Duration = Duration::from_secs(70);
