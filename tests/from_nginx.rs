//! docs/from-nginx.md names fields, flags and tests: they exist.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{fs, path::Path, process::Command};

use holdfast::api;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../docs/from-nginx.md");

/// The cells of every row of every table, less the heads.
fn rows() -> Vec<[&'static str; 3]> {
    let lines = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let cells = lines.map(|line| {
        let cells: Vec<&str> = line
            .trim_matches('|')
            .split(" |")
            .map(|cell| cell.trim_matches(['|', ' ']))
            .collect();
        <[&str; 3]>::try_from(cells).unwrap_or_else(|cells| panic!("{} cells: {line}", cells.len()))
    });
    cells.filter(|[_, ours, _]| *ours != "Holdfast").collect()
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_default()
}

#[test]
fn every_row_is_shown_by_a_test_or_says_why_not() {
    let places = |module: &str| {
        let integration = read(&format!("tests/integration/{module}.rs"));
        let routing = [
            format!("src/routing/{module}.rs"),
            format!("src/routing/balancer/{module}.rs"),
        ];
        [integration].into_iter().chain(routing.map(|path| read(&path)))
    };
    let mut faults = Vec::new();
    for [theirs, ours, test] in rows() {
        let tests: Vec<&str> = quoted(test).collect();
        let says_why = ["not there", "coming", "not needed"]
            .iter()
            .any(|words| ours.starts_with(words));
        if tests.is_empty() && !says_why {
            faults.push(format!("{theirs}: no test"));
        }
        for name in tests {
            let (module, function) = name.split_once("::").unwrap_or(("", name));
            if !places(module).any(|text| text.contains(&format!("fn {function}("))) {
                faults.push(format!("{theirs}: there is no test {name}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_field_and_flag_exists() {
    let help = Command::new(env!("CARGO_BIN_EXE_holdfast")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let crd = api::crd();
    let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    let mut faults = Vec::new();
    for [theirs, ours, _] in rows() {
        for word in quoted(ours) {
            let is_field = spec["properties"]
                .get(word.split(['.', '[']).next().unwrap_or_default())
                .is_some();
            let exists = match word {
                flag if flag.starts_with("--") => help.contains(&format!("{flag} ")) || help.contains(&format!("{flag}\n")),
                path if is_field => field(spec, path).is_some(),
                _ => true,
            };
            if !exists {
                faults.push(format!("{theirs}: there is no {word}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The schema of a field such as `rules[].matches[].path`.
fn field<'a>(schema: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(schema, |schema, name| {
        let field = schema["properties"].get(name.trim_end_matches("[]"))?;
        if name.ends_with("[]") {
            field.get("items")
        } else {
            Some(field)
        }
    })
}

#[test]
fn the_document_has_as_many_rows_as_it_must() {
    let text: String = rows().iter().map(|[theirs, ..]| *theirs).collect::<Vec<_>>().join("\n");
    for word in [
        "proxy_http_version",
        "Upgrade",
        "proxy_read_timeout",
        "proxy_send_timeout",
        "proxy_connect_timeout",
        "proxy_set_header",
        "location =",
        "^~",
        "location ~",
        "root",
        "alias",
        "ssl_certificate",
        "weight=",
        "max_fails",
        "max_conns",
        "ip_hash",
        "hash $arg_room consistent",
        "least_conn",
        "random two",
        "sticky cookie",
        "proxy_next_upstream",
        "proxy_ssl_",
        "limit_conn",
        "limit_req",
        "allow",
        "deny",
        "add_header",
        "rewrite",
        "return",
        "set_real_ip_from",
        "proxy_protocol",
        "split_clients",
        "auth_request",
        "Lua",
    ] {
        assert!(text.contains(word), "{word} is missing");
    }
}
