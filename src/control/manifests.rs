//! Manifests in files: what a folder has instead of an API server.
//!
//! [`read`] reads once, for commands; [`follow`] keeps reading, for a process that serves. Both make the same objects, and
//! refuse what an API server would refuse, with the file, the line and the field. Kinds that routes are not made of are
//! skipped, so that an application's whole folder can be given.

mod decode;
mod folder;
mod follow;
mod scan;
mod yaml;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(in crate::control) use follow::{Follower, follow};
pub use yaml::Span;
pub(super) use yaml::documents;

use super::{
    object::{Key, Object},
    path::{Fault, FieldPath},
};
use decode::Decoded;
use yaml::Node;

/// Where an object stands.
#[derive(Clone, Debug)]
pub struct Origin {
    pub file: Arc<Path>,
    node: Node,
}

/// A place in a file. Displays as `route.yaml:31`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub file: Arc<Path>,
    pub span: Span,
}

/// Something wrong with a file or with an object in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line 0: the file as a whole.
    pub location: Location,
    /// The object, where it says who it is.
    pub object: Option<Key>,
    pub fault: Fault,
    pub kind: ProblemKind,
}

/// What sort of problem it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// A file, or an object of unknown name, cannot be read.
    Unreadable,
    /// An API server would refuse the object.
    Refused,
    /// The object is there already, in another place that goes first.
    Twice,
}

/// What a file or a folder has in it.
#[derive(Debug, Default)]
pub struct Manifests {
    /// In order of their places, each once.
    pub objects: Vec<(Object, Location)>,
    pub problems: Vec<Problem>,
    /// Objects of kinds that routes are not made of.
    pub skipped: usize,
}

/// Reads files and folders.
///
/// # Errors
/// When one of the paths cannot be read at all. What is wrong inside is in `problems`.
pub fn read(paths: &[PathBuf]) -> io::Result<Manifests> {
    let mut manifests = Manifests::default();
    let mut first: std::collections::HashMap<Key, Location> = std::collections::HashMap::new();
    for path in paths {
        let found = scan::files(path)?;
        manifests.problems.extend(found.problems);
        for file in found.files.into_keys() {
            let contents = contents(&file);
            manifests.skipped += contents.skipped.len();
            manifests.problems.extend(contents.problems);
            for (object, location) in contents.objects {
                let key = object.key();
                if let Some(first) = first.get(&key) {
                    manifests.problems.push(twice(key, location, first));
                } else {
                    first.insert(key, location.clone());
                    manifests.objects.push((object, location));
                }
            }
        }
    }
    Ok(manifests)
}

/// Whether a folder, or a file, can be read at all.
///
/// # Errors
/// When it cannot.
pub(super) fn probe(root: &Path) -> io::Result<()> {
    if fs::metadata(root)?.is_dir() {
        fs::read_dir(root)?;
    } else {
        fs::File::open(root)?;
    }
    Ok(())
}

impl Origin {
    /// Where what is wrong stands.
    pub fn locate(&self, fault: &Fault) -> Location {
        self.location(&fault.path, fault.at_name)
    }

    fn location(&self, path: &FieldPath, at_name: bool) -> Location {
        Location {
            file: Arc::clone(&self.file),
            span: self.node.locate(path, at_name),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.span.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}", self.file.display()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Some(object) => write!(f, "{}: {object}: {}", self.location, self.fault),
            None => write!(f, "{}: {}", self.location, self.fault),
        }
    }
}

/// What one file has in it.
#[derive(Debug, Default)]
struct Contents {
    objects: Vec<(Object, Location)>,
    problems: Vec<Problem>,
    /// The kinds of the objects that were.
    skipped: Vec<String>,
    /// Some document could not be read as far as its name: which objects it was meant to have is not known.
    is_broken: bool,
}

fn contents(file: &Path) -> Contents {
    let file: Arc<Path> = Arc::from(file);
    match text(&file) {
        Ok(text) => parse(&text, &file),
        Err(error) => Contents {
            problems: vec![whole(&file, error.to_string())],
            is_broken: true,
            ..Contents::default()
        },
    }
}

fn text(file: &Path) -> io::Result<String> {
    let length = fs::metadata(file)?.len();
    if length > MAX_BYTES {
        return Err(io::Error::other(format!(
            "{length} bytes are more than a manifest may have ({MAX_BYTES})"
        )));
    }
    let bytes = fs::read(file)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::other(format!("byte {at} is not UTF-8"))
    })
}

fn parse(text: &str, file: &Arc<Path>) -> Contents {
    let mut contents = Contents::default();
    match yaml::documents(text) {
        Ok(documents) => documents.into_iter().for_each(|document| contents.take(document, file, 0)),
        Err(error) => {
            let location = Location {
                file: Arc::clone(file),
                span: error.span,
            };
            contents.problems.push(Problem {
                location,
                object: None,
                fault: Fault::new(FieldPath::default(), error.message),
                kind: ProblemKind::Unreadable,
            });
            contents.is_broken = true;
        }
    }
    contents
}

impl Contents {
    fn take(&mut self, node: Node, file: &Arc<Path>, depth: usize) {
        let is_list = node
            .get("kind")
            .and_then(Node::text)
            .is_some_and(|kind| kind.ends_with("List"))
            && node.get("items").is_some();
        if is_list && depth < MAX_LISTS {
            for item in node.get("items").map(Node::items).unwrap_or_default() {
                self.take(item.clone(), file, depth + 1);
            }
            return;
        }
        let (key, decoded) = decode::decode(node.value());
        let origin = Origin {
            file: Arc::clone(file),
            node,
        };
        match decoded {
            Decoded::Skipped(kind) => self.skipped.push(kind),
            Decoded::Object(object) => {
                let location = origin.location(&FieldPath::of(["metadata", "name"]), false);
                self.objects.push((with_origin(object, origin), location));
            }
            Decoded::Refused(faults) => {
                self.is_broken |= key.is_none();
                let kind = if key.is_some() {
                    ProblemKind::Refused
                } else {
                    ProblemKind::Unreadable
                };
                self.problems.extend(faults.into_iter().map(|fault| Problem {
                    location: origin.locate(&fault),
                    object: key.clone(),
                    fault,
                    kind,
                }));
            }
        }
    }
}

fn with_origin(object: Object, origin: Origin) -> Object {
    match object {
        Object::Route(mut route) => {
            Arc::make_mut(&mut route).origin = Some(Arc::new(origin));
            Object::Route(route)
        }
        other => other,
    }
}

fn whole(file: &Arc<Path>, message: impl Into<String>) -> Problem {
    Problem {
        location: Location {
            file: Arc::clone(file),
            span: Span::default(),
        },
        object: None,
        fault: Fault::new(FieldPath::default(), message),
        kind: ProblemKind::Unreadable,
    }
}

fn twice(key: Key, location: Location, first: &Location) -> Problem {
    Problem {
        location,
        object: Some(key),
        fault: Fault::new(
            FieldPath::default(),
            format!("the same object is in {first}, which goes first"),
        ),
        kind: ProblemKind::Twice,
    }
}

/// A manifest is text that a person or a program wrote; more is a mistake.
const MAX_BYTES: u64 = 16 << 20;
/// Lists in lists.
const MAX_LISTS: usize = 4;

/// The objects of a text, for tests of what takes objects.
///
/// # Panics
/// When something is wrong with it.
#[cfg(test)]
pub(super) fn objects(text: &str) -> Vec<Object> {
    let contents = parse(text, &Arc::from(Path::new("test.yaml")));
    assert_eq!(contents.problems, []);
    contents.objects.into_iter().map(|(object, _)| object).collect()
}
