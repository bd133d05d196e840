//! Names that become label values: as many as allowed get a number of their own, the rest share `other`.

use parking_lot::RwLock;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// What all names beyond the bound are called.
pub(crate) const OTHER: &str = "other";
/// Longer names are cut: a label is no place for a text.
const LONGEST: usize = 100;

/// Numbers for names, first come first served: a series that exists never changes its meaning.
pub(crate) struct Bounded {
    most: usize,
    names: RwLock<HashMap<Box<str>, u32>>,
    folded: AtomicU64,
}

impl Bounded {
    /// At most `most` names, and `other`, which has the number 0.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            names: RwLock::default(),
            folded: AtomicU64::new(0),
        }
    }

    /// The name's number. Allocates only for a name that is new.
    pub(crate) fn number(&self, name: &str) -> u32 {
        let name = cut(name, LONGEST);
        if let Some(number) = self.names.read().get(name) {
            return *number;
        }
        let mut names = self.names.write();
        if let Some(number) = names.get(name) {
            return *number;
        }
        if names.len() >= self.most {
            self.folded.fetch_add(1, Ordering::Relaxed);
            return 0;
        }
        let number = names.len() as u32 + 1;
        names.insert(name.into(), number);
        number
    }

    /// All names by their number, `other` first.
    pub(crate) fn list(&self) -> Vec<String> {
        let names = self.names.read();
        let mut list = vec![OTHER.to_owned(); names.len() + 1];
        for (name, number) in names.iter() {
            list[*number as usize] = name.to_string();
        }
        list
    }

    /// How often a name found no room.
    pub(crate) fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }
}

/// The beginning of a text, at most `most` bytes of it.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beyond_the_bound_share_one_number() {
        let names = Bounded::new(2);
        assert_eq!([names.number("a"), names.number("b"), names.number("c")], [1, 2, 0]);
        assert_eq!([names.number("b"), names.number("d")], [2, 0]);
        assert_eq!(names.list(), [OTHER, "a", "b"]);
        assert_eq!(names.folded(), 2);
    }

    #[test]
    fn a_long_name_is_cut_at_a_character() {
        let names = Bounded::new(1);
        names.number(&"ä".repeat(80));
        assert_eq!(names.list()[1].len(), 100);
    }
}
