//! Follows a folder on a thread of its own: woken by the kernel where that can be had, and looking from time to time anyhow, for
//! edits that no watch reports.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode},
};
use tokio::sync::mpsc;

use super::{
    folder::{Folder, Meanwhile, News, Patience},
    probe,
};
use crate::control::Message;

/// Asks the follower for a look at everything. Dropping it ends the thread.
#[derive(Debug)]
pub struct Follower(Sender<Wake>);

impl Follower {
    /// Reads everything again, as it is, and says what came of it in the log.
    pub fn reload(&self) {
        let _ = self.0.send(Wake::Reload); // a thread that has ended has nothing to read
    }
}

/// Why the thread looks.
#[derive(Debug)]
enum Wake {
    Written(PathBuf),
    Closed(PathBuf),
    Changed,
    Reload,
}

/// Starts to follow the folder. The first message has everything that is there now, and [`Message::Synced`] follows it.
///
/// # Errors
/// When `root` cannot be looked at, or no thread can be started.
pub(in crate::control) fn follow(root: PathBuf, out: mpsc::Sender<Message>) -> io::Result<Follower> {
    probe(&root)?;
    let (wake, woken) = channel();
    let watch = Watch::new(&root, wake.clone());
    let folder = Folder::new(root);
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || run(folder, watch, &woken, &out))?;
    Ok(Follower(wake))
}

fn run(mut folder: Folder, mut watch: Watch, woken: &Receiver<Wake>, out: &mpsc::Sender<Message>) {
    let mut next = tell(folder.look(Instant::now(), Patience::None), out);
    if out.blocking_send(Message::Synced).is_err() {
        return;
    }
    while !out.is_closed() {
        let now = Instant::now();
        let rest = watch.interval();
        let until = next.map_or(now + rest, |next| next.min(now + rest)).max(now + PACE);
        let patience = match wait(&mut folder, woken, until) {
            Waited::Reload => Patience::None,
            Waited::Look => Patience::Some,
            Waited::End => return,
        };
        watch.check(folder.root());
        let news = folder.look(Instant::now(), patience);
        if patience == Patience::None && news.gone.is_none() {
            report_reload(&news, folder.len());
        }
        next = tell(news, out);
    }
}

enum Waited {
    Look,
    Reload,
    End,
}

/// Waits until something happens or the time has come, then takes in all that has happened.
fn wait(folder: &mut Folder, woken: &Receiver<Wake>, until: Instant) -> Waited {
    let mut waited = Waited::Look;
    let mut first = woken.recv_timeout(until.saturating_duration_since(Instant::now()));
    if first.is_ok() {
        thread::sleep(PACE); // what comes together is looked at together
    }
    loop {
        match first {
            Ok(Wake::Written(file)) => folder.written(file, Instant::now()),
            Ok(Wake::Closed(file)) => folder.closed(&file),
            Ok(Wake::Changed) => {}
            Ok(Wake::Reload) => waited = Waited::Reload,
            Err(RecvTimeoutError::Timeout) => return waited,
            Err(RecvTimeoutError::Disconnected) => return Waited::End,
        }
        first = woken.recv_timeout(Duration::ZERO);
    }
}

fn tell(news: News, out: &mpsc::Sender<Message>) -> Option<Instant> {
    for (problem, meanwhile) in &news.problems {
        let meanwhile = match meanwhile {
            Meanwhile::LastGood => "; its last good state stays in effect",
            Meanwhile::Nothing => "; it is not in effect",
            Meanwhile::First => "",
        };
        tracing::warn!(
            file = %problem.location.file.display(),
            line = problem.location.span.line,
            field = %problem.fault.path,
            "{problem}{meanwhile}"
        );
    }
    if !news.skipped.is_empty() {
        tracing::info!("objects of these kinds are not looked at: {}", news.skipped.join(", "));
    }
    if let Some(error) = &news.gone {
        tracing::warn!("the folder of manifests cannot be read: {error}; what it said before goes on");
    }
    if !news.problems.is_empty() || news.gone.is_some() {
        let _ = out.blocking_send(Message::Trouble(news.problems.len().max(1)));
    }
    if !news.events.is_empty() {
        let _ = out.blocking_send(Message::Events(news.events)); // nobody listens any longer: the loop ends
    }
    news.again
}

fn report_reload(news: &News, objects: usize) {
    match news.events.len() {
        0 => tracing::info!(objects, "nothing to reload"),
        changes => tracing::info!(objects, changes, "reloaded"),
    }
}

/// The kernel's word on changes, where it can be had.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    root: Option<(u64, u64)>,
}

impl Watch {
    fn new(root: &Path, wake: Sender<Wake>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            for wake_up in event.map_or_else(|_| vec![Wake::Changed], wakes) {
                let _ = wake.send(wake_up); // the thread has ended
            }
        });
        let mut watch = Self {
            watcher: watcher.map_err(|error| complain(&error)).ok(),
            root: None,
        };
        watch.check(root);
        watch
    }

    /// Watches the root, again if it is another folder than before.
    fn check(&mut self, root: &Path) {
        let identity = fs::metadata(root).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        if identity.is_none() || identity == self.root {
            return;
        }
        if let Some(watcher) = &mut self.watcher {
            if self.root.is_some() {
                let _ = watcher.unwatch(root); // the old one may be gone with its watch
            }
            if let Err(error) = watcher.watch(root, RecursiveMode::Recursive) {
                complain(&error);
                self.watcher = None;
            }
        }
        self.root = identity;
    }

    /// How long to wait when nothing wakes us.
    fn interval(&self) -> Duration {
        if self.watcher.is_some() { WATCHED } else { UNWATCHED }
    }
}

fn complain(error: &notify::Error) {
    tracing::warn!("cannot watch the folder of manifests: {error}; looking at it every {UNWATCHED:?} instead");
}

fn wakes(event: notify::Event) -> Vec<Wake> {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => event.paths.into_iter().map(Wake::Closed).collect(),
        EventKind::Access(_) => Vec::new(), // our own reading
        EventKind::Modify(notify::event::ModifyKind::Data(_)) => event.paths.into_iter().map(Wake::Written).collect(),
        _ => vec![Wake::Changed],
    }
}

/// Between two looks, at least.
const PACE: Duration = Duration::from_millis(25);
/// Between two looks when nothing was heard: what a watch cannot see, such as a file behind a link, is seen then.
const WATCHED: Duration = Duration::from_millis(700);
/// The same without a watch.
const UNWATCHED: Duration = Duration::from_millis(400);
