//! A program that a test runs: what it says is kept, and shown if the test fails; killed when dropped.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    support::PATIENCE,
    wait::{until, within},
};

/// A running program.
pub struct Process {
    name: String,
    child: Child,
    lines: Lines,
    /// The lines that [`Process::line_with`] has gone past.
    read: AtomicUsize,
}

type Lines = Arc<std::sync::Mutex<Vec<String>>>;

impl Process {
    /// Starts it. `name` is for messages.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Lines::default();
        keep(child.stdout.take().unwrap(), &lines);
        keep(child.stderr.take().unwrap(), &lines);
        Self {
            name: name.to_owned(),
            child,
            lines,
            read: AtomicUsize::new(0),
        }
    }

    /// The next line that has `text` in it, of stdout or stderr.
    pub async fn line_with(&self, text: &str) -> String {
        self.line_within(PATIENCE, text).await
    }

    /// The same with another limit.
    pub async fn line_within(&self, limit: Duration, text: &str) -> String {
        within(limit, &format!("a line of {} with {text:?}", self.name), async || {
            let lines = self.lines.lock().unwrap();
            let from = self.read.load(Relaxed);
            let Some(at) = lines[from..].iter().position(|line| line.contains(text)) else {
                return Err(lines.last().cloned());
            };
            self.read.store(from + at + 1, Relaxed);
            Ok(lines[from + at].clone())
        })
        .await
    }

    /// Everything that it has said so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end. Panics if a signal ended it.
    pub async fn exit_code(&mut self) -> i32 {
        let child = &mut self.child;
        let status = until(&format!("the end of {}", self.name), async || {
            child.try_wait().unwrap().ok_or("it runs")
        })
        .await;
        status.code().unwrap_or_else(|| panic!("{}: {status}", self.name))
    }

    /// Ends it without a word to anybody, and returns when it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            println!("---- {} said:\n{}", self.name, self.lines().join("\n"));
        }
    }
}

fn keep(from: impl Read + Send + 'static, lines: &Lines) {
    let lines = Arc::clone(lines);
    thread::spawn(move || {
        let read = BufReader::new(from).lines().map_while(Result::ok);
        read.for_each(|line| lines.lock().unwrap().push(line));
    });
}
