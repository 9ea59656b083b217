//! 2,000 connections through everything that happens in the life of a cluster: what ends them, what does not, and at which price.
//!
//! The figures that it takes are those of docs/continuity.md; with HOLDFAST_E2E_RECORD set it writes them there.

use std::time::{Duration, Instant};

use holdfast::api::WebSocketRoute;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    application::{self, FAR, marker, route, rule},
    cluster::alone_on_the_cluster,
    crowd::{End, Tally},
    kubelet::Node,
    release::Release,
    stage::{CLIENTS, Stage},
    wait::{until, within},
};

/// What changes around connections, and what happens to their endpoints.
#[test]
fn changes_end_nothing_and_every_end_of_an_endpoint_is_told() {
    alone_on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("around").await;
        let far = cluster.add_node(Some("around")).await;
        let release = Release::install(cluster, "around", &[]).await;
        application::start(cluster, "around", 2).await;
        let mut stage = Stage::set(cluster, release, "endpoints").await;

        an_unrelated_route_is_edited(&mut stage).await;
        the_route_goes_and_comes_back(&mut stage).await;
        the_application_grows(&mut stage).await;
        an_endpoint_is_killed(&mut stage).await;
        the_application_shrinks(&mut stage).await;
        application::start_far(cluster, "around").await;
        the_application_is_rolled(&mut stage).await;
        a_node_is_lost(&mut stage, &far).await;

        far.remove().await;
        stage.close();
        namespace.delete().await;
    });
}

/// Holdfast's own life: its values, its versions, its end.
#[test]
fn holdfast_itself_goes_and_its_clients_are_led_on() {
    alone_on_the_cluster(async |cluster| {
        let namespace = cluster.namespace("itself").await;
        // It brings the definition itself; the cluster's own comes back at the end.
        cluster.kubectl(&["delete", "crd", CRD]).await;
        let release = Release::install(cluster, "itself", &[CRDS, SLOW]).await;
        application::start(cluster, "itself", 2).await;
        let mut stage = Stage::set(cluster, release, "holdfast").await;

        new_defaults_replace_nothing(&mut stage).await;
        moves_everybody_once(&mut stage, "`helm upgrade` with changed values", WINDOW, async |stage| {
            stage.release.upgrade(&[CRDS, QUICK, DEFAULTS]).await;
        })
        .await;
        moves_everybody_once(&mut stage, "`helm rollback`", QUICKER, async |stage| {
            stage.release.rollback(0).await
        })
        .await;
        moves_everybody_once(&mut stage, "Holdfast is rolled (`rollout restart`)", WINDOW, async |stage| {
            stage.kubectl(&["rollout", "restart", "deployment/holdfast"]).await;
            rolled_out(stage, "holdfast").await;
        })
        .await;
        a_replica_is_killed(&mut stage).await;
        it_is_uninstalled_and_comes_back(&mut stage).await;
        it_is_uninstalled_for_good(stage).await;

        cluster
            .kubectl(&[
                "apply",
                "--server-side",
                "-f",
                concat!(env!("CARGO_MANIFEST_DIR"), "/crds/websocketroutes.yaml"),
            ])
            .await;
        cluster
            .kubectl(&["wait", "--for=condition=Established", "crd", CRD, "--timeout=60s"])
            .await;
        namespace.delete().await;
    });
}

/// Each edit is in effect on every replica before the next.
async fn an_unrelated_route_is_edited(stage: &mut Stage<'_>) {
    stage.begin();
    let routes: Api<WebSocketRoute> = Api::namespaced(stage.cluster.client().await, &stage.release.namespace);
    for edit in 1..=EDITS {
        let path = format!("/edit-{edit}");
        let edited = json!({"spec": {"rules": [marker(&path)]}});
        routes
            .patch("marker", &PatchParams::default(), &Patch::Merge(edited))
            .await
            .unwrap();
        stage.all_answer(&path, 426).await;
    }
    let row = stage.end(&format!("another route is edited {EDITS} times"), None).await;
    nothing_ended(&row.tally);
}

/// The route's tunnels outlive it.
async fn the_route_goes_and_comes_back(stage: &mut Stage<'_>) {
    let namespace = stage.release.namespace.clone();
    stage.begin();
    stage.kubectl(&["delete", "wsr", "chat"]).await;
    stage.all_answer("/chat", 404).await;
    let mark = stage.crowd.mark();
    until("messages still come back", async || {
        if stage.crowd.is_settled(&mark) { Ok(()) } else { Err(()) }
    })
    .await;
    stage.cluster.apply(&route(&namespace, "chat", &rule("/chat"))).await;
    stage.all_answer("/chat", 200).await;
    let row = stage.end("their own route is deleted and applied again", None).await;
    nothing_ended(&row.tally);
}

/// What is open stays where it is, and what comes goes where there is least.
async fn the_application_grows(stage: &mut Stage<'_>) {
    stage.begin();
    stage.kubectl(&["scale", "deployment/chat", "--replicas=6"]).await;
    rolled_out(stage, "chat").await;
    until("six endpoints are known", async || match stage.by_endpoint().await {
        endpoints if endpoints.len() == 6 => Ok(()),
        endpoints => Err(endpoints),
    })
    .await;
    let row = stage.end("the application is scaled from 2 to 6", None).await;
    nothing_ended(&row.tally);

    let before = stage.by_endpoint().await;
    let visitors = stage.visit(VISITORS, "visitors after the scale-up").await;
    let on_new: f64 = visitors
        .iter()
        .filter(|(pod, _)| before[*pod] == 0.0)
        .map(|(_, open)| open)
        .sum();
    println!("of {VISITORS} that came then, {on_new} went to the 4 new endpoints; open before: {before:?}");
    // Of two endpoints at random the emptier one: only a pair of the two old ones, one in fifteen, chooses an old one.
    assert!(on_new >= VISITORS as f64 * 0.8, "{visitors:?}");
}

/// SIGKILL: its connections end without a word of its own, and the word is Holdfast's.
async fn an_endpoint_is_killed(stage: &mut Stage<'_>) {
    let (pod, open) = fullest(stage).await;
    stage.begin();
    stage.cluster.pod(&stage.release.namespace, &pod).kill();
    all_come_back(stage, open, ROLLOUT).await;
    let row = stage.end("an endpoint is killed (SIGKILL)", None).await;
    only_ends(&row.tally, &End::new(1012, "endpoint_gone"), open);
    assert_eq!(row.tally.refused, [].into(), "somebody was refused while others were ready");
    rolled_out(stage, "chat").await;
}

/// Which pods go is the cluster's choice.
async fn the_application_shrinks(stage: &mut Stage<'_>) {
    let old = chat_pods(stage).await;
    let open = stage.by_endpoint().await;
    stage.begin();
    stage.kubectl(&["scale", "deployment/chat", "--replicas=3"]).await;
    within(ROLLOUT, "three are left", async || match chat_pods(stage).await.len() {
        3 => Ok(()),
        pods => Err(pods),
    })
    .await;
    let left = chat_pods(stage).await;
    let hit: f64 = old.iter().filter(|pod| !left.contains(pod)).map(|pod| open[pod]).sum();
    let row = stage.end("it is scaled from 6 to 3", None).await;
    let told = End::new(1001, "endpoint is stopping");
    assert!(row.tally.ends.keys().all(|end| *end == told), "{:?}", row.tally.ends);
    assert!(row.tally.ended() >= hit as u64, "{:?}, where {hit} were open", row.tally.ends);
}

/// How its connections end is the application's to say: this one says goodbye to all at once.
async fn the_application_is_rolled(stage: &mut Stage<'_>) {
    let old = chat_pods(stage).await;
    stage.begin();
    stage.kubectl(&["rollout", "restart", "deployment/chat"]).await;
    rolled_out(stage, "chat").await;
    stage.are_gone(&old).await;
    let row = stage.end("the application is rolled (maxSurge 100%)", None).await;
    let told = End::new(1001, "endpoint is stopping");
    assert!(row.tally.ends.keys().all(|end| *end == told), "{:?}", row.tally.ends);
    assert_eq!(row.tally.refused, [].into());
}

/// Its packets vanish, and nobody says so.
async fn a_node_is_lost(stage: &mut Stage<'_>, far: &Node) {
    let there = stage.by_endpoint().await;
    let open: f64 = there
        .iter()
        .filter(|(pod, _)| pod.starts_with(FAR))
        .map(|(_, open)| open)
        .sum();
    assert!(open > 0.0, "nobody is there: {there:?}");
    stage.begin();
    far.lose().await;
    let lost = Instant::now();
    all_come_back(stage, open as u64, NOTICED).await;
    println!(
        "{open} clients of the lost node are somewhere else after {:.1?}",
        lost.elapsed()
    );
    let row = stage.end("a node is lost with an endpoint on it", None).await;
    only_ends(&row.tally, &End::new(1012, "endpoint_vanished"), open as u64);
}

/// Defaults are followed; no pod is replaced for them.
async fn new_defaults_replace_nothing(stage: &mut Stage<'_>) {
    let replicas = stage.replicas();
    stage.begin();
    stage.release.upgrade(&[CRDS, SLOW, DEFAULTS]).await;
    let row = stage.end("`helm upgrade` with changed `defaults`", None).await;
    nothing_ended(&row.tally);
    assert_eq!(stage.replicas(), replicas);
}

/// Old replicas drain over `window`, new ones take over.
async fn moves_everybody_once(stage: &mut Stage<'_>, event: &str, window: u32, happens: impl AsyncFnOnce(&Stage<'_>)) {
    let old = stage.release.ready().await;
    stage.begin();
    happens(stage).await;
    stage.are_gone(&old).await;
    let pace = CLIENTS as f64 / f64::from(window);
    let row = stage.end(event, Some(pace)).await;
    only_ends(&row.tally, &End::new(1012, "drain"), row.tally.ended());
    assert!(
        row.tally.ended() >= CLIENTS as u64,
        "{event}: not all were moved: {:?}",
        row.tally.ends
    );
    assert!(
        row.per_client() <= MOST_RECONNECTS,
        "{event}: {} reconnects per client",
        row.per_client()
    );
    keeps_the_pace(&row.tally, pace, window);
    few_lost(&row.tally);
    assert_eq!(row.tally.refused, [].into(), "{event}");
}

/// SIGKILL: nobody is left who could say anything.
async fn a_replica_is_killed(stage: &mut Stage<'_>) {
    let pod = stage.release.ready().await.remove(0);
    let place = stage.cluster.pod(&stage.release.namespace, &pod);
    let address = place.place().unwrap().ip;
    let open = stage.open_of(address.into()).await;
    stage.begin();
    place.kill();
    all_come_back(stage, open, ROLLOUT).await;
    rolled_out(stage, "holdfast").await;
    let row = stage.end("a replica of Holdfast is killed (SIGKILL)", None).await;
    only_ends(&row.tally, &End::new(1006, ""), open);
}

/// The definition and the routes stay; nobody serves them until it is installed again.
async fn it_is_uninstalled_and_comes_back(stage: &mut Stage<'_>) {
    stage.begin();
    stage.release.uninstall().await;
    assert_eq!(stage.crowd.connected(), 0);
    stage.kubectl(&["get", "wsr", "chat"]).await;
    stage.release = Release::install(stage.cluster, &stage.release.namespace.clone(), &[CRDS, SLOW]).await;
    let pace = CLIENTS as f64 / f64::from(WINDOW);
    let row = stage.end("`helm uninstall`, then `helm install` again", None).await;
    only_ends(&row.tally, &End::new(1012, "drain"), CLIENTS as u64);
    let tally = &row.tally;
    assert!(
        tally.peak_ends() as f64 <= pace * TOLERANCE,
        "{} ended in one second",
        tally.peak_ends()
    );
    few_lost(tally);
}

/// With `crds.keep=false` the definition goes too, and with it all routes, while the tunnels are still being ended in order.
async fn it_is_uninstalled_for_good(mut stage: Stage<'_>) {
    stage.release.upgrade(&[CRDS, SLOW, "crds.keep=false"]).await;
    let pace = CLIENTS as f64 / f64::from(WINDOW);
    stage.begin();
    stage.release.uninstall().await;
    let row = stage.end_of_all("`helm uninstall` with `crds.keep=false`", Some(pace)).await;
    only_ends(&row.tally, &End::new(1012, "drain"), CLIENTS as u64);
    few_lost(&row.tally);
    let left = stage
        .cluster
        .kubectl(&["get", "crd", CRD, "--ignore-not-found", "-o", "name"])
        .await;
    assert_eq!(left, "");
    stage.close();
}

fn nothing_ended(tally: &Tally) {
    assert_eq!((tally.ended(), tally.lost()), (0, 0), "{:?}", tally.ends);
}

/// So many, and each in this way.
fn only_ends(tally: &Tally, end: &End, count: u64) {
    assert_eq!(tally.ends, [(end.clone(), count)].into());
}

/// Not all at once, and not before their time. A replica that stood still for a moment catches up.
fn keeps_the_pace(tally: &Tally, pace: f64, window: u32) {
    let peak = tally.peak_reconnects();
    assert!(
        peak as f64 <= pace * TOLERANCE,
        "{peak} in one second, where {pace} were asked for"
    );
    let took = tally.ending_took();
    assert!(
        took >= Duration::from_secs(window.into()).mul_f64(0.8),
        "all have ended within {took:?}"
    );
}

/// What endpoints send during the round trip of a Close may be lost, and no more.
fn few_lost(tally: &Tally) {
    assert!(tally.lost() <= CLIENTS as u64 / 20, "{:?}", tally.lost);
}

/// Waits until so many connections have ended, and all clients have one again.
async fn all_come_back(stage: &Stage<'_>, ended: u64, limit: Duration) {
    within(limit, &format!("{ended} clients have come back"), async || {
        match (stage.crowd.ended(), stage.crowd.connected()) {
            (all, CLIENTS) if all >= ended => Ok(()),
            so_far => Err(so_far),
        }
    })
    .await;
}

/// The endpoint that has most of the tunnels, and how many.
async fn fullest(stage: &Stage<'_>) -> (String, u64) {
    let open = stage.by_endpoint().await.into_iter().map(|(pod, open)| (pod, open as u64));
    open.max_by_key(|(_, open)| *open).expect("there are endpoints")
}

async fn chat_pods(stage: &Stage<'_>) -> Vec<String> {
    let names = ["get", "pods", "-l", "app.kubernetes.io/name=chat,edition=chat", "-o", "name"];
    let names = stage.kubectl(&names).await;
    names.lines().map(|name| name.trim_start_matches("pod/").to_owned()).collect()
}

async fn rolled_out(stage: &Stage<'_>, deployment: &str) {
    stage
        .kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=90s"])
        .await;
}

const CRD: &str = "websocketroutes.holdfast.dev";
/// Of a route that no client uses.
const EDITS: usize = 100;
/// Clients that come after a scale-up.
const VISITORS: usize = 300;
/// The release brings the definition itself.
const CRDS: &str = "crds.enabled=true";
/// Seconds over which a replica that ends does so to its tunnels.
const WINDOW: u32 = 20;
const SLOW: &str = "drain.window=20";
/// The same after an upgrade.
const QUICKER: u32 = 15;
const QUICK: &str = "drain.window=15";
/// What needs no pod to be replaced.
const DEFAULTS: &str = "defaults.timeouts.idle=2h";
/// Reconnects per client when Holdfast is rolled.
const MOST_RECONNECTS: f64 = 1.05;
/// How much more than the pace may pass in one second: a replica that stands still for longer than a second fails the test.
const TOLERANCE: f64 = 2.5;
/// A vanished endpoint is noticed 30 s after the first message, of which there is one every 2 s, that it did not confirm.
const NOTICED: Duration = Duration::from_secs(40);
/// For pods to come or go.
const ROLLOUT: Duration = Duration::from_secs(60);
