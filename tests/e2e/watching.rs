//! Objects as they come and go: a list, then a watch, and both anew whenever the watch ends. For the stand-ins of the parts of
//! Kubernetes that the control plane does not have.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, pin_mut};
use kube::{
    Api, Resource,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

/// What has become of the objects.
pub enum Change<K> {
    /// There are these, and no others.
    All(Vec<K>),
    Applied(K),
    Deleted(K),
}

/// Tells `take` of every change, for ever. `fields` is a field selector; empty: all objects.
pub async fn follow<K>(api: Api<K>, fields: &str, mut take: impl FnMut(Change<K>))
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    loop {
        let Ok(listed) = api.list(&ListParams::default().fields(fields)).await else {
            sleep(AGAIN).await; // the API server may be away for a while
            continue;
        };
        let version = listed.metadata.resource_version.unwrap_or_default();
        take(Change::All(listed.items));
        let Ok(events) = api.watch(&WatchParams::default().fields(fields), &version).await else {
            continue;
        };
        pin_mut!(events);
        while let Some(Ok(event)) = events.next().await {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => take(Change::Applied(object)),
                WatchEvent::Deleted(object) => take(Change::Deleted(object)),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => break,
            }
        }
    }
}

/// Between two attempts to list.
const AGAIN: Duration = Duration::from_millis(200);
