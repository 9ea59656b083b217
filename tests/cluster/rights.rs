//! What an installation grants is what Holdfast needs: as its ServiceAccount it is refused nothing, and no right is unused.

use std::{collections::BTreeSet, fs};

use k8s_openapi::api::{
    core::v1::{ConfigMap, EnvVar, Pod},
    events::v1::Event,
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, Subject},
};
use kube::{Api, ResourceExt, api::ListParams};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    account::{self, Account, Request},
    control_plane::{ControlPlane, on_its_own_cluster},
    endpoint::pod_address,
    namespace::Namespace,
    objects::route,
    replica::{Holdfast, Replica},
    wait::{eventually, until},
};

#[test]
fn what_an_installation_grants_is_enough_and_not_too_much() {
    on_its_own_cluster(&[], async |control_plane| {
        let tests = Namespace::new(control_plane).await;
        kubectl(control_plane, "apply -f tests/cluster/referencegrants.yaml");
        kubectl(
            control_plane,
            "wait --for=condition=Established crd/referencegrants.gateway.networking.k8s.io",
        );

        // For the whole cluster: a route beside its Service, and one with a granted reference.
        let installed = Installation::apply(control_plane, "deploy/minimal").await;
        kubectl(control_plane, "apply -f examples/kubernetes-before-ingress/existing.yaml");
        kubectl(control_plane, "apply -f examples/kubernetes-before-ingress/holdfast.yaml");
        kubectl(
            control_plane,
            &format!("apply -n {} -f examples/kubernetes-own-hostname", tests.name()),
        );
        for (namespace, name, host) in [("web", "www", "www.example.com"), (tests.name(), "chat", "chat.example.com")] {
            kubectl(
                control_plane,
                &format!("wait -n {namespace} --for=condition=ResolvedRefs wsr/{name}"),
            );
            kubectl(
                control_plane,
                &format!("wait -n {namespace} --for=condition=Programmed wsr/{name}"),
            );
            for replica in &installed.replicas {
                replica.until_answer(host, "/", 503, Some("no_ready_endpoint")).await;
            }
        }
        refuse_twice(control_plane, &tests, "web").await;
        installed.end_and_compare().await;

        // For one namespace. What was there before is removed as its author would: all but the definition and the routes.
        kubectl(
            control_plane,
            "delete clusterrolebinding,clusterrole holdfast holdfast-certificates holdfast-challenges",
        );
        kubectl(
            control_plane,
            "delete -n holdfast-system --cascade=foreground deployment,role,rolebinding,serviceaccount holdfast",
        );
        kubectl(control_plane, "delete -n holdfast-system secret holdfast-tickets");
        kubectl(control_plane, "delete -n web wsr www twice");
        let installed = Installation::apply(control_plane, "examples/kubernetes-one-namespace/holdfast").await;
        kubectl(control_plane, "apply -f examples/kubernetes-one-namespace");
        kubectl(control_plane, "wait -n web --for=condition=Programmed wsr/chat");
        refuse_twice(control_plane, &tests, "web").await;
        installed.end_and_compare().await;
    });
}

/// What runs in the pods of an installation.
struct Installation<'a> {
    control_plane: &'a ControlPlane,
    replicas: Vec<Holdfast>,
    /// How many requests its ServiceAccount had made before.
    earlier: usize,
}

/// What may be done: where (empty: everywhere), to which kind of which group, what, and to which object if only to one.
type Right = (String, String, String, String, Option<String>);

impl<'a> Installation<'a> {
    /// Applies a folder, and runs in each pod of its Deployment what the pod says, as the ServiceAccount that it says. There
    /// are no nodes: pods are made, if their namespace admits them, and wait.
    async fn apply(control_plane: &'a ControlPlane, folder: &str) -> Self {
        let earlier = account::requests(control_plane, SYSTEM).len();
        kubectl(control_plane, &format!("apply -k {folder}"));
        let pods: Api<Pod> = Api::namespaced(control_plane.client().await, SYSTEM);
        let ours = ListParams::default().labels("app.kubernetes.io/name=holdfast");
        let pods = until("the pods are admitted and made", async || {
            let mut pods = pods.list(&ours).await.unwrap().items;
            pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
            if pods.len() == 2 { Ok(pods) } else { Err(pods.len()) }
        })
        .await;
        let name = pods[0].spec.as_ref().unwrap().service_account_name.clone().unwrap();
        let account = Account::of(control_plane, SYSTEM, &name).await;
        for (namespace, group, resource, verb, object) in granted(control_plane, &name).await {
            account.until_it_may_with(&verb, &group, &resource, &namespace, object).await;
        }
        let mut replicas = Vec::new();
        for pod in pods {
            replicas.push(run(control_plane, &pod, &account).await);
        }
        Self {
            control_plane,
            replicas,
            earlier,
        }
    }

    /// Ends it, and looks at all that it has asked for.
    async fn end_and_compare(self) {
        for mut replica in self.replicas {
            replica.signal(Signal::TERM);
            assert_eq!(replica.exit_code().await, 0);
        }
        let granted = granted(self.control_plane, "holdfast").await;
        let all = account::requests(self.control_plane, SYSTEM).split_off(self.earlier);
        let refused: Vec<&Request> = all.iter().filter(|request| [401, 403].contains(&request.code)).collect();
        assert!(refused.is_empty(), "{refused:?}");
        let used = |(namespace, group, resource, verb, object): &Right| {
            all.iter().any(|request| {
                (namespace.is_empty() || request.namespace == *namespace)
                    && object.as_ref().is_none_or(|object| request.name == *object)
                    && (&request.group, &request.resource, &request.verb) == (group, resource, verb)
            })
        };
        let unused: Vec<&Right> = granted.iter().filter(|right| !used(right)).collect();
        assert!(granted.len() > 10 && unused.is_empty(), "granted and never used: {unused:?}");
    }
}

/// Runs what is in a pod, on an address of its own, and asks its probes.
async fn run(control_plane: &ControlPlane, pod: &Pod, account: &Account) -> Holdfast {
    let container = &pod.spec.as_ref().unwrap().containers[0];
    let mut args: Vec<String> = container.args.clone().unwrap();
    for mount in container.volume_mounts.iter().flatten() {
        if let Some(folder) = mounted(control_plane, pod, &mount.name).await {
            for arg in &mut args {
                *arg = arg.replace(&mount.mount_path, &folder);
            }
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let replica = Replica::installed(SYSTEM, &pod.name_any(), &account.kubeconfig).ip(pod_address());
    let replica = replica.args(&args).args(&["--drain-delay=0s", "--drain-window=0s"]);
    let env = container.env.iter().flatten();
    let replica = env.fold(replica, |replica, variable| {
        replica.env(&variable.name, &value(variable, pod))
    });
    let holdfast = replica.start().await;
    for probe in [
        &container.startup_probe,
        &container.liveness_probe,
        &container.readiness_probe,
    ] {
        let question = probe.as_ref().unwrap().http_get.as_ref().unwrap();
        assert_eq!(holdfast.get(question.path.as_ref().unwrap()).await.status, 200);
    }
    holdfast
}

/// What a kubelet makes of a volume that is a ConfigMap: a folder with a file for each key.
async fn mounted(control_plane: &ControlPlane, pod: &Pod, volume: &str) -> Option<String> {
    let mut volumes = pod.spec.as_ref().unwrap().volumes.iter().flatten();
    let volume = volumes.find(|it| it.name == volume).unwrap();
    let name = &volume.config_map.as_ref()?.name;
    let maps: Api<ConfigMap> = Api::namespaced(control_plane.client().await, SYSTEM);
    let folder = format!("{}/{}-{name}", env!("CARGO_TARGET_TMPDIR"), pod.name_any());
    fs::create_dir_all(&folder).unwrap();
    for (file, text) in maps.get(name).await.unwrap().data.unwrap() {
        fs::write(format!("{folder}/{file}"), text).unwrap();
    }
    Some(folder)
}

/// What a kubelet makes of a variable.
fn value(variable: &EnvVar, pod: &Pod) -> String {
    if let Some(value) = &variable.value {
        return value.clone();
    }
    let field = variable.value_from.as_ref().and_then(|from| from.field_ref.as_ref());
    match field.unwrap().field_path.as_str() {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap(),
        "metadata.uid" => pod.uid().unwrap(),
        other => panic!("{other}"),
    }
}

/// Everything that a ServiceAccount may do by the roles that are bound to it.
async fn granted(control_plane: &ControlPlane, account: &str) -> BTreeSet<Right> {
    let client = control_plane.client().await;
    let is_meant = |subjects: &Option<Vec<Subject>>| {
        let mut subjects = subjects.iter().flatten();
        subjects.any(|subject| subject.namespace.as_deref() == Some(SYSTEM) && subject.name == account)
    };
    let all = ListParams::default();
    let mut rights = BTreeSet::new();
    let everywhere: Api<ClusterRoleBinding> = Api::all(client.clone());
    for binding in everywhere
        .list(&all)
        .await
        .unwrap()
        .items
        .iter()
        .filter(|binding| is_meant(&binding.subjects))
    {
        let roles: Api<ClusterRole> = Api::all(client.clone());
        let role = roles.get(&binding.role_ref.name).await.unwrap();
        rights.extend(rights_of("", &role.rules.unwrap()));
    }
    let somewhere: Api<RoleBinding> = Api::all(client.clone());
    for binding in somewhere
        .list(&all)
        .await
        .unwrap()
        .items
        .iter()
        .filter(|binding| is_meant(&binding.subjects))
    {
        let namespace = binding.namespace().unwrap();
        let roles: Api<Role> = Api::namespaced(client.clone(), &namespace);
        let role = roles.get(&binding.role_ref.name).await.unwrap();
        rights.extend(rights_of(&namespace, &role.rules.unwrap()));
    }
    rights
}

fn rights_of(namespace: &str, rules: &[PolicyRule]) -> Vec<Right> {
    let mut rights = Vec::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                let object = rule.resource_names.as_ref().and_then(|names| names.first().cloned());
                let right = |verb: &String| {
                    let object = object.clone();
                    (namespace.to_owned(), group.clone(), resource.clone(), verb.clone(), object)
                };
                rights.extend(rule.verbs.iter().map(right));
            }
        }
    }
    rights
}

/// A route that is refused, permitted and refused again: the same Event twice, which is one with a count.
async fn refuse_twice(control_plane: &ControlPlane, tests: &Namespace, namespace: &str) {
    let of = |backend: Value| {
        let mut route = route("twice", "/twice", "chat");
        route["metadata"]["namespace"] = json!(namespace);
        route["spec"]["hostnames"] = json!(["twice.example.com"]);
        route["spec"]["rules"][0]["backendRefs"] = json!([backend]);
        route
    };
    let elsewhere = of(json!({"name": "kubernetes", "namespace": "default", "port": 443}));
    let here = of(json!({"name": "chat", "port": 80}));
    for (route, status) in [(&elsewhere, "False"), (&here, "True"), (&elsewhere, "False")] {
        tests.apply(route).await;
        kubectl(
            control_plane,
            &format!("wait -n {namespace} --for=condition=ResolvedRefs={status} wsr/twice"),
        );
    }
    let events: Api<Event> = Api::namespaced(tests.client(), namespace);
    eventually("the Event is counted", async || {
        let events = events.list(&ListParams::default()).await.unwrap();
        let counts = events
            .iter()
            .filter(|event| event.reason.as_deref() == Some("RefNotPermitted"));
        counts
            .filter_map(|event| event.series.as_ref())
            .any(|series| series.count == 2)
    })
    .await;
}

/// Runs kubectl in the project's folder, with success expected.
fn kubectl(control_plane: &ControlPlane, line: &str) {
    let folder = env!("CARGO_MANIFEST_DIR");
    let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    for flag in ["-f", "-k"] {
        if let Some(at) = words.iter().position(|word| word == flag) {
            words[at + 1] = format!("{folder}/{}", words[at + 1]);
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    control_plane.kubectl_says(&words);
}

/// Where deploy/minimal installs Holdfast.
const SYSTEM: &str = "holdfast-system";
