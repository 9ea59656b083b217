//! The certificates and authorities that routes name: read when their Secret comes or changes, and kept while a change for the
//! worse is in it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{authorities::SecretAuthorities, object::Secret};
use crate::routing::{Certificate, ObjectName, endpoint_tls::Authorities};

/// Secrets, and the certificates of those that are wanted.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// `None`: it is there, and what it says was forgotten, because nobody wanted it.
    secrets: HashMap<ObjectName, Option<Secret>>,
    /// Whether what nobody wants is forgotten.
    is_forgetful: bool,
    wanted: BTreeMap<ObjectName, Held>,
    authorities: SecretAuthorities,
    /// Seconds since 1970, as far as it was told.
    now: i64,
}

/// What a Secret comes to.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// The last one that can be used.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// What is wrong with what the Secret says now.
    fault: Option<String>,
    /// Whether that is somebody's mistake: a Secret that is missing may come any moment.
    is_broken: bool,
}

/// What whoever wrote a route must do something about, beside the route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// What the Secret has cannot be used.
    Invalid(String),
    /// The certificate in use expires soon, or has.
    Expiring(String),
}

impl Certificates {
    /// Tells the time: what has expired by it counts as such.
    pub(super) fn set_now(&mut self, now: i64) {
        self.now = now;
    }

    /// When the next certificate expires that has not yet, or comes so near to it that somebody must be told.
    pub(super) fn next_expiry(&self) -> Option<i64> {
        let held = self.wanted.values().filter_map(|held| held.certificate.as_ref());
        held.flat_map(|certificate| [certificate.expires() - NEAR, certificate.expires()])
            .filter(|time| *time > self.now)
            .min()
    }

    /// What must be done about a Secret that is wanted.
    pub(super) fn alarm(&self, name: &ObjectName) -> Option<Alarm> {
        let held = self.wanted.get(name)?;
        if let Some(fault) = held.fault.as_ref().filter(|_| held.is_broken) {
            return Some(Alarm::Invalid(fault.clone()));
        }
        let expires = held.certificate.as_ref()?.expires();
        match expires - self.now {
            ..=0 => Some(Alarm::Expiring(expired(name, expires))),
            left if left <= NEAR => Some(Alarm::Expiring(format!(
                "Secret {name}: its certificate expires{}",
                on(expires)
            ))),
            _ => None,
        }
    }

    /// Forgets what Secrets say that nobody wants, from now on.
    pub(super) fn forget(&mut self) {
        self.is_forgetful = true;
        for (name, secret) in &mut self.secrets {
            if !self.wanted.contains_key(name) && !self.authorities.wants(name) {
                *secret = None;
            }
        }
    }

    /// Whether a Secret is wanted that was forgotten: it must be read anew.
    pub(super) fn lacks_any(&self) -> bool {
        let mut wanted = self.wanted.keys().chain(self.authorities.wanted());
        wanted.any(|name| matches!(self.secrets.get(name), Some(None)))
    }

    /// Takes in a Secret. Returns whether anybody wants it.
    pub(super) fn apply(&mut self, secret: Secret) -> bool {
        let name = secret.name.clone();
        let is_wanted = self.wanted.contains_key(&name) || self.authorities.wants(&name);
        let kept = (!self.is_forgetful || is_wanted).then_some(secret);
        if self.secrets.get(&name) == Some(&kept) {
            return false;
        }
        self.secrets.insert(name.clone(), kept);
        self.refresh(&name)
    }

    /// A Secret is gone, and its certificate with it: that is nobody's mistake.
    pub(super) fn delete(&mut self, name: &ObjectName) -> bool {
        self.secrets.remove(name).is_some() && self.refresh(name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &ObjectName> {
        self.secrets.keys()
    }

    /// Reads the certificate of a Secret from now on.
    pub(super) fn want(&mut self, name: &ObjectName) {
        if !self.wanted.contains_key(name) {
            self.wanted.insert(name.clone(), Held::default());
            self.refresh(name);
        }
    }

    /// Reads the authorities of a Secret from now on.
    pub(super) fn want_authorities(&mut self, name: &ObjectName) {
        if self.authorities.want(name) {
            self.refresh(name);
        }
    }

    /// Forgets the certificates and the authorities of all others.
    pub(super) fn want_only(&mut self, certificates: &BTreeSet<&ObjectName>, authorities: &BTreeSet<&ObjectName>) {
        self.wanted.retain(|name, _| certificates.contains(name));
        self.authorities.want_only(authorities);
    }

    /// The authorities of a Secret that is wanted for them.
    pub(super) fn authorities(&self, name: &ObjectName) -> Option<&Arc<Authorities>> {
        self.authorities.get(name)
    }

    /// What is wrong with a Secret that is wanted for its authorities.
    pub(super) fn authorities_fault(&self, name: &ObjectName) -> Option<String> {
        self.authorities.fault(name).map(str::to_owned)
    }

    /// What a Secret that is wanted comes to.
    pub(super) fn get(&self, name: &ObjectName) -> Option<&Held> {
        self.wanted.get(name)
    }

    /// The certificates that are in use.
    pub(super) fn used(&self) -> impl Iterator<Item = &Arc<Certificate>> {
        self.wanted.values().filter_map(|held| held.certificate.as_ref())
    }

    /// What is wrong with a Secret that is wanted.
    pub(super) fn fault(&self, name: &ObjectName) -> Option<String> {
        let held = self.wanted.get(name)?;
        let expiry = held.certificate.as_ref().map(|certificate| certificate.expires());
        held.fault
            .clone()
            .or_else(|| Some(expired(name, expiry.filter(|expiry| *expiry <= self.now)?)))
    }

    /// Looks at a Secret again. Returns whether anybody wants it.
    fn refresh(&mut self, name: &ObjectName) -> bool {
        let secret = self.secrets.get(name).map(Option::as_ref);
        let is_authority = self.authorities.refresh(name, secret);
        self.refresh_certificate(name) || is_authority
    }

    fn refresh_certificate(&mut self, name: &ObjectName) -> bool {
        let Some(held) = self.wanted.get_mut(name) else {
            return false;
        };
        let secret = match self.secrets.get(name) {
            Some(Some(secret)) => secret,
            Some(None) => {
                held.fault = Some(format!("Secret {name} has not been read yet"));
                held.is_broken = false;
                return true;
            }
            None => {
                *held = Held {
                    certificate: None,
                    fault: Some(format!("there is no Secret {name} of type kubernetes.io/tls")),
                    is_broken: false,
                };
                return true;
            }
        };
        let is_over = |certificate: &Certificate| certificate.expires() <= self.now;
        let stays = if held.certificate.is_some() {
            "; the last good one stays in effect"
        } else {
            ""
        };
        held.is_broken = true;
        match Certificate::read(name.clone(), &secret.chain, &secret.key) {
            Ok(new) if is_over(&new) && held.certificate.as_ref().is_some_and(|held| !is_over(held)) => {
                held.fault = Some(format!("{}{stays}", expired(name, new.expires())));
            }
            Ok(new) => {
                *held = Held {
                    certificate: Some(Arc::new(new)),
                    fault: None,
                    is_broken: false,
                }
            }
            Err(error) => held.fault = Some(format!("Secret {name}: {error}{stays}")),
        }
        true
    }
}

fn expired(name: &ObjectName, when: i64) -> String {
    format!("Secret {name}: its certificate expired{}", on(when))
}

fn on(when: i64) -> String {
    jiff::Timestamp::from_second(when).map_or_else(|_| String::new(), |when| format!(" on {when}"))
}

/// Seconds before its end at which a certificate should have been renewed: cert-manager does it a month before, or in the last third
/// of a short life.
const NEAR: i64 = 14 * 24 * 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: "chat".into(),
            name: name.into(),
        }
    }

    /// A Secret whose certificate expires at the end of a year.
    fn secret(year: i32) -> Secret {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["chat.example.com".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let certificate = params.self_signed(&key).unwrap();
        Secret {
            name: name("chat"),
            chain: certificate.pem().into_bytes().into(),
            key: key.serialize_pem().into_bytes().into(),
            authorities: None,
        }
    }

    fn certificates(secret: &Secret) -> Certificates {
        let mut certificates = Certificates::default();
        certificates.set_now(1_800_000_000); // in 2027
        certificates.want(&name("chat"));
        certificates.apply(secret.clone());
        certificates
    }

    fn expiry(certificates: &Certificates) -> Option<i64> {
        let held = certificates.get(&name("chat")).unwrap();
        held.certificate.as_ref().map(|certificate| certificate.expires())
    }

    #[test]
    fn a_new_certificate_takes_the_place_of_the_old_and_a_broken_one_does_not() {
        let good = secret(2100);
        let mut certificates = certificates(&good);
        let first = expiry(&certificates);
        assert!(first.is_some() && certificates.fault(&name("chat")).is_none());
        let mismatched = Secret {
            key: secret(2100).key,
            ..good
        };
        for (broken, said) in [(mismatched, "is not the key"), (secret(2001), "expired on 2001-12-31")] {
            assert!(certificates.apply(broken));
            let fault = certificates.fault(&name("chat")).unwrap();
            assert!(fault.contains(said) && fault.contains("the last good one stays"), "{fault}");
            assert_eq!(certificates.alarm(&name("chat")), Some(Alarm::Invalid(fault)));
            assert_eq!(expiry(&certificates), first);
        }
        assert!(certificates.apply(secret(2200)));
        assert!(expiry(&certificates) > first && certificates.fault(&name("chat")).is_none());
    }

    #[test]
    fn an_expired_certificate_is_shown_where_there_is_no_better_one_and_said_to_be() {
        let mut certificates = certificates(&secret(2030));
        assert_eq!(
            (certificates.fault(&name("chat")), certificates.alarm(&name("chat"))),
            (None, None)
        );
        let near = certificates.next_expiry().unwrap();
        certificates.set_now(near);
        let alarm = certificates.alarm(&name("chat")).unwrap();
        assert!(
            matches!(&alarm, Alarm::Expiring(said) if said.contains("expires on 2030-12-31")),
            "{alarm:?}"
        );
        let at = certificates.next_expiry().unwrap();
        assert_eq!(at, near + NEAR);
        certificates.set_now(at);
        let alarm = certificates.alarm(&name("chat")).unwrap();
        assert!(
            matches!(&alarm, Alarm::Expiring(said) if said.contains("expired on 2030-12-31")),
            "{alarm:?}"
        );
        assert!(certificates.fault(&name("chat")).unwrap().contains("expired on 2030-12-31"));
        assert!(expiry(&certificates).is_some() && certificates.next_expiry().is_none());
    }

    #[test]
    fn what_nobody_wants_is_forgotten_and_read_anew_when_somebody_does() {
        let mut certificates = Certificates::default();
        certificates.apply(secret(2100));
        certificates.forget();
        certificates.want(&name("chat"));
        assert!(certificates.lacks_any() && expiry(&certificates).is_none());
        assert!(certificates.apply(secret(2100)));
        assert!(!certificates.lacks_any() && expiry(&certificates).is_some());
        certificates.want_only(&BTreeSet::new(), &BTreeSet::new());
        certificates.forget();
        assert_eq!(certificates.secrets[&name("chat")], None);
        assert!(!certificates.apply(secret(2100)), "nobody wants it");
    }

    #[test]
    fn a_secret_that_is_gone_takes_its_certificate_with_it() {
        let mut certificates = certificates(&secret(2100));
        assert!(certificates.delete(&name("chat")));
        assert_eq!((expiry(&certificates), certificates.alarm(&name("chat"))), (None, None));
        assert!(
            certificates
                .fault(&name("chat"))
                .unwrap()
                .contains("there is no Secret chat/chat")
        );
    }
}
