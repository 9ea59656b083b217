//! TLS towards endpoints: from a fresh TCP connection to a secure one, or to the reason why there is none.

use std::{future::poll_fn, io, rc::Rc, sync::Arc};

use rustls::Error;
use tokio::net::TcpStream;

use super::gate::Step;
use super::{Connection as _, Gate, Scratch, Session as _, Tls, ToEndpoint, handshake::has_record};
use crate::{proxy::error::Reason, routing::EndpointTls};

/// Makes the connections of one worker to its endpoints secure, and holds what all its TLS connections share.
#[derive(Debug, Default)]
pub struct Connector {
    pub(super) scratch: Rc<Scratch>,
    pub(super) gate: Rc<Gate>,
}

impl Connector {
    /// Does the handshake on a fresh connection. Nobody waits for ever only if the caller does not.
    ///
    /// # Errors
    /// Why there is no secure connection, for [`reason`]; the endpoint has been told by an alert where there is one for it.
    pub async fn connect(&self, socket: TcpStream, tls: &EndpointTls) -> io::Result<Box<Tls<ToEndpoint>>> {
        let session = ToEndpoint::new(Arc::clone(tls.config()), tls.name().clone()).map_err(io::Error::other)?;
        let mut tls = Box::new(Tls::new(socket, session, Rc::clone(&self.scratch), &[]));
        tls.shake_hands(&self.gate).await?;
        Ok(tls)
    }
}

impl Tls<ToEndpoint> {
    async fn shake_hands(&mut self, gate: &Rc<Gate>) -> io::Result<()> {
        loop {
            gate.pass(Step::Later).await; // the client's handshake has begun long ago
            let mut incoming = std::mem::take(&mut self.partial);
            let result = self.take_in(&mut incoming, &mut []);
            // Everything is sent before anything is waited for: the endpoint waits too.
            let sent = poll_fn(|cx| self.poll_send(cx)).await;
            result?;
            sent?;
            if !self.session.state().is_handshaking() {
                return Ok(());
            }
            if self.has_ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read_more().await?;
            while !has_record(&self.partial) {
                self.read_more().await?;
            }
        }
    }
}

/// What a handshake that failed means to the client.
pub fn reason(error: &io::Error) -> Reason {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => Reason::EndpointCertificate,
        Some(Error::AlertReceived(_)) => Reason::EndpointTlsAlert,
        Some(_) => Reason::EndpointTlsError,
        None if error.kind() == io::ErrorKind::InvalidData => Reason::EndpointTlsError,
        None => Reason::EndpointClosed,
    }
}
