//! The list of a worker's tunnels: each knows its place, so that it leaves in one step, and a walk over all of them may be done in
//! steps between which others come and go.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

/// What is on a list, and where.
pub trait Placed {
    /// Kept by the list it is on.
    fn place(&self) -> &Cell<u32>;
}

/// The list. One thread's.
#[derive(Debug)]
pub struct Roll<T> {
    items: RefCell<Vec<Rc<T>>>,
    /// How many, from the first, the walk that is under way has passed.
    passed: Cell<usize>,
}

impl<T> Default for Roll<T> {
    fn default() -> Self {
        Self {
            items: RefCell::default(),
            passed: Cell::new(0),
        }
    }
}

impl<T: Placed> Roll<T> {
    pub fn add(&self, item: &Rc<T>) {
        let mut items = self.items.borrow_mut();
        item.place().set(items.len() as u32);
        items.push(Rc::clone(item));
    }

    pub fn remove(&self, item: &T) {
        let mut items = self.items.borrow_mut();
        let mut at = item.place().get() as usize;
        if !items.get(at).is_some_and(|listed| std::ptr::eq(&raw const **listed, item)) {
            return;
        }
        if let Some(last_passed) = self.passed.get().checked_sub(1).filter(|last| at <= *last) {
            // The gap is closed by one that has been passed too, so that the walk misses none and meets none twice.
            items.swap(at, last_passed);
            items[at].place().set(at as u32);
            self.passed.set(last_passed);
            at = last_passed;
        }
        items.swap_remove(at);
        if let Some(moved) = items.get(at) {
            moved.place().set(at as u32);
        }
        if items.capacity() > 4 * items.len().max(LEAST) {
            let len = items.len();
            items.shrink_to(2 * len);
        }
    }

    pub fn len(&self) -> usize {
        self.items.borrow().len()
    }

    /// Calls `look` for every one. It must not change the list.
    pub fn each(&self, look: impl FnMut(&Rc<T>)) {
        self.items.borrow().iter().for_each(look);
    }

    /// Calls `look` for every one of one slice out of `slices`.
    pub fn each_in(&self, slice: u32, slices: u32, look: impl FnMut(&Rc<T>)) {
        let items = self.items.borrow();
        items.iter().skip(slice as usize).step_by(slices as usize).for_each(look);
    }

    /// Begins a walk in steps. There is one at a time: a new one ends the one before.
    pub fn begin_walk(&self) {
        self.passed.set(0);
    }

    /// Calls `look` for the next ones, at most so many; false: that was the last step. Whoever is on the list from the first step to the
    /// last is met exactly once, however many come and go meanwhile.
    pub fn walk(&self, most: usize, look: impl FnMut(&Rc<T>)) -> bool {
        let items = self.items.borrow();
        let from = self.passed.get().min(items.len());
        let to = items.len().min(from.saturating_add(most));
        items[from..to].iter().for_each(look);
        let goes_on = to < items.len();
        self.passed.set(if goes_on { to } else { 0 }); // no places need be kept for a walk that is over
        goes_on
    }
}

/// A list of fewer gives no room back.
const LEAST: usize = 256;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    struct Item {
        name: u32,
        place: Cell<u32>,
    }

    impl Placed for Item {
        fn place(&self) -> &Cell<u32> {
            &self.place
        }
    }

    fn item(name: u32) -> Rc<Item> {
        Rc::new(Item {
            name,
            place: Cell::new(0),
        })
    }

    #[test]
    fn a_walk_meets_each_that_stays_once_whoever_comes_and_goes() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..500 {
            let roll = Roll::default();
            let mut there: Vec<Rc<Item>> = (0..random.u32(..40)).map(item).collect();
            there.iter().for_each(|item| roll.add(item));
            let mut staying: Vec<u32> = there.iter().map(|item| item.name).collect();
            let mut met: HashMap<u32, usize> = HashMap::new();
            roll.begin_walk();
            let mut name = 1000;
            while roll.walk(random.usize(1..6), |item| *met.entry(item.name).or_default() += 1) {
                for _ in 0..random.usize(..4) {
                    if random.bool() && !there.is_empty() {
                        let gone = there.swap_remove(random.usize(..there.len()));
                        roll.remove(&gone);
                        staying.retain(|name| *name != gone.name);
                    } else {
                        name += 1;
                        let new = item(name);
                        roll.add(&new);
                        there.push(new);
                    }
                }
            }
            assert!(staying.iter().all(|name| met[name] == 1), "{staying:?} {met:?}");
            assert!(met.values().all(|times| *times == 1), "{met:?}");
            let mut places = 0;
            roll.each(|item| {
                assert_eq!(item.place.get(), places);
                places += 1;
            });
            assert_eq!((places as usize, roll.len()), (there.len(), there.len()));
        }
    }

    #[test]
    fn slices_are_all_of_it_and_room_is_given_back() {
        let roll = Roll::default();
        let items: Vec<_> = (0..5000).map(item).collect();
        items.iter().for_each(|item| roll.add(item));
        let mut seen = 0;
        (0..16).for_each(|slice| roll.each_in(slice, 16, |_| seen += 1));
        assert_eq!(seen, 5000);
        items.iter().skip(10).for_each(|item| roll.remove(item));
        roll.remove(&items[4000]); // not there any more
        assert_eq!(roll.len(), 10);
        assert!(roll.items.borrow().capacity() <= 4 * LEAST);
    }
}
