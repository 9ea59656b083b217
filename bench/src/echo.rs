//! The endpoint: completes handshakes and sends every message back, whole, as a real endpoint does. It must never be what is
//! measured: one thread, one read and one write per small message, no copy.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::failure::{Failure, Result};
use crate::frame::{CLOSE, Head};
use crate::handshake;
use crate::poller::{Poller, Ready};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where to listen
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9001")]
    listen: SocketAddr,
    /// Exit after so long, whatever happens
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    limit: u64,
}

pub fn run(args: &Args) -> Result<()> {
    Endpoint::bind(args.listen)?.serve(Instant::now() + Duration::from_secs(args.limit))
}

struct Endpoint {
    listener: TcpListener,
    poller: Poller,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    buffers: Buffers,
}

/// What connections share: read into first, and lent to those whose message did not arrive at once.
struct Buffers {
    scratch: Box<[u8]>,
    /// Each `MAX_MESSAGE` long.
    spare: Vec<Box<[u8]>>,
}

struct Connection {
    stream: TcpStream,
    open: bool,
    /// The start of a request or message that has not arrived whole: buffer, bytes in it.
    partial: Option<(Box<[u8]>, usize)>,
    /// What the socket refused. Nothing is read until it is gone.
    unsent: Vec<u8>,
}

/// What becomes of a connection after it was served.
enum Next {
    Read,
    Write,
    Drop,
}

impl Endpoint {
    fn bind(address: SocketAddr) -> Result<Self> {
        let listener = listen(address).map_err(|error| Failure::new(format_args!("listen on {address}"), error))?;
        let poller = Poller::new()?;
        poller.add(&listener, LISTENER)?;
        let buffers = Buffers {
            scratch: vec![0; SCRATCH].into(),
            spare: Vec::new(),
        };
        Ok(Self {
            listener,
            poller,
            connections: Vec::new(),
            free: Vec::new(),
            buffers,
        })
    }

    fn serve(mut self, deadline: Instant) -> Result<()> {
        while Instant::now() < deadline {
            let Some(ready) = self.poller.next(Some(Duration::from_secs(1)))? else {
                continue;
            };
            if ready.token == LISTENER {
                self.accept()?
            } else {
                self.connection(&ready)?
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(Failure::new("accept a connection", error)),
            };
            let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            prepared.map_err(|error| Failure::new("prepare a connection", error))?;
            let token = self.free.pop().unwrap_or(self.connections.len());
            self.poller.add(&stream, token)?;
            let connection = Some(Connection {
                stream,
                open: false,
                partial: None,
                unsent: Vec::new(),
            });
            match self.connections.get_mut(token) {
                Some(place) => *place = connection,
                None => self.connections.push(connection),
            }
        }
    }

    fn connection(&mut self, ready: &Ready) -> Result<()> {
        let Some(connection) = self.connections.get_mut(ready.token).and_then(Option::as_mut) else {
            return Ok(());
        };
        match connection.serve(&mut self.buffers).unwrap_or(Next::Drop) {
            Next::Read if ready.writable => self.poller.watch(&connection.stream, ready.token, false),
            Next::Write if !ready.writable => self.poller.watch(&connection.stream, ready.token, true),
            Next::Read | Next::Write => Ok(()),
            Next::Drop => {
                if let Some((buffer, _)) = connection.partial.take() {
                    self.buffers.give_back(buffer);
                }
                self.connections[ready.token] = None;
                self.free.push(ready.token);
                Ok(())
            }
        }
    }
}

impl Connection {
    fn serve(&mut self, buffers: &mut Buffers) -> io::Result<Next> {
        if !self.unsent.is_empty() {
            let sent = write(&self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
            return Ok(if self.unsent.is_empty() { Next::Read } else { Next::Write });
        }
        let mut next = Next::Read;
        if let Some((mut buffer, have)) = self.partial.take() {
            let Some(got) = read(&self.stream, &mut buffer[have..])? else {
                self.partial = Some((buffer, have));
                return Ok(Next::Read);
            };
            let used = self.take(&mut buffer[..have + got], got == 0, &mut next)?;
            buffer.copy_within(used..have + got, 0);
            match have + got - used {
                0 => buffers.give_back(buffer),
                rest => self.partial = Some((buffer, rest)),
            }
        } else {
            let Some(got) = read(&self.stream, &mut buffers.scratch)? else {
                return Ok(Next::Read);
            };
            let used = self.take(&mut buffers.scratch[..got], got == 0, &mut next)?;
            if used < got {
                let mut buffer = buffers.lend();
                buffer[..got - used].copy_from_slice(&buffers.scratch[used..got]);
                self.partial = Some((buffer, got - used));
            }
        }
        Ok(next)
    }

    /// Answers what is whole in `bytes`, and says how many that were.
    fn take(&mut self, bytes: &mut [u8], eof: bool, next: &mut Next) -> io::Result<usize> {
        if eof {
            *next = Next::Drop;
            return Ok(0);
        }
        let mut used = 0;
        if !self.open {
            let Some(head) = handshake::end_of_head(bytes) else {
                return Ok(0);
            };
            let answer = handshake::answer(&bytes[..head]).ok_or(ErrorKind::InvalidData)?;
            self.send(answer.as_bytes())?;
            self.open = true;
            used = head;
        }
        while let Some(head) = Head::parse(&bytes[used..]) {
            let start = used + head.size;
            if head.payload > MAX_MESSAGE - head.size {
                return Err(ErrorKind::InvalidData.into());
            }
            if start + head.payload > bytes.len() {
                break;
            }
            let end = start + head.payload;
            unmask(&mut bytes[start..end], head.key.ok_or(ErrorKind::InvalidData)?);
            let answer = Head::write_before(bytes, start, head.opcode, head.payload);
            self.send(&bytes[answer..end])?;
            used = end;
            if head.opcode == CLOSE {
                self.stream.shutdown(Shutdown::Write)?;
            }
        }
        if !self.unsent.is_empty() {
            *next = Next::Write;
        }
        Ok(used)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = if self.unsent.is_empty() {
            write(&self.stream, bytes)?
        } else {
            0
        };
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }
}

impl Buffers {
    fn lend(&mut self) -> Box<[u8]> {
        self.spare.pop().unwrap_or_else(|| vec![0; MAX_MESSAGE].into())
    }

    fn give_back(&mut self, buffer: Box<[u8]>) {
        if self.spare.len() < MAX_SPARE {
            self.spare.push(buffer);
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// `None` where there is nothing now.
fn read(mut stream: &TcpStream, into: &mut [u8]) -> io::Result<Option<usize>> {
    match stream.read(into) {
        Ok(got) => Ok(Some(got)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(0),
        done => done,
    }
}

fn unmask(payload: &mut [u8], key: [u8; 4]) {
    if key != [0; 4] {
        for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
    }
}

const LISTENER: usize = usize::MAX;
const SCRATCH: usize = 64 * 1024;
/// Longest message with its head; a longer one ends its connection.
const MAX_MESSAGE: usize = (1 << 20) + 1024;
const MAX_SPARE: usize = 256;
