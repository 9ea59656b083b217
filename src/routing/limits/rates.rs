//! How far each client is ahead of its pace: one bounded table for all routes of a process.
//!
//! Only handshakes of routes with a rate come here, each takes one lock of 64 for a moment. A client is a hash; whether it is
//! remembered longer than its debt lasts makes no difference, so what is paid off goes first. A table that is full forgets,
//! of a few, the client that would have been the first to be forgotten: it gets its burst anew. Those far ahead stay.

use std::{
    num::NonZeroU64,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::routing::rate::Rate;

/// The table.
#[derive(Debug)]
pub struct Rates {
    shards: Box<[Shard]>,
    evicted: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Shard(Mutex<Slots>);

/// One part of the table: clients by open addressing.
#[derive(Debug, Default)]
struct Slots {
    /// A power of two of them, at most [`MAX_SLOTS`].
    slots: Vec<Slot>,
    used: usize,
    /// Where a full table looks for somebody to forget.
    hand: usize,
}

/// A client, and when it will have caught up. A client of 0 is none.
type Slot = [u64; 2];

impl Default for Rates {
    fn default() -> Self {
        Self::of_shards(SHARDS)
    }
}

impl Rates {
    fn of_shards(count: usize) -> Self {
        Self {
            shards: (0..count).map(|_| Shard::default()).collect(),
            evicted: AtomicU64::new(0),
        }
    }

    /// Counts a handshake of a client. `now`: nanoseconds on a clock that only goes forward.
    ///
    /// # Errors
    /// It is too early; the time after which it would not be.
    pub fn admit(&self, client: NonZeroU64, rate: &Rate, now: u64) -> Result<(), Duration> {
        let client = client.get();
        let mut slots = self.shard(client);
        if let Some([_, caught_up]) = slots.find(client) {
            *caught_up = rate.admit(*caught_up, now)?;
            return Ok(());
        }
        let caught_up = rate.admit(0, now)?;
        if slots.insert([client, caught_up], now) {
            self.evicted.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Handshakes that a client may begin at once; nothing is counted.
    ///
    /// # Errors
    /// None; the time after which it may begin one.
    pub fn left(&self, client: NonZeroU64, rate: &Rate, now: u64) -> Result<u64, Duration> {
        let client = client.get();
        let caught_up = self.shard(client).find(client).map_or(0, |slot| slot[1]);
        rate.admit(caught_up, now).map(|_| rate.left(caught_up, now))
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.each(|slots| slots.used)
    }

    /// Clients that were forgotten too early, because the table was full.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// What the table takes: at most 32 MiB, with room for a million and a half clients.
    pub fn bytes(&self) -> usize {
        self.each(|slots| slots.slots.capacity() * size_of::<Slot>())
    }

    fn each(&self, of: impl Fn(&Slots) -> usize) -> usize {
        self.shards.iter().map(|shard| of(&shard.lock())).sum()
    }

    fn shard(&self, client: u64) -> MutexGuard<'_, Slots> {
        // Slots are found by the lower bits.
        self.shards[(client >> 32) as usize % self.shards.len()].lock()
    }
}

impl Shard {
    /// A panic elsewhere spoils nothing here.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    fn find(&mut self, client: u64) -> Option<&mut Slot> {
        let at = self.place(client)?;
        Some(&mut self.slots[at]).filter(|slot| slot[0] == client)
    }

    /// Where a client is, or would be. `None`: there is no slot at all.
    fn place(&self, client: u64) -> Option<usize> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = client as usize & mask;
        // There always is a free slot.
        while self.slots[at][0] != client && self.slots[at][0] != 0 {
            at = (at + 1) & mask;
        }
        Some(at)
    }

    /// Adds a client that is not there. True: another one was forgotten too early for it.
    fn insert(&mut self, new: Slot, now: u64) -> bool {
        let is_early = self.used >= most(self.slots.len()) && self.make_room(now);
        if let Some(at) = self.place(new[0]) {
            self.slots[at] = new;
            self.used += 1;
        }
        is_early
    }

    /// Makes room for one more. True: somebody was forgotten too early for it.
    fn make_room(&mut self, now: u64) -> bool {
        if self.slots.len() < MAX_SLOTS {
            self.rebuild(now);
            return false;
        }
        loop {
            let (paid_off, first) = self.look(now);
            if paid_off >= WINDOW / 4 {
                self.rebuild(now); // worth a look at all of them
                return false;
            }
            // Windows fill by chance and are emptied in turn, so that one may have nobody left; a full table has others.
            if let Some((caught_up, at)) = first {
                self.remove(at);
                return caught_up > now;
            }
        }
    }

    /// Looks at the next window: how many have caught up there, and who will be the first to, and where.
    fn look(&mut self, now: u64) -> (usize, Option<(u64, usize)>) {
        let mask = self.slots.len() - 1;
        let (mut paid_off, mut first) = (0, None::<(u64, usize)>);
        for at in (0..WINDOW).map(|step| (self.hand + step) & mask) {
            let [client, caught_up] = self.slots[at];
            if client == 0 {
                continue;
            }
            paid_off += usize::from(caught_up <= now);
            if first.is_none_or(|(least, _)| caught_up < least) {
                first = Some((caught_up, at));
            }
        }
        self.hand = (self.hand + WINDOW) & mask;
        (paid_off, first)
    }

    /// Keeps those who have not caught up, in twice the room that they need.
    fn rebuild(&mut self, now: u64) {
        let is_kept = |slot: &&Slot| slot[0] != 0 && slot[1] > now;
        let kept = self.slots.iter().filter(is_kept).count();
        let mut slots = MIN_SLOTS;
        while slots < MAX_SLOTS && most(slots) < 2 * kept {
            slots *= 2;
        }
        let old = std::mem::replace(&mut self.slots, vec![[0; 2]; slots]);
        self.used = kept;
        for slot in old.iter().filter(is_kept) {
            if let Some(at) = self.place(slot[0]) {
                self.slots[at] = *slot;
            }
        }
    }

    /// Removes one, and moves those behind it that would not be found any more.
    fn remove(&mut self, mut hole: usize) {
        let mask = self.slots.len() - 1;
        let mut at = (hole + 1) & mask;
        while self.slots[at][0] != 0 {
            let home = self.slots[at][0] as usize & mask;
            // Whether the way from its home to where it is leads over the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = (at + 1) & mask;
        }
        self.slots[hole] = [0; 2];
        self.used -= 1;
    }
}

/// Clients that so many slots may hold: a quarter stays free, so that ways are short.
fn most(slots: usize) -> usize {
    slots / 4 * 3
}

const SHARDS: usize = 64;
const MIN_SLOTS: usize = 16;
/// Of each part: 512 KiB.
const MAX_SLOTS: usize = 1 << 15;
/// Slots in which a full table looks for somebody to forget.
const WINDOW: usize = 32;

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, hash::BuildHasher};

    use proptest::prelude::*;

    use super::*;

    fn rate(requests: u32, seconds: u64, burst: u32) -> Rate {
        Rate::new(requests, Duration::from_secs(seconds), burst)
    }

    /// Hashes as clients have them.
    fn clients(from: u64) -> impl Iterator<Item = NonZeroU64> {
        let state = std::hash::RandomState::new();
        (from..).filter_map(move |number| NonZeroU64::new(state.hash_one(number)))
    }

    const HOUR: u64 = 3600 * 1_000_000_000;

    #[test]
    fn a_million_clients_are_all_remembered_within_32_mib() {
        let rates = Rates::default();
        let rate = rate(1, 3600, 1);
        let million: Vec<_> = clients(0).take(1_000_000).collect();
        for client in &million {
            assert_eq!(rates.admit(*client, &rate, 1), Ok(()));
        }
        for client in &million {
            assert!(rates.admit(*client, &rate, 2).is_err());
        }
        assert_eq!((rates.clients(), rates.evicted()), (1_000_000, 0));
        assert!(rates.bytes() <= 32 << 20, "{}", rates.bytes());
    }

    #[test]
    fn a_full_table_forgets_those_who_owe_least() {
        const SHARDS: usize = 2;
        let room = SHARDS * most(MAX_SLOTS);
        let rates = Rates::of_shards(SHARDS);
        let (patient, hasty) = (rate(1, 3600, 1), rate(1, 1, 1));
        let worst: Vec<_> = clients(0).take(room / 10).collect();
        for client in &worst {
            assert_eq!(rates.admit(*client, &patient, 1), Ok(()));
        }
        // Who is forgotten is looked for in a part of the table, in which now and then nobody owes little.
        let remembered = || {
            worst
                .iter()
                .filter(|client| rates.admit(**client, &patient, 3).is_err())
                .count()
        };
        let nearly_all = worst.len() * 99 / 100;
        for client in clients(0).take(3 * room) {
            assert_eq!(rates.admit(client, &hasty, 2), Ok(()));
        }
        assert!(rates.evicted() > room as u64, "{}", rates.evicted());
        assert!(rates.clients() <= room && rates.bytes() <= SHARDS * MAX_SLOTS * 16);
        assert!(remembered() >= nearly_all, "{} of {}", remembered(), worst.len());
        // Two seconds later all of the hasty have caught up, and nobody else is forgotten too early.
        let before = rates.evicted();
        for client in clients(0).take(room / 2) {
            assert_eq!(rates.admit(client, &hasty, 2_000_000_002), Ok(()));
        }
        assert_eq!(rates.evicted(), before);
        assert!(remembered() >= nearly_all, "{} of {}", remembered(), worst.len());
    }

    #[test]
    fn a_full_table_stays_within_its_bound_where_the_next_to_be_looked_at_are_none() {
        let mut slots = Slots {
            slots: vec![[0; 2]; MAX_SLOTS],
            used: 0,
            hand: 0,
        };
        let debtor = |client: usize| [client as u64, HOUR];
        for client in WINDOW..WINDOW + most(MAX_SLOTS) {
            assert!(!slots.insert(debtor(client), 0));
        }
        assert!(slots.slots[..WINDOW].iter().all(|slot| slot[0] == 0));
        for client in MAX_SLOTS..MAX_SLOTS + 3 * WINDOW {
            assert!(slots.insert(debtor(WINDOW + client), 0));
            assert_eq!(slots.used, most(MAX_SLOTS));
        }
    }

    #[test]
    fn a_table_shrinks_when_its_clients_have_caught_up() {
        let rates = Rates::of_shards(1);
        for client in clients(0).take(most(MAX_SLOTS)) {
            assert_eq!(rates.admit(client, &rate(1, 3600, 1), 1), Ok(()));
        }
        let full = rates.bytes();
        assert_eq!(rates.admit(NonZeroU64::MIN, &rate(1, 1, 1), 2 * HOUR), Ok(()));
        assert_eq!(rates.clients(), 1);
        assert!(full == MAX_SLOTS * 16 && rates.bytes() <= 1024, "{full} {}", rates.bytes());
    }

    #[test]
    fn an_empty_table_takes_nothing() {
        let rates = Rates::default();
        assert_eq!((rates.bytes(), rates.clients()), (0, 0));
        assert_eq!(rates.admit(NonZeroU64::MIN, &rate(1, 1, 1), 0), Ok(()));
        assert!(rates.bytes() <= 1024);
    }

    #[test]
    fn threads_together_get_what_one_would() {
        let rates = Rates::default();
        let rate = rate(1, 3600, 100);
        let clients: Vec<_> = clients(0).take(50).collect();
        let admitted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..60 {
                        for client in &clients {
                            admitted.fetch_add(u64::from(rates.admit(*client, &rate, 1).is_ok()), Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(admitted.into_inner(), 50 * 100);
    }

    proptest! {
        /// Few distinct homes, so that ways cross.
        #[test]
        fn slots_are_a_map(steps in prop::collection::vec((any::<bool>(), 0..64_u64), 1..400)) {
            let mut slots = Slots::default();
            let mut model = HashMap::new();
            for (time, (is_removed, number)) in (1_u64..).zip(steps) {
                let client = 1 + number % 8 + ((number / 8) << 20);
                let found = slots.find(client).copied();
                prop_assert_eq!(found, model.get(&client).map(|caught_up| [client, *caught_up]));
                if is_removed && found.is_some() {
                    let at = slots.place(client).unwrap();
                    slots.remove(at);
                    model.remove(&client);
                } else if let Some(slot) = slots.find(client) {
                    slot[1] = time + 1_000;
                    model.insert(client, time + 1_000);
                } else {
                    prop_assert!(!slots.insert([client, time + 1_000], time));
                    model.insert(client, time + 1_000);
                }
                prop_assert_eq!(slots.used, model.len());
            }
            for (client, caught_up) in model {
                prop_assert_eq!(slots.find(client).copied(), Some([client, caught_up]));
            }
        }
    }
}
