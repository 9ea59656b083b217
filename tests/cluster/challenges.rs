//! Challenges of ACME: cert-manager's HTTP-01 solver is reached in plain while its host is served with TLS only.

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    control_plane::on_the_cluster,
    endpoint::pod_address,
    namespace::Namespace,
    objects::ready,
    replica::{Holdfast, Replica},
    support::{Answer, Server},
    wait::until,
};

const TOKEN: &str = "/.well-known/acme-challenge/dGhlIHRva2Vu";

/// The Ingress as cert-manager makes it for an issuer with `ingressClassName`, for this namespace's class.
fn ingress(namespace: &Namespace, host: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {
            "name": "cm-acme-http-solver-x7k2p",
            "labels": {
                "acme.cert-manager.io/http-domain": "1021087384",
                "acme.cert-manager.io/http-token": "1044126107",
                "acme.cert-manager.io/http01-solver": "true",
            },
            "annotations": {"nginx.ingress.kubernetes.io/whitelist-source-range": "0.0.0.0/0,::/0"},
        },
        "spec": {
            "ingressClassName": namespace.class(),
            "rules": [{"host": host, "http": {"paths": [{
                "path": TOKEN,
                "pathType": "ImplementationSpecific",
                "backend": {"service": {"name": "cm-acme-http-solver-9qzvd", "port": {"number": 8089}}},
            }]}}],
        },
    })
}

/// Its Service, and the slice that the cluster makes of the solver's pod, which runs until the returned set is dropped.
async fn apply_solver(namespace: &Namespace) -> JoinSet<()> {
    let address = pod_address();
    let server = Server::on((address, 8089).into()).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "cm-acme-http-solver-9qzvd"},
        "spec": {"type": "NodePort", "ports": [{"name": "http", "port": 8089, "targetPort": 8089}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "cm-acme-http-solver-9qzvd-1",
            "labels": {
                "kubernetes.io/service-name": "cm-acme-http-solver-9qzvd", "endpointslice.kubernetes.io/managed-by": "test",
            },
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8089, "protocol": "TCP"}], "endpoints": [ready(address)],
    });
    namespace.apply(&service).await;
    namespace.apply(&slice).await;
    let mut solver = JoinSet::new();
    solver.spawn(async move {
        loop {
            let mut asked = server.connection().await;
            let head = asked.head().await;
            let body = if head.starts_with(&format!("GET {TOKEN} ")) {
                "key"
            } else {
                "?"
            };
            asked
                .write(format!(
                    "HTTP/1.1 200 OK
Content-Length: {}
Connection: close

{body}",
                    body.len()
                ))
                .await;
        }
    });
    solver
}

/// A replica that redirects to TLS, and a route of this test's host that has TLS and whose certificate is still missing.
async fn start(chat: &Namespace) -> Holdfast {
    let mut route = chat.route("chat", "/", "chat");
    route["spec"]["tls"] = json!([{"secretName": "chat-tls"}]);
    chat.apply(&route).await;
    let args = ["--https", "127.0.0.1:0", "--https-redirect"];
    let holdfast = Replica::of(chat, "a").args(&args).start().await;
    redirects(&holdfast, &chat.host(), "/").await;
    holdfast
}

fn outcome(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.reason())
}

async fn redirects(holdfast: &Holdfast, host: &str, path: &str) {
    until(&format!("{host}{path} is redirected"), async || {
        let answer = holdfast.plain(host, path).await;
        if outcome(&answer) == (308, Some("redirected_to_https")) {
            Ok(())
        } else {
            Err(answer.head)
        }
    })
    .await;
}

async fn until_answered(holdfast: &Holdfast, host: &str) {
    until(&format!("the challenge of {host} is answered"), async || {
        let answer = holdfast.plain(host, TOKEN).await;
        if answer.status == 200 && answer.text() == "key" {
            Ok(())
        } else {
            Err(answer.head)
        }
    })
    .await;
}

#[test]
fn a_solver_is_reached_in_plain_before_any_redirect_and_nothing_else_is() {
    on_the_cluster(async |control_plane| {
        let chat = Namespace::new(control_plane).await;
        let host = chat.host();
        let holdfast = start(&chat).await;
        redirects(&holdfast, &host, TOKEN).await;

        let ingress_of_new = ingress(&chat, &host);
        chat.apply(&ingress_of_new).await;
        let _solver = apply_solver(&chat).await;
        until_answered(&holdfast, &host).await;
        for path in [
            "/",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/other",
            &format!("{TOKEN}/more"),
        ] {
            let answer = holdfast.plain(&host, path).await;
            assert_eq!(outcome(&answer), (308, Some("redirected_to_https")), "{path}");
        }
        let answer = holdfast.plain("other.example.com", TOKEN).await;
        assert_eq!(outcome(&answer), (404, Some("no_route")));

        // Once the certificate is there cert-manager takes it away.
        chat.delete(&ingress_of_new).await;
        redirects(&holdfast, &host, TOKEN).await;

        // An issuer that names the class as it was done before; newer releases ask for the exact path.
        let mut of_old = ingress_of_new.clone();
        of_old["spec"]["ingressClassName"].take();
        of_old["spec"]["rules"][0]["http"]["paths"][0]["pathType"] = json!("Exact");
        of_old["metadata"]["annotations"]["kubernetes.io/ingress.class"] = json!(chat.class());
        chat.apply(&of_old).await;
        until_answered(&holdfast, &host).await;
        let mut of_others = ingress_of_new.clone();
        of_others["spec"]["ingressClassName"] = json!("nginx");
        chat.apply(&of_others).await;
        redirects(&holdfast, &host, TOKEN).await;
    });
}

#[test]
fn who_does_not_own_a_host_gets_no_challenge_of_it_answered_and_an_ingress_without_the_label_is_nobodys() {
    on_the_cluster(async |control_plane| {
        let (chat, other) = (Namespace::new(control_plane).await, Namespace::new(control_plane).await);
        let host = chat.host();
        let holdfast = start(&chat).await;
        let mut stolen = ingress(&chat, &host);
        stolen["metadata"]["namespace"] = json!(other.name());
        let _solver = apply_solver(&other).await;
        other.apply(&stolen).await;
        holdfast
            .said(&["its challenge is not answered", "is owned by namespace", chat.name()])
            .await;
        redirects(&holdfast, &host, TOKEN).await;
        // Nor of a host below a wildcard that somebody else owns.
        let mut wide = chat.route("wide", "/", "chat");
        wide["spec"]["hostnames"] = json!([format!("*.wide.{host}")]);
        chat.apply(&wide).await;
        chat.until_condition("wide", "Programmed", "True", "Programmed").await;
        stolen["metadata"]["name"] = json!("cm-acme-http-solver-wide");
        stolen["spec"]["rules"][0]["host"] = json!(format!("x.wide.{host}"));
        other.apply(&stolen).await;
        holdfast
            .said(&[
                "its challenge is not answered",
                &format!("x.wide.{host} is owned by namespace"),
            ])
            .await;

        let mut unlabelled = ingress(&chat, &host);
        unlabelled["metadata"]["labels"].take();
        let _solver = apply_solver(&chat).await;
        chat.apply(&unlabelled).await;
        // What comes later is in effect, so this would be too.
        let mut labelled = ingress(&chat, &format!("later.{host}"));
        labelled["metadata"]["name"] = json!("cm-acme-http-solver-later");
        chat.apply(&labelled).await;
        until_answered(&holdfast, &format!("later.{host}")).await;
        redirects(&holdfast, &host, TOKEN).await;
    });
}
