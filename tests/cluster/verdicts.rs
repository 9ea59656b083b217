//! Folder mode, `holdfast check` and the API server say the same of every file: what one refuses, all refuse. And the API
//! server takes our definition and shows what it documents.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use holdfast::control::{
    manifests::{self, Problem, ProblemKind},
    object::ObjectKind,
};
use serde_json::{Value, json};

use crate::{
    control_plane::{ControlPlane, on_any_cluster},
    namespace::Namespace,
    replica::Replica,
};

#[test]
fn the_api_server_takes_the_definition_as_it_is() {
    on_any_cluster(async |control_plane| {
        let yaml = holdfast::api::crd_yaml();
        let wanted: Value = serde_saphyr::from_str(&yaml).unwrap();
        let found = control_plane.kubectl_says(&["get", "crd", "websocketroutes.holdfast.dev", "-o", "json"]);
        let found: Value = serde_json::from_str(&found).unwrap();
        let schema = "/spec/versions/0/schema/openAPIV3Schema";
        assert_eq!(found.pointer(schema), wanted.pointer(schema), "nothing is dropped or added");
        for condition in found["status"]["conditions"].as_array().unwrap() {
            let wanted = match condition["type"].as_str().unwrap() {
                "NonStructuralSchema" | "Terminating" => "False",
                _ => "True",
            };
            assert_eq!(condition["status"], wanted, "{condition:#}");
        }
    });
}

#[test]
fn kubectl_shows_columns_names_and_field_docs() {
    on_any_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        chat.apply(&chat.route("chat", "/", "chat")).await;
        let names = ["wsr", "websocketroute", "websocketroutes", "holdfast"];
        for name in names {
            let table = control_plane.kubectl_says(&["get", name, "-n", chat.name()]);
            let mut lines = table.lines();
            let columns: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
            assert_eq!(columns, ["NAME", "HOSTNAMES", "PROGRAMMED", "AGE"], "{name}");
            let row = lines.next().unwrap();
            assert!(row.contains(&format!("[\"{}\"]", chat.host())), "{row}");
        }
        for (field, words) in [
            ("wsr", "which WebSocket handshakes go to which Services"),
            ("wsr.spec.rules", "What to match and where it goes."),
            (
                "wsr.spec.rules.backendRefs",
                "The Services that new connections go to, by weight.",
            ),
            ("wsr.spec.timeouts", "Default: 10s."),
            ("wsr.spec.sessionPersistence.cookie", "FIELDS:"),
            ("wsr.status.conditions", "Accepted"),
        ] {
            let text = control_plane.kubectl_says(&["explain", field]);
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(words), "{field}: {text}");
        }
    });
}

#[test]
fn what_is_invalid_is_refused_by_the_api_server_alike() {
    on_any_cluster(async |control_plane| {
        let folder = in_the_tree("tests/golden/invalid");
        let said = refusals(control_plane, &folder);
        let mut faults = Vec::new();
        for file in yaml_files(&folder) {
            let name = file.file_name().unwrap().to_str().unwrap();
            let problems = manifests::read(std::slice::from_ref(&file)).unwrap().problems;
            let is_ours_alone = STRICTER.iter().any(|(stricter, _)| *stricter == name);
            match (problems.first(), refusal(&said, &file)) {
                (Some(_), None) if is_ours_alone => {}
                (_, refusal) if is_ours_alone => faults.push(format!("{name}: not ours alone: {refusal:?}")),
                (None, Some(refusal)) => faults.push(format!("{name}: only the API server refuses it: {refusal}")),
                (Some(problem), None) => faults.push(format!("{name}: only the folder refuses it: {}", problem.fault)),
                (Some(problem), Some(refusal)) if !names_the_field(refusal, problem) => {
                    faults.push(format!("{name}: {} is not named in: {refusal}", problem.fault));
                }
                (Some(_), Some(_)) => {}
                (None, None) => {} // the next test's
            }
            if passes_check(&file) {
                faults.push(format!("{name}: `holdfast check` passes it"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    });
}

#[test]
fn what_only_we_reject_says_so_by_a_condition_in_the_same_words() {
    on_any_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let _holdfast = Replica::of(&chat, "holdfast-1").start().await;
        let mut rejected = Vec::new();
        for file in yaml_files(&in_the_tree("tests/golden/invalid")) {
            let text = fs::read_to_string(&file).unwrap();
            let words: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("# rejected: ")).collect();
            if words.is_empty() {
                continue;
            }
            for mut object in documents(&text) {
                let name = file.file_stem().unwrap().to_str().unwrap();
                object["metadata"]["name"] = json!(name);
                object["spec"]["className"] = json!(chat.class());
                chat.apply(&object).await;
            }
            rejected.push((file.clone(), words.iter().map(ToString::to_string).collect::<Vec<_>>()));
        }
        assert!(!rejected.is_empty());
        for (file, words) in rejected {
            let name = file.file_stem().unwrap().to_str().unwrap();
            for words in words {
                let (reason, fault) = words.split_once(' ').unwrap();
                let condition = chat.until_condition(name, "Accepted", "False", reason).await;
                assert!(
                    condition.message.contains(fault),
                    "{name}: {fault} is not in {}",
                    condition.message
                );
            }
        }
    });
}

#[test]
fn every_example_is_admitted_by_the_api_server() {
    on_any_cluster(async |control_plane| {
        let namespace = Namespace::new(control_plane).await;
        for folder in folders(&in_the_tree("examples")) {
            if folder.join("kustomization.yaml").exists() {
                let text = control_plane.kubectl_says(&["kustomize", folder.to_str().unwrap()]);
                is_admitted(&namespace, &folder, documents(&text)).await;
            } else {
                assert!(passes_check(&folder), "{}", folder.display());
                for file in yaml_files(&folder) {
                    is_admitted(&namespace, &file, objects_in(&file)).await;
                }
            }
        }
    });
}

#[test]
fn routes_that_a_folder_takes_are_admitted_by_the_api_server() {
    on_any_cluster(async |control_plane| {
        let namespace = Namespace::new(control_plane).await;
        for file in yaml_files(&in_the_tree("tests/golden")) {
            let mut objects = objects_in(&file);
            objects.retain(|object| object["kind"] == "WebSocketRoute");
            is_admitted(&namespace, &file, objects).await;
        }
    });
}

/// What `kubectl apply` says about a folder, without anything being kept.
fn refusals(control_plane: &ControlPlane, folder: &Path) -> String {
    let output = control_plane.kubectl(&[
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        folder.to_str().unwrap(),
    ]);
    String::from_utf8(output.stderr).unwrap()
}

/// What it says of one file; `None`: that is admitted.
fn refusal<'a>(said: &'a str, file: &Path) -> Option<&'a str> {
    let file = file.display();
    let at = said
        .find(&format!("\"{file}\": "))
        .or_else(|| said.find(&format!("error parsing {file}: ")))
        .or_else(|| said.find(&format!("from \"{file}\": ")))?;
    said[at..].lines().next()
}

/// Whether a person finds the field in the API server's message. What kubectl itself refuses never gets there.
fn names_the_field(refusal: &str, problem: &Problem) -> bool {
    let is_route = problem
        .object
        .as_ref()
        .is_some_and(|key| key.kind == ObjectKind::WebSocketRoute);
    if problem.kind != ProblemKind::Refused || !is_route {
        return true;
    }
    let (path, message) = (problem.fault.path.to_string(), &problem.fault.message);
    let spelled = match message.strip_suffix(" is required") {
        Some(field) if path.is_empty() => format!("{field}: Required value"),
        Some(field) => format!("{path}.{field}: Required value"),
        None if message.starts_with("unknown field") => format!("unknown field \"{path}\""),
        // The item, with its keys behind.
        None if message.ends_with(" is there twice") => {
            let item = path.trim_end_matches(".name").trim_end_matches(".type");
            return refusal.contains(&format!("{item}: Duplicate value: "));
        }
        None if is_of_a_rule(&holdfast::api::crd(), message) => format!("{path}: Invalid value: {message}"),
        None => format!("{path}: "),
    };
    refusal.contains(&spelled)
}

async fn is_admitted(namespace: &Namespace, file: &Path, objects: Vec<Value>) {
    // Not of Kubernetes itself: there may be no definition of these.
    let is_foreign = |object: &Value| {
        ["ReferenceGrant", "Issuer", "Certificate", "ScaledObject"]
            .iter()
            .any(|kind| object["kind"] == *kind)
    };
    for mut object in objects.into_iter().filter(|object| !is_foreign(object)) {
        let metadata = object["metadata"].as_object_mut();
        metadata.unwrap_or_else(|| panic!("{}", file.display())).remove("namespace");
        match namespace.dry_run(&object).await {
            Ok(()) => {}
            // All is right with it, except that it is there.
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => panic!("{}: {error}", file.display()),
        }
    }
}

/// The objects of a file. Addresses of the machine itself are endpoints in a folder only: they become pods'.
fn objects_in(file: &Path) -> Vec<Value> {
    documents(&fs::read_to_string(file).unwrap().replace("127.0.0.", "10.244.0."))
}

/// Those of a text, a list's items among them.
fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let flat = documents
        .into_iter()
        .flat_map(|mut document| match document.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => items,
            _ => vec![document],
        });
    flat.collect()
}

/// The folders below this one that have manifests in them.
fn folders(root: &Path) -> Vec<PathBuf> {
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .partition(|path| path.is_dir());
    let mut found: Vec<PathBuf> = folders.iter().flat_map(|folder| self::folders(folder)).collect();
    if files
        .iter()
        .any(|file| file.extension().is_some_and(|extension| extension == "yaml"))
    {
        found.push(root.to_owned());
    }
    found
}

/// Whether this is what one of the definition's own rules says.
fn is_of_a_rule(definition: &Value, message: &str) -> bool {
    match definition {
        Value::Object(fields) => {
            let is_rule = fields.contains_key("rule") && fields.get("message").is_some_and(|text| text == message);
            is_rule || fields.values().any(|field| is_of_a_rule(field, message))
        }
        Value::Array(items) => items.iter().any(|item| is_of_a_rule(item, message)),
        _ => false,
    }
}

fn passes_check(path: &Path) -> bool {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast"))
        .arg("check")
        .arg(path)
        .output()
        .unwrap();
    match output.status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("{}: {}", path.display(), String::from_utf8_lossy(&output.stderr)),
    }
}

fn in_the_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "{}", folder.display());
    files
}

/// What a folder refuses and `kubectl apply` does not, and why that is right.
const STRICTER: [(&str, &str); 3] = [
    ("slice-fqdn.yaml", "deprecated in Kubernetes, and nothing there follows it"),
    ("slice-port.yaml", "the API server does not look at the number"),
    ("yaml-field-twice.yaml", "kubectl takes the last of them without a word"),
];
