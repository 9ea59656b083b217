//! References into other namespaces, and the ReferenceGrants that permit them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    control_plane::{Component, ControlPlane, on_its_own_cluster},
    endpoint::Echo,
    namespace::Namespace,
    replica::{Holdfast, Replica},
    wait::{until, within},
};

/// One test, because the definition of ReferenceGrant is the whole cluster's, and it takes a minute until one is found.
#[test]
fn grants_permit_and_revoke_and_so_does_their_definition() {
    on_its_own_cluster(&[], async |control_plane| {
        let (web, chat) = (Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        let _echoes = [Echo::behind(&chat, "chat").await, Echo::behind(&chat, "extra").await];
        for service in ["chat", "extra"] {
            let mut route = web.route(service, &format!("/{service}"), service);
            route["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!(chat.name());
            web.apply(&route).await;
        }
        // Without a definition there are no grants, and nobody waits for them.
        let holdfast = Replica::of(&web, "a").start().await;
        let refused = is_refused(&holdfast, &web, "chat").await;
        let said = format!(
            "spec.rules[0].backendRefs[0].namespace: no ReferenceGrant in namespace {chat} lets WebSocketRoutes of {web} refer to \
             Service {chat}/chat: add one there, or refer to a Service of the route's own namespace",
            chat = chat.name(),
            web = web.name()
        );
        assert_eq!(refused, said);

        // A definition that comes later is found.
        define(&web, &["v1beta1"]).await;
        let grant = |name: &str, service: &str| {
            let to = json!({"group": "", "kind": "Service", "name": service});
            grant(name, &from(&web), &to)
        };
        until_applied(&chat, &grant("chat", "chat")).await;
        within(FOUND, "the definition is found", async || {
            served(&holdfast, &web, "chat").await
        })
        .await;
        let mut client = holdfast.open(&web.host(), "/chat").await;
        web.until_condition("chat", "ResolvedRefs", "True", "ResolvedRefs").await;

        // A grant that is taken away, and those that are for somebody or something else.
        chat.delete(&grant("chat", "chat")).await;
        is_refused(&holdfast, &web, "chat").await;
        strangers_grants(&web, &chat).await;
        chat.apply(&grant("extra", "extra")).await;
        is_permitted(&holdfast, &web, "extra").await;
        is_refused(&holdfast, &web, "chat").await;
        chat.apply(&grant("chat", "chat")).await;
        is_permitted(&holdfast, &web, "chat").await;
        chat.apply(&grant("extra", "chat")).await;
        is_refused(&holdfast, &web, "extra").await;

        // The definition moves on to v1, where everything is as it was.
        define(&web, &["v1beta1", "v1"]).await;
        define(&web, &["v1"]).await;
        let mut extra = grant("extra", "extra");
        extra["apiVersion"] = json!("gateway.networking.k8s.io/v1");
        extra["spec"]["to"] = json!([{"group": "", "kind": "Service"}]);
        until_applied(&chat, &extra).await;
        holdfast.until_answer(&web.host(), "/extra", 101, None).await;
        control_plane.kill(Component::ApiServer).await; // else the old watch may go on for a minute
        within(FOUND, "v1 is followed", async || {
            for service in ["chat", "extra"] {
                served(&holdfast, &web, service).await.expect("no grant lapses");
            }
            if is_watched(control_plane, "v1") {
                Ok(())
            } else {
                Err("not yet")
            }
        })
        .await;
        let fresh = Replica::of(&web, "b").start().await;
        for service in ["chat", "extra"] {
            fresh.open(&web.host(), &format!("/{service}")).await.exchange().await;
        }

        // Without the definition there are none again.
        web.delete(&definition(&[])).await;
        for service in ["chat", "extra"] {
            is_refused(&holdfast, &web, service).await;
        }
        client.exchange().await;
    });
}

/// Grants that do not permit what they seem to, each for a reason of its own.
async fn strangers_grants(web: &Namespace, chat: &Namespace) {
    let service = json!({"group": "", "kind": "Service"});
    let named = |name: &str| json!({"group": "", "kind": "Service", "name": name});
    let mut other_kind = from(web);
    other_kind["kind"] = json!("HTTPRoute");
    let mut other_group = from(web);
    other_group["group"] = json!("gateway.networking.k8s.io");
    for (name, from, to) in [
        ("other-namespace", &from(chat), &service),
        ("other-kind", &other_kind, &service),
        ("other-group", &other_group, &service),
        ("other-service", &from(web), &named("chatter")),
        ("other-target", &from(web), &json!({"group": "", "kind": "Secret"})),
        (
            "other-target-group",
            &from(web),
            &json!({"group": "example.com", "kind": "Service"}),
        ),
    ] {
        chat.apply(&grant(name, from, to)).await;
    }
    // It permits references into its own namespace only.
    web.apply(&grant("other-side", &from(web), &service)).await;
}

fn from(namespace: &Namespace) -> Value {
    json!({"group": "holdfast.dev", "kind": "WebSocketRoute", "namespace": namespace.name()})
}

fn grant(name: &str, from: &Value, to: &Value) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1beta1",
        "kind": "ReferenceGrant",
        "metadata": {"name": name},
        "spec": {"from": [from], "to": [to]},
    })
}

/// The definition of ReferenceGrant with these versions served.
fn definition(served: &[&str]) -> Value {
    let mut definition: Value = serde_saphyr::from_str(include_str!("referencegrants.yaml")).unwrap();
    for version in definition["spec"]["versions"].as_array_mut().unwrap() {
        version["served"] = json!(served.contains(&version["name"].as_str().unwrap()));
    }
    definition
}

async fn define(namespace: &Namespace, served: &[&str]) {
    namespace.apply(&definition(served)).await;
}

/// Applies an object of a kind that has just been defined.
async fn until_applied(namespace: &Namespace, object: &Value) {
    until("the API server knows the kind", async || {
        namespace.try_apply(object).await.map_err(|error| error.to_string())
    })
    .await;
}

/// Whether somebody has asked for a watch of this version.
fn is_watched(control_plane: &ControlPlane, version: &str) -> bool {
    let is_it = |event: &Value| {
        let of = &event["objectRef"];
        event["verb"] == "watch" && of["resource"] == "referencegrants" && of["apiVersion"] == version
    };
    control_plane.audit().iter().any(is_it)
}

/// Whether handshakes of a route are served.
async fn served(holdfast: &Holdfast, web: &Namespace, route: &str) -> Result<(), String> {
    let head = holdfast.head(&web.host(), &format!("/{route}")).await;
    if head.starts_with("HTTP/1.1 101 ") {
        Ok(())
    } else {
        Err(head)
    }
}

async fn is_permitted(holdfast: &Holdfast, web: &Namespace, route: &str) {
    let path = format!("/{route}");
    holdfast.until_answer(&web.host(), &path, 101, None).await;
    web.until_condition(route, "ResolvedRefs", "True", "ResolvedRefs").await;
}

/// Waits until a route's reference is not permitted, and says what its condition says.
async fn is_refused(holdfast: &Holdfast, web: &Namespace, route: &str) -> String {
    let path = format!("/{route}");
    holdfast
        .until_answer(&web.host(), &path, 500, Some("unresolved_backend"))
        .await;
    let condition = web.until_condition(route, "ResolvedRefs", "False", "RefNotPermitted").await;
    condition.message
}

/// The longest until a kind that was not there is looked for again, and some.
const FOUND: Duration = Duration::from_secs(90);
