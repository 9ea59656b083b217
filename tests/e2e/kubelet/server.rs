//! The kubelet's own HTTPS server, which the API server asks for `kubectl logs` and for port-forwards.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tokio_rustls::TlsAcceptor;

use super::{
    container::{Container, Line},
    forward::forward,
    node::Node,
};
use crate::network::connect_inside;

/// Where a kubelet is asked, on its node's address.
pub const PORT: u16 = 10250;

/// Serves for as long as the node is there.
pub async fn serve(ip: Ipv4Addr, node: Weak<Node>) {
    let listener = TcpListener::bind((ip, PORT)).await.expect("no address for a kubelet");
    let acceptor = TlsAcceptor::from(Arc::new(certificate(ip)));
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let (acceptor, node) = (acceptor.clone(), node.clone());
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(socket).await else { return };
            let service = service_fn(|request| {
                let node = node.clone();
                async { Ok::<_, Infallible>(answer(request, node).await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.with_upgrades().await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The API server of the tests looks at nobody's certificate.
fn certificate(ip: Ipv4Addr) -> ServerConfig {
    let made = rcgen::generate_simple_self_signed([ip.to_string()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    config.with_single_cert(vec![made.cert.der().clone()], key).unwrap()
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>, node: Weak<Node>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let query = query(request.uri().query().unwrap_or_default());
    let Some(node) = node.upgrade() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "the node is gone");
    };
    match parts[..] {
        ["containerLogs", namespace, pod, container] => {
            let pod = node.pod(namespace, pod);
            let Some(container) = pod.as_ref().and_then(|pod| pod.container(container)) else {
                return refusal(StatusCode::NOT_FOUND, "there is no such container");
            };
            logs(Arc::clone(container), &query)
        }
        ["portForward", namespace, pod, ..] => {
            let pod = node.pod(namespace, pod);
            let Some(place) = pod.as_ref().and_then(|pod| pod.place()) else {
                return refusal(StatusCode::NOT_FOUND, "there is no such pod");
            };
            let network = place.network();
            let ports = query.iter().filter(|(name, _)| name == "port");
            let ports = ports.flat_map(|(_, ports)| ports.split(','));
            let ports = ports.filter_map(|port| port.parse().ok()).collect();
            let connect = move |port| connect_inside(network, SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            match forward(request, ports, connect) {
                Ok(switching) => switching.map(|()| Full::default().boxed_unsync()),
                Err(why) => refusal(StatusCode::BAD_REQUEST, why),
            }
        }
        _ => refusal(StatusCode::NOT_FOUND, "this kubelet knows containerLogs and portForward"),
    }
}

fn refusal(status: StatusCode, text: &str) -> Answer {
    let mut answer = Response::new(Full::from(format!("{text}\n")).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

fn logs(container: Arc<Container>, query: &[(String, String)]) -> Answer {
    let value = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let (follow, with_times) = (value("follow") == Some("true"), value("timestamps") == Some("true"));
    let previous = value("previous") == Some("true");
    let run = container.state().restarts - i32::from(previous);
    let text = move |line: Line| {
        let time = if with_times { format!("{} ", line.at) } else { String::new() };
        format!("{time}{}\n", line.text)
    };
    let is_of = move |line: &Line| !line.is_event && line.run == run;
    let lines: Vec<Line> = container.log().lines();
    let skipped = match value("tailLines").and_then(|lines| lines.parse::<usize>().ok()) {
        Some(tail) => lines.iter().filter(|line| is_of(line)).count().saturating_sub(tail),
        None => 0,
    };
    let seen = lines.len();
    let now: String = lines.into_iter().filter(is_of).skip(skipped).map(text).collect();
    if !follow {
        return Response::new(Full::from(now).boxed_unsync());
    }
    let first = stream::once(async { Ok(Frame::data(Bytes::from(now))) });
    let rest = stream::unfold((container, seen), move |(container, seen)| async move {
        loop {
            let over = !container.is_running();
            let lines = container.log().lines();
            let new: String = lines[seen..].iter().filter(|line| is_of(line)).cloned().map(text).collect();
            if !new.is_empty() {
                return Some((Ok(Frame::data(Bytes::from(new))), (container, lines.len())));
            }
            if over {
                return None;
            }
            sleep(LOOK).await;
        }
    });
    Response::new(StreamBody::new(first.chain(rest)).boxed_unsync())
}

/// Names and values, for which nothing is decoded.
fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.replace("%2C", ",")))
        .collect()
}

/// How often it is looked whether there is more to follow.
const LOOK: Duration = Duration::from_millis(100);
