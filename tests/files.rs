//! `check` and `why`, which answer from files: what they print, and their exit codes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};

/// A folder of its own, gone with the value. Commands run in it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("holdfast-files-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        for (file, text) in files {
            fs::write(path.join(file), text).unwrap();
        }
        Self(path)
    }

    /// Exit code and stdout; nothing may be on stderr.
    fn run(&self, args: &[&str]) -> (i32, String) {
        let output = holdfast(&self.0, args);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn holdfast(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for name in [
        "NO_COLOR",
        "CLICOLOR_FORCE",
        "TERM",
        "COLUMNS",
        "LC_ALL",
        "LC_CTYPE",
        "LANG",
        "HOLDFAST_MANIFESTS",
        "HOLDFAST_CLASS",
        "HOLDFAST_DEFAULTS",
    ] {
        command.env_remove(name);
    }
    command.current_dir(folder).args(args).output().unwrap()
}

const CHAT: &str = r#"apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: chat, namespace: chat}
spec:
  hostnames: [chat.example.com]
  rules:
  - name: chat
    matches: [{path: {value: /chat}}]
    backendRefs: [{name: chat, port: 8080}]
  - name: admin
    matches: [{path: {type: Exact, value: /chat/admin}, headers: [{name: X-Role, value: admin}]}]
    backendRefs: [{name: nobody, port: 8080}]
  - name: only
    matches: [{path: {value: /only}}]
    backendRefs: [{name: chat, port: 8080}]
    fallback: {type: Reject}
  sessionPersistence: {type: ClientIP}
  heartbeat: {client: {interval: 20s}}
---
apiVersion: v1
kind: Service
metadata: {name: chat, namespace: chat}
spec: {ports: [{port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: chat-1, namespace: chat, labels: {kubernetes.io/service-name: chat}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [10.244.1.17], targetRef: {kind: Pod, name: chat-0, uid: u0}}
- {addresses: [10.244.1.18], targetRef: {kind: Pod, name: chat-1, uid: u1}, conditions: {ready: false}}
- {addresses: [10.244.1.19], targetRef: {kind: Pod, name: chat-2, uid: u2}, conditions: {terminating: true}}
"#;

const WEB: &str = r#"apiVersion: holdfast.dev/v1alpha1
kind: WebSocketRoute
metadata: {name: all, namespace: web}
spec:
  hostnames: ["*.example.com", chat.example.com]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: web}
spec: {ports: [{port: 80}]}
"#;

#[test]
fn check_says_what_is_wrong_where_and_what_to_do() {
    let place = Place::new("check", &[("chat.yaml", CHAT), ("web.yaml", WEB)]);
    let expected = "\
!!  chat/chat  ResolvedRefs=False BackendNotFound
    chat.yaml:12  backendRefs: [{name: nobody, port: 8080}]
                                       ^^^^^^ there is no Service chat/nobody
    fix: create it, or refer to one that is there
xx  web/all    Accepted=False HostnameConflict
    web.yaml:5  hostnames: [\"*.example.com\", chat.example.com]
                                             ^^^^^^^^^^^^^^^^ chat.example.com is owned by namespace chat (WebSocketRoute chat/chat)
    fix: move the route to namespace chat, or run with --host-ownership=shared
2 routes, 2 Services, 1 EndpointSlice: 1 rejected, 1 warning.   holdfast explain BackendNotFound
";
    assert_eq!(place.run(&["check", "chat.yaml", "web.yaml"]), (1, expected.to_owned()));
    let (code, text) = place.run(&["check", ".", "--host-ownership", "shared"]);
    assert_eq!(code, 0, "a warning is no rejection");
    assert!(
        text.contains("ok  web/all    1 rule on *.example.com, chat.example.com\n"),
        "{text}"
    );
}

#[test]
fn check_says_what_an_api_server_would_refuse() {
    let text = CHAT.replace(
        "backendRefs: [{name: nobody, port: 8080}]",
        "backendRef: [{name: chat, port: 8080}]",
    );
    let place = Place::new(
        "refused",
        &[
            ("chat.yaml", &text),
            ("broken.yml", "kind: [\n"),
            ("other.json", r#"{"kind":"ConfigMap","apiVersion":"v1"}"#),
        ],
    );
    let expected = "\
xx  ./broken.yml
    ./broken.yml:1  kind: [
                          ^ unclosed bracket '['
xx  chat/chat  refused as it is
    ./chat.yaml:12  backendRef: [{name: chat, port: 8080}]
                    ^^^^^^^^^^ unknown field, did you mean backendRefs?
    ./chat.yaml:10  - name: admin
                      ^^^^^^^^^^^ backendRefs is required
1 route, 1 Service, 1 EndpointSlice, 1 object of other kinds: 2 rejected
";
    let (code, text) = place.run(&["check", "."]);
    assert_eq!((code, text.as_str()), (1, expected));
}

#[test]
fn check_shows_effective_values_and_where_they_come_from() {
    let place = Place::new("effective", &[("chat.yaml", CHAT)]);
    let (code, text) = place.run(&["check", "--effective", "chat.yaml"]);
    assert_eq!(code, 0);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(words).collect();
    for line in [
        r#"rule "chat" -> chat/chat:8080 weight 1 (1 of 3 endpoints ready)"#,
        r#"rule "admin" -> chat/nobody:8080 weight 1 (unresolved)"#,
        "heartbeat.client.interval 20s route",
        "timeouts.idle 0s built-in",
        "loadBalancing.algorithm PowerOfTwo built-in",
        "sessionPersistence ClientIP /32 /64 route",
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line} is not in\n{text}");
    }
}

#[test]
fn the_defaults_of_the_process_hold_where_a_route_says_nothing() {
    let defaults = "timeouts: {idle: 2h}\nheartbeat: {client: {interval: 30s}}\nsessionPersistence: {type: Cookie}\n";
    let place = Place::new("defaults", &[("chat.yaml", CHAT), ("defaults.conf", defaults)]);
    let (code, text) = place.run(&["check", "--effective", "--defaults", "defaults.conf", "chat.yaml"]);
    assert_eq!(code, 0, "{text}");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = text.lines().map(words).collect();
    for line in [
        "heartbeat.client.interval 20s route",
        "timeouts.idle 2h --defaults",
        "timeouts.send 1m built-in",
        "sessionPersistence ClientIP /32 /64 route",
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    let (_, text) = why(&place, &["--defaults", "defaults.conf", "ws://chat.example.com/chat"]);
    assert!(text.contains("idle 2h --defaults"), "{text}");
}

#[test]
fn defaults_that_cannot_be_are_told_before_anything_is_bound() {
    let defaults = "timeouts:\n  idel: 2h\n";
    let place = Place::new("defaults-bad", &[("chat.yaml", CHAT), ("defaults.conf", defaults)]);
    let told = "--defaults defaults.conf: line 2: timeouts.idel: unknown field, did you mean idle?";
    for args in [
        &["check", "--defaults", "defaults.conf", "chat.yaml"][..],
        &["--manifests", ".", "--defaults", "defaults.conf"],
    ] {
        let output = holdfast(&place.0, args);
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn checks_document_has_every_finding_with_its_place() {
    let place = Place::new("document", &[("chat.yaml", CHAT), ("web.yaml", WEB)]);
    let (code, text) = place.run(&["check", "chat.yaml", "web.yaml", "-o", "json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 1);
    assert_eq!(document["version"], 1);
    assert_eq!((&document["rejected"], &document["warnings"]), (&json!(1), &json!(1)));
    let web = &document["routes"][1];
    assert_eq!(web["holdfast.route.name"], "all");
    assert_eq!(web["accepted"], false);
    assert_eq!(web["conditions"][0]["reason"], "HostnameConflict");
    let finding = &web["findings"][0];
    assert_eq!(finding["field"], "spec.hostnames[1]");
    assert_eq!(finding["code.file.path"], "web.yaml");
    assert_eq!(
        (&finding["code.line.number"], &finding["code.column.number"]),
        (&json!(5), &json!(32))
    );
    assert_eq!(
        document["routes"][0]["effective"]["heartbeat.client.interval"],
        json!({"value": "20s", "origin": "route"})
    );
}

#[test]
fn check_leaves_out_other_classes_and_says_so() {
    let other = CHAT.replace("spec:\n  hostnames", "spec:\n  className: other\n  hostnames");
    let place = Place::new("class", &[("chat.yaml", &other)]);
    let (code, text) = place.run(&["check", "chat.yaml"]);
    assert_eq!(
        (code, text.as_str()),
        (
            0,
            "0 routes, 1 Service, 1 EndpointSlice, 1 route of another class: all accepted\n"
        )
    );
    assert_eq!(place.run(&["check", "chat.yaml", "--class", "other"]).1.lines().count(), 5);
}

#[test]
fn what_cannot_be_read_at_all_is_usage() {
    let place = Place::new("usage", &[]);
    for args in [
        &["check", "nowhere"][..],
        &["check", "--effective"],
        &["why", "ws://a/", "--manifests", "nowhere"],
        &["why", "ws://a/", "-H", "none"],
    ] {
        let output = holdfast(&place.0, args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    for url in ["chat.example.com", "ftp://a/", "ws://", "ws://a/../..", "ws://a b/"] {
        let output = holdfast(&place.0, &["why", url, "--manifests", "."]);
        assert_eq!(output.status.code(), Some(2), "{url}");
    }
}

/// The answer of `why` on both files, hosts shared.
fn why(place: &Place, args: &[&str]) -> (i32, String) {
    let common = ["why", "--manifests", ".", "--host-ownership", "shared"];
    place.run(&common.iter().chain(args).copied().collect::<Vec<_>>())
}

#[test]
fn why_says_which_rule_and_endpoint_and_why() {
    let place = Place::new("why", &[("chat.yaml", CHAT), ("web.yaml", WEB)]);
    let expected = r#"101  chat/chat rule "chat"  ->  chat-0 10.244.1.17:8080
host     chat.example.com   exact
rules    chat/chat "admin"  Exact /chat/admin, header x-role: admin  path differs
         chat/chat "chat"   PathPrefix /chat                         matched
         chat/chat "only"   PathPrefix /only                         path differs
         web/all "0"        PathPrefix /                             an earlier rule matched
         web/all "0"        *.example.com                            wider host, not looked at
pick     client address     chat-0 10.244.1.17:8080                  1st
         -                  chat-1 10.244.1.18:8080 not ready        not for new connections
         -                  chat-2 10.244.1.19:8080 terminating      not for new connections
policy   connect 2s built-in   handshake 10s built-in   idle 0s built-in   send 1m built-in
         maxDuration 0s built-in   closeHandshake 5s built-in   heartbeat.client 20s route   heartbeat.endpoint 0s built-in
         forwarded.xForwardedFor Append built-in   forwarded.xRealIP true built-in   forwarded.forwarded None built-in
1 problem there: holdfast check says what
"#;
    assert_eq!(
        why(&place, &["wss://Chat.Example.com:443/chat?room=7"]),
        (0, expected.to_owned())
    );
}

#[test]
fn why_says_what_a_client_would_be_refused_and_what_it_may_have_meant() {
    let place = Place::new("refusals", &[("chat.yaml", CHAT)]);
    let first = |args: &[&str]| {
        let (code, text) = why(&place, args);
        (code, text.lines().next().unwrap().to_owned())
    };
    for (args, code, line) in [
        (
            &["ws://chat.example.com/caht"][..],
            1,
            "404 no_route  no rule of chat.example.com matches /caht",
        ),
        (&["ws://nobody.org/"], 1, "404 no_route  no route serves nobody.org"),
        (
            &["http://chat.example.com/only"],
            1,
            "426 upgrade_required  chat/chat rule \"only\"  the rule says fallback: Reject",
        ),
        (
            &["http://chat.example.com/chat"],
            0,
            "plain request  chat/chat rule \"chat\"  ->  chat-0 10.244.1.17:8080",
        ),
        (
            &["ws://chat.example.com/chat/admin", "-H", "x-role: admin"],
            1,
            "500 unresolved_backend  chat/chat rule \"admin\"  its backendRef cannot be resolved; see holdfast check",
        ),
        (
            &["ws://10.0.0.1/chat", "-H", "Host: chat.example.com"],
            0,
            "101  chat/chat rule \"chat\"  ->  chat-0 10.244.1.17:8080",
        ),
    ] {
        assert_eq!(first(args), (code, line.to_owned()), "{args:?}");
    }
    let (_, text) = why(&place, &["ws://chat.example.com/caht"]);
    assert!(
        text.contains("nearest  chat/chat \"chat\" PathPrefix /chat (one letter)\n"),
        "{text}"
    );
    assert!(text.ends_with("holdfast explain no_route\n"), "{text}");
}

#[test]
fn why_says_what_filters_and_fallbacks_do() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let place = Place::new("filters", &[]);
    let why = |url: &str, example: &str| place.run(&["why", url, "--manifests", &format!("{examples}/{example}")]);
    for (url, example, line) in [
        (
            "http://chat.example.com:8080/talk/7?x",
            "filters",
            "301  default/filters rule \"old\"  redirected to http://chat.example.com:8080/chat/7?x",
        ),
        (
            "http://chat.example.com/healthz",
            "filters",
            "200  default/filters rule \"health\"  the rule says fallback: Respond",
        ),
        (
            "http://localhost/x",
            "static",
            "plain request  default/page rule \"page\"  a file of app, if it is there",
        ),
    ] {
        let (code, text) = why(url, example);
        assert_eq!((code, text.lines().next()), (0, Some(line)), "{url}");
    }
    let (code, text) = why("ws://chat.example.com/chat/rooms?x", "filters");
    assert!(
        code == 0 && text.starts_with("101  default/filters rule \"chat\"  ->  127.0.0.1:4000\n"),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("asked") && line.contains("chat.internal/ws/rooms")),
        "{text}"
    );
    let (code, text) = place.run(&["check", &format!("{examples}/filters")]);
    assert!(code == 0, "{text}");
}

#[test]
fn why_knows_that_a_host_with_a_certificate_is_not_served_without_tls() {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tls");
    let place = Place::new("tls", &[]);
    let (code, text) = place.run(&["why", "ws://localhost/", "--manifests", manifests]);
    assert!(code == 1 && text.starts_with("421 tls_required"), "{text}");
    let (code, text) = place.run(&["why", "wss://localhost/", "--manifests", manifests]);
    assert!(code == 0 && text.starts_with("101 "), "{text}");
}

#[test]
fn why_names_routes_that_are_not_served() {
    let place = Place::new("out", &[("chat.yaml", CHAT), ("web.yaml", WEB)]);
    let (code, text) = place.run(&["why", "ws://www.example.com/", "--manifests", "."]);
    assert_eq!(code, 1);
    let words: Vec<&str> = text
        .lines()
        .flat_map(|line| line.strip_prefix("out "))
        .flat_map(str::split_whitespace)
        .collect();
    assert_eq!(words, ["web/all", "Accepted=False", "HostnameConflict"], "{text}");
}

#[test]
fn why_says_what_is_asked_before_a_request_is_let_in() {
    let place = Place::new(
        "guards",
        &[(
            "chat.yaml",
            "apiVersion: holdfast.dev/v1alpha1\nkind: WebSocketRoute\nmetadata: {name: chat}\nspec:\n  \
             limits: {maxConnections: 5000, maxHeaderBytes: 300, handshakeRate: {requests: 10, interval: 1s, burst: 20}}\n  \
             security: {origins: {policy: SameOrigin}, sourceRanges: {deny: [192.0.2.0/24]}}\n  \
             rules: [{backendRefs: [{name: chat, port: 80}]}]\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {name: chat}\nspec: {ports: [{port: 80}]}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {name: chat-1, labels: {kubernetes.io/service-name: chat}}\naddressType: IPv4\nports: [{port: 80}]\n\
             endpoints: [{addresses: [10.0.0.1], conditions: {ready: true}}]\n",
        )],
    );
    let guards = |args: &[&str]| {
        let (code, text) = why(&place, args);
        let lines = text.lines().skip_while(|line| !line.starts_with("guards"));
        let rows = lines.take_while(|line| line.starts_with("guards") || line.starts_with(' '));
        let words = |row: &str| {
            row.trim_start_matches("guards")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        (
            code,
            text.lines().next().unwrap().to_owned(),
            rows.map(words).collect::<Vec<_>>(),
        )
    };
    let all = [
        "sourceRanges 203.0.113.9 lets it in",
        "origins none sent lets it in",
        "maxHeaderBytes 27 of 300 lets it in",
        "handshakeRate at most 20 lets it in",
        "maxConnections at most 5000 lets it in",
    ];
    let (code, first, rows) = guards(&["ws://a/", "--client", "203.0.113.9"]);
    assert_eq!(
        (code, first.as_str(), rows),
        (
            0,
            "101  default/chat rule \"0\"  ->  10.0.0.1:80",
            all.map(str::to_owned).to_vec()
        )
    );
    for (args, first, row) in [
        (
            &["ws://a/", "--client", "192.0.2.7"][..],
            "403 source_refused  default/chat rule \"0\"  security.sourceRanges: 192.0.2.7",
            "sourceRanges 192.0.2.7 refuses it",
        ),
        (
            &["ws://a/", "-H", "Origin: https://b"],
            "403 origin_refused  default/chat rule \"0\"  security.origins: https://b",
            "origins https://b refuses it",
        ),
        (
            &["ws://a/", "-H", &format!("Cookie: {}", "a".repeat(300))],
            "431 headers_too_large  default/chat rule \"0\"  limits.maxHeaderBytes: 337 of 300",
            "maxHeaderBytes 337 of 300 refuses it",
        ),
    ] {
        let (code, found, rows) = guards(args);
        assert_eq!((code, found.as_str()), (1, first));
        assert!(rows.contains(&row.to_owned()), "{rows:?}");
    }
    // Who asks in plain is no page, and holds no connection.
    let (_, _, rows) = guards(&["http://a/"]);
    assert_eq!(
        rows,
        ["sourceRanges 127.0.0.1 lets it in", "maxHeaderBytes 27 of 300 lets it in"]
    );
}

#[test]
fn whys_document_names_the_rule_the_candidates_and_the_others() {
    let place = Place::new("whydoc", &[("chat.yaml", CHAT)]);
    let (code, text) = why(&place, &["ws://chat.example.com/chat", "-o", "json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, 0);
    assert_eq!(document["http.response.status_code"], 101);
    assert_eq!(document["rule"]["holdfast.rule.name"], "chat");
    assert_eq!(document["candidates"][0]["destination.address"], "10.244.1.17:8080");
    assert_eq!(document["not_candidates"][0]["state"], "not ready");
    let (code, text) = why(&place, &["ws://chat.example.com/", "-o", "yaml"]);
    assert_eq!(code, 1);
    assert!(text.contains("error.type: no_route"), "{text}");
}

#[test]
fn crd_is_what_kubectl_applies() {
    let place = Place::new("crd", &[]);
    let committed = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/crds/websocketroutes.yaml")).unwrap();
    assert_eq!(place.run(&["crd"]), (0, committed));
}
