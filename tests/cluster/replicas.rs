//! Several replicas of one class: who leads, what each says in its Lease, when a route counts as programmed, who writes what.
//!
//! Each replica of a test has a ServiceAccount of its own, so that the audit log tells who wrote; it watches the test's
//! namespace only, so that nothing disturbs it but the test.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures::future::join_all;
use holdfast::api::{Condition, ConditionStatus, WebSocketRoute};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    account::{self, Account, Request},
    control_plane::{ControlPlane, on_the_cluster},
    endpoint::Echo,
    namespace::Namespace,
    objects::{service, slice_of},
    replica::{Holdfast, Replica},
    support::PATIENCE,
    wait::{eventually, until, within},
};

#[test]
fn a_leader_that_is_killed_is_replaced_and_one_that_goes_hands_over_at_once() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &["--drain-delay", "8s", "--drain-window", "2s"]).await;
        let (one, two) = (Echo::start("one").await, Echo::start("two").await);
        team.serve("/one").await;
        team.apply(&slice_of("chat", "chat", &[&one])).await;
        let mut members = Vec::new();
        let mut pods = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let pod = team.pod(name).await;
            members.push(team.start_with(name, &[("POD_UID", &pod.uid().unwrap())]).await);
            pods.insert(name, pod);
        }

        let leader = leader(&members).await;
        let name = members[leader].name.clone();
        assert!(team.holder().await.unwrap().starts_with(&format!("{name}_")));
        team.until_programmed("chat").await;
        for member in &members {
            let lease = until("each has its Lease", async || team.lease(&member.name).await.ok_or(())).await;
            assert_eq!(lease.labels()["holdfast.dev/class"], team.namespace.class());
            assert_eq!(lease.labels()["holdfast.dev/replica"], member.name);
            let owner = &lease.owner_references()[0];
            assert_eq!(
                (owner.kind.as_str(), &owner.uid),
                ("Pod", &pods[&*member.name].uid().unwrap())
            );
        }
        let before = team.versions(&members).await;

        // Killed: nobody leads for a while, and everybody else follows every change all the same.
        let killed = Instant::now();
        members.remove(leader).kill();
        team.namespace.delete(&team.pod_named(&name)).await;
        team.serve("/two").await;
        team.apply(&slice_of("chat", "chat", &[&two])).await;
        for member in &members {
            member.until_endpoint(&team.namespace.host(), "/two", "two").await;
        }
        assert!(
            team.holder().await.unwrap().starts_with(&format!("{name}_")),
            "nobody leads yet"
        );
        until("they say so", async || {
            let after = team.versions(&members).await;
            let has_grown = |member: &Member| after[&member.name] > before[&member.name];
            if members.iter().all(has_grown) { Ok(()) } else { Err(after) }
        })
        .await;
        eventually("its Lease goes with its pod", async || team.lease(&name).await.is_none()).await;
        let leader = within(TAKEOVER - killed.elapsed(), "another leads", async || {
            one_leads(&members).await
        })
        .await;
        println!("a leader that is killed is replaced after {:.1?}", killed.elapsed());
        team.until_programmed("chat").await;

        // Told to go: it gives the lead back, and serves on.
        let mut going = members.remove(leader);
        let client = going.open(&team.namespace.host(), "/two").await;
        let (told, told_at) = (Instant::now(), Timestamp::now());
        going.signal(Signal::TERM);
        within(HANDOVER, "the last one leads", async || one_leads(&members).await).await;
        println!("a leader that goes is replaced after {:.1?}", told.elapsed());
        eventually("its Lease is deleted", async || team.lease(&going.name).await.is_none()).await;
        assert_eq!(going.get("/readyz").await.status, 200);
        drop(going.open(&team.namespace.host(), "/two").await);
        team.serve("/three").await;
        team.until_programmed("chat").await;
        assert!(
            told.elapsed() < DELAY,
            "too slow a machine: all of this has to happen within the delay"
        );
        going
            .until_answer(&team.namespace.host(), "/three", 503, Some("draining"))
            .await;
        assert_eq!(going.get("/readyz").await.status, 503);
        assert_eq!(client.listen().await.code, 1012);
        assert_eq!(going.exit_code().await, 0);
        let late: Vec<Request> = team.status_writes().into_iter().filter(|write| write.at >= told_at).collect();
        assert!(
            !late.is_empty() && late.iter().all(|write| write.by != going.name),
            "{late:?}"
        );
    });
}

#[test]
fn programmed_is_true_only_when_every_replica_that_lives_answers_so() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &["--drain-delay", "0s", "--drain-window", "0s"]).await;
        team.serve("/v0").await;
        let mut members = team.start_all(&["a", "b", "c"]).await;
        let first = leader(&members).await;
        members.swap(0, first); // those that are stopped and ended below are the others
        team.until_programmed("chat").await;

        let mut times = Vec::new();
        for edit in 1..=EDITS {
            let path = format!("/v{edit}");
            let started = Instant::now();
            team.serve(&path).await;
            team.until_programmed_without_a_pause("chat").await;
            times.push(started.elapsed());
            let answers = join_all(members.iter().map(|member| team.serves(member, &path))).await;
            assert_eq!(answers, [true, true, true], "{path}");
        }
        times.sort();
        println!(
            "from an edit to Programmed: median {:.0?}, longest {:.0?}",
            times[EDITS / 2],
            times[EDITS - 1]
        );

        // One hangs for a while.
        members[2].signal(Signal::STOP);
        team.serve("/while-one-hangs").await;
        team.until_waiting_for(&members[2].name).await;
        for member in &members[..2] {
            assert!(team.serves(member, "/while-one-hangs").await);
        }
        members[2].signal(Signal::CONT);
        team.until_programmed_without_a_pause("chat").await;
        assert!(team.serves(&members[2], "/while-one-hangs").await);

        // One hangs for longer than its Lease.
        let stopped = Instant::now();
        members[2].signal(Signal::STOP);
        team.serve("/without-one").await;
        team.until_waiting_for(&members[2].name).await;
        within(EXPIRY * 2, "Programmed without it", async || team.programmed("chat").await).await;
        println!("one that hangs is waited for {:.1?}", stopped.elapsed());
        assert!(stopped.elapsed() >= EXPIRY - RENEWAL, "{:?}", stopped.elapsed());

        // What is programmed stays so, whoever comes and goes.
        let version = team.route("chat").await.resource_version();
        members[2].signal(Signal::CONT);
        eventually("it serves the same", async || team.serves(&members[2], "/without-one").await).await;
        members.push(team.start("d").await);
        eventually("the new one counts", async || team.lease("d").await.is_some()).await;
        let mut going = members.remove(1);
        going.signal(Signal::TERM);
        assert_eq!(going.exit_code().await, 0);
        eventually("its Lease is deleted", async || team.lease(&going.name).await.is_none()).await;
        team.apply(&team.namespace.route("witness", "/witness", "chat")).await;
        team.until_programmed("witness").await;
        assert_eq!(team.route("chat").await.resource_version(), version, "its status was written");
        for member in &members {
            assert!(team.serves(member, "/without-one").await);
        }
    });
}

#[test]
fn nothing_is_written_but_leases_while_nothing_changes_and_little_when_something_does() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &["--drain-delay", "0s", "--drain-window", "0s"]).await;
        let members = team.start_all(&["a", "b", "c"]).await;
        team.apply(&service("chat")).await;
        let begin = Timestamp::now();
        let names: Vec<String> = (0..20).map(|number| format!("route-{number:02}")).collect();
        for name in &names {
            team.apply(&team.namespace.route(name, &format!("/{name}"), "chat")).await;
        }
        for name in &names {
            team.until_programmed(name).await;
        }
        let leader = leader(&members).await;
        // Each success is an Event, created after its status was written.
        eventually("all Events are there", async || {
            let writes = team.writes_since(begin);
            writes.iter().filter(|write| write.resource == "events").count() == names.len()
        })
        .await;

        let start = Timestamp::now();
        tokio::time::sleep(STEADY).await;
        let writes = team.writes_since(start);
        let others: Vec<&Request> = writes.iter().filter(|write| write.resource != "leases").collect();
        assert!(others.is_empty(), "{others:?}");
        let most = STEADY.as_secs() / 2 + 3 * (STEADY.as_secs() / RENEWAL.as_secs() + 1) + 2;
        assert!(!writes.is_empty() && writes.len() as u64 <= most, "{}", writes.len());

        for (edit, name) in names.iter().enumerate().take(5) {
            let (start, started) = (Timestamp::now(), Instant::now());
            team.apply(&team.namespace.route(name, &format!("/{name}/{edit}"), "chat"))
                .await;
            team.until_programmed(name).await;
            if edit == 0 {
                println!("from an edit after a pause to Programmed: {:.0?}", started.elapsed());
            }
            // The API server writes down what it did after it has answered.
            eventually("the write is in the audit log", async || {
                !team.status_writes_since(start).is_empty()
            })
            .await;
            let writes = team.status_writes_since(start);
            assert!(writes.len() <= 2, "{writes:?}");
            let by_the_leader = |write: &Request| write.by == members[leader].name && write.name == *name;
            assert!(writes.iter().all(by_the_leader), "{writes:?}");
        }

        // All of them at once are replaced: those who come find everything as they would write it.
        for mut member in members {
            member.signal(Signal::TERM);
            assert_eq!(member.exit_code().await, 0);
        }
        let start = Timestamp::now();
        let members = team.start_all(&["d", "e", "f"]).await;
        self::leader(&members).await;
        // Looked at after all others, so that it is a witness of that.
        team.apply(&team.namespace.route("witness", "/witness", "chat")).await;
        team.until_programmed("witness").await;
        eventually("the write is in the audit log", async || {
            !team.status_writes_since(start).is_empty()
        })
        .await;
        let writes = team.status_writes_since(start);
        assert!(writes.iter().all(|write| write.name == "witness"), "{writes:?}");
    });
}

#[test]
fn a_leader_that_slept_does_not_write_what_it_knew() {
    on_the_cluster(async |control_plane| {
        let quick = [
            "--lease-duration",
            "4s",
            "--lease-renew-deadline",
            "3s",
            "--lease-retry",
            "500ms",
        ];
        let team = Team::new(control_plane, &quick).await;
        team.serve("/chat").await;
        let first = team.start("a").await;
        leader(std::slice::from_ref(&first)).await;
        let second = team.start("b").await;
        team.until_programmed("chat").await;

        first.signal(Signal::STOP);
        leader(std::slice::from_ref(&second)).await;
        let taken = Timestamp::now();
        team.serve("/changed").await;
        team.namespace.delete(&service("chat")).await;
        team.namespace
            .until_condition("chat", "ResolvedRefs", "False", "BackendNotFound")
            .await;
        // As the first left it, for it to be tempted.
        team.edit_status("chat", json!({"conditions": []})).await;
        team.namespace
            .until_condition("chat", "ResolvedRefs", "False", "BackendNotFound")
            .await;
        first.signal(Signal::CONT);
        first.line_with("no longer leads class").await;
        team.until_programmed("chat").await;
        assert!(team.serves(&first, "/changed").await, "it is a follower like others");
        let writes = team.status_writes_since(taken);
        assert!(!writes.is_empty() && writes.iter().all(|write| write.by == "b"), "{writes:?}");
    });
}

#[test]
fn who_has_not_seen_everything_neither_leads_nor_counts() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &[]).await;
        let elsewhere = Namespace::new(control_plane).await;
        team.serve("/chat").await;
        let (account, replica) = team.replica("a").await;
        let blind = replica.args(&["--watch-namespace", elsewhere.name()]).launch().await;
        blind.line_with("not ready before it has been listed").await;
        let member = team.start("b").await;
        leader(std::slice::from_ref(&member)).await;
        team.until_programmed("chat").await;
        assert!(team.lease("a").await.is_none());
        assert!(team.writes().iter().all(|write| write.by == "b"));

        account.empower(&elsewhere).await;
        blind.until_ready().await;
        eventually("it counts", async || team.lease("a").await.is_some()).await;
    });
}

#[test]
fn a_status_that_somebody_else_changes_is_put_right() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &[]).await;
        team.serve("/chat").await;
        let member = team.start("a").await;
        let written = team.until_programmed("chat").await;

        for mistake in [
            json!({"conditions": []}),
            json!({"conditions": [{
                "type": "Programmed", "status": "False", "reason": "Nonsense", "message": "", "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }]}),
            json!({"observedGeneration": 99}),
            Value::Null,
        ] {
            team.edit_status("chat", mistake).await;
            team.until_programmed("chat").await;
        }
        assert_eq!(team.route("chat").await.metadata.generation, written.metadata.generation);

        // Somebody writes the route between our look and our write, again and again, until that meets.
        let start = Timestamp::now();
        let (quiet, is_quiet) = watch::channel(false);
        let noise = async {
            for number in 0.. {
                let label = json!({"metadata": {"labels": {"number": number.to_string()}}});
                let merge = PatchParams::default();
                team.namespace
                    .routes()
                    .patch("chat", &merge, &Patch::Merge(label))
                    .await
                    .unwrap();
                if *is_quiet.borrow() {
                    return;
                }
            }
        };
        let edits = async {
            let mut edit = 0;
            eventually("a conflict", async || {
                edit += 1;
                team.serve(&format!("/{edit}")).await;
                team.status_writes_since(start).iter().any(|write| write.code == 409)
            })
            .await;
            quiet.send_replace(true);
            edit
        };
        let ((), edit) = tokio::join!(noise, edits);
        team.until_programmed("chat").await;
        assert!(team.serves(&member, &format!("/{edit}")).await);
    });
}

#[test]
fn two_hundred_routes_at_once_are_written_at_a_steady_pace() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &[]).await;
        let member = team.start("a").await;
        leader(std::slice::from_ref(&member)).await;
        team.apply(&service("chat")).await;
        let start = Timestamp::now();
        let all: Vec<Value> = (0..200)
            .map(|number| {
                team.namespace
                    .route(&format!("route-{number}"), &format!("/{number}"), "chat")
            })
            .collect();
        for some in all.chunks(20) {
            join_all(some.iter().map(|route| team.apply(route))).await;
        }
        // At 20 a second it takes 10 s, if the machine has nothing else to do.
        within(Duration::from_secs(120), "all are programmed", async || {
            let routes = team.namespace.routes().list(&kube::api::ListParams::default()).await.unwrap();
            let left = routes.iter().filter(|route| programmed(route).is_err()).count();
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await;
        let writes = team.status_writes_since(start);
        let times: Vec<Timestamp> = writes.iter().map(|write| write.at).collect();
        let in_a_second_from = |from: &Timestamp| {
            let to = *from + SignedDuration::from_secs(1);
            times.iter().filter(|at| (*from..to).contains(*at)).count()
        };
        let most = times.iter().map(in_a_second_from).max().unwrap();
        println!("{} writes for 200 routes, at most {most} in a second", writes.len());
        assert!(most <= 25, "{most}");
    });
}

#[test]
fn two_classes_that_serve_one_route_do_not_fight_over_its_status() {
    on_the_cluster(async |control_plane| {
        let team = Team::new(control_plane, &[]).await;
        let other = format!("{}-other", team.namespace.class());
        // To the other class a route of its own comes first; this one knows nothing of that.
        let mut above = team.namespace.route("above", "/disputed", "chat");
        above["spec"]["className"] = json!(other);
        team.apply(&above).await;
        team.apply(&service("chat")).await;
        let (account, replica) = team.replica("b").await;
        let (one, two) = (team.start("a").await, Member::start(account, replica.class(&other)).await);
        for name in ["agreed", "disputed"] {
            let mut route = team.namespace.route(name, &format!("/{name}"), "chat");
            route["spec"].as_object_mut().unwrap().remove("className");
            team.apply(&route).await;
        }
        for member in [&one, &two] {
            leader(std::slice::from_ref(member)).await;
            eventually("it serves both", async || {
                team.serves(member, "/agreed").await && team.serves(member, "/disputed").await
            })
            .await;
        }
        until("nobody writes for some seconds", async || match team.status_writes().pop() {
            Some(last) if Timestamp::now() - last.at > QUIET => Ok(()),
            last => Err(last),
        })
        .await;
        let writes = team.status_writes();
        let of = |name| writes.iter().filter(|write| write.name == name).count();
        println!(
            "two classes: {} writes of a route on which they agree, {} of another",
            of("agreed"),
            of("disputed")
        );
        assert!(of("agreed") <= 4, "{writes:?}");
        assert!((2..=20).contains(&of("disputed")), "{writes:?}");
    });
}

/// A running replica, and who it is to the API server: a ServiceAccount of its name.
struct Member {
    holdfast: Holdfast,
    _account: Account,
}

/// Replicas of one class, and what they have to do with.
struct Team<'a> {
    control_plane: &'a ControlPlane,
    namespace: Namespace,
    /// Of each replica.
    args: Vec<String>,
}

impl std::ops::Deref for Member {
    type Target = Holdfast;

    fn deref(&self) -> &Holdfast {
        &self.holdfast
    }
}

impl std::ops::DerefMut for Member {
    fn deref_mut(&mut self) -> &mut Holdfast {
        &mut self.holdfast
    }
}

impl Member {
    async fn start(account: Account, replica: Replica) -> Self {
        Self {
            holdfast: replica.start().await,
            _account: account,
        }
    }
}

impl<'a> Team<'a> {
    async fn new(control_plane: &'a ControlPlane, args: &[&str]) -> Self {
        let namespace = Namespace::new(control_plane).await;
        let watched = ["--watch-namespace", namespace.name()];
        let args = watched.iter().chain(args).map(ToString::to_string).collect();
        Self {
            control_plane,
            namespace,
            args,
        }
    }

    async fn start(&self, name: &str) -> Member {
        self.start_with(name, &[]).await
    }

    async fn start_with(&self, name: &str, env: &[(&str, &str)]) -> Member {
        let (account, replica) = self.replica(name).await;
        let replica = env.iter().fold(replica, |replica, (name, value)| replica.env(name, value));
        Member::start(account, replica).await
    }

    async fn start_all(&self, names: &[&str]) -> Vec<Member> {
        join_all(names.iter().map(|name| self.start(name))).await
    }

    /// One that is not started yet.
    async fn replica(&self, name: &str) -> (Account, Replica) {
        let account = Account::new(self.control_plane, &self.namespace, name).await;
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let replica = Replica::of(&self.namespace, name);
        let replica = replica.kubeconfig(&account.kubeconfig).args(&args);
        (account, replica)
    }

    /// A pod for a replica: an object only, as there are no nodes.
    async fn pod(&self, name: &str) -> DynamicObject {
        self.namespace
            .apply(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}))
            .await;
        self.apply(&self.pod_named(name)).await
    }

    fn pod_named(&self, name: &str) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "serviceAccountName": name,
                "automountServiceAccountToken": false,
                "containers": [{"name": "holdfast", "image": "holdfast"}],
            },
        })
    }

    async fn apply(&self, object: &Value) -> DynamicObject {
        self.namespace.apply(object).await
    }

    /// Makes the route `chat` one of this path.
    async fn serve(&self, path: &str) {
        self.apply(&service("chat")).await;
        self.apply(&self.namespace.route("chat", path, "chat")).await;
    }

    /// Whether a replica routes this path, be it to nobody.
    async fn serves(&self, member: &Member, path: &str) -> bool {
        let answer = member.plain(&self.namespace.host(), path).await;
        assert!([404, 500, 502, 503].contains(&answer.status), "{}", answer.status);
        answer.status != 404
    }

    async fn route(&self, name: &str) -> WebSocketRoute {
        self.namespace.routes().get(name).await.unwrap()
    }

    /// The route, if its present generation is said to be programmed; else what is said of that.
    async fn programmed(&self, name: &str) -> Result<WebSocketRoute, Option<Condition>> {
        let route = self.route(name).await;
        programmed(&route).map(|()| route)
    }

    async fn until_programmed(&self, name: &str) -> WebSocketRoute {
        until(&format!("{name} is programmed"), async || self.programmed(name).await).await
    }

    /// The same for whoever wants to know at once.
    async fn until_programmed_without_a_pause(&self, name: &str) {
        let asking = async { while self.programmed(name).await.is_err() {} };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.unwrap_or_else(|_| panic!("{name} is never programmed"));
    }

    async fn until_waiting_for(&self, replica: &str) {
        let condition = self
            .namespace
            .until_condition("chat", "Programmed", "Unknown", "Pending")
            .await;
        assert_eq!(condition.message, format!("2/3 replicas, waiting for {replica}"));
    }

    /// Changes the status of a route as somebody who may.
    async fn edit_status(&self, name: &str, status: Value) {
        let patch = Patch::Merge(json!({"status": status}));
        let routes = self.namespace.routes();
        routes.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Who leads, as its Lease says.
    async fn holder(&self) -> Option<String> {
        let leases: Api<Lease> = self.namespace.api();
        leases
            .get(self.namespace.class())
            .await
            .unwrap()
            .spec
            .unwrap()
            .holder_identity
    }

    /// The Lease of a replica.
    async fn lease(&self, replica: &str) -> Option<Lease> {
        let leases: Api<Lease> = self.namespace.api();
        leases
            .get_opt(&format!("{}-{replica}", self.namespace.class()))
            .await
            .unwrap()
    }

    /// Up to where a replica says to serve the routes, if it says anything.
    async fn version(&self, replica: &str) -> Option<u64> {
        let lease = self.lease(replica).await?;
        let versions = &lease.annotations()["holdfast.dev/versions"];
        let routes = format!("WebSocketRoute/{}=", self.namespace.name());
        let version = versions.split(',').find_map(|version| version.strip_prefix(&routes));
        Some(version.unwrap_or_else(|| panic!("{versions}")).parse().unwrap())
    }

    async fn versions(&self, members: &[Member]) -> BTreeMap<String, u64> {
        let of = async |member: &Member| (member.name.clone(), self.version(&member.name).await.unwrap());
        join_all(members.iter().map(of)).await.into_iter().collect()
    }

    /// Every request of a replica that would change something, in the order in which they came.
    fn writes(&self) -> Vec<Request> {
        let mut writes = account::requests(self.control_plane, self.namespace.name());
        writes.retain(|request| !["get", "list", "watch"].contains(&request.verb.as_str()));
        writes.sort_by_key(|request| request.at);
        writes
    }

    fn writes_since(&self, start: Timestamp) -> Vec<Request> {
        let mut writes = self.writes();
        writes.retain(|write| write.at >= start);
        writes
    }

    fn status_writes(&self) -> Vec<Request> {
        self.status_writes_since(Timestamp::MIN)
    }

    fn status_writes_since(&self, start: Timestamp) -> Vec<Request> {
        let mut writes = self.writes_since(start);
        writes.retain(|write| write.resource == "websocketroutes/status");
        writes
    }
}

fn programmed(route: &WebSocketRoute) -> Result<(), Option<Condition>> {
    let conditions = route.status.iter().flat_map(|status| &status.conditions);
    let condition = conditions.into_iter().find(|condition| condition.kind == "Programmed");
    let is_now = |condition: &&Condition| {
        condition.status == ConditionStatus::True && condition.observed_generation == route.metadata.generation
    };
    match condition.filter(is_now) {
        Some(_) => Ok(()),
        None => Err(condition.cloned()),
    }
}

/// Waits until exactly one of these leads.
async fn leader(members: &[Member]) -> usize {
    within(TAKEOVER, "one leads", async || one_leads(members).await).await
}

async fn one_leads(members: &[Member]) -> Result<usize, Vec<f64>> {
    let leading = join_all(members.iter().map(|member| member.metric("holdfast_leader", &[]))).await;
    let of_these: Vec<usize> = (0..members.len()).filter(|&index| leading[index] == 1.0).collect();
    match of_these[..] {
        [one] => Ok(one),
        _ => Err(leading),
    }
}

/// --drain-delay where it matters.
const DELAY: Duration = Duration::from_secs(8);
/// How often the route is changed of which everybody must know.
const EDITS: usize = 30;
/// Within which there is a new leader.
const TAKEOVER: Duration = Duration::from_secs(25);
/// The same when the old one gave the Lease back.
const HANDOVER: Duration = Duration::from_secs(5);
/// Within which a replica that says nothing is waited for.
const EXPIRY: Duration = Duration::from_secs(30);
/// Between two signs of life.
const RENEWAL: Duration = Duration::from_secs(10);
/// For which nothing happens.
const STEADY: Duration = Duration::from_secs(30);
/// After which a fight is over.
const QUIET: SignedDuration = SignedDuration::from_secs(6);
