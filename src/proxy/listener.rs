//! Accepts connections, and hands them to the worker that holds the fewest.

use std::{io, net::SocketAddr, rc::Rc, sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use super::{Admitted, Shared, connection, metrics::Padded, worker::Worker};

/// A fresh socket on its way to another worker.
#[derive(Debug)]
pub struct Handed {
    socket: std::net::TcpStream,
    peer: SocketAddr,
    is_secure: bool,
    admitted: Admitted,
}

/// The workers' doors.
pub type Doors = Vec<mpsc::Sender<Handed>>;

/// Accepts what comes in plain and what comes with TLS, each on a task of its own.
pub fn accept_all(worker: &Rc<Worker>, plain: TcpListener, secure: Option<TcpListener>, doors: &Doors) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn_local(accept(Rc::clone(worker), plain, false, doors.clone()));
    if let Some(secure) = secure {
        tasks.spawn_local(accept(Rc::clone(worker), secure, true, doors.clone()));
    }
    tasks
}

/// Accepts until the runtime ends. Errors of one connection are passed over; those of the process are waited out. Who comes
/// before there is a table waits in the kernel's queue: an early 404 would be a lie.
async fn accept(worker: Rc<Worker>, listener: TcpListener, is_secure: bool, doors: Doors) {
    while worker.shared.published.load().generation == 0 && !worker.shared.drain.is_closing() {
        sleep(Duration::from_millis(5)).await;
    }
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => place(&worker, socket, peer, is_secure, &doors),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                worker.shared.metrics.shared().accept_errors.fetch_add(1, Relaxed);
                tracing::error!(%error, "cannot accept connections; waiting 100 ms");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Takes what other workers hand over.
pub async fn receive(worker: Rc<Worker>, mut door: mpsc::Receiver<Handed>) {
    while let Some(handed) = door.recv().await {
        if let Ok(socket) = TcpStream::from_std(handed.socket) {
            start(&worker, socket, handed.peer, handed.is_secure, handed.admitted);
        }
    }
}

fn place(worker: &Rc<Worker>, socket: TcpStream, peer: SocketAddr, is_secure: bool, doors: &Doors) {
    let Some(admitted) = Admitted::new(&worker.shared) else {
        worker.shared.metrics.shared().accept_errors.fetch_add(1, Relaxed);
        return;
    };
    let target = least_loaded(&worker.shared, worker.index);
    if target == worker.index {
        return start(worker, socket, peer, is_secure, admitted);
    }
    let Ok(socket) = socket.into_std() else { return };
    let handed = Handed {
        socket,
        peer,
        is_secure,
        admitted,
    };
    let Some(refused) = doors.get(target).and_then(|door| door.try_send(handed).err()) else {
        return;
    };
    let handed = refused.into_inner();
    if let Ok(socket) = TcpStream::from_std(handed.socket) {
        start(worker, socket, handed.peer, handed.is_secure, handed.admitted);
    }
}

/// The worker that a socket accepted by `own` goes to: another one only if that holds clearly less.
fn least_loaded(shared: &Shared, own: usize) -> usize {
    let load = |index: usize| {
        shared
            .metrics
            .worker_connections
            .get(index)
            .map_or(u64::MAX, |Padded(count)| count.load(Relaxed))
    };
    let (mut least, own_load) = (own, load(own));
    for index in 0..shared.workers {
        if load(index) < load(least) {
            least = index;
        }
    }
    if own_load > load(least) + CLEARLY.max(load(least) / 20) {
        least
    } else {
        own
    }
}

fn start(worker: &Rc<Worker>, socket: TcpStream, peer: SocketAddr, is_secure: bool, mut admitted: Admitted) {
    admitted.count_on(worker.index);
    tokio::task::spawn_local(connection::serve(Rc::clone(worker), socket, peer, is_secure, admitted));
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Connections by which workers may differ before a socket is handed over.
const CLEARLY: u64 = 8;
