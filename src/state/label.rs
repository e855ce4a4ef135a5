//! Labels as the index has them.
//!
//! For each label of each task there is a row (label, key) → number, so that the tasks with one
//! label lie side by side, in the order of a list. It follows from the records, is no part of the
//! state hash, and nothing that is folded reads it.

use std::ops::Bound;

use crate::model::{Key, Spec};

/// A hash of a label's name and value. Whoever follows the index looks at the record as well, so
/// that two labels with one hash would cost a look, and show nothing wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Label(pub(crate) u128);

impl Label {
    pub(crate) fn new(name: &str, value: &str) -> Label {
        let seed = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
        Label(xxhash_rust::xxh3::xxh3_128_with_seed(
            value.as_bytes(),
            seed,
        ))
    }

    /// Where the rows of this label begin that lie after a key.
    pub(crate) fn after(self, key: Option<&Key>) -> Bound<(Label, Key)> {
        match key {
            Some(key) => Bound::Excluded((self, key.clone())),
            None => Bound::Included((
                self,
                Key {
                    app: "".into(),
                    id: "".into(),
                },
            )),
        }
    }
}

/// The labels of an encoded spec, each once.
pub(crate) fn labels(spec: &[u8]) -> Vec<Label> {
    let named = Spec::labels_of(spec).into_iter();
    let mut labels: Vec<Label> = named.map(|(name, value)| Label::new(name, value)).collect();
    labels.sort_unstable();
    labels.dedup();
    labels
}
