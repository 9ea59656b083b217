//! What a ping saw: printed as it happens, summed up at the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::time::{Duration, Instant};

use http::HeaderMap;
use serde_json::{Value, json};

use crate::cli::output::{Format, Screen, Tone, document, print};

use super::end::End;
use super::target::{Opened, Refusal};

/// The running account of one run.
pub(super) struct Report {
    screen: Screen,
    format: Format,
    verbose: bool,
    url: String,
    sent: u64,
    rtts: Rtts,
    unexpected: u64,
    lost: u64,
    lost_numbers: Vec<u64>,
    waiting: BTreeMap<u64, Waiting>,
    connections: Vec<Value>,
    opened: u64,
    opened_at: Option<Instant>,
    ended_at: Option<Instant>,
    without: Duration,
    ends: BTreeMap<String, u64>,
    /// An end was not in order: no Close, or before all was sent.
    bad_end: bool,
    /// The newest attempt was refused.
    refused: bool,
}

/// Round-trip times of the messages that came back.
#[derive(Default)]
struct Rtts {
    count: u64,
    min: Duration,
    max: Duration,
    sum: Duration,
}

/// A message whose echo has not come yet.
struct Waiting {
    since: Instant,
    told: bool,
}

impl Report {
    pub(super) fn new(screen: Screen, format: Format, verbose: bool, url: String) -> Self {
        Self {
            screen,
            format,
            verbose,
            url,
            sent: 0,
            rtts: Rtts::default(),
            unexpected: 0,
            lost: 0,
            lost_numbers: Vec::new(),
            waiting: BTreeMap::new(),
            connections: Vec::new(),
            opened: 0,
            opened_at: None,
            ended_at: None,
            without: Duration::ZERO,
            ends: BTreeMap::new(),
            bad_end: false,
            refused: false,
        }
    }

    /// How many echoes are still to come.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a connection was ever open.
    pub(super) fn ever_open(&self) -> bool {
        self.opened > 0
    }

    /// A connection is open. `cookies` are the names of those that are new or changed.
    pub(super) fn opened(&mut self, opened: &Opened, cookies: &[String]) -> io::Result<()> {
        self.opened += 1;
        self.opened_at = Some(Instant::now());
        self.refused = false;
        let whole = opened.dial + opened.handshake;
        let endpoint = opened
            .headers
            .get(ENDPOINT_HEADER)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut text = format!("101 in {} (dial {})", millis(whole), millis(opened.dial));
        if let Some(name) = &endpoint {
            let _ = write!(text, ", endpoint {name}");
        }
        if !cookies.is_empty() {
            let _ = write!(text, ", cookie {}", cookies.join(", "));
        }
        if let Some(since) = self.ended_at.take() {
            let gap = since.elapsed();
            self.without += gap;
            let _ = write!(text, "; reconnect {} after {}", self.opened - 1, seconds(gap));
        }
        self.connection(json!({
            "http.response.status_code": 101,
            "network.peer.address": opened.peer.ip().to_string(),
            "network.peer.port": opened.peer.port(),
            "holdfast.handshake_seconds": whole.as_secs_f64(),
            "echo.endpoint": endpoint,
        }));
        self.line(Some(Tone::Good), "open", &text)?;
        self.headers(&opened.headers)
    }

    /// There is no connection.
    pub(super) fn refused(&mut self, refusal: &Refusal) -> io::Result<()> {
        self.refused = true;
        let Refusal::Answer { status, headers, body } = refusal else {
            self.connection(json!({ "error.message": refusal.to_string() }));
            return self.line(Some(Tone::Bad), "refused", &refusal.to_string());
        };
        let proxy_status = headers.get("proxy-status").and_then(|value| value.to_str().ok());
        self.connection(json!({
            "http.response.status_code": status.as_u16(),
            "proxy_status": proxy_status,
            "error.type": proxy_status.and_then(details),
        }));
        self.line(Some(Tone::Bad), "refused", &status.to_string())?;
        if let Some(text) = body.lines().next().filter(|text| !text.trim().is_empty()) {
            self.line(None, "", text)?;
        }
        if let Some(value) = proxy_status {
            self.line(None, "", &format!("Proxy-Status: {value}"))?;
        }
        self.headers(headers)?;
        match proxy_status.and_then(details) {
            Some(word) => self.line(None, "", &format!("holdfast explain {word}")),
            None => Ok(()),
        }
    }

    /// Message `number` is on its way.
    pub(super) fn sent(&mut self, number: u64) {
        self.sent += 1;
        self.waiting.insert(
            number,
            Waiting {
                since: Instant::now(),
                told: false,
            },
        );
    }

    /// A message came; `number` is `None` when it is not one of ours.
    pub(super) fn echoed(&mut self, number: Option<u64>) -> io::Result<()> {
        let Some(number) = number else {
            self.unexpected += 1;
            return self.line(Some(Tone::Warning), "", "a message that is no echo");
        };
        let Some(Waiting { since, told }) = self.waiting.remove(&number) else {
            self.unexpected += 1;
            return self.line(Some(Tone::Warning), &number.to_string(), "came twice");
        };
        let rtt = since.elapsed();
        self.rtts.add(rtt);
        // On one connection, messages keep their order.
        let early = self
            .waiting
            .first_key_value()
            .is_some_and(|(first, waiting)| *first < number && !waiting.told);
        let (tone, note) = match (early, told) {
            (true, _) => (Some(Tone::Warning), "  before an earlier one"),
            (false, true) => (Some(Tone::Warning), "  late"),
            (false, false) => (None, ""),
        };
        self.unexpected += u64::from(early);
        self.line(tone, &number.to_string(), &format!("{}{note}", millis(rtt)))
    }

    /// When the next message will have waited for `wait`; `None` when none that could is left.
    pub(super) fn next_late(&self, wait: Duration) -> Option<Instant> {
        self.waiting
            .values()
            .find(|waiting| !waiting.told)
            .map(|waiting| waiting.since + wait)
    }

    /// Says which messages have waited for `wait`. They count as lost only if the connection ends without them.
    pub(super) fn tell_late(&mut self, wait: Duration) -> io::Result<()> {
        let now = Instant::now();
        let late = |waiting: &Waiting| !waiting.told && now.duration_since(waiting.since) >= wait;
        let numbers: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, w)| late(w))
            .map(|(number, _)| *number)
            .collect();
        for number in numbers {
            if let Some(waiting) = self.waiting.get_mut(&number) {
                waiting.told = true;
            }
            self.line(
                Some(Tone::Bad),
                &number.to_string(),
                &format!("no echo within {}", seconds(wait)),
            )?;
        }
        Ok(())
    }

    /// The connection is over; what is still waited for is lost.
    pub(super) fn ended(&mut self, end: &End) -> io::Result<()> {
        let age = self.opened_at.take().map(|at| at.elapsed()).unwrap_or_default();
        self.ended_at = Some(Instant::now());
        self.bad_end |= matches!(end, End::Cut(_));
        *self.ends.entry(end.code()).or_default() += 1;
        let lost = self.waiting.len();
        self.lost += lost as u64;
        let room = MAX_LISTED - self.lost_numbers.len();
        self.lost_numbers.extend(self.waiting.keys().take(room));
        let numbers = list(self.waiting.keys().copied(), lost);
        self.waiting.clear();
        if self.opened <= MAX_LISTED as u64
            && let Some(Value::Object(connection)) = self.connections.last_mut()
        {
            connection.extend(end.fields());
            connection.insert("holdfast.duration_seconds".to_owned(), age.as_secs_f64().into());
        }
        let mut text = format!("{} after {}", end.text(), seconds(age));
        if lost > 0 {
            let _ = write!(text, "; lost {numbers}");
        }
        let (tone, word) = match end {
            End::Cut(_) => (Tone::Bad, "cut"),
            End::Closed { by_us: true, .. } => (Tone::Good, "closed"),
            End::Closed { by_us: false, .. } => (Tone::Warning, "closed"),
        };
        let tone = if lost > 0 { Tone::Bad } else { tone };
        self.line(Some(tone), word, &text)
    }

    /// The other side ended the connection before all was sent, and there will be no other.
    pub(super) fn unfinished(&mut self) {
        self.bad_end = true;
    }

    /// Prints the sum. True when everything that was sent came back and every end was in order.
    pub(super) fn finish(&mut self) -> io::Result<bool> {
        if let Some(since) = self.ended_at.filter(|_| self.refused) {
            self.without += since.elapsed();
        }
        let good = self.good();
        match document(self.format, &self.json())? {
            Some(text) => print(&text)?,
            // Where nothing was ever open, the refusal said it all.
            None if self.opened == 0 => {}
            None => print(&self.summary(good))?,
        }
        Ok(good)
    }

    fn good(&self) -> bool {
        self.opened > 0 && self.lost == 0 && self.unexpected == 0 && !self.bad_end && !self.refused
    }

    fn summary(&self, good: bool) -> String {
        let lost = format!("{} lost", self.lost);
        let lost = if self.lost > 0 {
            self.screen.toned(Tone::Bad, &lost)
        } else {
            lost
        };
        let mark = self.screen.mark(if good { Tone::Good } else { Tone::Bad });
        let mut text = format!("{mark} {} sent, {} received, {lost}", self.sent, self.rtts.count);
        if self.unexpected > 0 {
            let _ = write!(text, ", {} unexpected", self.unexpected);
        }
        if let Some((min, mean, max)) = self.rtts.summary() {
            let [min, mean, max] = [min, mean, max].map(|rtt| rtt.as_secs_f64() * 1000.0);
            let _ = write!(text, "; RTT min/avg/max {min:.2}/{mean:.2}/{max:.2} ms");
        }
        let reconnects = self.opened.saturating_sub(1);
        if reconnects > 0 {
            let word = if reconnects == 1 { "reconnect" } else { "reconnects" };
            let _ = write!(text, "; {reconnects} {word}, {} without a connection", seconds(self.without));
        }
        if !self.ends.is_empty() {
            let ends: Vec<String> = self.ends.iter().map(|(code, count)| format!("{code} ({count})")).collect();
            let _ = write!(text, "; ends {}", ends.join(", "));
        }
        text.push('\n');
        if self.lost > 0 {
            let _ = writeln!(
                text,
                "lost: {}",
                list(self.lost_numbers.iter().copied(), usize::try_from(self.lost).unwrap_or(0))
            );
        }
        text
    }

    fn json(&self) -> Value {
        let rtt = self
            .rtts
            .summary()
            .map(|(min, mean, max)| json!({ "min": min.as_secs_f64(), "avg": mean.as_secs_f64(), "max": max.as_secs_f64() }));
        json!({
            "url.full": self.url,
            "sent": self.sent,
            "received": self.rtts.count,
            "lost": self.lost,
            "lost_messages": self.lost_numbers,
            "unexpected": self.unexpected,
            "rtt_seconds": rtt,
            "reconnects": self.opened.saturating_sub(1),
            "without_connection_seconds": self.without.as_secs_f64(),
            "ends": self.ends,
            "connections": self.connections,
        })
    }

    fn connection(&mut self, record: Value) {
        if self.connections.len() < MAX_LISTED {
            self.connections.push(record);
        }
    }

    fn headers(&self, headers: &HeaderMap) -> io::Result<()> {
        if self.verbose {
            for (name, value) in headers {
                self.line(None, "", &format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))?;
            }
        }
        Ok(())
    }

    /// One line of the table; nothing where the answer is one document at the end.
    fn line(&self, tone: Option<Tone>, word: &str, text: &str) -> io::Result<()> {
        if !matches!(self.format, Format::Table | Format::Wide) {
            return Ok(());
        }
        let mark = tone.map_or("", |tone| self.screen.glyph(tone));
        let blank = " ".repeat(2 - mark.chars().count().min(2));
        let mark = tone.map_or_else(String::new, |tone| self.screen.mark(tone));
        // What the other side sent may hold control characters; a line stays a line.
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        print(&format!("{mark}{blank} {word:<8} {text}\n"))
    }
}

impl Rtts {
    fn add(&mut self, rtt: Duration) {
        self.min = if self.count == 0 { rtt } else { self.min.min(rtt) };
        self.max = self.max.max(rtt);
        self.sum += rtt;
        self.count += 1;
    }

    /// Least, mean and greatest; `None` when nothing came back.
    fn summary(&self) -> Option<(Duration, Duration, Duration)> {
        let mean = self.sum.as_secs_f64() / f64::from(u32::try_from(self.count).unwrap_or(u32::MAX));
        (self.count > 0).then(|| (self.min, Duration::from_secs_f64(mean), self.max))
    }
}

/// The reason word in a Proxy-Status line of ours.
fn details(proxy_status: &str) -> Option<&str> {
    let (_, rest) = proxy_status.split_once("details=\"")?;
    let (word, _) = rest.split_once('"')?;
    (proxy_status.starts_with("holdfast") && !word.is_empty()).then_some(word)
}

/// Numbers of messages, the first few by name.
fn list(numbers: impl Iterator<Item = u64>, all: usize) -> String {
    let shown: Vec<String> = numbers.take(SHOWN).map(|number| number.to_string()).collect();
    let more = if all > shown.len() {
        format!(" and {} more", all - shown.len())
    } else {
        String::new()
    };
    shown.join(", ") + &more
}

fn millis(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1000.0)
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// Where `holdfast echo` says its name.
const ENDPOINT_HEADER: &str = "x-echo-endpoint";
/// Connections and lost messages that a document names one by one.
const MAX_LISTED: usize = 1000;
/// Lost messages that a line names one by one.
const SHOWN: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::ColorChoice;

    fn report() -> Report {
        let screen = Screen::decide(ColorChoice::Never, false, None, |_| None);
        Report::new(screen, Format::Json, false, "ws://a/".to_owned())
    }

    #[test]
    fn what_is_waited_for_at_an_end_is_lost() {
        let mut report = report();
        report.opened = 1;
        for number in 1..=4 {
            report.sent(number);
        }
        report.echoed(Some(1)).unwrap();
        report.echoed(Some(2)).unwrap();
        report.echoed(Some(2)).unwrap();
        report
            .ended(&End::Closed {
                code: Some(1012),
                reason: String::new(),
                by_us: false,
            })
            .unwrap();
        let value = report.json();
        assert_eq!(
            (&value["sent"], &value["received"], &value["lost"]),
            (&json!(4), &json!(2), &json!(2))
        );
        assert_eq!(value["lost_messages"], json!([3, 4]));
        assert_eq!(value["unexpected"], 1);
        assert_eq!(value["ends"], json!({ "1012": 1 }));
        assert!(!report.good());
    }

    #[test]
    fn an_echo_that_overtakes_another_is_noticed() {
        let mut report = report();
        report.sent(1);
        report.sent(2);
        report.echoed(Some(2)).unwrap();
        report.echoed(Some(1)).unwrap();
        assert_eq!(report.unexpected, 1);
    }

    #[test]
    fn only_our_own_proxy_status_names_a_word() {
        let ours = r#"holdfast; error=destination_unavailable; details="no_ready_endpoint""#;
        assert_eq!(details(ours), Some("no_ready_endpoint"));
        assert_eq!(details(r#"other; details="x""#), None);
        assert_eq!(details("holdfast; error=x"), None);
    }

    #[test]
    fn long_lists_are_cut() {
        assert_eq!(list([1, 2].into_iter(), 2), "1, 2");
        assert!(list(1..=30, 30).ends_with("19, 20 and 10 more"));
    }
}
