//! The planes do not know each other: the control plane writes, the data plane reads. This reads every `use` and every path in
//! `src/` and compares what a module names with what it may name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A module, its own modules that it may import, and the crates that it may never name.
const RULES: &[(&str, &[&str], &[&str])] = &[
    (
        "routing",
        &[],
        &[
            "kube",
            "k8s_openapi",
            "hyper",
            "hyper_util",
            "tokio",
            "prometheus",
            "tracing",
            "clap",
        ],
    ),
    ("api", &[], &["hyper", "hyper_util", "tokio", "prometheus", "clap"]),
    (
        "control",
        &["api", "routing", "drain", "readiness", "telemetry"],
        &["hyper", "hyper_util", "clap", "rustls"],
    ),
    (
        "proxy",
        &["routing", "drain", "readiness", "telemetry"],
        &["kube", "k8s_openapi", "schemars", "clap"],
    ),
    ("drain", &[], &["kube", "hyper"]),
    ("readiness", &[], &["kube", "hyper", "tokio"]),
    ("telemetry", &[], &["kube", "hyper"]),
    ("headroom", &[], &["kube", "hyper", "tokio"]),
    ("web", &["proxy"], &["kube", "k8s_openapi"]),
    ("admin", &["live", "proxy", "readiness", "web"], &["kube", "k8s_openapi"]),
    (
        "live",
        &["control", "headroom", "proxy", "readiness", "routing", "web", "why"],
        &["kube", "k8s_openapi"],
    ),
    (
        "why",
        &["control", "proxy", "routing"],
        &["kube", "k8s_openapi", "hyper", "tokio", "clap"],
    ),
];

#[test]
fn modules_name_only_what_they_may() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let own: Vec<String> = modules(&src);
    let mut faults = Vec::new();
    for (module, may, never) in RULES {
        let mut files = Vec::new();
        sources(&src.join(module), &mut files);
        files.push(src.join(format!("{module}.rs")));
        for file in files {
            let text = code(&fs::read_to_string(&file).unwrap());
            for other in own.iter().filter(|other| *other != module && !may.contains(&other.as_str())) {
                if names_own(&text, other) {
                    faults.push(format!("{} names crate::{other}", file.display()));
                }
            }
            for name in never.iter().filter(|name| names_crate(&text, name)) {
                faults.push(format!("{} names {name}", file.display()));
            }
            if *module == "routing" && text.contains("async fn") {
                faults.push(format!("{} has an async fn", file.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_reader_sees_what_it_looks_for() {
    let text = code("use crate::{\n    control::{Index, build},\n    routing::Rule,\n}; // crate::api\nfn f() { kube::x(); }");
    assert!(names_own(&text, "control") && names_own(&text, "routing"));
    assert!(!names_own(&text, "api") && !names_own(&text, "proxy"));
    assert!(names_crate(&text, "kube") && !names_crate(&text, "k8s_openapi"));
    assert!(names_own(&code("use crate::control;"), "control"));
    assert!(names_own(&code("use crate::{api, routing};"), "api"));
    assert!(!names_own(&code("use crate::{proxy::{api, head}};"), "api"));
}

/// The top-level modules.
fn modules(src: &Path) -> Vec<String> {
    let names = fs::read_dir(src).unwrap().map(|entry| entry.unwrap().path());
    let rust = names.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    rust.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect()
}

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The text without comments, strings left as they are: no path of ours stands in a string.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Whether `crate::other` is named, alone or in a list at the first level of braces.
fn names_own(text: &str, other: &str) -> bool {
    text.match_indices("crate::").any(|(at, found)| {
        let rest = &text[at + found.len()..];
        if !rest.starts_with('{') {
            return is_word(rest, other);
        }
        let mut depth = 0;
        let mut word_start = true;
        for (at, character) in rest.char_indices() {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 1 && word_start && is_word(&rest[at..], other) => return true,
                _ => {}
            }
            if depth == 0 {
                return false;
            }
            word_start = matches!(character, '{' | ',') || (word_start && character.is_whitespace());
        }
        false
    })
}

fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at]
            .chars()
            .next_back()
            .is_none_or(|character| !character.is_alphanumeric() && !"_:.\"/".contains(character));
        before && text[at + name.len()..].starts_with("::")
    })
}

fn is_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word)
        .is_some_and(|rest| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_'))
}
