//! `--explain ID`: one connection's life, open or ended, in a few lines and plain sentences.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cli::explain::brief;
use crate::cli::figures::{age, clock, count, fraction, number, short, text, time};
use crate::cli::live::Replicas;
use crate::cli::output::{Format, Screen, Table, Tone, document, print};
use crate::cli::{Failure, NO};

use super::text::{OF_ENDPOINT, is_failure, route, target};

/// Asks who knows the connection, and tells its life. 1 when nobody does.
pub(in crate::cli) async fn explain(replicas: &Replicas, id: &str, format: Format, screen: &Screen) -> Result<u8, Failure> {
    let id = id.trim();
    if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) || id.len() > 32 {
        return Err(Failure::usage(format!(
            "{id:?} is no connection's id: 16 hexadecimal digits, as access lines and lists have it"
        )));
    }
    let answers = replicas.get(&format!("/connections/{id}")).await?;
    let Some(life) = answers.documents.iter().find(|document| document["state"] != "unknown") else {
        return Err(Failure {
            code: NO,
            text: format!(
                "{id}: not open, and not among the ends that are remembered ({}); access lines have older ones",
                answers.closing()
            ),
        });
    };
    let whole = json!({
        "replicas": answers.summary(),
        "replica": life["replica"],
        "state": life["state"],
        "connection": life["connection"],
    });
    print(&document(format, &whole)?.unwrap_or_else(|| render(life, &answers.closing(), screen)))?;
    Ok(0)
}

/// A life: the answer, its stations, the sentences, and what to read next.
fn render(life: &Value, closing: &str, screen: &Screen) -> String {
    let connection = &life["connection"];
    let is_refusal = connection["event.name"] == "holdfast.connection.refused";
    let kind = match (text(&life["state"]), is_refusal) {
        ("open", _) => Kind::Open,
        (_, true) => Kind::Refused,
        _ => Kind::Ended,
    };
    let mut out = headline(connection, kind, screen);
    let mut table = Table::new(["", ""]);
    for (title, said) in stations(life, kind) {
        table.row([title.to_owned(), said]);
    }
    out.push_str(&table.render(screen));
    for sentence in sentences(connection, kind) {
        for line in screen.wrap(&sentence, 0) {
            let _ = writeln!(out, "{line}");
        }
    }
    let word = match kind {
        Kind::Open => "",
        Kind::Refused => text(&connection["error.type"]),
        Kind::Ended => text(&connection["holdfast.end.cause"]),
    };
    let next = match word {
        "" => format!("holdfast connections --route {}", route(connection)),
        OF_ENDPOINT => "holdfast ends --cause endpoint".to_owned(),
        word => format!("holdfast explain {word}"),
    };
    let _ = writeln!(out, "{closing}.   {next}");
    out
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    Ended,
    Refused,
}

fn headline(connection: &Value, kind: Kind, screen: &Screen) -> String {
    let lived = age(fraction(&connection["holdfast.duration_seconds"]));
    let word = text(&connection["holdfast.end.cause"]);
    let (tone, said) = match kind {
        Kind::Open if connection["ending"] == true => (Tone::Warning, format!("open for {lived}, and about to end")),
        Kind::Open => (Tone::Good, format!("open for {lived}")),
        Kind::Ended => {
            let tone = if is_failure(word) { Tone::Bad } else { Tone::Good };
            let by = text(&connection["holdfast.end.initiator"]);
            let by = if by == "holdfast" {
                "Holdfast".to_owned()
            } else {
                format!("the {by}")
            };
            (tone, format!("ended by {by} after {lived}: {word}"))
        }
        Kind::Refused => {
            let status = number(&connection["http.response.status_code"]);
            (Tone::Bad, format!("refused: {status} {}", text(&connection["error.type"])))
        }
    };
    let id = text(&connection["holdfast.connection.id"]);
    format!("{}  {id}  {}  {said}\n", screen.mark(tone), route(connection))
}

/// What is known of it, in the order of its life.
fn stations(life: &Value, kind: Kind) -> Vec<(&'static str, String)> {
    let connection = &life["connection"];
    let mut stations = vec![("when", when(life, kind)), ("client", client(connection))];
    if let Some(request) = connection["http.request.id"].as_str() {
        stations.push(("request", request.to_owned()));
    }
    let endpoint = text(&connection["holdfast.endpoint.pod"]);
    let address = format!(
        "{}:{}",
        text(&connection["destination.address"]),
        number(&connection["destination.port"])
    );
    match endpoint {
        "" => stations.push(("endpoint", "none was reached".to_owned())),
        name if name.starts_with(text(&connection["destination.address"])) => stations.push(("endpoint", address)),
        name => stations.push((
            "endpoint",
            format!("{name}  {address}  of {}", text(&connection["holdfast.endpoint.service"])),
        )),
    }
    stations.push(("handshake", handshake(connection, kind)));
    if kind == Kind::Refused {
        return stations;
    }
    let amount = |what: &str, direction: &str| number(&connection[format!("holdfast.{what}.{direction}")]);
    let moved = |direction: &str| {
        format!(
            "{} ({} B)",
            count(amount("messages", direction)),
            short(amount("bytes", direction) as f64)
        )
    };
    stations.push((
        "messages",
        format!(
            "{} from the client, {} from the endpoint",
            moved("to_endpoint"),
            moved("to_client")
        ),
    ));
    if kind == Kind::Open {
        stations.push((
            "silence",
            format!("{} since the last message", age(fraction(&connection["idle_seconds"]))),
        ));
        for side in ["client", "endpoint"] {
            stations.push((if side == "client" { "pings" } else { "" }, pings(side, &connection[side])));
        }
        stations.push(("limits", limits(&connection["timeouts"])));
        return stations;
    }
    let idle = fraction(&connection["idle_seconds"]);
    if idle >= 1.0 {
        stations.push(("silence", format!("{} between the last message and the end", age(idle))));
    }
    if let Some(rtt) = connection["holdfast.heartbeat.rtt_seconds"].as_f64() {
        stations.push(("pings", format!("the client's last answer took {}", time(rtt))));
    }
    stations
}

fn when(life: &Value, kind: Kind) -> String {
    let connection = &life["connection"];
    let told = |name: &str| {
        life[name]
            .as_str()
            .or(connection[name].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let end = if kind == Kind::Open { told("time") } else { told("timestamp") };
    let replica = text(&life["replica"]);
    let today = Timestamp::now();
    let lasted = SignedDuration::try_from_secs_f64(fraction(&connection["holdfast.duration_seconds"])).unwrap_or_default();
    let begun = end.parse::<Timestamp>().ok().and_then(|end| end.checked_sub(lasted).ok());
    let begun = begun.map_or_else(String::new, |begun| clock(&begun.to_string(), today));
    match kind {
        Kind::Open => format!("opened {begun}, on {replica}"),
        Kind::Ended => format!("{begun} to {}, on {replica}", clock(&end, today)),
        Kind::Refused => format!("{}, by {replica}", clock(&end, today)),
    }
}

fn client(connection: &Value) -> String {
    let mut said = format!(
        "{}:{}",
        text(&connection["client.address"]),
        number(&connection["client.port"])
    );
    if let Some(version) = connection["tls.protocol.version"].as_str() {
        let _ = write!(said, "  TLS {version}");
    }
    let target = target(connection);
    if target != "-" {
        let _ = write!(said, "  {target}");
    }
    said
}

fn handshake(connection: &Value, kind: Kind) -> String {
    let whole = time(fraction(&connection["holdfast.handshake.duration_seconds"]));
    let mut said = match kind {
        Kind::Refused => format!("answered after {whole}"),
        _ => {
            let dial = time(fraction(&connection["holdfast.handshake.dial_seconds"]));
            format!("{whole}, of it {dial} until the endpoint was reached")
        }
    };
    if let Some(attempts) = connection["holdfast.handshake.attempts"].as_u64() {
        let _ = write!(said, "; {attempts} endpoints were asked");
    }
    if let Some(limit) = connection["holdfast.limit.dry_run"].as_str() {
        let _ = write!(said, "; {limit} would have refused it, but for dryRun");
    }
    said
}

fn pings(side: &str, leg: &Value) -> String {
    let heartbeat = &leg["heartbeat"];
    let interval = fraction(&heartbeat["interval_seconds"]);
    if interval == 0.0 {
        return format!("none to the {side}");
    }
    let answered = match heartbeat["rtt_seconds"].as_f64() {
        Some(rtt) => format!("the last answer took {}", time(rtt)),
        None => "none was needed yet, or none was answered".to_owned(),
    };
    let missed = match number(&heartbeat["missed"]) {
        0 => String::new(),
        missed => format!(", {missed} of {} missed", number(&heartbeat["missed_allowed"])),
    };
    format!("to the {side} after {} of silence: {answered}{missed}", age(interval))
}

fn limits(timeouts: &Value) -> String {
    let limit = |name: &str, what: &str| match fraction(&timeouts[name]) {
        0.0 => None,
        seconds => Some(format!("{what} {}", age(seconds))),
    };
    let limits: Vec<String> = [
        limit("idle_seconds", "idle"),
        limit("max_duration_seconds", "age"),
        limit("send_seconds", "a side that accepts nothing"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if limits.is_empty() {
        "none".to_owned()
    } else {
        limits.join(", ")
    }
}

/// Who moved first and why, and what each side said and was told.
fn sentences(connection: &Value, kind: Kind) -> Vec<String> {
    match kind {
        Kind::Open => open(connection),
        Kind::Refused => refused(connection),
        Kind::Ended => ended(connection),
    }
}

fn open(connection: &Value) -> Vec<String> {
    let mut said = Vec::new();
    for (side, other) in [("client", "endpoint"), ("endpoint", "client")] {
        if let Some(stalled) = connection[side]["stalled_seconds"].as_f64() {
            said.push(format!(
                "The {side} has accepted nothing for {}, so the {other} is not read.",
                age(stalled)
            ));
        }
        if connection[side]["delayed"] == true {
            said.push(format!(
                "The {side} sends more than limits.tunnel allows, so it is read slowly."
            ));
        }
    }
    if connection["ending"] == true {
        said.push("Its end has begun: a side is being told, or is given time to answer.".to_owned());
    }
    said
}

fn refused(connection: &Value) -> Vec<String> {
    let status = number(&connection["http.response.status_code"]);
    match text(&connection["error.type"]) {
        OF_ENDPOINT => vec![format!(
            "The endpoint itself answered the handshake with {status}; the client got that answer as it was."
        )],
        word => brief(word).map(|brief| vec![brief.to_owned()]).unwrap_or_default(),
    }
}

fn ended(connection: &Value) -> Vec<String> {
    let word = text(&connection["holdfast.end.cause"]);
    let mut said: Vec<String> = brief(word).map(str::to_owned).into_iter().collect();
    let heard = |side: &str| connection[format!("holdfast.close.{side}.received")].as_u64();
    let told = |side: &str| connection[format!("holdfast.close.{side}.code")].as_u64();
    let first = match text(&connection["holdfast.end.initiator"]) {
        "endpoint" => ["endpoint", "client"],
        _ => ["client", "endpoint"],
    };
    for side in first {
        let gone = matches!(
            (side, word),
            ("client", "reset" | "client_vanished") | ("endpoint", "endpoint_gone" | "endpoint_vanished")
        );
        said.push(match (told(side), heard(side)) {
            (Some(told), Some(heard)) if told == heard => format!("The {side} said {} and was told the same.", code(heard)),
            (Some(told), Some(heard)) => format!("The {side} said {} and was told {}.", code(heard), code(told)),
            (Some(told), None) => format!("The {side} was told {} and did not answer.", code(told)),
            (None, Some(heard)) => format!("The {side} said {} and was not answered.", code(heard)),
            (None, None) if gone => format!("The {side} said nothing, and was not there to be told."),
            (None, None) => format!("The {side} saw its connection end without a Close, which its library calls 1006."),
        });
    }
    if connection["holdfast.end.mid_frame"] == true {
        said.push("A side could not be told by a Close, because it was in the middle of a frame.".to_owned());
    }
    said
}

fn code(code: u64) -> String {
    match code {
        1005 => "a Close without a code (1005)".to_owned(),
        code => code.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::ColorChoice;

    fn screen() -> Screen {
        Screen::decide(ColorChoice::Never, false, None, |_| None)
    }

    fn life(state: &str, connection: Value) -> Value {
        json!({"state": state, "replica": "holdfast-a", "time": "2026-01-02T00:00:00.000Z", "connection": connection})
    }

    fn tunnel() -> Value {
        json!({
            "timestamp": "2026-01-01T14:02:11.000Z", "event.name": "holdfast.connection.ended",
            "holdfast.connection.id": "0566c10000000001",
            "holdfast.route.namespace": "chat", "holdfast.route.name": "chat", "holdfast.rule.name": "chat",
            "client.address": "198.51.100.4", "client.port": 4711, "server.address": "chat.example.com", "url.path": "/chat",
            "holdfast.endpoint.pod": "chat-2", "holdfast.endpoint.service": "chat/chat:8080",
            "destination.address": "10.244.1.17", "destination.port": 8080, "tls.protocol.version": "1.3",
            "holdfast.duration_seconds": 11_520.0, "holdfast.handshake.duration_seconds": 0.0019, "holdfast.handshake.dial_seconds": 0.0004,
            "holdfast.messages.to_endpoint": 1204, "holdfast.messages.to_client": 88_012,
            "holdfast.bytes.to_endpoint": 1_200_000, "holdfast.bytes.to_client": 88_000_000,
            "holdfast.heartbeat.rtt_seconds": 0.018,
        })
    }

    #[test]
    fn an_end_is_told_with_who_moved_first_and_both_codes() {
        let mut connection = tunnel();
        connection["holdfast.end.initiator"] = "endpoint".into();
        connection["holdfast.end.cause"] = "endpoint_gone".into();
        connection["holdfast.close.client.code"] = 1012.into();
        connection["holdfast.close.client.received"] = 1012.into();
        let told = render(&life("over", connection), "1/1 replica", &screen());
        for wanted in [
            "xx  0566c10000000001  chat/chat  ended by the endpoint after 3h12m: endpoint_gone",
            "198.51.100.4:4711  TLS 1.3  chat.example.com/chat",
            "chat-2  10.244.1.17:8080  of chat/chat:8080",
            "1.9 ms, of it 0.4 ms until the endpoint was reached",
            "1,204 (1.2M B) from the client, 88,012 (88M B) from the endpoint",
            "The endpoint said nothing, and was not there to be told.",
            "The client said 1012 and was told the same.",
            "1/1 replica.   holdfast explain endpoint_gone",
        ] {
            assert!(told.contains(wanted), "{wanted:?} is not in\n{told}");
        }
    }

    #[test]
    fn an_open_one_says_what_it_waits_for() {
        let mut connection = tunnel();
        let heartbeat =
            |interval: f64| json!({"interval_seconds": interval, "missed_allowed": 2, "missed": 1, "rtt_seconds": 0.018});
        connection["client"] = json!({"stalled_seconds": 12.0, "heartbeat": heartbeat(45.0)});
        connection["endpoint"] = json!({"heartbeat": heartbeat(0.0)});
        connection["timeouts"] = json!({"idle_seconds": 3600.0, "max_duration_seconds": 0.0, "send_seconds": 60.0});
        connection["idle_seconds"] = 7.into();
        let told = render(&life("open", connection), "3/3 replicas", &screen());
        for wanted in [
            "ok  0566c10000000001  chat/chat  open for 3h12m",
            "The client has accepted nothing for 12s, so the endpoint is not read.",
            "to the client after 45s of silence: the last answer took 18 ms, 1 of 2 missed",
            "none to the endpoint",
            "idle 1h, a side that accepts nothing 1m",
            "3/3 replicas.   holdfast connections --route chat/chat",
        ] {
            assert!(told.contains(wanted), "{wanted:?} is not in\n{told}");
        }
    }
}
