//! A test's own part of a cluster: a Kubernetes namespace, a class, a host. Deleted after a test that passes; left there,
//! to be looked at, after one that fails.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use holdfast::api::{Condition, WebSocketRoute};
use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client, Error,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams},
    core::TypeMeta,
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::{control_plane::ControlPlane, objects, wait::until};

/// A namespace that nobody else uses.
pub struct Namespace {
    client: Client,
    name: String,
    kubeconfig: PathBuf,
}

impl Namespace {
    pub async fn new(control_plane: &ControlPlane) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test-{}-{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let namespace = Self {
            client: control_plane.client().await,
            kubeconfig: control_plane.kubeconfig().to_owned(),
            name,
        };
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace.name}});
        namespace.apply(&made).await;
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The class of this test's Holdfast and of its routes.
    pub fn class(&self) -> &str {
        &self.name
    }

    /// The host of this test's routes.
    pub fn host(&self) -> String {
        format!("{}.example.com", self.name)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The objects of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client(), &self.name)
    }

    pub fn routes(&self) -> Api<WebSocketRoute> {
        self.api()
    }

    /// A route of this test's class and host: everything below `path` goes to port 80 of a Service.
    pub fn route(&self, name: &str, path: &str, service: &str) -> Value {
        let mut route = objects::route(name, path, service);
        route["spec"]["className"] = json!(self.class());
        route["spec"]["hostnames"] = json!([self.host()]);
        route
    }

    /// Creates an object or makes it this: fields that an earlier call had and this one has not are removed. It comes into
    /// this namespace unless it says another. `metadata.resourceVersion`, if there, must be the present one.
    pub async fn apply(&self, object: &Value) -> DynamicObject {
        let applied = self.try_apply(object).await;
        applied.unwrap_or_else(|error| panic!("{error}: {object:#}"))
    }

    /// The same, where the API server may refuse it.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn try_apply(&self, object: &Value) -> Result<DynamicObject, Error> {
        let name = object["metadata"]["name"].as_str().expect("objects have names");
        let apply = PatchParams::apply("holdfast-tests").force().validation_strict();
        self.api_of(object).patch(name, &apply, &Patch::Apply(object)).await
    }

    /// Asks the API server whether it would admit a new object, the way `kubectl apply` does; nothing is kept.
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn dry_run(&self, object: &Value) -> Result<(), Error> {
        let url = self.api_of(object).resource_url().to_owned() + "?dryRun=All&fieldValidation=Strict";
        let request = http::Request::post(url).header("content-type", "application/json");
        let request = request.body(object.to_string().into_bytes()).unwrap();
        self.client.request::<Value>(request).await.map(drop)
    }

    /// Deletes an object by what it was applied as.
    pub async fn delete(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("objects have names");
        let deleted = self.api_of(object).delete(name, &DeleteParams::default()).await;
        deleted.unwrap_or_else(|error| panic!("{error}: {object:#}"));
    }

    /// The conditions of a route.
    pub async fn conditions(&self, route: &str) -> Vec<Condition> {
        self.judged(route).await.1
    }

    /// One condition of a route, if it is there.
    pub async fn condition(&self, route: &str, kind: &str) -> Option<Condition> {
        let conditions = self.conditions(route).await;
        conditions.into_iter().find(|condition| condition.kind == kind)
    }

    /// Waits until a condition of a route has a status and a reason for the route's present generation.
    pub async fn until_condition(&self, route: &str, kind: &str, status: &str, reason: &str) -> Condition {
        until(&format!("{route} {kind}={status} {reason}"), async || {
            let (generation, conditions) = self.judged(route).await;
            let is_wanted = |condition: &&Condition| {
                condition.kind == kind
                    && format!("{:?}", condition.status) == status
                    && condition.reason == reason
                    && condition.observed_generation == generation
            };
            conditions.iter().find(is_wanted).cloned().ok_or(conditions)
        })
        .await
    }

    /// A route's generation and its conditions, whatever its spec may be.
    async fn judged(&self, route: &str) -> (Option<i64>, Vec<Condition>) {
        let resource = ApiResource::erase::<WebSocketRoute>(&());
        let routes: Api<DynamicObject> = Api::namespaced_with(self.client(), &self.name, &resource);
        let mut route = routes.get(route).await.unwrap();
        let conditions = match route.data["status"]["conditions"].take() {
            Value::Null => Vec::new(),
            conditions => serde_json::from_value(conditions).unwrap(),
        };
        (route.metadata.generation, conditions)
    }

    fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let types: TypeMeta = serde_json::from_value(object.clone()).unwrap();
        let resource = ApiResource::from_gvk(&(&types).try_into().unwrap());
        if CLUSTER_SCOPED.contains(&resource.kind.as_str()) {
            return Api::all_with(self.client(), &resource);
        }
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&self.name);
        Api::namespaced_with(self.client(), namespace, &resource)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let namespaces: Api<core::Namespace> = Api::all(self.client());
        let params = DeleteParams::default();
        let deleted = namespaces.delete(&self.name, &params);
        // The API server may be gone for ever; that is no concern of what is asked here.
        let _ = tokio::task::block_in_place(|| Handle::current().block_on(tokio::time::timeout(GOODBYE, deleted)));
    }
}

/// The kinds that tests write which are in no namespace.
const CLUSTER_SCOPED: [&str; 4] = ["Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];
/// The longest that a test's end waits for an API server that does not answer.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(5);
