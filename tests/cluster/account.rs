//! Who a replica is to the API server: a ServiceAccount with a token, and what the audit log says that it did.

use std::{fs, path::PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client,
    api::PostParams,
    config::{AuthInfo, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{control_plane::ControlPlane, namespace::Namespace, wait::until};

/// A ServiceAccount.
pub struct Account {
    client: Client,
    namespace: String,
    pub name: String,
    /// With a token of its own.
    pub kubeconfig: PathBuf,
}

/// An answered request, or a watch that was granted.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it came.
    pub at: Timestamp,
    /// The name of the ServiceAccount.
    pub by: String,
    pub verb: String,
    pub group: String,
    /// With its subresource: `websocketroutes/status`.
    pub resource: String,
    pub namespace: String,
    /// Of the object; empty if it is about many.
    pub name: String,
    pub code: u64,
}

impl Account {
    /// A new one that may do everything in a test's namespace, and nothing outside.
    pub async fn new(control_plane: &ControlPlane, namespace: &Namespace, name: &str) -> Self {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
        namespace.apply(&account).await;
        let account = Self::of(control_plane, namespace.name(), name).await;
        account.empower(namespace).await;
        account
    }

    /// Lets it do everything in this namespace.
    pub async fn empower(&self, namespace: &Namespace) {
        let subject = json!({"kind": "ServiceAccount", "name": self.name, "namespace": self.namespace});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [subject],
        });
        namespace.apply(&binding).await;
        self.until_it_may("create", "coordination.k8s.io", "leases", namespace.name())
            .await;
    }

    /// One that is there.
    pub async fn of(control_plane: &ControlPlane, namespace: &str, name: &str) -> Self {
        let client = control_plane.client().await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec!["https://kubernetes.default.svc".to_owned()],
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .unwrap();
        let token = answer.status.unwrap().token;
        let mut kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig()).unwrap();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(AuthInfo {
                token: Some(token.clone().into()),
                ..AuthInfo::default()
            });
        }
        let file = control_plane
            .kubeconfig()
            .with_file_name(format!("{namespace}-{name}.account"));
        fs::write(&file, serde_saphyr::to_string(&kubeconfig).unwrap()).unwrap();
        Self {
            client,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            kubeconfig: file,
        }
    }

    /// Waits until the API server has taken in that it may do this: it does so a moment after the role was bound.
    pub async fn until_it_may(&self, verb: &str, group: &str, resource: &str, namespace: &str) {
        self.until_it_may_with(verb, group, resource, namespace, None).await;
    }

    /// The same with an object of this name, if it says one.
    pub async fn until_it_may_with(&self, verb: &str, group: &str, resource: &str, namespace: &str, name: Option<String>) {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user(&self.namespace, &self.name)),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: Some(subresource.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    name,
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        until(&format!("{} may {verb} {resource}", self.name), async || {
            let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
            let status = answer.status.unwrap();
            if status.allowed { Ok(()) } else { Err(status.reason) }
        })
        .await;
    }
}

/// What the ServiceAccounts of a namespace have asked for so far.
pub fn requests(control_plane: &ControlPlane, namespace: &str) -> Vec<Request> {
    let prefix = user(namespace, "");
    let events = control_plane.audit_of(&prefix);
    events.iter().filter_map(|event| request(event, &prefix)).collect()
}

fn request(event: &Value, prefix: &str) -> Option<Request> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let by = text("/user/username").strip_prefix(prefix)?.to_owned();
    let subresource = text("/objectRef/subresource");
    let slash = if subresource.is_empty() { "" } else { "/" };
    Some(Request {
        at: text("/requestReceivedTimestamp").parse().unwrap(),
        by,
        verb: text("/verb"),
        group: text("/objectRef/apiGroup"),
        resource: text("/objectRef/resource") + slash + &subresource,
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        code: event
            .pointer("/responseStatus/code")
            .and_then(Value::as_u64)
            .unwrap_or_default(),
    })
}

fn user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}
