//! The names of the control plane's metrics, and what each says: what a scrape carries and the reference documents.

use prometheus::proto::MetricType;

use crate::telemetry::metric::Name;

/// All of them.
pub const ALL: [Name; 8] = [
    ROUTES,
    SNAPSHOT_GENERATION,
    SNAPSHOT_BUILD_DURATION_SECONDS,
    WATCH_LAST_EVENT_TIMESTAMP_SECONDS,
    WATCH_ERRORS_TOTAL,
    LEADER,
    CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS,
    TICKET_KEYS_ROTATED_TIMESTAMP_SECONDS,
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
    help: "When something was last heard of the kind: a change, or from an API server that there is none. How old the view is.",
};
pub const WATCH_ERRORS_TOTAL: Name = Name {
    name: "holdfast_watch_errors_total",
    kind: MetricType::COUNTER,
    labels: "kind",
    help: "Lists and watches that failed, by kind; for kind Manifest, problems found in files.",
};
pub const CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS: Name = Name {
    name: "holdfast_certificate_expiry_timestamp_seconds",
    kind: MetricType::GAUGE,
    labels: "secret_namespace, secret",
    help: "When the certificate in use from this Secret expires.",
};
pub const TICKET_KEYS_ROTATED_TIMESTAMP_SECONDS: Name = Name {
    name: "holdfast_ticket_keys_rotated_timestamp_seconds",
    kind: MetricType::GAUGE,
    labels: "",
    help: "When the keys of session tickets that replicas share were last rotated; 0: a session is resumed only by the replica that \
           began it.",
};
pub const LEADER: Name = Name {
    name: "holdfast_leader",
    kind: MetricType::GAUGE,
    labels: "",
    help: "1 while this replica writes the status of routes, else 0; one replica of a class does.",
};
