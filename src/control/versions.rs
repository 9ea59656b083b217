//! How far a view of the cluster reaches: for each thing that is watched, the newest resourceVersion that it includes.
//!
//! resourceVersions of one API server are numbers that grow with every write, and comparable as such (KEP-5504).

use std::{collections::BTreeMap, fmt, str::FromStr, sync::Arc};

use super::object::ObjectKind;

/// What one watch covers: a kind, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    pub kind: ObjectKind,
    /// `None`: all of them.
    pub namespace: Option<Arc<str>>,
}

/// The newest resourceVersion by scope. Its text is `WebSocketRoute=8841,Service/chat=8830`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<Scope, u64>);

/// The text is no [`Versions`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not KIND=VERSION or KIND/NAMESPACE=VERSION")]
pub struct InvalidVersions(String);

impl Versions {
    /// The view of this scope reaches to `version` now: further, or, after a cluster was restored, back.
    pub fn set(&mut self, scope: Scope, version: u64) {
        self.0.insert(scope, version);
    }

    /// Whether the view includes an object of `kind` in `namespace` as it was at `version`.
    #[must_use]
    pub fn include(&self, kind: ObjectKind, namespace: &Arc<str>, version: u64) -> bool {
        let reached = |namespace| self.0.get(&Scope { kind, namespace }).copied();
        let reached = reached(None).or_else(|| reached(Some(Arc::clone(namespace))));
        reached.is_some_and(|reached| reached >= version)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.word())?;
        match &self.namespace {
            Some(namespace) => write!(f, "/{namespace}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (scope, version)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{scope}={version}")?;
        }
        Ok(())
    }
}

impl FromStr for Versions {
    type Err = InvalidVersions;

    /// Kinds that this build does not know are left out: another build of Holdfast may watch more.
    fn from_str(text: &str) -> Result<Self, InvalidVersions> {
        let mut versions = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let invalid = || InvalidVersions(part.to_owned());
            let (scope, version) = part.split_once('=').ok_or_else(invalid)?;
            let version = version.parse().map_err(|_| invalid())?;
            let (kind, namespace) = match scope.split_once('/') {
                Some((kind, namespace)) => (kind, Some(Arc::from(namespace))),
                None => (scope, None),
            };
            if let Some(kind) = ObjectKind::ALL.into_iter().find(|known| known.word() == kind) {
                versions.set(Scope { kind, namespace }, version);
            }
        }
        Ok(versions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_and_read() {
        let text = "WebSocketRoute=8841,Service/chat=7";
        let versions: Versions = text.parse().unwrap();
        assert_eq!(versions.to_string(), text);
        let newer: Versions = "WebSocketRoute=8841,Gateway=3,Service/chat=7".parse().unwrap();
        assert_eq!(newer, versions, "a kind that is not known is left out");
        assert_eq!("".parse::<Versions>().unwrap(), Versions::default());
        for text in ["WebSocketRoute", "WebSocketRoute=x", "Service/chat"] {
            assert_eq!(text.parse::<Versions>(), Err(InvalidVersions(text.to_owned())));
        }
    }

    #[test]
    fn a_view_includes_what_is_not_newer_than_it_in_its_namespaces() {
        let (chat, web): (Arc<str>, Arc<str>) = ("chat".into(), "web".into());
        let versions: Versions = "WebSocketRoute/chat=10,Service=20".parse().unwrap();
        assert!(versions.include(ObjectKind::WebSocketRoute, &chat, 10));
        assert!(!versions.include(ObjectKind::WebSocketRoute, &chat, 11));
        assert!(!versions.include(ObjectKind::WebSocketRoute, &web, 1), "not watched there");
        assert!(versions.include(ObjectKind::Service, &web, 20));
        assert!(!versions.include(ObjectKind::ReferenceGrant, &web, 0));
    }
}
