//! What a kubelet writes of a pod.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use serde_json::{Value, json};

use super::{
    container::{Container, Ended, Kind, Run},
    pod::Pod,
};

/// The status of a pod, for a strategic merge: other conditions stay.
pub fn of(pod: &Pod) -> Value {
    let (init, app): (Vec<_>, Vec<_>) = pod.containers().iter().partition(|container| container.kind != Kind::App);
    let ready = !app.is_empty()
        && pod
            .containers()
            .iter()
            .filter(|container| container.kind != Kind::Init)
            .all(is_ready);
    pod.with_story(|story| {
        let phase = match story.outcome {
            Some((phase, _)) => phase,
            None if story.initialized => "Running",
            None => "Pending",
        };
        let done = story.outcome.is_some();
        let mut condition = |kind: &'static str, is_so: bool| {
            let known = story.conditions.entry(kind).or_insert_with(|| (is_so, Timestamp::now()));
            if known.0 != is_so {
                *known = (is_so, Timestamp::now());
            }
            let mut condition = json!({
                "type": kind,
                "status": if is_so { "True" } else { "False" },
                "lastTransitionTime": time(known.1),
                "lastProbeTime": null,
                "reason": null,
            });
            if !is_so {
                condition["reason"] = json!(if done { "PodCompleted" } else { "ContainersNotReady" });
            }
            condition
        };
        let conditions = [
            condition("PodReadyToStartContainers", pod.place().is_some() && !done),
            condition("Initialized", story.initialized),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ];
        let mut status = json!({
            "phase": phase,
            "conditions": conditions,
            "startTime": story.started.map(time),
            "reason": story.outcome.and_then(|(_, reason)| reason),
            "initContainerStatuses": init.iter().map(|container| container_status(pod, container)).collect::<Vec<_>>(),
            "containerStatuses": app.iter().map(|container| container_status(pod, container)).collect::<Vec<_>>(),
        });
        if let Some(place) = pod.place() {
            status["hostIP"] = json!(place.node_ip);
            status["hostIPs"] = json!([{"ip": place.node_ip}]);
            status["podIP"] = json!(place.ip);
            status["podIPs"] = json!([{"ip": place.ip}]);
        }
        status
    })
}

/// With which code a container has ended, if it does not run.
pub fn exit_code(container: &Container) -> Option<i32> {
    match container.state().run {
        Run::Ended(ended) => Some(ended.code),
        _ => None,
    }
}

fn is_ready(container: &Arc<Container>) -> bool {
    container.state().ready
}

fn container_status(pod: &Pod, container: &Container) -> Value {
    let state = container.state();
    let id = |since: Timestamp| {
        format!(
            "process://{}/{}",
            pod.object.uid().unwrap_or_default(),
            since.as_millisecond()
        )
    };
    let ended = |ended: &Ended| {
        json!({"terminated": {
            "exitCode": ended.code,
            "signal": ended.signal,
            "reason": if ended.code == 0 { "Completed" } else { "Error" },
            "startedAt": time(ended.since),
            "finishedAt": time(ended.at),
            "containerID": id(ended.since),
        }})
    };
    let (now, since) = match &state.run {
        Run::Waiting(reason) => (json!({"waiting": {"reason": reason}}), None),
        Run::Running { since, .. } => (json!({"running": {"startedAt": time(*since)}}), Some(*since)),
        Run::Ended(last) if state.finished => (ended(last), Some(last.since)),
        Run::Ended(last) => (json!({"waiting": {"reason": "CrashLoopBackOff"}}), Some(last.since)),
    };
    json!({
        "name": container.name(),
        "image": container.spec.image,
        "imageID": "",
        "ready": state.ready || (container.kind == Kind::Init && exit_code(container) == Some(0)),
        "started": state.started,
        "restartCount": state.restarts,
        "state": now,
        "lastState": state.last.as_ref().map_or(json!({}), ended),
        "containerID": since.map(id).unwrap_or_default(),
    })
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
