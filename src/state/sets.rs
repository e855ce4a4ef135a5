//! Named shard sets: kept here, filled, and handed out shard by shard.
//!
//! They are views: nothing about a task changes with them, and none of them moves one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Entry, State};
use crate::model::limits::SHARD_SETS_MAX;
use crate::model::{Fill, FillSets, MakeSet, Outcome, PopShard, Refusal, ShardSet};

/// By name; the default set is among them once it was filled.
pub(super) type Sets = BTreeMap<Arc<str>, ShardSet>;

impl State {
    /// Makes a set, gives it another number of shards, or removes it.
    pub(super) fn make_set(&mut self, event: MakeSet) -> Outcome {
        let name = &*event.name;
        if name == ShardSet::DEFAULT {
            return match event.total == Some(self.shard_total()) {
                true => shown(self.default_set()),
                false => Outcome::Refused(Refusal::DefaultSet {
                    held: self.shard_total(),
                }),
            };
        }
        let Some(total) = event.total else {
            return match self.core.sets.remove(name) {
                Some(set) => shown(set),
                None => Outcome::Refused(Refusal::NoSet),
            };
        };
        let known = self.core.sets.contains_key(name);
        if ShardSet::check(name, total).is_err() || !known && self.core.sets.len() >= SHARD_SETS_MAX
        {
            return Outcome::Refused(Refusal::TooManySets);
        }
        let new = || ShardSet::new(event.name.clone(), total);
        let set = self.core.sets.entry(event.name.clone()).or_insert_with(new);
        set.total = total;
        shown(set.clone())
    }

    /// Makes the tasks of the coming time available, in one set or in all of them: each shard is
    /// handed out anew.
    pub(super) fn fill_sets(&mut self, entry: Entry, event: &FillSets) -> Outcome {
        let (until, default) = (entry.now.plus(event.window), self.default_set());
        let all = event.name.is_none();
        if all || event.name.as_deref() == Some(ShardSet::DEFAULT) {
            self.core.sets.insert(default.name.clone(), default);
        }
        let named = |set: &&mut ShardSet| all || event.name.as_ref() == Some(&set.name);
        let mut count = 0;
        for set in self.core.sets.values_mut().filter(named) {
            set.fill = Some(Fill {
                index: entry.index,
                total: set.total,
                until,
                next: 0,
            });
            count += 1;
        }
        match count {
            0 => Outcome::Refused(Refusal::NoSet),
            count => Outcome::Counted { count, more: false },
        }
    }

    /// Hands out the next shard of a set's last fill, each once.
    pub(super) fn pop_shard(&mut self, event: &PopShard) -> Outcome {
        if self.set(&event.name).is_none() {
            return Outcome::Refused(Refusal::NoSet);
        }
        let set = self.core.sets.get_mut(&event.name);
        let filled = set.and_then(|set| Some((set.fill?, set)));
        let Some((mut fill, set)) = filled else {
            return Outcome::Refused(Refusal::NotFilled);
        };
        let popped = (fill.next < fill.total).then_some(fill.next);
        fill.next = fill.total.min(fill.next.saturating_add(1));
        set.fill = Some(fill);
        Outcome::Set {
            set: Box::new(set.clone()),
            popped,
        }
    }

    fn default_set(&self) -> ShardSet {
        let known = self.core.sets.get(ShardSet::DEFAULT).cloned();
        known.unwrap_or_else(|| ShardSet::new(ShardSet::DEFAULT.into(), self.shard_total()))
    }

    /// A set by its name.
    pub fn set(&self, name: &str) -> Option<ShardSet> {
        match name == ShardSet::DEFAULT {
            true => Some(self.default_set()),
            false => self.core.sets.get(name).cloned(),
        }
    }

    /// Every set, the default one first.
    pub fn sets(&self) -> Vec<ShardSet> {
        let others = self.core.sets.values();
        let others = others.filter(|set| &*set.name != ShardSet::DEFAULT);
        std::iter::once(self.default_set())
            .chain(others.cloned())
            .collect()
    }
}

fn shown(set: ShardSet) -> Outcome {
    Outcome::Set {
        set: Box::new(set),
        popped: None,
    }
}
