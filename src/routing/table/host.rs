//! The rules of one host, indexed by path.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::{Entry, EntryId};
use crate::routing::matching::{Handshake, PathMatch};

/// Entries by what their paths have in common. Each group is in order of precedence once sorted.
#[derive(Debug)]
pub(super) struct HostRules {
    exact: HashMap<Box<str>, Vec<EntryId>>,
    regexes: Vec<EntryId>,
    /// Prefixes by whole elements. The first node is the root: the prefix `/`.
    nodes: Vec<Node>,
}

/// The prefix that the elements on the way to this node make up.
#[derive(Debug, Default)]
struct Node {
    entries: Vec<EntryId>,
    /// Places in [`HostRules::nodes`] by the next element.
    children: HashMap<Box<str>, usize>,
}

impl Default for HostRules {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            regexes: Vec::new(),
            nodes: vec![Node::default()],
        }
    }
}

impl HostRules {
    pub(super) fn add(&mut self, path: &PathMatch, id: EntryId) {
        match path {
            PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().push(id),
            PathMatch::Regex(_) => self.regexes.push(id),
            PathMatch::Prefix(prefix) => {
                if let Some(node) = self.node(prefix) {
                    self.nodes[node].entries.push(id);
                }
            }
        }
    }

    /// Brings each group into order, once all entries are there.
    pub(super) fn sort(&mut self, entries: &[Entry]) {
        let prefixes = self.nodes.iter_mut().map(|node| &mut node.entries);
        for group in self.exact.values_mut().chain([&mut self.regexes]).chain(prefixes) {
            group.sort_by_cached_key(|&id| entries[id].precedence(id));
            group.shrink_to_fit();
        }
    }

    /// The entry that serves a handshake.
    pub(super) fn find<'a>(&self, handshake: &Handshake<'_>, entries: &'a [Entry]) -> Option<&'a Entry> {
        let met = |&id: &EntryId| entries[id].conditions.unmet(handshake).is_none();
        let matches = |id: &EntryId| entries[*id].conditions.path.matches(handshake.path) && met(id);
        let exact = || self.exact.get(handshake.path)?.iter().find(|id| met(id));
        let regex = || self.regexes.iter().find(|id| matches(id));
        let prefix = || {
            self.prefixes_of(handshake.path)
                .into_iter()
                .rev()
                .flatten()
                .find(|id| met(id))
        };
        exact().or_else(regex).or_else(prefix).map(|&id| &entries[id])
    }

    /// In order of precedence.
    pub(super) fn regexes(&self) -> &[EntryId] {
        &self.regexes
    }

    /// All entries, in groups with the same exact path or prefix; all regular expressions are one group.
    pub(super) fn groups(&self) -> impl Iterator<Item = &[EntryId]> {
        let prefixes = self.nodes.iter().map(|node| &node.entries);
        let groups = self.exact.values().chain([&self.regexes]).chain(prefixes);
        groups.map(Vec::as_slice).filter(|group| !group.is_empty())
    }

    /// The groups of all prefixes of a path, the shortest first. One walk, so that no path costs more than its length.
    fn prefixes_of(&self, path: &str) -> SmallVec<[&[EntryId]; 8]> {
        let mut groups = SmallVec::new();
        let mut node = &self.nodes[0];
        let mut elements = path.strip_prefix('/').unwrap_or(path).split('/');
        loop {
            if !node.entries.is_empty() {
                groups.push(node.entries.as_slice());
            }
            let child = elements.next().and_then(|element| node.children.get(element));
            let Some(&child) = child else { return groups };
            node = &self.nodes[child];
        }
    }

    /// The node of a prefix, made if need be. `None`: it is no path.
    fn node(&mut self, prefix: &str) -> Option<usize> {
        let below = prefix.strip_prefix('/')?;
        let mut at = 0;
        for element in below.split('/').filter(|_| !below.is_empty()) {
            let next = self.nodes.len();
            at = *self.nodes[at].children.entry(element.into()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        Some(at)
    }
}
