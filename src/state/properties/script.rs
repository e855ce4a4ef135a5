//! Random wishes, and the log that they become.

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

use super::super::tests::{self, assign_all};
use super::watch::Watcher;
use super::{State, empty};
use crate::model::*;

/// Back-off of every task in these scripts.
pub(super) const BACKOFF: u64 = 200;

/// So many ids are used.
const KEYS: u8 = 12;

/// One wish. Small numbers pick keys and attempts among those that exist.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Submit {
        key: u8,
        due: i64,
        how: u8,
    },
    Cancel {
        key: u8,
        how: u8,
    },
    Change {
        key: u8,
        due: Option<i64>,
        how: u8,
    },
    Run {
        key: u8,
        again: bool,
    },
    Complete {
        key: u8,
        ok: bool,
        how: u8,
    },
    Pause {
        key: u8,
        paused: bool,
    },
    /// Of a shard set: made, removed, filled, or handed out.
    Set {
        what: u8,
        total: u16,
    },
    Trigger {
        ahead: u64,
        max: u32,
    },
    Started {
        pick: u8,
    },
    Report {
        pick: u8,
        what: u8,
        delay: u64,
    },
    /// The report of an attempt that was open once.
    Late {
        pick: u16,
        what: u8,
    },
    Assign {
        node: u64,
        part: u8,
    },
    Retire {
        age: u64,
        /// How old histories may become.
        history: u64,
        max: u32,
    },
}

/// A wish, how far the clock moves before it, and whether it shares the entry of the next one.
#[derive(Clone, Debug)]
pub(super) struct Step {
    wish: Wish,
    moved: i64,
    shared: bool,
}

fn wish() -> impl Strategy<Value = Wish> {
    let key = 0..KEYS;
    let due = || prop_oneof![4 => -500i64..3_000, 1 => Just(0), 1 => 0i64..20];
    prop_oneof![
        8 => (key.clone(), due(), 0u8..6).prop_map(|(key, due, how)| Wish::Submit { key, due, how }),
        3 => (key.clone(), 0u8..4).prop_map(|(key, how)| Wish::Cancel { key, how }),
        3 => (key.clone(), prop::option::of(due()), 0u8..4)
            .prop_map(|(key, due, how)| Wish::Change { key, due, how }),
        3 => (key.clone(), any::<bool>()).prop_map(|(key, again)| Wish::Run { key, again }),
        3 => (key.clone(), any::<bool>(), 0u8..4)
            .prop_map(|(key, ok, how)| Wish::Complete { key, ok, how }),
        1 => (key, any::<bool>()).prop_map(|(key, paused)| Wish::Pause { key, paused }),
        1 => (0u8..6, 0u16..4).prop_map(|(what, total)| Wish::Set { what, total }),
        8 => (0u64..300, 0u32..6).prop_map(|(ahead, max)| Wish::Trigger { ahead, max }),
        3 => any::<u8>().prop_map(|pick| Wish::Started { pick }),
        8 => (any::<u8>(), 0u8..10, 0u64..600)
            .prop_map(|(pick, what, delay)| Wish::Report { pick, what, delay }),
        2 => (any::<u16>(), 0u8..10).prop_map(|(pick, what)| Wish::Late { pick, what }),
        1 => (1u64..4, any::<u8>()).prop_map(|(node, part)| Wish::Assign { node, part }),
        2 => (0u64..40_000, 0u64..80_000, 0u32..4)
            .prop_map(|(age, history, max)| Wish::Retire { age, history, max }),
    ]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let moved = prop_oneof![
        6 => 0i64..100,
        6 => 0i64..1_500,
        1 => 20_000i64..45_000,
        1 => -6_000i64..0,
    ];
    (wish(), moved, prop::bool::weighted(0.3)).prop_map(|(wish, moved, shared)| Step {
        wish,
        moved,
        shared,
    })
}

/// The log of a script, as bytes.
pub(super) fn log(steps: &[Step]) -> Vec<Vec<u8>> {
    let mut writer = Writer::new();
    steps.iter().for_each(|step| writer.take(step));
    writer.finish();
    writer.log
}

/// Attempts allowed to the task of a key; never changed by a script, so that they can be counted.
pub(super) fn attempts_of(key: &Key) -> u32 {
    1 + key.id.as_bytes()[0] as u32 % 3
}

fn key(n: u8) -> Key {
    let id = char::from(b'a' + n / 2).to_string();
    Key::new(["shop", "bank"][usize::from(n % 2)], &id).unwrap()
}

/// Every id of these scripts: those that are submitted, and those that chains derive from them.
pub(super) fn keys() -> impl Iterator<Item = Key> {
    let ends = ["", ":done", ":dead", ":dead:done"];
    let all = (0..KEYS).map(key);
    all.flat_map(move |key| {
        ends.map(|end| Key::new(&key.app, &format!("{}{end}", key.id)).unwrap())
    })
}

/// What follows a task: of ids of its own, of derived ones, and in a row.
fn next(of: &Key, how: u8) -> Next {
    let template = |id: Option<&Key>, delay, next| {
        let key = id.unwrap_or(of);
        Some(Template {
            app: id.map(|key| key.app.to_string()),
            id: id.map(|key| key.id.to_string()),
            delay: Span(delay),
            spec: Spec {
                next,
                ..spec(key, 0)
            }
            .encode(),
        })
    };
    let other = key((of.id.as_bytes()[0] + 5) % KEYS);
    match how {
        2 => Next::new(template(None, 0, Next::default()), None),
        4 => {
            let last = Next::new(template(None, 70, Next::default()), None);
            Next::new(
                template(Some(&other), 0, Next::default()),
                template(None, 30, last),
            )
        }
        _ => Next::default(),
    }
}

fn spec(key: &Key, how: u8) -> Spec {
    let max_age = (how == 3).then_some(Span(700));
    let retry = Retry {
        attempts: Some(attempts_of(key)),
        backoff: Some(Backoff::Fixed(Span(BACKOFF))),
        jitter_milli: None,
        max_age,
    };
    Spec {
        accept_timeout: Some(Span(400)),
        labels: [("how".to_string(), how.to_string())].into(),
        next: next(key, how),
        ..tests::with_retry(retry)
    }
}

/// Writes the log, folds it at once, and has every entry watched.
pub(super) struct Writer {
    pub(super) state: State,
    pub(super) log: Vec<Vec<u8>>,
    pub(super) watcher: Watcher,
    pending: Vec<Event>,
    now: u64,
    stamp: u64,
    boot: u64,
    /// Every attempt that ever began.
    begun: Vec<(Seq, Fence)>,
}

impl Writer {
    pub(super) fn new() -> Writer {
        let mut writer = Writer {
            state: empty(),
            log: Vec::new(),
            watcher: Watcher::default(),
            pending: vec![assign_all(1, 1).into()],
            now: 10_000,
            stamp: 0,
            boot: 1,
            begun: Vec::new(),
        };
        writer.finish();
        writer
    }

    pub(super) fn take(&mut self, step: &Step) {
        self.now = self.now.saturating_add_signed(step.moved);
        if let Some(event) = self.event(&step.wish) {
            self.pending.push(event);
        }
        if !step.shared {
            self.finish();
        }
    }

    /// Folds what is pending as one entry.
    pub(super) fn finish(&mut self) {
        self.stamp = self.stamp.max(self.now);
        let batch = Batch {
            stamp: Time(self.stamp),
            now: Time(self.now),
            events: std::mem::take(&mut self.pending),
        };
        self.log.push(batch.encode());
        let index = self.log.len() as u64;
        let hand = self.state.hand();
        self.state.prepare(&batch).unwrap();
        let mut changes = Vec::new();
        let outcomes = self.state.apply(index, batch.clone(), &mut changes);
        for change in &changes {
            if let Change::Triggered { seq, fence, .. } = change {
                self.begun.push((*seq, *fence));
            }
        }
        self.state.audit();
        self.watcher
            .entry(&self.state, hand, &batch, &outcomes, &changes);
    }

    fn event(&mut self, wish: &Wish) -> Option<Event> {
        let by = tests::by();
        Some(match *wish {
            Wish::Submit { key: n, due, how } => self.submit(key(n), due, how),
            Wish::Cancel { key: n, how } => Event::from(Cancel {
                key: key(n),
                if_match: self.if_match(n, how),
                withdrawn: self.withdrawn(n, how),
                by,
            }),
            Wish::Change { key: n, due, how } => Event::from(ChangeTask {
                key: key(n),
                if_match: self.if_match(n, how),
                withdrawn: self.withdrawn(n, how),
                when: due.map(|due| self.when(due, how)),
                spec: (how > 1).then(|| spec(&key(n), how).encode()),
                by,
            }),
            Wish::Run { key: n, again } => Event::from(Run {
                key: key(n),
                if_match: None,
                again,
                by,
            }),
            Wish::Complete { key: n, ok, how } => self.complete(n, ok, how),
            Wish::Pause { key: n, paused } => match paused {
                true => tests::pause(&key(n).app).into(),
                false => tests::resume(&key(n).app).into(),
            },
            Wish::Set { what, total } => {
                let name = "eu".into();
                match what {
                    0 => Event::from(MakeSet {
                        name,
                        total: (total > 0).then_some(total),
                        by,
                    }),
                    2 if total % 3 == 0 => Event::from(Raise {
                        level: Level(total),
                    }),
                    1 | 2 => Event::from(FillSets {
                        name: (what == 1).then_some(name),
                        window: Span(u64::from(total) * 1_000),
                        by,
                    }),
                    _ => Event::from(PopShard { name, by }),
                }
            }
            Wish::Trigger { ahead, max } => tests::trigger(self.now + ahead, max).into(),
            Wish::Started { pick } => tests::started(&self.open(pick)?).into(),
            Wish::Report { pick, what, delay } => self.report(&self.open(pick)?, what, delay),
            Wish::Late { pick, what } => self.report(&self.late(pick)?, what, 0),
            Wish::Assign { node, part } => self.assign(node, part),
            Wish::Retire { age, history, max } => {
                let mut event = tests::retire(self.now.saturating_sub(age), self.now / 2, max);
                event.history_up_to = Time(self.now.saturating_sub(history));
                event.into()
            }
        })
    }

    fn when(&self, due: i64, how: u8) -> When {
        match how {
            0 => When::After(Span(due.unsigned_abs())),
            1 if due < 0 => When::Now,
            // A grid, so that instants coincide.
            _ => When::At(Time(self.now.saturating_add_signed(due) / 50 * 50)),
        }
    }

    fn submit(&self, key: Key, due: i64, how: u8) -> Event {
        // Some submits repeat the first one exactly; its content cannot be told from the state.
        let when = if how == 5 {
            When::Now
        } else {
            self.when(due, how)
        };
        let encoded = spec(&key, how).encode();
        let digest = Spec::digest(&encoded, when);
        Event::from(Submit {
            key,
            when,
            spec: encoded,
            digest,
            by: tests::by(),
        })
    }

    fn complete(&self, n: u8, ok: bool, how: u8) -> Event {
        let (key, asked) = (key(n), self.withdrawn(n, how));
        let fence = self
            .state
            .task(&key)
            .unwrap()
            .map(|task| task.fence.number());
        Event::from(Complete {
            key,
            fence: match how {
                1 => fence,
                2 => fence.map(|number| number ^ 1),
                _ => None,
            },
            asked,
            ok,
            error: None,
            result: None,
            mark: how == 3,
            by: tests::by(),
        })
    }

    fn report(&self, task: &Task, what: u8, delay: u64) -> Event {
        let not_before = Span(if what == 5 { delay } else { 0 });
        let mut event = tests::failed_for(task, Verdict::Retry { not_before });
        // Clocks differ: the end may lie in what is the past or the future here.
        event.end.ended = Time((self.now + delay).saturating_sub(300));
        match what {
            0 | 1 => tests::done(task).into(),
            2 | 3 => tests::accepted(task).into(),
            4 => tests::failed_for(task, Verdict::Expired).into(),
            6 => tests::failed_for(task, Verdict::Final).into(),
            _ => event.into(),
        }
    }

    fn assign(&mut self, node: u64, part: u8) -> Event {
        self.boot += 1;
        let mut event = assign_all(node, self.boot);
        event
            .shards
            .retain(|shard| part < 100 || shard.0 % 7 == u16::from(part) % 7);
        let picked = [self.open(part), self.late(u16::from(part))];
        let picked = picked.into_iter().flatten().map(|t| (t.seq, t.fence));
        let picked = picked.collect();
        match part % 3 {
            0 => event.kept = picked,
            1 => {
                let cause = "watchdog".into();
                let attempts = picked;
                return Again { attempts, cause }.into();
            }
            _ => {}
        }
        event.into()
    }

    /// One of the attempts that are open now.
    fn open(&self, pick: u8) -> Option<Task> {
        let open: Vec<Seq> = self.state.table.open().keys().map(|(_, s)| *s).collect();
        let seq = open.get(usize::from(pick) % open.len().max(1))?;
        self.state.task_by_seq(*seq).unwrap()
    }

    fn late(&self, pick: u16) -> Option<Task> {
        let (seq, fence) = *self
            .begun
            .get(usize::from(pick) % self.begun.len().max(1))?;
        let task = self.state.task_by_seq(seq).unwrap()?;
        Some(Task { fence, ..task })
    }

    fn withdrawn(&self, n: u8, how: u8) -> Option<Fence> {
        let task = self.state.task(&key(n)).unwrap()?;
        let late = how == 3 && n.is_multiple_of(4);
        (how > 0 && (late || task.stage == Stage::Triggered)).then_some(task.fence)
    }

    fn if_match(&self, n: u8, how: u8) -> Option<(Seq, u32)> {
        let task = self.state.task(&key(n)).unwrap()?;
        match how {
            2 => Some((task.seq, task.version)),
            3 if n.is_multiple_of(4) => Some((task.seq, task.version + 1)),
            _ => None,
        }
    }
}

/// What a set of scripts came across.
#[derive(Default)]
pub(super) struct Coverage {
    stages: BTreeSet<Stage>,
    kinds: BTreeSet<u16>,
    answers: BTreeMap<&'static str, u32>,
    rows: BTreeSet<RowKind>,
    retired: u32,
    followed: u32,
    met: u32,
}

impl Coverage {
    pub(super) fn add(&mut self, writer: &Writer) {
        self.stages.extend(&writer.watcher.stages);
        self.rows.extend(&writer.watcher.rows);
        self.retired += writer.watcher.retired;
        self.followed += writer.watcher.followed;
        self.met += writer.watcher.met;
        for bytes in &writer.log {
            let batch = Batch::decode(bytes).unwrap();
            self.kinds.extend(batch.events.iter().map(Event::kind));
        }
        for (answer, n) in &writer.watcher.answers {
            *self.answers.entry(answer).or_default() += n;
        }
    }

    pub(super) fn assert_complete(&self) {
        assert_eq!(self.stages.len(), Stage::ALL.len(), "{:?}", self.stages);
        // Schedules have scripts of their own.
        let of_tasks = Event::KINDS.iter().filter(|(kind, _)| *kind < 40);
        assert_eq!(self.kinds.len(), of_tasks.count(), "{:?}", self.kinds);
        assert_eq!(self.rows.len(), 14, "{:?}", self.rows);
        let chained = (self.followed, self.met);
        assert!(chained.0 > 50 && chained.1 > 10, "{chained:?} chained");
        assert_eq!(self.answers.len(), 20, "{:?}", self.answers);
        assert!(self.retired > 100, "{} histories", self.retired);
        println!("{:?}, {} past histories", self.answers, self.retired);
    }
}
