//! Objects as a test writes them: complete where nothing matters, to be changed where something does.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::endpoint::{Echo, PORT};

/// A WebSocketRoute without a class, for every host: everything below `path` goes to port 80 of a Service.
pub fn route(name: &str, path: &str, service: &str) -> Value {
    json!({
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "WebSocketRoute",
        "metadata": {"name": name},
        "spec": {
            "rules": [{
                "name": "main",
                "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                "backendRefs": [{"name": service, "port": 80}],
            }],
        },
    })
}

/// A Service with port 80 and no selector, so that nobody but the test makes its EndpointSlices.
pub fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}]},
    })
}

/// An EndpointSlice of a Service's unnamed port with these endpoints, all of one address family, on the port of [`Echo`].
pub fn slice(name: &str, service: &str, endpoints: Vec<Value>) -> Value {
    let first = endpoints.first().and_then(|endpoint| endpoint["addresses"][0].as_str());
    let is_ipv6 = first.is_some_and(|address| address.contains(':'));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "test"},
        },
        "addressType": if is_ipv6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "", "port": PORT, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// An endpoint that is ready.
pub fn ready(address: IpAddr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true, "serving": true, "terminating": false}})
}

/// An endpoint that starts or fails its probe.
pub fn unready(address: IpAddr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": false, "terminating": false}})
}

/// An endpoint whose pod is being deleted and still serves.
pub fn terminating(address: IpAddr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": false, "serving": true, "terminating": true}})
}

/// The same endpoint as a pod's, by name and UID.
pub fn of_pod(mut endpoint: Value, namespace: &str, name: &str, uid: &str) -> Value {
    endpoint["targetRef"] = json!({"kind": "Pod", "namespace": namespace, "name": name, "uid": uid});
    endpoint
}

/// A slice in which all of these are ready.
pub fn slice_of(name: &str, service: &str, endpoints: &[&Echo]) -> Value {
    slice(name, service, endpoints.iter().map(|echo| ready(echo.ip())).collect())
}
