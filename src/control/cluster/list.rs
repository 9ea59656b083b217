//! What a cluster has now, listed once, for a command that judges files beside it. Nothing is followed.

use std::time::Duration;

use futures::future::join_all;
use tokio::sync::mpsc;

use super::{Access, AccessError, COLLECTIONS, Collection, Target, read, scopes};
use crate::control::{
    object::{Object, ObjectKind},
    watch::{Failure, News, follow},
};

/// The objects of a cluster that routes are made of.
#[derive(Debug, Default)]
pub struct Listing {
    /// Of routes, those of the class.
    pub objects: Vec<Object>,
    /// Kinds that may not be listed, and what the API server says of that. They are as if there were none.
    pub forbidden: Vec<(ObjectKind, String)>,
}

/// Why a cluster cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("the cluster knows no WebSocketRoutes: apply what holdfast crd prints, or check without --against")]
    NoDefinition,
    /// Objects of a kind, in words, and what is in the way.
    #[error("cannot list {what}: {why}")]
    Failed { what: String, why: String },
}

/// Lists everything in these namespaces, or in all.
///
/// # Errors
/// When the API server cannot be reached, or does not let us list what no route can be judged without.
pub async fn list(access: &Access, namespaces: &[String], class: &str) -> Result<Listing, ListError> {
    let client = access.client().await?;
    let lists = scopes(namespaces).into_iter().filter_map(|scope| {
        let collection = COLLECTIONS.iter().find(|collection| collection.kind == scope.kind)?;
        let target = collection.target(&client, scope.namespace.as_deref(), NEVER);
        Some(async move { (collection, first(target, collection, class).await, scope) })
    });
    let mut listing = Listing::default();
    for (collection, news, scope) in join_all(lists).await {
        match news {
            News::All { objects, .. } => listing.objects.extend(objects),
            News::Failed(Failure::Unknown) if scope.kind == ObjectKind::WebSocketRoute => return Err(ListError::NoDefinition),
            News::Failed(Failure::Refused { code: 403, message, .. }) if collection.may_be_forbidden => {
                listing.forbidden.push((scope.kind, message));
            }
            News::Failed(failure) => {
                return Err(ListError::Failed {
                    what: scope.to_string(),
                    why: failure.to_string(),
                });
            }
            News::Changed { .. } | News::Gone { .. } | News::Heard(_) => {} // a list comes first
        }
    }
    Ok(listing)
}

/// What is heard first: a list, or why there is none.
async fn first(target: Target, collection: &Collection, class: &str) -> News<Object> {
    let (out, mut news) = mpsc::channel(1);
    let target = Target {
        may_be_forbidden: false, // so that it is said
        ..target
    };
    let of_kind = |object| read::read(collection.kind, class, object).object;
    let heard = tokio::select! {
        () = follow(target, of_kind, |news| news, out) => None,
        heard = news.recv() => heard,
    };
    match heard {
        Some(News::All { objects, version }) => News::All {
            objects: objects.into_iter().flatten().collect(),
            version,
        },
        Some(News::Failed(failure)) => News::Failed(failure),
        _ => News::Failed(Failure::Silent),
    }
}

/// When what is not followed is listed again.
const NEVER: Duration = Duration::from_secs(3600);
