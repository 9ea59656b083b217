//! Objects in, verdicts and table out: each file of tests/golden/ beside the answer that is expected for it. And what must be
//! refused: each file of tests/golden/invalid/ with the refusal that its first lines name.
//!
//! `UPDATE_GOLDEN=1 cargo test --test golden` writes the expected answers anew, for a person to read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use holdfast::{
    api::WebSocketRouteSpec,
    cli::explain,
    control::{Built, Finding, Index, Reason, Settings, build, defaults::Defaults, manifests, object::Event, policy::Policies},
    routing::{Backend, BackendTls, Handshake, Rule, forwarded::Forwarded},
};
use http::HeaderMap;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty());
    files
}

/// The values of the comment lines `# key: value` at the head of a file.
fn head<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    let lines = text.lines().map_while(|line| line.strip_prefix("# "));
    lines.filter_map(|line| line.strip_prefix(key)?.strip_prefix(": ")).collect()
}

fn built(file: &Path, text: &str) -> (Index, Built, Vec<manifests::Problem>) {
    let flags = head(text, "flags").concat();
    let mut index = Index::new(Settings {
        class: "holdfast".to_owned(),
        share_hosts: flags.contains("share-hosts"),
        external_names: !flags.contains("cluster"),
        default_certificate: None,
        ticket_secret: None,
        defaults: Defaults::default(),
    });
    let read = manifests::read(&[file.to_owned()]).unwrap();
    for (object, _) in read.objects {
        index.apply(Event::Apply(object));
    }
    let built = build(&index);
    (index, built, read.problems)
}

#[test]
fn objects_come_to_what_is_expected() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut faults = Vec::new();
    for file in files("") {
        let text = fs::read_to_string(&file).unwrap();
        let (index, built, problems) = built(&file, &text);
        assert!(problems.is_empty(), "{problems:#?}");
        let answer = shown(&index, &built);
        let expected = file.with_extension("txt");
        if update {
            fs::write(&expected, &answer).unwrap();
        }
        if fs::read_to_string(&expected).unwrap_or_default() != answer {
            faults.push(format!(
                "{} is not what {} says:\n{answer}",
                file.display(),
                expected.display()
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn what_is_invalid_is_refused_with_the_words_that_it_names() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut faults = Vec::new();
    for file in files("invalid") {
        let mut text = fs::read_to_string(&file).unwrap();
        let (_, built, problems) = built(&file, &text);
        let refused: Vec<String> = problems.iter().map(|problem| problem.fault.to_string()).collect();
        let rejected = built.verdicts.iter().flat_map(|verdict| &verdict.rejected);
        let rejected: Vec<String> = rejected
            .map(|finding| format!("{} {}", finding.reason, finding.fault))
            .collect();
        if update {
            let head =
                |what: &str, found: &[String]| found.iter().map(|found| format!("# {what}: {found}\n")).collect::<String>();
            let body = text.lines().skip_while(|line| line.starts_with("# "));
            let body: String = body.map(|line| format!("{line}\n")).collect();
            text = [head("refused", &refused), head("rejected", &rejected), body].concat();
            fs::write(&file, &text).unwrap();
        }
        for (what, found) in [("refused", refused), ("rejected", rejected)] {
            let expected = head(&text, what);
            if found != expected {
                faults.push(format!("{}: {what}:\n{}", file.display(), found.join("\n")));
            }
        }
        assert!(
            !head(&text, "refused").is_empty() || !head(&text, "rejected").is_empty(),
            "{}",
            file.display()
        );
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_example_is_in_order() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for folder in fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()) {
        let (index, built, problems) = built(&folder, "");
        assert!(problems.is_empty(), "{problems:#?}");
        // autoscaling is about Holdfast itself.
        assert!(
            index.routes().count() > 0 || folder.ends_with("autoscaling"),
            "{}",
            folder.display()
        );
        for mut verdict in built.verdicts {
            if folder.ends_with("socketio-wss") {
                // The Secret is what cert-manager makes of the Certificate.
                let missing = verdict.unresolved.pop().map(|finding| finding.reason);
                assert_eq!(missing, Some(Reason::InvalidCertificateRef));
            }
            assert!(verdict.is_clean(), "{}: {verdict:#?}", folder.display());
        }
    }
}

#[test]
fn every_reason_is_explained() {
    let known = explain::markdown();
    for reason in [
        Reason::Accepted,
        Reason::UnsupportedValue,
        Reason::HostnameConflict,
        Reason::IncompatibleFilters,
        Reason::ResolvedRefs,
        Reason::BackendNotFound,
        Reason::RefNotPermitted,
        Reason::InvalidKind,
        Reason::UnsupportedProtocol,
        Reason::InvalidCertificateRef,
        Reason::Programmed,
        Reason::Invalid,
        Reason::Shadowed,
    ] {
        assert!(known.contains(&format!("### {reason}\n")), "{reason}");
    }
}

/// Verdicts by route, then the table by host.
fn shown(index: &Index, built: &Built) -> String {
    let mut out = String::new();
    for verdict in &built.verdicts {
        let conditions = verdict.conditions();
        let words = conditions.iter().map(|condition| {
            let status = if condition.status { "True" } else { "False" };
            format!("{}={status} {}", condition.kind, condition.reason)
        });
        writeln!(out, "{}  {}", verdict.route, words.collect::<Vec<_>>().join("  ")).unwrap();
        for Finding { reason, fault, fix } in verdict.findings() {
            writeln!(out, "  {reason} {fault}").unwrap();
            if let Some(fix) = fix {
                writeln!(out, "    fix: {fix}").unwrap();
            }
        }
    }
    let mut hosts: Vec<&str> = index
        .routes()
        .flat_map(|route| &route.spec.hostnames)
        .map(String::as_str)
        .collect();
    hosts.push("");
    hosts.sort_unstable();
    hosts.dedup();
    for host in hosts {
        table(&mut out, built, host);
    }
    out
}

/// The rules of one host, in the order in which they are looked at.
fn table(out: &mut String, built: &Built, host: &str) {
    let asked = match host {
        "" => "no.route.names.this".to_owned(),
        host => host.replacen('*', "some", 1),
    };
    let handshake = Handshake {
        host: &asked,
        path: "/",
        query: None,
        headers: &HeaderMap::new(),
    };
    let explanation = built.table.explain(&handshake);
    let Some(entry) = explanation.host else { return };
    if host.is_empty() || entry.to_string() == host {
        writeln!(out, "\n{entry}").unwrap();
        for considered in explanation.rules {
            let conditions = considered.conditions;
            let mut words = vec![conditions.path.to_string()];
            words.extend(
                conditions
                    .headers
                    .iter()
                    .map(|header| format!("header {}={}", header.name, header.value)),
            );
            words.extend(
                conditions
                    .query
                    .iter()
                    .map(|parameter| format!("query {}={}", parameter.name, parameter.value)),
            );
            words.extend(conditions.subprotocols.iter().map(|word| format!("subprotocol {word}")));
            writeln!(out, "  {}  ->  {}", words.join(" "), rule(considered.rule)).unwrap();
        }
    }
}

fn rule(rule: &Rule) -> String {
    let mut words = vec![rule.id.to_string()];
    words.extend(rule.backends.iter().map(backend));
    if let Some(persistence) = &rule.persistence {
        words.push(format!("{persistence:?}"));
    }
    words.push(format!("{:?}", rule.balancing));
    words.push(format!("{:?}", rule.fallback));
    if let Some(filters) = &rule.filters {
        words.push(format!("{filters:?}"));
    }
    if rule.forwarded != Forwarded::BUILT_IN {
        words.push(format!("{:?}", rule.forwarded));
    }
    let built_in = Policies::of(&WebSocketRouteSpec::default());
    let (timeouts, default) = (&rule.timeouts, &built_in.timeouts);
    for (name, value, default) in [
        ("connect", timeouts.connect, default.connect),
        ("handshake", timeouts.handshake, default.handshake),
        ("idle", timeouts.idle, default.idle),
        ("send", timeouts.send, default.send),
        ("maxDuration", timeouts.max_duration, default.max_duration),
        ("closeHandshake", timeouts.close_handshake, default.close_handshake),
        ("client", rule.heartbeat.client.interval, built_in.heartbeat.client.interval),
        (
            "endpoint",
            rule.heartbeat.endpoint.interval,
            built_in.heartbeat.endpoint.interval,
        ),
    ] {
        if value != default {
            words.push(format!("{name}={value:?}"));
        }
    }
    words.join(" ")
}

fn backend(backend: &Backend) -> String {
    let endpoints = match &backend.endpoints {
        None => "unresolved".to_owned(),
        Some(cell) => {
            let set = cell.load();
            let member = |(endpoint, state): &(std::sync::Arc<holdfast::routing::Endpoint>, _)| {
                let addresses = endpoint
                    .addresses()
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("+");
                match endpoint.name() {
                    name if addresses.contains(name.trim_matches(['[', ']'])) => format!("{addresses} {state:?}"),
                    name => format!("{name} {addresses} {state:?}"),
                }
            };
            set.members().iter().map(member).collect::<Vec<_>>().join(", ")
        }
    };
    let tls = match &backend.tls {
        BackendTls::Off => String::new(),
        BackendTls::Unusable => " TLS unusable".to_owned(),
        BackendTls::On(tls) => {
            let shown = tls.trust().shown.as_ref();
            let shown = shown.map_or_else(String::new, |shown| format!(" showing {}", shown.secret()));
            format!(" TLS with {}{shown}", tls.name().to_str())
        }
    };
    format!("{}*{}[{endpoints}]{tls}", backend.service, backend.weight)
}
