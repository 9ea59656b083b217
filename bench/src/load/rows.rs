//! The rows: what each does with tunnels, and the figure it comes to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use super::STEP;
use super::stream::Target;
use super::tunnels::{Happened, Tunnels};
use crate::failure::{Failure, Result};
use crate::process::Usage;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Row {
    /// Bytes of user-space memory that an idle tunnel adds
    #[value(name = "idle")]
    Idle,
    /// The same after a message of 1 MiB each way on every tunnel
    #[value(name = "idle-after-1m")]
    IdleAfterMessage,
    /// Processor time for a message of 64 B and its echo
    #[value(name = "echo-64")]
    Echo64,
    /// Processor time for a message of 16 KiB and its echo
    #[value(name = "echo-16k")]
    Echo16K,
    /// Processor time for a message of 256 KiB and its echo
    #[value(name = "echo-256k")]
    Echo256K,
    /// Processor time for a connection: handshake, Close, end
    #[value(name = "open-close")]
    OpenClose,
    /// 99th percentile of the round trip at 5,000 messages of 64 B per second over 1,000 tunnels
    #[value(name = "p99")]
    P99,
    /// Bytes of user-space memory that an idle tunnel with TLS towards the client adds
    #[value(name = "tls-idle")]
    TlsIdle,
    /// The same after a message of 1 MiB each way on every tunnel
    #[value(name = "tls-idle-after-1m")]
    TlsIdleAfterMessage,
    /// Processor time for a message of 64 B and its echo, with TLS
    #[value(name = "tls-echo-64")]
    TlsEcho64,
    /// Processor time for a message of 16 KiB and its echo, with TLS
    #[value(name = "tls-echo-16k")]
    TlsEcho16K,
    /// Processor time for a connection with TLS, without resumption
    #[value(name = "tls-open-close")]
    TlsOpenClose,
}

impl Row {
    pub fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::Idle | Self::IdleAfterMessage | Self::TlsIdle | Self::TlsIdleAfterMessage => "bytes",
            Self::Echo64 | Self::Echo16K | Self::Echo256K | Self::OpenClose | Self::P99 => "microseconds",
            Self::TlsEcho64 | Self::TlsEcho16K | Self::TlsOpenClose => "microseconds",
        }
    }

    /// Whether the clients come with TLS.
    pub fn has_tls(self) -> bool {
        match self {
            Self::Idle | Self::IdleAfterMessage | Self::Echo64 | Self::Echo16K | Self::Echo256K | Self::OpenClose | Self::P99 => {
                false
            }
            Self::TlsIdle | Self::TlsIdleAfterMessage | Self::TlsEcho64 | Self::TlsEcho16K | Self::TlsOpenClose => true,
        }
    }
}

/// How long and how much. The defaults are those of the published figures.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Timing {
    /// Measured seconds of an echo row, after a quarter of that to warm up
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Tunnels of the rows of small echoes; each has one message under way. The 256 KiB row has a fifth
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(5..=9000))]
    pub echo_tunnels: u32,
    /// Measured seconds of the p99 row
    #[arg(long, value_name = "SECONDS", default_value_t = 8.0, value_parser = seconds)]
    pub p99_seconds: f64,
    /// Connections of the open-close row, after a tenth of that to warm up
    #[arg(long, value_name = "N", default_value_t = 6000, value_parser = clap::value_parser!(u32).range(100..=50_000))]
    pub connections: u32,
    /// Tunnels at the upper end of the idle row's slope, half of that after messages; the lower end is at a quarter. A proxy
    /// needs two descriptors for a tunnel
    #[arg(long, value_name = "N", default_value_t = 4000, value_parser = clap::value_parser!(u32).range(100..=9000))]
    pub tunnels: u32,
}

/// One proxy, and how it is to be measured.
pub struct Plan {
    pub target: Target,
    pub usage: Usage,
    pub timing: Timing,
}

impl Plan {
    /// The row's figure, in its unit. The memory rows need a proxy that has just started.
    pub fn measure(&self, row: Row) -> Result<f64> {
        match row {
            Row::Idle | Row::TlsIdle => self.idle(false),
            Row::IdleAfterMessage | Row::TlsIdleAfterMessage => self.idle(true),
            Row::Echo64 | Row::TlsEcho64 => self.echo(64, self.timing.echo_tunnels),
            Row::Echo16K | Row::TlsEcho16K => self.echo(16 * 1024, self.timing.echo_tunnels),
            Row::Echo256K => self.echo(256 * 1024, self.timing.echo_tunnels / 5),
            Row::OpenClose | Row::TlsOpenClose => self.open_close(),
            Row::P99 => Ok(self.paced()?.percentile(0.99).as_secs_f64() * 1e6),
        }
    }

    fn idle(&self, message: bool) -> Result<f64> {
        let mut tunnels = Tunnels::new(self.target.clone())?;
        tunnels.set_message(1 << 20);
        let upper = self.timing.tunnels as usize / if message { 2 } else { 1 };
        let mut pss = Vec::new();
        for count in [upper / 4, upper] {
            let first = tunnels.len();
            open(&mut tunnels, count - first)?;
            if message {
                exchange_once(&mut tunnels, first)?;
            }
            pss.push(self.settled_pss(&mut tunnels)? as f64);
        }
        Ok((pss[1] - pss[0]) / (upper - upper / 4) as f64)
    }

    /// Memory when it has stopped moving: allocators give back what they do not need only after seconds.
    fn settled_pss(&self, tunnels: &mut Tunnels) -> Result<u64> {
        let give_up = Instant::now() + SETTLE_AT_MOST;
        let mut recent = VecDeque::new();
        loop {
            // Nothing may happen now, so this is a sleep that also notices lost tunnels.
            if tunnels.next(Instant::now() + SETTLE_STEP)?.is_some() {
                return Err(Failure::says("an idle tunnel got a message"));
            }
            recent.push_back(self.usage.pss()?);
            if recent.len() < SETTLE_STEPS {
                continue;
            }
            let (low, high) = (
                recent.iter().min().copied().unwrap_or(0),
                recent.iter().max().copied().unwrap_or(0),
            );
            if high - low <= SETTLED_WITHIN || Instant::now() > give_up {
                return Ok(low.midpoint(high));
            }
            recent.pop_front();
        }
    }

    fn echo(&self, payload: usize, count: u32) -> Result<f64> {
        let count = count as usize;
        let mut tunnels = Tunnels::new(self.target.clone())?;
        open(&mut tunnels, count)?;
        tunnels.set_message(payload);
        for id in 0..count {
            tunnels.send(id)?;
        }
        let seconds = self.timing.seconds;
        keep_echoing(&mut tunnels, Duration::from_secs_f64(seconds / 4.0))?;
        let before = self.usage.cpu()?;
        let messages = keep_echoing(&mut tunnels, Duration::from_secs_f64(seconds))?;
        let cpu = self.usage.cpu()? - before;
        per(cpu, messages)
    }

    fn open_close(&self) -> Result<f64> {
        let mut tunnels = Tunnels::new(self.target.clone())?;
        for _ in 0..CHURNING {
            tunnels.open()?;
        }
        churn(&mut tunnels, self.timing.connections / 10)?;
        let before = self.usage.cpu()?;
        churn(&mut tunnels, self.timing.connections)?;
        let cpu = self.usage.cpu()? - before;
        per(cpu, u64::from(self.timing.connections))
    }

    /// Messages go out by the clock, whether or not earlier ones came back, and their time runs from when each was due: a
    /// proxy that stalls cannot hide it by slowing the clients down.
    fn paced(&self) -> Result<Latencies> {
        let mut tunnels = Tunnels::new(self.target.clone())?;
        open(&mut tunnels, PACED_TUNNELS)?;
        tunnels.set_message(64);
        let mut due_times = vec![VecDeque::new(); PACED_TUNNELS];
        let warm = PACED_RATE; // a second
        let total = warm + (PACED_RATE as f64 * self.timing.p99_seconds).round() as u64;
        let mut latencies = Vec::with_capacity(total as usize);
        let start = Instant::now();
        let due_at = |message: u64| start + Duration::from_nanos(message * 1_000_000_000 / PACED_RATE);
        let (mut sent, mut back) = (0, 0);
        while back < total {
            let now = Instant::now();
            while sent < total && due_at(sent) <= now {
                let id = (sent as usize).wrapping_mul(PACED_STRIDE) % PACED_TUNNELS;
                due_times[id].push_back((sent, due_at(sent)));
                tunnels.send(id)?;
                sent += 1;
            }
            let deadline = if sent < total { due_at(sent) } else { due_at(total) + STEP };
            match tunnels.next(deadline)? {
                Some((id, Happened::Echoed(echoes))) => {
                    let now = Instant::now();
                    for (message, due) in due_times[id].drain(..echoes as usize) {
                        back += 1;
                        if message >= warm {
                            latencies.push(now - due);
                        }
                    }
                }
                Some(_) => {}
                None if sent < total => {}
                None => return Err(Failure::says(format!("{} messages did not come back", total - back))),
            }
        }
        latencies.sort_unstable();
        Ok(Latencies(latencies))
    }
}

/// Round trips, shortest first.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn percentile(&self, share: f64) -> Duration {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// Opens a tunnel and drops it.
pub fn open_one(target: &Target) -> Result<()> {
    let mut tunnels = Tunnels::new(target.clone())?;
    tunnels.open()?;
    match tunnels.next(Instant::now() + PATIENCE)? {
        Some(_) => Ok(()),
        None => Err(Failure::says(format!(
            "no tunnel to {} opened in {PATIENCE:?}",
            target.address
        ))),
    }
}

/// Opens `count` tunnels more.
fn open(tunnels: &mut Tunnels, count: usize) -> Result<()> {
    let deadline = Instant::now() + STEP;
    let (mut asked, mut opened) = (0, 0);
    while opened < count {
        if asked < count && asked - opened < OPENING {
            tunnels.open()?;
            asked += 1;
            continue;
        }
        match tunnels.next(deadline)? {
            Some((_, Happened::Opened)) => opened += 1,
            Some(_) => {}
            None => return Err(Failure::says(format!("only {opened} of {count} tunnels opened in {STEP:?}"))),
        }
    }
    Ok(())
}

/// One message and its echo on each tunnel from `first` on.
fn exchange_once(tunnels: &mut Tunnels, first: usize) -> Result<()> {
    let deadline = Instant::now() + STEP;
    let (mut sent, mut back) = (first, first);
    while back < tunnels.len() {
        if sent < tunnels.len() && sent - back < EXCHANGING {
            tunnels.send(sent)?;
            sent += 1;
            continue;
        }
        match tunnels.next(deadline)? {
            Some((_, Happened::Echoed(_))) => back += 1,
            Some(_) => {}
            None => {
                return Err(Failure::says(format!(
                    "{} messages did not come back in {STEP:?}",
                    sent - back
                )));
            }
        }
    }
    Ok(())
}

/// Answers each echo by the next message, and counts echoes.
fn keep_echoing(tunnels: &mut Tunnels, time: Duration) -> Result<u64> {
    let end = Instant::now() + time;
    let mut echoed = 0;
    while Instant::now() < end {
        if let Some((id, Happened::Echoed(echoes))) = tunnels.next(end)? {
            for _ in 0..echoes {
                tunnels.send(id)?;
            }
            echoed += u64::from(echoes);
        }
    }
    Ok(echoed)
}

/// Closes each tunnel as it opens and opens another as it ends, `count` times.
fn churn(tunnels: &mut Tunnels, count: u32) -> Result<()> {
    let deadline = Instant::now() + STEP;
    let mut ended = 0;
    while ended < count {
        match tunnels.next(deadline)? {
            Some((id, Happened::Opened)) => tunnels.close(id)?,
            Some((id, Happened::Closed)) => {
                ended += 1;
                tunnels.open_at(id)?;
            }
            Some(_) => {}
            None => {
                return Err(Failure::says(format!(
                    "only {ended} of {count} connections ended in {STEP:?}"
                )));
            }
        }
    }
    Ok(())
}

fn per(cpu: Duration, count: u64) -> Result<f64> {
    if count == 0 || cpu.is_zero() {
        return Err(Failure::says("nothing was measured"));
    }
    Ok(cpu.as_secs_f64() * 1e6 / count as f64)
}

fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("say 0.1 to 60".to_owned()),
    }
}

/// How long one handshake may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Handshakes under way at once.
const OPENING: usize = 64;
/// Large messages under way at once.
const EXCHANGING: usize = 16;
/// Connections of the open-close row at once.
const CHURNING: usize = 32;
const PACED_RATE: u64 = 5000;
const PACED_TUNNELS: usize = 1000;
/// Has no factor with `PACED_TUNNELS`: every tunnel has its turn, and neighbours are far apart.
const PACED_STRIDE: usize = 387;
const SETTLE_STEP: Duration = Duration::from_millis(250);
/// Memory has settled when so many readings in a row,
const SETTLE_STEPS: usize = 7;
/// are within so many bytes,
const SETTLED_WITHIN: u64 = 64 * 1024;
/// or when it will not.
const SETTLE_AT_MOST: Duration = Duration::from_secs(15);
