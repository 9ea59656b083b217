//! Routes as people apply, edit and delete them: what is served when, for whom, and what tunnels notice of it.

use std::{fs, path::Path, time::Duration};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    control_plane::{on_its_own_cluster, on_the_cluster},
    endpoint::Echo,
    namespace::Namespace,
    objects::{self, service, slice_of},
    replica::Replica,
    wait::{eventually, until},
};

#[test]
fn what_kubectl_applies_is_served_as_soon_as_kubectl_says_programmed() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();
        let kubectl = |args: &[&str]| control_plane.kubectl_says(&[&["-n", chat.name()], args].concat());
        let apply = |route: Value| {
            kubectl(&["apply", "-f", &file(&chat, &route)]);
            kubectl(&["wait", "--for=condition=Programmed", "--timeout=30s", "wsr/chat"]);
        };

        apply(chat.route("chat", "/chat", "chat"));
        let mut first = holdfast.open(&host, "/chat").await;
        is_all_true(&chat, "chat", 1).await;
        let table = kubectl(&["get", "wsr"]);
        let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row[..3], ["chat", &format!("[\"{host}\"]"), "True"], "{table}");

        apply(chat.route("chat", "/talk", "chat"));
        let mut second = holdfast.open(&host, "/talk").await;
        assert_eq!(
            holdfast.refused(&host, "/chat").await.status,
            404,
            "the edit is in effect as a whole"
        );
        is_all_true(&chat, "chat", 2).await;

        kubectl(&["delete", "wsr", "chat"]);
        holdfast.until_answer(&host, "/talk", 404, Some("no_route")).await;
        for client in [&mut first, &mut second] {
            client.exchange().await;
        }
    });
}

#[test]
fn changes_around_open_tunnels_and_of_their_own_route_lose_no_message() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let other = Echo::behind(&chat, "other").await;
        let spare = Echo::start("spare").await;
        let mut own = chat.route("own", "/own", "chat");
        chat.apply(&own).await;
        chat.apply(&chat.route("steady", "/steady", "chat")).await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();

        let (stop, stopped) = watch::channel(());
        let mut counting = JoinSet::new();
        for tunnel in 0..8 {
            let client = holdfast.open(&host, ["/own", "/steady"][tunnel % 2]).await;
            counting.spawn(client.count(Duration::from_millis(125 * tunnel as u64), stopped.clone()));
        }
        for round in 0..5 {
            let path = format!("/other/{round}");
            let route = chat.route("other", &path, "other");
            chat.apply(&route).await;
            holdfast.until_answer(&host, &path, 101, None).await;
            own["spec"]["timeouts"] = json!({"connect": format!("{}s", 10 + round)});
            own["spec"]["hostnames"] = json!([host, format!("{round}.{host}")]);
            chat.apply(&own).await;
            holdfast.until_answer(&format!("{round}.{host}"), "/own", 101, None).await;
            chat.apply(&slice_of("other", "other", &[&spare])).await;
            holdfast.until_endpoint(&host, &path, "spare").await;
            chat.delete(&service("other")).await;
            holdfast.until_answer(&host, &path, 500, Some("unresolved_backend")).await;
            chat.apply(&service("other")).await;
            chat.apply(&slice_of("other", "other", &[&other])).await;
            holdfast.until_endpoint(&host, &path, "other").await;
            chat.delete(&route).await;
            holdfast.until_answer(&host, &path, 404, None).await;
        }
        chat.delete(&own).await;
        holdfast.until_answer(&host, "/own", 404, None).await;
        stop.send(()).unwrap();
        let counted: u64 = counting.join_all().await.iter().map(|client| client.sent()).sum();
        assert!(counted >= 8, "every tunnel was used");
    });
}

#[test]
fn filters_and_answers_of_a_route_s_own_are_served_and_edited() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();
        let mut route = chat.route("chat", "/chat", "chat");
        let rule = &mut route["spec"]["rules"][0];
        rule["filters"] = json!([
            {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "X-Filter", "value": "one"}]}},
            {"type": "RequestRedirect", "requestRedirect": {"hostname": "docs.example.com", "statusCode": 307}},
        ]);
        chat.apply(&route).await;
        holdfast.until_answer(&host, "/chat", 101, None).await;
        assert!(holdfast.head(&host, "/chat").await.contains("\r\nX-Filter: one\r\n"));
        let sent = holdfast.plain(&host, "/chat/7").await;
        assert_eq!(
            (sent.status, sent.header("location")),
            (307, Some("http://docs.example.com/chat/7"))
        );
        assert_eq!(sent.header("x-filter"), Some("one"));

        let rule = &mut route["spec"]["rules"][0];
        rule["filters"] = json!([
            {"type": "URLRewrite", "urlRewrite": {"hostname": "inner"}},
            {"type": "RequestRedirect", "requestRedirect": {"hostname": "docs.example.com"}},
        ]);
        chat.apply(&route).await;
        chat.until_condition("chat", "Accepted", "False", "IncompatibleFilters").await;
        holdfast.until_answer(&host, "/chat", 404, Some("no_route")).await;

        let rule = &mut route["spec"]["rules"][0];
        rule["filters"] = json!([]);
        rule["fallback"] = json!({"type": "Respond", "respond": {"statusCode": 503, "body": "later"}});
        chat.apply(&route).await;
        holdfast.until_answer(&host, "/chat", 101, None).await;
        let answer = holdfast.plain(&host, "/chat").await;
        assert_eq!((answer.status, answer.text()), (503, "later"));

        // No replica of this class has files.
        route["spec"]["rules"][0]["fallback"] = json!({"type": "Static"});
        chat.apply(&route).await;
        eventually("files are asked for", async || {
            holdfast.plain(&host, "/chat").await.status == 500
        })
        .await;
        holdfast.said(&["a route serves files, and there is no --static-root"]).await;
    });
}

#[test]
fn a_route_of_another_class_is_left_alone() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let of_class = |class: &str| {
            let mut route = chat.route("wanderer", "/wanderer", "chat");
            route["spec"]["className"] = json!(class);
            route
        };
        let another = format!("not-{}", chat.class());

        chat.apply(&of_class(&another)).await;
        is_programmed_after(&chat, "first").await;
        holdfast.until_answer(&chat.host(), "/wanderer", 404, Some("no_route")).await;
        assert_eq!(chat.conditions("wanderer").await, [], "its status is somebody else's");

        chat.apply(&of_class(chat.class())).await;
        chat.until_condition("wanderer", "Programmed", "True", "Programmed").await;
        let mut client = holdfast.open(&chat.host(), "/wanderer").await;
        let ours = chat.conditions("wanderer").await;

        chat.apply(&of_class(&another)).await;
        holdfast.until_answer(&chat.host(), "/wanderer", 404, Some("no_route")).await;
        is_programmed_after(&chat, "second").await;
        assert_eq!(
            chat.conditions("wanderer").await,
            ours,
            "what we said of an older generation stays as it was"
        );
        client.exchange().await;
    });
}

#[test]
fn only_the_namespaces_that_are_named_are_looked_at() {
    on_the_cluster(async |control_plane| {
        let (web, chat) = (Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        let unwatched = Namespace::new(control_plane).await;
        let of = |namespace: &Namespace, name: &str| {
            let mut route = namespace.route(name, &format!("/{name}"), "chat");
            route["spec"]["className"] = json!(web.class());
            route
        };
        // It is the oldest one that names the host, which is no matter of ours.
        let mut elsewhere = of(&unwatched, "elsewhere");
        elsewhere["spec"]["hostnames"] = json!([web.host()]);
        unwatched.apply(&elsewhere).await;
        is_over(created(&unwatched, "elsewhere").await).await;
        let mut _echoes = Vec::new();
        for namespace in [&web, &chat, &unwatched] {
            _echoes.push(Echo::behind(namespace, "chat").await);
        }
        let mut far = of(&web, "far");
        far["spec"]["rules"][0]["backendRefs"][0]["namespace"] = json!(unwatched.name());
        web.apply(&far).await;
        web.apply(&of(&web, "near")).await;
        chat.apply(&of(&chat, "near")).await;

        let args = ["--watch-namespace", web.name(), "--watch-namespace", chat.name()];
        let holdfast = Replica::of(&web, "a").args(&args).start().await;
        for namespace in [&web, &chat] {
            namespace.until_condition("near", "Programmed", "True", "Programmed").await;
            holdfast.open(&namespace.host(), "/near").await.exchange().await;
        }
        web.until_condition("far", "ResolvedRefs", "False", "RefNotPermitted").await;
        chat.apply(&of(&chat, "later")).await;
        chat.until_condition("later", "Programmed", "True", "Programmed").await;
        holdfast.until_answer(&web.host(), "/elsewhere", 404, Some("no_route")).await;
        assert_eq!(unwatched.conditions("elsewhere").await, []);
    });
}

#[test]
fn of_equal_matches_the_older_object_wins_then_the_first_name() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echoes = [Echo::behind(&chat, "alpha").await, Echo::behind(&chat, "zulu").await];
        let holdfast = Replica::of(&chat, "a").start().await;
        let (host, of) = (chat.host(), |name: &str| chat.route(name, "/same", name));

        chat.apply(&of("zulu")).await;
        is_over(created(&chat, "zulu").await).await;
        chat.apply(&of("alpha")).await;
        let shadowed = chat.until_condition("alpha", "Conflicted", "True", "Shadowed").await;
        let both = format!("spec.rules[0]: rule \"main\" never matches: rule {}/zulu#main", chat.name());
        assert!(shadowed.message.starts_with(&both), "{}", shadowed.message);
        holdfast.until_endpoint(&host, "/same", "zulu").await;
        assert_eq!(chat.condition("zulu", "Conflicted").await, None);

        chat.delete(&of("zulu")).await;
        holdfast.until_endpoint(&host, "/same", "alpha").await;
        eventually("what is over is no longer said", async || {
            chat.condition("alpha", "Conflicted").await.is_none()
        })
        .await;

        // Created in one second, they are equally old.
        until("two routes of the same second, the last name first", async || {
            for name in ["alpha", "zulu"] {
                let _ = chat.routes().delete(name, &Default::default()).await;
            }
            chat.apply(&of("zulu")).await;
            chat.apply(&of("alpha")).await;
            let ages = [created(&chat, "alpha").await, created(&chat, "zulu").await];
            if ages[0] == ages[1] { Ok(()) } else { Err(ages) }
        })
        .await;
        chat.until_condition("zulu", "Conflicted", "True", "Shadowed").await;
        holdfast.until_endpoint(&host, "/same", "alpha").await;
    });
}

/// A default that is stored could never change.
#[test]
fn nothing_is_stored_in_a_route_but_defaults_of_shape() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let backend = json!({"name": "chat", "port": 80});
        let mut route = chat.route("chat", "/", "chat");
        route["spec"]["rules"] = json!([{"matches": [{"headers": [{"name": "x", "value": "y"}]}], "backendRefs": [backend]}]);
        route["spec"]["sessionPersistence"] = json!({});
        route["spec"]["timeouts"] = json!({});
        let stored = chat.apply(&route).await;
        let header = json!({"type": "Exact", "name": "x", "value": "y"});
        let matches = json!([{"path": {"type": "PathPrefix", "value": "/"}, "headers": [header]}]);
        let backend = json!({"group": "", "kind": "Service", "name": "chat", "port": 80, "weight": 1});
        route["spec"]["rules"] = json!([{"matches": matches, "backendRefs": [backend]}]);
        route["spec"]["sessionPersistence"] = json!({"type": "Cookie"});
        assert_eq!(stored.data["spec"], route["spec"]);
    });
}

/// A definition of a later version stores what this build does not know. On a control plane of its own: routes without a
/// class are everybody's, and so is the definition.
#[test]
fn routes_of_a_later_version_are_served_as_far_as_they_can_be_read() {
    on_its_own_cluster(&[], async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let holdfast = Replica::of(&chat, "a").start().await;
        let host = chat.host();
        let route = |name: &str| objects::route(name, &format!("/{name}"), "chat");
        chat.apply(&route("classless")).await;
        chat.until_condition("classless", "Programmed", "True", "Programmed").await;
        let mut client = holdfast.open(&host, "/classless").await;

        chat.apply(&later_definition()).await;
        let mut strange = route("strange");
        strange["spec"]["loadBalancing"] = json!({"algorithm": "Nearest"});
        until("the later definition is in effect", async || {
            chat.try_apply(&strange).await.map_err(|error| error.to_string())
        })
        .await;
        let rejected = chat.until_condition("strange", "Accepted", "False", "UnsupportedValue").await;
        let field = "spec.loadBalancing.algorithm: ";
        assert!(
            rejected.message.starts_with(field) && rejected.message.contains("Nearest"),
            "{}",
            rejected.message
        );
        chat.until_condition("strange", "Programmed", "False", "Invalid").await;
        holdfast.until_answer(&host, "/strange", 404, Some("no_route")).await;

        let stored = chat.apply(&route("defaulted")).await;
        assert_eq!(
            stored.data["spec"]["mirror"]["percent"], 5,
            "the server has stored what we do not know"
        );
        chat.until_condition("defaulted", "Programmed", "True", "Programmed").await;
        for path in ["/defaulted", "/classless"] {
            holdfast.open(&host, path).await.exchange().await;
        }
        client.exchange().await;

        strange["spec"]["loadBalancing"] = json!({"algorithm": "Random"});
        chat.apply(&strange).await;
        chat.until_condition("strange", "Programmed", "True", "Programmed").await;
        holdfast.open(&host, "/strange").await;
    });
}

/// Our definition with what a later version of it may have: one more algorithm, and fields with defaults.
fn later_definition() -> Value {
    let mut definition = holdfast::api::crd();
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let spec = definition.pointer_mut(schema).unwrap();
    let algorithms = &mut spec["loadBalancing"]["properties"]["algorithm"]["enum"];
    algorithms.as_array_mut().unwrap().push(json!("Nearest"));
    spec["mirror"] = json!({"type": "object", "default": {}, "properties": {"percent": {"type": "integer", "default": 5}}});
    spec["rules"]["items"]["properties"]["priority"] = json!({"type": "integer", "default": 7});
    definition
}

/// All conditions are true for this generation, and there are no others.
async fn is_all_true(namespace: &Namespace, route: &str, generation: i64) {
    let route = namespace.routes().get(route).await.unwrap();
    let status = route.status.unwrap();
    assert_eq!(
        (route.metadata.generation, status.observed_generation),
        (Some(generation), Some(generation))
    );
    let said: Vec<_> = status
        .conditions
        .iter()
        .map(|condition| (&*condition.kind, format!("{:?}", condition.status), &*condition.reason))
        .collect();
    let yes = |word: &'static str| (word, "True".to_owned(), word);
    assert_eq!(said, [yes("Accepted"), yes("ResolvedRefs"), yes("Programmed")]);
    assert!(
        status
            .conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(generation))
    );
}

/// Waits for a new route of ours: whatever happened before it has been looked at then.
async fn is_programmed_after(namespace: &Namespace, name: &str) {
    namespace.apply(&namespace.route(name, &format!("/{name}"), "chat")).await;
    namespace.until_condition(name, "Programmed", "True", "Programmed").await;
}

/// When a route was created, in seconds since 1970.
pub async fn created(namespace: &Namespace, route: &str) -> i64 {
    let route = namespace.routes().get(route).await.unwrap();
    route.metadata.creation_timestamp.unwrap().0.as_second()
}

/// Waits until this second is over: what is written next has a later time, and what is created next is younger.
pub async fn is_over(second: i64) {
    eventually("a second is over", async || Timestamp::now().as_second() > second).await;
}

/// An object in a file, for kubectl.
fn file(namespace: &Namespace, object: &Value) -> String {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.yaml", namespace.name()));
    fs::write(&file, serde_saphyr::to_string(object).unwrap()).unwrap();
    file.to_str().unwrap().to_owned()
}
