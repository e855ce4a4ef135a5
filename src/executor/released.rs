//! What this node has let go of, until the log gives it to another one.
//!
//! A leader that moves a shard asks its owner to begin nothing more there, and then assigns it. In
//! between the shard belongs to nobody. Should that leader lose its place before its event is in
//! the log, the shard stays here: an entry of a newer term takes the promise back, because no event
//! of the older one can follow it.

use std::collections::{BTreeMap, HashMap};

use super::attempts::Id;
use crate::model::{Epoch, Shard};
use crate::state::Release;

/// See the module.
#[derive(Default)]
pub(super) struct Released {
    /// By the total that a shard is one of, and the shard: the last epoch, and the term of the
    /// leader that asked.
    totals: BTreeMap<u16, HashMap<Shard, (Epoch, u64)>>,
    /// The term that the log has reached.
    term: u64,
}

impl Released {
    /// Notes a promise; none to a leader of an older term, which has slept and does not know it:
    /// nothing that it proposes comes into the log any more, and nobody would take the promise back.
    pub fn add(&mut self, release: &Release) {
        if release.term < self.term {
            return;
        }
        let shards = self.totals.entry(release.total).or_default();
        for shard in &release.shards {
            let promise = shards.entry(*shard).or_default();
            *promise = (*promise).max((release.epoch, release.term));
        }
    }

    /// Whether an attempt, of a key with this hash, must not begin.
    pub fn has(&self, id: Id, hash: u64) -> bool {
        self.totals.iter().any(|(total, shards)| {
            let promise = shards.get(&Shard::of(hash, *total));
            promise.is_some_and(|(epoch, _)| id.1.epoch <= *epoch)
        })
    }

    /// The log has an entry of this term: what older leaders asked for is void, unless their event
    /// came before. Says whether there was anything.
    pub fn forget_before(&mut self, term: u64) -> bool {
        self.term = self.term.max(term);
        let mut forgotten = false;
        self.totals.retain(|_, shards| {
            let before = shards.len();
            shards.retain(|_, (_, of)| *of >= term);
            forgotten |= shards.len() < before;
            !shards.is_empty()
        });
        forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fence, Seq};

    fn id(epoch: u32) -> Id {
        let epoch = Epoch(epoch);
        (Seq(1), Fence { epoch, attempt: 1 })
    }

    #[test]
    fn a_promise_holds_for_its_shards_and_epochs_until_a_newer_term() {
        let mut released = Released::default();
        released.add(&Release {
            term: 3,
            total: 64,
            shards: vec![Shard(5)],
            epoch: Epoch(7),
        });
        assert!(released.has(id(7), 64 + 5) && released.has(id(2), 5));
        assert!(!released.has(id(8), 5), "it came back under a newer epoch");
        assert!(!released.has(id(7), 6), "another shard");
        assert!(!released.forget_before(3) && released.has(id(7), 5));
        assert!(released.forget_before(4) && !released.has(id(7), 5));
    }

    /// A leader that was stopped for eight seconds asked the others to let go, a term too late, and
    /// what they held fell due in vain until the next term.
    #[test]
    fn a_leader_of_an_older_term_is_promised_nothing() {
        let mut released = Released::default();
        released.forget_before(4);
        let release = |term| Release {
            term,
            total: 64,
            shards: vec![Shard(5)],
            epoch: Epoch(7),
        };
        released.add(&release(3));
        assert!(!released.has(id(7), 5));
        released.add(&release(4));
        assert!(released.has(id(7), 5));
    }
}
