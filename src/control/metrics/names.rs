//! The names of the control plane's metrics, and what each says: what a scrape carries and the reference documents.

use prometheus::proto::MetricType;

use crate::telemetry::metric::Name;

/// All of them.
pub const ALL: [Name; 5] = [
    ROUTES,
    SNAPSHOT_GENERATION,
    SNAPSHOT_BUILD_DURATION_SECONDS,
    WATCH_LAST_EVENT_TIMESTAMP_SECONDS,
    WATCH_ERRORS_TOTAL,
];

pub const ROUTES: Name = Name {
    name: "holdfast_routes",
    kind: MetricType::GAUGE,
    labels: "state",
    help: "WebSocketRoutes of our class: programmed are served, rejected are not, pending wait.",
};
pub const SNAPSHOT_GENERATION: Name = Name {
    name: "holdfast_snapshot_generation",
    kind: MetricType::GAUGE,
    labels: "",
    help: "How many routing tables this process has published; grows by one with each.",
};
pub const SNAPSHOT_BUILD_DURATION_SECONDS: Name = Name {
    name: "holdfast_snapshot_build_duration_seconds",
    kind: MetricType::HISTOGRAM,
    labels: "",
    help: "How long a routing table took to build and publish.",
};
pub const WATCH_LAST_EVENT_TIMESTAMP_SECONDS: Name = Name {
    name: "holdfast_watch_last_event_timestamp_seconds",
    kind: MetricType::GAUGE,
    labels: "kind",
    help: "When an object of the kind last changed, or was last read at the start.",
};
pub const WATCH_ERRORS_TOTAL: Name = Name {
    name: "holdfast_watch_errors_total",
    kind: MetricType::COUNTER,
    labels: "kind",
    help: "Reads that failed: for kind Manifest, problems found in files.",
};
