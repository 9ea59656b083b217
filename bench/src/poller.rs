//! epoll for the two ends: level-triggered, one thread, waits to the microsecond.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{
    Timespec,
    epoll::{self, CreateFlags, Event, EventData, EventFlags},
};
use rustix::io::Errno;

use crate::failure::{Failure, Result};

pub struct Poller {
    epoll: OwnedFd,
    /// Ready and not yet handed out, last first.
    ready: Vec<Event>,
}

/// A descriptor that is ready, by the token it was added with.
pub struct Ready {
    pub token: usize,
    /// Ready for writing; else for reading, or its connection ended.
    pub writable: bool,
}

impl Poller {
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| Failure::new("make an epoll", error))?;
        Ok(Self {
            epoll,
            ready: Vec::with_capacity(BATCH),
        })
    }

    /// Watches `fd` for reading. Closing it ends that.
    pub fn add(&self, fd: impl AsFd, token: usize) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token as u64), EventFlags::IN)
            .map_err(|error| Failure::new("watch a socket", error))
    }

    /// Watches `fd` for writing instead of reading, or for reading again.
    pub fn watch(&self, fd: impl AsFd, token: usize, writing: bool) -> Result<()> {
        let flags = if writing { EventFlags::OUT } else { EventFlags::IN };
        epoll::modify(&self.epoll, fd, EventData::new_u64(token as u64), flags)
            .map_err(|error| Failure::new("watch a socket", error))
    }

    /// The next that is ready; `None` when none was for `wait`, without end if that is `None`.
    pub fn next(&mut self, wait: Option<Duration>) -> Result<Option<Ready>> {
        if self.ready.is_empty() {
            self.fill(wait)?;
        }
        Ok(self.ready.pop().map(|event| Ready {
            token: { event.data }.u64() as usize,
            writable: { event.flags }.contains(EventFlags::OUT),
        }))
    }

    fn fill(&mut self, wait: Option<Duration>) -> Result<()> {
        let wait = wait.map(|wait| Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        });
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), wait.as_ref()) {
            Ok(_) => self.ready.reverse(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::new("wait for sockets", error)),
        }
        Ok(())
    }
}

/// So few that none of a batch waits long for its turn.
const BATCH: usize = 64;
