//! The names of the data plane's metrics, and what each says: what a scrape carries and the reference documents.

use prometheus::proto::MetricType;

pub use crate::telemetry::metric::Name;

/// All of them.
pub const ALL: [Name; 31] = [
    CLOSE_CODES_TOTAL,
    HEARTBEATS_MISSED_TOTAL,
    HEARTBEAT_RTT_SECONDS,
    STALLED_CONNECTIONS,
    DELAYED_CONNECTIONS,
    DRAIN_REMAINING,
    WORKER_CONNECTIONS_ACTIVE,
    WORKER_BUSY_SECONDS_TOTAL,
    RECORDS_DROPPED_TOTAL,
    UNTRUSTED_FORWARDERS_TOTAL,
    ACCEPT_ERRORS_TOTAL,
    TLS_HANDSHAKES_TOTAL,
    ENDPOINT_CONNECTIONS_ACTIVE,
    ENDPOINT_DIALS_TOTAL,
    ENDPOINT_EJECTED,
    ENDPOINT_EJECTIONS_TOTAL,
    CONNECTIONS_ACTIVE,
    HANDSHAKES_TOTAL,
    HANDSHAKE_DURATION_SECONDS,
    HANDSHAKE_RETRIES_TOTAL,
    ENDS_TOTAL,
    CONNECTION_DURATION_SECONDS,
    RELAYED_BYTES_TOTAL,
    RELAYED_MESSAGES_TOTAL,
    TUNNEL_LIMITED_TOTAL,
    DELAYED_SECONDS_TOTAL,
    FALLBACK_REQUESTS_TOTAL,
    LIMITED_TOTAL,
    LIMITED_CLIENTS,
    LIMITED_CLIENTS_EVICTED_TOTAL,
    CROSS_ORIGIN_HANDSHAKES_TOTAL,
];

pub const CLOSE_CODES_TOTAL: Name = Name {
    name: "holdfast_close_codes_total",
    kind: MetricType::COUNTER,
    labels: "initiator, code",
    help: "Close frames that clients and endpoints sent, by code; none: ended without one.",
};
pub const HEARTBEATS_MISSED_TOTAL: Name = Name {
    name: "holdfast_heartbeats_missed_total",
    kind: MetricType::COUNTER,
    labels: "leg",
    help: "Intervals of silence after a ping of ours.",
};
pub const HEARTBEAT_RTT_SECONDS: Name = Name {
    name: "holdfast_heartbeat_rtt_seconds",
    kind: MetricType::HISTOGRAM,
    labels: "leg",
    help: "Time from a ping of ours to its pong.",
};
pub const STALLED_CONNECTIONS: Name = Name {
    name: "holdfast_stalled_connections",
    kind: MetricType::GAUGE,
    labels: "",
    help: "Tunnels of which a side accepts none of the bytes queued for it.",
};
pub const DELAYED_CONNECTIONS: Name = Name {
    name: "holdfast_delayed_connections",
    kind: MetricType::GAUGE,
    labels: "",
    help: "Tunnels of which a side is not read, because it sent more than limits.tunnel allows.",
};
pub const DRAIN_REMAINING: Name = Name {
    name: "holdfast_drain_remaining",
    kind: MetricType::GAUGE,
    labels: "",
    help: "Tunnels that the drain under way has still to end.",
};
pub const WORKER_CONNECTIONS_ACTIVE: Name = Name {
    name: "holdfast_worker_connections_active",
    kind: MetricType::GAUGE,
    labels: "worker",
    help: "Connections of each worker: in a request or in a tunnel.",
};
pub const WORKER_BUSY_SECONDS_TOTAL: Name = Name {
    name: "holdfast_worker_busy_seconds_total",
    kind: MetricType::COUNTER,
    labels: "worker",
    help: "Time that each worker was not waiting for sockets.",
};
pub const RECORDS_DROPPED_TOTAL: Name = Name {
    name: "holdfast_records_dropped_total",
    kind: MetricType::COUNTER,
    labels: "",
    help: "Access lines that were lost because nobody read them in time.",
};
pub const UNTRUSTED_FORWARDERS_TOTAL: Name = Name {
    name: "holdfast_untrusted_forwarders_total",
    kind: MetricType::COUNTER,
    labels: "",
    help: "Requests with X-Forwarded-For or a PROXY header from private addresses that are no trusted proxies.",
};
pub const ACCEPT_ERRORS_TOTAL: Name = Name {
    name: "holdfast_accept_errors_total",
    kind: MetricType::COUNTER,
    labels: "",
    help: "Connections that could not be accepted.",
};
pub const TLS_HANDSHAKES_TOTAL: Name = Name {
    name: "holdfast_tls_handshakes_total",
    kind: MetricType::COUNTER,
    labels: "result",
    help: "TLS handshakes with clients, by how they went.",
};
pub const ENDPOINT_CONNECTIONS_ACTIVE: Name = Name {
    name: "holdfast_endpoint_connections_active",
    kind: MetricType::GAUGE,
    labels: "endpoint_namespace, endpoint_service, endpoint_pod",
    help: "Handshakes under way and tunnels, by endpoint, of this process.",
};
pub const ENDPOINT_DIALS_TOTAL: Name = Name {
    name: "holdfast_endpoint_dials_total",
    kind: MetricType::COUNTER,
    labels: "endpoint_namespace, endpoint_service, endpoint_pod, result",
    help: "Dials, by endpoint and how they went.",
};
pub const ENDPOINT_EJECTED: Name = Name {
    name: "holdfast_endpoint_ejected",
    kind: MetricType::GAUGE,
    labels: "endpoint_namespace, endpoint_service, endpoint_pod, reason",
    help: "1: passive health of this process leaves the endpoint out; 0: it did. By the reason of the last ejection.",
};
pub const ENDPOINT_EJECTIONS_TOTAL: Name = Name {
    name: "holdfast_endpoint_ejections_total",
    kind: MetricType::COUNTER,
    labels: "reason",
    help: "Ejections of endpoints by passive health, those after a failed trial included, by the most frequent failure.",
};
pub const CONNECTIONS_ACTIVE: Name = Name {
    name: "holdfast_connections_active",
    kind: MetricType::GAUGE,
    labels: "route_namespace, route, rule",
    help: "Open tunnels.",
};
pub const HANDSHAKES_TOTAL: Name = Name {
    name: "holdfast_handshakes_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, code, reason",
    help: "Answers to WebSocket handshakes, by status and reason; endpoint: the answer was the endpoint's.",
};
pub const HANDSHAKE_DURATION_SECONDS: Name = Name {
    name: "holdfast_handshake_duration_seconds",
    kind: MetricType::HISTOGRAM,
    labels: "route_namespace, route, rule",
    help: "From a handshake's request to its 101.",
};
pub const HANDSHAKE_RETRIES_TOTAL: Name = Name {
    name: "holdfast_handshake_retries_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, reason",
    help: "Handshakes that were sent to one more endpoint, by what the one before did; endpoint: it answered with a status of retry.codes.",
};
pub const ENDS_TOTAL: Name = Name {
    name: "holdfast_ends_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, initiator, cause",
    help: "Ended tunnels, by who moved first and why.",
};
pub const CONNECTION_DURATION_SECONDS: Name = Name {
    name: "holdfast_connection_duration_seconds",
    kind: MetricType::HISTOGRAM,
    labels: "route_namespace, route, rule",
    help: "Age of tunnels at their end.",
};
pub const RELAYED_BYTES_TOTAL: Name = Name {
    name: "holdfast_relayed_bytes_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, direction",
    help: "Bytes read from a side, frames' headers included.",
};
pub const RELAYED_MESSAGES_TOTAL: Name = Name {
    name: "holdfast_relayed_messages_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, direction",
    help: "Messages whose last byte was read from a side.",
};
pub const TUNNEL_LIMITED_TOTAL: Name = Name {
    name: "holdfast_tunnel_limited_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, direction, limit, outcome",
    help: "Limits of limits.tunnel that were reached, by what came of it; dry_run: nothing.",
};
pub const DELAYED_SECONDS_TOTAL: Name = Name {
    name: "holdfast_delayed_seconds_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, direction",
    help: "Time for which sides were not read, because they sent more than limits.tunnel allows.",
};
pub const FALLBACK_REQUESTS_TOTAL: Name = Name {
    name: "holdfast_fallback_requests_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, code",
    help: "Answers to requests that are no WebSocket handshakes, by status.",
};
pub const LIMITED_TOTAL: Name = Name {
    name: "holdfast_limited_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, limit, mode",
    help: "What limits refused (mode enforced), or would have refused if they were no dry run (dry_run), by limit.",
};
pub const LIMITED_CLIENTS: Name = Name {
    name: "holdfast_limited_clients",
    kind: MetricType::GAUGE,
    labels: "limit",
    help: "Clients that limits keep a count of: those with open connections, and those that began a handshake not long ago.",
};
pub const LIMITED_CLIENTS_EVICTED_TOTAL: Name = Name {
    name: "holdfast_limited_clients_evicted_total",
    kind: MetricType::COUNTER,
    labels: "",
    help: "Clients whose handshakes were forgotten too early because a million and a half were remembered.",
};
pub const CROSS_ORIGIN_HANDSHAKES_TOTAL: Name = Name {
    name: "holdfast_cross_origin_handshakes_total",
    kind: MetricType::COUNTER,
    labels: "route_namespace, route, rule, verdict",
    help: "WebSocket handshakes of foreign pages: passed although they carry cookies other than ours, or refused.",
};
