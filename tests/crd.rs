//! The CustomResourceDefinition: the committed file is what the types say, and an API server will take it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use holdfast::api;
use serde_json::Value;

#[test]
fn the_committed_file_is_generated_from_the_types() {
    let committed = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/crds/websocketroutes.yaml")).unwrap();
    assert!(
        committed == api::crd_yaml(),
        "crds/websocketroutes.yaml is not what the types say: run make generate"
    );
}

#[test]
fn the_yaml_reads_back_as_the_definition() {
    let read: Value = serde_saphyr::from_str(&api::crd_yaml()).unwrap();
    assert_eq!(read, api::crd());
}

#[test]
fn names_and_columns_are_the_documented_ones() {
    let crd = api::crd();
    let names = &crd["spec"]["names"];
    assert_eq!(crd["metadata"]["name"], "websocketroutes.holdfast.dev");
    assert_eq!(crd["spec"]["scope"], "Namespaced");
    assert_eq!(names["kind"], "WebSocketRoute");
    assert_eq!(names["shortNames"], serde_json::json!(["wsr"]));
    assert_eq!(names["categories"], serde_json::json!(["holdfast"]));
    let version = &crd["spec"]["versions"][0];
    assert_eq!(version["name"], "v1alpha1");
    assert_eq!(version["subresources"], serde_json::json!({"status": {}}));
    let columns = version["additionalPrinterColumns"].as_array().unwrap();
    let columns: Vec<_> = columns.iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Hostnames", "Programmed", "Age"]);
}

#[test]
fn every_field_is_documented_and_bounded() {
    let mut faults = Vec::new();
    let schema = &api::crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    for part in ["spec", "status"] {
        walk(&schema["properties"][part], part, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What an API server demands of a structural schema, and what we demand of ours.
fn walk(schema: &Value, at: &str, faults: &mut Vec<String>) {
    let has = |keyword: &str| schema.get(keyword).is_some();
    let mut demand = |fine: bool, what: &str| {
        if !fine {
            faults.push(format!("{at}: {what}"));
        }
    };
    let is_item = at.ends_with("[]");
    demand(is_item || has("description"), "no description");
    demand(!has("nullable"), "nullable");
    demand(!has("additionalProperties"), "additionalProperties");
    for union in ["anyOf", "oneOf", "allOf", "not", "$ref"] {
        demand(!has(union), union);
    }
    match schema["type"].as_str() {
        Some("object") => {
            demand(has("properties"), "an object without properties");
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                walk(field, &format!("{at}.{name}"), faults);
            }
        }
        Some("array") => {
            demand(has("maxItems"), "no maxItems");
            demand(has("x-kubernetes-list-type"), "no list type");
            walk(&schema["items"], &format!("{at}[]"), faults);
        }
        Some("string") => demand(
            has("maxLength") || has("enum") || schema["format"] == "date-time",
            "no maxLength",
        ),
        Some("integer") => demand(has("minimum") && (has("maximum") || schema["format"] == "int64"), "no bounds"),
        Some("boolean") => {}
        other => demand(false, &format!("type {other:?}")),
    }
}

#[test]
fn only_what_absence_cannot_mean_has_a_default() {
    let mut defaults = Vec::new();
    find_defaults(
        &api::crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"],
        "",
        &mut defaults,
    );
    defaults.sort();
    let expected = [
        r#".spec.backendTLS.caRef.kind = "Secret""#,
        r#".spec.backendTLS.clientCertificateRef.kind = "Secret""#,
        r#".spec.rules[].backendRefs[].group = """#,
        r#".spec.rules[].backendRefs[].kind = "Service""#,
        r#".spec.rules[].backendRefs[].weight = 1"#,
        r#".spec.rules[].fallback.type = "Backend""#,
        r#".spec.rules[].matches[].headers[].type = "Exact""#,
        r#".spec.rules[].matches[].path = {"type":"PathPrefix","value":"/"}"#,
        r#".spec.rules[].matches[].path.type = "PathPrefix""#,
        r#".spec.rules[].matches[].path.value = "/""#,
        r#".spec.rules[].matches[].queryParams[].type = "Exact""#,
        r#".spec.sessionPersistence.type = "Cookie""#,
    ];
    assert_eq!(defaults, expected);
}

fn find_defaults(schema: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(default) = schema.get("default") {
        found.push(format!("{at} = {default}"));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        find_defaults(field, &format!("{at}.{name}"), found);
    }
    if schema.get("items").is_some() {
        find_defaults(&schema["items"], &format!("{at}[]"), found);
    }
}
