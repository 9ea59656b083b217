//! A bounded queue of lines and the one thread that writes them.
//!
//! Any thread sends; sending never waits and never fails the sender: what does not fit is dropped and counted.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// The sending end. Cheap to clone; every clone feeds the same writer.
#[derive(Debug, Clone)]
pub struct Lines {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

/// Ends the writer when it is dropped, after it has written what was queued before, for at most a second.
#[derive(Debug)]
pub struct Flush {
    queue: SyncSender<Item>,
    ended: Receiver<()>,
}

#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Stop,
}

impl Lines {
    /// Starts a thread called `name` that writes to `out`, with room for `capacity` lines (at least one).
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(name: &str, out: impl Write + Send + 'static, capacity: usize) -> io::Result<(Self, Flush)> {
        let (queue, items) = sync_channel(capacity.max(1));
        let (alive, ended) = channel();
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            items,
            out,
            dropped: Arc::clone(&dropped),
            batch: Vec::new(),
            lines: 0,
        };
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            writer.run();
            drop(alive);
        })?;
        Ok((
            Self {
                queue: queue.clone(),
                dropped,
            },
            Flush { queue, ended },
        ))
    }

    /// Queues one line, which carries its own newline. Never waits; false when it was dropped and counted.
    pub fn send(&self, line: impl Into<Vec<u8>>) -> bool {
        let sent = self.queue.try_send(Item::Line(line.into())).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// How many lines were lost: the queue was full, the writer has ended, or the output refused them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_WAIT;
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Item::Stop) {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(RETRY);
        }
        let _ = self.ended.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

struct Writer<W> {
    items: Receiver<Item>,
    out: W,
    dropped: Arc<AtomicU64>,
    /// Lines to be written together, and how many they are.
    batch: Vec<u8>,
    lines: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        while let Ok(Item::Line(first)) = self.items.recv() {
            self.add(&first);
            let stop = self.gather();
            self.write();
            if stop {
                return;
            }
        }
    }

    /// Takes what is queued already, up to a batch. True when it met the end.
    fn gather(&mut self) -> bool {
        while self.batch.len() < BATCH {
            match self.items.try_recv() {
                Ok(Item::Line(line)) => self.add(&line),
                Ok(Item::Stop) => return true,
                Err(_) => return false,
            }
        }
        false
    }

    fn add(&mut self, line: &[u8]) {
        self.batch.extend_from_slice(line);
        self.lines += 1;
    }

    fn write(&mut self) {
        if self.write_batch().is_err() {
            self.dropped.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.batch.clear();
        self.batch.shrink_to(BATCH);
        self.lines = 0;
    }

    /// As `write_all`, but waits where the output is a non-blocking file that is full for now.
    fn write_batch(&mut self) -> io::Result<()> {
        let mut rest = self.batch.as_slice();
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
                Err(e) => return Err(e),
            }
        }
        self.out.flush()
    }
}

/// Bytes that one write may gather; also what the writer keeps between writes.
const BATCH: usize = 32 * 1024;
/// How long dropping [`Flush`] waits for the last lines.
const FLUSH_WAIT: Duration = Duration::from_secs(1);
/// How long to wait for an output or a queue that is full.
const RETRY: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output whose every write waits for a permit, as a pipe that nobody reads.
    struct Stuck {
        entered: std::sync::mpsc::Sender<()>,
        permits: Receiver<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let _ = self.entered.send(());
            let _ = self.permits.recv();
            Ok(data.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_come_out_in_order_and_dropping_the_guard_waits_for_the_last() {
        let out = Shared::default();
        let (lines, flush) = Lines::new("test", out.clone(), 2000).unwrap();
        for i in 0..1000 {
            assert!(lines.send(format!("{i}\n")));
        }
        drop(flush);
        let expected: String = (0..1000).map(|i| format!("{i}\n")).collect();
        assert_eq!(String::from_utf8(out.0.lock().unwrap().clone()).unwrap(), expected);
        assert_eq!(lines.dropped(), 0);
        assert!(!lines.send("late\n"), "the writer has ended");
        assert_eq!(lines.dropped(), 1);
    }

    #[test]
    fn an_output_that_nobody_reads_costs_lines_and_not_time() {
        let (entered, writing) = channel();
        let (permit, permits) = channel();
        let (lines, flush) = Lines::new("test", Stuck { entered, permits }, 8).unwrap();
        assert!(lines.send("first\n"));
        writing.recv().unwrap();
        let sent = (0..100).filter(|_| lines.send("more\n")).count();
        assert_eq!(sent, 8);
        assert_eq!(lines.dropped(), 92);
        drop(permit);
        drop(flush);
        assert_eq!(lines.dropped(), 92, "what was queued is written once the output moves");
    }

    #[test]
    fn lines_that_the_output_refuses_are_counted() {
        let (lines, flush) = Lines::new("test", Broken, 8).unwrap();
        assert!(lines.send("a\n"));
        assert!(lines.send("b\n"));
        drop(flush);
        assert_eq!(lines.dropped(), 2);
    }
}
