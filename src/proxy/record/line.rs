//! One access line, as text for a person or as a JSON object with OpenTelemetry's names.

use std::{fmt::Display, fmt::Write as _, net::SocketAddr};

use jiff::Timestamp;

use crate::{routing::RuleId, telemetry::LogFormat};

/// What a line tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Opened,
    Ended,
    Refused,
    Answered,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Opened => "holdfast.connection.opened",
            Self::Ended => "holdfast.connection.ended",
            Self::Refused => "holdfast.connection.refused",
            Self::Answered => "holdfast.request.answered",
        }
    }

    fn word(self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or_default()
    }
}

/// A line in the making. Fields whose short name is empty are left out of the text.
#[derive(Debug)]
pub(super) struct Line {
    out: String,
    json: bool,
}

impl Line {
    pub fn new(format: LogFormat, event: Event, pod: Option<&str>) -> Self {
        let now = Timestamp::now();
        let mut line = Self {
            out: String::with_capacity(512),
            json: format == LogFormat::Json,
        };
        if line.json {
            let _ = write!(
                line.out,
                "{{\"timestamp\":\"{now:.3}\",\"level\":\"INFO\",\"message\":\"connection {}\"",
                event.word()
            );
            line.word("target", "", "holdfast::access");
            line.word("event.name", "", event.name());
            line.word("service.name", "", env!("CARGO_PKG_NAME"));
            line.word("service.version", "", env!("CARGO_PKG_VERSION"));
            line.word(
                "network.protocol.name",
                "",
                if event == Event::Answered { "http" } else { "websocket" },
            );
            if let Some(pod) = pod {
                line.text("k8s.pod.name", "", pod);
            }
        } else {
            let _ = write!(line.out, "{now:.3} {:<8}", event.word());
        }
        line
    }

    pub fn finish(mut self) -> String {
        self.out.push_str(if self.json { "}\n" } else { "\n" });
        self.out
    }

    pub fn id(&mut self, id: u64) {
        self.key("holdfast.connection.id", "id");
        let _ = if self.json {
            write!(self.out, "\"{id:016x}\"")
        } else {
            write!(self.out, "{id:016x}")
        };
    }

    pub fn rule(&mut self, id: &RuleId) {
        if self.json {
            self.text("holdfast.route.namespace", "", &id.route.namespace);
            self.text("holdfast.route.name", "", &id.route.name);
            self.text("holdfast.rule.name", "", &id.rule);
        } else {
            let _ = write!(self.out, " route={id}");
        }
    }

    pub fn client(&mut self, address: SocketAddr) {
        self.address("client.address", "client.port", "client", address);
    }

    pub fn endpoint(&mut self, name: &str, address: SocketAddr) {
        self.text("holdfast.endpoint.pod", "endpoint", name);
        self.address("destination.address", "destination.port", "address", address);
    }

    /// Host and path in one.
    pub fn target(&mut self, target: &str) {
        match target.split_once('/') {
            Some((host, path)) if self.json => {
                self.text("server.address", "", host);
                let path = format!("/{path}");
                self.text("url.path", "", &path);
            }
            _ => self.text("url.path", "target", target),
        }
    }

    /// A value of our own: nothing in it needs escaping.
    pub fn word(&mut self, key: &str, short: &str, value: &str) {
        if self.json {
            self.key(key, short);
            let _ = write!(self.out, "\"{value}\"");
        } else if !short.is_empty() {
            let _ = write!(self.out, " {short}={value}");
        }
    }

    /// A value from outside.
    pub fn text(&mut self, key: &str, short: &str, value: &str) {
        if self.json {
            self.key(key, short);
            // A string always serialises.
            self.out.push_str(&serde_json::to_string(value).unwrap_or_default());
        } else if !short.is_empty() {
            let plain = !value.is_empty()
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
            let _ = if plain {
                write!(self.out, " {short}={value}")
            } else {
                write!(self.out, " {short}={value:?}")
            };
        }
    }

    pub fn number(&mut self, key: &str, short: &str, value: impl Display) {
        if self.json || !short.is_empty() {
            self.key(key, short);
            let _ = write!(self.out, "{value}");
        }
    }

    /// A close code; none is written as `-` in text and left out of JSON.
    pub fn code(&mut self, key: &str, short: &str, code: Option<u16>) {
        match code {
            Some(code) => self.number(key, short, code),
            None if self.json => {}
            None => {
                let _ = write!(self.out, " {short}=-");
            }
        }
    }

    pub fn flag(&mut self, key: &str, short: &str) {
        self.number(key, short, true);
    }

    fn address(&mut self, key: &str, port_key: &str, short: &str, address: SocketAddr) {
        if self.json {
            self.word(key, "", &address.ip().to_canonical().to_string());
            self.number(port_key, "", address.port());
        } else {
            let _ = write!(
                self.out,
                " {short}={}",
                SocketAddr::new(address.ip().to_canonical(), address.port())
            );
        }
    }

    fn key(&mut self, key: &str, short: &str) {
        let _ = if self.json {
            write!(self.out, ",\"{key}\":")
        } else {
            write!(self.out, " {short}=")
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_cannot_break_a_line() {
        let evil = "/a\"b\n{\u{1b}[31m";
        for format in [LogFormat::Text, LogFormat::Json] {
            let mut line = Line::new(format, Event::Refused, Some("pod-1"));
            line.id(7);
            line.text("url.path", "path", evil);
            line.code("holdfast.close.client.code", "client_saw", None);
            line.client(([127, 0, 0, 1], 80).into());
            let line = line.finish();
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(!line.contains('\u{1b}'), "{line}");
            if format == LogFormat::Json {
                let value: serde_json::Value = serde_json::from_str(&line).unwrap();
                assert_eq!(value["url.path"], evil);
                assert_eq!(value["client.port"], 80);
                assert_eq!(value["event.name"], "holdfast.connection.refused");
            }
        }
    }
}
