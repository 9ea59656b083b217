//! What an access line can have in it. A test compares it with lines that the program writes.

/// One field of an access line.
#[derive(Debug)]
pub struct Field {
    /// In JSON; a dot in it is part of the name.
    pub json: &'static str,
    /// In text; empty: not there.
    pub text: &'static str,
    /// The events whose lines can have it, comma-separated.
    pub events: &'static str,
    pub meaning: &'static str,
}

const EVERY: &str = "opened, ended, refused, answered";
const REQUEST: &str = "opened, refused, answered";
const ENDED: &str = "ended";

/// Shortens the table below.
const fn field(json: &'static str, text: &'static str, events: &'static str, meaning: &'static str) -> Field {
    Field {
        json,
        text,
        events,
        meaning,
    }
}

/// All of them, in the order in which a line has them. Of two that share a name in text, the text has both in one.
pub const FIELDS: [Field; 49] = [
    field("timestamp", "", EVERY, "RFC 3339, UTC, milliseconds. Text begins with it."),
    field("level", "", EVERY, "INFO."),
    field(
        "message",
        "",
        EVERY,
        "The event for a person. In text, its last word is the second column.",
    ),
    field("target", "", EVERY, "holdfast::access."),
    field("event.name", "", EVERY, "Which event, see above."),
    field("service.name", "", EVERY, "holdfast."),
    field("service.version", "", EVERY, "The version that wrote the line."),
    field(
        "network.protocol.name",
        "",
        EVERY,
        "websocket; http for an answered plain request.",
    ),
    field("k8s.pod.name", "", EVERY, "Our own pod, where POD_NAME says so."),
    field(
        "holdfast.connection.id",
        "id",
        EVERY,
        "The same in all lines of one connection.",
    ),
    field(
        "holdfast.route.namespace",
        "route",
        EVERY,
        "The matched rule; in text NAMESPACE/NAME#RULE. None: no rule matched.",
    ),
    field("holdfast.route.name", "route", EVERY, "Its WebSocketRoute."),
    field("holdfast.rule.name", "route", EVERY, "Its name or number in there."),
    field(
        "client.address",
        "client",
        EVERY,
        "The client, as far as it can be known; in text with its port.",
    ),
    field("client.port", "client", EVERY, "Its port."),
    field(
        "network.peer.address",
        "peer",
        REQUEST,
        "Who connected, if that was not the client: a load balancer.",
    ),
    field("server.address", "host", REQUEST, "The Host that was asked for."),
    field("server.address", "target", ENDED, "The same; in text together with the path."),
    field(
        "url.scheme",
        "",
        REQUEST,
        "http or https: how the client came, by the word of a trusted proxy too.",
    ),
    field(
        "tls.protocol.version",
        "tls",
        REQUEST,
        "1.2 or 1.3, of a client that came with TLS.",
    ),
    field(
        "url.path",
        "path",
        REQUEST,
        "The path. The query is never written: tokens live there.",
    ),
    field("url.path", "target", ENDED, "The same."),
    field(
        "holdfast.cross_origin",
        "origin",
        "opened, refused",
        "Origin of a foreign page, if it was refused or its handshake carries cookies other than ours.",
    ),
    field("http.request.id", "request", REQUEST, "X-Request-Id, as the endpoint got it."),
    field("user_agent.original", "agent", REQUEST, "What the client says it is."),
    field(
        "holdfast.limit.dry_run",
        "dry_run",
        REQUEST,
        "The limit that would have refused it, if limits.dryRun were off.",
    ),
    field(
        "holdfast.handshake.attempts",
        "attempts",
        "opened, refused",
        "How many endpoints were sent the handshake, if more than one (retry).",
    ),
    field(
        "holdfast.endpoint.pod",
        "endpoint",
        EVERY,
        "The endpoint's pod, its address where it has none.",
    ),
    field(
        "destination.address",
        "address",
        EVERY,
        "The endpoint; in text with its port.",
    ),
    field("destination.port", "address", EVERY, "Its port."),
    field(
        "http.response.status_code",
        "status",
        REQUEST,
        "What the client was answered; 499: it had left.",
    ),
    field(
        "error.type",
        "reason",
        "refused",
        "The reason; endpoint: the answer was the endpoint's own.",
    ),
    field(
        "holdfast.answer.cut",
        "cut",
        "refused, answered",
        "Why an answer that was not ours broke off: client_gone, client_stalled (timeouts.send), endpoint_gone or another reason \
         or cause.",
    ),
    field("error.type", "", ENDED, "The cause, when something failed."),
    field(
        "holdfast.subprotocol",
        "subprotocol",
        "opened",
        "The subprotocol that the endpoint chose.",
    ),
    field(
        "holdfast.handshake.duration_seconds",
        "handshake",
        "opened",
        "From the request to its 101.",
    ),
    field("holdfast.duration_seconds", "age", ENDED, "From the 101 to the end."),
    field("holdfast.end.initiator", "by", ENDED, "Who moved first."),
    field("holdfast.end.cause", "cause", ENDED, "Why."),
    field(
        "holdfast.close.client.code",
        "client_saw",
        ENDED,
        "The code of the Close that the client was sent, whoever wrote it.",
    ),
    field(
        "holdfast.close.client.received",
        "client_said",
        ENDED,
        "The code of the Close that it sent; 1005: one without a code.",
    ),
    field(
        "holdfast.close.endpoint.code",
        "endpoint_saw",
        ENDED,
        "The code of the Close that the endpoint was sent.",
    ),
    field(
        "holdfast.close.endpoint.received",
        "endpoint_said",
        ENDED,
        "The code of the Close that it sent.",
    ),
    field(
        "holdfast.end.mid_frame",
        "mid_frame",
        ENDED,
        "A Close could not be sent: its receiver was in the middle of a frame.",
    ),
    field(
        "holdfast.bytes.to_endpoint",
        "in",
        ENDED,
        "Bytes read from the client after the handshake.",
    ),
    field(
        "holdfast.bytes.to_client",
        "out",
        ENDED,
        "Bytes read from the endpoint after the handshake.",
    ),
    field(
        "holdfast.messages.to_endpoint",
        "messages_in",
        ENDED,
        "Messages read from the client.",
    ),
    field(
        "holdfast.messages.to_client",
        "messages_out",
        ENDED,
        "Messages read from the endpoint.",
    ),
    field(
        "holdfast.heartbeat.rtt_seconds",
        "rtt",
        ENDED,
        "The last round trip of a ping of ours to the client.",
    ),
];
