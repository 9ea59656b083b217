//! Commands that ask the replicas of a cluster, as from a laptop: through the API server and a kubelet.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    time::timeout,
};

use crate::{
    account::Account,
    control_plane::{ControlPlane, on_the_cluster},
    namespace::Namespace,
    node::Node,
    replica::{Holdfast, Replica},
    wait::until,
};

#[test]
fn every_replica_is_asked_and_who_is_missing_is_named() {
    on_the_cluster(async |control_plane| {
        let set = Set::start(control_plane, &["a", "b", "c"]).await;
        let told = set.json(&["version", "-o", "json"]).await;
        let names: Vec<&str> = told["running"]
            .as_array()
            .unwrap()
            .iter()
            .map(|running| running["replica"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["a", "b", "c"], "{told}");
        assert_eq!(told["replicas"], json!({"asked": 3, "answered": 3, "failed": []}));

        let Set {
            mut replicas,
            namespace,
            node,
        } = set;
        replicas[1].kill();
        let (text, code) = ask(namespace.kubeconfig(), &["version", "-n", namespace.name()]).await;
        assert_eq!(code, 0, "one answer is enough: {text}");
        let last = text.lines().last().unwrap().to_owned();
        assert!(
            last.starts_with("2/3 replicas, b: nobody listens on port ") && last.ends_with(" of the pod's loopback"),
            "{text}"
        );
        node.remove().await;
    });
}

#[test]
fn a_drain_in_a_cluster_wants_its_replica_named() {
    on_the_cluster(async |control_plane| {
        let set = Set::start(control_plane, &["a", "b"]).await;
        let (told, code) = set.ask(&["drain"]).await;
        assert_eq!(code, 2, "{told}");
        assert!(told.contains("Name one of a, b; --all drains every one"), "{told}");
        let (told, code) = set.ask(&["drain", "z"]).await;
        assert!(
            code == 1 && told.contains("no pod z of Holdfast runs; these do: a, b"),
            "{told}"
        );
        let stages = async |set: &Set| {
            let told = set.json(&["drain", "--status", "-o", "json"]).await;
            let stages: Vec<Value> = told["drains"]
                .as_array()
                .unwrap()
                .iter()
                .map(|drain| drain["stage"].clone())
                .collect();
            stages
        };
        assert_eq!(stages(&set).await, ["serving", "serving"]);
        let (told, code) = set.ask(&["drain", "b", "--wait"]).await;
        assert!(code == 0 && told.contains("b has drained; 0 left"), "{told}");
        assert_eq!(stages(&set).await, ["serving", "drained"]);
        set.node.remove().await;
    });
}

#[test]
fn rights_that_are_missing_are_named() {
    on_the_cluster(async |control_plane| {
        let set = Set::start(control_plane, &["a"]).await;
        let somebody = Account::new(control_plane, &set.namespace, "somebody").await;
        let binding =
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "somebody"}});
        set.namespace.delete(&binding).await;
        let name = set.namespace.name();
        let told_that = async |words: &str, args: &[&str]| {
            until(words, async || {
                let (told, code) = ask(&somebody.kubeconfig, args).await;
                if code == 1 && told.contains(words) {
                    Ok(())
                } else {
                    Err(told)
                }
            })
            .await;
        };
        told_that(
            &format!("you may not list pods in namespace {name}"),
            &["version", "-n", name],
        )
        .await;
        // The two rights of docs/kubernetes.md, one after the other.
        for (resource, verbs) in [("pods", ["get", "list"]), ("pods/portforward", ["get", "create"])] {
            let role = resource.replace('/', "-");
            set.namespace
                .apply(&json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "Role",
                    "metadata": {"name": role},
                    "rules": [{"apiGroups": [""], "resources": [resource], "verbs": verbs}],
                }))
                .await;
            set.namespace
                .apply(&json!({
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "RoleBinding",
                    "metadata": {"name": role},
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
                    "subjects": [{"kind": "ServiceAccount", "name": "somebody", "namespace": name}],
                }))
                .await;
            if resource == "pods" {
                told_that(&format!("pods/portforward in namespace {name}"), &["version", "-n", name]).await;
            }
        }
        until("it may", async || {
            let (told, code) = ask(&somebody.kubeconfig, &["version", "-n", name]).await;
            if code == 0 && told.ends_with("1/1 replica\n") {
                Ok(())
            } else {
                Err(told)
            }
        })
        .await;
        set.node.remove().await;
    });
}

#[test]
fn a_sidecar_is_found_by_its_namespace_or_its_labels() {
    on_the_cluster(async |control_plane| {
        let namespace = Namespace::new(control_plane).await;
        let node = Node::new(&namespace).await;
        let replica = Replica::of(&namespace, "chat-0").start().await;
        let live = format!("--live={}", replica.live);
        let app = json!({
            "metadata": {"labels": {"app.kubernetes.io/name": "chat"}},
            "spec": {
                "initContainers": [{"name": "gate", "image": "r.example/holdfast:1", "restartPolicy": "Always", "args": [live]}],
                "containers": [{"name": "chat", "image": "chat"}],
            },
        });
        node.run(&namespace, &replica, app).await;
        for args in [
            &["-n", namespace.name()][..],
            &["-n", namespace.name(), "-l", "app.kubernetes.io/name=chat"],
        ] {
            let args = [&["version", "-o", "json"][..], args].concat();
            let (told, code) = ask(namespace.kubeconfig(), &args).await;
            assert_eq!(code, 0, "{told}");
            assert_eq!(
                serde_json::from_str::<Value>(&told).unwrap()["running"][0]["replica"],
                "chat-0",
                "{told}"
            );
        }
        node.remove().await;
    });
}

#[test]
fn ends_of_all_replicas_are_one_answer_and_a_follower_meets_those_that_come() {
    on_the_cluster(async |control_plane| {
        let set = Set::start(control_plane, &["a", "b"]).await;
        for replica in &set.replicas {
            assert_eq!(replica.refused("nobody.example", "/chat").await.status, 404);
        }
        let told = set.json(&["ends", "-o", "json"]).await;
        assert_eq!(told["replicas"], json!({"asked": 2, "answered": 2, "failed": []}));
        assert_eq!(
            (&told["summary"][0]["word"], &told["summary"][0]["count"]),
            (&"no_route".into(), &2.into()),
            "{told}"
        );
        let on: BTreeSet<&str> = told["ends"]
            .as_array()
            .unwrap()
            .iter()
            .map(|end| end["replica"].as_str().unwrap())
            .collect();
        assert_eq!(on, BTreeSet::from(["a", "b"]));
        let (text, code) = set.ask(&["ends", "--cause", "no_route"]).await;
        assert!(
            code == 0 && text.ends_with(", 2/2 replicas.   holdfast explain no_route\n"),
            "{text}"
        );
        let id = told["ends"][1]["holdfast.connection.id"].as_str().unwrap();
        let (text, code) = set.ask(&["ends", "--explain", id]).await;
        assert!(
            code == 0 && text.contains("refused: 404 no_route"),
            "whichever replica had it: {text}"
        );
        let (text, code) = set.ask(&["connections", "--by", "worker"]).await;
        assert!(
            code == 0 && text.ends_with("2/2 replicas.   holdfast ends --since 5m\n"),
            "{text}"
        );

        let mut follower = command(
            set.namespace.kubeconfig(),
            &["ends", "--watch", "-o", "json", "-n", set.namespace.name()],
        )
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
        let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
        let mut next = async || -> Value {
            let line = timeout(Duration::from_secs(60), lines.next_line())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            serde_json::from_str(&line).unwrap()
        };
        for _ in 0..2 {
            assert_eq!(next().await["error.type"], "no_route");
        }
        let late = Replica::of(&set.namespace, "c").start().await;
        set.node.run(&set.namespace, &late, json!({})).await;
        assert_eq!(late.refused("nobody.example", "/late").await.status, 404);
        let end = next().await;
        assert_eq!((&end["replica"], &end["url.path"]), (&"c".into(), &"/late".into()));
        set.node.remove().await;
    });
}

/// Replicas of one installation.
pub struct Set {
    pub namespace: Namespace,
    pub node: Node,
    pub replicas: Vec<Holdfast>,
}

impl Set {
    pub async fn start(control_plane: &ControlPlane, names: &[&str]) -> Self {
        let namespace = Namespace::new(control_plane).await;
        let node = Node::new(&namespace).await;
        let mut replicas = Vec::new();
        for name in names {
            let replica = Replica::of(&namespace, name)
                .args(&["--drain-delay", "0s", "--drain-window", "0s"])
                .start()
                .await;
            node.run(&namespace, &replica, json!({})).await;
            replicas.push(replica);
        }
        Self {
            namespace,
            node,
            replicas,
        }
    }

    /// Runs a command on it as the administrator; returns what it prints, and its exit code.
    pub async fn ask(&self, args: &[&str]) -> (String, i32) {
        let args = [args, &["-n", self.namespace.name()]].concat();
        ask(self.namespace.kubeconfig(), &args).await
    }

    /// The same for a document.
    pub async fn json(&self, args: &[&str]) -> Value {
        let (text, code) = self.ask(args).await;
        assert_eq!(code, 0, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// Runs a command as from a laptop.
pub async fn ask(kubeconfig: &Path, args: &[&str]) -> (String, i32) {
    let Output { status, stdout, stderr } = command(kubeconfig, args).output().await.unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (text, status.code().unwrap())
}

fn command(kubeconfig: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for name in ["HOLDFAST_LIVE", "KUBERNETES_SERVICE_HOST"] {
        command.env_remove(name);
    }
    command.args(args).env("KUBECONFIG", kubeconfig);
    command
}
