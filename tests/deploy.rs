//! What a person applies to a cluster, builds an image from and reads about it: that the parts fit each other and the program.
//! What an API server makes of the manifests, tests/cluster/ asks one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::Parser;
use holdfast::config::{CLOSING, Cli, Serve};
use serde_json::{Value, json};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The objects of a file.
fn objects(path: impl AsRef<Path>) -> Vec<Value> {
    serde_saphyr::from_multiple(&read(path)).unwrap()
}

/// The one object of this kind and name.
fn object(path: &str, kind: &str, name: &str) -> Value {
    let is_meant = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
    let mut found: Vec<Value> = objects(path).into_iter().filter(is_meant).collect();
    assert_eq!(found.len(), 1, "{kind} {name} in {path}");
    found.remove(0)
}

/// Files below a folder whose names end so, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let path = path.strip_prefix(root()).unwrap().to_owned();
        if root().join(&path).is_dir() {
            found.extend(files(path.to_str().unwrap(), ending));
        } else if path.to_str().unwrap().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn pod() -> Value {
    object("deploy/minimal/deployment.yaml", "Deployment", "holdfast")["spec"]["template"]["spec"].clone()
}

/// What the container's arguments and `more` mean.
fn serve(more: &[&str]) -> Serve {
    let pod = pod();
    let args = pod["containers"][0]["args"].as_array().unwrap();
    let args = args.iter().map(|arg| arg.as_str().unwrap());
    Cli::try_parse_from(["holdfast"].into_iter().chain(args).chain(more.iter().copied()))
        .unwrap()
        .serve
}

#[test]
fn every_image_is_of_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let mut images = 0;
    let manifests = [files("deploy", ".yaml"), files("examples", ".yaml"), documents()].concat();
    for file in manifests.iter().chain([&"Dockerfile".into()]) {
        for found in read(file)
            .split("holdfast:")
            .skip(1)
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        {
            let tag = found.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap();
            assert_eq!(tag.trim_end_matches('.'), version, "{}", file.display());
            images += 1;
        }
    }
    assert!(images >= 3, "{images}");
    let kustomization = &objects("deploy/minimal/kustomization.yaml")[0];
    assert_eq!(kustomization["labels"][0]["pairs"]["app.kubernetes.io/version"], version);
    let chart = &objects("charts/holdfast/Chart.yaml")[0];
    assert_eq!([&chart["version"], &chart["appVersion"]], [version, version]);
}

#[test]
fn a_pod_is_given_the_time_that_a_drain_takes() {
    let grace = pod()["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert_eq!(serve(&[]).grace_period.unwrap().as_secs(), grace);
    let (delay, window) = serve(&[]).drain().unwrap();
    assert_eq!((delay + window + CLOSING).as_secs(), grace);
}

#[test]
fn ports_are_those_that_are_listened_on() {
    let pod = pod();
    let container = &pod["containers"][0];
    let serve = serve(&[]);
    let listened = json!([
        {"name": "http", "containerPort": serve.http.port()},
        {"name": "https", "containerPort": serve.https.unwrap().port()},
        {"name": "admin", "containerPort": serve.admin.port()},
    ]);
    assert_eq!(container["ports"], listened);
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "admin", "{probe}");
    }
    let sysctl = &pod["securityContext"]["sysctls"][0];
    assert_eq!(sysctl["name"], "net.ipv4.ip_local_port_range");
    let lowest: u16 = sysctl["value"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(serve.http.port() < lowest && serve.admin.port() < lowest);
    let service = object("deploy/minimal/service.yaml", "Service", "holdfast");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
    assert_eq!(service["spec"]["ports"][1]["targetPort"], "https");
}

#[test]
fn every_file_is_applied() {
    for kustomization in files("deploy", "kustomization.yaml") {
        let folder = kustomization.parent().unwrap();
        let resources = &objects(&kustomization)[0]["resources"];
        let applied: BTreeSet<_> = resources
            .as_array()
            .unwrap()
            .iter()
            .map(|it| folder.join(it.as_str().unwrap()))
            .collect();
        for file in files(folder.to_str().unwrap(), ".yaml") {
            assert!(applied.contains(&file) || file == kustomization, "{}", file.display());
        }
    }
}

#[test]
fn every_selector_means_the_pods() {
    let deployment = object("deploy/minimal/deployment.yaml", "Deployment", "holdfast");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let service = object("deploy/minimal/service.yaml", "Service", "holdfast");
    let budget = object("deploy/minimal/disruption.yaml", "PodDisruptionBudget", "holdfast");
    let monitor = object("deploy/components/monitoring/pod-monitor.yaml", "PodMonitor", "holdfast");
    let policy = object(
        "deploy/components/network-policy/network-policy.yaml",
        "NetworkPolicy",
        "holdfast",
    );
    let spread = &pod()["topologySpreadConstraints"][0];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
        &budget["spec"]["selector"]["matchLabels"],
        &spread["labelSelector"]["matchLabels"],
        &monitor["spec"]["selector"]["matchLabels"],
        &policy["spec"]["podSelector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
}

#[test]
fn rights_in_one_namespace_are_those_of_the_whole_cluster() {
    let whole = object("deploy/minimal/rbac.yaml", "ClusterRole", "holdfast");
    let one = object(
        "examples/kubernetes-one-namespace/holdfast/rights.yaml",
        "Role",
        "holdfast-routes",
    );
    assert_eq!(one["rules"], whole["rules"]);
    // Secrets are apart, so that they can be left out.
    let file = "examples/kubernetes-one-namespace/holdfast/rights.yaml";
    let one = object(file, "Role", "holdfast-certificates");
    let all = object("deploy/minimal/certificates.yaml", "ClusterRole", "holdfast-certificates");
    assert_eq!(one["rules"], all["rules"]);
    let one = object(file, "Role", "holdfast-challenges");
    let all = object("deploy/minimal/challenges.yaml", "ClusterRole", "holdfast-challenges");
    assert_eq!(one["rules"], all["rules"]);
    let read = whole["rules"].to_string();
    for kind in ["secrets", "configmaps", "pods", "nodes", "*"] {
        assert!(!read.contains(&format!("\"{kind}\"")), "{kind}");
    }
}

/// docs/kubernetes.md says every right, where it holds, and no other.
#[test]
fn rights_are_those_in_the_document() {
    let text = read("docs/kubernetes.md");
    let section = text.split_once("\n## Rights\n").unwrap().1.split("\n## ").next().unwrap();
    let rows = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| right"));
    let mut said = BTreeSet::new();
    for cells in rows
        .map(|row| row.split(" | ").collect::<Vec<_>>())
        .filter(|cells| cells.len() == 3)
    {
        let words = cells[0]
            .trim_start_matches("| ")
            .split([' ', ','])
            .filter(|word| !word.is_empty());
        let verbs = ["get", "list", "watch", "create", "update", "patch", "delete"];
        let (verbs, resources): (Vec<&str>, Vec<&str>) = words.partition(|word| verbs.contains(word));
        for resource in resources {
            said.extend(verbs.iter().map(|verb| format!("{}: {verb} {resource}", cells[1])));
        }
    }
    assert!(said.len() > 20, "{said:#?}");
    assert_eq!(said, granted());
}

/// What the roles of deploy/minimal that are bound to Holdfast let it do: `cluster: list services`.
fn granted() -> BTreeSet<String> {
    let mut granted = BTreeSet::new();
    let texts = |value: &Value| -> Vec<String> {
        let values = value.as_array().into_iter().flatten();
        values.map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    for file in ["rbac", "certificates", "challenges", "tickets"] {
        let objects = objects(format!("deploy/minimal/{file}.yaml"));
        for role in objects
            .iter()
            .filter(|it| it["kind"] == "Role" || it["kind"] == "ClusterRole")
        {
            let place = role["metadata"]["namespace"].as_str().unwrap_or("cluster");
            for rule in role["rules"].as_array().unwrap() {
                let name = rule["resourceNames"][0]
                    .as_str()
                    .map_or_else(String::new, |name| format!("/{name}"));
                for (verb, resource) in texts(&rule["verbs"]).iter().flat_map(|verb| {
                    texts(&rule["resources"])
                        .into_iter()
                        .map(move |resource| (verb.clone(), resource))
                }) {
                    granted.insert(format!("{place}: {verb} {resource}{name}"));
                }
            }
        }
    }
    granted
}

/// The chart leaves out flags whose values are the program's own defaults, so the two must agree.
#[test]
fn defaults_of_the_chart_are_those_of_the_program() {
    let values = &objects("charts/holdfast/values.yaml")[0];
    let serve = Cli::try_parse_from(["holdfast"]).unwrap().serve;
    let (delay, window) = serve.drain().unwrap();
    assert_eq!(values["drain"]["delay"], delay.as_secs());
    assert_eq!(values["drain"]["window"], window.as_secs());
    assert_eq!(values["ports"]["http"], serve.http.port());
    assert_eq!(values["ports"]["admin"], serve.admin.port());
    assert_eq!(values["class"], serve.class);
    let closing = values["drain"]["closeHandshake"].as_u64().unwrap() + 20;
    assert_eq!(closing, CLOSING.as_secs());
    let said = |path: [&str; 2]| values[path[0]][path[1]].as_str().unwrap().to_owned();
    let same = [
        "holdfast".to_owned(),
        format!("--host-ownership={}", values["hostOwnership"].as_str().unwrap()),
        format!("--log-format={}", said(["log", "format"])),
        format!("--log-level={}", said(["log", "level"])),
    ];
    let same = Cli::try_parse_from(same).unwrap().serve;
    assert_eq!(format!("{same:?}"), format!("{serve:?}"));
}

/// The arguments that an example adds are ones that the program takes.
#[test]
fn arguments_of_examples_are_understood() {
    let mut added = 0;
    for file in files("examples", "kustomization.yaml") {
        for patch in objects(&file)[0]["patches"].as_array().unwrap() {
            let patch: Value = serde_saphyr::from_str(patch["patch"].as_str().unwrap()).unwrap();
            let operations = patch.as_array().into_iter().flatten();
            for operation in operations.filter(|operation| operation["path"].as_str().unwrap().contains("/args/")) {
                serve(&[operation["value"].as_str().unwrap()]);
                added += 1;
            }
        }
    }
    assert!(added >= 2, "{added}");
}

/// Instructions of the Dockerfile, lines joined.
fn dockerfile() -> Vec<String> {
    let text = read("Dockerfile").replace("\\\n", "");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// What the Dockerfile copies out of this folder.
fn copied() -> Vec<String> {
    let lines = dockerfile();
    let copies = lines.iter().filter_map(|line| line.strip_prefix("COPY "));
    let copies = copies.filter(|rest| !rest.starts_with("--from="));
    copies
        .flat_map(|rest| {
            let words: Vec<&str> = rest.split_whitespace().collect();
            words[..words.len() - 1]
                .iter()
                .map(|&word| word.to_owned())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn an_image_is_built_from_what_is_there_and_sent() {
    let ignore = read(".dockerignore");
    let mut lines = ignore.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(lines.next(), Some("*"));
    let sent: BTreeSet<_> = lines.map(|line| line.strip_prefix('!').unwrap().to_owned()).collect();
    assert_eq!(sent, copied().into_iter().collect());
    for path in sent {
        assert!(root().join(&path).exists(), "{path}");
    }
    let manifest = read("Cargo.toml");
    let members = manifest.split_once("members = [").unwrap().1.split(']').next().unwrap();
    for member in members.split(',').map(|member| member.trim().trim_matches('"')) {
        assert!(copied().contains(&format!("{member}/Cargo.toml")), "{member}");
    }
}

#[test]
fn an_image_has_the_compiler_that_is_asked_for_and_no_shell() {
    let lines = dockerfile();
    let manifest = read("Cargo.toml");
    let rust = manifest.split_once("rust-version = \"").unwrap().1.split('"').next().unwrap();
    let stages: Vec<usize> = (0..lines.len()).filter(|&at| lines[at].starts_with("FROM ")).collect();
    let &[build, run] = &stages[..] else { panic!("{lines:?}") };
    assert!(lines[build].starts_with(&format!("FROM rust:{rust}-")), "{}", lines[build]);
    assert!(lines[run].starts_with("FROM gcr.io/distroless/cc-"), "{}", lines[run]);
    let run = &lines[run..];
    assert!(run.iter().any(|line| line == "USER 65532:65532"), "a number that is not 0");
    assert!(run.iter().any(|line| line == "ENTRYPOINT [\"/usr/local/bin/holdfast\"]"));
    assert!(
        !run.iter().any(|line| line.starts_with("RUN ")),
        "there is no shell to run it"
    );
    let at = |wanted: &str| lines.iter().position(|line| line.starts_with(wanted)).unwrap();
    assert!(
        at("RUN mkdir") < at("ARG HOLDFAST_REVISION"),
        "a new commit must not build the dependencies anew"
    );
}

/// Documents that people read: those at the root, and docs/.
fn documents() -> Vec<PathBuf> {
    let top = fs::read_dir(root())
        .unwrap()
        .map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let mut documents: Vec<PathBuf> = top.filter(|path| path.extension().is_some_and(|it| it == "md")).collect();
    documents.extend(files("docs", ".md"));
    documents
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| {
        line.trim_start_matches('#')
            .strip_prefix(' ')
            .filter(|_| line.starts_with('#'))
    });
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = read(&document);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            let file = root().join(file);
            if !file.exists() || !(anchor.is_empty() || anchors(&read(&file)).contains(anchor)) {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn conditions_and_their_reasons_are_in_the_document_for_operators() {
    let text = read("docs/kubernetes.md");
    let reasons = read("docs/reasons.md");
    let conditions = reasons.split_once("\n## Conditions").unwrap().1;
    let conditions = conditions.split_once("\n## Findings").unwrap().0;
    let words: Vec<&str> = conditions.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(words.len() > 8, "{words:?}");
    for word in words {
        let link = format!("[{word}](reasons.md#{})", word.to_lowercase());
        assert!(text.contains(&link), "docs/kubernetes.md has no {link}");
    }
}

#[test]
fn the_readme_is_read_in_one_sitting() {
    let lines = read("README.md").lines().count();
    assert!(lines <= 200, "{lines} lines");
}
