//! What a folder said last, and what has changed since. Does not wait: it is told when to look, and says when to look again.
//!
//! A file that is being written is not read until it has been still for a moment. What cannot be read keeps its last good
//! objects, and an object that vanished is given a moment to come back, so that neither a half-written file nor an editor
//! that deletes before it writes ever becomes a table.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Contents, Location, Problem, contents,
    scan::{self, Stamp},
    twice,
};
use crate::control::object::{Event, Key, Object};

/// A folder as it was when last looked at.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Files whose latest stamp is too young to be read, and since when they have it.
    unsettled: HashMap<PathBuf, (Stamp, Instant)>,
    /// Files that somebody has written to and not closed, and when.
    open: HashMap<PathBuf, Instant>,
    told: BTreeMap<Key, Object>,
    /// Objects that were told and are not there, and since when.
    absent: BTreeMap<Key, Instant>,
    complaints: HashSet<String>,
    is_gone: bool,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    objects: Vec<(Object, Location)>,
    problems: Vec<Problem>,
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) events: Vec<Event>,
    /// Problems that were not there at the last look.
    pub(super) problems: Vec<Problem>,
    /// The folder itself cannot be looked at; said once.
    pub(super) gone: Option<io::Error>,
    /// When there is something to look at again.
    pub(super) again: Option<Instant>,
}

/// How patient a look is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// Files are read as they are, what is not there is gone: at the start and when somebody asks for it.
    None,
    /// Files must be still, and what is not there may come back.
    Some,
}

impl Folder {
    pub(super) fn new(root: PathBuf) -> Self {
        Self {
            root,
            files: BTreeMap::new(),
            unsettled: HashMap::new(),
            open: HashMap::new(),
            told: BTreeMap::new(),
            absent: BTreeMap::new(),
            complaints: HashSet::new(),
            is_gone: false,
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// How many objects are in effect.
    pub(super) fn len(&self) -> usize {
        self.told.len()
    }

    /// Somebody writes to a file.
    pub(super) fn written(&mut self, file: PathBuf, now: Instant) {
        self.open.insert(file, now);
    }

    /// Nobody does any longer.
    pub(super) fn closed(&mut self, file: &Path) {
        self.open.remove(file);
    }

    /// Looks at everything and reads what has changed.
    pub(super) fn look(&mut self, now: Instant, patience: Patience) -> News {
        let found = match scan::files(&self.root) {
            Ok(found) => found,
            Err(error) => {
                // The last good state stays, as that of a file that cannot be read does.
                let gone = Some(error).filter(|_| !self.is_gone);
                self.is_gone = true;
                return News { gone, ..News::default() };
            }
        };
        self.is_gone = false;
        let mut again = None;
        self.files.retain(|path, _| found.files.contains_key(path));
        self.unsettled.retain(|path, _| found.files.contains_key(path));
        self.open.retain(|_, since| now.duration_since(*since) < OPEN);
        for (path, stamp) in found.files {
            if self.files.get(&path).is_some_and(|file| file.stamp == stamp) {
                self.unsettled.remove(&path);
            } else if let Some(when) = self.not_before(&path, stamp, now).filter(|_| patience == Patience::Some) {
                again = earlier(again, when);
            } else {
                self.unsettled.remove(&path);
                self.read(path, stamp);
            }
        }
        self.tell(found.problems, now, patience, again)
    }

    /// When a file with a new stamp may be read; `None`: now.
    fn not_before(&mut self, path: &Path, stamp: Stamp, now: Instant) -> Option<Instant> {
        let since = match self.unsettled.get(path) {
            Some((seen, since)) if *seen == stamp => *since,
            _ => {
                self.unsettled.insert(path.to_owned(), (stamp, now));
                now
            }
        };
        let settled = since + SETTLE;
        let closed = self.open.get(path).map(|written| *written + OPEN);
        let when = closed.map_or(settled, |closed| closed.max(settled));
        (when > now).then_some(when)
    }

    fn read(&mut self, path: PathBuf, stamp: Stamp) {
        let Contents {
            mut objects,
            problems,
            is_broken,
            ..
        } = contents(&path);
        if let Some(old) = self.files.remove(&path) {
            let given: HashSet<Key> = objects.iter().map(|(object, _)| object.key()).collect();
            let refused: HashSet<&Key> = problems.iter().filter_map(|problem| problem.object.as_ref()).collect();
            let keep = |key: &Key| !given.contains(key) && (is_broken || refused.contains(key));
            objects.extend(old.objects.into_iter().filter(|(object, _)| keep(&object.key())));
        }
        self.files.insert(
            path,
            File {
                stamp,
                objects,
                problems,
            },
        );
    }

    /// Compares what is there with what was told.
    fn tell(&mut self, mut problems: Vec<Problem>, now: Instant, patience: Patience, mut again: Option<Instant>) -> News {
        let mut events = Vec::new();
        let mut there: BTreeMap<Key, &Location> = BTreeMap::new();
        for file in self.files.values() {
            problems.extend(file.problems.iter().cloned());
            for (object, location) in &file.objects {
                let key = object.key();
                if let Some(first) = there.get(&key) {
                    problems.push(twice(key, location.clone(), first));
                    continue;
                }
                if self.told.get(&key) != Some(object) {
                    self.told.insert(key.clone(), object.clone());
                    events.push(Event::Apply(object.clone()));
                }
                there.insert(key, location);
            }
        }
        self.absent.retain(|key, _| !there.contains_key(key));
        let missing: Vec<Key> = self.told.keys().filter(|key| !there.contains_key(*key)).cloned().collect();
        for key in missing {
            let gone = *self.absent.entry(key.clone()).or_insert(now) + ABSENT;
            if patience == Patience::Some && gone > now {
                again = earlier(again, gone);
            } else {
                self.told.remove(&key);
                self.absent.remove(&key);
                events.push(Event::Delete(key));
            }
        }
        let complaints: HashSet<String> = problems.iter().map(ToString::to_string).collect();
        problems.retain(|problem| !self.complaints.contains(&problem.to_string()));
        self.complaints = complaints;
        News {
            events,
            problems,
            gone: None,
            again,
        }
    }
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// How long a file must be still before it is read.
const SETTLE: Duration = Duration::from_millis(75);
/// How long an object must be away before it is gone.
const ABSENT: Duration = Duration::from_millis(300);
/// How long a file may stay open after the last write to it before it is read anyhow.
const OPEN: Duration = Duration::from_millis(600);
