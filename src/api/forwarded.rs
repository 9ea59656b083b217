//! What endpoints are told of who the client is.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What endpoints are told of who the client is.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Forwarded {
    /// X-Forwarded-For. Append: the address that the connection came from, behind what a trusted proxy said. Replace: the
    /// client's address alone. None: Holdfast adds none; what a trusted proxy said passes. Default: Append.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_forwarded_for: Option<ForwardedMode>,

    /// Whether X-Real-IP tells the client's address. Default: true.
    #[serde(rename = "xRealIP", skip_serializing_if = "Option::is_none")]
    pub x_real_ip: Option<bool>,

    /// Forwarded, as in RFC 7239, with for, host and proto. Append: one more element. Replace: one
    /// alone. None: the field is left as it is, if a trusted proxy sent it. Where a trusted proxy sent
    /// X-Forwarded-For but no Forwarded, Append takes its addresses over. Default: None.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forwarded: Option<ForwardedMode>,
}

/// What becomes of a field that names the client. There is no "Off": YAML 1.1 reads that as false.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum ForwardedMode {
    Append,
    Replace,
    None,
}
