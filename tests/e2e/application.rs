//! The application of the scenarios: echo endpoints behind the Service `chat`, and the routes to it.

use serde_json::{Value, json};

use crate::{cluster::Cluster, echo::host};

/// The route, the Service and the application, which is ready when this returns.
pub async fn start(cluster: &Cluster, namespace: &str, replicas: u32) {
    let all = [
        route(namespace, "chat", &rule("/chat")),
        route(namespace, "marker", &marker("/edit-0")),
        service(namespace),
        deployment(namespace, "chat", replicas, ""),
    ];
    cluster.apply(&all.join("---\n")).await;
    cluster
        .kubectl(&["-n", namespace, "rollout", "status", "deployment/chat", "--timeout=60s"])
        .await;
    cluster
        .kubectl(&[
            "-n",
            namespace,
            "wait",
            "--for=condition=Programmed",
            "wsr",
            "--all",
            "--timeout=60s",
        ])
        .await;
}

/// One more endpoint, on a node of its own for pods of this namespace.
pub async fn start_far(cluster: &Cluster, namespace: &str) {
    let there = format!("nodeSelector: {{own: {namespace}}}\n      tolerations: [{{key: own, operator: Exists}}]");
    cluster.apply(&deployment(namespace, FAR, 1, &there)).await;
    cluster
        .kubectl(&[
            "-n",
            namespace,
            "rollout",
            "status",
            &format!("deployment/{FAR}"),
            "--timeout=60s",
        ])
        .await;
}

/// A rule that shows from outside whether it is in effect: it answers plain requests with 426.
pub fn marker(path: &str) -> Value {
    let mut rule = rule(path);
    rule["fallback"] = json!({"type": "Reject"});
    rule
}

pub fn rule(path: &str) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": path}}],
        "backendRefs": [{"name": "chat", "port": 80}],
    })
}

pub fn route(namespace: &str, name: &str, rule: &Value) -> String {
    let route = json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"className": namespace, "hostnames": [host(namespace)], "rules": [rule]},
    });
    format!("{route}\n")
}

fn service(namespace: &str) -> String {
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat", "namespace": namespace},
        "spec": {"selector": {"app.kubernetes.io/name": "chat"}, "ports": [{"port": 80, "targetPort": 9001}]},
    });
    format!("{service}\n")
}

/// A Deployment of echo endpoints behind Service chat; `more` of its pods' spec.
fn deployment(namespace: &str, name: &str, replicas: u32, more: &str) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  strategy: {{rollingUpdate: {{maxSurge: 100%, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app.kubernetes.io/name: chat, edition: {name}}}}}
  template:
    metadata: {{labels: {{app.kubernetes.io/name: chat, edition: {name}}}}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      {more}
      containers:
      - name: echo
        image: holdfast
        args: [echo, --quiet, "--listen=[::]:9001"]
        readinessProbe: {{tcpSocket: {{port: 9001}}, periodSeconds: 1}}
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#
    )
}

/// The Deployment of the endpoint on a node of its own.
pub const FAR: &str = "chat-far";
