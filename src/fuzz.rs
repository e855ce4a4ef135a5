//! What must never panic, whatever bytes come: the targets of `cargo fuzz` (`fuzz/`), and of short
//! runs with mutated samples in the usual tests.
//!
//! Whatever a target accepts must also survive: what was decoded is encoded and decoded again to
//! the same value.

use bytes::Bytes;

use crate::api;
use crate::calendar::{Plan, PlanSpec, preview};
use crate::log::sim_disk::SimDisk;
use crate::log::{Entry, Head};
use crate::model::limits::INVOKE_BYTES_MAX;
use crate::model::{Batch, Invoke, Span, Spec, Time, decode_first};
use crate::node::settings::Settings;
use crate::node::settings_load::Sources;
use crate::raft;
use crate::state::{MemoryStore, RedbStore, State, Store};

/// A target of the fuzzer.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 8] = [
    ("codec", codec),
    ("fold", fold),
    ("body", body),
    ("settings", settings),
    ("snapshot", snapshot),
    ("store", store),
    ("plan", plan),
    ("invoke", invoke),
];

/// The log's and the peers' formats.
pub fn codec(bytes: &[u8]) {
    if let Ok(batch) = Batch::decode(bytes) {
        assert_eq!(Batch::decode(&batch.encode()).as_ref(), Ok(&batch));
    }
    if let Ok(spec) = Spec::decode(bytes) {
        assert_eq!(Spec::decode(&spec.encode()).as_ref(), Ok(&spec));
    }
    let shared = Bytes::copy_from_slice(bytes);
    if let Ok(entry) = Entry::from_frame(&shared) {
        assert_eq!(entry.frame(), shared);
    }
    if let Ok(head) = Head::decode(&shared) {
        assert_eq!(head.encode(), shared);
    }
    raft::read_anything(bytes);
}

/// Batches in a row, folded into an empty state: the fold is total.
pub fn fold(mut bytes: &[u8]) {
    let mut state = State::new(Box::new(MemoryStore::default()));
    let mut index = 0;
    while let Ok((frame, used)) = decode_first::<Vec<u8>>(bytes) {
        bytes = &bytes[used..];
        let Ok(batch) = Batch::decode(&frame) else {
            continue;
        };
        index += 1;
        state.prepare(&batch).expect("memory can be read");
        let events = batch.events.len();
        let outcomes = state.apply(index, batch, &mut Vec::new());
        assert_eq!(outcomes.len(), events);
    }
}

/// What a request may hold: tasks, changes, the old names.
pub fn body(bytes: &[u8]) {
    api::read_anything(bytes);
}

/// A plan as JSON, or one expression in some zone: refused, or it fires, in order, and says in
/// bounded time what comes next.
pub fn plan(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let spec = serde_json::from_str(text).unwrap_or_else(|_| {
        let zone = ["UTC", "Europe/Berlin", "Australia/Lord_Howe"][bytes.len() % 3];
        PlanSpec::cron(text).in_zone(zone)
    });
    let Ok(plan) = Plan::parse("fuzz.plan", &spec) else {
        return;
    };
    let first = plan.since(Time(0)).next();
    let mut last = first.expect("what never fires is refused");
    for next in plan.after(last).without_limit().take(20) {
        assert!(next > last, "{text}: {next} after {last}");
        assert_eq!(plan.next_after(last), Some(next), "{text}");
        assert!(plan.fires_at(next) >= next);
        last = next;
    }
    preview(&plan, last, Span::days(366));
}

/// An invoke target: what is read is printed, and read again.
pub fn invoke(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(target) = text.parse::<Invoke>() {
        let printed = target.to_string();
        // Escapes may make it longer than what is taken.
        if printed.len() <= INVOKE_BYTES_MAX {
            assert_eq!(printed.parse::<Invoke>().as_ref(), Ok(&target), "{printed}");
        }
    }
}

/// A file of settings, and the same text as a variable.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let file = Some(("horolog.toml".to_owned(), text.to_owned()));
    let variable = text.split_once('=').map(|(name, value)| {
        let name = format!("HOROLOG_{}", name.trim().to_uppercase());
        (name, value.trim().to_owned())
    });
    for sources in [
        Sources {
            file,
            ..Sources::default()
        },
        Sources {
            environment: variable.into_iter().collect(),
            ..Sources::default()
        },
    ] {
        if let Ok(settings) = Settings::from_sources(sources) {
            let _ = settings.check();
        }
    }
}

/// A snapshot from another node.
pub fn snapshot(bytes: &[u8]) {
    if let Ok((state, _)) = State::restore(&mut &*bytes, Box::new(MemoryStore::default())) {
        let _ = state.image();
    }
}

/// A file that is opened as a store: an error, or something that can be asked.
///
/// redb panics over some files; the store answers with an error then, so the fuzzer's own hook,
/// which ends the process at once, must not be in the way.
pub fn store(bytes: &[u8]) {
    #[cfg(fuzzing)]
    {
        static QUIET: std::sync::Once = std::sync::Once::new();
        QUIET.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    }
    let Ok(store) = RedbStore::with_backend(SimDisk::holding(bytes.to_vec())) else {
        return;
    };
    let _ = store.saved();
    let _ = store.open();
    let _ = store.verify();
    // Closing writes the map of free pages; redb panics over a bent one, beyond help.
    std::mem::forget(store);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::encode;
    use crate::state::properties::sample_log;
    use crate::thorough::cases;
    use proptest::prelude::*;

    /// Good input of a target, to be bent.
    fn samples(target: &str) -> Vec<Vec<u8>> {
        let batches = sample_log();
        match target {
            "codec" => batches,
            "fold" => vec![batches.iter().flat_map(encode).collect()],
            "body" => [
                r#"{"app":"shop","id":"o-1","due_at":"2031-05-06T07:08:09Z","target":{"http":{"url":"http://h.example/x","headers":{"a":"b"},"body":{"x":[1,2.5e300]},"timeout":"3s"}},"retry":{"attempts":3,"backoff":{"exponential":{"first":"1s","factor":2.0,"max":"1m"}},"jitter":0.2},"labels":{"order":"17"}}"#,
                r#"{"due_at":1900000000000,"labels":null,"retry":{"max_age":"2h"}}"#,
                r#"{"appId":"shop","uuid":"o-1","triggerTime":1900000000000,"url":"http://h.example/x"}"#,
            ]
            .map(|text| text.as_bytes().to_vec())
            .into(),
            "settings" => [
                "[store]\nwindow = \"2m\"\n[raft]\nsnapshot_entries = 100\n[access_log]\ndir = \"off\"\n",
                "RAFT_TIMING = fast",
            ]
            .map(|text| text.as_bytes().to_vec())
            .into(),
            "plan" => [
                "0 0/5 14,18 ? NOV-FEB FRI-MON/2 2027-2099",
                "*/20 H(1-5) L-3W,15W,L-2 * 5#3,6L",
                "@every 90s phase H",
                r#"{"crons":["30 2 * * *","@daily"],"every":"1h phase 3m","at":"2027-01-01T00:00:00Z","zone":"Africa/Casablanca","dst":{"gap":"after","overlap":"twice"},"exclude":{"dates":["12-25","2027-05-06"],"weekdays":["SUN"]},"start":"2026-01-01T00:00:00Z","end":"2030-01-01T00:00:00Z","max_runs":15,"jitter":"5m"}"#,
            ]
            .map(|text| text.as_bytes().to_vec())
            .into(),
            "invoke" => [
                r#"bean.method("a, \"b\"", 'c\u00e9\ud83d\ude00', true, 2L, -3.5e10D, 4)"#,
                "com.shop.Report.run",
            ]
            .map(|text| text.as_bytes().to_vec())
            .into(),
            "snapshot" => vec![filled().snapshot_now(b"attachment")],
            "store" => vec![checkpointed()],
            _ => unreachable!("{target}"),
        }
    }

    fn filled() -> State {
        let mut state = State::new(Box::new(MemoryStore::default()));
        fold_all(&mut state);
        state
    }

    fn fold_all(state: &mut State) {
        for (n, bytes) in sample_log().iter().enumerate() {
            let batch = Batch::decode(bytes).unwrap();
            state.prepare(&batch).unwrap();
            state.apply(n as u64 + 1, batch, &mut Vec::new());
        }
    }

    fn checkpointed() -> Vec<u8> {
        let disk = SimDisk::new();
        let store = RedbStore::with_backend(disk.clone()).unwrap();
        let mut state = State::new(Box::new(store));
        fold_all(&mut state);
        let checkpoint = state.begin_checkpoint(Vec::new()).unwrap();
        checkpoint.write().unwrap();
        state.end_checkpoint().unwrap();
        drop((checkpoint, state));
        disk.bytes()
    }

    /// One change of some bytes.
    #[derive(Clone, Debug)]
    enum Bend {
        Flip(prop::sample::Index, u8),
        Cut(prop::sample::Index),
        Insert(prop::sample::Index, Vec<u8>),
        Repeat(prop::sample::Index, u8),
    }

    fn bend() -> impl Strategy<Value = Bend> {
        let at = any::<prop::sample::Index>;
        prop_oneof![
            4 => (at(), any::<u8>()).prop_map(|(at, with)| Bend::Flip(at, with)),
            1 => at().prop_map(Bend::Cut),
            1 => (at(), prop::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, what)| Bend::Insert(at, what)),
            1 => (at(), any::<u8>()).prop_map(|(at, n)| Bend::Repeat(at, n)),
        ]
    }

    fn bent(mut bytes: Vec<u8>, bends: &[Bend]) -> Vec<u8> {
        for bend in bends {
            let len = bytes.len() + 1;
            match bend {
                Bend::Flip(at, with) => {
                    if let Some(byte) = bytes.get_mut(at.index(len)) {
                        *byte ^= with;
                    }
                }
                Bend::Cut(at) => bytes.truncate(at.index(len)),
                Bend::Insert(at, what) => {
                    let at = at.index(len);
                    bytes.splice(at..at, what.iter().copied());
                }
                Bend::Repeat(at, n) => {
                    let at = at.index(len);
                    let what = bytes[at..bytes.len().min(at + usize::from(*n))].to_vec();
                    bytes.splice(at..at, what);
                }
            }
        }
        bytes
    }

    fn run(name: &str, usual: u32) {
        let (_, target) = TARGETS.into_iter().find(|(n, _)| *n == name).unwrap();
        let samples = samples(name);
        for sample in &samples {
            target(sample);
        }
        let random = prop::collection::vec(any::<u8>(), 0..400);
        let mutated = (
            prop::sample::select(samples),
            prop::collection::vec(bend(), 1..6),
        )
            .prop_map(|(sample, bends)| bent(sample, &bends));
        let input = prop_oneof![1 => random, 8 => mutated];
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..cases(usual)
        });
        runner
            .run(&input, |bytes| {
                target(&bytes);
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn codecs_refuse_in_good_order() {
        run("codec", 4_000);
    }

    #[test]
    fn any_batches_can_be_folded() {
        run("fold", 2_000);
    }

    #[test]
    fn any_body_is_taken_or_refused() {
        run("body", 4_000);
    }

    #[test]
    fn any_settings_are_taken_or_refused() {
        run("settings", 1_000);
    }

    #[test]
    fn any_expression_is_taken_or_refused() {
        run("plan", 5_000);
    }

    #[test]
    fn any_invoke_target_is_taken_or_refused() {
        run("invoke", 5_000);
    }

    #[test]
    fn any_snapshot_is_taken_or_refused() {
        run("snapshot", 1_000);
    }

    #[test]
    fn any_file_is_a_store_or_refused() {
        run("store", 100);
    }

    #[test]
    fn every_target_has_its_program() {
        for (name, _) in TARGETS {
            let path = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
            let text = std::fs::read_to_string(&path).expect(&path);
            assert!(text.contains(&format!("horolog::fuzz::{name}")), "{path}");
        }
    }
}
