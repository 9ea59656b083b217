//! What every word means, in one table: reasons, causes, conditions and the reasons of conditions, findings about installations.
//!
//! The words and what goes over the wire belong to the proxy's enums; a test holds the two together.

/// One word, explained.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) word: &'static str,
    pub(super) kind: Kind,
    /// One sentence.
    pub(super) brief: &'static str,
    /// How it comes to that.
    pub(super) how: &'static str,
    /// What the endpoint, or for conditions the reader of the status, sees; empty where the code of the Close says it.
    pub(super) seen: &'static str,
    /// What to do.
    pub(super) fix: &'static str,
}

/// What sort of word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A refusal, before the 101.
    Reason,
    /// The end of a tunnel, after the 101.
    Cause,
    /// What an endpoint is left out for, where no refusal and no end has the same word.
    Failure,
    /// A condition's type, in a WebSocketRoute's status.
    Condition,
    /// A condition's reason; the field names the types it stands in.
    ConditionReason(&'static str),
    /// What `holdfast check` finds about an installation; the field names its section.
    Finding(&'static str),
}

/// Every word, by kind and then in the order in which a connection or an object may meet it.
pub(super) const ENTRIES: &[Entry] = &[
    Entry {
        word: "malformed_request",
        kind: Kind::Reason,
        brief: "The request is not valid HTTP/1.1, or asks for a WebSocket in an invalid way.",
        how: "A handshake needs one Host, Upgrade: websocket, Connection: Upgrade, a Sec-WebSocket-Key of 16 bytes in base64, \
              and no body.",
        seen: NOTHING,
        fix: "Look at what reaches Holdfast: holdfast ping URL -v shows a good handshake. A scanner or a plain TCP client on \
              this port looks the same.",
    },
    Entry {
        word: "no_route",
        kind: Kind::Reason,
        brief: "No rule serves this host and path.",
        how: "The host is looked up first, exact before wildcard; a host that has rules never falls through to a wider one. \
              Then path, headers, query parameters and subprotocols must all match one rule.",
        seen: NOTHING,
        fix: "holdfast why URL names the nearest rule and what differs. Check hostnames and paths for typing errors, and that \
              the route is accepted.",
    },
    Entry {
        word: "method_not_allowed",
        kind: Kind::Reason,
        brief: "A WebSocket handshake with a method other than GET.",
        how: "RFC 6455 allows GET only.",
        seen: NOTHING,
        fix: "Correct the client.",
    },
    Entry {
        word: "request_timeout",
        kind: Kind::Reason,
        brief: "The head of the request did not arrive in time.",
        how: "A client connected and was silent or slow before its request was complete.",
        seen: NOTHING,
        fix: "Usually a client that opened a connection ahead of need, a health check that only connects, or a network that loses \
              packets. Many from one address may be an attack.",
    },
    Entry {
        word: "upgrade_required",
        kind: Kind::Reason,
        brief: "The rule serves WebSocket handshakes only, and this request is none.",
        how: "The rule says fallback: Reject. A proxy on the way that drops the Upgrade and Connection headers makes a plain \
              request out of a handshake.",
        seen: NOTHING,
        fix: "If plain HTTP should reach the endpoints too, remove fallback or set it to Backend. If the client did ask for a \
              WebSocket, let the proxy in front pass Upgrade and Connection.",
    },
    Entry {
        word: "unsupported_version",
        kind: Kind::Reason,
        brief: "Sec-WebSocket-Version is not 13.",
        how: "Version 13 is RFC 6455, the only one in use; the answer names it.",
        seen: NOTHING,
        fix: "Update the client.",
    },
    Entry {
        word: "source_refused",
        kind: Kind::Reason,
        brief: "The client's address is not one that the route lets in.",
        how: "security.sourceRanges denies it, or allows others only. The address is the one that trusted proxies tell.",
        seen: NOTHING,
        fix: "The record has the address as client. If it is your load balancer's, name its network with --trusted-proxies, or \
              switch on --proxy-protocol; else change the ranges.",
    },
    Entry {
        word: "origin_refused",
        kind: Kind::Reason,
        brief: "The page that began the handshake may not open WebSockets here.",
        how: "A browser names the page's origin in Origin; security.origins does not let that one in, or wants one and there is \
              none.",
        seen: NOTHING,
        fix: "The record has the origin. If the page is yours, add it to security.origins.allow. A client that is no browser and \
              sends no Origin needs missing: Allow.",
    },
    Entry {
        word: "headers_too_large",
        kind: Kind::Reason,
        brief: "The head of the request is larger than 32 KiB or than limits.maxHeaderBytes, or has more than 100 fields.",
        how: "Mostly cookies that pile up on a domain, or a token in the query.",
        seen: NOTHING,
        fix: "Send less: clear cookies, move tokens into a first message.",
    },
    Entry {
        word: "static_unavailable",
        kind: Kind::Reason,
        brief: "The rule serves files, and this process has no folder of them, or cannot read it.",
        how: "fallback: {type: Static} serves files below --static-root, which each replica needs. A file that is not there is a 404 \
              and no refusal.",
        seen: NOTHING,
        fix: "Start every replica with --static-root, and mount the files there, readable. The log of a replica that has the flag \
              names the file and the error.",
    },
    Entry {
        word: "unresolved_backend",
        kind: Kind::Reason,
        brief: "The rule's backendRef whose turn it was names something that is not there.",
        how: "The rule keeps its match, so that no broader rule catches its traffic, and answers for the broken part itself.",
        seen: NOTHING,
        fix: "holdfast check names the reference. The route's ResolvedRefs condition says which Service or port is missing.",
    },
    Entry {
        word: "no_ready_endpoint",
        kind: Kind::Reason,
        brief: "No endpoint of the rule takes new connections.",
        how: "The Service has no ready endpoint, and none that terminates but still serves.",
        seen: NOTHING,
        fix: "Look at the pods' readiness and the Service's selector; in folder mode at the EndpointSlice's conditions. holdfast \
              why URL lists the endpoints and why each is out.",
    },
    Entry {
        word: "session_unavailable",
        kind: Kind::Reason,
        brief: "The endpoint of this client's session takes no new connections.",
        how: "The route says sessionPersistence.onUnavailable: Fail, so no other endpoint is tried.",
        seen: NOTHING,
        fix: "Wait for that endpoint, or use onUnavailable: Repick, which chooses another and sets a new cookie.",
    },
    Entry {
        word: "tls_required",
        kind: Kind::Reason,
        brief: "The host has a certificate, and the request came without TLS.",
        how: "TLS belongs to the host: once any accepted route gives it a certificate, no route serves it in plain.",
        seen: NOTHING,
        fix: "Connect with wss:// or https://. --https-redirect sends clients there; allowPlain: true in the route's spec.tls \
              serves the host both ways. If a load balancer in front takes the TLS off, name it in --trusted-proxies and let it \
              set X-Forwarded-Proto.",
    },
    Entry {
        word: "redirected_to_https",
        kind: Kind::Reason,
        brief: "The host has a certificate, the request came without TLS, and --https-redirect sent it to the same address with \
                TLS.",
        how: "The answer names the host without a port: clients reach TLS on its usual one. Browsers do not follow it for a \
              WebSocket.",
        seen: NOTHING,
        fix: "Nothing, if that is what you want; clients that connect with wss:// or https:// save the detour.",
    },
    Entry {
        word: "plain_on_tls_port",
        kind: Kind::Reason,
        brief: "A request without TLS came to the address of --https.",
        how: "The client used http:// or ws:// with the port of TLS, or a load balancer takes the TLS off and passes on to that port \
              what belongs to the one of --http. With --https-redirect the client is sent to https:// on the same port instead, \
              unless the request carries X-Forwarded-Proto.",
        seen: NOTHING,
        fix: "Use https:// or wss://. A load balancer that takes the TLS off must send to the port of --http.",
    },
    Entry {
        word: "tls_on_plain_port",
        kind: Kind::Reason,
        brief: "A TLS handshake came to the address of --http.",
        how: "The client used https:// or wss:// with the port of plain HTTP, or a load balancer passes TLS on to that port. TLS \
              libraries tell such a client of a wrong version number.",
        seen: NOTHING,
        fix: "Send TLS to the port of --https; without that flag nobody listens for it.",
    },
    Entry {
        word: "misdirected",
        kind: Kind::Reason,
        brief: "The request names a host whose certificate is not the one that its connection was opened with.",
        how: "The TLS handshake asked for one host (SNI) and the request's Host names another that has another certificate, or none \
              that can be used.",
        seen: NOTHING,
        fix: "Clients must use a connection for the host that they opened it for. Hosts that share connections must name the same \
              Secret in spec.tls.",
    },
    Entry {
        word: "handshake_rate_limited",
        kind: Kind::Reason,
        brief: "The client began more handshakes than limits.handshakeRate of the route lets it.",
        how: "Each replica counts by itself, by the client's address or by limits.handshakeRate.key. Behind a load balancer \
              whose addresses are not in --trusted-proxies all clients have its address.",
        seen: "holdfast_limited_total by limit; client.address in the records.",
        fix: "Nothing, if the client is too fast. Else raise requests or burst, or choose a key that tells more clients apart; \
              limits.dryRun shows what a number would do.",
    },
    Entry {
        word: "client_connection_limit",
        kind: Kind::Reason,
        brief: "The client has as many connections to the route as limits.maxConnectionsPerClient lets it.",
        how: "Each replica counts by itself, by the client's address or by limits.maxConnectionsPerClient.key. Connections of a \
              client that vanished count until its heartbeat is missed.",
        seen: "holdfast_limited_total by limit; client.address in the records.",
        fix: "Nothing, if the client has too many. Else raise count, or choose a key that tells more clients apart: behind one \
              address there may be a whole office.",
    },
    Entry {
        word: "connection_limit",
        kind: Kind::Reason,
        brief: "The route has as many connections in this replica as limits.maxConnections lets it.",
        how: "All rules of the route count together, handshakes under way included.",
        seen: "holdfast_connections_active by route, holdfast_limited_total by limit.",
        fix: "Raise limits.maxConnections, or run more replicas: each takes as many.",
    },
    Entry {
        word: "endpoint_connection_limit",
        kind: Kind::Reason,
        brief: "Every endpoint that could take the connection has as many as limits.maxConnectionsPerEndpoint lets it.",
        how: "Connections of all routes count, and only those of this replica. Where the client has an endpoint of its own and \
              sessionPersistence.onUnavailable is Fail, that one endpoint is full.",
        seen: "holdfast_endpoint_connections_active by endpoint, holdfast_limited_total by limit.",
        fix: "Add endpoints, or raise limits.maxConnectionsPerEndpoint.",
    },
    Entry {
        word: "overload",
        kind: Kind::Reason,
        brief: "As many connections are open as this process may hold.",
        how: "The bound follows from --max-connections, the limit of file descriptors and the memory limit.",
        seen: NOTHING,
        fix: "Raise the limit that is the smallest, or run more replicas. The log says at start which one it is.",
    },
    Entry {
        word: "draining",
        kind: Kind::Reason,
        brief: "This process is shutting down and takes no new connections.",
        how: "The drain delay is over; what is in front still sends connections here.",
        seen: NOTHING,
        fix: "Clients need only try again. If it happens in every rollout, raise --drain-delay above the time the load balancer \
              takes to notice.",
    },
    Entry {
        word: "connection_refused",
        kind: Kind::Reason,
        brief: "Every candidate refused the connection or could not be reached.",
        how: "Candidates were dialled in order; each answered with a reset or an unreachable network.",
        seen: NOTHING,
        fix: "Check that the application listens on the port the EndpointSlice names, and on the pod's address, not on 127.0.0.1 \
              only. A NetworkPolicy may refuse too.",
    },
    Entry {
        word: "dial_timeout",
        kind: Kind::Reason,
        brief: "No candidate answered the connection within timeouts.connect.",
        how: "Packets to the endpoints vanish: a dead node, a NetworkPolicy that drops, or an accept queue that is full. Where \
              connections use TLS, its handshake counts too.",
        seen: "A connection attempt at most.",
        fix: "Check the nodes and the policies between Holdfast and the endpoints; raise timeouts.connect only for far ones.",
    },
    Entry {
        word: "source_ports_exhausted",
        kind: Kind::Reason,
        brief: "This machine has no free source port for another connection to the endpoint.",
        how: "One address has about 28,000 source ports towards one endpoint. Other candidates were tried and had none either.",
        seen: NOTHING,
        fix: "Spread the connections over more endpoints or more replicas, or widen net.ipv4.ip_local_port_range.",
    },
    Entry {
        word: "handshake_timeout",
        kind: Kind::Reason,
        brief: "The endpoint did not answer the handshake within timeouts.handshake.",
        how: "It accepted the connection and got the whole request.",
        seen: "The connection is closed.",
        fix: "Look for what is slow in the application before its 101: authentication, a database. Or raise timeouts.handshake.",
    },
    Entry {
        word: "endpoint_closed",
        kind: Kind::Reason,
        brief: "The endpoint ended the connection before its answer was complete.",
        how: "The request may have been acted on, so no other endpoint is tried.",
        seen: "Its own end of the connection.",
        fix: "Look at the endpoint's log for a crash or a refusal at that time.",
    },
    Entry {
        word: "endpoint_certificate",
        kind: Kind::Reason,
        brief: "The endpoint's certificate cannot be verified.",
        how: "Connections to this Service use TLS. The certificate that the endpoint showed is signed by nobody who is trusted, is \
              for another name, has expired, or is a certificate authority itself.",
        seen: "A TLS alert; the request is not sent.",
        fix: "The log names the endpoint, the name that was asked for and what is wrong. Correct spec.backendTLS.caRef or hostname, \
              or the endpoint's certificate.",
    },
    Entry {
        word: "endpoint_tls_alert",
        kind: Kind::Reason,
        brief: "The endpoint ended the TLS handshake by an alert.",
        how: "Most often it asks for a certificate of its clients and got none, or does not trust the one that it got. Else the two \
              sides have no TLS version or cipher in common, or it has no certificate for the name that was asked for.",
        seen: "The handshake that it refused; the request is not sent.",
        fix: "The log names the endpoint and its alert. For a certificate of ours use mode Mutual with clientCertificateRef, and let \
              the endpoint trust who signed it.",
    },
    Entry {
        word: "endpoint_tls_error",
        kind: Kind::Reason,
        brief: "The endpoint does not speak TLS, or not as it should.",
        how: "Connections to this Service use TLS, by spec.backendTLS or by the appProtocol of the Service's port. A port that \
              speaks HTTP without TLS looks like this.",
        seen: "A TLS alert; the request is not sent.",
        fix: "The log names the endpoint. If the port speaks plain HTTP, set backendTLS.mode to Disable or correct appProtocol.",
    },
    Entry {
        word: "endpoint_tls_unusable",
        kind: Kind::Reason,
        brief: "What a secure connection to the endpoint needs is missing.",
        how: "spec.backendTLS names a Secret that is not there, cannot be used or may not be referred to, or the system has no \
              certificate authorities. Rather than connecting to somebody unknown, nobody is connected to.",
        seen: NOTHING,
        fix: "The route's ResolvedRefs condition and holdfast check say which Secret it is and what is wrong.",
    },
    Entry {
        word: "endpoint_protocol_error",
        kind: Kind::Reason,
        brief: "The endpoint's answer is not valid HTTP/1.1.",
        how: "Another protocol on that port (TLS, HTTP/2 only, gRPC), or a head that is too large.",
        seen: "The connection is closed.",
        fix: "Check that the Service's port is the plain HTTP/1.1 one.",
    },
    Entry {
        word: "invalid_upgrade",
        kind: Kind::Reason,
        brief: "The endpoint answered 101, but not to this handshake.",
        how: "Sec-WebSocket-Accept is missing or wrong, or it chose a subprotocol or an extension that was not offered. The client \
              would have failed the connection; the check also keeps a cached or confused 101 from becoming a tunnel.",
        seen: "The connection is closed.",
        fix: "Correct or update the endpoint's WebSocket library. holdfast ping straight at the endpoint shows its answer.",
    },
    Entry {
        word: "client_gone",
        kind: Kind::Reason,
        brief: "The client left before its answer.",
        how: "It gave up while the endpoint was dialled or had not answered yet. Logged as 499; nobody reads the answer.",
        seen: "The connection is closed.",
        fix: "Look at the duration in the log line: a client's own timeout shows as the same value again and again.",
    },
    Entry {
        word: "internal",
        kind: Kind::Reason,
        brief: "A defect in Holdfast.",
        how: "Something that cannot happen did; the log has an error line of the same moment.",
        seen: "The connection is closed.",
        fix: "Please report it with that line.",
    },
    Entry {
        word: "closed",
        kind: Kind::Cause,
        brief: "A side sent a Close frame: the normal end.",
        how: "The Close and its answer pass unchanged. The log names who moved first, both codes and both reasons.",
        seen: "The Close that the other side sent.",
        fix: "Nothing. What a code means is the application's matter.",
    },
    Entry {
        word: "reset",
        kind: Kind::Cause,
        brief: "The client ended the connection without a Close.",
        how: "A closed laptop, a killed browser, a lost mobile network, or a proxy in front with a shorter timeout.",
        seen: "",
        fix: "If many end at the same age, look for a timeout of that length in front of Holdfast.",
    },
    Entry {
        word: "client_vanished",
        kind: Kind::Cause,
        brief: "The client's packets stopped coming, and TCP gave up.",
        how: "No end was announced: a network that broke off, a machine that lost power, a NAT entry that expired.",
        seen: "",
        fix: "Normal for mobile clients. If it hits many at once, look at the network in front.",
    },
    Entry {
        word: "endpoint_gone",
        kind: Kind::Cause,
        brief: "The endpoint ended the connection without a Close.",
        how: "It crashed, was killed, or ended its sockets without a word when it stopped.",
        seen: "",
        fix: "Look at the pod's log and its restarts. An application that sends Close 1001 or 1012 when it stops ends as `closed`. \
              Clients are told 1012, on which they should reconnect.",
    },
    Entry {
        word: "endpoint_vanished",
        kind: Kind::Cause,
        brief: "The endpoint's packets stopped coming, and TCP gave up.",
        how: "Its node died or was cut off. Keepalive on the endpoint leg notices after about 30 s; 45 s at most.",
        seen: "",
        fix: "Look at the node. Clients were told 1012 and reconnect to another endpoint.",
    },
    Entry {
        word: "heartbeat_lost",
        kind: Kind::Cause,
        brief: "The client, which had answered pings before, stopped answering.",
        how: "heartbeat.client.missed pings in a row stayed without a pong, and no other byte came.",
        seen: "",
        fix: "Normal for clients that sleep. If it hits clients that live, their event loop is blocked for longer than interval x \
              missed, or the interval is too short for the network.",
    },
    Entry {
        word: "endpoint_heartbeat_lost",
        kind: Kind::Cause,
        brief: "The endpoint, which had answered pings before, stopped answering.",
        how: "heartbeat.endpoint.missed pings in a row stayed without a pong, and no other byte came: its process hangs.",
        seen: "",
        fix: "Look at the endpoint for a blocked event loop or a long pause of its garbage collector.",
    },
    Entry {
        word: "idle_timeout",
        kind: Kind::Cause,
        brief: "No message went either way for timeouts.idle.",
        how: "Pings and pongs do not count as messages. The moment is spread by 10%, so that clients do not come back all at once.",
        seen: "",
        fix: "Raise timeouts.idle or set it to 0s; or let the application send something now and then.",
    },
    Entry {
        word: "max_duration",
        kind: Kind::Cause,
        brief: "The tunnel reached timeouts.maxDuration.",
        how: "It lived as long as the route allows. The moment is spread by 10%, so that clients do not come back all at once.",
        seen: "",
        fix: "Nothing if it is meant: clients reconnect. Else raise timeouts.maxDuration or set it to 0s.",
    },
    Entry {
        word: "client_stalled",
        kind: Kind::Cause,
        brief: "The client accepted none of the bytes queued for it for timeouts.send.",
        how: "It does not read: a background tab, a debugger, a client slower than the endpoint sends.",
        seen: "",
        fix: "Send less, or let the application drop what a slow client need not see. Raise timeouts.send if such pauses are normal.",
    },
    Entry {
        word: "endpoint_stalled",
        kind: Kind::Cause,
        brief: "The endpoint accepted none of the bytes queued for it for timeouts.send.",
        how: "It does not read: its process hangs, or it works through messages more slowly than the client sends.",
        seen: "",
        fix: "Look at the endpoint's load. Clients are told 1012 and reconnect.",
    },
    Entry {
        word: "memory",
        kind: Kind::Cause,
        brief: "Bytes queued for slow sides reached the process's bound, and this tunnel had been stalled longest.",
        how: "Only what a socket refused is kept, and that is bounded for all tunnels together.",
        seen: "",
        fix: "See which route's clients do not read (client_stalled). A shorter timeouts.send ends them earlier.",
    },
    Entry {
        word: "message_rate",
        kind: Kind::Cause,
        brief: "The client sent more messages than limits.tunnel.fromClient.messages allows.",
        how: "Messages come at an even pace, and burst of them at once. Those before the one too many were passed on; it and what follows were not.",
        seen: "",
        fix: "If such clients are in order, raise count or burst, or set onExceeded: Delay; limits.dryRun shows what would be enough.",
    },
    Entry {
        word: "byte_rate",
        kind: Kind::Cause,
        brief: "The client sent more bytes than limits.tunnel.fromClient.bytes allows.",
        how: "Bytes count as they are on the wire, with the headers of frames. The frame in which there were too many still passes.",
        seen: "",
        fix: "burst must hold the largest message that a client sends at once. Raise it or count, or set onExceeded: Delay.",
    },
    Entry {
        word: "control_flood",
        kind: Kind::Cause,
        brief: "The client sent more Pings, Pongs or empty fragments than limits.tunnel.fromClient.controlFrames allows.",
        how: "Answers to pings of Holdfast do not count. No client needs more than one in some seconds.",
        seen: "",
        fix: "See whose clients they are by their addresses in the access lines. Raise count or burst if they are in order.",
    },
    Entry {
        word: "frame_too_large",
        kind: Kind::Cause,
        brief: "The client began a frame larger than limits.tunnel.fromClient.maxFrameBytes.",
        how: "The header of a frame says its length; nothing of this one was passed on.",
        seen: "",
        fix: "Raise maxFrameBytes, or let the client send smaller messages or fragments.",
    },
    Entry {
        word: "message_too_large",
        kind: Kind::Cause,
        brief: "The client sent a message larger than limits.tunnel.fromClient.maxMessageBytes.",
        how: "The lengths of its frames add up. Fragments before the one with which it was too large may have been passed on.",
        seen: "",
        fix: "Raise maxMessageBytes, or let the client send less in one message.",
    },
    Entry {
        word: "endpoint_message_rate",
        kind: Kind::Cause,
        brief: "The endpoint sent more messages than limits.tunnel.fromEndpoint.messages allows.",
        how: "Messages come at an even pace, and burst of them at once. Those before the one too many were passed on; it and what follows were not.",
        seen: "",
        fix: "Look at what the endpoint sends. Raise count or burst, or set onExceeded: Delay. Clients are told 1012 and reconnect.",
    },
    Entry {
        word: "endpoint_byte_rate",
        kind: Kind::Cause,
        brief: "The endpoint sent more bytes than limits.tunnel.fromEndpoint.bytes allows.",
        how: "Bytes count as they are on the wire, with the headers of frames. The frame in which there were too many still passes.",
        seen: "",
        fix: "burst must hold the largest message that the endpoint sends at once. Raise it or count, or set onExceeded: Delay.",
    },
    Entry {
        word: "endpoint_control_flood",
        kind: Kind::Cause,
        brief: "The endpoint sent more Pings, Pongs or empty fragments than limits.tunnel.fromEndpoint.controlFrames allows.",
        how: "Answers to pings of Holdfast do not count.",
        seen: "",
        fix: "Look at the endpoint's own heartbeat. Raise count or burst if it is as it should be.",
    },
    Entry {
        word: "endpoint_frame_too_large",
        kind: Kind::Cause,
        brief: "The endpoint began a frame larger than limits.tunnel.fromEndpoint.maxFrameBytes.",
        how: "The header of a frame says its length; nothing of this one was passed on.",
        seen: "",
        fix: "Raise maxFrameBytes. A client that asks for the same again meets the same end.",
    },
    Entry {
        word: "endpoint_message_too_large",
        kind: Kind::Cause,
        brief: "The endpoint sent a message larger than limits.tunnel.fromEndpoint.maxMessageBytes.",
        how: "The lengths of its frames add up. Fragments before the one with which it was too large may have been passed on.",
        seen: "",
        fix: "Raise maxMessageBytes. A client that asks for the same again meets the same end.",
    },
    Entry {
        word: "drain",
        kind: Kind::Cause,
        brief: "The process was shutting down.",
        how: "After --drain-delay the tunnels are ended over --drain-window, idle ones first. Messages on their way to the endpoint \
              still arrive.",
        seen: "",
        fix: "Nothing: clients should reconnect on 1012. A longer --drain-window makes fewer of them come back at once.",
    },
    Entry {
        word: "internal",
        kind: Kind::Cause,
        brief: "A defect in Holdfast.",
        how: "The tunnel's task failed; other tunnels go on. The log has an error line of the same moment.",
        seen: "",
        fix: "Please report it with that line.",
    },
    Entry {
        word: "tls_failed",
        kind: Kind::Failure,
        brief: "There was no TLS with the endpoint.",
        how: "It was connected to, and the TLS handshake failed: nobody that is trusted vouches for it, it speaks no TLS, or it \
              ended the handshake.",
        seen: "Clients of it alone read endpoint_certificate, endpoint_tls_alert or endpoint_tls_error.",
        fix: "The log says why, with the endpoint: look at backendTLS and at the certificate that the endpoint shows.",
    },
    Entry {
        word: "status",
        kind: Kind::Failure,
        brief: "The endpoint answered a handshake with one of health.passive.codes.",
        how: "Its answer went to the client, or the handshake to another endpoint, where the route has retry.",
        seen: "The client reads the endpoint's own answer.",
        fix: "Look at the endpoint's log for the time of the handshake.",
    },
    Entry {
        word: "early_close",
        kind: Kind::Failure,
        brief: "The endpoint ended a fresh tunnel abnormally.",
        how: "Within health.passive.earlyCloseWithin of its 101 it closed the tunnel with a code that speaks of trouble, \
              or reset it or ended it without a Close before the client had sent anything.",
        seen: "The access log has the tunnel's cause and codes.",
        fix: "An endpoint that accepts and then fails usually misses something behind it: a database, a broker. Look at its log.",
    },
    Entry {
        word: "close_1011",
        kind: Kind::Failure,
        brief: "The endpoint sent Close 1011.",
        how: "RFC 6455, 7.4.1: it met a condition that it did not expect. Many of them at once are a failing endpoint.",
        seen: "The client reads the endpoint's own 1011.",
        fix: "Look at the endpoint's log for the time of the ends; holdfast_close_codes_total counts them.",
    },
    Entry {
        word: "Accepted",
        kind: Kind::Condition,
        brief: "The object is valid, and its hostnames are its own.",
        how: "True with reason Accepted; False with UnsupportedValue, IncompatibleFilters or HostnameConflict: then none of its rules is served.",
        seen: "False is also in the log, and makes holdfast check exit with 1.",
        fix: "The message names the field and what to write.",
    },
    Entry {
        word: "ResolvedRefs",
        kind: Kind::Condition,
        brief: "Everything the object refers to is there and allowed.",
        how: "True with reason ResolvedRefs. False: the rules stay, and the part that refers to nothing answers 500 \
              unresolved_backend. It says nothing about ready endpoints.",
        seen: "The reason is that of the first broken reference; the message lists them.",
        fix: "Look up the reason.",
    },
    Entry {
        word: "Programmed",
        kind: Kind::Condition,
        brief: "Every replica serves this generation of the object.",
        how: "True with reason Programmed, and then for as long as the generation is the same; Unknown with Pending, while a \
              replica does not serve it yet; False with Invalid, when it was not accepted. It says nothing about endpoints.",
        seen: "kubectl wait --for=condition=Programmed waits for it.",
        fix: "Where it is False, look at Accepted; where it stays Unknown, look up Pending.",
    },
    Entry {
        word: "Conflicted",
        kind: Kind::Condition,
        brief: "Rules of this object can never match, because others always match first.",
        how: "True with reason Shadowed; absent otherwise. The object is served all the same.",
        seen: "The message names the rule and the one that comes first.",
        fix: "Look up Shadowed.",
    },
    Entry {
        word: "UnsupportedValue",
        kind: Kind::ConditionReason("Accepted"),
        brief: "A field has a value that is not allowed or cannot be compiled.",
        how: "A regular expression that does not compile, a duration that is none, fields that exclude each other.",
        seen: "Accepted=False; none of the object's rules is served.",
        fix: "The message names the field and the allowed values.",
    },
    Entry {
        word: "HostnameConflict",
        kind: Kind::ConditionReason("Accepted"),
        brief: "A hostname of the object belongs to another namespace.",
        how: "A hostname is owned by the namespace of the oldest route that names it; else anyone could take a path of another \
              team's host.",
        seen: "Accepted=False; none of the object's rules is served.",
        fix: "Move the rule to the owner's namespace, or run with --host-ownership=Shared.",
    },
    Entry {
        word: "IncompatibleFilters",
        kind: Kind::ConditionReason("Accepted"),
        brief: "Filters of a rule do not go together, or not with what the rule matches.",
        how: "URLRewrite and RequestRedirect exclude each other in one rule, each type may be there once, and ReplacePrefixMatch \
              needs a rule all of whose matches are by PathPrefix.",
        seen: "Accepted=False; none of the object's rules is served.",
        fix: "The message names the filter. Split the rule in two, or use ReplaceFullPath.",
    },
    Entry {
        word: "BackendNotFound",
        kind: Kind::ConditionReason("ResolvedRefs"),
        brief: "A backendRef names a Service, or a port of it, that does not exist.",
        how: "backendRefs[].port is the Service's own port number, not the container's.",
        seen: "ResolvedRefs=False; that share of the rule's handshakes gets 500 unresolved_backend.",
        fix: "Correct the name, the namespace or the port.",
    },
    Entry {
        word: "RefNotPermitted",
        kind: Kind::ConditionReason("ResolvedRefs"),
        brief: "A reference leads into another namespace that does not allow it.",
        how: "Only a ReferenceGrant in that namespace may allow it.",
        seen: "ResolvedRefs=False; that share of the rule's handshakes gets 500 unresolved_backend.",
        fix: "Refer to a Service or a Secret of the route's own namespace, or add a ReferenceGrant.",
    },
    Entry {
        word: "InvalidKind",
        kind: Kind::ConditionReason("ResolvedRefs"),
        brief: "A reference names a kind of object that cannot be one.",
        how: "backendRefs name Services. In a cluster an ExternalName Service is refused too, because it could reach anything.",
        seen: "ResolvedRefs=False; that share of the rule's handshakes gets 500 unresolved_backend.",
        fix: "Refer to a Service with endpoints.",
    },
    Entry {
        word: "InvalidCertificateRef",
        kind: Kind::ConditionReason("ResolvedRefs"),
        brief: "A Secret of spec.tls or spec.backendTLS is not there, or what is in it cannot be used or has expired.",
        how: "tls.crt and tls.key must be there in PEM form and belong together; ca.crt, for caRef, must have certificates in PEM \
              form. The Secret's type must be kubernetes.io/tls.",
        seen: "ResolvedRefs=False; the last good certificate stays in effect. Without one, hosts of spec.tls are not served, with \
               TLS or without: TLS handshakes fail, plain requests get 421. Without what backendTLS names, handshakes get 502 \
               endpoint_tls_unusable.",
        fix: "The message says what is wrong with which Secret. With cert-manager, look at the Certificate that fills it.",
    },
    Entry {
        word: "UnsupportedProtocol",
        kind: Kind::ConditionReason("ResolvedRefs"),
        brief: "The Service's port speaks something that Holdfast does not.",
        how: "The port is not TCP, or its appProtocol names a protocol other than HTTP/1.1 or WebSocket, with TLS or without: \
              http, ws, kubernetes.io/ws, https, wss, kubernetes.io/wss.",
        seen: "ResolvedRefs=False; that share of the rule's handshakes gets 500 unresolved_backend.",
        fix: "Refer to the port that speaks HTTP/1.1, or correct its appProtocol.",
    },
    Entry {
        word: "Pending",
        kind: Kind::ConditionReason("Programmed"),
        brief: "Not every replica serves this generation of the object yet.",
        how: "Each replica says in a Lease of its own how far its table reaches, and the leader compares. It takes moments, \
              unless a replica cannot reach the API server.",
        seen: "Programmed=Unknown; the message counts the replicas and names those that are waited for.",
        fix: "Look at the log of the replica that is named. One that has died is waited for until its Lease expires, 30 s.",
    },
    Entry {
        word: "Invalid",
        kind: Kind::ConditionReason("Programmed"),
        brief: "The object is not served, because it was not accepted.",
        how: "See its Accepted condition.",
        seen: "Programmed=False.",
        fix: "Correct what the Accepted condition names.",
    },
    Entry {
        word: "Shadowed",
        kind: Kind::ConditionReason("Conflicted"),
        brief: "A rule can never match, because another always matches first.",
        how: "Exact paths come before regular expressions, those before prefixes, longer before shorter; then more headers, more \
              query parameters, the older object, the order of the rules.",
        seen: "Conflicted=True; the message names both rules.",
        fix: "Remove one of them or make the match narrower. holdfast why URL shows the order.",
    },
    Entry {
        word: "DefinitionMissing",
        kind: Kind::Finding("cluster"),
        brief: "The API server does not know WebSocketRoute, or not yet.",
        how: "The CustomResourceDefinition is not there, or another one has its names.",
        seen: "No route can be written, and no replica gets ready.",
        fix: "Install the definition: crds.enabled of the chart, or holdfast crd | kubectl apply --server-side -f -.",
    },
    Entry {
        word: "DefinitionDiffers",
        kind: Kind::Finding("cluster"),
        brief: "The definition of WebSocketRoute in the cluster is not that of this binary.",
        how: "It was installed by another release. Helm updates it with the chart (crds.enabled); with crds.enabled=false \
              somebody else has to.",
        seen: "Fields that the cluster's definition does not have are dropped or refused when a route is applied.",
        fix: "Upgrade the definition first, then Holdfast. If the binary on your machine is the older one, use that of the \
              replicas' version.",
    },
    Entry {
        word: "RightMissing",
        kind: Kind::Finding("rights"),
        brief: "The ServiceAccount may not do something that Holdfast does.",
        how: "Asked of the API server by SubjectAccessReviews, for each right that docs/kubernetes.md lists and this \
              configuration needs.",
        seen: "The message says what does not work without it.",
        fix: "Bind the roles of the chart to the ServiceAccount. A role for Secrets that was left out on purpose needs no \
              fix: no route may name certificates then.",
    },
    Entry {
        word: "ReplicaNotReady",
        kind: Kind::Finding("replicas"),
        brief: "Fewer replicas are ready than there should be.",
        how: "A replica is ready once it has listed every kind of object, and no longer when it drains.",
        seen: "Clients reach the other replicas; without any, nobody is served.",
        fix: "kubectl describe the pod, and its log: it says what it waits for.",
    },
    Entry {
        word: "ReplicaSilent",
        kind: Kind::Finding("replicas"),
        brief: "A replica that runs does not answer on its live listener.",
        how: "The listener is on the pod's loopback, port 9478 unless --live says otherwise, and is reached through \
              pods/portforward.",
        seen: "It may serve all the same; nothing is known of it here.",
        fix: "If the listener was moved, say so in the container's arguments or in HOLDFAST_LIVE. Else look at the pod's \
              log, and at the node's kubelet.",
    },
    Entry {
        word: "VersionsDiffer",
        kind: Kind::Finding("replicas"),
        brief: "Replicas are of different releases.",
        how: "As in a rollout, which begins with all new pods before the first old one goes.",
        seen: "Both serve; what only the newer one knows holds for its connections alone.",
        fix: "Wait for the rollout. If it does not end, kubectl rollout status says why.",
    },
    Entry {
        word: "TablesDiffer",
        kind: Kind::Finding("replicas"),
        brief: "Replicas of one release route differently.",
        how: "The digest is of what each route says and what became of it, without endpoints. Asked twice, a second apart.",
        seen: "Which routes a client finds depends on the replica that it reaches.",
        fix: "Look at each replica's view: one may not hear of changes. Different files for --defaults do the same until \
              all have read the same one.",
    },
    Entry {
        word: "NoLeader",
        kind: Kind::Finding("replicas"),
        brief: "Not one replica leads.",
        how: "One replica holds the Lease of the class, within 25 s of the last one's end.",
        seen: "Everything is served; conditions, Events and ticket keys are not written. Two that lead both write.",
        fix: "Look for the right to create and update Leases in Holdfast's namespace. Installations in two namespaces need \
              a class each.",
    },
    Entry {
        word: "ViewStale",
        kind: Kind::Finding("view"),
        brief: "A replica has not heard of a kind of object for three minutes, or cannot ask for it.",
        how: "Each watch is renewed every 45 seconds, so that a silent API server is noticed.",
        seen: "What was known stays in effect, and open tunnels go on; edits and new endpoints wait.",
        fix: "The message has the API server's words. Look at rights, at the NetworkPolicy towards the API server, and at \
              the API server.",
    },
    Entry {
        word: "ServiceMissing",
        kind: Kind::Finding("reach"),
        brief: "No Service selects Holdfast's pods.",
        how: "Clients come by a Service, or by ports of the nodes.",
        seen: "Nobody comes, unless something else knows the pods' addresses.",
        fix: "service.enabled of the chart; or correct the selector.",
    },
    Entry {
        word: "ServicePortMissing",
        kind: Kind::Finding("reach"),
        brief: "A port of the Service leads nowhere, or one that Holdfast serves has none.",
        how: "targetPort is a number, or the name of a port of the pods' containers.",
        seen: "Connections to that port are refused; what has no port is not reached.",
        fix: "Correct targetPort, or add the port. With the chart, ports and https.enabled keep both sides together.",
    },
    Entry {
        word: "AdminExposed",
        kind: Kind::Finding("reach"),
        brief: "The admin port can be reached from outside.",
        how: "A Service of type LoadBalancer or NodePort has a port that leads to it.",
        seen: "/metrics names routes, Services and pods to whoever asks. It takes no orders and names no client.",
        fix: "Remove the port; Prometheus asks the pods themselves.",
    },
    Entry {
        word: "LoadBalancerPending",
        kind: Kind::Finding("reach"),
        brief: "The Service has no address of a load balancer.",
        how: "status.loadBalancer is filled by a controller of the cloud, or one such as MetalLB.",
        seen: "Clients outside have no address to come to.",
        fix: "kubectl describe the Service says what the controller waits for. Where there is none, use NodePort or \
              ClusterIP.",
    },
    Entry {
        word: "PortUnreachable",
        kind: Kind::Finding("reach"),
        brief: "A dial to a port of the Service failed.",
        how: "From where the command runs: a laptop may be kept out on purpose.",
        seen: "Clients that come the same way are not served.",
        fix: "Try from where clients are. Look at the load balancer's targets and health checks, firewalls, \
              loadBalancerSourceRanges, and the NetworkPolicy.",
    },
    Entry {
        word: "NotHoldfast",
        kind: Kind::Finding("reach"),
        brief: "What answers at the Service's address is not Holdfast.",
        how: "Holdfast's refusals carry Proxy-Status: holdfast. A load balancer that speaks HTTP answers by itself.",
        seen: "It may end WebSockets by its own timeouts, and hide clients' addresses.",
        fix: "Let it pass TCP. If it is wanted, name its network with --trusted-proxies and raise its idle timeout above \
              the heartbeat's interval.",
    },
    Entry {
        word: "GracePeriodTooShort",
        kind: Kind::Finding("shutdown"),
        brief: "A pod is killed before its drain is over.",
        how: "terminationGracePeriodSeconds must hold --drain-delay, --drain-window, the longest closing handshake and 20 \
              s.",
        seen: "The tunnels that are left are cut without a Close.",
        fix: "The chart computes it from drain; in patches, change all of them together and pass the sum as --grace- \
              period.",
    },
    Entry {
        word: "DisruptionBudget",
        kind: Kind::Finding("shutdown"),
        brief: "Nodes can be drained too many at a time, or not at all.",
        how: "A PodDisruptionBudget says how many pods may go at once.",
        seen: "Without one, two replicas drain at the same time and their clients meet on the rest; one that lets none go \
              holds up every drain of a node.",
        fix: "podDisruptionBudget of the chart: maxUnavailable 1.",
    },
    Entry {
        word: "FdsShort",
        kind: Kind::Finding("headroom"),
        brief: "A replica has few file descriptors left.",
        how: "A tunnel takes two. The limit is the container runtime's (LimitNOFILE).",
        seen: "Connections beyond it get 503 overload; open ones are not touched.",
        fix: "More replicas, or a higher limit.",
    },
    Entry {
        word: "PortsShort",
        kind: Kind::Finding("headroom"),
        brief: "A replica has few source ports left towards one endpoint.",
        how: "A connection to one address and port needs a source port of its own: those of net.ipv4.ip_local_port_range.",
        seen: "Further handshakes to that endpoint fail, and go to others where there are any.",
        fix: "More endpoints or more replicas. The chart sets the sysctl to 55,000 ports.",
    },
    Entry {
        word: "MemoryShort",
        kind: Kind::Finding("headroom"),
        brief: "A replica is near its memory limit.",
        how: "Counted as the kernel does before it kills: with sockets, without what it can drop.",
        seen: "Killed, it cuts all its tunnels at once.",
        fix: "More replicas, or a larger resources.limits.memory; how many connections are taken follows the limit.",
    },
    Entry {
        word: "ConnectionsShort",
        kind: Kind::Finding("headroom"),
        brief: "A replica serves nearly as many connections as it takes.",
        how: "--max-connections, or what descriptors and memory allow.",
        seen: "Beyond it, handshakes get 503 overload.",
        fix: "More replicas.",
    },
    Entry {
        word: "CertificateExpiring",
        kind: Kind::Finding("headroom"),
        brief: "A certificate that is in use expires within 14 days, or has expired.",
        how: "Read by the replicas from the Secrets that routes name.",
        seen: "Once it has expired, clients refuse the connection.",
        fix: "Renew it; a new one in the Secret is shown at once. With cert-manager, kubectl describe the Certificate and \
              its Challenges.",
    },
    Entry {
        word: "TicketKeys",
        kind: Kind::Finding("headroom"),
        brief: "The replicas share no keys of TLS session tickets, or old ones.",
        how: "The leader fills the Secret of --ticket-secret and rotates it every 12 hours.",
        seen: "A client that comes back to another replica does a whole TLS handshake; old keys protect old sessions less.",
        fix: "The leader's log says why. It needs list, watch and patch on that one Secret.",
    },
];

const NOTHING: &str = "Nothing.";
