//! Why and by whom a tunnel ended, and what each side is told.

use super::slot::Peer;

/// Who moved first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Initiator {
    Client,
    Endpoint,
    Holdfast,
}

impl Initiator {
    pub const ALL: [Self; 3] = [Self::Client, Self::Endpoint, Self::Holdfast];

    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Endpoint => "endpoint",
            Self::Holdfast => "holdfast",
        }
    }
}

/// Why a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// A side sent a Close frame.
    Closed,
    /// The client ended TCP without a Close.
    Reset,
    /// The client's packets stopped: TCP gave up.
    ClientVanished,
    /// The endpoint ended TCP without a Close.
    EndpointGone,
    /// The endpoint's packets stopped: TCP gave up.
    EndpointVanished,
    /// The client, which had answered pings before, stopped answering.
    HeartbeatLost,
    /// The endpoint, which had answered pings before, stopped answering.
    EndpointHeartbeatLost,
    /// No message in either direction for `timeouts.idle`.
    IdleTimeout,
    /// The tunnel reached `timeouts.maxDuration`.
    MaxDuration,
    /// The client accepted none of the bytes queued for it for `timeouts.send`.
    ClientStalled,
    /// The endpoint accepted none of the bytes queued for it for `timeouts.send`.
    EndpointStalled,
    /// Queued bytes reached the process's bound, and this tunnel had been stalled longest.
    Memory,
    /// The client sent more messages than limits.tunnel.fromClient.messages allows.
    MessageRate,
    /// The client sent more bytes than limits.tunnel.fromClient.bytes allows.
    ByteRate,
    /// The client sent more control frames than limits.tunnel.fromClient.controlFrames allows.
    ControlFlood,
    /// The client sent a frame larger than limits.tunnel.fromClient.maxFrameBytes.
    FrameTooLarge,
    /// The client sent a message larger than limits.tunnel.fromClient.maxMessageBytes.
    MessageTooLarge,
    /// The endpoint sent more messages than limits.tunnel.fromEndpoint.messages allows.
    EndpointMessageRate,
    /// The endpoint sent more bytes than limits.tunnel.fromEndpoint.bytes allows.
    EndpointByteRate,
    /// The endpoint sent more control frames than limits.tunnel.fromEndpoint.controlFrames allows.
    EndpointControlFlood,
    /// The endpoint sent a frame larger than limits.tunnel.fromEndpoint.maxFrameBytes.
    EndpointFrameTooLarge,
    /// The endpoint sent a message larger than limits.tunnel.fromEndpoint.maxMessageBytes.
    EndpointMessageTooLarge,
    /// The process was shutting down.
    Drain,
    /// A defect in Holdfast.
    Internal,
}

/// What a side sent too much of, by the limits of its rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    MessageRate,
    ByteRate,
    ControlFlood,
    FrameTooLarge,
    MessageTooLarge,
}

impl Excess {
    pub const ALL: [Self; 5] = [
        Self::MessageRate,
        Self::ByteRate,
        Self::ControlFlood,
        Self::FrameTooLarge,
        Self::MessageTooLarge,
    ];

    pub fn word(self) -> &'static str {
        Cause::exceeded(self, Peer::Client).word()
    }
}

/// Close codes for the two sides; `None`: that side is told nothing, because it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Codes {
    pub client: Option<u16>,
    pub endpoint: Option<u16>,
}

impl Cause {
    pub const ALL: [Self; 24] = [
        Self::Closed,
        Self::Reset,
        Self::ClientVanished,
        Self::EndpointGone,
        Self::EndpointVanished,
        Self::HeartbeatLost,
        Self::EndpointHeartbeatLost,
        Self::IdleTimeout,
        Self::MaxDuration,
        Self::ClientStalled,
        Self::EndpointStalled,
        Self::Memory,
        Self::MessageRate,
        Self::ByteRate,
        Self::ControlFlood,
        Self::FrameTooLarge,
        Self::MessageTooLarge,
        Self::EndpointMessageRate,
        Self::EndpointByteRate,
        Self::EndpointControlFlood,
        Self::EndpointFrameTooLarge,
        Self::EndpointMessageTooLarge,
        Self::Drain,
        Self::Internal,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::ClientVanished => "client_vanished",
            Self::EndpointGone => "endpoint_gone",
            Self::EndpointVanished => "endpoint_vanished",
            Self::HeartbeatLost => "heartbeat_lost",
            Self::EndpointHeartbeatLost => "endpoint_heartbeat_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxDuration => "max_duration",
            Self::ClientStalled => "client_stalled",
            Self::EndpointStalled => "endpoint_stalled",
            Self::Memory => "memory",
            Self::MessageRate => "message_rate",
            Self::ByteRate => "byte_rate",
            Self::ControlFlood => "control_flood",
            Self::FrameTooLarge => "frame_too_large",
            Self::MessageTooLarge => "message_too_large",
            Self::EndpointMessageRate => "endpoint_message_rate",
            Self::EndpointByteRate => "endpoint_byte_rate",
            Self::EndpointControlFlood => "endpoint_control_flood",
            Self::EndpointFrameTooLarge => "endpoint_frame_too_large",
            Self::EndpointMessageTooLarge => "endpoint_message_too_large",
            Self::Drain => "drain",
            Self::Internal => "internal",
        }
    }

    /// The codes of the Close frames that Holdfast itself sends. What a reconnect cures is 1012 for the client; never a
    /// code that client libraries take as fatal or invalid (1004, 1005, 1006, 1011, 1014, 1015).
    pub fn codes(self) -> Codes {
        let (client, endpoint) = match self {
            Self::Closed => (None, None), // the sides' own Close frames pass
            Self::Reset | Self::ClientVanished => (None, Some(1001)),
            Self::EndpointGone | Self::EndpointVanished => (Some(1012), None),
            Self::HeartbeatLost | Self::EndpointHeartbeatLost | Self::EndpointStalled | Self::Drain => (Some(1012), Some(1001)),
            Self::IdleTimeout | Self::MaxDuration => (Some(1001), Some(1001)),
            Self::ClientStalled => (Some(1008), Some(1001)),
            Self::Memory => (Some(1013), Some(1001)),
            // Whoever sent too much is told so; to the other side it is as if that one had gone.
            Self::MessageRate | Self::ByteRate | Self::ControlFlood => (Some(1008), Some(1001)),
            Self::FrameTooLarge | Self::MessageTooLarge => (Some(1009), Some(1001)),
            Self::EndpointMessageRate | Self::EndpointByteRate | Self::EndpointControlFlood => (Some(1012), Some(1008)),
            Self::EndpointFrameTooLarge | Self::EndpointMessageTooLarge => (Some(1012), Some(1009)),
            Self::Internal => (None, None), // the tunnel's own state cannot be trusted any more
        };
        Codes { client, endpoint }
    }

    /// Who can have moved first.
    pub fn initiators(self) -> &'static [Initiator] {
        match self {
            Self::Closed => &[Initiator::Client, Initiator::Endpoint],
            Self::Reset => &[Initiator::Client],
            Self::EndpointGone => &[Initiator::Endpoint],
            Self::ClientVanished
            | Self::EndpointVanished
            | Self::HeartbeatLost
            | Self::EndpointHeartbeatLost
            | Self::IdleTimeout
            | Self::MaxDuration
            | Self::ClientStalled
            | Self::EndpointStalled
            | Self::Memory
            | Self::MessageRate
            | Self::ByteRate
            | Self::ControlFlood
            | Self::FrameTooLarge
            | Self::MessageTooLarge
            | Self::EndpointMessageRate
            | Self::EndpointByteRate
            | Self::EndpointControlFlood
            | Self::EndpointFrameTooLarge
            | Self::EndpointMessageTooLarge
            | Self::Drain
            | Self::Internal => &[Initiator::Holdfast],
        }
    }

    /// The end of a tunnel of which `side` sent too much.
    pub fn exceeded(excess: Excess, side: Peer) -> Self {
        match (side, excess) {
            (Peer::Client, Excess::MessageRate) => Self::MessageRate,
            (Peer::Client, Excess::ByteRate) => Self::ByteRate,
            (Peer::Client, Excess::ControlFlood) => Self::ControlFlood,
            (Peer::Client, Excess::FrameTooLarge) => Self::FrameTooLarge,
            (Peer::Client, Excess::MessageTooLarge) => Self::MessageTooLarge,
            (Peer::Endpoint, Excess::MessageRate) => Self::EndpointMessageRate,
            (Peer::Endpoint, Excess::ByteRate) => Self::EndpointByteRate,
            (Peer::Endpoint, Excess::ControlFlood) => Self::EndpointControlFlood,
            (Peer::Endpoint, Excess::FrameTooLarge) => Self::EndpointFrameTooLarge,
            (Peer::Endpoint, Excess::MessageTooLarge) => Self::EndpointMessageTooLarge,
        }
    }

    /// Whether something went wrong, as opposed to an end that somebody asked for.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Closed | Self::IdleTimeout | Self::MaxDuration | Self::Drain)
    }

    /// The text of the Close frame: the word, readable in a browser's console.
    pub fn close_reason(self) -> &'static str {
        self.word()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_ones_that_clients_take_for_what_they_are() {
        for cause in Cause::ALL {
            let Codes { client, endpoint } = cause.codes();
            for code in [client, endpoint].into_iter().flatten() {
                assert!([1001, 1008, 1009, 1012, 1013, 3000].contains(&code), "{cause:?}: {code}");
            }
            assert!(cause.close_reason().is_ascii() && cause.close_reason().len() <= 123);
        }
    }
}
