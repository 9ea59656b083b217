//! A node whose pods are processes of this machine: Kubernetes has them as running, and forwards ports to them.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::{endpoint::pod_address, forward::forward, namespace::Namespace, replica::Holdfast};

/// A node; gone when dropped, but for its object, see [`Node::remove`].
pub struct Node {
    client: Client,
    name: String,
    kubelet: JoinHandle<()>,
}

impl Node {
    /// One that nobody else uses.
    pub async fn new(namespace: &Namespace) -> Self {
        let listener = TcpListener::bind((pod_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let name = format!("node-{}", namespace.name());
        let client = namespace.client();
        let nodes: Api<core::Node> = Api::all(client.clone());
        let node = json!({"metadata": {"name": name}, "spec": {"unschedulable": true}});
        let node = serde_json::from_value(node).unwrap();
        nodes.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": address.ip().to_string()}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": address.port()}},
        }});
        let patch = Patch::Merge(&status);
        nodes.patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
        Self {
            client,
            name,
            kubelet: tokio::spawn(serve(listener, address.ip())),
        }
    }

    /// Makes a replica a running and ready pod, whose port for the live listener is told by an argument, as patches of the
    /// chart would. `change` is merged into the pod.
    pub async fn run(&self, namespace: &Namespace, replica: &Holdfast, change: Value) {
        let live = format!("--live={}", replica.live);
        let mut pod = json!({
            "metadata": {
                "name": replica.name,
                "labels": {"app.kubernetes.io/name": "holdfast", "app.kubernetes.io/instance": namespace.name()},
            },
            "spec": {
                "nodeName": self.name,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "holdfast", "image": "holdfast", "args": [live]}],
            },
        });
        merge(&mut pod, change);
        let pods: Api<core::Pod> = namespace.api();
        pods.create(&PostParams::default(), &serde_json::from_value(pod).unwrap())
            .await
            .unwrap();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": replica.http.ip().to_string(),
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        let patch = Patch::Merge(&status);
        pods.patch_status(&replica.name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Removes its object.
    pub async fn remove(self) {
        let nodes: Api<core::Node> = Api::all(self.client.clone());
        nodes.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kubelet.abort();
    }
}

/// The part of a kubelet that forwards ports.
async fn serve(listener: TcpListener, ip: IpAddr) {
    let acceptor = TlsAcceptor::from(Arc::new(certificate(ip)));
    while let Ok((socket, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        });
    }
}

/// The API server of the tests looks at nobody's certificate.
fn certificate(ip: IpAddr) -> ServerConfig {
    let made = rcgen::generate_simple_self_signed([ip.to_string()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    config.with_single_cert(vec![made.cert.der().clone()], key).unwrap()
}

fn answer(request: Request<Incoming>) -> Response<Full<Bytes>> {
    let ports = request.uri().query().unwrap_or_default().strip_prefix("port=");
    let ports = ports.into_iter().flat_map(|ports| ports.split("%2C"));
    let ports = ports.filter_map(|port| port.parse().ok()).collect();
    let connect = |port| TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    match forward(request, ports, connect) {
        Ok(switching) => switching.map(|()| Full::default()),
        Err(why) => {
            let mut answer = Response::new(Full::from(why));
            *answer.status_mut() = StatusCode::BAD_REQUEST;
            answer
        }
    }
}

/// Objects are merged, everything else is replaced.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}
