//! Endpoints as EndpointSlices say, written by hand and by Kubernetes itself: which of them get new tunnels, which keep the
//! ones they have, and that a pod is one endpoint however it is written down.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    control_plane::{on_the_cluster, skip},
    endpoint::{Echo, PORT, pod_address, pod_address_6},
    namespace::Namespace,
    objects::{of_pod, ready, service, slice, slice_of, terminating, unready},
    replica::{Holdfast, Replica},
    support::header_values,
    wait::{eventually, until},
};

#[test]
fn a_named_port_is_found_in_every_slice_by_its_own_number() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let one = Echo::start("one").await;
        let two = Echo::on(SocketAddr::new(pod_address(), 9090), "two").await;
        let unnamed = Echo::on(SocketAddr::new(one.ip(), 7070), "unnamed").await;
        let ports = |ports: Value| {
            let mut service = service("chat");
            service["spec"]["ports"] = ports;
            service
        };
        chat.apply(&ports(
            json!([{"name": "ws", "port": 80}, {"name": "rtp", "port": 80, "protocol": "UDP"}]),
        ))
        .await;
        let with_ports = |name: &str, echo: &Echo, ports: Value| {
            let mut slice = slice_of(name, "chat", &[echo]);
            slice["ports"] = ports;
            slice
        };
        let first =
            json!([{"name": "other", "port": 1}, {"name": "ws", "port": PORT}, {"name": "rtp", "port": 5, "protocol": "UDP"}]);
        chat.apply(&with_ports("first", &one, first)).await;
        chat.apply(&with_ports("second", &two, json!([{"name": "ws", "port": 9090}])))
            .await;
        // A port of another protocol is no port of ours, and names are nobody's addresses.
        for protocol in ["UDP", "SCTP"] {
            let name = protocol.to_lowercase();
            let ports = json!([{"name": "ws", "port": 1, "protocol": protocol}]);
            chat.apply(&with_ports(&name, &two, ports)).await;
        }
        let mut names = with_ports("names", &two, json!([{"name": "ws", "port": 9090}]));
        names["addressType"] = json!("FQDN");
        names["endpoints"] = json!([{"addresses": ["pods.example.com"]}]);
        chat.apply(&names).await;
        chat.apply(&by_turns(&chat)).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        until_reached(&holdfast, &chat, &["one", "two"]).await;
        assert_eq!(counts(&holdfast).await.len(), 2);

        // The Service's port has no name any more: only that of a slice which has none is its.
        chat.apply(&ports(json!([{"port": 80}]))).await;
        until_reached(&holdfast, &chat, &[]).await;
        chat.apply(&with_ports(
            "third",
            &one,
            json!([{"name": "", "port": 7070}, {"name": "ws", "port": PORT}]),
        ))
        .await;
        until_reached(&holdfast, &chat, &[&unnamed.name]).await;
    });
}

#[test]
fn a_pod_with_two_addresses_is_one_endpoint_with_the_services_first_family_first() {
    on_the_cluster(async |control_plane| {
        let Some(address_6) = pod_address_6() else {
            return skip("there is no IPv6 here");
        };
        let chat = Namespace::new(control_plane).await;
        let (v4, mut v6) = (Echo::start("v4").await, Echo::at(address_6, "v6").await);
        let mut dual = service("chat");
        dual["spec"] = json!({"clusterIP": "None", "ipFamilies": ["IPv6", "IPv4"], "ports": [{"port": 80}]});
        chat.apply(&dual).await;
        let of_chat_0 = |endpoint: Value| of_pod(endpoint, chat.name(), "chat-0", "uid-0");
        let slice_4 = slice("chat-4", "chat", vec![of_chat_0(ready(v4.ip()))]);
        chat.apply(&slice_4).await;
        chat.apply(&slice("chat-6", "chat", vec![of_chat_0(ready(v6.ip()))])).await;
        chat.apply(&by_turns(&chat)).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let client = holdfast.open(&chat.host(), "/").await;
        assert_eq!(client.header("x-echo-endpoint"), Some("v6"));
        assert_eq!(counts(&holdfast).await, [("chat-0".to_owned(), 1)].into());

        // It is reached by the other one where the first is not.
        v6.kill();
        holdfast.until_endpoint(&chat.host(), "/", "v4").await;
        assert_eq!(client.listen().await.code, 1012);
        until_counts(&holdfast, &[("chat-0", 0)]).await;
        chat.delete(&slice_4).await;
        holdfast
            .until_answer(&chat.host(), "/", 502, Some("connection_refused"))
            .await;
    });
}

#[test]
fn ready_endpoints_get_new_tunnels_and_terminating_ones_only_where_none_is_ready() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let (one, two) = (Echo::start("one").await, Echo::start("two").await);
        chat.apply(&service("chat")).await;
        chat.apply(&by_turns(&chat)).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let with = |conditions: Value| json!({"addresses": [one.ip()], "conditions": conditions});
        let with_nothing = json!({"addresses": [one.ip()]});
        // As publishNotReadyAddresses keeps a pod that terminates.
        let published = with(json!({"ready": true, "serving": true, "terminating": true}));
        let dying = with(json!({"ready": false, "serving": false, "terminating": true}));
        // Each differs from the one before, so that its effect shows.
        let cases = [
            (vec![unready(one.ip()), unready(two.ip())], vec![]),
            (vec![ready(one.ip()), ready(two.ip())], vec!["one", "two"]),
            (vec![unready(one.ip()), ready(two.ip())], vec!["two"]),
            (vec![terminating(one.ip()), unready(two.ip())], vec!["one"]),
            (vec![terminating(one.ip()), ready(two.ip())], vec!["two"]),
            (vec![published.clone(), unready(two.ip())], vec!["one"]),
            (vec![published, ready(two.ip())], vec!["two"]),
            (vec![dying, unready(two.ip())], vec![]),
            (vec![with_nothing, unready(two.ip())], vec!["one"]),
            (vec![with(json!({"ready": false})), ready(two.ip())], vec!["two"]),
            (vec![with(json!({"ready": true})), unready(two.ip())], vec!["one"]),
            (vec![with(json!({"ready": false})), unready(two.ip())], vec![]),
            (
                vec![with(json!({"serving": true, "terminating": true})), terminating(two.ip())],
                vec!["one", "two"],
            ),
        ];
        let tables = holdfast.metric("holdfast_snapshot_generation", &[]).await;
        for (endpoints, reached) in cases {
            chat.apply(&slice("chat", "chat", endpoints)).await;
            until_reached(&holdfast, &chat, &reached).await;
        }
        assert_eq!(
            holdfast.metric("holdfast_snapshot_generation", &[]).await,
            tables,
            "endpoints need no new table"
        );
    });
}

#[test]
fn a_pod_keeps_its_tunnels_and_its_count_while_slices_change_around_it() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let (mut one, two) = (Echo::start("one").await, Echo::start("two").await);
        let pod = |endpoint: Value, uid: &str| of_pod(endpoint, chat.name(), uid, uid);
        chat.apply(&service("chat")).await;
        chat.apply(&slice("first", "chat", vec![pod(ready(one.ip()), "old")])).await;
        chat.apply(&by_turns(&chat)).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let mut old = holdfast.open(&chat.host(), "/").await;

        // While the controller moves it, it is in two slices; in one of them it may still be what it was.
        chat.apply(&slice(
            "second",
            "chat",
            vec![pod(terminating(one.ip()), "old"), pod(unready(two.ip()), "new")],
        ))
        .await;
        until_counts(&holdfast, &[("new", 0), ("old", 1)]).await;
        until_reached(&holdfast, &chat, &["one"]).await;
        chat.delete(&slice("first", "chat", vec![])).await;
        chat.apply(&slice(
            "second",
            "chat",
            vec![pod(terminating(one.ip()), "old"), pod(ready(two.ip()), "new")],
        ))
        .await;
        until_reached(&holdfast, &chat, &["two"]).await;
        until_counts(&holdfast, &[("new", 0), ("old", 1)]).await;

        // Another pod has its address: new tunnels are that one's, the open one stays the old one's.
        chat.apply(&slice(
            "second",
            "chat",
            vec![pod(terminating(one.ip()), "old"), pod(ready(one.ip()), "heir")],
        ))
        .await;
        until_counts(&holdfast, &[("heir", 0), ("old", 1)]).await;
        let mut heir = holdfast.open(&chat.host(), "/").await;
        until_counts(&holdfast, &[("heir", 1), ("old", 1)]).await;
        chat.apply(&slice("second", "chat", vec![pod(ready(one.ip()), "heir")])).await;

        // What no slice has any more is kept, and counted, by its tunnels until it ends, and its end is told.
        chat.apply(&slice("second", "chat", vec![])).await;
        until_reached(&holdfast, &chat, &[]).await;
        until_counts(&holdfast, &[("heir", 1), ("old", 1)]).await;
        for client in [&mut old, &mut heir] {
            client.exchange().await;
        }
        one.kill();
        for client in [old, heir] {
            assert_eq!(client.listen().await.code, 1012);
        }
        until_counts(&holdfast, &[]).await;
    });
}

#[test]
fn services_and_their_slices_may_come_and_go_in_any_order() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let (one, two) = (
            Echo::start("one").await,
            Echo::on(SocketAddr::new(pod_address(), 9090), "two").await,
        );
        chat.apply(&by_turns(&chat)).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();
        let of = |service: &str| slice_of("moving", service, &[&one]);
        let is_unresolved = async || holdfast.until_answer(&host, "/", 500, Some("unresolved_backend")).await;

        chat.apply(&of("chat")).await;
        is_unresolved().await;
        chat.apply(&service("chat")).await;
        until_reached(&holdfast, &chat, &["one"]).await;
        let mut client = holdfast.open(&host, "/").await;

        chat.apply(&of("elsewhere")).await;
        until_reached(&holdfast, &chat, &[]).await;
        for (kind, word) in [("ResolvedRefs", "ResolvedRefs"), ("Programmed", "Programmed")] {
            chat.until_condition("chat", kind, "True", word).await;
        }
        chat.apply(&of("chat")).await;
        until_reached(&holdfast, &chat, &["one"]).await;

        // The pods listen on another port now, and so does the Service.
        let mut moved = slice_of("moving", "chat", &[&two]);
        moved["ports"][0]["port"] = json!(9090);
        chat.apply(&moved).await;
        until_reached(&holdfast, &chat, &["two"]).await;
        let mut renumbered = service("chat");
        renumbered["spec"]["ports"][0]["port"] = json!(81);
        chat.apply(&renumbered).await;
        is_unresolved().await;
        let mut route = by_turns(&chat);
        route["spec"]["rules"][0]["backendRefs"][0]["port"] = json!(81);
        chat.apply(&route).await;
        until_reached(&holdfast, &chat, &["two"]).await;

        chat.delete(&moved).await;
        until_reached(&holdfast, &chat, &[]).await;
        chat.delete(&renumbered).await;
        is_unresolved().await;
        chat.apply(&renumbered).await;
        chat.apply(&of("chat")).await;
        until_reached(&holdfast, &chat, &["one"]).await;
        client.exchange().await;
    });
}

/// The slices are those that Kubernetes makes; the test is the kubelet.
#[test]
fn a_pod_is_served_from_ready_until_it_terminates_and_its_tunnels_beyond_that() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let kubelet = Kubelet::start(&chat).await;
        let first = kubelet.run("first", 8080).await;
        let second = kubelet.run("second", 9090).await;
        let mut selecting = service("chat");
        selecting["spec"] = json!({"selector": {"app": "chat"}, "ports": [{"name": "ws", "port": 80, "targetPort": "ws"}]});
        chat.apply(&selecting).await;
        chat.apply(&by_turns(&chat)).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        holdfast.until_answer(&chat.host(), "/", 503, Some("no_ready_endpoint")).await;

        kubelet.says(&first, true).await;
        until_reached(&holdfast, &chat, &["first"]).await;
        let mut client = holdfast.open(&chat.host(), "/").await;
        kubelet.says(&second, true).await;
        until_reached(&holdfast, &chat, &["first", "second"]).await;

        chat.api::<Pod>().delete("first", &DeleteParams::default()).await.unwrap();
        until_reached(&holdfast, &chat, &["second"]).await;
        until_counts(&holdfast, &[("first", 1), ("second", 0)]).await;
        kubelet.says(&second, false).await;
        until_reached(&holdfast, &chat, &["first"]).await;
        kubelet.says(&second, true).await;
        until_reached(&holdfast, &chat, &["second"]).await;

        kubelet.forgets("first").await;
        client.exchange().await;
        until_counts(&holdfast, &[("first", 1), ("second", 0)]).await;
        first.terminate();
        assert_eq!(client.listen().await.code, 1001, "the endpoint has told its client itself");
        until_counts(&holdfast, &[("second", 0)]).await;
    });
}

/// A node of the namespace's own, whose kubelet is the test.
struct Kubelet<'a> {
    namespace: &'a Namespace,
    nodes: Api<Node>,
}

impl<'a> Kubelet<'a> {
    async fn start(namespace: &'a Namespace) -> Self {
        let nodes: Api<Node> = Api::all(namespace.client());
        let node = json!({"metadata": {"name": namespace.name()}, "spec": {"unschedulable": true}});
        let node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        Self { namespace, nodes }
    }

    /// A pod of the node that listens on this port and is not ready yet.
    async fn run(&self, name: &str, port: u16) -> Echo {
        let echo = Echo::on(SocketAddr::new(pod_address(), port), name).await;
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": "chat"}},
            "spec": {
                "nodeName": self.namespace.name(),
                "automountServiceAccountToken": false,
                "containers": [{"name": "echo", "image": "echo", "ports": [{"name": "ws", "containerPort": port}]}],
            },
        });
        until("the namespace takes pods", async || {
            self.namespace.try_apply(&pod).await.map_err(|error| error.to_string())
        })
        .await;
        self.says(&echo, false).await;
        echo
    }

    /// Writes a pod's status.
    async fn says(&self, pod: &Echo, is_ready: bool) {
        let status = json!({"status": {
            "phase": "Running",
            "podIP": pod.ip(),
            "podIPs": [{"ip": pod.ip()}],
            "conditions": [{"type": "Ready", "status": if is_ready { "True" } else { "False" }}],
        }});
        let pods = self.namespace.api::<Pod>();
        let patch = Patch::Merge(&status);
        pods.patch_status(&pod.name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// A pod that was being deleted has ended.
    async fn forgets(&self, pod: &str) {
        let pods = self.namespace.api::<Pod>();
        assert!(pods.get(pod).await.unwrap().metadata.deletion_timestamp.is_some());
        pods.delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
        eventually("the pod is gone", async || pods.get_opt(pod).await.unwrap().is_none()).await;
    }
}

impl Drop for Kubelet<'_> {
    fn drop(&mut self) {
        let (nodes, name) = (self.nodes.clone(), self.namespace.name());
        let params = DeleteParams::default();
        let deleted = nodes.delete(name, &params);
        let _ = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(deleted));
    }
}

/// A route whose endpoints of Service chat get new tunnels in turn.
fn by_turns(namespace: &Namespace) -> Value {
    let mut route = namespace.route("chat", "/", "chat");
    route["spec"]["loadBalancing"] = json!({"algorithm": "RoundRobin"});
    route
}

/// Waits until new tunnels lead to all of these endpoints and to no other; to none: until they are refused for that.
async fn until_reached(holdfast: &Holdfast, namespace: &Namespace, names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    let host = namespace.host();
    if wanted.is_empty() {
        return holdfast.until_answer(&host, "/", 503, Some("no_ready_endpoint")).await;
    }
    until(&format!("{names:?} are reached"), async || {
        let mut reached = BTreeSet::new();
        for _ in 0..2 * wanted.len() {
            let head = holdfast.head(&host, "/").await;
            let name = header_values(&head, "x-echo-endpoint").first().map(ToString::to_string);
            reached.insert(name.unwrap_or(head));
        }
        if reached == wanted { Ok(()) } else { Err(reached) }
    })
    .await;
}

/// The endpoints there are, with the connections of each.
async fn counts(holdfast: &Holdfast) -> BTreeMap<String, u32> {
    let series = holdfast.series("holdfast_endpoint_connections_active").await;
    let count = |line: &String| {
        let (labels, count) = line.rsplit_once(' ').unwrap();
        let pod = labels.split("endpoint_pod=\"").nth(1).unwrap().split('"').next().unwrap();
        (pod.to_owned(), count.parse().unwrap())
    };
    let counts: BTreeMap<String, u32> = series.iter().map(count).collect();
    assert_eq!(counts.len(), series.len(), "no series is there twice: {series:?}");
    counts
}

async fn until_counts(holdfast: &Holdfast, wanted: &[(&str, u32)]) {
    let wanted: BTreeMap<String, u32> = wanted.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    until(&format!("{wanted:?}"), async || {
        let counts = counts(holdfast).await;
        if counts == wanted { Ok(()) } else { Err(counts) }
    })
    .await;
}
