//! With which certificates a route's hosts are served.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{HOSTNAME, LABEL, SUBDOMAIN};

/// A certificate, and the hosts that it is for.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RouteTls {
    /// The Secret with the certificate and its key, of type kubernetes.io/tls. A new certificate in it is shown to new
    /// connections at once; open ones stay as they are. One that cannot be used leaves the last good one in effect; without
    /// any, the hosts are not served.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub secret_name: String,

    /// The Secret's namespace. In another one than the route's, a ReferenceGrant must allow it. Default: the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub secret_namespace: Option<String>,

    /// Which of the route's hostnames the certificate is for. Where two certificates are named for one host, the older
    /// route's counts, and in a route the first. At most 64. Default: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 253), regex(pattern = HOSTNAME)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub hosts: Vec<String>,

    /// Whether the hosts are served without TLS as well. Without, no route serves them in plain, whichever route names the
    /// certificate: such requests are answered 421, or 308 with --https-redirect. Default: false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_plain: Option<bool>,
}
