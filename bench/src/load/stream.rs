//! A client's connection, with or without TLS, for a poller: it never waits.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection};

use crate::certificate;

/// Where tunnels are opened.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// `None`: without TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

impl Target {
    /// What clients call it.
    pub fn host(&self) -> String {
        match self.tls {
            None => self.address.to_string(),
            Some(_) => certificate::HOST.to_owned(),
        }
    }
}

pub struct Stream {
    socket: TcpStream,
    session: Option<Box<ClientConnection>>,
}

impl Stream {
    pub fn new(socket: TcpStream, target: &Target) -> io::Result<Self> {
        let session = target.tls.as_ref().map(|config| {
            let name = certificate::HOST.try_into().map_err(io::Error::other)?;
            ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
        });
        Ok(Self {
            socket,
            session: session.transpose()?.map(Box::new),
        })
    }

    /// Whether the socket has yet to take something that [`Write::write`] took.
    pub fn is_behind(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.wants_write())
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.socket.read(buffer);
        };
        if session.read_tls(&mut self.socket)? == 0 {
            return Ok(0);
        }
        session.process_new_packets().map_err(io::Error::other)?;
        push(session, &mut self.socket)?;
        session.reader().read(buffer)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &mut self.session else {
            return self.socket.write(bytes);
        };
        let taken = session.writer().write(bytes)?;
        push(session, &mut self.socket)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.session {
            Some(session) => push(session, &mut self.socket),
            None => Ok(()),
        }
    }
}

/// Writes what the socket takes.
fn push(session: &mut ClientConnection, socket: &mut TcpStream) -> io::Result<()> {
    while session.wants_write() {
        match session.write_tls(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
