//! Makes findings of the facts. Pure: asks nobody, and knows the time from the facts.

mod reach;
mod replicas;
mod room;

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::{Cluster, Facts};
use super::{Item, Section, Status};
use crate::api;
use crate::cli::version::VERSION;

pub(super) use reach::target;

/// Every section, in the order in which things depend on each other.
pub(super) fn judge(facts: &Facts) -> Vec<Section> {
    let mut sections = Vec::new();
    if let Some(cluster) = &facts.cluster {
        sections.push(section("cluster", definition(cluster, facts)));
        if facts.is_ingress() {
            sections.push(section("rights", rights(cluster)));
        }
    }
    sections.push(section("replicas", replicas::replicas(facts)));
    sections.push(section("view", replicas::view(facts)));
    if let Some(cluster) = &facts.cluster
        && facts.is_ingress()
    {
        sections.push(section("reach", reach::reach(cluster, &facts.states)));
    }
    sections.push(section("shutdown", room::shutdown(facts)));
    sections.push(section("headroom", room::headroom(facts)));
    sections
}

fn section(name: &'static str, items: Vec<Item>) -> Section {
    Section { name, items }
}

fn definition(cluster: &Cluster, facts: &Facts) -> Vec<Item> {
    let mut items = Vec::new();
    items.push(match &cluster.version {
        Ok(version) => Item::good(format!("Kubernetes {version}")),
        Err(why) => Item::not_looked(format!("version: {why}")),
    });
    let found = match &cluster.definition {
        Err(why) => {
            items.push(Item::not_looked(format!("the definition of WebSocketRoute: {why}")));
            return items;
        }
        Ok(None) => {
            items.push(
                Item::problem("DefinitionMissing", "the API server does not know WebSocketRoute").at(DEFINITION, "", INSTALL),
            );
            return items;
        }
        Ok(Some(found)) => found,
    };
    let conditions = found["status"]["conditions"].as_array();
    let established = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Established");
    if established.is_none_or(|condition| condition["status"] != "True") {
        let why = established
            .and_then(|condition| condition["message"].as_str())
            .unwrap_or("not yet");
        let text = format!("the definition of WebSocketRoute is not established: {why}");
        items.push(Item::problem("DefinitionMissing", text).at(DEFINITION, "status.conditions", INSTALL));
        return items;
    }
    let ours = api::crd();
    let difference = difference(&ours["spec"]["versions"][0]["schema"], &schema(found), "");
    items.push(match difference {
        None => Item::good("the definition of WebSocketRoute is this binary's"),
        Some(difference) => {
            let of_another = facts.states.iter().any(|state| state.version != VERSION);
            let hint = if of_another {
                ", which is of another version than the replicas"
            } else {
                ""
            };
            let text = format!("the definition of WebSocketRoute is not that of this binary, {VERSION}{hint}: {difference}");
            Item::warning("DefinitionDiffers", text).at(DEFINITION, "spec.versions", INSTALL)
        }
    });
    items
}

/// The schema of our version in a definition.
fn schema(definition: &Value) -> Value {
    let versions = definition["spec"]["versions"].as_array();
    let ours = versions.into_iter().flatten().find(|version| version["name"] == "v1alpha1");
    ours.map_or(Value::Null, |version| version["schema"].clone())
}

/// The first place where the cluster's schema says something else than ours. Descriptions are for people.
fn difference(ours: &Value, theirs: &Value, at: &str) -> Option<String> {
    let place = || {
        if at.is_empty() {
            "the schema".to_owned()
        } else {
            at.trim_start_matches('.').to_owned()
        }
    };
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let is_text = |key: &str, value: &Value| key == "description" && value.is_string();
            for (key, value) in ours.iter().filter(|(key, value)| !is_text(key, value)) {
                match theirs.get(key) {
                    None => return Some(format!("the cluster's has no {}", path(at, key).trim_start_matches('.'))),
                    Some(other) => {
                        if let Some(found) = difference(value, other, &path(at, key)) {
                            return Some(found);
                        }
                    }
                }
            }
            let more = theirs
                .iter()
                .find(|(key, value)| !is_text(key, value) && !ours.contains_key(*key));
            more.map(|(key, _)| format!("the cluster's has {}", path(at, key).trim_start_matches('.')))
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            let mut pairs = ours.iter().zip(theirs).enumerate();
            pairs.find_map(|(index, (ours, theirs))| difference(ours, theirs, &format!("{at}[{index}]")))
        }
        (Value::Number(ours), Value::Number(theirs)) if ours.as_f64() == theirs.as_f64() => None,
        (ours, theirs) if ours == theirs => None,
        (ours, theirs) => Some(format!("{} is {} there, {} here", place(), brief(theirs), brief(ours))),
    }
}

/// The words of a schema that nobody writes in an object are left out of a path.
fn path(at: &str, key: &str) -> String {
    match key {
        "openAPIV3Schema" | "properties" => at.to_owned(),
        "items" => format!("{at}[]"),
        key => format!("{at}.{key}"),
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Rights by what they are for: those that are there in one word each, those that are not with what is missing without them.
fn rights(cluster: &Cluster) -> Vec<Item> {
    let reviewed = match &cluster.rights {
        Ok(reviewed) => reviewed,
        Err(why) => {
            return vec![Item::not_looked(format!(
                "rights of ServiceAccount {}: {why}",
                cluster.account
            ))];
        }
    };
    let mut there: Vec<&str> = Vec::new();
    let mut missing: BTreeMap<(&str, bool, &str), Vec<String>> = BTreeMap::new();
    for (right, is_there) in reviewed {
        if *is_there {
            if !there.contains(&right.resource) {
                there.push(right.resource);
            }
            continue;
        }
        let place = right
            .namespace
            .as_ref()
            .map_or_else(String::new, |namespace| format!(" in {namespace}"));
        let key = (right.resource, right.is_vital, right.without);
        missing.entry(key).or_default().push(format!("{}{place}", right.verb));
    }
    there.retain(|resource| !missing.keys().any(|(other, ..)| other == resource));
    let mut items = Vec::new();
    if !there.is_empty() {
        items.push(Item::good(there.join(" ")));
    }
    for ((resource, is_vital, without), verbs) in missing {
        let status = if is_vital { Status::Problem } else { Status::Warning };
        let text = format!("{resource}: no right to {}: {without}", verbs.join(", "));
        items.push(Item::found(status, "RightMissing", text).at(
            format!("ServiceAccount {}", cluster.account),
            "",
            "bind the roles of the chart to it (rbac.create, rbac.secrets), or see docs/kubernetes.md#rights",
        ));
    }
    items
}

const DEFINITION: &str = "CustomResourceDefinition websocketroutes.holdfast.dev";
const INSTALL: &str = "helm upgrade with crds.enabled=true, or: holdfast crd | kubectl apply --server-side -f -";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::super::facts::{Dial, Outcome, State, Workload};
    use super::*;
    use crate::cli::explain;

    /// What there is to say against the facts.
    fn words(facts: &Facts) -> Vec<&'static str> {
        let sections = judge(facts);
        let items = sections.iter().flat_map(|section| &section.items);
        items.filter_map(|item| Some(item.finding.as_ref()?.word)).collect()
    }

    fn state(replica: &str) -> State {
        serde_json::from_value(json!({
            "replica": replica, "service.version": VERSION, "mode": "cluster", "class": "holdfast", "ready": true,
            "table": {"generation": 7, "digest": "aa", "routes": 3, "rejected": 0},
            "leads": replica == "a", "leader": "a",
            "views": [{"of": "Service", "age_seconds": 4.0}, {"of": "Secret", "age_seconds": 40.0}],
            "certificates": [{"secret": "chat/tls", "expires": NOW + 30 * 24 * 3600}],
            "tickets": {"secret": "edge/tickets", "rotated": NOW - 3600},
            "listeners": {"http": "[::]:8080", "https": "[::]:8443", "admin": "[::]:9477"},
            "drain": {"delay_seconds": 15.0, "window_seconds": 240.0, "closing_seconds": 25.0},
            "headroom": {"fds": {"used": 41, "allowed": 100}, "memory": {"used": 5, "allowed": null}},
        }))
        .unwrap()
    }

    fn pod(name: &str) -> k8s_openapi::api::core::v1::Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"terminationGracePeriodSeconds": 280, "containers": [{"name": "holdfast", "ports": [
                {"name": "http", "containerPort": 8080}, {"name": "https", "containerPort": 8443},
            ]}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap()
    }

    fn service(ports: Value) -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "holdfast", "namespace": "edge"},
            "spec": {"type": "LoadBalancer", "ports": ports},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}},
        }))
        .unwrap()
    }

    /// Everything as it should be.
    fn well() -> Facts {
        let mut definition = api::crd();
        definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
        let both =
            json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "https", "port": 443, "targetPort": 8443}]);
        let budget = json!({"metadata": {"name": "holdfast"}, "spec": {"maxUnavailable": 1}});
        let of_account = |states: &[State]| super::super::rights::needed(&states[0], "edge");
        let states = vec![state("a"), state("b")];
        let rights = of_account(&states).into_iter().map(|right| (right, true)).collect();
        Facts {
            closing: "2/2 replicas".to_owned(),
            asked: json!({}),
            now: NOW,
            silent: Vec::new(),
            states,
            cluster: Some(Cluster {
                namespace: "edge".to_owned(),
                version: Ok("v1.37.1".to_owned()),
                definition: Ok(Some(definition)),
                rights: Ok(rights),
                account: "edge/holdfast".to_owned(),
                pods: Ok(vec![pod("a"), pod("b")]),
                workload: Ok(Some(Workload {
                    name: "Deployment edge/holdfast".to_owned(),
                    desired: 2,
                })),
                services: Ok(vec![service(both)]),
                dials: Vec::new(),
                is_inside: false,
                budgets: Ok(vec![serde_json::from_value(budget).unwrap()]),
            }),
        }
    }

    fn changed(change: impl FnOnce(&mut Facts)) -> Vec<&'static str> {
        let mut facts = well();
        change(&mut facts);
        words(&facts)
    }

    fn in_cluster(change: impl FnOnce(&mut Cluster)) -> Vec<&'static str> {
        changed(|facts| change(facts.cluster.as_mut().unwrap()))
    }

    #[test]
    fn an_installation_that_is_well_has_no_finding() {
        let facts = well();
        assert_eq!(words(&facts), [""; 0]);
        let sections = judge(&facts);
        let names: Vec<&str> = sections.iter().map(|section| section.name).collect();
        assert_eq!(
            names,
            ["cluster", "rights", "replicas", "view", "reach", "shutdown", "headroom"]
        );
        let texts: Vec<&str> = sections
            .iter()
            .flat_map(|section| &section.items)
            .map(|item| item.text.as_str())
            .collect();
        for text in [
            "2/2 ready, 0.1.0",
            "same table, generation 7",
            "leader a",
            "newest event 4s ago",
            "no watch older than 40s",
            "grace 280s >= 15 + 240 + 25",
            "fds 41%",
        ] {
            let text = text.replace("0.1.0", VERSION);
            assert!(texts.contains(&text.as_str()), "{text}: {texts:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_replicas_is_found() {
        assert_eq!(
            changed(|facts| facts.states[1].version = "0.0.1".to_owned()),
            ["VersionsDiffer"]
        );
        assert_eq!(
            changed(|facts| facts.states[1].table.as_mut().unwrap().digest = "bb".to_owned()),
            ["TablesDiffer"]
        );
        let nobody = |facts: &mut Facts| {
            for state in &mut facts.states {
                (state.leads, state.leader) = (false, None);
            }
        };
        assert_eq!(changed(nobody), ["NoLeader"]);
        assert_eq!(changed(|facts| facts.states[1].leads = true), ["NoLeader"], "two lead");
        assert_eq!(
            changed(|facts| facts.states[0].views[0].age_seconds = Some(500.0)),
            ["ViewStale"]
        );
        assert_eq!(
            changed(|facts| facts.states[0].views[0].failure = Some("403".to_owned())),
            ["ViewStale"]
        );
        assert_eq!(
            changed(|facts| facts.states[0].table.as_mut().unwrap().rejected = 1),
            ["Invalid"]
        );
        let unready = |cluster: &mut Cluster| {
            cluster.pods.as_mut().unwrap()[1].status = serde_json::from_value(json!({"phase": "Pending"})).unwrap();
        };
        assert_eq!(in_cluster(unready), ["ReplicaNotReady", "ReplicaNotReady"]);
        let silent = |facts: &mut Facts| {
            let state = facts.states.pop().unwrap();
            facts.silent.push(crate::cli::live::Missing {
                replica: state.replica,
                reason: "timeout".to_owned(),
            });
        };
        assert_eq!(changed(silent), ["ReplicaSilent"]);
    }

    #[test]
    fn what_is_wrong_around_them_is_found() {
        assert_eq!(in_cluster(|cluster| cluster.definition = Ok(None)), ["DefinitionMissing"]);
        assert_eq!(
            in_cluster(|cluster| cluster.rights.as_mut().unwrap()[0].1 = false),
            ["RightMissing"]
        );
        let not_looked = |cluster: &mut Cluster| {
            cluster.definition = Err("may not read it".to_owned());
            cluster.rights = Err("may not".to_owned());
            cluster.services = Err("may not".to_owned());
            cluster.budgets = Err("may not".to_owned());
            cluster.workload = Err("may not".to_owned());
        };
        assert_eq!(in_cluster(not_looked), [""; 0], "what may not be looked at is no fault");
        let ports = |ports| in_cluster(|cluster| cluster.services = Ok(vec![service(ports)]));
        let https = json!({"name": "https", "port": 443, "targetPort": "https"});
        assert_eq!(ports(json!([https])), ["ServicePortMissing"], "no port leads to http");
        let http = |target: Value| json!([{"port": 80, "targetPort": target}, https]);
        assert_eq!(ports(http(json!("web"))), ["ServicePortMissing", "ServicePortMissing"]);
        assert_eq!(ports(http(json!(8081))), ["ServicePortMissing", "ServicePortMissing"]);
        let with_admin = json!([{"port": 80, "targetPort": "http"}, https, {"port": 9477}]);
        assert_eq!(ports(with_admin), ["AdminExposed"]);
        assert_eq!(in_cluster(|cluster| cluster.services = Ok(Vec::new())), ["ServiceMissing"]);
        let pending = |cluster: &mut Cluster| cluster.services.as_mut().unwrap()[0].status = None;
        assert_eq!(in_cluster(pending), ["LoadBalancerPending"]);
        let dial = |outcome| {
            in_cluster(|cluster| {
                cluster.dials.push(Dial {
                    service: "Service edge/holdfast".to_owned(),
                    address: "203.0.113.7".to_owned(),
                    port: 80,
                    outcome,
                });
            })
        };
        assert_eq!(dial(Outcome::Silent), ["PortUnreachable"]);
        assert_eq!(
            dial(Outcome::Refused {
                why: "refused".to_owned()
            }),
            ["PortUnreachable"]
        );
        assert_eq!(
            dial(Outcome::Foreign {
                what: "nginx".to_owned()
            }),
            ["NotHoldfast"]
        );
    }

    #[test]
    fn too_little_room_and_time_are_found() {
        let grace = |cluster: &mut Cluster| {
            let spec = cluster.pods.as_mut().unwrap()[0].spec.as_mut().unwrap();
            spec.termination_grace_period_seconds = Some(120);
        };
        assert_eq!(in_cluster(grace), ["GracePeriodTooShort"]);
        assert_eq!(in_cluster(|cluster| cluster.budgets = Ok(Vec::new())), ["DisruptionBudget"]);
        let blocking = |cluster: &mut Cluster| {
            let budget = &mut cluster.budgets.as_mut().unwrap()[0];
            budget.spec = serde_json::from_value(json!({"minAvailable": 2})).unwrap();
        };
        assert_eq!(in_cluster(blocking), ["DisruptionBudget"]);
        assert_eq!(changed(|facts| facts.states[0].headroom.fds.used = 90.0), ["FdsShort"]);
        let expires = |left: i64| changed(|facts| facts.states[1].certificates[0].expires = NOW + left);
        assert_eq!(expires(9 * 24 * 3600), ["CertificateExpiring"]);
        assert_eq!(expires(-1), ["CertificateExpiring"]);
        assert_eq!(changed(|facts| facts.states[0].tickets.rotated = None), ["TicketKeys"]);
        assert_eq!(
            changed(|facts| facts.states[0].tickets.rotated = Some(NOW - 40 * 3600)),
            ["TicketKeys"]
        );
    }

    #[test]
    fn a_process_without_a_cluster_is_checked_by_what_it_says_itself() {
        let mut facts = well();
        facts.cluster = None;
        facts.states.truncate(1);
        facts.states[0].mode = "folder".to_owned();
        assert_eq!(words(&facts), [""; 0]);
        facts.states[0].headroom.memory.allowed = Some(5.0);
        assert_eq!(words(&facts), ["MemoryShort"]);
    }

    #[test]
    fn every_word_is_explained() {
        let explained = explain::words();
        let explained: BTreeSet<&str> = explained
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|entry| entry["word"].as_str())
            .collect();
        let sources = [
            include_str!("judge.rs"),
            include_str!("judge/replicas.rs"),
            include_str!("judge/reach.rs"),
            include_str!("judge/room.rs"),
        ];
        let mut words = vec!["FdsShort", "PortsShort", "MemoryShort", "ConnectionsShort"];
        for source in sources {
            let code = source.split("#[cfg(test)]").next().unwrap();
            for call in ["Item::problem(", "Item::warning(", "Item::found("] {
                let first = code.split(call).skip(1).filter_map(|rest| rest.split('"').nth(1));
                words.extend(first.filter(|text| text.chars().all(|letter| letter.is_ascii_alphabetic())));
            }
        }
        assert!(words.len() > 25, "{words:?}");
        for word in words {
            assert!(explained.contains(word), "{word}");
        }
    }

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn the_first_difference_of_two_schemas_is_named_by_its_field() {
        let ours = json!({"openAPIV3Schema": {"description": "a", "properties": {"spec": {"properties": {
            "retry": {"type": "object", "description": "x"},
            "rules": {"items": {"properties": {"name": {"maxLength": 63}}}},
        }}}}});
        assert_eq!(difference(&ours, &ours, ""), None);
        let mut theirs = ours.clone();
        theirs["openAPIV3Schema"]["description"] = json!("b");
        theirs["openAPIV3Schema"]["properties"]["spec"]["properties"]["rules"]["items"]["properties"]["name"]["maxLength"] =
            json!(63.0);
        assert_eq!(
            difference(&ours, &theirs, ""),
            None,
            "texts and ways to write a number do not count"
        );
        let spec = &mut theirs["openAPIV3Schema"]["properties"]["spec"]["properties"];
        spec["rules"]["items"]["properties"]["name"]["maxLength"] = json!(64);
        let told = difference(&ours, &theirs, "").unwrap();
        assert_eq!(told, "spec.rules[].name.maxLength is 64 there, 63 here");
        spec_of(&mut theirs).remove("retry");
        assert_eq!(difference(&ours, &theirs, "").unwrap(), "the cluster's has no spec.retry");
        let newer = difference(&theirs, &ours, "").unwrap();
        assert!(
            newer.contains("maxLength") || newer == "the cluster's has spec.retry",
            "{newer}"
        );
    }

    fn spec_of(schema: &mut Value) -> &mut serde_json::Map<String, Value> {
        schema["openAPIV3Schema"]["properties"]["spec"]["properties"]
            .as_object_mut()
            .unwrap()
    }
}
