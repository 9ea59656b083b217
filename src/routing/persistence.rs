//! Session persistence by cookie. (By address or header it is the balancer's rendezvous hashing.)
//!
//! The cookie's value is the time of its issue and a token: a hash of the rule and of the endpoint's key. Every replica
//! finds the same endpoint by it, with no key to share, and it gives no pod name away. It is worth no more than that: a
//! client that makes one up reaches an endpoint that it could have been sent to anyway.

mod tokens;

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

pub(super) use self::tokens::Tokens;
use super::{
    balancer::{Client, Own, Sets, sets},
    endpoint::Endpoint,
    rate::whole_seconds,
    route::{Cookie, PersistBy, Persistence, Rule, RuleId, SameSite},
};

/// The `Set-Cookie` value for a client that `rule` sent to `endpoint`, or `None` where the rule has no cookie or the
/// client's own already says so. `matched_path` is the path that matched; `tls`: whether the client came by TLS.
pub fn set_cookie(rule: &Rule, client: &Client<'_>, endpoint: &Endpoint, matched_path: &str, tls: bool) -> Option<String> {
    let Some(Persistence {
        by: PersistBy::Cookie(cookie),
        ..
    }) = &rule.persistence
    else {
        return None;
    };
    let own = own_endpoint(rule, cookie, client, &sets(rule));
    if own.is_some_and(|own| own.endpoint.key() == endpoint.key()) {
        return None;
    }
    let value = Value {
        issued: client.now,
        token: Token::new(&rule.id, endpoint),
    };
    Some(written(cookie, &value, matched_path, tls))
}

/// The name of a rule's cookie where the route gives none: `holdfast-` and 8 hex digits, so that the cookies of two rules
/// on one host do not overwrite each other.
pub fn default_cookie_name(rule: &RuleId) -> String {
    let digest = rule_hasher("holdfast cookie name", rule).finalize();
    let name = digest.iter().take(4).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
    format!("holdfast-{name:08x}")
}

/// The endpoint that the client's cookie names: of all that it sent by that name the first that is well-formed, young
/// enough, and names a member of one of the rule's sets.
pub(super) fn own_endpoint(rule: &Rule, cookie: &Cookie, client: &Client<'_>, sets: &Sets) -> Option<Own> {
    let mut values = sent(client, &cookie.name)
        .filter(|value| value.is_valid(cookie.max_age, client.now))
        .peekable();
    values.peek()?;
    let tokens = Tokens::current(rule, sets);
    values.find_map(|value| tokens.find(value.token, sets))
}

/// What a cookie says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    /// Seconds since 1970.
    issued: u64,
    token: Token,
}

/// 128 bits of SHA-256 over a rule and an endpoint's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Token(u128);

impl Token {
    fn new(rule: &RuleId, endpoint: &Endpoint) -> Self {
        Self::after(rule_hasher("holdfast cookie", rule), endpoint)
    }

    /// The same for a hasher that has the rule already.
    fn after(mut hasher: Sha256, endpoint: &Endpoint) -> Self {
        hasher.update(endpoint.digest());
        let digest = hasher.finalize();
        Self(digest.iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte)))
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:032x}", self.issued, self.token.0)
    }
}

impl Value {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (issued, token) = text.split_once('-')?;
        let is_hex = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if token.len() != 32 || !is_hex(issued) || !is_hex(token) {
            return None;
        }
        Some(Self {
            issued: u64::from_str_radix(issued, 16).ok()?,
            token: Token(u128::from_str_radix(token, 16).ok()?),
        })
    }

    /// One from the future is: the clocks of two replicas need not agree.
    fn is_valid(&self, max_age: Duration, now: u64) -> bool {
        max_age.is_zero() || now.saturating_sub(self.issued) <= whole_seconds(max_age)
    }
}

/// A hasher that has taken in what a hash is for, and the rule. Lengths keep the parts apart.
fn rule_hasher(what: &str, rule: &RuleId) -> Sha256 {
    let mut hasher = Sha256::new();
    for text in [what, &rule.route.namespace, &rule.route.name, &rule.rule] {
        hasher.update((text.len() as u64).to_be_bytes());
        hasher.update(text);
    }
    hasher
}

/// The well-formed values of all cookies called `name`.
fn sent<'a>(client: &Client<'a>, name: &'a str) -> impl Iterator<Item = Value> + use<'a> {
    cookie_values(client.headers, name).filter_map(Value::parse)
}

/// The values of all cookies called `name`, without quotes. Whatever else is in the headers does not matter.
pub(super) fn cookie_values<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .flat_map(|header| header.as_bytes().split(|byte| *byte == b';'))
        .filter_map(move |pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (found, value) = pair.split_at(equals);
            if found.trim_ascii() != name.as_bytes() {
                return None;
            }
            let value = value[1..].trim_ascii();
            let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
            Some(unquoted.unwrap_or(value))
        })
}

fn written(cookie: &Cookie, value: &Value, matched_path: &str, tls: bool) -> String {
    let path = cookie.path.as_deref().unwrap_or(matched_path);
    let mut text = format!("{}={value}; Path={}", cookie.name, without_semicolon(path));
    let mut attribute = |name: &str, value: &dyn fmt::Display| {
        let _ = write!(text, "; {name}{value}");
    };
    if let Some(domain) = &cookie.domain {
        attribute("Domain=", domain);
    }
    if !cookie.max_age.is_zero() {
        attribute("Max-Age=", &whole_seconds(cookie.max_age)); // 0 would delete the cookie
    }
    let same_site = match cookie.same_site {
        SameSite::Strict => "Strict",
        SameSite::Lax => "Lax",
        SameSite::None => "None",
    };
    attribute("SameSite=", &same_site);
    let flags = [
        (cookie.secure.unwrap_or(tls), "Secure"),
        (cookie.http_only, "HttpOnly"),
        (cookie.partitioned, "Partitioned"),
    ];
    for (_, name) in flags.iter().filter(|(set, _)| *set) {
        attribute(name, &"");
    }
    text
}

/// A cookie's path cannot hold a semicolon: then it ends with the last element before it.
fn without_semicolon(path: &str) -> &str {
    let Some((before, _)) = path.split_once(';') else {
        return path;
    };
    match before.rfind('/') {
        None | Some(0) => "/",
        Some(slash) => &before[..slash],
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::routing::{
        balancer::{NoPick, PickedBy, pick},
        endpoint::{
            EndpointSet,
            State::{self, NotReady, Ready, Terminating},
        },
        fixture::{backend, by_cookie, client, cookie, endpoint, headers, ready, rule, rule_id, unresolved},
        route::{Balancing, OnUnavailable},
    };

    /// A rule with these backends, whose cookie is called `sticky`.
    fn sticky(on_unavailable: OnUnavailable, backends: Vec<super::super::Backend>) -> Rule {
        rule(Balancing::RoundRobin, by_cookie(cookie(), on_unavailable), backends)
    }

    /// The endpoint called `name` of a rule's first backend that has it.
    fn member(rule: &Rule, name: &str) -> Arc<Endpoint> {
        let sets = sets(rule);
        let mut members = sets.iter().flatten().flat_map(|set| set.members());
        let (endpoint, _) = members.find(|(endpoint, _)| endpoint.name() == name).unwrap();
        Arc::clone(endpoint)
    }

    /// The value that names an endpoint, issued `age` seconds before now.
    fn value(rule: &Rule, endpoint: &Endpoint, age: i64) -> String {
        let value = Value {
            issued: client(&HeaderMap::new()).now.saturating_add_signed(-age),
            token: Token::new(&rule.id, endpoint),
        };
        value.to_string()
    }

    fn first(rule: &Rule, cookie: &str) -> Result<(String, PickedBy), NoPick> {
        let headers = headers(&[("cookie", cookie)]);
        let pick = pick(rule, &client(&headers))?;
        let (endpoint, by) = &pick.candidates[0];
        Ok((endpoint.name().to_owned(), *by))
    }

    fn stays(rule: &Rule, cookie: &str, name: &str) -> bool {
        (0..8).all(|_| first(rule, cookie) == Ok((name.to_owned(), PickedBy::Cookie)))
    }

    fn is_dealt(rule: &Rule, cookie: &str) -> bool {
        (0..8).all(|_| first(rule, cookie).is_ok_and(|(_, by)| by == PickedBy::Algorithm))
    }

    #[test]
    fn a_cookie_that_was_set_brings_its_client_back() {
        let rule = sticky(OnUnavailable::Repick, vec![ready("a", 1, 5), ready("b", 1, 5)]);
        let nobody = HeaderMap::new();
        for name in ["a-0", "a-4", "b-2"] {
            let endpoint = member(&rule, name);
            let set = set_cookie(&rule, &client(&nobody), &endpoint, "/chat", false).unwrap();
            let (pair, _) = set.split_once(';').unwrap();
            assert!(stays(&rule, pair, name), "{set}");
            let again = headers(&[("cookie", pair)]);
            assert_eq!(set_cookie(&rule, &client(&again), &endpoint, "/chat", false), None);
            let other = member(&rule, "a-1");
            assert!(set_cookie(&rule, &client(&again), &other, "/chat", false).is_some());
        }
    }

    #[test]
    fn candidates_behind_a_cookie_are_the_algorithms() {
        let rule = sticky(OnUnavailable::Repick, vec![ready("a", 0, 5), ready("b", 1, 5)]);
        let headers = headers(&[("cookie", &format!("sticky={}", value(&rule, &member(&rule, "a-3"), 0)))]);
        let pick = pick(&rule, &client(&headers)).unwrap();
        assert_eq!(pick.candidates.len(), 4);
        assert_eq!(pick.candidates[0].0.name(), "a-3");
        for (endpoint, by) in &pick.candidates[1..] {
            assert!(endpoint.name().starts_with("b-"));
            assert_eq!(*by, PickedBy::Algorithm);
        }
    }

    #[test]
    fn those_with_a_cookie_take_nobodys_turn() {
        let rule = sticky(OnUnavailable::Repick, vec![ready("a", 1, 4)]);
        let cookie = format!("sticky={}", value(&rule, &member(&rule, "a-3"), 0));
        let mut dealt: Vec<_> = (0..4)
            .map(|_| {
                assert_eq!(first(&rule, &cookie), Ok(("a-3".to_owned(), PickedBy::Cookie)));
                first(&rule, "").unwrap().0
            })
            .collect();
        dealt.sort_unstable();
        assert_eq!(dealt, ["a-0", "a-1", "a-2", "a-3"]);
    }

    #[test]
    fn cookies_are_read_leniently() {
        let rule = sticky(OnUnavailable::Repick, vec![ready("a", 1, 5)]);
        let two = value(&rule, &member(&rule, "a-2"), 0);
        let three = value(&rule, &member(&rule, "a-3"), 0);
        let upper = two.to_ascii_uppercase();
        for cookies in [
            format!("sticky={two}"),
            format!("a=b; sticky={two}"),
            format!("a=b;sticky={two};c=d"),
            format!("  sticky = {two} "),
            format!("sticky=\"{two}\""),
            format!("sticky={upper}"),
            format!("sticky=nonsense; sticky={two}"),
            format!("sticky={two}; sticky={three}"),
            format!("sticky={}; sticky={two}", value(&rule, &endpoint("a", "gone"), 0)),
            format!("Sticky={three}; sticky={two}"),
            format!("broken; =x; ;; sticky={two}"),
            format!("ä=ö; sticky={two}"),
        ] {
            assert!(stays(&rule, &cookies, "a-2"), "{cookies}");
        }
        let repeated = headers(&[("cookie", "a=b"), ("cookie", &format!("sticky={two}"))]);
        let pick = pick(&rule, &client(&repeated)).unwrap();
        assert_eq!(pick.candidates[0].0.name(), "a-2");
    }

    #[test]
    fn a_cookie_that_means_nothing_is_none() {
        let rule = sticky(OnUnavailable::Fail, vec![ready("a", 1, 5)]);
        let good = value(&rule, &member(&rule, "a-2"), 0);
        let (issued, token) = good.split_once('-').unwrap();
        for value in [
            "",
            "-",
            "\"",
            token,
            &format!("-{token}"),
            &format!("{issued}-"),
            &format!("{issued}-{}", &token[1..]),
            &format!("{issued}-0{token}"),
            &format!("{issued}.{token}"),
            &format!("+{issued}-{token}"),
            &format!("{issued}-+{}", &token[1..]),
            &format!("10000000000000000-{token}"),
            &format!("xyz-{token}"),
            &format!("{issued}-{}", "0".repeat(32)),
            &format!("{good}-1"),
            &self::value(&rule, &endpoint("a", "gone"), 0),
        ] {
            assert!(is_dealt(&rule, &format!("sticky={value}")), "{value}");
        }
        let mut other = sticky(OnUnavailable::Repick, vec![ready("a", 1, 5)]);
        other.id = rule_id("chat", "1");
        assert!(is_dealt(&other, &format!("sticky={good}")), "another rule's");
        assert!(is_dealt(&rule, &format!("stick={good}")), "another name");
    }

    #[test]
    fn a_cookie_beats_weights_until_its_backend_goes() {
        let drained = sticky(OnUnavailable::Repick, vec![ready("a", 0, 2), ready("b", 1, 2)]);
        let cookie = format!("sticky={}", value(&drained, &member(&drained, "a-1"), 0));
        assert!(stays(&drained, &cookie, "a-1"));
        let all_zero = sticky(OnUnavailable::Repick, vec![ready("a", 0, 2)]);
        assert!(stays(&all_zero, &cookie, "a-1"));
        assert_eq!(first(&all_zero, "").unwrap_err(), NoPick::NoReadyEndpoint);
        let beside_unresolved = sticky(OnUnavailable::Repick, vec![ready("a", 0, 2), unresolved("b", 1)]);
        assert!(stays(&beside_unresolved, &cookie, "a-1"));
        let gone = sticky(OnUnavailable::Repick, vec![ready("b", 1, 2)]);
        assert!(is_dealt(&gone, &cookie));
    }

    #[test]
    fn what_happens_when_the_own_endpoint_takes_no_connections() {
        let of = |on_unavailable, states: &[State]| sticky(on_unavailable, vec![backend("a", 1, states)]);
        for (states, usable) in [
            (&[Ready, Ready][..], true),
            (&[Ready, NotReady], false),
            (&[Ready, Terminating], false),
            (&[NotReady, Terminating], true),
            (&[Terminating, Terminating], true),
        ] {
            let repick = of(OnUnavailable::Repick, states);
            let fail = of(OnUnavailable::Fail, states);
            let cookie = format!("sticky={}", value(&repick, &member(&repick, "a-1"), 0));
            if usable {
                assert!(stays(&repick, &cookie, "a-1") && stays(&fail, &cookie, "a-1"));
                let headers = headers(&[("cookie", &cookie)]);
                assert_eq!(
                    pick(&fail, &client(&headers)).unwrap().candidates.len(),
                    1,
                    "no other is dialled"
                );
            } else {
                assert!(is_dealt(&repick, &cookie));
                assert_eq!(first(&fail, &cookie), Err(NoPick::PersistedUnavailable));
            }
        }
    }

    #[test]
    fn the_index_follows_every_change_of_a_set() {
        let rule = sticky(OnUnavailable::Repick, vec![ready("a", 1, 2), ready("b", 1, 1)]);
        let cell = rule.backends[0].endpoints.clone().unwrap();
        let kept = member(&rule, "a-0");
        let cookie = format!("sticky={}", value(&rule, &kept, 0));
        let newcomer = endpoint("a", "uid");
        let of_newcomer = format!("sticky={}", value(&rule, &newcomer, 0));
        for _ in 0..50 {
            assert!(stays(&rule, &cookie, "a-0") && is_dealt(&rule, &of_newcomer));
            cell.store(EndpointSet::new(vec![
                (Arc::clone(&newcomer), Ready),
                (Arc::clone(&kept), Ready),
            ]));
            assert!(stays(&rule, &cookie, "a-0") && stays(&rule, &of_newcomer, "uid"));
            cell.store(EndpointSet::new(vec![(Arc::clone(&newcomer), Ready)]));
            assert!(is_dealt(&rule, &cookie) && stays(&rule, &of_newcomer, "uid"));
            cell.store(EndpointSet::new(vec![(Arc::clone(&kept), Ready)]));
        }
    }

    #[test]
    fn the_index_keeps_no_endpoint_alive() {
        let rule = sticky(OnUnavailable::Repick, vec![ready("a", 1, 1)]);
        let pod = Arc::downgrade(&member(&rule, "a-0"));
        let cookie = format!("sticky={}", value(&rule, &member(&rule, "a-0"), 0));
        assert!(stays(&rule, &cookie, "a-0"));
        rule.backends[0].endpoints.as_ref().unwrap().store(EndpointSet::default());
        assert_eq!(pod.strong_count(), 0);
    }

    #[test]
    fn a_cookie_is_as_old_as_max_age_at_most() {
        let aged = Cookie {
            max_age: Duration::from_secs(60),
            ..cookie()
        };
        let rule = rule(
            Balancing::RoundRobin,
            by_cookie(aged, OnUnavailable::Repick),
            vec![ready("a", 1, 3)],
        );
        let own = member(&rule, "a-1");
        for (age, valid) in [(0, true), (60, true), (61, false), (-1_000, true), (1_000_000, false)] {
            let cookie = format!("sticky={}", value(&rule, &own, age));
            assert_eq!(stays(&rule, &cookie, "a-1"), valid, "{age}");
            let headers = headers(&[("cookie", &cookie)]);
            let renewed = set_cookie(&rule, &client(&headers), &own, "/", false);
            assert_eq!(renewed.is_none(), valid, "{age}");
        }
        let endless = sticky(OnUnavailable::Repick, vec![ready("a", 1, 3)]);
        assert!(stays(
            &endless,
            &format!("sticky={}", value(&endless, &own, 1_000_000)),
            "a-1"
        ));
    }

    #[test]
    fn what_a_cookie_says() {
        let own = endpoint("a", "uid");
        let nobody = HeaderMap::new();
        let set = |change: &dyn Fn(&mut Cookie), matched_path, tls| {
            let mut cookie = cookie();
            change(&mut cookie);
            let rule = rule(Balancing::Random, by_cookie(cookie, OnUnavailable::Repick), vec![]);
            let set = set_cookie(&rule, &client(&nobody), &own, matched_path, tls).unwrap();
            let (pair, attributes) = set.split_once("; ").unwrap();
            assert_eq!(
                pair, "sticky=f4240-45eaa4d0ea05fb32aff58d469a1b8060",
                "never changes, or every client moves at an upgrade"
            );
            attributes.to_owned()
        };
        assert_eq!(set(&|_| (), "/chat", false), "Path=/chat; SameSite=Lax; HttpOnly");
        assert_eq!(set(&|_| (), "/", true), "Path=/; SameSite=Lax; Secure; HttpOnly");
        assert_eq!(
            set(&|cookie| cookie.secure = Some(false), "/", true),
            "Path=/; SameSite=Lax; HttpOnly"
        );
        let every = |cookie: &mut Cookie| {
            *cookie = Cookie {
                name: "sticky".into(),
                path: Some("/all".into()),
                domain: Some("example.com".into()),
                same_site: SameSite::None,
                secure: Some(true),
                http_only: false,
                partitioned: true,
                max_age: Duration::from_millis(3_600_500),
            }
        };
        assert_eq!(
            set(&every, "/chat", false),
            "Path=/all; Domain=example.com; Max-Age=3601; SameSite=None; Secure; Partitioned"
        );
        assert_eq!(
            set(&|cookie| cookie.same_site = SameSite::Strict, "/", false),
            "Path=/; SameSite=Strict; HttpOnly"
        );
    }

    #[test]
    fn a_path_with_a_semicolon_ends_before_it() {
        for (path, expected) in [
            ("/a;b", "/"),
            ("/a/b;c/d", "/a"),
            ("/a/b/;c", "/a/b"),
            (";", "/"),
            ("/a/b", "/a/b"),
        ] {
            assert_eq!(without_semicolon(path), expected, "{path}");
        }
    }

    #[test]
    fn rules_without_a_cookie_set_none() {
        let rule = rule(Balancing::Random, None, vec![ready("a", 1, 1)]);
        assert_eq!(
            set_cookie(&rule, &client(&HeaderMap::new()), &member(&rule, "a-0"), "/", false),
            None
        );
    }

    #[test]
    fn cookie_names_differ_by_rule_and_never_change() {
        assert_eq!(default_cookie_name(&rule_id("chat", "0")), "holdfast-821fb38b");
        assert_ne!(
            default_cookie_name(&rule_id("chat", "0")),
            default_cookie_name(&rule_id("chat", "1"))
        );
        assert_ne!(
            default_cookie_name(&rule_id("cha", "t0")),
            default_cookie_name(&rule_id("chat", "0"))
        );
    }
}
