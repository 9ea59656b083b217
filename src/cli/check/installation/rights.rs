//! The rights that Holdfast's ServiceAccount needs, and what is missing without each.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use kube::{Client, Error};

use super::facts::{Looked, State};
use crate::cli::live::find::refusal;

/// One verb on one kind of object, somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Right {
    pub(super) verb: &'static str,
    group: &'static str,
    /// With its subresource: `websocketroutes/status`.
    pub(super) resource: &'static str,
    /// `None`: in all.
    pub(super) namespace: Option<String>,
    /// `None`: all of them.
    name: Option<String>,
    /// What does not work without it.
    pub(super) without: &'static str,
    /// Whether Holdfast does not do its work without it.
    pub(super) is_vital: bool,
}

/// Whose rights are asked for.
#[derive(Clone, Debug)]
pub(super) enum Whose {
    /// Those of whoever asks.
    Own,
    Account {
        namespace: String,
        name: String,
    },
}

/// What a replica of an ingress with this state needs.
pub(super) fn needed(state: &State, namespace: &str) -> Vec<Right> {
    let watched: Vec<Option<String>> = match state.watch_namespaces.as_slice() {
        [] => vec![None],
        named => named.iter().cloned().map(Some).collect(),
    };
    let mut rights = Vec::new();
    for (group, resource, verbs, without, is_vital) in WATCHED {
        let is_of_tls = matches!(*resource, "secrets" | "ingresses");
        if is_of_tls && state.listeners.https.is_none() {
            continue;
        }
        for namespace in &watched {
            rights.extend(verbs.iter().map(|verb| Right {
                verb,
                group,
                resource,
                namespace: namespace.clone(),
                name: None,
                without,
                is_vital: *is_vital,
            }));
        }
    }
    let own = |verb, group, resource, name, without, is_vital| Right {
        verb,
        group,
        resource,
        namespace: Some(namespace.to_owned()),
        name,
        without,
        is_vital,
    };
    for verb in ["get", "list", "watch", "create", "update", "delete"] {
        let without = "no replica leads, and nobody writes the status of routes";
        rights.push(own(verb, "coordination.k8s.io", "leases", None, without, true));
    }
    let secret = state.tickets.secret.as_deref().and_then(|secret| secret.split_once('/'));
    if let (Some((namespace, name)), true) = (secret, state.listeners.https.is_some()) {
        for verb in ["list", "watch", "patch"] {
            let without = "a TLS session is resumed only by the replica that began it";
            let mut right = own(verb, "", "secrets", Some(name.to_owned()), without, false);
            right.namespace = Some(namespace.to_owned());
            rights.push(right);
        }
    }
    rights
}

/// Whether each is there.
pub(super) async fn review(client: &Client, whose: &Whose, rights: Vec<Right>) -> Looked<Vec<(Right, bool)>> {
    let asked = rights.into_iter().map(|right| async move {
        let allowed = is_allowed(client, whose, &right).await?;
        Ok::<_, Error>((right, allowed))
    });
    let reviewed = stream::iter(asked).buffered(AT_ONCE).try_collect().await;
    reviewed.map_err(|error: Error| match &error {
        Error::Api(status) if status.code == 403 => "you may not create subjectaccessreviews".to_owned(),
        error => refusal(error),
    })
}

async fn is_allowed(client: &Client, whose: &Whose, right: &Right) -> Result<bool, Error> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let attributes = ResourceAttributes {
        verb: Some(right.verb.to_owned()),
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        namespace: right.namespace.clone(),
        name: right.name.clone(),
        ..ResourceAttributes::default()
    };
    let post = PostParams::default();
    let status = match whose {
        Whose::Own => {
            let review = SelfSubjectAccessReview {
                spec: SelfSubjectAccessReviewSpec {
                    resource_attributes: Some(attributes),
                    ..SelfSubjectAccessReviewSpec::default()
                },
                ..SelfSubjectAccessReview::default()
            };
            Api::all(client.clone()).create(&post, &review).await?.status
        }
        Whose::Account { namespace, name } => {
            let groups = ["system:serviceaccounts".to_owned(), "system:authenticated".to_owned()];
            let groups = groups.into_iter().chain([format!("system:serviceaccounts:{namespace}")]);
            let review = SubjectAccessReview {
                spec: SubjectAccessReviewSpec {
                    user: Some(format!("system:serviceaccount:{namespace}:{name}")),
                    groups: Some(groups.collect()),
                    resource_attributes: Some(attributes),
                    ..SubjectAccessReviewSpec::default()
                },
                ..SubjectAccessReview::default()
            };
            Api::all(client.clone()).create(&post, &review).await?.status
        }
    };
    Ok(status.is_some_and(|status| status.allowed))
}

type Watched = (&'static str, &'static str, &'static [&'static str], &'static str, bool);

/// Group, resource, verbs, what does not work without them, whether that is vital. In every namespace that is watched.
const WATCHED: &[Watched] = &[
    (
        "holdfast.dev",
        "websocketroutes",
        &["get", "list", "watch"],
        "no route is served",
        true,
    ),
    (
        "",
        "services",
        &["list", "watch"],
        "nothing is known of where routes lead, and no replica gets ready",
        true,
    ),
    (
        "discovery.k8s.io",
        "endpointslices",
        &["list", "watch"],
        "no endpoint is known, and no replica gets ready",
        true,
    ),
    (
        "holdfast.dev",
        "websocketroutes/status",
        &["patch"],
        "no route says what became of it",
        true,
    ),
    (
        "gateway.networking.k8s.io",
        "referencegrants",
        &["list", "watch"],
        "where the Gateway API is installed, no replica gets ready",
        false,
    ),
    (
        "events.k8s.io",
        "events",
        &["create", "patch"],
        "refusals of routes are not shown as Events",
        false,
    ),
    (
        "",
        "secrets",
        &["list", "watch"],
        "no certificate can be read: routes with spec.tls or backendTLS.caRef do not work",
        false,
    ),
];

/// Questions to the API server at once.
const AT_ONCE: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_follows_from_what_is_served_and_watched() {
        let mut state = State::default();
        let secrets = |state: &State| {
            let rights = needed(state, "edge");
            rights.iter().filter(|right| right.resource == "secrets").count()
        };
        assert_eq!(secrets(&state), 0, "without TLS no Secret is read");
        state.listeners.https = Some("[::]:8443".parse().unwrap());
        assert_eq!(secrets(&state), 2);
        state.watch_namespaces = vec!["chat".to_owned(), "web".to_owned()];
        assert_eq!(secrets(&state), 4);
        state.tickets.secret = Some("edge/tickets".to_owned());
        let rights = needed(&state, "edge");
        assert!(rights.iter().any(|right| right.name.as_deref() == Some("tickets")));
        let leases = rights.iter().find(|right| right.resource == "leases").unwrap();
        assert_eq!(leases.namespace.as_deref(), Some("edge"));
    }
}
