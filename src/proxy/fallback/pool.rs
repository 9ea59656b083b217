//! Kept connections to endpoints, for plain requests. One pool per worker, bounded in number and age.

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::{
    proxy::{error::Reason, select::Chosen, socket, upstream, worker::Worker},
    routing::{Endpoint, endpoint::Held},
};

/// The kept connections.
#[derive(Debug, Default)]
pub struct Pool(RefCell<HashMap<SocketAddr, Vec<Kept>>>);

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Incoming>,
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
            let endpoint = first.hold();
            while let Some((mut sender, address)) = self.take(first) {
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        keep_when_ready(worker, address, sender);
                        return Ok((response, endpoint, address));
                    }
                    Err(mut error) => request = error.take_message().ok_or(Reason::EndpointClosed)?,
                }
            }
        }
        let dialled = upstream::dial(&worker.shared, &chosen.candidates, chosen.rule.timeouts.connect).await?;
        let address = dialled.address;
        // Nothing else would notice an endpoint that vanishes in the middle of an answer. A socket that is gone needs it not.
        let _ = socket::keep_alive(&dialled.socket, &worker.shared.settings.endpoint_keepalive);
        let (mut sender, connection) = http1::handshake(TokioIo::new(dialled.socket))
            .await
            .map_err(|_| Reason::EndpointProtocolError)?;
        tokio::task::spawn_local(connection); // its errors come out of the sender
        let response = sender.send_request(request).await.map_err(|error| match error.is_parse() {
            true => Reason::EndpointProtocolError,
            false => Reason::EndpointClosed,
        })?;
        keep_when_ready(worker, address, sender);
        Ok((response, dialled.endpoint, address))
    }

    /// Drops what has been kept for too long.
    pub fn expire(&self) {
        self.0.borrow_mut().retain(|_, kept| {
            kept.retain(Kept::is_fresh);
            !kept.is_empty()
        });
    }

    fn take(&self, endpoint: &Arc<Endpoint>) -> Option<(SendRequest<Incoming>, SocketAddr)> {
        let mut pool = self.0.borrow_mut();
        for address in endpoint.addresses().iter() {
            while let Some(kept) = pool.get_mut(address).and_then(Vec::pop) {
                if kept.is_fresh() {
                    return Some((kept.sender, *address));
                }
            }
        }
        None
    }

    fn keep(&self, address: SocketAddr, sender: SendRequest<Incoming>) {
        let mut pool = self.0.borrow_mut();
        if pool.len() < MAX_ENDPOINTS || pool.contains_key(&address) {
            let kept = pool.entry(address).or_default();
            if kept.len() < MAX_PER_ENDPOINT {
                kept.push(Kept {
                    sender,
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
fn keep_when_ready(worker: &Rc<Worker>, address: SocketAddr, mut sender: SendRequest<Incoming>) {
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        if sender.ready().await.is_ok() {
            worker.pool.keep(address, sender);
        }
    });
}

/// Less than the five seconds after which Node.js, the commonest endpoint, closes a silent connection.
const MAX_IDLE: Duration = Duration::from_secs(4);

const MAX_PER_ENDPOINT: usize = 64;

const MAX_ENDPOINTS: usize = 1024;
