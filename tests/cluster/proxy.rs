//! Stands between Holdfast and an API server, and makes that a bad one for Holdfast alone.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{
    Client, Config,
    client::Body,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::control_plane::ControlPlane;

/// Passes everything on, as the administrator, unless there is a [`Fault`].
pub struct Proxy {
    /// With which Holdfast comes here.
    pub kubeconfig: PathBuf,
    fault: watch::Sender<Fault>,
    refused: Arc<AtomicUsize>,
    _accepting: JoinSet<()>,
}

/// What is wrong with the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// It ends every connection at once.
    Cut,
    /// Each answer comes so much later, and each piece of it a tenth of that.
    Slow(Duration),
    /// It ends the watches of this resource, and answers 429 to everything about it.
    Busy(&'static str),
}

impl Proxy {
    pub async fn start(control_plane: &ControlPlane) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let kubeconfig = Kubeconfig::read_from(control_plane.kubeconfig()).unwrap();
        let (fault, faults) = watch::channel(Fault::None);
        let refused = Arc::default();
        let relay = Relay {
            api_server: api_server(kubeconfig.clone()).await,
            fault: faults,
            refused: Arc::clone(&refused),
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(relay.clone().serve(socket));
            }
        });
        let file = control_plane.kubeconfig().with_file_name(format!("proxy-{}", address.port()));
        fs::write(&file, serde_saphyr::to_string(&leading_to(address, kubeconfig)).unwrap()).unwrap();
        Self {
            kubeconfig: file,
            fault,
            refused,
            _accepting: accepting,
        }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// How many requests were answered 429.
    pub fn refused(&self) -> usize {
        self.refused.load(Relaxed)
    }
}

impl Fault {
    fn is_busy(self, path: &str) -> bool {
        matches!(self, Self::Busy(resource) if path.split('/').any(|part| part == resource))
    }

    fn delay(self) -> Duration {
        match self {
            Self::Slow(delay) => delay,
            Self::None | Self::Cut | Self::Busy(_) => Duration::ZERO,
        }
    }
}

#[derive(Clone)]
struct Relay {
    api_server: Client,
    fault: watch::Receiver<Fault>,
    refused: Arc<AtomicUsize>,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, Failure>>;

impl Relay {
    async fn serve(self, socket: TcpStream) {
        let mut fault = self.fault.clone();
        let answer = service_fn(|request| self.clone().answer(request));
        tokio::select! {
            _ = http1::Builder::new().serve_connection(TokioIo::new(socket), answer) => {}
            _ = fault.wait_for(|fault| *fault == Fault::Cut) => {}
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Answer, Failure> {
        let path = request.uri().path().to_owned();
        let fault = *self.fault.borrow();
        if fault.is_busy(&path) {
            self.refused.fetch_add(1, Relaxed);
            return Ok(too_many_requests());
        }
        sleep(fault.delay()).await;
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        let answer = self.api_server.send(Request::from_parts(head, body.into())).await?;
        Ok(answer.map(|body| self.relay(body, path)))
    }

    /// Piece by piece, as a watch needs it.
    fn relay(self, body: Body, path: String) -> UnsyncBoxBody<Bytes, Failure> {
        let pieces = stream::unfold(Some((body, self.fault, path)), async |state| {
            let (mut body, mut fault, path) = state?;
            let piece: Result<Frame<Bytes>, Failure> = tokio::select! {
                piece = body.frame() => piece?.map_err(Failure::from),
                _ = fault.wait_for(|fault| fault.is_busy(&path)) => Err("too busy".into()),
            };
            let delay = fault.borrow().delay();
            sleep(delay / 10).await;
            let rest = piece.is_ok().then_some((body, fault, path));
            Some((piece, rest))
        });
        StreamBody::new(pieces).boxed_unsync()
    }
}

/// As the API server's own filters answer, which is not in JSON.
fn too_many_requests() -> Answer {
    let text = Full::from("Too many requests, please try again later.\n");
    Response::builder()
        .status(429)
        .header("retry-after", "1")
        .body(text.map_err(|never| match never {}).boxed_unsync())
        .unwrap()
}

async fn api_server(kubeconfig: Kubeconfig) -> Client {
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// The same kubeconfig for somebody who comes to the proxy, which has credentials of its own.
fn leading_to(address: SocketAddr, mut kubeconfig: Kubeconfig) -> Kubeconfig {
    for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(format!("http://{address}"));
        cluster.certificate_authority = None;
    }
    for user in &mut kubeconfig.auth_infos {
        user.auth_info = Some(AuthInfo::default());
    }
    kubeconfig
}
