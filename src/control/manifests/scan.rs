//! Finds the manifests below a path, and tells by their stamps which have changed.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use super::{Problem, whole};

/// Changes whenever the file is written, replaced, or another one is linked to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The manifests below a path.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// By path: the order in which objects that are there twice count.
    pub(super) files: BTreeMap<PathBuf, Stamp>,
    pub(super) problems: Vec<Problem>,
}

/// Looks below `root`, which may be a file too. Names that begin with a point are left out, symbolic links are followed: a
/// mounted ConfigMap is both.
///
/// # Errors
/// When `root` itself cannot be looked at.
pub(super) fn files(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let metadata = fs::metadata(root)?;
    if !metadata.is_dir() {
        found.files.insert(root.to_owned(), Stamp::of(&metadata));
        return Ok(found);
    }
    fs::read_dir(root)?;
    let mut seen = HashSet::new();
    walk(root, 0, &mut seen, &mut found);
    Ok(found)
}

impl Stamp {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether it is from the last moments, or from the future.
    pub(super) fn is_younger_than(&self, age: Duration) -> bool {
        let (seconds, nanos) = self.changed;
        let changed = Duration::new(
            u64::try_from(seconds).unwrap_or_default(),
            u32::try_from(nanos).unwrap_or_default(),
        );
        UNIX_EPOCH.elapsed().unwrap_or_default() < changed + age
    }
}

fn walk(folder: &Path, depth: usize, seen: &mut HashSet<(u64, u64)>, found: &mut Found) {
    // What goes away while it is looked at is gone.
    let Ok(metadata) = fs::metadata(folder) else { return };
    if !seen.insert((metadata.dev(), metadata.ino())) {
        return; // a link to a folder above
    }
    let Ok(entries) = fs::read_dir(folder) else {
        found.problems.push(whole(&Arc::from(folder), "the folder cannot be read"));
        return;
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths.into_iter().filter(|path| !is_hidden(path)) {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth < MAX_DEPTH {
                walk(&path, depth + 1, seen, found);
            }
        } else if metadata.is_file() && is_manifest(&path) {
            if found.files.len() >= MAX_FILES {
                found
                    .problems
                    .push(whole(&Arc::from(path), format!("left out: more than {MAX_FILES} files")));
                return;
            }
            found.files.insert(path, Stamp::of(&metadata));
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    ["yaml", "yml", "json"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(extension))
}

/// Folders in folders.
const MAX_DEPTH: usize = 16;
/// Files in one folder tree.
const MAX_FILES: usize = 10_000;
