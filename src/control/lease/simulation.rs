//! Two or three electors over one Lease, with everything that a network and clocks can do to them. What must hold: no two
//! lead at any instant, whatever happens; and while calls are answered, somebody leads soon after a leader's death.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    Timing,
    election::{Election, Outcome, Step},
    fake::{DURATION, RETRY, timing},
    record::Record,
};

/// How bad the network is.
#[derive(Clone, Copy, Debug)]
struct Network {
    /// Most milliseconds from a client to the server, and back again.
    delay: u64,
    /// Out of a hundred: calls that never arrive.
    lost_calls: u8,
    /// Out of a hundred: answers that never arrive.
    lost_answers: u8,
    /// Out of a hundred: calls that arrive much later than anybody waits for them.
    late_calls: u8,
}

/// What happens to an elector from outside.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is killed, and started again some seconds later.
    Crash(u64),
    /// It is told to go, and started again when it went.
    Retire,
    /// Its wall clock jumps, by seconds.
    Jump(i64),
    /// No call of it arrives for some seconds.
    CutOff(u64),
}

#[derive(Debug)]
enum Event {
    /// An elector looks what to do.
    Wake,
    /// A call arrives at the server.
    Arrive(Call),
    /// What a call came to is known.
    Answer {
        call: u64,
        outcome: Outcome,
        version: u64,
    },
    Happen(Fate),
    Start,
}

#[derive(Debug)]
struct Call {
    id: u64,
    step: Step,
    /// The version that is written over.
    over: u64,
    by: Duration,
    is_answered: bool,
}

struct World {
    timing: Timing,
    start: Instant,
    now: Duration,
    random: fastrand::Rng,
    network: Network,
    /// The Lease in the server, and its version; `None` before it is made.
    lease: Option<Record>,
    version: u64,
    electors: Vec<Elector>,
    /// By time, then in order.
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, (usize, Life, Event)>,
    count: u64,
    /// Since when nobody leads.
    leaderless: Option<Duration>,
    longest_leaderless: Duration,
    reigns: usize,
}

/// Events of a former life of an elector are void.
type Life = u64;

struct Elector {
    election: Option<Election>,
    life: Life,
    /// The call that is under way: its number and when it was sent.
    call: Option<(u64, Duration)>,
    /// The version that was last seen.
    version: u64,
    wall: SignedDuration,
    cut_off_until: Duration,
    led: bool,
}

impl World {
    fn new(electors: usize, timing: Timing, network: Network, seed: u64) -> Self {
        let mut world = Self {
            timing,
            start: Instant::now(),
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            network,
            lease: None,
            version: 0,
            electors: Vec::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            count: 0,
            leaderless: Some(Duration::ZERO),
            longest_leaderless: Duration::ZERO,
            reigns: 0,
        };
        for index in 0..electors {
            let wall = SignedDuration::from_secs(world.random.i64(-86_400..86_400));
            world.electors.push(Elector {
                election: None,
                life: 0,
                call: None,
                version: 0,
                wall,
                cut_off_until: Duration::ZERO,
                led: false,
            });
            let at = world.up_to(3000);
            world.plan(at, index, Event::Start);
        }
        world
    }

    fn up_to(&mut self, milliseconds: u64) -> Duration {
        Duration::from_micros(self.random.u64(0..=milliseconds * 1000))
    }

    /// Of one way: mostly short, else those who wait never meet those who hurry.
    fn delay(&mut self) -> Duration {
        let part = if self.random.u8(0..3) > 0 { 50 } else { 1 };
        self.up_to(self.network.delay / part)
    }

    fn plan(&mut self, after: Duration, who: usize, event: Event) {
        let life = self.electors[who].life;
        self.count += 1;
        self.queue.push(Reverse((self.now + after, self.count)));
        self.events.insert(self.count, (who, life, event));
    }

    fn run(&mut self, until: Duration) {
        while let Some(Reverse((at, _))) = self.queue.peek().copied() {
            if at > until {
                break;
            }
            let Some(Reverse((_, id))) = self.queue.pop() else { break };
            self.now = at;
            let (who, life, event) = self.events.remove(&id).unwrap();
            // What is on its way to the server arrives even if its sender is dead; fate looks for whoever lives.
            let is_void = life != self.electors[who].life && !matches!(event, Event::Arrive(_) | Event::Happen(_));
            if !is_void {
                self.go(who, event);
            }
            self.judge();
        }
        self.now = until;
        self.judge();
    }

    /// The invariant, at every instant at which anything happens.
    fn judge(&mut self) {
        let now = self.start + self.now;
        let mut leading = 0;
        for elector in &mut self.electors {
            let leads = elector.election.as_ref().is_some_and(|election| election.is_leading(now));
            leading += usize::from(leads);
            self.reigns += usize::from(leads && !elector.led);
            elector.led = leads;
        }
        assert!(leading <= 1, "{leading} lead at {:?}", self.now);
        match (leading, self.leaderless) {
            (0, None) => self.leaderless = Some(self.now),
            (0, Some(since)) => self.longest_leaderless = self.longest_leaderless.max(self.now - since),
            (_, Some(since)) => {
                self.longest_leaderless = self.longest_leaderless.max(self.now - since);
                self.leaderless = None;
            }
            (_, None) => {}
        }
    }

    fn go(&mut self, who: usize, event: Event) {
        match event {
            Event::Start => {
                let now = self.start + self.now;
                let elector = &mut self.electors[who];
                let me = format!("{who}_{}", elector.life);
                elector.election = Some(Election::new(me, self.timing, self.random.fork(), now));
                (elector.call, elector.version) = (None, 0);
                self.wake(who);
            }
            Event::Wake => self.wake(who),
            Event::Arrive(call) => self.arrive(who, call),
            Event::Answer { call, outcome, version } => {
                let now = self.start + self.now;
                let elector = &mut self.electors[who];
                let Some((_, sent)) = elector.call.take_if(|(id, _)| *id == call) else {
                    return;
                };
                if matches!(outcome, Outcome::Read(_) | Outcome::Written(_)) {
                    elector.version = version;
                }
                if let Some(election) = &mut elector.election {
                    election.took(self.start + sent, now, outcome);
                }
                self.wake(who);
            }
            Event::Happen(fate) => self.happen(who, fate),
        }
    }

    fn happen(&mut self, who: usize, fate: Fate) {
        let elector = &mut self.electors[who];
        match fate {
            Fate::Crash(seconds) => {
                elector.election = None;
                elector.life += 1;
                self.plan(Duration::from_secs(seconds), who, Event::Start);
            }
            Fate::Retire => {
                if let Some(election) = &mut elector.election {
                    election.retire(self.start + self.now);
                    elector.call = None; // the driver drops it
                    self.wake(who);
                }
            }
            Fate::Jump(seconds) => elector.wall += SignedDuration::from_secs(seconds),
            Fate::CutOff(seconds) => elector.cut_off_until = self.now + Duration::from_secs(seconds),
        }
    }

    /// What the driver does.
    fn wake(&mut self, who: usize) {
        let now = self.start + self.now;
        let elector = &mut self.electors[who];
        if elector.call.is_some() {
            return;
        }
        let Some(election) = &mut elector.election else { return };
        let wall = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000) + elector.wall;
        let wall = wall + SignedDuration::from_micros(i64::try_from(self.now.as_micros()).unwrap());
        match election.next(now, wall) {
            Step::Wait(until) => self.plan(until - now, who, Event::Wake),
            Step::Done => {
                elector.election = None;
                elector.life += 1;
                self.plan(Duration::from_secs(1), who, Event::Start);
            }
            step => {
                let by = election.patience(now) - self.start;
                let over = elector.version;
                self.count += 1;
                let id = self.count;
                self.electors[who].call = Some((id, self.now));
                self.send(
                    who,
                    Call {
                        id,
                        step,
                        over,
                        by,
                        is_answered: true,
                    },
                );
            }
        }
    }

    fn send(&mut self, who: usize, mut call: Call) {
        let failed = Event::Answer {
            call: call.id,
            outcome: Outcome::Failed,
            version: 0,
        };
        self.plan(call.by - self.now, who, failed); // void if an answer comes before
        let Network {
            lost_calls,
            lost_answers,
            late_calls,
            ..
        } = self.network;
        let is_lost = self.now < self.electors[who].cut_off_until || self.random.u8(0..100) < lost_calls;
        call.is_answered = self.random.u8(0..100) >= lost_answers;
        let after = match self.random.u8(0..100) < late_calls {
            true => self.up_to(40_000),
            false => self.delay(),
        };
        if !is_lost {
            self.plan(after, who, Event::Arrive(call));
        }
    }

    /// What the server does.
    fn arrive(&mut self, who: usize, call: Call) {
        let (outcome, version) = match (call.step, &self.lease) {
            (Step::Read, lease) => (Outcome::Read(lease.clone()), self.version),
            (Step::Create(record), None) => (self.store(record), self.version),
            (Step::Replace(record), Some(_)) if call.over == self.version => (self.store(record), self.version),
            _ => (Outcome::Conflict, 0),
        };
        if call.is_answered {
            let after = self.delay();
            self.plan(
                after,
                who,
                Event::Answer {
                    call: call.id,
                    outcome,
                    version,
                },
            );
        }
    }

    fn store(&mut self, record: Record) -> Outcome {
        self.version += 1;
        self.lease = Some(record.clone());
        Outcome::Written(record)
    }
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        (0..40_u64).prop_map(Fate::Crash),
        Just(Fate::Retire),
        (-86_400..86_400_i64).prop_map(Fate::Jump),
        (0..40_u64).prop_map(Fate::CutOff),
    ]
}

fn fates(electors: usize) -> impl Strategy<Value = Vec<(u64, usize, Fate)>> {
    prop::collection::vec((0..600_u64, 0..electors, fate()), 0..20)
}

fn network() -> impl Strategy<Value = Network> {
    (0..6000_u64, 0..40_u8, 0..40_u8, 0..20_u8).prop_map(|(delay, lost_calls, lost_answers, late_calls)| Network {
        delay,
        lost_calls,
        lost_answers,
        late_calls,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn two_never_lead_at_once(
        (electors, fates) in (2..=3_usize).prop_flat_map(|electors| (Just(electors), fates(electors))),
        network in network(),
        seed: u64,
    ) {
        // As little as there may be between a leader's stop and another's start: a mistake of a moment is one.
        let timing = Timing::new(DURATION, DURATION - Duration::from_millis(1), RETRY).unwrap();
        let mut world = World::new(electors, timing, network, seed);
        for (second, who, fate) in fates {
            world.plan(Duration::from_secs(second), who, Event::Happen(fate));
        }
        world.run(Duration::from_secs(700));
    }

    #[test]
    fn somebody_leads_soon_after_a_death_or_a_departure(
        electors in 2..=3_usize,
        delay in 0..500_u64,
        seed: u64,
        second in 30..90_u64,
        is_clean: bool,
    ) {
        let network = Network { delay, lost_calls: 0, lost_answers: 0, late_calls: 0 };
        let mut world = World::new(electors, timing(), network, seed);
        world.run(Duration::from_secs(second));
        let leader = world.electors.iter().position(|elector| elector.led);
        prop_assert!(leader.is_some(), "nobody leads after {second} s");
        prop_assert_eq!(world.reigns, 1, "leading changes hands without need");
        world.longest_leaderless = Duration::ZERO;
        let fate = if is_clean { Fate::Retire } else { Fate::Crash(3600) };
        world.happen(leader.unwrap(), fate);
        world.run(Duration::from_secs(second + 60));
        prop_assert!(world.leaderless.is_none());
        // A pause of the follower, and six journeys at most of the calls that give and take.
        let most = Duration::from_secs(if is_clean { 6 } else { 25 });
        prop_assert!(world.longest_leaderless < most, "{:?}", world.longest_leaderless);
    }
}
