//! `--defaults FILE`: what holds for every route that says nothing itself.
//!
//! The file is the policies of a spec, at its top level. It obeys the rules of the schema, so that what it may say is what a
//! route may say. [`follow`] reads it again for as long as the process runs; one that has become wrong leaves the last good
//! one in effect. It never names objects: what those mean depends on a route's namespace.

mod follow;

use std::{
    borrow::Cow,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    compile::compile,
    convert::{self, Unknown},
    manifests::{Span, documents},
    path::{Fault, FieldPath},
    policy::{self, Effective, Origin},
    schema::nearest,
};
use crate::{api::WebSocketRouteSpec, routing::ObjectName};

pub(super) use follow::{Follower, follow};

/// The process's own values. `Defaults::default()` has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults(Option<Box<WebSocketRouteSpec>>);

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("--defaults {}: {problem}", file.display())]
pub struct InvalidDefaults {
    file: PathBuf,
    problem: Problem,
}

/// What is wrong with the file, in the order of its lines.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("larger than {MAX_FILE} bytes")]
    TooLarge,
    #[error("{}", listed(.0))]
    Invalid(Vec<(Span, Fault)>),
}

fn listed(faults: &[(Span, Fault)]) -> String {
    let lines = faults.iter().map(|(span, fault)| format!("line {}: {fault}", span.line));
    lines.collect::<Vec<_>>().join("; ")
}

impl Defaults {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, or says what a route may not say.
    pub fn read(file: &Path) -> Result<Self, InvalidDefaults> {
        let read = || {
            if fs::metadata(file)?.len() > MAX_FILE {
                return Err(Problem::TooLarge);
            }
            Self::parse(&fs::read_to_string(file)?)
        };
        read().map_err(|problem| InvalidDefaults {
            file: file.to_owned(),
            problem,
        })
    }

    fn parse(text: &str) -> Result<Self, Problem> {
        let documents = documents(text).map_err(|error| {
            let fault = Fault::new(FieldPath::default(), error.message);
            Problem::Invalid(vec![(error.span, fault)])
        })?;
        let node = match documents.as_slice() {
            [] => return Ok(Self::default()),
            [node] => node,
            [_, second, ..] => {
                let message = "a second document; there is one for all routes";
                let fault = Fault::new(FieldPath::default(), message);
                return Err(Problem::Invalid(vec![(second.locate(&fault.path, false), fault)]));
            }
        };
        Self::of(node.value()).map_err(|faults| {
            let mut located: Vec<_> = faults
                .into_iter()
                .map(|fault| (node.locate(&fault.path, fault.at_name), fault))
                .collect();
            located.sort_by_key(|(span, _)| *span);
            Problem::Invalid(located)
        })
    }

    fn of(value: Value) -> Result<Self, Vec<Fault>> {
        let Value::Object(mut fields) = value else {
            let message = "not an object: policies such as timeouts and heartbeat are expected, as in the spec of a route";
            return Err(vec![Fault::new(FieldPath::default(), message)]);
        };
        let strange: Vec<_> = fields.keys().filter_map(|name| strange(name)).collect();
        if !strange.is_empty() {
            return Err(strange);
        }
        if fields.is_empty() {
            return Ok(Self::default());
        }
        fields.insert("rules".to_owned(), json!([{"backendRefs": [{"name": "any", "port": 1}]}]));
        let spec = convert::route_spec(Map::from_iter([("spec".to_owned(), Value::Object(fields))]), Unknown::Refuse);
        let defaults = Self(Some(Box::new(spec.map_err(below_spec)?)));
        let name = ObjectName {
            namespace: "".into(),
            name: "".into(),
        };
        let faults = compile(&name, &WebSocketRouteSpec::default(), &defaults).faults;
        if faults.is_empty() {
            Ok(defaults)
        } else {
            Err(below_spec(faults))
        }
    }

    /// A spec that says itself what holds for it: the defaults where it says nothing.
    pub fn complete<'a>(&self, spec: &'a WebSocketRouteSpec) -> Cow<'a, WebSocketRouteSpec> {
        let Some(defaults) = &self.0 else {
            return Cow::Borrowed(spec);
        };
        // Each field is named, so that a new one cannot be forgotten.
        let WebSocketRouteSpec {
            class_name: _,
            hostnames: _,
            tls: _,
            backend_tls: _,
            rules: _,
            session_persistence,
            load_balancing,
            timeouts,
            heartbeat,
            limits,
            forwarded,
            retry,
            health,
            security,
        } = &**defaults;
        Cow::Owned(WebSocketRouteSpec {
            session_persistence: merged("sessionPersistence", &spec.session_persistence, session_persistence),
            load_balancing: merged("loadBalancing", &spec.load_balancing, load_balancing),
            timeouts: merged("timeouts", &spec.timeouts, timeouts),
            heartbeat: merged("heartbeat", &spec.heartbeat, heartbeat),
            limits: merged("limits", &spec.limits, limits),
            forwarded: merged("forwarded", &spec.forwarded, forwarded),
            retry: merged("retry", &spec.retry, retry),
            health: policy::health::agreed(spec.health.as_ref(), merged("health", &spec.health, health)),
            security: merged("security", &spec.security, security),
            ..spec.clone()
        })
    }

    /// Every value that the route or the file gives, and which of them. Balancing and persistence are left out: what they
    /// come to differs from rule to rule.
    pub(super) fn given(&self, spec: &WebSocketRouteSpec) -> Vec<Effective> {
        let route = serde_json::to_value(spec).unwrap_or_default();
        let complete = serde_json::to_value(&*self.complete(spec)).unwrap_or_default();
        let mut given = Vec::new();
        for name in POLICIES.iter().filter(|name| !OF_RULES.contains(name)) {
            if let Some(value) = complete.get(name) {
                list(value, route.get(name), name, &mut given);
            }
        }
        given
    }

    /// Whether the file, and not the route, gives this policy as a whole.
    pub fn gives(&self, spec: &WebSocketRouteSpec, policy: &str) -> bool {
        let has = |spec: &WebSocketRouteSpec| serde_json::to_value(spec).is_ok_and(|spec| spec.get(policy).is_some());
        !has(spec) && self.0.as_deref().is_some_and(has)
    }
}

/// Why a field cannot be in the file.
fn strange(name: &str) -> Option<Fault> {
    if POLICIES.contains(&name) {
        return None;
    }
    let message = match name {
        "spec" => "the policies stand at the top of the file, without spec".to_owned(),
        "className" | "hostnames" | "tls" | "rules" | "backendTLS" => "belongs to one route, not to all".to_owned(),
        _ => match nearest(name, POLICIES.into_iter()) {
            Some(meant) => format!("unknown field, did you mean {meant}?"),
            None => "unknown field".to_owned(),
        },
    };
    Some(Fault::of_name(FieldPath::of([name]), message))
}

/// The same faults, as the file says it.
fn below_spec(faults: Vec<Fault>) -> Vec<Fault> {
    let below = |fault: Fault| Fault {
        path: fault.path.steps().iter().skip(1).cloned().collect(),
        ..fault
    };
    faults.into_iter().map(below).collect()
}

/// A policy: what the route says of it, and where it says nothing, what the file says.
fn merged<T: Serialize + DeserializeOwned + Clone>(name: &str, route: &Option<T>, default: &Option<T>) -> Option<T> {
    let (Some(of_route), Some(default)) = (route, default) else {
        return route.clone().or_else(|| default.clone());
    };
    let value = |of: &T| serde_json::to_value(of).unwrap_or_default();
    let merged = overlaid(name, value(of_route), value(default));
    serde_json::from_value(merged).ok().or_else(|| route.clone())
}

/// `route` laid over `default`, the values of the field at `path`: their fields one by one where they complete each other.
fn overlaid(path: &str, route: Value, default: Value) -> Value {
    match (route, default) {
        (Value::Object(route), Value::Object(mut fields)) if COMPLETED.contains(&path) => {
            for (name, value) in route {
                let value = match fields.remove(&name) {
                    Some(default) => overlaid(&format!("{path}.{name}"), value, default),
                    None => value,
                };
                fields.insert(name, value);
            }
            Value::Object(fields)
        }
        (route, _) => route,
    }
}

/// Lists the values below `value`, the merged one, with their origin: the route's, where `route` has the same.
fn list(value: &Value, route: Option<&Value>, name: &str, given: &mut Vec<Effective>) {
    if let Value::Object(fields) = value {
        for (field, value) in fields {
            list(
                value,
                route.and_then(|route| route.get(field)),
                &format!("{name}.{field}"),
                given,
            );
        }
        return;
    }
    given.push(Effective {
        name: name.to_owned(),
        value: value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        origin: if route.is_some() { Origin::Route } else { Origin::Defaults },
    });
}

impl fmt::Display for Defaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = serde_json::to_value(self.0.as_deref()).unwrap_or_default();
        let names = POLICIES.into_iter().filter(|name| value.get(name).is_some());
        let names = names.collect::<Vec<_>>().join(", ");
        f.write_str(if names.is_empty() { "none" } else { &names })
    }
}

/// What the file may say.
const POLICIES: [&str; 9] = [
    "sessionPersistence",
    "loadBalancing",
    "timeouts",
    "heartbeat",
    "limits",
    "forwarded",
    "retry",
    "health",
    "security",
];
/// Of which objects the fields in the file and in a route complete each other. The parts of any other belong together: it is taken
/// whole from the one or the other.
const COMPLETED: [&str; 14] = [
    "timeouts",
    "heartbeat",
    "heartbeat.client",
    "heartbeat.endpoint",
    "limits",
    "limits.tunnel",
    "limits.tunnel.fromClient",
    "limits.tunnel.fromEndpoint",
    "forwarded",
    "retry",
    "health",
    "health.passive",
    "security",
    "security.sourceRanges",
];
/// Policies that are told by rule.
const OF_RULES: [&str; 2] = ["sessionPersistence", "loadBalancing"];
/// What a ConfigMap can hold.
const MAX_FILE: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::policy::{Policies, effective};

    fn defaults(text: &str) -> Defaults {
        Defaults::parse(text).unwrap()
    }

    fn refused(text: &str) -> String {
        Defaults::parse(text).unwrap_err().to_string()
    }

    fn spec(text: &str) -> WebSocketRouteSpec {
        let node = documents(text).unwrap().remove(0);
        serde_json::from_value(node.value()).unwrap()
    }

    #[test]
    fn a_route_s_own_value_goes_first_then_the_file_s_then_the_built_in_one() {
        let defaults =
            defaults("timeouts: {connect: 3s, send: 30s}\nheartbeat: {client: {interval: 20s}}\nforwarded: {xRealIP: false}\n");
        let spec = spec(
            "rules: []\ntimeouts: {connect: 1s, idle: 1h}\nheartbeat: {client: {missed: 5}}\nforwarded: {xForwardedFor: Replace}\n",
        );
        let values = effective(&spec, &defaults);
        let told = |name: &str| {
            let value = values.iter().find(|value| value.name == name).unwrap();
            format!("{} {}", value.value, value.origin)
        };
        assert_eq!(told("timeouts.connect"), "1s route");
        assert_eq!(told("timeouts.idle"), "1h route");
        assert_eq!(told("timeouts.send"), "30s --defaults");
        assert_eq!(told("timeouts.handshake"), "10s built-in");
        assert_eq!(told("heartbeat.client.interval"), "20s --defaults");
        assert_eq!(told("heartbeat.client.missed"), "5 route");
        assert_eq!(told("forwarded.xRealIP"), "false --defaults");
        assert_eq!(told("forwarded.xForwardedFor"), "Replace route");
        assert_eq!(told("forwarded.forwarded"), "None built-in");
        let policies = Policies::of(&defaults.complete(&spec));
        assert_eq!(policies.timeouts.send.as_secs(), 30);
        assert_eq!(policies.heartbeat.client.missed, 5);
    }

    #[test]
    fn a_policy_whose_parts_belong_together_is_taken_whole() {
        let defaults = defaults("sessionPersistence: {type: Cookie, cookie: {name: sid}, onUnavailable: Fail}\n");
        let own = spec("rules: []\nsessionPersistence: {type: ClientIP}\n");
        assert_eq!(defaults.complete(&own).session_persistence, own.session_persistence);
        let silent = spec("rules: []\n");
        let cookie = defaults
            .complete(&silent)
            .session_persistence
            .clone()
            .unwrap()
            .cookie
            .unwrap();
        assert_eq!(cookie.name.as_deref(), Some("sid"));
        assert!(defaults.gives(&silent, "sessionPersistence") && !defaults.gives(&own, "sessionPersistence"));
    }

    #[test]
    fn limits_and_networks_complete_each_other_and_what_belongs_together_does_not() {
        let defaults = defaults(
            "limits: {maxConnectionsPerClient: {count: 5, key: {source: ClientIP, ipv6PrefixLength: 56}}, dryRun: true, tunnel: {fromClient: \
             {maxFrameBytes: 4096, messages: {count: 10, interval: 1s, burst: 50}}}}\nsecurity: {sourceRanges: {deny: [203.0.113.0/24]}}\n",
        );
        let own = spec(
            "rules: []\nlimits: {maxConnectionsPerClient: {count: 7}, tunnel: {fromClient: {messages: {count: 3, interval: 1s}}, \
             fromEndpoint: {maxFrameBytes: 512}}}\nsecurity: {sourceRanges: {allow: [203.0.113.7]}}\n",
        );
        let complete = defaults.complete(&own);
        let limits = serde_json::to_value(&complete.limits).unwrap();
        let from_client = json!({"maxFrameBytes": 4096, "messages": {"count": 3, "interval": "1s"}});
        assert_eq!(limits["tunnel"]["fromClient"], from_client);
        assert_eq!(limits["tunnel"]["fromEndpoint"]["maxFrameBytes"], 512);
        assert_eq!(limits["maxConnectionsPerClient"], json!({"count": 7}));
        assert_eq!(limits["dryRun"], true);
        let ranges = complete.security.as_ref().unwrap().source_ranges.as_ref().unwrap();
        assert_eq!((ranges.allow.len(), ranges.deny.len()), (1, 1));
    }

    #[test]
    fn an_ejection_time_of_the_file_gives_way_to_the_route_s() {
        let name = ObjectName {
            namespace: "a".into(),
            name: "a".into(),
        };
        let times = |file: &str, route: &str| {
            let defaults = defaults(&format!("health: {{passive: {{{file}}}}}\n"));
            let own = spec(&format!("rules: []\nhealth: {{passive: {{{route}}}}}\n"));
            let compiled = compile(&name, &own, &defaults);
            let faults: Vec<_> = compiled.faults.iter().map(ToString::to_string).collect();
            let health = compiled.health.unwrap();
            let seconds = (health.base_ejection_time.as_secs(), health.max_ejection_time.as_secs());
            (seconds, faults)
        };
        assert_eq!(times("maxEjectionTime: 1m", "baseEjectionTime: 2m"), ((120, 120), vec![]));
        assert_eq!(times("baseEjectionTime: 2m", "maxEjectionTime: 1m"), ((60, 60), vec![]));
        assert_eq!(times("maxEjectionTime: 5m", "baseEjectionTime: 2m"), ((120, 300), vec![]));
        let (_, faults) = times("failures: 2", "baseEjectionTime: 2m, maxEjectionTime: 1m");
        assert_eq!(faults.len(), 1, "a route's own contradiction stays one");
        assert!(refused("health: {passive: {baseEjectionTime: 2m, maxEjectionTime: 1m}}\n").contains("maxEjectionTime"));
    }

    #[test]
    fn a_file_without_a_value_is_no_default() {
        for text in ["", "# nothing yet\n", "{}\n", "---\n"] {
            assert_eq!(defaults(text), Defaults::default(), "{text:?}");
        }
    }

    #[test]
    fn what_a_route_may_not_say_is_refused_with_its_line() {
        for (text, told) in [
            (
                "timeouts:\n  conect: 3s\n",
                "line 2: timeouts.conect: unknown field, did you mean connect?",
            ),
            ("timeouts:\n  connect: 0s\n", "line 1: timeouts: connect must be more than 0s"),
            (
                "heartbeat: {client: {interval: 500ms}}\n",
                "line 1: heartbeat.client.interval: 500ms is neither 0s nor at least 1s",
            ),
            ("timeout: {}\n", "line 1: timeout: unknown field, did you mean timeouts?"),
            (
                "spec: {timeouts: {}}\n",
                "line 1: spec: the policies stand at the top of the file, without spec",
            ),
            (
                "hostnames: [a.example]\n",
                "line 1: hostnames: belongs to one route, not to all",
            ),
            (
                "- timeouts\n",
                "line 1: not an object: policies such as timeouts and heartbeat are expected, as in the spec of a route",
            ),
            (
                "timeouts: {}\n---\nheartbeat: {}\n",
                "line 3: a second document; there is one for all routes",
            ),
        ] {
            let refused = refused(text);
            assert!(refused.contains(told), "{text:?}: {refused}");
        }
        assert!(refused("timeouts: [\n").starts_with("line "), "{}", refused("timeouts: [\n"));
    }
}
