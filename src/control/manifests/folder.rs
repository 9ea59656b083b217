//! What a folder said last, and what has changed since. Does not wait: it is told when to look, and says when to look again.
//!
//! A file that is being written is not read until it has been still for a moment. What cannot be read keeps its last good
//! objects, and an object that vanished is given a moment to come back, so that neither a half-written file nor an editor
//! that deletes before it writes ever becomes a table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    Contents, Location, Problem, ProblemKind, contents,
    scan::{self, Stamp},
    twice,
};
use crate::control::object::{Event, Key, Object};

/// A folder as it was when last looked at.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Files whose latest stamp is too young to be read.
    unsettled: HashMap<PathBuf, Unsettled>,
    /// Files that somebody has written to and not closed, and when.
    open: HashMap<PathBuf, Instant>,
    told: BTreeMap<Key, Object>,
    /// Objects that were told and are not there, and since when.
    absent: BTreeMap<Key, Instant>,
    complaints: HashSet<String>,
    /// Kinds that were said to be skipped.
    skipped: BTreeSet<String>,
    is_gone: bool,
}

#[derive(Debug)]
struct File {
    /// `None`: it was read so soon after a change that the next one may have the same stamp.
    stamp: Option<Stamp>,
    objects: Vec<(Object, Location)>,
    problems: Vec<Problem>,
}

/// A file that may still be written.
#[derive(Clone, Copy, Debug)]
struct Unsettled {
    stamp: Stamp,
    /// Since when it has this stamp.
    since: Instant,
    /// Since when it keeps changing.
    restless: Instant,
}

/// What a look at the folder found.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) events: Vec<Event>,
    /// Problems that were not there at the last look, and what holds in place of what has them.
    pub(super) problems: Vec<(Problem, Meanwhile)>,
    /// Kinds that are skipped and were not so far.
    pub(super) skipped: Vec<String>,
    /// The folder itself cannot be looked at; said once, and when asked.
    pub(super) gone: Option<io::Error>,
    /// When there is something to look at again.
    pub(super) again: Option<Instant>,
}

/// What holds while there is a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meanwhile {
    /// The last good state.
    LastGood,
    /// Nothing.
    Nothing,
    /// The object in the place that goes first.
    First,
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
            skipped: BTreeSet::new(),
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
                let gone = Some(error).filter(|_| !self.is_gone || patience == Patience::None);
                self.is_gone = true;
                return News { gone, ..News::default() };
            }
        };
        self.is_gone = false;
        let mut again = None;
        let mut skipped = Vec::new();
        let before = self.files.len();
        self.files.retain(|path, _| found.files.contains_key(path));
        let mut is_changed = self.files.len() != before;
        self.unsettled.retain(|path, _| found.files.contains_key(path));
        self.open.retain(|_, since| now.duration_since(*since) < OPEN);
        for (path, stamp) in found.files {
            if self.files.get(&path).is_some_and(|file| file.stamp == Some(stamp)) {
                self.unsettled.remove(&path);
                continue;
            }
            let when = self.not_before(&path, stamp, now);
            if patience == Patience::Some && when > now {
                again = earlier(again, when);
                continue;
            }
            let is_still = self
                .unsettled
                .remove(&path)
                .is_some_and(|unsettled| now >= unsettled.since + SETTLE);
            let is_sure = is_still || !stamp.is_younger_than(SETTLE);
            if !is_sure {
                again = earlier(again, now + SETTLE);
            }
            let kinds = self.read(path, Some(stamp).filter(|_| is_sure));
            skipped.extend(kinds.into_iter().filter(|kind| self.skipped.insert(kind.clone())));
            is_changed = true;
        }
        let is_pending = !self.absent.is_empty() || !found.problems.is_empty();
        if !is_changed && !is_pending {
            return News {
                again,
                ..News::default()
            };
        }
        News {
            skipped,
            ..self.tell(found.problems, now, patience, again)
        }
    }

    /// When a file with a new stamp may be read; it is in the past if that is now.
    fn not_before(&mut self, path: &Path, stamp: Stamp, now: Instant) -> Instant {
        let new = Unsettled {
            stamp,
            since: now,
            restless: now,
        };
        let unsettled = self.unsettled.entry(path.to_owned()).or_insert(new);
        if unsettled.stamp != stamp {
            (unsettled.stamp, unsettled.since) = (stamp, now);
        }
        let settled = (unsettled.since + SETTLE).min(unsettled.restless + RESTLESS);
        let closed = self.open.get(path).map(|written| *written + OPEN);
        closed.map_or(settled, |closed| closed.max(settled))
    }

    /// Reads a file, and returns the kinds that it skipped.
    fn read(&mut self, path: PathBuf, stamp: Option<Stamp>) -> Vec<String> {
        let Contents {
            mut objects,
            problems,
            is_broken,
            skipped,
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
        skipped
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
        let problems = problems.into_iter().map(|problem| {
            let meanwhile = self.meanwhile(&problem);
            (problem, meanwhile)
        });
        News {
            events,
            problems: problems.collect(),
            again,
            ..News::default()
        }
    }

    fn meanwhile(&self, problem: &Problem) -> Meanwhile {
        let holds = match (problem.kind, &problem.object) {
            (ProblemKind::Twice, _) => return Meanwhile::First,
            (_, Some(object)) => self.told.contains_key(object),
            (_, None) => self
                .files
                .get(&*problem.location.file)
                .is_some_and(|file| !file.objects.is_empty()),
        };
        if holds { Meanwhile::LastGood } else { Meanwhile::Nothing }
    }
}

fn earlier(a: Option<Instant>, b: Instant) -> Option<Instant> {
    Some(a.map_or(b, |a| a.min(b)))
}

/// How long a file must be still before it is read.
const SETTLE: Duration = Duration::from_millis(75);
/// How long a file may keep changing before it is read anyhow, and read again later.
const RESTLESS: Duration = Duration::from_millis(700);
/// How long an object must be away before it is gone.
const ABSENT: Duration = Duration::from_millis(300);
/// How long a file may stay open after the last write to it before it is read anyhow.
const OPEN: Duration = Duration::from_millis(600);

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A folder of its own, gone with the value.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("holdfast-folder-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, file: &str, text: &str) {
            fs::write(self.0.join(file), text).unwrap();
        }

        fn remove(&self, file: &str) {
            fs::remove_file(self.0.join(file)).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A folder and a clock that the test moves.
    struct Look {
        folder: Folder,
        now: Instant,
    }

    impl Look {
        /// The first look.
        fn new(place: &Place) -> (Self, News) {
            let mut look = Self {
                folder: Folder::new(place.0.clone()),
                now: Instant::now(),
            };
            let news = look.folder.look(look.now, Patience::None);
            (look, news)
        }

        fn now(&mut self) -> News {
            self.folder.look(self.now, Patience::Some)
        }

        fn after(&mut self, wait: Duration) -> News {
            self.now += wait;
            self.now()
        }

        /// Looks until there is nothing more to look at.
        fn settled(&mut self) -> News {
            let mut all = News::default();
            loop {
                let news = self.now();
                all.events.extend(news.events);
                all.problems.extend(news.problems);
                let Some(again) = news.again else { return all };
                self.now = self.now.max(again);
            }
        }
    }

    fn service(name: &str, port: u16) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n")
    }

    /// `+a:80` for an applied Service, `-a` for a deleted one.
    fn events(news: &News) -> Vec<String> {
        let word = |event: &Event| match event {
            Event::Apply(Object::Service(service)) => format!("+{}:{}", service.name.name, service.ports[0].number),
            Event::Delete(key) => format!("-{}", key.name.name),
            other => format!("{other:?}"),
        };
        news.events.iter().map(word).collect()
    }

    fn problems(news: &News) -> Vec<(String, Meanwhile)> {
        let word = |(problem, meanwhile): &(Problem, Meanwhile)| {
            let file = problem.location.file.file_name().unwrap().to_string_lossy();
            (format!("{file}:{} {}", problem.location.span.line, problem.fault), *meanwhile)
        };
        news.problems.iter().map(word).collect()
    }

    #[test]
    fn edits_are_read_when_the_file_is_still() {
        let place = Place::new("edits");
        place.write("a.yaml", &service("a", 1));
        place.write(
            "b.json",
            r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"b"},"spec":{"ports":[{"port":2}]}}"#,
        );
        place.write("notes.txt", "not a manifest");
        place.write(".hidden.yaml", &service("hidden", 1));
        let (mut look, news) = Look::new(&place);
        assert_eq!(events(&news), ["+a:1", "+b:2"]);
        assert_eq!(events(&look.settled()), [""; 0]);
        place.write("a.yaml", &service("a", 10));
        assert_eq!(events(&look.now()), [""; 0], "it may still be written");
        assert_eq!(events(&look.after(SETTLE)), ["+a:10"]);
    }

    #[test]
    fn a_file_that_keeps_changing_is_not_read() {
        let place = Place::new("changing");
        place.write("a.yaml", &service("a", 1));
        let (mut look, _) = Look::new(&place);
        for port in 20..25 {
            place.write("a.yaml", &service(&"a".repeat(usize::from(port)), port));
            let news = look.after(SETTLE / 2);
            assert_eq!(events(&news), [""; 0]);
            assert!(news.again.is_some());
        }
        place.write("a.yaml", &service("a", 9));
        assert_eq!(events(&look.settled()), ["+a:9"]);
        // But one that never is still cannot hide for ever.
        let seen: Vec<String> = (10..40)
            .flat_map(|port| {
                place.write("a.yaml", &service(&"a".repeat(usize::from(port)), port));
                events(&look.after(SETTLE / 2))
            })
            .collect();
        assert!(seen.iter().any(|event| event.starts_with('+')), "{seen:?}");
    }

    #[test]
    fn a_file_that_somebody_holds_open_waits_for_its_close_but_not_for_ever() {
        let place = Place::new("open");
        place.write("a.yaml", &service("a", 1));
        let (mut look, _) = Look::new(&place);
        let file = place.0.join("a.yaml");
        place.write("a.yaml", &service("a", 22));
        look.folder.written(file.clone(), look.now);
        assert_eq!(events(&look.now()), [""; 0]);
        assert_eq!(events(&look.after(SETTLE * 2)), [""; 0]);
        look.folder.closed(&file);
        assert_eq!(events(&look.now()), ["+a:22"]);
        place.write("a.yaml", &service("a", 333));
        look.folder.written(file, look.now);
        assert_eq!(events(&look.after(SETTLE)), [""; 0]);
        assert_eq!(events(&look.after(OPEN)), ["+a:333"]);
    }

    #[test]
    fn what_vanishes_may_come_back() {
        let place = Place::new("vanish");
        place.write("a.yaml", &service("a", 1));
        place.write("b.yaml", &service("b", 2));
        let (mut look, _) = Look::new(&place);
        // An editor that deletes before it writes.
        place.remove("a.yaml");
        assert_eq!(events(&look.now()), [""; 0]);
        place.write("a.yaml", &service("a", 11));
        assert_eq!(events(&look.settled()), ["+a:11"]);
        // One that truncates, and writes after a while.
        place.write("b.yaml", "");
        assert_eq!(events(&look.now()), [""; 0]);
        assert_eq!(
            events(&look.after(SETTLE)),
            [""; 0],
            "read as empty, but given time to come back"
        );
        place.write("b.yaml", &service("b", 22));
        assert_eq!(events(&look.settled()), ["+b:22"]);
        // And a real end.
        place.remove("b.yaml");
        look.now();
        assert_eq!(events(&look.after(ABSENT)), ["-b"]);
    }

    #[test]
    fn a_rename_changes_nothing() {
        let place = Place::new("rename");
        place.write("a.yaml", &service("a", 1));
        let (mut look, _) = Look::new(&place);
        fs::rename(place.0.join("a.yaml"), place.0.join("z.yaml")).unwrap();
        assert_eq!(events(&look.settled()), [""; 0]);
        place.write("new", &service("a", 2));
        fs::rename(place.0.join("new"), place.0.join("z.yaml")).unwrap();
        assert_eq!(events(&look.settled()), ["+a:2"], "renamed over");
    }

    #[test]
    fn a_broken_file_keeps_the_last_good_state_of_its_objects() {
        let place = Place::new("broken");
        let start = [service("a", 1), service("b", 2)].concat();
        place.write("a.yaml", &start);
        let (mut look, _) = Look::new(&place);
        place.write("a.yaml", &format!("{}{{", service("a", 10)));
        let news = look.settled();
        assert_eq!(events(&news), [""; 0], "nothing of a broken file");
        assert_eq!(
            problems(&news),
            [("a.yaml:6 unclosed bracket '{'".to_owned(), Meanwhile::LastGood)]
        );
        assert_eq!(problems(&look.settled()), [], "said once");
        let nameless = service("b", 3).replace("{name: b}", "{}");
        place.write("a.yaml", &[service("a", 10), nameless].concat());
        assert_eq!(
            events(&look.settled()),
            ["+a:10"],
            "whichever object has no name, it may be b"
        );
        place.write("a.yaml", &service("a", 100));
        assert_eq!(events(&look.settled()), ["+a:100", "-b"]);
    }

    #[test]
    fn an_object_that_is_refused_keeps_its_last_good_state_and_the_others_go_on() {
        let place = Place::new("refused");
        place.write("a.yaml", &[service("a", 1), service("b", 2)].concat());
        let (mut look, _) = Look::new(&place);
        let refused = service("b", 3).replace("port: 3", "port: 70000");
        place.write("a.yaml", &[service("a", 10), refused].concat());
        let news = look.settled();
        assert_eq!(events(&news), ["+a:10"]);
        let message = "a.yaml:9 spec.ports[0].port: 70000 is not from 1 to 65535".to_owned();
        assert_eq!(problems(&news), [(message, Meanwhile::LastGood)]);
    }

    #[test]
    fn a_broken_file_without_a_last_good_state_has_no_objects_and_hurts_no_other() {
        let place = Place::new("start");
        place.write("a.yaml", "kind: [");
        place.write("b.yaml", &service("b", 2));
        let (_, news) = Look::new(&place);
        assert_eq!(events(&news), ["+b:2"]);
        assert_eq!(
            problems(&news),
            [("a.yaml:1 unclosed bracket '['".to_owned(), Meanwhile::Nothing)]
        );
    }

    #[test]
    fn of_the_same_object_in_two_files_the_first_counts() {
        let place = Place::new("twice");
        place.write("b.yaml", &service("x", 2));
        let (mut look, _) = Look::new(&place);
        place.write("a.yaml", &service("x", 1));
        let news = look.settled();
        assert_eq!(events(&news), ["+x:1"]);
        let [(problem, Meanwhile::First)] = &problems(&news)[..] else {
            panic!("{news:?}");
        };
        assert!(
            problem.starts_with("b.yaml:3 the same object is in ") && problem.contains("a.yaml:3"),
            "{problem}"
        );
        place.remove("a.yaml");
        assert_eq!(events(&look.settled()), ["+x:2"]);
    }

    #[test]
    fn a_mounted_config_map_is_followed_through_its_links() {
        let place = Place::new("configmap");
        let version = |name: &str, port| {
            fs::create_dir(place.0.join(name)).unwrap();
            fs::write(place.0.join(name).join("a.yaml"), service("a", port)).unwrap();
        };
        version("..1", 1);
        symlink("..1", place.0.join("..data")).unwrap();
        symlink("..data/a.yaml", place.0.join("a.yaml")).unwrap();
        let (mut look, news) = Look::new(&place);
        assert_eq!(events(&news), ["+a:1"]);
        version("..2", 2);
        symlink("..2", place.0.join("..data_tmp")).unwrap();
        fs::rename(place.0.join("..data_tmp"), place.0.join("..data")).unwrap();
        fs::remove_dir_all(place.0.join("..1")).unwrap();
        assert_eq!(events(&look.settled()), ["+a:2"]);
    }

    #[test]
    fn folders_in_folders_are_looked_through_and_loops_end() {
        let place = Place::new("deep");
        fs::create_dir_all(place.0.join("x/y")).unwrap();
        fs::write(place.0.join("x/y/a.yml"), service("a", 1)).unwrap();
        symlink("..", place.0.join("x/up")).unwrap();
        let (_, news) = Look::new(&place);
        assert_eq!(events(&news), ["+a:1"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_keeps_its_last_good_state() {
        let place = Place::new("gone");
        place.write("a.yaml", &service("a", 1));
        let (mut look, _) = Look::new(&place);
        let away = place.0.with_extension("away");
        fs::rename(&place.0, &away).unwrap();
        assert!(look.after(ABSENT * 2).gone.is_some());
        let news = look.after(ABSENT * 2);
        assert!(news.gone.is_none() && news.events.is_empty(), "said once");
        fs::rename(&away, &place.0).unwrap();
        place.write("a.yaml", &service("a", 22));
        assert_eq!(events(&look.settled()), ["+a:22"]);
    }

    #[test]
    fn asked_for_everything_is_read_as_it_is() {
        let place = Place::new("asked");
        place.write("a.yaml", &service("a", 1));
        let (mut look, _) = Look::new(&place);
        assert_eq!(events(&look.folder.look(look.now, Patience::None)), [""; 0]);
        place.write("b.yaml", &service("b", 2));
        place.remove("a.yaml");
        assert_eq!(events(&look.folder.look(look.now, Patience::None)), ["+b:2", "-a"]);
    }

    #[test]
    fn kinds_that_are_skipped_are_said_once() {
        let place = Place::new("skipped");
        place.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n");
        let (mut look, news) = Look::new(&place);
        assert_eq!(news.skipped, ["Deployment"]);
        assert_eq!(problems(&news), []);
        place.write("b.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n");
        assert_eq!(look.after(SETTLE).skipped, [""; 0]);
    }
}
