//! Tasks near and far against a model that is a map: by id, and by lists with every filter, while
//! they are submitted, changed, cancelled, finished and dropped, and while checkpoints are made,
//! walks are under way and the node starts again.
//!
//! The model knows four stages and no disk. The fold must answer each event as the model does, and
//! each page must be what the model has behind the cursor at that moment.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::super::tests;
use super::super::{Filter, MemoryStore, RedbStore, State, Store};
use super::draw;
use crate::model::*;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const APPS: [&str; 3] = ["a", "a-b", "b"];
/// Names and values of labels; not every combination of them is ever used.
const NAMES: [&str; 2] = ["order", "orders"];
const VALUES: [&str; 3] = ["1", "17", "7"];

/// One thing that happens. Small numbers pick keys, labels and instants among a few.
#[derive(Clone, Debug)]
enum Step {
    Submit {
        key: u8,
        due: u64,
        labels: u8,
    },
    Change {
        key: u8,
        due: Option<u64>,
        labels: Option<u8>,
    },
    Cancel {
        key: u8,
    },
    Done {
        key: u8,
    },
    /// Time passes, and what is due is triggered.
    Pass {
        ms: u64,
    },
    /// What ended so long ago is dropped.
    Retire {
        age: u64,
        max: u32,
    },
    /// A checkpoint begins, or the one under way ends.
    Checkpoint,
    /// All of memory that can go goes to the store.
    Cool {
        seed: u64,
    },
    /// The process ends and starts again, on what its last checkpoint left and on the log.
    Restart,
    /// A page of a walk that was begun earlier, or the first of another one.
    Page {
        filter: Wanted,
        limit: usize,
    },
}

/// A filter as small numbers.
#[derive(Clone, Debug)]
struct Wanted {
    app: Option<u8>,
    stage: Option<u8>,
    labels: [Option<u8>; 2],
    due: Option<(u64, u64)>,
}

fn due() -> impl Strategy<Value = u64> {
    // Within the minute, within the window, far.
    prop_oneof![0..HOUR / 60, 0..HOUR, HOUR..40 * DAY].prop_map(|ms| ms / 500 * 500)
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let labels = || prop::array::uniform2(prop::option::weighted(0.6, 0u8..3));
    let due = prop::option::weighted(0.3, (due(), due()));
    let app = prop::option::weighted(0.3, 0u8..4);
    let stage = prop::option::weighted(0.3, 0u8..8);
    (app, stage, labels(), due).prop_map(|(app, stage, labels, due)| Wanted {
        app,
        stage,
        labels,
        due,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0u8..30;
    prop_oneof![
        12 => (key(), due(), 0u8..16).prop_map(|(key, due, labels)| Step::Submit { key, due, labels }),
        5 => (key(), prop::option::of(due()), prop::option::of(0u8..16))
            .prop_map(|(key, due, labels)| Step::Change { key, due, labels }),
        3 => key().prop_map(|key| Step::Cancel { key }),
        3 => key().prop_map(|key| Step::Done { key }),
        3 => prop_oneof![0..HOUR, 0..10 * DAY].prop_map(|ms| Step::Pass { ms }),
        2 => (0..12 * DAY, 0u32..4).prop_map(|(age, max)| Step::Retire { age, max }),
        4 => Just(Step::Checkpoint),
        2 => any::<u64>().prop_map(|seed| Step::Cool { seed }),
        1 => Just(Step::Restart),
        12 => (wanted(), 1usize..5).prop_map(|(filter, limit)| Step::Page { filter, limit }),
    ]
}

fn key(n: u8) -> Key {
    let id = char::from(b'a' + n / 3 % 10).to_string();
    Key::new(APPS[usize::from(n % 3)], &id).unwrap()
}

/// Up to two labels: 0 is none, 1–3 a value of the name.
fn spec(labels: u8) -> Spec {
    let picked = [labels % 4, labels / 4].into_iter().zip(NAMES);
    let labels = picked
        .filter(|(value, _)| *value > 0)
        .map(|(value, name)| (name.into(), VALUES[usize::from(value) - 1].into()));
    Spec {
        labels: labels.collect(),
        ..tests::spec()
    }
}

impl Wanted {
    fn filter(&self, now: u64) -> Filter {
        let picked = self.labels.iter().zip(NAMES);
        let labels = picked
            .filter_map(|(value, name)| Some((name, (*value)?)))
            .map(|(name, value)| (name.into(), VALUES[usize::from(value)].into()));
        Filter {
            // The last one is no application at all, but the beginning of some.
            app: self.app.map(|app| {
                let named = APPS.get(usize::from(app));
                named.copied().unwrap_or("a-").to_string()
            }),
            stage: self.stage.map(|stage| Stage::ALL[usize::from(stage)]),
            labels: labels.collect(),
            due_from: self.due.map(|(from, _)| Time(now + from)),
            due_to: self.due.map(|(_, to)| Time(now + to)),
        }
    }
}

/// A task as the model knows it.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    seq: u64,
    /// What was first sent.
    digest: Digest,
    stage: Stage,
    due: u64,
    labels: BTreeMap<String, String>,
    finished: u64,
}

impl Known {
    fn is_wanted(&self, key: &Key, filter: &Filter) -> bool {
        filter.app.as_deref().is_none_or(|app| app == &*key.app)
            && filter.stage.is_none_or(|stage| stage == self.stage)
            && filter.due_from.is_none_or(|from| self.due >= from.0)
            && filter.due_to.is_none_or(|to| self.due < to.0)
            && (filter.labels.iter()).all(|(name, value)| self.labels.get(name) == Some(value))
    }

    fn shows(&self, task: &Task) -> bool {
        (task.seq.0, task.digest, task.stage, task.due.0)
            == (self.seq, self.digest, self.stage, self.due)
            && Spec::decode(&task.spec).is_ok_and(|spec| spec.labels == self.labels)
    }
}

/// A walk over a list, page by page, while other things happen.
struct Walk {
    filter: Filter,
    after: Option<Key>,
    seen: Vec<Key>,
    /// Those that were there when it began, and have matched ever since.
    due: BTreeMap<Key, u64>,
}

/// Where the state under test keeps what is far.
enum Place {
    Memory(MemoryStore),
    Disk(tempfile::TempDir),
}

impl Place {
    fn store(&self) -> Box<dyn Store> {
        match self {
            Place::Memory(store) => Box::new(store.clone()),
            Place::Disk(_) => Box::new(RedbStore::open(&self.path()).unwrap()),
        }
    }

    fn path(&self) -> PathBuf {
        match self {
            Place::Memory(_) => PathBuf::new(),
            Place::Disk(dir) => dir.path().join("state.redb"),
        }
    }
}

/// The state under test beside the model.
struct Pair {
    state: Option<State>,
    place: Place,
    model: BTreeMap<Key, Known>,
    next_seq: u64,
    now: u64,
    log: Vec<Batch>,
    under_way: Option<super::Checkpoint>,
    walk: Option<Walk>,
    /// How often something worth testing happened.
    met: BTreeMap<&'static str, u32>,
}

impl Pair {
    fn new(place: Place) -> Pair {
        let mut pair = Pair {
            state: Some(State::new(place.store())),
            place,
            model: BTreeMap::new(),
            next_seq: 1,
            now: 1_790_000_000_000,
            log: Vec::new(),
            under_way: None,
            walk: None,
            met: BTreeMap::new(),
        };
        pair.fold(tests::assign_all(1, 1).into());
        pair
    }

    fn state(&mut self) -> &mut State {
        self.state.as_mut().unwrap()
    }

    fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
    }

    fn fold(&mut self, event: Event) -> Outcome {
        let (stamp, now) = (Time(self.now), Time(self.now));
        let events = vec![event];
        let batch = Batch { stamp, now, events };
        self.log.push(batch.clone());
        let index = self.log.len() as u64;
        fold(self.state(), index, batch).remove(0)
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Submit {
                key: n,
                due,
                labels,
            } => self.submit(key(n), due, labels),
            Step::Change {
                key: n,
                due,
                labels,
            } => self.change(key(n), due, labels),
            Step::Cancel { key: n } => self.cancel(key(n)),
            Step::Done { key: n } => self.done(key(n)),
            Step::Pass { ms } => self.pass(ms),
            Step::Retire { age, max } => self.retire(age, max),
            Step::Checkpoint => self.checkpoint(),
            Step::Cool { seed } => {
                if self.under_way.is_none() {
                    let dropped = self
                        .state()
                        .cool(|task| !draw(seed, 0, task.seq.0).is_multiple_of(3));
                    if dropped > 0 {
                        self.meet("cooled");
                    }
                }
            }
            Step::Restart => self.restart(),
            Step::Page { ref filter, limit } => {
                self.page(filter, limit);
                self.whole(filter, limit);
            }
        }
        self.follow();
    }

    fn submit(&mut self, key: Key, due: u64, labels: u8) {
        // The first content again, now and then.
        let known = self.model.get(&key).cloned();
        let (when, spec) = match &known {
            Some(known) if labels.is_multiple_of(2) => {
                let labels = known.labels.clone();
                (When::At(Time(known.due)), Spec { labels, ..spec(0) })
            }
            _ => (When::At(Time(self.now + due)), spec(labels)),
        };
        if known.is_some() && self.only_on_disk(&key) {
            self.meet("submit of an id that lies only on disk");
        }
        let encoded = spec.encode();
        let digest = Spec::digest(&encoded, when);
        let outcome = self.fold(Event::from(Submit {
            key: key.clone(),
            when,
            digest,
            spec: encoded,
            by: tests::by(),
        }));
        match known {
            None => {
                let known = Known {
                    seq: self.next_seq,
                    digest,
                    stage: Stage::Scheduled,
                    due: when.resolve(Time(self.now)).0,
                    labels: spec.labels,
                    finished: 0,
                };
                self.next_seq += 1;
                self.model.insert(key.clone(), known);
                self.trigger();
                assert!(matches!(outcome, Outcome::Task { new: true, .. }));
                self.shown(&key, outcome);
            }
            Some(known) if known.digest == digest => {
                self.meet("the same again");
                assert!(matches!(outcome, Outcome::Task { new: false, .. }));
                self.shown(&key, outcome);
            }
            Some(_) => assert_eq!(outcome, Outcome::Refused(Refusal::Content)),
        }
    }

    fn change(&mut self, key: Key, due: Option<u64>, labels: Option<u8>) {
        let due = due.map(|due| self.now + due);
        if self.only_on_disk(&key) {
            self.meet("change of a far task");
        }
        let outcome = self.fold(Event::from(ChangeTask {
            when: due.map(|due| When::At(Time(due))),
            spec: labels.map(|labels| spec(labels).encode()),
            key: key.clone(),
            ..tests::change("any")
        }));
        if !self.refused(&key, &outcome, |stage| stage == Stage::Scheduled) {
            let known = self.model.get_mut(&key).unwrap();
            known.due = due.unwrap_or(known.due);
            if let Some(labels) = labels {
                known.labels = spec(labels).labels;
            }
            self.trigger();
            self.shown(&key, outcome);
        }
    }

    fn cancel(&mut self, key: Key) {
        if self.only_on_disk(&key) {
            self.meet("cancel of a far task");
        }
        let outcome = self.fold(Event::from(Cancel {
            key: key.clone(),
            ..tests::cancel("any")
        }));
        let may = |stage| matches!(stage, Stage::Scheduled | Stage::Cancelled);
        if !self.refused(&key, &outcome, may) {
            self.end(&key, Stage::Cancelled);
            self.shown(&key, outcome);
        }
    }

    fn done(&mut self, key: Key) {
        let outcome = self.fold(Event::from(Complete {
            key: key.clone(),
            ..tests::complete("any")
        }));
        let may = |stage| !matches!(stage, Stage::Cancelled | Stage::Triggered);
        if !self.refused(&key, &outcome, may) {
            self.end(&key, Stage::Done);
            self.shown(&key, outcome);
        }
    }

    fn end(&mut self, key: &Key, stage: Stage) {
        let now = self.now;
        let known = self.model.get_mut(key).unwrap();
        if known.stage != stage {
            (known.stage, known.finished) = (stage, now);
        }
    }

    /// Whether the model refuses, because there is no such task, or because of its stage; the
    /// state must have refused for the same reason.
    fn refused(&self, key: &Key, outcome: &Outcome, may: impl Fn(Stage) -> bool) -> bool {
        let stage = self.model.get(key).map(|known| known.stage);
        let reason = match (stage, outcome) {
            (None, _) => Outcome::Refused(Refusal::Unknown),
            (Some(stage), _) if may(stage) => return false,
            // Its owner would have to be asked.
            (Some(Stage::Triggered), Outcome::Refused(Refusal::Withdraw { .. })) => return true,
            (Some(stage), _) => Outcome::Refused(Refusal::Stage { stage }),
        };
        assert_eq!(*outcome, reason);
        true
    }

    fn shown(&self, key: &Key, outcome: Outcome) {
        let task = tests::shown(outcome);
        let known = &self.model[key];
        assert!(known.shows(&task), "{known:?} is shown as {task:?}");
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        while let Outcome::Counted { more: true, .. } =
            self.fold(tests::trigger(self.now, 4).into())
        {}
        self.trigger();
    }

    fn trigger(&mut self) {
        for known in self.model.values_mut() {
            if known.stage == Stage::Scheduled && known.due <= self.now {
                known.stage = Stage::Triggered;
            }
        }
    }

    /// At most `max`, the oldest first.
    fn retire(&mut self, age: u64, max: u32) {
        let until = self.now.saturating_sub(age);
        let ended = self.model.iter().filter(|(_, known)| {
            matches!(known.stage, Stage::Done | Stage::Cancelled) && known.finished <= until
        });
        let mut ended: Vec<_> = ended
            .map(|(key, known)| (known.finished, known.seq, key.clone()))
            .collect();
        ended.sort_unstable();
        let more = ended.len() > max as usize;
        ended.truncate(max as usize);
        let outcome = self.fold(tests::retire(until, 0, max).into());
        assert_eq!(outcome, tests::counted(ended.len() as u32, more));
        if !ended.is_empty() {
            self.meet("retired");
        }
        for (_, _, key) in ended {
            self.model.remove(&key);
        }
    }

    fn checkpoint(&mut self) {
        match self.under_way.take() {
            Some(checkpoint) => {
                checkpoint.write().unwrap();
                drop(self.state().end_checkpoint().unwrap());
                self.meet("checkpoint");
            }
            None => self.under_way = self.state().begin_checkpoint(Vec::new()),
        }
    }

    fn restart(&mut self) {
        self.under_way = None;
        self.state = None;
        if let Place::Disk(_) = self.place {
            let checked = super::super::verify_store(&self.place.path()).unwrap();
            assert_eq!(checked.findings, [""; 0]);
        }
        let (mut state, _) = State::open(self.place.store()).unwrap();
        let applied = state.applied() as usize;
        for (n, batch) in self.log.iter().enumerate().skip(applied) {
            fold(&mut state, n as u64 + 1, batch.clone());
        }
        if applied > 0 {
            self.meet("restart");
        }
        self.state = Some(state);
    }

    /// True when no layer has the task, and nothing that was read.
    fn only_on_disk(&mut self, key: &Key) -> bool {
        use super::super::table::Known;
        let known = self.model.contains_key(key);
        known && matches!(self.state().table.look_up(key), Known::Unknown)
    }

    // Lists.

    /// What the model has behind a key.
    fn expected(&self, filter: &Filter, after: Option<&Key>) -> Vec<Key> {
        let behind = self.model.iter().filter(|(key, known)| {
            after.is_none_or(|after| *key > after) && known.is_wanted(key, filter)
        });
        behind.map(|(key, _)| key.clone()).collect()
    }

    /// One page, compared with the model; where the next one begins.
    fn read(
        &mut self,
        filter: &Filter,
        after: Option<&Key>,
        limit: usize,
    ) -> (Vec<Key>, Option<Key>) {
        let page = self.state().list(filter, after, limit).unwrap();
        let keys: Vec<Key> = page.tasks.iter().map(|task| task.key.clone()).collect();
        let mut expected = self.expected(filter, after);
        expected.truncate(limit);
        assert_eq!(keys, expected, "{filter:?} after {after:?}");
        for task in &page.tasks {
            let known = &self.model[&task.key];
            assert!(known.shows(task), "{known:?} is listed as {task:?}");
        }
        let full = keys.len() == limit;
        assert_eq!(page.next.as_ref(), keys.last().filter(|_| full));
        if !filter.labels.is_empty() {
            let labels = filter.labels.clone();
            let labelled = Filter {
                labels,
                ..Filter::default()
            };
            let most = self.expected(&labelled, None).len();
            let one = filter.labels.len() == 1;
            assert!(!one || page.examined <= most, "more than have the label");
        }
        (keys, page.next)
    }

    /// The next page of the walk under way, or the first of a new one.
    fn page(&mut self, wanted: &Wanted, limit: usize) {
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => {
                let filter = wanted.filter(self.now);
                let there = self.expected(&filter, None).into_iter();
                let due = there
                    .map(|key| (key.clone(), self.model[&key].seq))
                    .collect();
                Walk {
                    filter,
                    after: None,
                    seen: Vec::new(),
                    due,
                }
            }
        };
        let filter = walk.filter.clone();
        let (keys, next) = self.read(&filter, walk.after.as_ref(), limit);
        walk.seen.extend(keys);
        walk.after = next;
        if walk.after.is_some() {
            self.walk = Some(walk);
            return;
        }
        assert!(walk.seen.is_sorted_by(|a, b| a < b), "once, in order");
        let seen: BTreeSet<&Key> = walk.seen.iter().collect();
        for key in walk.due.keys() {
            assert!(seen.contains(key), "{key} was there all the time");
        }
        if walk.due.len() > limit {
            self.meet("a walk of many pages");
        }
    }

    /// A walk at one moment is the whole list.
    fn whole(&mut self, wanted: &Wanted, limit: usize) {
        let filter = wanted.filter(self.now);
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let (keys, next) = self.read(&filter, after.as_ref(), limit);
            seen.extend(keys);
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, self.expected(&filter, None));
        if filter.labels.len() == 2 && !seen.is_empty() {
            self.meet("two labels");
        }
    }

    /// What the walk under way owes: what has stayed, and still matches.
    fn follow(&mut self) {
        if let Some(walk) = &mut self.walk {
            let model = &self.model;
            walk.due.retain(|key, seq| {
                let known = model.get(key).filter(|known| known.seq == *seq);
                known.is_some_and(|known| known.is_wanted(key, &walk.filter))
            });
        }
    }

    /// By id, everything is as the model has it.
    fn finish(&mut self) {
        for n in 0..30 {
            let key = key(n);
            let task = self.state().task(&key).unwrap();
            match (self.model.get(&key), task) {
                (Some(known), Some(task)) => assert!(known.shows(&task), "{known:?}: {task:?}"),
                (None, None) => {}
                (known, task) => panic!("{known:?}: {task:?}"),
            }
        }
        self.state().audit();
    }
}

fn fold(state: &mut State, index: u64, batch: Batch) -> Vec<Outcome> {
    state.prepare(&batch).unwrap();
    state.apply(index, batch, &mut Vec::new())
}

fn run(place: Place, steps: &[Step]) -> BTreeMap<&'static str, u32> {
    let mut pair = Pair::new(place);
    for step in steps {
        pair.take(step);
    }
    pair.finish();
    pair.restart();
    pair.finish();
    pair.met
}

fn disk() -> Place {
    Place::Disk(tempfile::tempdir().unwrap())
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..200)
}

proptest! {
    #![proptest_config(crate::thorough::cases(150))]

    #[test]
    fn lists_and_ids_are_the_models_over_a_store_in_memory(steps in steps()) {
        run(Place::Memory(MemoryStore::default()), &steps);
    }
}

proptest! {
    #![proptest_config(crate::thorough::cases(24))]

    #[test]
    fn lists_and_ids_are_the_models_over_a_store_on_disk(steps in steps()) {
        run(disk(), &steps);
    }
}

/// The random steps must reach what they are about, or they prove nothing.
#[test]
fn the_steps_reach_what_they_are_about() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut met: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..60 {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        for (what, n) in run(Place::Memory(MemoryStore::default()), &steps) {
            *met.entry(what).or_default() += n;
        }
    }
    println!("{met:?}");
    for what in [
        "submit of an id that lies only on disk",
        "change of a far task",
        "cancel of a far task",
        "the same again",
        "retired",
        "cooled",
        "checkpoint",
        "restart",
        "a walk of many pages",
        "two labels",
    ] {
        assert!(met.get(what).is_some_and(|n| *n >= 20), "{what}: {met:?}");
    }
}
