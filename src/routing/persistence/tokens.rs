//! Which token names which endpoint of a rule.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use super::{Token, rule_hasher};
use crate::routing::{
    balancer::{Own, Sets},
    endpoint::EndpointSet,
    route::Rule,
};

/// The tokens of all members of a rule's sets, as the sets were when it was made. Holds no endpoint.
#[derive(Debug)]
pub(in crate::routing) struct Tokens {
    made_of: Box<[Option<Weak<EndpointSet>>]>,
    /// Backend, and place among the members of its set. Of an endpoint in two of them the first.
    places: HashMap<Token, (usize, usize)>,
}

impl Tokens {
    /// The index for `sets`: the rule's own if it is of them, else one that is made now and kept.
    pub(super) fn current(rule: &Rule, sets: &Sets) -> Arc<Self> {
        let kept = rule.cursor.tokens();
        if let Some(tokens) = kept.load_full().filter(|tokens| tokens.is_of(sets)) {
            return tokens;
        }
        let tokens = Arc::new(Self::new(rule, sets));
        kept.store(Some(Arc::clone(&tokens)));
        tokens
    }

    /// The member of `sets`, which the index must be of, that a token names.
    pub(super) fn find(&self, token: Token, sets: &Sets) -> Option<Own> {
        let &(backend, member) = self.places.get(&token)?;
        let set = sets.get(backend)?.as_ref()?;
        let (endpoint, state) = set.members().get(member)?;
        Some(Own {
            endpoint: Arc::clone(endpoint),
            usable: set.takes(*state),
        })
    }

    fn new(rule: &Rule, sets: &Sets) -> Self {
        let hasher = rule_hasher("holdfast cookie", &rule.id);
        let mut places = HashMap::new();
        for (backend, set) in sets.iter().enumerate() {
            for (member, (endpoint, _)) in set.iter().flat_map(|set| set.members()).enumerate() {
                let token = Token::after(hasher.clone(), endpoint);
                places.entry(token).or_insert((backend, member));
            }
        }
        Self {
            made_of: sets.iter().map(|set| set.as_ref().map(Arc::downgrade)).collect(),
            places,
        }
    }

    /// A `Weak` keeps its address from being used again, so that equal addresses are the same set.
    fn is_of(&self, sets: &Sets) -> bool {
        let same = |(mine, set): (&Option<Weak<EndpointSet>>, &Option<Arc<EndpointSet>>)| match (mine, set) {
            (Some(mine), Some(set)) => std::ptr::eq(mine.as_ptr(), Arc::as_ptr(set)),
            (None, None) => true,
            _ => false,
        };
        self.made_of.len() == sets.len() && self.made_of.iter().zip(sets).all(same)
    }
}
