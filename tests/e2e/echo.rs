//! An application that sends back what it is sent, as users would write it.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use crate::{
    cluster::Cluster,
    release::Release,
    support::{Peer, handshake_with},
    wait::until,
};

/// Starts one in a namespace, with a route of the class and to the host of the namespace's name, and waits until a client of the release
/// gets there.
pub async fn start(cluster: &Cluster, release: &Release<'_>) {
    let namespace = &release.namespace;
    cluster.apply(&objects(namespace)).await;
    cluster
        .kubectl(&["-n", namespace, "rollout", "status", "deployment/echo", "--timeout=60s"])
        .await;
    until("a client is led to the endpoint", async || open(release).await.map(drop)).await;
}

/// A client of a release, with a tunnel to the application.
///
/// # Errors
/// Nobody is ready, or the answer is not 101.
pub async fn open(release: &Release<'_>) -> Result<Peer, String> {
    open_by(release.pick().ok_or("nobody is ready")?, &release.namespace).await
}

/// The same through this address, to the application of this namespace.
///
/// # Errors
/// Nobody listens there, or the answer is not 101.
pub async fn open_by(address: SocketAddr, namespace: &str) -> Result<Peer, String> {
    drop(TcpStream::connect(address).await.map_err(|error| error.to_string())?);
    let mut peer = Peer::connect(address).await;
    peer.write(handshake_with(&host(namespace), "/", "")).await;
    let head = peer.head().await;
    if head.starts_with("HTTP/1.1 101 ") {
        Ok(peer)
    } else {
        Err(head)
    }
}

/// The host of the application in this namespace.
pub fn host(namespace: &str) -> String {
    format!("{namespace}.example.com")
}

/// An application with two pods, and a route of the class of this namespace to it.
pub fn objects(namespace: &str) -> String {
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
