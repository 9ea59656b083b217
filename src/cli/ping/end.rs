//! How a connection ended, in the words that a line and a document use.

use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// How a connection ended, as this client saw it.
#[derive(Debug)]
pub(super) enum End {
    /// A Close came: the other side's own, or its answer to ours.
    Closed { code: Option<u16>, reason: String, by_us: bool },
    /// The connection broke off without one.
    Cut(String),
}

impl End {
    /// The end that a Close frame makes.
    pub(super) fn closed(frame: Option<&CloseFrame>, by_us: bool) -> Self {
        let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
        Self::Closed {
            code: frame.map(|frame| frame.code.into()),
            reason,
            by_us,
        }
    }

    /// The end that a failing socket makes.
    pub(super) fn broken(error: &WsError) -> Self {
        Self::Cut(match error {
            WsError::Io(error) => error.to_string(),
            WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => "connection reset".to_owned(),
            other => other.to_string(),
        })
    }

    /// The code a browser would report.
    pub(super) fn code(&self) -> String {
        match self {
            Self::Closed { code: Some(code), .. } => code.to_string(),
            Self::Closed { code: None, .. } => "1005".to_owned(),
            Self::Cut(_) => "1006".to_owned(),
        }
    }

    /// As a line shows it.
    pub(super) fn text(&self) -> String {
        let code = self.code();
        match self {
            Self::Closed { code: None, .. } => format!("{code} (no code)"),
            Self::Closed { reason, .. } if reason.is_empty() => code,
            Self::Closed { reason, .. } => format!("{code} {reason:?}"),
            Self::Cut(how) => format!("{code} (no Close: {how})"),
        }
    }

    /// As a document shows it.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let (code, reason, initiator, error) = match self {
            Self::Closed { code, reason, by_us } => (*code, Some(reason), *by_us, None),
            Self::Cut(how) => (None, None, false, Some(how)),
        };
        let mut fields = Map::new();
        fields.insert("holdfast.close.client.code".to_owned(), code.into());
        fields.insert("holdfast.close.client.reason".to_owned(), reason.cloned().into());
        fields.insert("closed_by_ping".to_owned(), initiator.into());
        fields.insert("error.message".to_owned(), error.cloned().into());
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_reads_as_a_browser_reports_it() {
        let closed = |code, reason: &str| {
            End::Closed {
                code,
                reason: reason.to_owned(),
                by_us: false,
            }
            .text()
        };
        assert_eq!(closed(Some(1012), "drain"), "1012 \"drain\"");
        assert_eq!(closed(Some(1000), ""), "1000");
        assert_eq!(closed(None, ""), "1005 (no code)");
        let reset = WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake);
        assert_eq!(End::broken(&reset).text(), "1006 (no Close: connection reset)");
    }
}
