//! Holdfast beside one application: it follows one route, and needs no right but that.

use std::fs;

use serde_json::{Value, json};

use crate::{account::Account, control_plane::on_the_cluster, endpoint::Echo, namespace::Namespace, replica::Replica};

/// The rights that the example gives, in another namespace.
async fn bind_the_examples_rights(tests: &Namespace, account: &Account) {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/sidecar/sidecar.yaml")).unwrap();
    let documents = text.split("\n---\n").filter(|document| document.contains("\nkind: Role"));
    for document in documents {
        let mut object: Value = serde_saphyr::from_str(document).unwrap();
        object["metadata"]["namespace"] = json!(tests.name());
        if object["kind"] == "RoleBinding" {
            object["subjects"] = json!([{"kind": "ServiceAccount", "name": account.name, "namespace": tests.name()}]);
        }
        tests.apply(&object).await;
    }
}

#[test]
fn a_sidecar_follows_the_policies_of_one_route_with_the_right_to_that_route_alone() {
    on_the_cluster(async |control_plane| {
        let tests = Namespace::new(control_plane).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "chat"}});
        tests.apply(&account).await;
        let account = Account::of(control_plane, tests.name(), "chat").await;
        bind_the_examples_rights(&tests, &account).await;
        let route_name = Some("chat".to_owned());
        account
            .until_it_may_with("list", "holdfast.dev", "websocketroutes", tests.name(), route_name)
            .await;
        let mut route = tests.route("chat", "/chat", "chat");
        tests.apply(&route).await;

        let echo = Echo::start("app").await;
        let to = format!("{}:8080", echo.ip());
        let named = format!("{}/chat", tests.name());
        let sidecar = Replica::of(&tests, "chat-0")
            .kubeconfig(&account.kubeconfig)
            .args(&["--to", &to, "--route", &named])
            .start()
            .await;
        let mut open = sidecar.open("any.example", "/elsewhere").await;
        open.exchange().await;
        let label = format!("route_namespace=\"{}\"", tests.name());
        assert_eq!(
            sidecar
                .metric("holdfast_connections_active", &[&label, "route=\"chat\""])
                .await,
            1.0
        );

        route["spec"]["limits"] = json!({"maxConnections": 1});
        tests.apply(&route).await;
        sidecar.until_answer("any.example", "/elsewhere", 503, None).await;
        open.exchange().await;
        tests.delete(&route).await;
        sidecar.until_answer("any.example", "/elsewhere", 101, None).await;
        open.exchange().await;
    });
}

#[test]
fn a_sidecar_starts_from_its_file_without_the_api_server() {
    on_the_cluster(async |control_plane| {
        let tests = Namespace::new(control_plane).await;
        let folder = std::env::temp_dir().join(format!("holdfast-cluster-sidecar-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut route = tests.route("chat", "/chat", "chat");
        route["metadata"]["namespace"] = json!(tests.name());
        route["spec"]["limits"] = json!({"maxConnections": 1});
        fs::write(folder.join("route.yaml"), route.to_string()).unwrap();
        let nobody = folder.join("kubeconfig");
        let access = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "nobody",
            "clusters": [{"name": "nobody", "cluster": {"server": "http://127.0.0.1:1"}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "nobody", "context": {"cluster": "nobody", "user": "nobody"}}],
        });
        fs::write(&nobody, access.to_string()).unwrap();

        let echo = Echo::start("app").await;
        let to = format!("{}:8080", echo.ip());
        let named = format!("{}/chat", tests.name());
        let file = folder.join("route.yaml");
        let sidecar = Replica::of(&tests, "chat-0")
            .kubeconfig(&nobody)
            .args(&["--to", &to, "--route", &named, "--manifests", file.to_str().unwrap()])
            .start()
            .await;
        let mut open = sidecar.open("any.example", "/").await;
        sidecar.until_answer("any.example", "/", 503, None).await;
        open.exchange().await;
        fs::remove_dir_all(folder).unwrap();
    });
}
