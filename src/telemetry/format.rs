//! The two shapes of a diagnostic line: text for a person, JSON for a log store.

use std::fmt::{self, Write as _};

use anstyle::{AnsiColor, Style};
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `2026-03-01T14:02:11.042Z WARN  message key=value`; the level is the one coloured word.
pub(super) struct Text {
    pub(super) color: bool,
}

/// One flat object: timestamp, level, message, target, the event's fields by their dotted names, then the resource.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        let style = if self.color { style(level) } else { Style::new() };
        let fields = Fields::of(event);
        write!(out, "{} {style}{level:<5}{style:#}", timestamp())?;
        if level >= Level::DEBUG {
            write!(out, " {}:", event.metadata().target())?;
        }
        write!(out, " {}", one_line(&fields.message))?;
        for (name, value) in &fields.rest {
            write!(out, " {name}={}", plain(value))?;
        }
        writeln!(out)
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let fields = Fields::of(event);
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), timestamp().into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("message".to_owned(), fields.message.into());
        line.insert("target".to_owned(), event.metadata().target().into());
        line.extend(fields.rest);
        line.insert("service.name".to_owned(), env!("CARGO_PKG_NAME").into());
        line.insert("service.version".to_owned(), env!("CARGO_PKG_VERSION").into());
        writeln!(out, "{}", Value::Object(line))
    }
}

/// The fields of one event, the message apart.
#[derive(Default)]
struct Fields {
    message: String,
    rest: Map<String, Value>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }

    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        // Records of the `log` crate carry their source in such fields; `target` says enough.
        if !field.name().starts_with("log.") {
            self.rest.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.put(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.put(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}

/// Now, RFC 3339 in UTC with milliseconds.
fn timestamp() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

fn style(level: Level) -> Style {
    let color = match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        _ => AnsiColor::BrightBlack,
    };
    color.on_default()
}

/// A value as `key=value` needs it: bare where that is unambiguous, else as JSON writes it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(s) if !s.is_empty() && !s.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"') => s.clone(),
        other => other.to_string(),
    }
}

/// Text from outside may hold line breaks or escape sequences; a log line stays one line and moves no cursor.
fn one_line(message: &str) -> String {
    if message.contains(char::is_control) {
        message
            .chars()
            .flat_map(|c| {
                if c.is_control() {
                    c.escape_default().collect()
                } else {
                    vec![c]
                }
            })
            .collect()
    } else {
        message.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    macro_rules! logged {
        ($format:expr, $($event:tt)*) => {{
            let sink = Sink::default();
            let writer = sink.clone();
            let layer = tracing_subscriber::fmt::layer().event_format($format).with_writer(move || writer.clone());
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || { $($event)* });
            sink.text()
        }};
    }

    #[test]
    fn json_is_one_flat_object_with_dotted_names() {
        let line = logged!(
            Json,
            tracing::warn!(client.address = "192.0.2.1", client.port = 7, "a \"quoted\"\nword")
        );
        assert_eq!(line.matches('\n').count(), 1);
        let value: Value = serde_json::from_str(&line).unwrap();
        let at = value["timestamp"].as_str().unwrap();
        assert_eq!((at.len(), &at[10..11], &at[19..20], &at[23..]), (24, "T", ".", "Z"), "{at}");
        assert_eq!(value["level"], "WARN");
        assert_eq!(value["message"], "a \"quoted\"\nword");
        assert_eq!(value["client.address"], "192.0.2.1");
        assert_eq!(value["client.port"], 7);
        assert_eq!(value["service.name"], "holdfast");
        assert_eq!(value["service.version"], env!("CARGO_PKG_VERSION"));
        assert!(value["target"].as_str().unwrap().starts_with("holdfast::telemetry"));
    }

    #[test]
    fn text_is_one_line_and_moves_no_cursor() {
        let line = logged!(
            Text { color: false },
            tracing::info!(path = "/a b", n = 3, word = "x", "one\n\x1b[2Jtwo")
        );
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(rest, "INFO  one\\n\\u{1b}[2Jtwo path=\"/a b\" n=3 word=x\n");
    }

    #[test]
    fn only_the_level_is_coloured() {
        let line = logged!(Text { color: true }, tracing::error!("no"));
        assert!(line.contains(" \x1b[31mERROR\x1b[0m no\n"), "{line:?}");
    }
}
