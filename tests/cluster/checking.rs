//! `holdfast check` without a path, on an installation in which one thing after the other is put right, or wrong.

use std::collections::BTreeSet;

use k8s_openapi::{api::core::v1::Service, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    account::Account,
    asking::ask,
    control_plane::on_its_own_cluster,
    endpoint::pod_address,
    namespace::Namespace,
    node::Node,
    replica::{Holdfast, Replica},
    wait::until,
};

#[test]
fn an_installation_is_checked_against_the_api_server() {
    on_its_own_cluster(&[], async |control_plane| {
        let namespace = Namespace::new(control_plane).await;
        let node = Node::new(&namespace).await;
        let mut replicas: Vec<Holdfast> = Vec::new();
        for name in ["a", "b"] {
            let replica = Replica::of(&namespace, name).ip(pod_address());
            replicas.push(replica.args(&["--drain-delay", "1s", "--drain-window", "2s"]).start().await);
        }
        let http = replicas[0].http.port();
        let container = |live: std::net::SocketAddr| {
            json!([{
                "name": "holdfast", "image": "holdfast", "args": [format!("--live={live}")],
                "ports": [{"name": "http", "containerPort": http}],
            }])
        };
        for replica in &replicas {
            let change = json!({"spec": {"terminationGracePeriodSeconds": 10, "containers": container(replica.live)}});
            node.run(&namespace, replica, change).await;
        }
        let check = async || check(&namespace, namespace.kubeconfig()).await;

        // What there is to say of pods that nothing was done for. The definition is what this binary has.
        let report = until("a leader", async || {
            let report = check().await;
            if report.words.contains("NoLeader") {
                Err(report.text)
            } else {
                Ok(report)
            }
        })
        .await;
        let expected = ["DisruptionBudget", "GracePeriodTooShort", "RightMissing", "ServiceMissing"];
        assert_eq!(report.words, set(&expected), "{}", report.text);
        assert_eq!(report.code, 1);
        for text in [
            "the definition of WebSocketRoute is this binary's",
            "2/2 ready",
            "same table",
            "leader ",
        ] {
            assert!(report.text.contains(text), "{text}: {}", report.text);
        }

        // Rights, a budget, and a Service with an address that leads to a port that is not there.
        let account = Account::of(control_plane, namespace.name(), "default").await;
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": namespace.name()},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": namespace.name()}],
        });
        namespace.apply(&binding).await;
        account
            .until_it_may("patch", "holdfast.dev", "websocketroutes/status", "web")
            .await;
        let selector = json!({"app.kubernetes.io/name": "holdfast"});
        namespace
            .apply(&json!({
                "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "holdfast"},
                "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
            }))
            .await;
        let service = |target: Value| {
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"name": "holdfast"},
                "spec": {
                    "type": "LoadBalancer", "selector": selector,
                    "ports": [{"name": "http", "port": http, "targetPort": target}],
                },
            })
        };
        namespace.apply(&service(json!("web"))).await;
        let report = check().await;
        let expected = ["GracePeriodTooShort", "LoadBalancerPending", "ServicePortMissing"];
        assert_eq!(report.words, set(&expected), "{}", report.text);

        // The address of the first replica is the load balancer's.
        namespace.apply(&service(json!("http"))).await;
        let services: Api<Service> = namespace.api();
        let address = replicas[0].http.ip().to_string();
        let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": address}]}}});
        services
            .patch_status("holdfast", &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
        let report = check().await;
        assert_eq!(report.words, set(&["GracePeriodTooShort"]), "{}", report.text);
        assert!(
            report.text.contains(&format!("{address}:{http} answers 426 in ")),
            "{}",
            report.text
        );

        // Somebody who may ask the replicas, and look at nothing else.
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "ask-holdfast"},
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
                {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]},
            ],
        });
        namespace.apply(&role).await;
        namespace
            .apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "somebody"}}))
            .await;
        namespace
            .apply(&json!({
                "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "somebody"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ask-holdfast"},
                "subjects": [{"kind": "ServiceAccount", "name": "somebody", "namespace": namespace.name()}],
            }))
            .await;
        let somebody = Account::of(control_plane, namespace.name(), "somebody").await;
        somebody
            .until_it_may("create", "", "pods/portforward", namespace.name())
            .await;
        let limited = self::check(&namespace, &somebody.kubeconfig).await;
        assert_eq!(limited.words, set(&["GracePeriodTooShort"]), "{}", limited.text);
        for what in [
            "may not read customresourcedefinitions",
            "may not create subjectaccessreviews",
            "may not read services",
        ] {
            assert!(limited.text.contains(what), "{what}: {}", limited.text);
        }

        // A definition of another release.
        let definitions: Api<CustomResourceDefinition> = Api::all(namespace.client());
        let name = "websocketroutes.holdfast.dev";
        let found = definitions.get(name).await.unwrap();
        let mut other = serde_json::to_value(found).unwrap();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        other
            .pointer_mut(spec)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove("retry")
            .unwrap();
        let other = serde_json::from_value(other).unwrap();
        definitions.replace(name, &PostParams::default(), &other).await.unwrap();
        let report = check().await;
        assert!(report.words.contains("DefinitionDiffers"), "{}", report.text);
        assert!(report.text.contains("the cluster's has no spec.retry"), "{}", report.text);
        node.remove().await;
    });
}

struct Report {
    /// Of its findings.
    words: BTreeSet<String>,
    code: i32,
    text: String,
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(ToString::to_string).collect()
}

async fn check(namespace: &Namespace, kubeconfig: &std::path::Path) -> Report {
    let (text, code) = ask(kubeconfig, &["check", "-n", namespace.name(), "-o", "json"]).await;
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let checks = report["checks"].as_array().unwrap().iter();
    Report {
        words: checks
            .filter_map(|check| check["reason"].as_str().map(str::to_owned))
            .collect(),
        code,
        text,
    }
}
