//! The chart from `helm install` to `helm uninstall`.

use crate::{
    cluster::on_the_cluster,
    release::Release,
    support::{Peer, handshake_with},
    wait::until,
};

/// Installed where pods must be restricted, it becomes ready, passes its own test, serves a route, and leaves.
#[test]
fn installs_serves_and_leaves() {
    on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("install").await;
        let release = Release::install(cluster, "install", &[]).await;
        assert_eq!(release.ready().await.len(), 2);
        let said = release.test().await;
        assert!(
            said.contains("Phase:          Succeeded") && said.contains("3 sent"),
            "{said}"
        );

        cluster.apply(&echo("install")).await;
        cluster
            .kubectl(&["-n", "install", "rollout", "status", "deployment/echo", "--timeout=60s"])
            .await;
        until("a client is led to the endpoint", async || answered(&release).await).await;

        release.uninstall().await;
        namespace.delete().await;
    });
}

async fn answered(release: &Release<'_>) -> Result<(), String> {
    let address = release.pick().ok_or("nobody is ready")?;
    let mut peer = Peer::connect(address).await;
    peer.write(handshake_with("install.example.com", "/", "")).await;
    let head = peer.head().await;
    if head.starts_with("HTTP/1.1 101 ") {
        Ok(())
    } else {
        Err(head)
    }
}

/// An application with two pods, and a route of the class of this namespace to it.
fn echo(namespace: &str) -> String {
    format!(
        r#"
apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {{name: echo, namespace: {namespace}}}
spec:
  className: {namespace}
  hostnames: [{namespace}.example.com]
  rules: [{{backendRefs: [{{name: echo, port: 80}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: echo, namespace: {namespace}}}
spec:
  selector: {{app.kubernetes.io/name: echo}}
  ports: [{{port: 80, targetPort: 9001}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo, namespace: {namespace}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app.kubernetes.io/name: echo}}}}
  template:
    metadata: {{labels: {{app.kubernetes.io/name: echo}}}}
    spec:
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
      - name: echo
        image: holdfast
        args: [echo, "--listen=[::]:9001"]
        readinessProbe: {{tcpSocket: {{port: 9001}}, periodSeconds: 1}}
        securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"#
    )
}
