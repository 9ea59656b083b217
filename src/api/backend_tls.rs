//! How connections to a route's endpoints are made secure.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pattern::{KIND, LABEL, SUBDOMAIN};

/// TLS towards the endpoints.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[x_kube(
    validation = Rule::new("(has(self.mode) && self.mode == 'Mutual') == has(self.clientCertificateRef)")
        .message("mode Mutual needs clientCertificateRef, and no other mode has one"),
    validation = Rule::new("!has(self.mode) || self.mode != 'Disable' || (!has(self.caRef) && !has(self.hostname))")
        .message("mode Disable has neither caRef nor hostname")
)]
#[serde(rename_all = "camelCase")]
pub struct BackendTls {
    /// Disable: connections to the endpoints are plain. Simple: they use TLS 1.2 or 1.3, and an endpoint must show a
    /// certificate for hostname by somebody of caRef. Mutual: the same, and the endpoint is shown the certificate of
    /// clientCertificateRef. It holds for all backendRefs, whatever their Services say. Default: what the appProtocol of
    /// each Service's port says: https, wss and kubernetes.io/wss are Simple, all others Disable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<BackendTlsMode>,

    /// Who must have signed the endpoints' certificates: the certificates in ca.crt of a Secret of type kubernetes.io/tls,
    /// which cert-manager puts there; a Secret for this purpose alone leaves tls.crt and tls.key empty. What cannot be used
    /// leaves the last good ones in effect; without any, nothing connects. Default: the authorities that the system of
    /// Holdfast's own process trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_ref: Option<SecretRef>,

    /// The name that the endpoints are asked for (SNI), and that their certificates must be for. Default: of each Service
    /// NAME.NAMESPACE.svc, or its externalName.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub hostname: Option<String>,

    /// The certificate that the endpoints are shown: a Secret of type kubernetes.io/tls. A new one in it is shown to new
    /// connections at once; open ones stay as they are. Only with mode Mutual, which needs it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
}

/// Whether connections to endpoints use TLS.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum BackendTlsMode {
    Disable,
    Simple,
    Mutual,
}

/// A Secret of type kubernetes.io/tls.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The kind of what is referred to. Only a Secret can be: no right to read ConfigMaps is asked for. Default: Secret.
    #[serde(default = "secret")]
    #[schemars(length(min = 1, max = 63), regex(pattern = KIND))]
    pub kind: String,

    /// The Secret's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = SUBDOMAIN))]
    pub name: String,

    /// The Secret's namespace. In another one than the route's, a ReferenceGrant must allow it. Default: the route's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL))]
    pub namespace: Option<String>,
}

fn secret() -> String {
    "Secret".to_owned()
}
