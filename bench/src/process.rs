//! Processes that are measured: started with their output in a file, asked in /proc what they use, ended by their own pid and
//! group, also when this program dies.

pub mod become_program;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::failure::{Failure, Result};

/// A child and all that it started. Dropping it ends them.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on `core`, or anywhere; what it prints goes to NAME.log in `folder`.
    pub fn start(name: &str, command: &Command, core: Option<usize>, folder: &Path) -> Result<Self> {
        let cannot = |error| Failure::new(format_args!("start {name} ({})", command.get_program().display()), error);
        let log = folder.join(format!("{name}.log"));
        let output = File::create(&log).map_err(cannot)?;
        let this = std::env::current_exe().map_err(cannot)?;
        let mut wrapped = Command::new(this);
        wrapped.arg("become");
        if let Some(core) = core {
            wrapped.args(["--core", &core.to_string()]);
        }
        wrapped.arg("--").arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            wrapped.env(key, value.unwrap_or(OsStr::new("")));
        }
        let errors = output.try_clone().map_err(cannot)?;
        wrapped.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = wrapped.spawn().map_err(cannot)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn usage(&self) -> Usage {
        Usage { root: self.child.id() }
    }

    /// Fails, with the end of its output, if it ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(Failure::says(format!(
                "{} ended by itself:\n{}",
                self.name,
                self.last_lines()
            ))),
        }
    }

    /// The end of what it printed.
    pub fn last_lines(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    fn end(&mut self) {
        let Some(pid) = Pid::from_raw(self.child.id() as i32) else {
            return;
        };
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.child.try_wait().is_ok_and(|status| status.is_some()) {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = kill_process_group(pid, Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a process and its descendants use, as /proc says.
#[derive(Clone, Copy)]
pub struct Usage {
    root: u32,
}

impl Usage {
    pub fn of(root: u32) -> Self {
        Self { root }
    }

    /// Time on a processor, in user space and in the kernel, since the start; of threads that still are.
    pub fn cpu(self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for pid in self.pids()? {
            let tasks = format!("/proc/{pid}/task");
            for task in fs::read_dir(&tasks)
                .map_err(|error| Failure::new(format_args!("read {tasks}"), error))?
                .flatten()
            {
                nanoseconds += number(&task.path().join("schedstat"), |text| text.split(' ').next())?;
            }
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// User-space memory in bytes: pages shared with others count in proportion.
    pub fn pss(self) -> Result<u64> {
        let mut kibibytes = 0;
        for pid in self.pids()? {
            kibibytes += number(Path::new(&format!("/proc/{pid}/smaps_rollup")), |text| {
                text.lines()
                    .find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"))
            })?;
        }
        Ok(kibibytes * 1024)
    }

    /// The process and its descendants.
    fn pids(self) -> Result<Vec<u32>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")
            .map_err(|error| Failure::new("read /proc", error))?
            .flatten()
        {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            parents.extend(parent.map(|parent| (pid, parent)));
        }
        let mut pids = vec![self.root];
        let mut at = 0;
        while let Some(&pid) = pids.get(at) {
            pids.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| *child));
            at += 1;
        }
        Ok(pids)
    }
}

/// How busy the machine is, for telling whether figures were taken in quiet.
#[derive(Clone, Copy)]
pub struct Machine {
    /// In ticks of 10 ms, all cores together.
    total: u64,
    busy: u64,
    /// This program and its children that ended.
    ours: u64,
}

impl Machine {
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").map_err(|error| Failure::new("read /proc/stat", error))?;
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .flat_map(str::parse)
            .collect();
        let own = fs::read_to_string("/proc/self/stat").map_err(|error| Failure::new("read /proc/self/stat", error))?;
        let own = own.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ours = own.split_whitespace().skip(11).take(4).flat_map(str::parse::<u64>).sum();
        // user nice system idle iowait irq softirq steal
        let at = |i: usize| ticks.get(i).copied().unwrap_or(0);
        Ok(Self {
            total: ticks.iter().take(8).sum(),
            busy: at(0) + at(1) + at(2) + at(7),
            ours,
        })
    }

    /// The share of the machine that others took since `before`, 0 to 1.
    pub fn others_since(self, before: Self) -> f64 {
        let others = (self.busy - before.busy).saturating_sub(self.ours - before.ours);
        others as f64 / (self.total - before.total).max(1) as f64
    }
}

fn number(path: &Path, find: impl Fn(&str) -> Option<&str>) -> Result<u64> {
    let cannot = |why: &dyn std::fmt::Display| Failure::new(format_args!("read {}", path.display()), why);
    let text = fs::read_to_string(path).map_err(|error| cannot(&error))?;
    find(&text)
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| cannot(&"no number in it"))
}

/// How long a process gets to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(5);
