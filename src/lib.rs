//! Holdfast: the WebSocket ingress that never drops a connection on a config change, and never ends one without
//! saying why. ARCHITECTURE.md says what the parts are.

pub mod cli;
pub mod routing;
pub mod telemetry;
pub mod proxy;
pub mod drain;
pub mod readiness;
