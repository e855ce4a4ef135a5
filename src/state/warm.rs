//! Bringing into memory what a fold will need; and letting go of it at checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::checkpoint::Loaded;
use super::layer::{Layer, expires, waits};
use super::queue::{Queue, Sign};
use super::record::Record;
use super::table::{Known, Table};
use super::{Class, StoreFault};
use crate::model::{Key, Seq, Time};

type Warmed = Result<(), StoreFault>;

/// Entries are moved from a wheel to its front in such pieces.
const PIECE: usize = 1_024;
/// A settled generation is kept, to spare reads, while it has no more tasks than this.
const SETTLED_MAX: usize = 1 << 14;
/// What waits is read in such pieces; tests meet their ends often.
const FAR_PIECE: usize = if cfg!(test) { 3 } else { 4_096 };

fn is_finished(record: &Record, class: Class, at: Time) -> bool {
    Class::of(record.task.stage) == Some(class) && record.task.at == at
}

impl Table {
    /// The task with this key, if there is one, and the mark.
    pub(crate) fn warm_key(&mut self, key: &Key) -> Warmed {
        if matches!(self.look_mark(key), Known::Unknown)
            && let Some(mark) = self.store.mark(key)?
        {
            self.known_marks.insert(key.clone(), mark);
        }
        match self.look_up(key) {
            Known::Here(seq) => self.warm_seq(seq),
            Known::Gone => Ok(()),
            Known::Unknown => match self.store.seq(key)? {
                Some(seq) => {
                    self.known.insert(key.clone(), seq);
                    self.warm_seq(seq)
                }
                None => Ok(()),
            },
        }
    }

    pub(crate) fn warm_seq(&mut self, seq: Seq) -> Warmed {
        if matches!(self.look(seq), Known::Unknown)
            && let Some(record) = self.store.record(seq)?
        {
            self.clean[0].insert(seq, Box::new(record));
        }
        Ok(())
    }

    /// Waiting tasks due up to an instant: at least so many living ones, or all. Of those that are
    /// due at once no more are read than are needed; what the fold takes comes before the rest,
    /// and that there is a rest it sees by what was prepared beyond.
    pub(crate) fn warm_due(&mut self, until: Time, enough: usize) -> Warmed {
        let mut ready = 0;
        loop {
            let mut queue = std::mem::replace(&mut self.waiting, Queue::new());
            let warmed = self.warm_queue(&mut queue, until, ready, enough, waits);
            self.waiting = queue;
            ready = warmed?;
            if ready >= enough || self.has_reached(until) {
                return Ok(());
            }
            self.reach_piece(until)?;
        }
    }

    /// Tasks whose deadline has passed: at least so many living ones, or all.
    pub(crate) fn warm_deadlines(&mut self, now: Time, enough: usize) -> Warmed {
        let mut queue = std::mem::replace(&mut self.deadlines, Queue::new());
        let warmed = self.warm_queue(&mut queue, now, 0, enough, expires);
        self.deadlines = queue;
        warmed.map(drop)
    }

    /// Tasks whose deadline has passed, of those in front.
    pub(crate) fn late(&self, now: Time, max: usize) -> Vec<Seq> {
        let front = |last: Option<(Time, Seq)>| self.deadlines.front_after(last, now);
        let places = std::iter::successors(front(None), |place| front(Some(*place)));
        places.take(max).map(|(_, seq)| seq).collect()
    }

    /// Says how many living ones are in front, as far as `enough`. Of these `ready` are known.
    fn warm_queue(
        &mut self,
        queue: &mut Queue,
        until: Time,
        mut ready: usize,
        enough: usize,
        counts: fn(&Record, Time) -> bool,
    ) -> Result<usize, StoreFault> {
        let mut last = None;
        let looked_through = ready > 0;
        while !looked_through
            && ready < enough
            && let Some((at, seq)) = queue.front_after(last, until)
        {
            last = Some((at, seq));
            self.warm_seq(seq)?;
            match self.sign(seq, |record| counts(record, at)) {
                Sign::Alive => ready += 1,
                _ => queue.drop_front(at, seq),
            }
        }
        while ready < enough {
            let due = queue.pull(until, PIECE.min(enough));
            if due.is_empty() {
                break;
            }
            for (at, seq) in due {
                self.warm_seq(seq)?;
                let alive = self.sign(seq, |record| counts(record, at)) == Sign::Alive;
                if alive && queue.ready(at, seq) {
                    ready += 1;
                }
            }
        }
        Ok(ready)
    }

    /// Whether everything that waits until an instant is in the queue.
    pub(crate) fn has_reached(&self, until: Time) -> bool {
        Some((until, Seq(u64::MAX))) <= self.horizon
    }

    /// Puts the next of what waits behind the horizon, up to an instant, into the queue, in order,
    /// and moves the horizon behind it.
    pub(crate) fn reach_piece(&mut self, until: Time) -> Result<Loaded, StoreFault> {
        if self.has_reached(until) {
            return Ok(Loaded {
                tasks: 0,
                done: true,
            });
        }
        let sources = self.far(until, FAR_PIECE)?;
        // Behind the end of a source that was cut short, the others are not yet complete.
        let cut = sources.iter().filter(|places| places.len() == FAR_PIECE);
        let cut = cut.filter_map(|places| places.last()).min().copied();
        let end = cut.unwrap_or((until, Seq(u64::MAX)));
        // A task that went away from an instant and came back to it is in several of them.
        let piece = sources.into_iter().flatten().filter(|place| *place <= end);
        let piece: BTreeSet<(Time, Seq)> = piece.collect();
        for (at, seq) in &piece {
            self.dirty.far.remove(&(*at, *seq));
            self.waiting.insert(*at, *seq);
        }
        self.horizon = Some(end);
        Ok(Loaded {
            tasks: piece.len(),
            done: cut.is_none(),
        })
    }

    /// The first places behind the horizon, up to an instant: of the store and of each layer that
    /// it does not have.
    fn far(&self, until: Time, max: usize) -> Result<[Vec<(Time, Seq)>; 3], StoreFault> {
        let from = self.horizon.map_or(Bound::Unbounded, Bound::Excluded);
        let range = (from, Bound::Included((until, Seq(u64::MAX))));
        let layered = |layer: &Layer| layer.far.range(range).take(max).copied().collect();
        let frozen = self.frozen.as_deref().map_or_else(Vec::new, layered);
        let stored = self.store.far(self.horizon, until, max)?;
        Ok([stored, frozen, layered(&self.dirty)])
    }

    /// The first instant behind the horizon until which a task may wait.
    pub(crate) fn first_far(&self) -> Result<Option<Time>, StoreFault> {
        let end = Time(u64::MAX);
        if self.has_reached(end) {
            return Ok(None);
        }
        let first = self.far(end, 1)?.into_iter().flatten().min();
        Ok(first.map(|(at, _)| at))
    }

    /// Finished tasks of a class up to an instant: at least so many living ones, or all. Those of
    /// the layers are in memory anyway.
    pub(crate) fn warm_finished(&mut self, class: Class, until: Time, enough: usize) -> Warmed {
        let of = class as usize;
        while self.leaving[of].len() < enough {
            let rows = self.store.finished(class, self.cursor[of], until, PIECE)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            self.cursor[of] = Some(*last);
            for (at, seq) in rows {
                self.warm_seq(seq)?;
                if self.sign(seq, |record| is_finished(record, class, at)) == Sign::Alive {
                    self.leaving[of].insert((at, seq));
                }
            }
        }
        Ok(())
    }

    /// Whether the store may have finished tasks of a class up to an instant.
    pub(crate) fn may_leave(&self, class: Class, until: Time) -> Result<bool, StoreFault> {
        let mut after = self.cursor[class as usize];
        loop {
            let rows = self.store.finished(class, after, until, PIECE)?;
            let Some(last) = rows.last() else {
                return Ok(false);
            };
            after = Some(*last);
            let alive = |(at, seq): &(Time, Seq)| {
                self.sign(*seq, |record| is_finished(record, class, *at)) != Sign::Dead
            };
            if rows.iter().any(alive) {
                return Ok(true);
            }
        }
    }

    /// Marks up to an instant: at least so many, or all.
    pub(crate) fn warm_marks(&mut self, until: Time, enough: usize) -> Warmed {
        let shadowed = self.layers().map(|layer| layer.marks.len()).sum::<usize>();
        for (at, key) in self.store.marks_until(until, enough + shadowed)? {
            if matches!(self.look_mark(&key), Known::Unknown)
                && let Some(mark) = self.store.mark(&key)?
            {
                self.known_marks.insert(key.clone(), mark);
            }
            self.leaving_marks.insert((at, key));
        }
        Ok(())
    }

    /// Whether there may be marks up to an instant.
    pub(crate) fn may_drop_marks(&self, until: Time) -> Result<bool, StoreFault> {
        if self.old_marks(until, 0).1 {
            return Ok(true);
        }
        let shadowed = self.layers().map(|layer| layer.marks.len()).sum::<usize>();
        let stored = self.store.marks_until(until, shadowed + 1)?;
        Ok(stored
            .iter()
            .any(|(_, key)| !matches!(self.look_mark(key), Known::Gone)))
    }

    /// Open attempts of which the record is not in memory.
    pub(crate) fn warm_open(&mut self, chosen: impl Fn(u64) -> bool) -> Warmed {
        let open = self.open().iter().filter(|(_, open)| chosen(open.hash));
        let seqs: Vec<Seq> = open.map(|((_, seq), _)| *seq).collect();
        seqs.into_iter().try_for_each(|seq| self.warm_seq(seq))
    }

    // Generations.

    /// Freezes the dirty layer: a checkpoint writes it. What was read from the store two
    /// checkpoints ago is handed back, to be dropped outside of any lock.
    pub(crate) fn freeze(&mut self) -> (Arc<Layer>, BTreeMap<Seq, Box<Record>>) {
        let mut layer = std::mem::take(&mut self.dirty);
        layer.schedules = self.changed_schedules();
        let layer = Arc::new(layer);
        self.frozen = Some(layer.clone());
        self.known.clear();
        self.known_marks.clear();
        self.leaving = Default::default();
        self.leaving_marks.clear();
        self.cursor = [None; 2];
        self.clean.swap(0, 1);
        (layer, std::mem::take(&mut self.clean[0]))
    }

    /// The frozen layer is in the store now. What is not kept any more is handed back: the one
    /// that was settled before, and this one too when it is large, because memory must not follow
    /// a burst of submits until the next checkpoint comes.
    pub(crate) fn settle(&mut self) -> Result<Vec<Arc<Layer>>, StoreFault> {
        self.store.refresh()?;
        // What was found with the help of the settled layer must be found again without it.
        self.leaving = Default::default();
        self.leaving_marks.clear();
        self.cursor = [None; 2];
        let mut old: Vec<Arc<Layer>> = self.settled.take().into_iter().collect();
        match self.frozen.take() {
            Some(layer) if layer.cells.len() + layer.past.len() <= SETTLED_MAX => {
                self.settled = Some(layer);
            }
            layer => old.extend(layer),
        }
        Ok(old)
    }
}
