//! The cluster that is filled: which objects there are, and how they are written.

use std::fmt::Display;
use std::net::Ipv4Addr;

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Client,
    api::{Patch, PatchParams, PostParams},
    core::{Request, request::Error as RequestError},
};
use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// How much there is.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Size {
    /// WebSocketRoutes, each with a path of its own
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub routes: u32,
    /// Services, each with one EndpointSlice
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    pub services: u32,
    /// Endpoints, evenly over the Services
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub endpoints: u32,
}

/// An API server that may be filled.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    pub size: Size,
}

impl Cluster {
    pub async fn connect(size: Size) -> Result<Self> {
        let client = Client::try_default()
            .await
            .map_err(|error| Failure::new("reach a cluster", error))?;
        Ok(Self { client, size })
    }

    /// The namespace, the routes and the Services; no endpoints.
    pub async fn fill(&self) -> Result<()> {
        let namespace = json!({"metadata": {"name": NAMESPACE}});
        self.create("/api/v1/namespaces", namespace).await?;
        // Somebody else leads for all the time that this takes: writing statuses is not what is measured.
        let lease = json!({
            "metadata": {"name": CLASS, "labels": {"holdfast.dev/class": CLASS}},
            "spec": {"holderIdentity": "nobody", "leaseDurationSeconds": 86_400, "renewTime": "2026-01-01T00:00:00.000000Z"},
        });
        self.create(&path("/apis/coordination.k8s.io/v1", "leases"), lease).await?;
        self.each(self.size.services, |at| (path("/api/v1", "services"), service(at)))
            .await?;
        self.each(self.size.routes, |at| (path(OURS, "websocketroutes"), self.route(at, 0)))
            .await
    }

    /// The endpoints.
    pub async fn fill_endpoints(&self) -> Result<()> {
        self.each(self.size.services, |at| {
            (path(DISCOVERY, "endpointslices"), self.slice(at, true))
        })
        .await
    }

    /// Makes all endpoints of a Service ready, or none of them.
    pub async fn set_ready(&self, service: u32, ready: bool) -> Result<()> {
        let body = json!({"endpoints": self.slice(service, ready)["endpoints"]});
        self.merge(&path(DISCOVERY, "endpointslices"), &service_name(service), body)
            .await
    }

    /// Moves a route to another path.
    pub async fn set_path(&self, route: u32, edition: u32) -> Result<()> {
        let body = json!({"spec": self.route(route, edition)["spec"]});
        self.merge(&path(OURS, "websocketroutes"), &route_name(route), body).await
    }

    /// The route that leads to a Service.
    pub fn path_of(&self, service: u32) -> String {
        route_path(service, 0)
    }

    async fn each(&self, count: u32, object: impl Fn(u32) -> (String, Value)) -> Result<()> {
        let writes = (0..count).map(|at| {
            let (path, body) = object(at);
            async move { self.create(&path, body).await }
        });
        stream::iter(writes).buffer_unordered(WRITERS).try_collect().await
    }

    async fn create(&self, path: &str, body: Value) -> Result<()> {
        let bytes = serde_json::to_vec(&body).unwrap_or_default();
        let request = Request::new(path).create(&PostParams::default(), bytes);
        self.write(format_args!("create {path} {}", body["metadata"]["name"]), request)
            .await
    }

    async fn merge(&self, path: &str, name: &str, body: Value) -> Result<()> {
        let request = Request::new(path).patch(name, &PatchParams::default(), &Patch::Merge(body));
        self.write(format_args!("change {path} {name}"), request).await
    }

    /// Sends a request. `doing` says what cannot be done if it fails.
    async fn write(&self, doing: impl Display, request: std::result::Result<http::Request<Vec<u8>>, RequestError>) -> Result<()> {
        let request = request.map_err(|error| Failure::new(&doing, error))?;
        let answer = self.client.request::<Value>(request).await;
        answer.map(drop).map_err(|error| Failure::new(&doing, error))
    }

    fn route(&self, at: u32, edition: u32) -> Value {
        json!({
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "WebSocketRoute",
            "metadata": {"name": route_name(at)},
            "spec": {
                "className": CLASS,
                "hostnames": [HOST],
                "rules": [{
                    "name": "main",
                    "matches": [{"path": {"type": "PathPrefix", "value": route_path(at, edition)}}],
                    "backendRefs": [{"name": service_name(at % self.size.services), "port": 80}],
                }],
            },
        })
    }

    fn slice(&self, at: u32, ready: bool) -> Value {
        let each = self.size.endpoints / self.size.services;
        let endpoint = |number: u32| {
            json!({
                "addresses": [Ipv4Addr::from(u32::from(FIRST_POD) + at * each + number)],
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "nodeName": format!("node-{}", number % 100),
                "targetRef": {
                    "kind": "Pod",
                    "namespace": NAMESPACE,
                    "name": format!("{}-6f9c7d5b4-{number:05}", service_name(at)),
                    "uid": format!("{at:08x}-0000-4000-8000-{number:012x}"),
                },
            })
        };
        json!({
            "metadata": {"name": service_name(at), "labels": {"kubernetes.io/service-name": service_name(at)}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": POD_PORT, "protocol": "TCP"}],
            "endpoints": (0..each).map(endpoint).collect::<Vec<_>>(),
        })
    }
}

fn service(at: u32) -> Value {
    json!({
        "metadata": {"name": service_name(at)},
        "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
    })
}

fn path(version: &str, plural: &str) -> String {
    format!("{version}/namespaces/{NAMESPACE}/{plural}")
}

fn service_name(at: u32) -> String {
    format!("service-{at}")
}

fn route_name(at: u32) -> String {
    format!("route-{at}")
}

/// Where a route is after so many moves.
pub fn route_path(at: u32, edition: u32) -> String {
    format!("/{at}/{edition}")
}

pub const NAMESPACE: &str = "scale";
pub const CLASS: &str = "scale";
pub const HOST: &str = "scale.example.com";
/// Where every endpoint listens.
pub const POD_PORT: u16 = 9000;
const FIRST_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 0);
const OURS: &str = "/apis/holdfast.dev/v1alpha1";
const DISCOVERY: &str = "/apis/discovery.k8s.io/v1";
/// Writes that wait for the API server at once.
const WRITERS: usize = 16;
