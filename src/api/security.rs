//! Who may come in: pages of which origins, clients of which addresses.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{NETWORK, ORIGIN};

/// Who may come in.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Security {
    /// Which pages may open WebSockets. A browser sends a user's cookies with a handshake whichever page begins it, and CORS
    /// does not hold for WebSockets: without this, or a check in the application, a foreign page can act as the user.
    /// Default: all may; handshakes of foreign pages that carry cookies are counted in
    /// holdfast_cross_origin_handshakes_total.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origins: Option<Origins>,

    /// Which addresses clients may come from. Others are answered 403. It holds for every request, handshake or not.
    /// Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_ranges: Option<SourceRanges>,
}

/// Which pages may open WebSockets, by the Origin that a browser sends. Others are answered 403. It holds for handshakes only:
/// what other requests a page may make and read is told by the application's CORS fields, as everywhere.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("!has(self.policy) || self.policy != 'List' || has(self.allow)").message("policy List needs allow"),
    validation = Rule::new("!has(self.allow) || (has(self.policy) && self.policy != 'Any')")
        .message("allow needs policy List, SameOrigin or SameOriginIfCookies")
)]
#[serde(rename_all = "camelCase")]
pub struct Origins {
    /// Any: every page. List: only those in allow. SameOrigin: pages of the host that the handshake is for, of the route's own
    /// hostnames, and those in allow. SameOriginIfCookies: the same, but only where the handshake carries cookies other than
    /// the one of sessionPersistence; without them a foreign page can do no more than its author. Default: Any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<OriginPolicy>,

    /// Origins that may, each either a host, with any port and http or https, such as app.example.com; or an origin as a
    /// browser sends it, with its port unless that is the scheme's own, such as https://app.example.com:8443. A *. in front
    /// of the host stands for every host below it, not for the host itself. null: pages without an origin, such as files and
    /// sandboxed frames; everybody can make one. At most 64. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 300), regex(pattern = ORIGIN)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow: Vec<String>,

    /// Whether handshakes without Origin may: no browser sends them. Default: Allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<MissingOrigin>,
}

/// Which pages may open WebSockets.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum OriginPolicy {
    #[default]
    Any,
    List,
    SameOrigin,
    SameOriginIfCookies,
}

/// What becomes of a handshake without Origin.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum MissingOrigin {
    #[default]
    Allow,
    Deny,
}

/// Networks, such as 10.0.0.0/8, 2001:db8::/32, or one address. What counts is the client's address as trusted proxies tell
/// it. An IPv4 address counts as such however it is written; bits behind the prefix count for nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SourceRanges {
    /// Where clients must come from. From 1 to 256. Default: everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 2, max = 49), regex(pattern = NETWORK)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allow: Vec<String>,

    /// Where clients must not come from, whatever allow says. From 1 to 256. Default: nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 256),
        inner(length(min = 2, max = 49), regex(pattern = NETWORK)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub deny: Vec<String>,
}
