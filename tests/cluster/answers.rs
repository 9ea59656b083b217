//! What replicas say of routes: the conditions that the status has, the same answer to why from each, and how files would fare
//! beside what the cluster has.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::{
    account::Account,
    asking::{Set, ask},
    control_plane::on_the_cluster,
    endpoint::Echo,
    namespace::Namespace,
    node::Node,
    objects::service,
    replica::{Holdfast, Replica},
    support,
    wait::until,
};

/// The routes as a replica has them.
async fn routes(replica: &Holdfast) -> Value {
    let request = format!("GET /routes HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", replica.live);
    let answer = support::ask(replica.live, request).await;
    serde_json::from_str(answer.text()).unwrap()
}

/// A document that may be compared: by type, what else a condition says.
fn compared(mut conditions: Vec<Value>) -> Vec<Value> {
    conditions.sort_by_key(|condition| condition["type"].as_str().unwrap().to_owned());
    conditions
}

#[test]
fn each_replica_has_the_conditions_that_are_written() {
    on_the_cluster(async |control_plane| {
        let set = Set::start(control_plane, &["a", "b"]).await;
        let chat = &set.namespace;
        let _echo = Echo::behind(chat, "chat").await;
        chat.apply(&chat.route("fine", "/fine", "chat")).await;
        chat.apply(&chat.route("nowhere", "/nowhere", "none")).await;
        let mut broken = chat.route("broken", "/broken", "chat");
        broken["spec"]["heartbeat"] = json!({"client": {"interval": "10ms"}});
        chat.apply(&broken).await;
        let mut shadowed = chat.route("shadowed", "/fine", "chat");
        shadowed["spec"]["rules"][0]["name"] = json!("late");
        chat.apply(&shadowed).await;
        chat.until_condition("shadowed", "Conflicted", "True", "Shadowed").await;
        chat.until_condition("shadowed", "Programmed", "True", "Programmed").await;
        chat.until_condition("broken", "Programmed", "False", "Invalid").await;
        for name in ["fine", "nowhere"] {
            chat.until_condition(name, "Programmed", "True", "Programmed").await;
        }
        for name in ["fine", "nowhere", "broken", "shadowed"] {
            let written = chat.conditions(name).await.into_iter().map(|condition| {
                json!({
                    "type": condition.kind, "status": condition.status,
                    "reason": condition.reason, "message": condition.message,
                })
            });
            let written = compared(written.collect());
            for replica in &set.replicas {
                until("the conditions", async || {
                    let document = routes(replica).await;
                    let all = document["routes"].as_array().unwrap();
                    let route = all.iter().find(|route| route["holdfast.route.name"] == name).unwrap();
                    let told = compared(route["conditions"].as_array().unwrap().clone());
                    if told == written {
                        Ok(())
                    } else {
                        Err((told, written.clone()))
                    }
                })
                .await;
            }
        }
        set.node.remove().await;
    });
}

#[test]
fn why_asks_every_replica_and_says_which_of_them_differ_in_what() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let node = Node::new(&chat).await;
        let _echo = Echo::behind(&chat, "chat").await;
        let defaults = std::env::temp_dir().join(format!("{}-defaults.yaml", chat.name()));
        fs::write(&defaults, "timeouts: {idle: 7m}\n").unwrap();
        let mut replicas = Vec::new();
        for (name, args) in [("a", &[][..]), ("b", &[]), ("c", &["--defaults", defaults.to_str().unwrap()])] {
            let replica = Replica::of(&chat, name).args(args).start().await;
            node.run(&chat, &replica, json!({})).await;
            replicas.push(replica);
        }
        chat.apply(&chat.route("chat", "/chat", "chat")).await;
        chat.until_condition("chat", "Programmed", "True", "Programmed").await;
        let url = format!("ws://{}/chat", chat.host());
        let why = async |url: &str| ask(chat.kubeconfig(), &["why", url, "-n", chat.name()]).await;
        let (text, code) = why(&url).await;
        let first = format!("101  {}/chat rule \"main\"  ->  ", chat.name());
        assert!(code == 0 && text.starts_with(&first), "{text}");
        let last = "differs  c  timeouts.idle is 7m --defaults, not 0s built-in\n2/3 replicas answer alike\n";
        assert!(text.ends_with(last), "{text}");

        replicas[2].kill();
        let (text, code) = why(&url.replace("/chat", "/caht")).await;
        let last = text.lines().last().unwrap();
        assert!(text.starts_with("404 no_route  ") && text.contains("\nnearest  "), "{text}");
        assert!(code == 1 && last.starts_with("2/3 replicas answer alike, c: "), "{text}");
        assert!(last.ends_with(".   holdfast explain no_route"), "{text}");
        fs::remove_file(defaults).unwrap();
        node.remove().await;
    });
}

/// A file of objects, gone at the end.
struct File(PathBuf);

impl File {
    fn new(namespace: &Namespace, name: &str, objects: &[Value]) -> Self {
        let path = std::env::temp_dir().join(format!("{}-{name}.yaml", namespace.name()));
        let items = objects.iter().map(|object| {
            let mut object = object.clone();
            let own = &mut object["metadata"]["namespace"];
            if own.is_null() {
                *own = json!(namespace.name());
            }
            object
        });
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()});
        fs::write(&path, list.to_string()).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn files_are_judged_beside_what_the_cluster_has() {
    on_the_cluster(async |control_plane| {
        let (chat, other) = (Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        chat.apply(&service("chat")).await;
        let mut there = chat.route("there", "/there", "chat");
        there["spec"]["rules"][0]["backendRefs"][0]["name"] = json!("new");
        chat.apply(&there).await;
        let check = async |file: &File, more: &[&str]| {
            let path = file.0.to_str().unwrap();
            let args = [&["check", path, "--class", chat.class()], more].concat();
            ask(chat.kubeconfig(), &args).await
        };
        let against = ["--against", "cluster"];

        // A Service that is only there, and a host that is somebody's there.
        let mut taken = chat.route("taken", "/taken", "chat");
        taken["metadata"]["namespace"] = json!(other.name());
        let files = File::new(&chat, "files", &[chat.route("fine", "/fine", "chat"), taken]);
        let (alone, code) = check(&files, &[]).await;
        assert!(
            code == 1 && alone.contains("BackendNotFound"),
            "each is judged by itself: {alone}"
        );
        let (text, code) = check(&files, &against).await;
        let line = |name: &str| {
            let found = text.lines().find(|line| line.contains(&format!("/{name} ")));
            found
                .unwrap_or_else(|| panic!("{name}: {text}"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        let fine = format!(" {}/fine 1 rule on {}", chat.name(), chat.host());
        assert!(line("fine").ends_with(&fine), "{text}");
        assert!(
            code == 1 && line("taken").ends_with("Accepted=False HostnameConflict"),
            "{text}"
        );
        assert!(text.contains(&format!("(WebSocketRoute {}/there)", chat.name())), "{text}");
        assert!(text.contains("2 routes, 1 route of the cluster: 1 rejected"), "{text}");

        // What becomes of others is told where it changes.
        let (text, code) = check(&File::new(&chat, "service", &[service("new")]), &against).await;
        assert!(
            code == 0 && text.contains(&format!("  {}/there  1 rule on ", chat.name())),
            "{text}"
        );
        assert!(
            text.contains("it is in the cluster, and the files change what becomes of it"),
            "{text}"
        );
        let (text, code) = check(&File::new(&chat, "nothing", &[service("unused")]), &against).await;
        assert_eq!(
            (code, text.as_str()),
            (0, "0 routes, 1 Service, 1 route of the cluster: all accepted\n")
        );

        // Who may not look everywhere names a namespace; whose Secrets are not theirs to see is told so.
        let somebody = Account::new(control_plane, &chat, "somebody").await;
        let path = files.0.to_str().unwrap();
        let args = ["check", path, "--class", chat.class(), "--against", "cluster"];
        let (text, code) = ask(&somebody.kubeconfig, &args).await;
        assert!(code == 1 && text.contains("cannot list "), "{text}");
    });
}
