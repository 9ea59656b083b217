//! The API server away: killed, forgetful, hung, restored to an older state, or not there yet. Each test owns the one that it
//! takes away, and clients of the replicas must notice nothing of it.

use std::{collections::BTreeMap, time::Duration};

use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::GroupVersionKind,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    control_plane::{Component, ControlPlane, on_its_own_cluster},
    endpoint::Echo,
    namespace::Namespace,
    objects::slice_of,
    proxy::{Fault, Proxy},
    replica::{Holdfast, Replica},
    wait::{SOON, eventually, soon, until, within},
    witness::Witnesses,
};

#[test]
fn nobody_notices_that_the_api_server_is_killed() {
    // So that etcd soon forgets what has been.
    let compaction = "--apiserver-arg=--etcd-compaction-interval=1s";
    on_its_own_cluster(&[compaction], async |control_plane| {
        killed(control_plane).await;
        forgetful(control_plane).await;
    });
}

/// Gone for some seconds, with changes right after its return.
async fn killed(control_plane: &ControlPlane) {
    let chat = Namespace::new(control_plane).await;
    let second = Echo::start("second").await;
    let _granted = granted(control_plane, &chat).await;
    let _first = Echo::behind(&chat, "chat").await;
    chat.apply(&chat.route("chat", "/chat", "chat")).await;
    let replicas = [quiet(&chat, "a").start().await, quiet(&chat, "b").start().await];
    let [a, b] = &replicas;
    let witnesses = Witnesses::start(&[a, b], &chat.host(), &["/chat", "/granted"]).await;

    let asked = control_plane.audit().len();
    control_plane.hold(Component::ApiServer).await;
    for replica in &replicas {
        for kind in KINDS.into_iter().chain(["ReferenceGrant"]) {
            let words = [&format!(" {kind}: the API server cannot be reached"), " ago stays in effect"];
            replica.said(&words).await;
        }
    }
    let stood = [ages_while_it_fails(a).await, ages_while_it_fails(b).await];

    control_plane.release(Component::ApiServer).await;
    let returned = Instant::now();
    chat.apply(&slice_of("chat", "chat", &[&second])).await;
    chat.apply(&chat.route("more", "/more", "chat")).await;
    for replica in &replicas {
        soon("the endpoint", replica.until_endpoint(&chat.host(), "/chat", "second")).await;
        soon("the route", replica.until_endpoint(&chat.host(), "/more", "second")).await;
    }
    println!("killed: in effect {:.1?} after its return", returned.elapsed());
    for (replica, stood) in replicas.iter().zip(stood) {
        for kind in KINDS.into_iter().chain(["ReferenceGrant"]) {
            replica.said(&[&format!(" {kind}: heard of again after ")]).await;
        }
        let heard = replica.series(LAST_EVENT).await;
        assert!(heard.iter().all(|series| !stood.contains(series)), "{heard:?} {stood:?}");
    }
    chat.until_condition("more", "Programmed", "True", "Programmed").await;
    is_no_storm(&lists(&control_plane.audit()[asked..]), replicas.len());
    witnesses.stop().await;
}

/// A route to a Service of another namespace: an API server that does not know ReferenceGrants yet must not revoke one.
async fn granted(control_plane: &ControlPlane, chat: &Namespace) -> (Namespace, Echo) {
    let other = Namespace::new(control_plane).await;
    chat.apply(&grant_definition()).await;
    let grant = json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "ReferenceGrant",
        "metadata": {"name": "chat"},
        "spec": {
            "from": [{"group": "holdfast.dev", "kind": "WebSocketRoute", "namespace": chat.name()}],
            "to": [{"group": "", "kind": "Service"}],
        },
    });
    within(SOON, "the API server knows ReferenceGrants", async || {
        other.try_apply(&grant).await
    })
    .await;
    let echo = Echo::behind(&other, "elsewhere").await;
    let mut route = chat.route("granted", "/granted", "elsewhere");
    route["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!(other.name());
    chat.apply(&route).await;
    (other, echo)
}

/// Restarted with an empty memory while Holdfast cannot reach it: no watch can go on from where it was, and nobody tells what
/// was deleted meanwhile.
async fn forgetful(control_plane: &ControlPlane) {
    let chat = Namespace::new(control_plane).await;
    let (first, second) = (Echo::behind(&chat, "chat").await, Echo::start("second").await);
    chat.apply(&slice_of("gone", "chat", &[&second])).await;
    for path in ["chat", "gone"] {
        chat.apply(&chat.route(path, &format!("/{path}"), "chat")).await;
    }
    let proxy = Proxy::start(control_plane).await;
    let replica = quiet(&chat, "a").kubeconfig(&proxy.kubeconfig).start().await;
    replica.until_answer(&chat.host(), "/gone", 101, None).await;
    let witnesses = Witnesses::start(&[&replica], &chat.host(), &["/chat"]).await;

    proxy.set(Fault::Cut);
    chat.delete(&chat.route("gone", "/gone", "chat")).await;
    chat.delete(&slice_of("gone", "chat", &[&second])).await;
    let meanwhile = chat.apply(&slice_of("chat-2", "chat", &[&first])).await;
    chat.delete(&slice_of("chat", "chat", &[&first])).await;
    control_plane.kill(Component::ApiServer).await;
    is_forgotten(control_plane, &meanwhile.resource_version().unwrap()).await;
    replica.until_answer(&chat.host(), "/gone", 101, None).await;
    let asked = control_plane.audit().len();
    proxy.set(Fault::None);
    let after = soon("it is gone", replica.until_answer(&chat.host(), "/gone", 404, None)).await;
    let is_gone = async || replica.endpoints(&chat.host(), "/chat", 8).await.len() == 1;
    eventually("its endpoint is gone, too", is_gone).await;
    println!("forgetful: in effect {after:.1?} after it can be reached");
    let lists = within(SOON, "everything is listed again", async || {
        let lists = lists(&control_plane.audit()[asked..]);
        let is_listed = RESOURCES.iter().all(|(_, plural)| lists.contains_key(*plural));
        if is_listed { Ok(lists) } else { Err(lists) }
    })
    .await;
    is_no_storm(&lists, 1);
    witnesses.stop().await;
}

#[test]
fn an_api_server_that_hangs_is_noticed_and_what_changes_after_it_goes_on_is_in_effect_soon() {
    on_its_own_cluster(&[], async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let second = Echo::start("second").await;
        let _first = Echo::behind(&chat, "chat").await;
        chat.apply(&chat.route("chat", "/chat", "chat")).await;
        let replica = quiet(&chat, "a").start().await;
        let witnesses = Witnesses::start(&[&replica], &chat.host(), &["/chat"]).await;

        control_plane.hang(Component::ApiServer).await;
        let hung = Instant::now();
        for kind in KINDS {
            let left = NOTICED.saturating_sub(hung.elapsed());
            let words = [&format!(" {kind}: the API server says nothing"), " ago stays in effect"];
            replica.said_within(left, &words).await;
        }
        println!("hung: noticed after {:.1?}", hung.elapsed());
        ages_while_it_fails(&replica).await;

        control_plane.resume(Component::ApiServer).await;
        chat.apply(&slice_of("chat", "chat", &[&second])).await;
        chat.apply(&chat.route("more", "/more", "chat")).await;
        let route = soon("the route", replica.until_endpoint(&chat.host(), "/more", "second")).await;
        let endpoint = soon("the endpoint", replica.until_endpoint(&chat.host(), "/chat", "second")).await;
        println!("hung: in effect {:.1?} after it goes on", route + endpoint);
        witnesses.stop().await;
    });
}

#[test]
fn a_cluster_that_was_restored_and_one_that_is_not_there_yet_are_followed() {
    on_its_own_cluster(&[], async |control_plane| {
        restored(control_plane).await;
        not_there_yet(control_plane).await;
    });
}

/// Only a list shows that: watches wait for what has been before.
async fn restored(control_plane: &ControlPlane) {
    let chat = Namespace::new(control_plane).await;
    let host = &chat.host();
    let _echo = Echo::behind(&chat, "chat").await;
    chat.apply(&chat.route("stays", "/stays", "chat")).await;
    chat.apply(&chat.route("chat", "/old", "chat")).await;
    let backup = control_plane.back_up().await;
    let start = async |name| quiet(&chat, name).args(&["--relist-interval", "5s"]).start().await;
    let replicas = [start("a").await, start("b").await];
    chat.apply(&chat.route("chat", "/new", "chat")).await;
    chat.apply(&chat.route("added", "/added", "chat")).await;
    for (route, path) in [("chat", "/new"), ("added", "/added")] {
        chat.until_condition(route, "Programmed", "True", "Programmed").await;
        replicas[0].until_answer(host, path, 101, None).await;
    }
    let witnesses = Witnesses::start(&[&replicas[0], &replicas[1]], host, &["/stays"]).await;

    control_plane.restore(&backup).await;
    let back = Instant::now();
    for replica in &replicas {
        soon("the older spec", replica.until_answer(host, "/old", 101, None)).await;
        soon("what it replaced", replica.until_answer(host, "/new", 404, None)).await;
        soon("what was added later", replica.until_answer(host, "/added", 404, None)).await;
    }
    println!("restored: in effect after {:.1?}", back.elapsed());
    let programmed = chat.until_condition("chat", "Programmed", "True", "Programmed").await;
    assert_eq!(programmed.observed_generation, Some(1));
    println!("restored: status is right after {:.1?}", back.elapsed());
    // What is new has a lower resourceVersion than what has been.
    chat.apply(&chat.route("chat", "/next", "chat")).await;
    chat.until_condition("chat", "Programmed", "True", "Programmed").await;
    for replica in &replicas {
        drop(replica.open(host, "/next").await);
    }
    witnesses.stop().await;
}

/// First no API server, then no definition, then objects that make no sense.
async fn not_there_yet(control_plane: &ControlPlane) {
    control_plane.kubectl_says(&["delete", "crd", "websocketroutes.holdfast.dev"]);
    let chat = Namespace::new(control_plane).await;
    let _echo = Echo::behind(&chat, "chat").await;
    control_plane.hold(Component::ApiServer).await;
    let replica = quiet(&chat, "a").launch().await;
    for kind in KINDS {
        let not_ready = "; not ready before it has been listed";
        replica
            .said(&[&format!(" {kind}: the API server cannot be reached"), not_ready])
            .await;
    }
    is_alive_but_not_ready(&replica).await;

    control_plane.release(Component::ApiServer).await;
    let hint = "install the definition: holdfast crd | kubectl apply -f -";
    replica
        .said(&[" WebSocketRoute: the API server does not know this kind; ", hint])
        .await;
    is_alive_but_not_ready(&replica).await;

    control_plane.prepare().await;
    let ready = soon("ready", replica.until_ready()).await;
    println!("the definition is installed: ready after {ready:.1?}");
    chat.apply(&chat.route("chat", "/chat", "chat")).await;
    replica.until_answer(&chat.host(), "/chat", 101, None).await;
    nonsense(control_plane, &chat, &replica).await;
}

/// The definition that is installed admits anything: an object that cannot be read is refused by a condition, and the others
/// are served all the same.
async fn nonsense(control_plane: &ControlPlane, chat: &Namespace, replica: &Holdfast) {
    let mut definition = holdfast::api::crd();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    chat.apply(&definition).await;
    let class = chat.class();
    let specs = [
        json!({"className": class, "rules": "nonsense"}),
        json!({"className": class, "rules": [{"backendRefs": 7}, null]}),
        json!({"className": class, "hostnames": {"a": 1}, "rules": [{"matches": [{"path": []}]}]}),
        json!("nonsense"),
    ];
    for (number, spec) in specs.into_iter().enumerate() {
        let mut route = chat.route(&format!("nonsense-{number}"), "/", "chat");
        route["spec"] = spec;
        within(SOON, "the definition admits anything", async || chat.try_apply(&route).await).await;
    }
    chat.apply(&chat.route("later", "/later", "chat")).await;
    let fresh = quiet(chat, "b").start().await;
    for replica in [replica, &fresh] {
        for path in ["/chat", "/later"] {
            replica.until_answer(&chat.host(), path, 101, None).await;
        }
        replica.until_answer(&chat.host(), "/", 404, None).await;
    }
    let kind = GroupVersionKind::gvk("holdfast.dev", "v1alpha1", "WebSocketRoute");
    let routes: Api<DynamicObject> =
        Api::namespaced_with(control_plane.client().await, chat.name(), &ApiResource::from_gvk(&kind));
    for name in ["nonsense-0", "nonsense-1", "nonsense-2", "nonsense-3"] {
        within(SOON, "it is told that it is refused", async || {
            let status = routes.get(name).await.unwrap().data["status"].take();
            let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
            let is_refused = |condition: &Value| condition["type"] == "Accepted" && condition["status"] == "False";
            if conditions.iter().any(is_refused) {
                Ok(())
            } else {
                Err(status)
            }
        })
        .await;
    }
}

/// Its access log would hide what it says of the API server.
fn quiet(namespace: &Namespace, name: &str) -> Replica {
    Replica::of(namespace, name).args(&["--access-log", "off"])
}

/// While the API server is away the metrics say so: failures are counted, and when it was last heard, which is returned, stands
/// still.
async fn ages_while_it_fails(replica: &Holdfast) -> Vec<String> {
    let heard = replica.series(LAST_EVENT).await;
    assert!(heard.len() >= KINDS.len(), "{heard:?}");
    for kind in KINDS {
        let label = format!("kind=\"{kind}\"");
        let failures = replica.metric(ERRORS, &[&label]).await;
        assert!(failures > 0.0, "{kind}");
        let grows = async || replica.metric(ERRORS, &[&label]).await > failures;
        eventually("failures are counted", grows).await;
    }
    assert_eq!(replica.series(LAST_EVENT).await, heard);
    heard
}

async fn is_alive_but_not_ready(replica: &Holdfast) {
    assert_eq!(replica.get("/readyz").await.status, 503);
    assert_eq!(replica.get("/livez").await.status, 200);
}

/// Waits until no watch can go on from this resourceVersion: etcd has dropped it, and the API server does not remember it.
async fn is_forgotten(control_plane: &ControlPlane, version: &str) {
    let client = control_plane.client().await;
    for (group, plural) in RESOURCES {
        let watch = format!("/{group}/{plural}?watch=1&timeoutSeconds=1&resourceVersion={version}");
        until(&format!("{plural} of {version} are forgotten"), async || {
            let request = http::Request::get(&watch).body(Vec::new()).unwrap();
            match client.request_text(request).await {
                Err(kube::Error::Api(status)) if status.code == 410 => Ok(()),
                Ok(events) if events.contains("\"code\":410") => Ok(()),
                other => Err(other.map_err(|error| error.to_string())),
            }
        })
        .await;
    }
}

/// No replica has listed anything twice.
fn is_no_storm(lists: &BTreeMap<String, usize>, replicas: usize) {
    println!("lists of {replicas} replicas: {lists:?}");
    assert!(lists.values().all(|count| *count <= replicas), "{lists:?}");
}

/// How often each resource was listed.
fn lists(audit: &[Value]) -> BTreeMap<String, usize> {
    let mut lists = BTreeMap::new();
    for event in audit.iter().filter(|event| event["verb"] == "list") {
        let resource = event["objectRef"]["resource"].as_str().unwrap_or_default();
        *lists.entry(resource.to_owned()).or_default() += 1;
    }
    lists
}

/// Enough of the Gateway API for ReferenceGrants.
fn grant_definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "referencegrants.gateway.networking.k8s.io",
            "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io",
            "scope": "Namespaced",
            "names": {"kind": "ReferenceGrant", "plural": "referencegrants"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    })
}

/// Those that are always there.
const KINDS: [&str; 3] = ["WebSocketRoute", "Service", "EndpointSlice"];
const RESOURCES: [(&str, &str); 3] = [
    ("apis/holdfast.dev/v1alpha1", "websocketroutes"),
    ("api/v1", "services"),
    ("apis/discovery.k8s.io/v1", "endpointslices"),
];
const LAST_EVENT: &str = "holdfast_watch_last_event_timestamp_seconds";
const ERRORS: &str = "holdfast_watch_errors_total";
/// The longest that a replica may take to notice that nothing is said.
const NOTICED: Duration = Duration::from_secs(60);
