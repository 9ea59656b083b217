//! What a route's status and Events say: each reason, what to do about it, that it goes away when it is over, and who wrote it.

use std::collections::BTreeMap;

use holdfast::api::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    control_plane::on_the_cluster,
    endpoint::Echo,
    namespace::Namespace,
    objects::{service, slice_of},
    replica::Replica,
    routes::{created, is_over},
    wait::{eventually, until},
};

#[test]
fn what_no_schema_can_tell_is_rejected_with_the_field_and_nothing_of_it_is_served() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let mut route = chat.route("chat", "/fine", "chat");
        let broken = json!({"name": "broken", "matches": [{"path": {"type": "RegularExpression", "value": "/rooms/("}}]});
        route["spec"]["rules"].as_array_mut().unwrap().push(broken);
        route["spec"]["rules"][1]["backendRefs"] = route["spec"]["rules"][0]["backendRefs"].clone();
        route["spec"]["heartbeat"] = json!({"client": {"interval": "10ms"}});

        chat.apply(&route).await;
        let rejected = chat.until_condition("chat", "Accepted", "False", "UnsupportedValue").await;
        for said in [
            "spec.rules[1].matches[0].path.value: \"/rooms/(\" is not a regular expression that can be used: unclosed group",
            "spec.heartbeat.client.interval: 10ms is neither 0s nor at least 1s",
        ] {
            assert!(rejected.message.contains(said), "{}", rejected.message);
        }
        chat.until_condition("chat", "Programmed", "False", "Invalid").await;
        chat.until_condition("chat", "ResolvedRefs", "True", "ResolvedRefs").await;
        holdfast.until_answer(&chat.host(), "/fine", 404, Some("no_route")).await;

        route["spec"]["rules"][1]["matches"][0]["path"]["value"] = json!("/rooms/[0-9]+");
        route["spec"]["heartbeat"] = json!({"client": {"interval": "10s"}});
        chat.apply(&route).await;
        chat.until_condition("chat", "Programmed", "True", "Programmed").await;
        for path in ["/fine", "/rooms/7"] {
            holdfast.open(&chat.host(), path).await.exchange().await;
        }
    });
}

#[test]
fn a_reference_that_leads_nowhere_is_named_and_heals_without_a_touch_of_the_route() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let (ns, host) = (chat.name(), chat.host());
        let echo = Echo::behind(&chat, "chat").await;
        let with_spec = |name: &str, spec: Value| {
            let mut service = service(name);
            service["spec"] = spec;
            service
        };
        let udp = json!([{"port": 53, "protocol": "UDP"}]);
        let http2 = json!([{"port": 80, "appProtocol": "kubernetes.io/h2c"}]);
        chat.apply(&with_spec(
            "external",
            json!({"type": "ExternalName", "externalName": "example.com"}),
        ))
        .await;
        chat.apply(&with_spec("udp", json!({"ports": udp}))).await;
        chat.apply(&with_spec("http2", json!({"ports": http2}))).await;
        let bucket = json!({"group": "storage.example.com", "kind": "Bucket", "name": "chat", "port": 80});
        let at = |service: &str, port: u16| json!({"name": service, "port": port});
        let cases = [
            (
                "nobody",
                at("nobody", 80),
                "BackendNotFound",
                format!("name: there is no Service {ns}/nobody: create it, or refer to one that is there"),
            ),
            (
                "port",
                at("chat", 81),
                "BackendNotFound",
                format!("port: Service {ns}/chat has no port 81; it has 80"),
            ),
            (
                "external",
                at("external", 80),
                "InvalidKind",
                format!("name: Service {ns}/external is an ExternalName"),
            ),
            (
                "bucket",
                bucket,
                "InvalidKind",
                "kind: Bucket.storage.example.com cannot be referred to".to_owned(),
            ),
            (
                "udp",
                at("udp", 53),
                "UnsupportedProtocol",
                format!("port: port 53 of Service {ns}/udp is UDP, not TCP"),
            ),
            (
                "http2",
                at("http2", 80),
                "UnsupportedProtocol",
                format!("{ns}/http2 speaks kubernetes.io/h2c; Holdfast"),
            ),
        ];
        let holdfast = Replica::of(&chat, "a").start().await;
        for (name, reference, ..) in &cases {
            let mut route = chat.route(name, &format!("/{name}"), "chat");
            route["spec"]["rules"][0]["backendRefs"] = json!([reference]);
            chat.apply(&route).await;
        }
        for (name, _, reason, message) in &cases {
            let condition = chat.until_condition(name, "ResolvedRefs", "False", reason).await;
            let path = "spec.rules[0].backendRefs[0].";
            assert!(
                condition.message.starts_with(path) && condition.message.contains(message),
                "{condition:?}"
            );
            chat.until_condition(name, "Accepted", "True", "Accepted").await;
            chat.until_condition(name, "Programmed", "True", "Programmed").await;
            let path = format!("/{name}");
            holdfast.until_answer(&host, &path, 500, Some("unresolved_backend")).await;
        }

        chat.apply(&service("nobody")).await;
        chat.apply(&slice_of("nobody", "nobody", &[&echo])).await;
        chat.apply(&with_spec("chat", json!({"ports": [{"port": 81}]}))).await;
        chat.apply(&with_spec(
            "http2",
            json!({"ports": [{"port": 80, "appProtocol": "kubernetes.io/ws"}]}),
        ))
        .await;
        chat.apply(&slice_of("http2", "http2", &[&echo])).await;
        let mut clients = Vec::new();
        for name in ["nobody", "port", "http2"] {
            chat.until_condition(name, "ResolvedRefs", "True", "ResolvedRefs").await;
            let path = format!("/{name}");
            holdfast.until_answer(&host, &path, 101, None).await;
            clients.push(holdfast.open(&host, &path).await);
        }

        chat.delete(&service("nobody")).await;
        chat.until_condition("nobody", "ResolvedRefs", "False", "BackendNotFound")
            .await;
        chat.until_condition("nobody", "Programmed", "True", "Programmed").await;
        holdfast.until_answer(&host, "/nobody", 500, Some("unresolved_backend")).await;
        for client in &mut clients {
            client.exchange().await;
        }
    });
}

#[test]
fn a_broken_part_keeps_its_match_and_answers_for_its_share_alone() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let host = chat.host();
        let _echo = Echo::behind(&chat, "chat").await;
        chat.apply(&chat.route("wide", "/", "chat")).await;
        chat.apply(&chat.route("admin", "/admin", "nobody")).await;
        let mut half = chat.route("half", "/half", "chat");
        half["spec"]["rules"][0]["backendRefs"] =
            json!([{"name": "chat", "port": 80, "weight": 1}, {"name": "nobody", "port": 80, "weight": 1}]);
        chat.apply(&half).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        holdfast.open(&host, "/anything").await.exchange().await;
        for _ in 0..3 {
            let answer = holdfast.refused(&host, "/admin/users").await;
            assert_eq!(answer.status, 500, "a broader rule must not catch it");
        }
        for status in [101, 500] {
            holdfast.until_answer(&host, "/half", status, None).await;
        }
    });
}

#[test]
fn a_hostname_belongs_to_the_namespace_of_the_oldest_route_that_names_it() {
    on_the_cluster(async |control_plane| {
        let (first, last) = in_order(Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        // Age decides, not names.
        let (owner, other) = (&last, &first);
        let _echoes = [Echo::behind(owner, "owner").await, Echo::behind(other, "other").await];
        let host = owner.host();
        let hosts = BTreeMap::from([
            ("exact", json!([host])),
            ("wildcard", json!([format!("*.{host}")])),
            ("every", json!([])),
            ("mixed", json!([format!("mine.{host}"), host])),
        ]);
        let route = |namespace: &Namespace, name: &str| {
            let service = if namespace.name() == owner.name() { "owner" } else { "other" };
            let mut route = namespace.route(name, &format!("/{name}/{service}"), service);
            route["spec"]["className"] = json!(owner.class());
            route["spec"]["hostnames"] = hosts[name].clone();
            route
        };
        for name in ["exact", "wildcard", "every"] {
            owner.apply(&route(owner, name)).await;
        }
        is_over(created(owner, "every").await).await;
        for name in hosts.keys() {
            other.apply(&route(other, name)).await;
        }
        let holdfast = Replica::of(owner, "a").start().await;

        for (name, host, by) in [
            ("exact", host.clone(), "exact"),
            ("wildcard", format!("*.{host}"), "wildcard"),
            ("every", "every host".to_owned(), "every"),
            ("mixed", host.clone(), "exact"),
        ] {
            let conflict = other.until_condition(name, "Accepted", "False", "HostnameConflict").await;
            let owner = owner.name();
            let said = format!(
                "{host} is owned by namespace {owner} (WebSocketRoute {owner}/{by}): move the route to namespace {owner}, or run \
                 with --host-ownership=shared"
            );
            assert!(conflict.message.contains(&said), "{}", conflict.message);
            other.until_condition(name, "Programmed", "False", "Invalid").await;
        }
        for (name, host) in [
            ("exact", &*host),
            ("every", "elsewhere.example.net"),
            ("wildcard", &format!("sub.{host}")),
        ] {
            holdfast.open(host, &format!("/{name}/owner")).await.exchange().await;
            assert_eq!(holdfast.refused(host, &format!("/{name}/other")).await.status, 404);
        }
        let mine = format!("mine.{host}");
        assert_eq!(
            holdfast.refused(&mine, "/mixed/other").await.status,
            404,
            "all of its hosts or none"
        );

        let mut client = holdfast.open(&host, "/exact/owner").await;
        owner.delete(&route(owner, "exact")).await;
        for name in ["exact", "mixed"] {
            other.until_condition(name, "Programmed", "True", "Programmed").await;
            holdfast.open(&host, &format!("/{name}/other")).await.exchange().await;
        }
        other
            .until_condition("wildcard", "Accepted", "False", "HostnameConflict")
            .await;
        owner.apply(&route(owner, "exact")).await;
        owner.until_condition("exact", "Accepted", "False", "HostnameConflict").await;
        client.exchange().await;
    });
}

#[test]
fn a_hostname_can_be_shared_by_all_namespaces() {
    on_the_cluster(async |control_plane| {
        let (web, chat) = (Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        let _echoes = [Echo::behind(&web, "web").await, Echo::behind(&chat, "chat").await];
        let mut far = chat.route("chat", "/chat", "chat");
        far["spec"]["className"] = json!(web.class());
        far["spec"]["hostnames"] = json!([web.host()]);
        web.apply(&web.route("web", "/", "web")).await;
        chat.apply(&far).await;
        let holdfast = Replica::of(&web, "a").args(&["--host-ownership", "shared"]).start().await;
        for (namespace, route, path) in [(&web, "web", "/"), (&chat, "chat", "/chat")] {
            namespace.until_condition(route, "Programmed", "True", "Programmed").await;
            holdfast.until_endpoint(&web.host(), path, route).await;
        }
    });
}

#[test]
fn a_status_is_written_by_holdfast_and_leaves_what_others_say_alone() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let mut route = chat.route("chat", "/", "chat");
        chat.apply(&route).await;
        let _holdfast = Replica::of(&chat, "a").start().await;
        chat.until_condition("chat", "Programmed", "True", "Programmed").await;
        let before = by_type(&chat).await;

        say(&chat, "reviewer", condition("Reviewed", "True", "LooksGood")).await;
        let last: Timestamp = before["ResolvedRefs"].last_transition_time.parse().unwrap();
        is_over(last.as_second()).await;
        route["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("nobody");
        chat.apply(&route).await;
        let unresolved = chat.until_condition("chat", "ResolvedRefs", "False", "BackendNotFound").await;
        chat.until_condition("chat", "Programmed", "True", "Programmed").await;
        let after = by_type(&chat).await;
        let time = |of: &Condition| of.last_transition_time.clone();
        assert_eq!(time(&after["Accepted"]), time(&before["Accepted"]), "its state is the same");
        assert!(time(&unresolved) > time(&before["ResolvedRefs"]), "its state has changed");
        for kind in ["Accepted", "ResolvedRefs", "Programmed"] {
            assert_eq!(after[kind].observed_generation, Some(2));
        }
        assert_eq!(after["Reviewed"].reason, "LooksGood");

        let owners = owners(&chat).await;
        assert_eq!(owners["holdfast"], ["Accepted", "Programmed", "ResolvedRefs"]);
        assert_eq!(owners["reviewer"], ["Reviewed"]);

        say(&chat, "vandal", condition("Accepted", "False", "Because")).await;
        chat.until_condition("chat", "Accepted", "True", "Accepted").await;
        let wiped = json!({"status": null});
        let as_person = PatchParams::default();
        chat.routes()
            .patch_status("chat", &as_person, &Patch::Merge(&wiped))
            .await
            .unwrap();
        chat.until_condition("chat", "Programmed", "True", "Programmed").await;
    });
}

#[test]
fn events_tell_of_refusals_and_of_the_first_success_only() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let _holdfast = Replica::of(&chat, "a").start().await;
        let fine = chat.route("chat", "/", "chat");
        let mut rejected = fine.clone();
        rejected["spec"]["rules"][0]["matches"][0]["path"] = json!({"type": "RegularExpression", "value": "("});
        let mut foreign = fine.clone();
        foreign["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!("default");
        for _ in 0..2 {
            chat.apply(&fine).await;
            chat.until_condition("chat", "Programmed", "True", "Programmed").await;
            chat.until_condition("chat", "ResolvedRefs", "True", "ResolvedRefs").await;
            chat.apply(&rejected).await;
            chat.until_condition("chat", "Accepted", "False", "UnsupportedValue").await;
            chat.apply(&foreign).await;
            chat.until_condition("chat", "ResolvedRefs", "False", "RefNotPermitted").await;
        }
        let wanted = [
            ["Normal", "Programmed", "every replica serves the route"],
            ["Warning", "Rejected", "spec.rules[0].matches[0].path.value: "],
            [
                "Warning",
                "RefNotPermitted",
                "no ReferenceGrant in namespace default lets WebSocketRoutes",
            ],
        ];
        for args in [["events", "--for", "wsr/chat"], ["describe", "wsr", "chat"]] {
            until(&format!("{args:?} tells it all, each once"), async || {
                let text = control_plane.kubectl_says(&[&["-n", chat.name()], &args[..]].concat());
                let lines = || text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
                let of = |words: &[&str; 3]| lines().filter(|line| words.iter().all(|word| line.contains(word))).count();
                if wanted.iter().all(|words| of(words) == 1) {
                    Ok(())
                } else {
                    Err(text)
                }
            })
            .await;
        }
        eventually("what was said twice has a count", async || {
            let text = control_plane.kubectl_says(&["-n", chat.name(), "events", "--for", "wsr/chat"]);
            let is_twice = |reason: &str| text.lines().any(|line| line.contains(reason) && line.contains("(x2 over "));
            is_twice("Rejected") && is_twice("RefNotPermitted")
        })
        .await;
    });
}

fn in_order(a: Namespace, b: Namespace) -> (Namespace, Namespace) {
    if a.name() < b.name() { (a, b) } else { (b, a) }
}

async fn by_type(namespace: &Namespace) -> BTreeMap<String, Condition> {
    let conditions = namespace.conditions("chat").await.into_iter();
    conditions.map(|condition| (condition.kind.clone(), condition)).collect()
}

fn condition(kind: &str, status: &str, reason: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

/// Somebody else writes a condition into the status of route chat.
async fn say(namespace: &Namespace, manager: &str, condition: Value) {
    let status = json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "status": {"conditions": [condition]},
    });
    let params = PatchParams::apply(manager).force();
    let routes = namespace.routes();
    routes.patch_status("chat", &params, &Patch::Apply(&status)).await.unwrap();
}

/// Who owns which conditions of route chat by server-side apply.
async fn owners(namespace: &Namespace) -> BTreeMap<String, Vec<String>> {
    let route = namespace.routes().get("chat").await.unwrap();
    let mut owners = BTreeMap::new();
    for entry in route.metadata.managed_fields.unwrap() {
        let fields = entry.fields_v1.unwrap().0;
        let Some(conditions) = fields["f:status"]["f:conditions"].as_object() else {
            continue;
        };
        assert_eq!(
            (entry.operation.as_deref(), entry.subresource.as_deref()),
            (Some("Apply"), Some("status"))
        );
        let kinds = conditions
            .keys()
            .filter_map(|key| key.strip_prefix("k:{\"type\":\"")?.strip_suffix("\"}"));
        owners.insert(entry.manager.unwrap(), kinds.map(str::to_owned).collect());
    }
    owners
}
