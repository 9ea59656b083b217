//! Kept connections to endpoints, for plain requests. One pool per worker, bounded in number and age.

use std::{cell::RefCell, collections::HashMap, error::Error as _, io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::{
    proxy::{
        error::Reason,
        select::Chosen,
        socket,
        upstream::{self, Dialled},
        worker::Worker,
    },
    routing::{BackendTls, Endpoint, endpoint::Held},
};

/// The kept connections.
#[derive(Debug, Default)]
pub struct Pool(RefCell<HashMap<SocketAddr, Vec<Kept>>>);

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Incoming>,
    /// How it was made secure: a rule that says something else does not use it.
    tls: BackendTls,
    since: Instant,
}

impl Pool {
    /// Sends a request to the first candidate that takes it. One that was kept may have been closed meanwhile by its endpoint:
    /// then, and only if nothing of the request was sent, a fresh one is dialled.
    ///
    /// # Errors
    /// Why no answer came.
    pub async fn send(
        &self,
        worker: &Rc<Worker>,
        chosen: &Chosen,
        mut request: Request<Incoming>,
    ) -> Result<(Response<Incoming>, Held, SocketAddr), Reason> {
        if let Some(first) = chosen.candidates.first() {
            let (endpoint, tls) = (first.hold(), chosen.rule.tls(first));
            while let Some((mut sender, address)) = self.take(first, tls) {
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        keep_when_ready(worker, address, sender, tls.clone());
                        return Ok((response, endpoint, address));
                    }
                    Err(mut error) => request = error.take_message().ok_or(Reason::EndpointClosed)?,
                }
            }
        }
        let dialled = upstream::dial(worker, chosen, &chosen.candidates).await?;
        let address = dialled.address;
        // Nothing else would notice an endpoint that vanishes in the middle of an answer. A socket that is gone needs it not.
        let _ = socket::keep_alive(dialled.socket.tcp(), &worker.shared.settings.endpoint_keepalive);
        let Dialled {
            socket, endpoint, tls, ..
        } = dialled;
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
            .await
            .map_err(|_| Reason::EndpointProtocolError)?;
        tokio::task::spawn_local(connection); // its errors come out of the sender
        let response = sender.send_request(request).await.map_err(|error| {
            let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
            match cause {
                _ if error.is_parse() => Reason::EndpointProtocolError,
                Some(cause) => upstream::broke(tls.as_deref(), &endpoint, address, cause),
                None => Reason::EndpointClosed,
            }
        })?;
        keep_when_ready(worker, address, sender, tls.map_or(BackendTls::Off, BackendTls::On));
        Ok((response, endpoint, address))
    }

    /// Drops what has been kept for too long.
    pub fn expire(&self) {
        self.0.borrow_mut().retain(|_, kept| {
            kept.retain(Kept::is_fresh);
            !kept.is_empty()
        });
    }

    fn take(&self, endpoint: &Arc<Endpoint>, tls: &BackendTls) -> Option<(SendRequest<Incoming>, SocketAddr)> {
        let mut pool = self.0.borrow_mut();
        for address in endpoint.addresses().iter() {
            let Some(kept) = pool.get_mut(address) else { continue };
            while let Some(at) = kept.iter().rposition(|kept| kept.tls == *tls) {
                let kept = kept.swap_remove(at);
                if kept.is_fresh() {
                    return Some((kept.sender, *address));
                }
            }
        }
        None
    }

    fn keep(&self, address: SocketAddr, sender: SendRequest<Incoming>, tls: BackendTls) {
        let mut pool = self.0.borrow_mut();
        if pool.len() < MAX_ENDPOINTS || pool.contains_key(&address) {
            let kept = pool.entry(address).or_default();
            if kept.len() < MAX_PER_ENDPOINT {
                kept.push(Kept {
                    sender,
                    tls,
                    since: Instant::now(),
                });
            }
        }
    }
}

impl Kept {
    fn is_fresh(&self) -> bool {
        self.sender.is_ready() && self.since.elapsed() < MAX_IDLE
    }
}

/// Puts a connection into the pool once the answer's body has passed.
fn keep_when_ready(worker: &Rc<Worker>, address: SocketAddr, mut sender: SendRequest<Incoming>, tls: BackendTls) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        if sender.ready().await.is_ok() {
            worker.pool.keep(address, sender, tls);
        }
    });
}

/// Less than the five seconds after which Node.js, the commonest endpoint, closes a silent connection.
const MAX_IDLE: Duration = Duration::from_secs(4);

const MAX_PER_ENDPOINT: usize = 64;

const MAX_ENDPOINTS: usize = 1024;
