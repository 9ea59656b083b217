//! Holdfast: the WebSocket ingress that never drops a connection on a config change, and never ends one without
//! saying why. ARCHITECTURE.md says what the parts are.

pub mod admin;
pub mod api;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod drain;
pub mod headroom;
pub mod live;
pub mod proxy;
pub mod readiness;
pub mod routing;
pub mod telemetry;
pub mod web;
pub mod why;
