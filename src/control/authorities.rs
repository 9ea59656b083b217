//! Who may vouch for endpoints: read when a Secret comes or changes, and kept while a change for the worse is in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::object::Secret;
use crate::routing::{
    ObjectName,
    endpoint_tls::{Authorities, InvalidAuthorities},
};

/// The authorities of the Secrets that are wanted for them.
#[derive(Debug, Default)]
pub(super) struct SecretAuthorities(BTreeMap<ObjectName, Held>);

/// What a Secret comes to.
#[derive(Debug, Default)]
struct Held {
    /// The last ones that can be used, and what they were read from.
    authorities: Option<(Arc<Authorities>, Box<[u8]>)>,
    /// What is wrong with what the Secret says now.
    fault: Option<String>,
}

impl SecretAuthorities {
    /// Reads those of a Secret from now on. Returns whether that is new.
    pub(super) fn want(&mut self, name: &ObjectName) -> bool {
        if self.wants(name) {
            return false;
        }
        self.0.insert(name.clone(), Held::default());
        true
    }

    pub(super) fn wants(&self, name: &ObjectName) -> bool {
        self.0.contains_key(name)
    }

    pub(super) fn wanted(&self) -> impl Iterator<Item = &ObjectName> {
        self.0.keys()
    }

    /// Forgets those of all others.
    pub(super) fn want_only(&mut self, names: &BTreeSet<&ObjectName>) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// Those of a Secret that is wanted.
    pub(super) fn get(&self, name: &ObjectName) -> Option<&Arc<Authorities>> {
        self.0.get(name)?.authorities.as_ref().map(|(authorities, _)| authorities)
    }

    /// What is wrong with a Secret that is wanted.
    pub(super) fn fault(&self, name: &ObjectName) -> Option<&str> {
        self.0.get(name)?.fault.as_deref()
    }

    /// Looks at a Secret: `None` where there is none, `Some(None)` where it has not been read. Returns whether it is wanted.
    pub(super) fn refresh(&mut self, name: &ObjectName, secret: Option<Option<&Secret>>) -> bool {
        let Some(held) = self.0.get_mut(name) else {
            return false;
        };
        match secret {
            None => {
                *held = Held {
                    authorities: None,
                    fault: Some(format!("there is no Secret {name} of type kubernetes.io/tls")),
                };
            }
            Some(None) => held.fault = Some(format!("Secret {name} has not been read yet")),
            Some(Some(secret)) => held.read(name, secret.authorities.as_deref()),
        }
        true
    }
}

impl Held {
    fn read(&mut self, name: &ObjectName, pem: Option<&[u8]>) {
        let read = pem.ok_or(InvalidAuthorities::Missing).and_then(|pem| {
            match &self.authorities {
                Some((same, before)) if **before == *pem => Ok((Arc::clone(same), pem)), // the Secret changed elsewhere
                _ => Authorities::read(pem).map(|authorities| (Arc::new(authorities), pem)),
            }
        });
        match read {
            Ok((authorities, pem)) => {
                *self = Self {
                    authorities: Some((authorities, pem.into())),
                    fault: None,
                };
            }
            Err(error) => {
                let stays = match self.authorities {
                    Some(_) => "; the last good ones stay in effect",
                    None => "",
                };
                self.fault = Some(format!("Secret {name}: {error}{stays}"));
            }
        }
    }
}

/// Those that the system trusts, of its usual files. Some of them always cannot be used; `None`: none can.
pub(super) fn of_system() -> Option<Arc<Authorities>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!("certificate authorities of this system: {error}");
    }
    Authorities::of_those(found.certs.iter().map(AsRef::as_ref)).map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ObjectName {
        ObjectName {
            namespace: "chat".into(),
            name: "ca".into(),
        }
    }

    fn secret(authorities: Option<&str>) -> Secret {
        Secret {
            name: name(),
            chain: Box::default(),
            key: Box::default(),
            authorities: authorities.map(|pem| pem.as_bytes().into()),
        }
    }

    fn pem() -> String {
        rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap().cert.pem()
    }

    #[test]
    fn new_authorities_take_the_place_of_the_old_and_broken_ones_do_not() {
        let mut all = SecretAuthorities::default();
        assert!(!all.refresh(&name(), None), "nobody wants it");
        assert!(all.want(&name()) && !all.want(&name()));
        all.refresh(&name(), None);
        assert!(all.fault(&name()).unwrap().contains("there is no Secret chat/ca"));
        let (one, other) = (pem(), pem());
        let take = |all: &mut SecretAuthorities, authorities| {
            assert!(all.refresh(&name(), Some(Some(&secret(authorities)))));
            all.get(&name()).cloned()
        };
        let first = take(&mut all, Some(&one)).unwrap();
        assert_eq!(all.fault(&name()), None);
        for (broken, said) in [(Some("nothing"), "no certificate in PEM form"), (None, "ca.crt is missing")] {
            let kept = take(&mut all, broken).unwrap();
            let fault = all.fault(&name()).unwrap();
            assert!(fault.contains(said) && fault.contains("the last good ones stay"), "{fault}");
            assert!(Arc::ptr_eq(&first, &kept));
        }
        assert!(Arc::ptr_eq(&first, &take(&mut all, Some(&one)).unwrap()), "it says the same");
        assert!(!Arc::ptr_eq(&first, &take(&mut all, Some(&other)).unwrap()));
        all.refresh(&name(), None);
        assert!(all.get(&name()).is_none(), "it is gone");
    }
}
