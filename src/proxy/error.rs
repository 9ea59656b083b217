//! Why a request got no 101 from us: one variant per reason, and in one match what the client reads and metrics count.

use http::StatusCode;

/// Why Holdfast answered a request by itself. Each reason has a word (metrics, logs, the `details` of `Proxy-Status`), an
/// HTTP status and an error type of RFC 9209.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The request is no valid HTTP/1.1 or no valid RFC 6455 handshake.
    MalformedRequest,
    /// No rule serves this host and path.
    NoRoute,
    /// A handshake with a method other than GET.
    MethodNotAllowed,
    /// The request's head did not arrive in time.
    RequestTimeout,
    /// The rule serves WebSocket handshakes only, and this is none.
    UpgradeRequired,
    /// `Sec-WebSocket-Version` is not 13.
    UnsupportedVersion,
    /// The host has TLS, and this request came without it.
    TlsRequired,
    /// The same, where the client is sent there.
    RedirectedToHttps,
    /// A request without TLS came to where clients connect with it.
    PlainOnTlsPort,
    /// A TLS handshake came to where clients connect without it.
    TlsOnPlainPort,
    /// The certificate that this connection was opened with is not the one of the host that the request names.
    Misdirected,
    /// `security.sourceRanges` does not let the client's address in.
    SourceRefused,
    /// `security.origins` does not let the page open a WebSocket.
    OriginRefused,
    /// The request's head is larger than 32 KiB or than `limits.maxHeaderBytes`, or has more than 100 fields.
    HeadersTooLarge,
    /// The rule serves files, and this process has no folder of them, or cannot read it.
    StaticUnavailable,
    /// The client begins more handshakes than `limits.handshakeRate` allows.
    HandshakeRateLimited {
        /// Seconds after which it would be let in.
        retry_after: u32,
    },
    /// The client has as many connections as `limits.maxConnectionsPerClient` allows.
    ClientConnectionLimit,
    /// The route has as many connections as `limits.maxConnections` allows.
    ConnectionLimit,
    /// Every endpoint that could be picked has as many connections as `limits.maxConnectionsPerEndpoint` allows.
    EndpointConnectionLimit,
    /// The backendRef whose turn it was cannot be resolved.
    UnresolvedBackend,
    /// Every candidate refused the dial or could not be reached.
    ConnectionRefused,
    /// No candidate answered the dial in time.
    DialTimeout,
    /// This machine has no free source port or socket left for the endpoint's address.
    SourcePortsExhausted,
    /// The endpoint ended the connection before its answer was complete.
    EndpointClosed,
    /// Whoever answered the dial could not show that it is the endpoint.
    EndpointCertificate,
    /// The endpoint ended the TLS handshake by an alert.
    EndpointTlsAlert,
    /// The endpoint does not speak TLS, or not as it should.
    EndpointTlsError,
    /// What a secure connection to the endpoint needs is not there.
    EndpointTlsUnusable,
    /// The endpoint's answer is no valid HTTP/1.1.
    EndpointProtocolError,
    /// The endpoint's 101 is no valid answer to this handshake.
    InvalidUpgrade,
    /// No endpoint of the rule takes new connections.
    NoReadyEndpoint,
    /// The client's own endpoint takes no new connections, and the route says `onUnavailable: Fail`.
    SessionUnavailable,
    /// As many connections as this process may hold are open.
    Overload,
    /// This process is shutting down.
    Draining,
    /// The endpoint did not answer the handshake in time.
    HandshakeTimeout,
    /// The client left before its answer.
    ClientGone,
    /// A defect in Holdfast.
    Internal,
}

/// What a [`Reason`] means on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub word: &'static str,
    pub status: StatusCode,
    /// RFC 9209, section 2.3; `None`: nobody is left to read it.
    pub proxy_error: Option<&'static str>,
    /// One line for a person.
    pub text: &'static str,
}

impl Reason {
    pub const ALL: [Self; 37] = [
        Self::MalformedRequest,
        Self::NoRoute,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::UpgradeRequired,
        Self::UnsupportedVersion,
        Self::TlsRequired,
        Self::RedirectedToHttps,
        Self::PlainOnTlsPort,
        Self::TlsOnPlainPort,
        Self::Misdirected,
        Self::SourceRefused,
        Self::OriginRefused,
        Self::HeadersTooLarge,
        Self::StaticUnavailable,
        Self::HandshakeRateLimited { retry_after: 1 },
        Self::ClientConnectionLimit,
        Self::ConnectionLimit,
        Self::EndpointConnectionLimit,
        Self::UnresolvedBackend,
        Self::ConnectionRefused,
        Self::DialTimeout,
        Self::SourcePortsExhausted,
        Self::EndpointClosed,
        Self::EndpointCertificate,
        Self::EndpointTlsAlert,
        Self::EndpointTlsError,
        Self::EndpointTlsUnusable,
        Self::EndpointProtocolError,
        Self::InvalidUpgrade,
        Self::NoReadyEndpoint,
        Self::SessionUnavailable,
        Self::Overload,
        Self::Draining,
        Self::HandshakeTimeout,
        Self::ClientGone,
        Self::Internal,
    ];

    /// The one place that says what each reason means outside.
    pub fn answer(self) -> Answer {
        let (word, status, proxy_error, text) = match self {
            Self::MalformedRequest => ("malformed_request", 400, "http_request_error", "The request is malformed."),
            Self::NoRoute => (
                "no_route",
                404,
                "destination_not_found",
                "No route serves this host and path.",
            ),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                405,
                "http_request_error",
                "A WebSocket handshake is a GET.",
            ),
            Self::RequestTimeout => (
                "request_timeout",
                408,
                "http_request_error",
                "The request did not arrive in time.",
            ),
            Self::UpgradeRequired => (
                "upgrade_required",
                426,
                "http_request_error",
                "Only WebSocket handshakes are served here.",
            ),
            Self::UnsupportedVersion => (
                "unsupported_version",
                426,
                "http_request_error",
                "Only version 13 of WebSocket is served.",
            ),
            Self::TlsRequired => (
                "tls_required",
                421,
                "http_request_error",
                "This host is served with TLS only.",
            ),
            Self::RedirectedToHttps => (
                "redirected_to_https",
                308,
                "http_request_error",
                "This host is served with TLS.",
            ),
            Self::PlainOnTlsPort => (
                "plain_on_tls_port",
                400,
                "http_request_error",
                "TLS is spoken on this port: use wss:// or https://.",
            ),
            Self::TlsOnPlainPort => (
                "tls_on_plain_port",
                400,
                "http_request_error",
                "No TLS is spoken on this port.",
            ),
            Self::Misdirected => (
                "misdirected",
                421,
                "http_request_error",
                "This connection was opened for another host.",
            ),
            Self::SourceRefused => (
                "source_refused",
                403,
                "http_request_denied",
                "Clients of this address are not served here.",
            ),
            Self::OriginRefused => (
                "origin_refused",
                403,
                "http_request_denied",
                "Pages of this origin may not open a WebSocket here.",
            ),
            Self::HeadersTooLarge => (
                "headers_too_large",
                431,
                "http_request_error",
                "The request's header fields are too large.",
            ),
            Self::StaticUnavailable => (
                "static_unavailable",
                500,
                "proxy_configuration_error",
                "The files of this route cannot be read.",
            ),
            Self::HandshakeRateLimited { .. } => (
                "handshake_rate_limited",
                429,
                "http_request_denied",
                "Too many connection attempts; try again later.",
            ),
            Self::ClientConnectionLimit => (
                "client_connection_limit",
                429,
                "http_request_denied",
                "Too many connections of yours are open.",
            ),
            Self::ConnectionLimit => (
                "connection_limit",
                503,
                "connection_limit_reached",
                "Too many connections are open here.",
            ),
            Self::EndpointConnectionLimit => (
                "endpoint_connection_limit",
                503,
                "connection_limit_reached",
                "No endpoint takes one more connection.",
            ),
            Self::UnresolvedBackend => (
                "unresolved_backend",
                500,
                "proxy_configuration_error",
                "The route names a Service that cannot be resolved.",
            ),
            Self::ConnectionRefused => (
                "connection_refused",
                502,
                "connection_refused",
                "No endpoint accepted the connection.",
            ),
            Self::DialTimeout => ("dial_timeout", 504, "connection_timeout", "No endpoint answered in time."),
            Self::SourcePortsExhausted => (
                "source_ports_exhausted",
                503,
                "connection_limit_reached",
                "No more connections to the endpoint can be made.",
            ),
            Self::EndpointClosed => (
                "endpoint_closed",
                502,
                "connection_terminated",
                "The endpoint ended the connection.",
            ),
            Self::EndpointCertificate => (
                "endpoint_certificate",
                502,
                "tls_certificate_error",
                "The endpoint's certificate cannot be verified.",
            ),
            Self::EndpointTlsAlert => (
                "endpoint_tls_alert",
                502,
                "tls_alert_received",
                "The endpoint refused the TLS connection.",
            ),
            Self::EndpointTlsError => (
                "endpoint_tls_error",
                502,
                "tls_protocol_error",
                "The endpoint does not speak TLS as it should.",
            ),
            Self::EndpointTlsUnusable => (
                "endpoint_tls_unusable",
                502,
                "tls_certificate_error",
                "What a secure connection to the endpoint needs is missing.",
            ),
            Self::EndpointProtocolError => (
                "endpoint_protocol_error",
                502,
                "http_protocol_error",
                "The endpoint's answer is not valid HTTP.",
            ),
            Self::InvalidUpgrade => (
                "invalid_upgrade",
                502,
                "http_upgrade_failed",
                "The endpoint's answer to the handshake is not valid.",
            ),
            Self::NoReadyEndpoint => ("no_ready_endpoint", 503, "destination_unavailable", "No endpoint is ready."),
            Self::SessionUnavailable => (
                "session_unavailable",
                503,
                "destination_unavailable",
                "The endpoint of this session is not ready.",
            ),
            Self::Overload => ("overload", 503, "connection_limit_reached", "Too many connections are open."),
            Self::Draining => (
                "draining",
                503,
                "proxy_internal_response",
                "This server is shutting down; connect again.",
            ),
            Self::HandshakeTimeout => (
                "handshake_timeout",
                504,
                "http_response_timeout",
                "The endpoint did not answer the handshake in time.",
            ),
            Self::ClientGone => ("client_gone", 499, "", ""),
            Self::Internal => ("internal", 500, "proxy_internal_error", "Something went wrong here."),
        };
        Answer {
            word,
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            proxy_error: (!proxy_error.is_empty()).then_some(proxy_error),
            text,
        }
    }

    pub fn word(self) -> &'static str {
        self.answer().word
    }

    pub fn status(self) -> StatusCode {
        self.answer().status
    }

    /// Seconds after which trying again makes sense, for answers that carry `Retry-After`. Spread by the caller.
    pub fn retry_after(self) -> Option<u32> {
        match self {
            Self::Draining => Some(1),
            Self::NoReadyEndpoint
            | Self::SessionUnavailable
            | Self::Overload
            | Self::SourcePortsExhausted
            | Self::ClientConnectionLimit
            | Self::ConnectionLimit
            | Self::EndpointConnectionLimit => Some(5),
            Self::HandshakeRateLimited { retry_after } => Some(retry_after),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_word_and_a_real_status() {
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.status().as_u16() >= 300, "{reason:?}");
        }
    }
}
