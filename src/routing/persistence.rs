//! Session persistence: the cookie that names an endpoint without giving its name away, and weighted rendezvous hashing.

use super::{
    balancer::Client,
    endpoint::Endpoint,
    route::{Rule, RuleId},
};

/// The `Set-Cookie` value for a client that `rule` sent to `endpoint`, or `None` where the rule has no cookie or the
/// client's own already says so. `matched_path` is the path that matched; `tls`: whether the client came by TLS.
pub fn set_cookie(_rule: &Rule, _client: &Client<'_>, _endpoint: &Endpoint, _matched_path: &str, _tls: bool) -> Option<String> {
    None
}

/// The name of a rule's cookie where the route gives none: `holdfast-` and 8 hex digits, so that the cookies of two rules
/// on one host do not overwrite each other.
pub fn default_cookie_name(_rule: &RuleId) -> String {
    String::from("holdfast-00000000")
}
