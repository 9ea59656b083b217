//! What a route and its clients hold: connections, counted exactly from before the dial to the end of the tunnel.
//!
//! A route's own count is kept whether or not anything limits it, so that a limit that is set later knows what is open.
//! Counts of clients are kept only where clients are limited; there are never more of them than open connections.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

/// The open connections of one route. It outlives tables, and the route, until its last connection has ended.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct RouteOpen {
    open: AtomicU32,
    clients: OnceLock<Box<[Mutex<Clients>]>>,
}

type Clients = HashMap<NonZeroU64, u32, BuildHasherDefault<AsItIs>>;

/// Whose places are all taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Route,
    Client,
}

/// One connection's share in its route's count, and in its client's if that is limited. Given back at drop.
#[derive(Debug)]
pub struct Place {
    route: Arc<RouteOpen>,
    client: Option<NonZeroU64>,
}

impl RouteOpen {
    /// Connections that hold a place.
    pub fn open(&self) -> u32 {
        self.open.load(Relaxed)
    }

    /// Connections that a client holds, where clients are counted.
    pub fn open_of(&self, client: NonZeroU64) -> u32 {
        let shard = self.clients.get().map(|shards| &shards[shard_of(client)]);
        shard.map_or(0, |shard| lock(shard).get(&client).copied().unwrap_or_default())
    }

    /// Clients that are counted.
    pub fn clients(&self) -> usize {
        let shards = self.clients.get().into_iter().flatten();
        shards.map(|shard| lock(shard).len()).sum()
    }

    /// Takes a place if fewer than `limit` are taken, and fewer than its own limit by the client, where there is one.
    ///
    /// # Errors
    /// There are as many already; nothing has changed.
    pub fn take(self: &Arc<Self>, limit: u32, client: Option<(NonZeroU64, u32)>) -> Result<Place, Full> {
        // Locked until both are taken, so that nobody is refused for what is given back at once.
        let mut clients = client.map(|(client, limit)| (self.of_client(client), client, limit));
        if let Some((clients, client, limit)) = &clients
            && clients.get(client).is_some_and(|open| open >= limit)
        {
            return Err(Full::Client);
        }
        let one_more = |open: u32| (open < limit).then(|| open.saturating_add(1));
        self.open.fetch_update(Relaxed, Relaxed, one_more).map_err(|_| Full::Route)?;
        if let Some((clients, client, _)) = &mut clients {
            *clients.entry(*client).or_default() += 1;
        }
        Ok(Place {
            route: Arc::clone(self),
            client: client.map(|(client, _)| client),
        })
    }

    fn of_client(&self, client: NonZeroU64) -> MutexGuard<'_, Clients> {
        let shards = self.clients.get_or_init(|| (0..SHARDS).map(|_| Mutex::default()).collect());
        lock(&shards[shard_of(client)])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.route.open.fetch_sub(1, Relaxed);
        let Some(client) = self.client else { return };
        let mut clients = self.route.of_client(client);
        if let Some(open) = clients.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                clients.remove(&client);
            }
        }
        if clients.capacity() > 4 * clients.len().max(64) {
            let twice = 2 * clients.len();
            clients.shrink_to(twice);
        }
    }
}

fn shard_of(client: NonZeroU64) -> usize {
    (client.get() >> 32) as usize % SHARDS
}

/// Nothing here leaves a map half changed, so a panic elsewhere does not spoil it.
fn lock(clients: &Mutex<Clients>) -> MutexGuard<'_, Clients> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is a hash already.
#[derive(Debug, Default)]
pub struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number << 32 | number).unwrap()
    }

    #[test]
    fn places_come_back() {
        let route = Arc::new(RouteOpen::default());
        let first = route.take(2, None).unwrap();
        let second = route.take(2, None).unwrap();
        assert_eq!(route.take(2, None).unwrap_err(), Full::Route);
        assert_eq!(route.open(), 2);
        assert!(route.take(3, None).is_ok(), "a wider limit counts on");
        drop(first);
        assert!(route.take(2, None).is_ok());
        drop(second);
        assert_eq!(route.open(), 0);
    }

    #[test]
    fn each_client_has_its_own_count() {
        let route = Arc::new(RouteOpen::default());
        let place = |number| route.take(10, Some((client(number), 2)));
        let (one, two, other) = (place(1).unwrap(), place(1).unwrap(), place(2).unwrap());
        assert_eq!(place(1).unwrap_err(), Full::Client);
        assert_eq!((route.clients(), route.open()), (2, 3), "a refused one holds nothing");
        assert_eq!(route.take(3, Some((client(3), 1))).unwrap_err(), Full::Route);
        assert_eq!((route.clients(), route.open()), (2, 3), "nor does this one");
        drop(one);
        assert!(place(1).is_ok());
        drop((two, other));
        assert_eq!((route.clients(), route.open()), (0, 0));
    }

    #[test]
    fn counts_take_no_more_room_than_connections() {
        let route = Arc::new(RouteOpen::default());
        let place = |number| route.take(u32::MAX, Some((client(number), 1))).unwrap();
        let capacity = || {
            let shards = route.clients.get().unwrap();
            shards.iter().map(|shard| lock(shard).capacity()).sum::<usize>()
        };
        let places: Vec<_> = (1..=100_000).map(place).collect();
        assert!(capacity() >= 100_000);
        drop(places);
        assert!(capacity() <= SHARDS * 512, "{}", capacity());
    }

    #[test]
    fn threads_together_take_no_more_than_there_is() {
        let route = Arc::new(RouteOpen::default());
        let taken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..400 {
                        let place = route.take(150, Some((client(1 + number % 4), 30)));
                        taken.lock().unwrap().extend(place.ok());
                    }
                });
            }
        });
        assert_eq!(taken.lock().unwrap().len(), 120, "four clients with 30 each");
        assert_eq!(route.open(), 120);
    }
}
