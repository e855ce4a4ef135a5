//! Format 1 is frozen: these bytes are in logs that must stay readable for ever.
//!
//! A fixture is written once (`NEW_FIXTURES=1 cargo test --lib format` writes those that do not
//! exist yet) and never again. A test that fails here means that a frozen struct was changed: make
//! a `…V2` with a new number instead.

use proptest::prelude::*;

use super::*;

/// Compares bytes with a line `name hex` of a fixture file. Shared with the state's format test.
pub(crate) fn assert_frozen(file: &str, samples: &[(&str, Vec<u8>)]) {
    let path = format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"));
    let frozen = std::fs::read_to_string(&path);
    if frozen.is_err() && std::env::var_os("NEW_FIXTURES").is_some() {
        let line = |(name, bytes): &(&str, Vec<u8>)| format!("{name} {}\n", hex(bytes));
        std::fs::create_dir_all(std::path::Path::new(&path).parent().unwrap()).unwrap();
        std::fs::write(&path, samples.iter().map(line).collect::<String>()).unwrap();
        return;
    }
    let frozen = frozen.unwrap_or_else(|e| panic!("{file}: {e}"));
    let lines: Vec<_> = frozen.lines().filter_map(|l| l.split_once(' ')).collect();
    assert_eq!(lines.len(), samples.len(), "{file}: a line each");
    for ((name, bytes), (frozen_name, frozen)) in samples.iter().zip(lines) {
        assert_eq!(*name, frozen_name, "{file}");
        assert!(
            hex(bytes) == frozen,
            "{file}: `{name}` is encoded otherwise than it was: logs would become unreadable"
        );
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn end() -> AttemptEnd {
    AttemptEnd {
        started: Time(1_790_000_000_001),
        ended: Time(1_790_000_000_202),
        queued: Span(3),
        waited_for: Wait::Breaker,
        status: 503,
        error: Some("HTTP 503".into()),
        answer: Some("busy".into()),
    }
}

fn full_spec() -> Spec {
    let first = Spec {
        target: Target::Http(Http {
            method: Some("PUT".into()),
            url: "https://shop.example/hook".into(),
            headers: [("x-a".to_string(), "1".to_string())].into(),
            body: Body::Json("{\"a\":1}".into()),
            timeout: Some(Span(5_000)),
        }),
        retry: Some(Retry {
            attempts: Some(5),
            backoff: Some(Backoff::List(vec![Span(1), Span(2)])),
            jitter_milli: Some(100),
            max_age: Some(Span(86_400_000)),
        }),
        accept_timeout: Some(Span(60_000)),
        expires_at: Some(Time(1_790_000_100_000)),
        labels: [("order".to_string(), "17".to_string())].into(),
        placement: Some(Placement::label("gpu=yes").unwrap()),
        next: Next::default(),
    };
    let handled = Handled {
        invoke: "stock.take('nails', 2L)".into(),
        params: Some("{\"a\":1}".into()),
        timeout: Some(Span(5_000)),
        run_of: Some(RunOf {
            schedule: "shop.report".into(),
            version: 3,
            planned: Time(1_790_000_000_000),
            cause: Cause::Backfill,
        }),
    };
    let last = Spec {
        target: Target::Handler(handled),
        ..first.clone()
    };
    let template = |id: Option<&str>| Template {
        app: id.map(|_| "bank".into()),
        id: id.map(Into::into),
        delay: Span(5),
        spec: last.encode(),
    };
    let next = Next::new(Some(template(None)), Some(template(Some("alarm"))));
    Spec { next, ..first }
}

/// At least one event of every kind, and every variant of what they carry.
fn events() -> Vec<(&'static str, Event)> {
    let key = || Key::new("shop", "order-17").unwrap();
    let by = || By::from("token");
    let (seq, fence) = (
        Seq(258),
        Fence {
            epoch: Epoch(3),
            attempt: 2,
        },
    );
    let node = 2;
    let spec = full_spec().encode();
    let submit = |when| SubmitV1 {
        key: key(),
        when,
        digest: [7; 16],
        spec: spec.clone(),
        by: by(),
    };
    let cancel = CancelV1 {
        key: key(),
        if_match: Some((seq, 9)),
        withdrawn: Some(fence),
        by: by(),
    };
    let change = ChangeV1 {
        key: key(),
        if_match: None,
        withdrawn: None,
        when: Some(When::At(Time(5))),
        spec: Some(spec.clone()),
        by: by(),
    };
    let complete = CompleteV1 {
        key: key(),
        fence: Some(fence.number()),
        asked: Some(fence),
        ok: false,
        error: Some("no stock".into()),
        result: None,
        mark: true,
        by: by(),
    };
    let failed = |verdict| FailedV1 {
        seq,
        fence,
        node,
        verdict,
        end: end(),
    };
    let not_before = Span(1_500);
    vec![
        ("submit-now", submit(When::Now).into()),
        (
            "submit-at",
            submit(When::At(Time(1_790_000_000_000))).into(),
        ),
        ("submit-after", submit(When::After(Span(1_000))).into()),
        ("cancel", cancel.into()),
        ("change", change.into()),
        (
            "run",
            RunV1 {
                key: key(),
                if_match: None,
                again: true,
                by: by(),
            }
            .into(),
        ),
        ("complete", complete.into()),
        (
            "pause",
            PauseV1 {
                app: "shop".into(),
                reason: Some("maintenance".into()),
                by: by(),
            }
            .into(),
        ),
        (
            "resume",
            ResumeV1 {
                app: "shop".into(),
                by: by(),
            }
            .into(),
        ),
        (
            "trigger",
            TriggerV1 {
                until: Time(1_790_000_000_250),
                max: 8_192,
            }
            .into(),
        ),
        (
            "started",
            StartedV1 {
                node,
                attempts: vec![(seq, fence, Time(7))],
            }
            .into(),
        ),
        (
            "accepted",
            AcceptedV1 {
                seq,
                fence,
                node,
                end: end(),
            }
            .into(),
        ),
        (
            "done",
            DoneV1 {
                seq,
                fence,
                node,
                end: AttemptEnd::default(),
            }
            .into(),
        ),
        ("failed-retry", failed(Verdict::Retry { not_before }).into()),
        ("failed-final", failed(Verdict::Final).into()),
        ("failed-expired", failed(Verdict::Expired).into()),
        (
            "assign",
            AssignV1 {
                shards: vec![Shard(0), Shard(63)],
                node,
                boot: 4,
                cause: "lease".into(),
                kept: vec![(seq, fence)],
            }
            .into(),
        ),
        (
            "again",
            AgainV1 {
                attempts: vec![(seq, fence)],
                cause: "watchdog".into(),
            }
            .into(),
        ),
        (
            "make_set",
            MakeSetV1 {
                name: "eu".into(),
                total: Some(12),
                by: by(),
            }
            .into(),
        ),
        (
            "fill_sets",
            FillSetsV1 {
                name: Some("eu".into()),
                window: Span(120_000),
                by: by(),
            }
            .into(),
        ),
        (
            "pop_shard",
            PopShardV1 {
                name: "eu".into(),
                by: by(),
            }
            .into(),
        ),
        (
            "raise",
            RaiseV1 {
                level: Level::SCHEDULES,
            }
            .into(),
        ),
        (
            "retire",
            RetireV1 {
                finished_up_to: Time(1),
                dead_up_to: Time(2),
                marks_up_to: Time(3),
                history_up_to: Time(4),
                max: 4_096,
            }
            .into(),
        ),
        (
            "put-schedule",
            PutScheduleV1 {
                id: "shop.report".into(),
                create: false,
                if_version: Some(3),
                definition: definition(),
                why: "changed".into(),
                by: by(),
            }
            .into(),
        ),
        (
            "pause-schedule",
            PauseScheduleV1 {
                id: "shop.report".into(),
                paused: true,
                reason: Some("holidays".into()),
                by: by(),
            }
            .into(),
        ),
        (
            "delete-schedule",
            DeleteScheduleV1 {
                id: "shop.report".into(),
                if_version: None,
                by: by(),
            }
            .into(),
        ),
        (
            "run-schedule",
            RunScheduleV1 {
                id: "shop.report".into(),
                tag: "r1".into(),
                planned: vec![Time(9)],
                pace: Span(100),
                by: by(),
            }
            .into(),
        ),
        (
            "fire",
            FireV1 {
                now: Time(1_790_000_000_000),
                tz: "2026a".into(),
                stretches: vec![Stretch {
                    id: "shop.report".into(),
                    born: 7,
                    version: 2,
                    after: Time(1),
                    until: Time(3),
                    occurrences: vec![(Time(2), Time(3))],
                    next: Some(Time(5)),
                }],
            }
            .into(),
        ),
        (
            "mend",
            MendV1 {
                repairs: vec![
                    Repair::Run {
                        schedule: "shop.report".into(),
                        seq,
                    },
                    Repair::Stray { seq },
                    Repair::Line {
                        schedule: "shop.report".into(),
                        line: 7,
                    },
                    Repair::Wake { seq },
                ],
            }
            .into(),
        ),
    ]
}

fn definition() -> Definition {
    Definition {
        plan: r#"{"every":"5s"}"#.into(),
        task: full_spec().encode(),
        invoke: Some("demoTask.run(1)".into()),
        params: Some("{}".into()),
        overlap: OverlapPolicy::QueueAll,
        queue_max: 5,
        catch_up: CatchUp::All {
            window: Span(1_000),
            max: 3,
            pace: Span(10),
        },
        misfire: Span(60_000),
        max_runs: Some(9),
    }
}

fn batch(events: Vec<Event>) -> Batch {
    Batch {
        stamp: Time(1_790_000_000_123),
        now: Time(1_790_000_000_120),
        events,
    }
}

#[test]
fn events_are_encoded_as_they_always_were() {
    let mut samples = vec![("empty", batch(vec![]).encode())];
    let mut kinds: Vec<u16> = Vec::new();
    for (name, event) in events() {
        kinds.push(event.kind());
        samples.push((name, batch(vec![event]).encode()));
    }
    kinds.dedup();
    let known: Vec<u16> = Event::KINDS.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, known, "a sample of every kind");
    assert_frozen("model/fixtures/batch-1.hex", &samples);
}

#[test]
fn what_was_encoded_is_read_back() {
    let all = batch(events().into_iter().map(|(_, event)| event).collect());
    assert_eq!(Batch::decode(&all.encode()), Ok(all));
    assert_eq!(Spec::decode(&full_spec().encode()), Ok(full_spec()));
}

#[test]
fn what_a_newer_version_wrote_is_refused_by_name() {
    let mut bytes = batch(vec![events().remove(9).1]).encode();
    bytes[2] = 2;
    assert_eq!(Batch::decode(&bytes), Err(CodecError::UnknownSchema(2)));
    bytes[2] = 1;
    bytes[23..25].copy_from_slice(&999u16.to_le_bytes());
    let error = Batch::decode(&bytes).unwrap_err();
    assert_eq!(error, CodecError::UnknownKind(999));
    assert!(error.to_string().contains("upgrade"), "{error}");
}

#[test]
fn what_is_not_a_whole_batch_is_refused() {
    let all = batch(events().into_iter().map(|(_, event)| event).collect());
    let bytes = all.encode();
    for cut in 0..bytes.len() {
        let cut = Batch::decode(&bytes[..cut]);
        assert!(matches!(cut, Err(CodecError::Malformed(_))), "{cut:?}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(Batch::decode(&longer).is_err());
    let mut other = bytes;
    other[0] = b'h';
    assert!(Batch::decode(&other).is_err());
}

/// A length that no memory could hold is a malformed record, not the end of the process.
#[test]
fn a_length_beyond_all_bounds_is_refused() {
    let key = Key::new("shop", "a").unwrap();
    for length in [u64::MAX, 1 << 62, 1 << 40, 1 << 31] {
        let mut bytes = encode(&key);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        assert!(decode::<Key>(&bytes).is_err(), "{length}");
        assert!(decode_first::<Key>(&bytes).is_err(), "{length}");
    }
}

proptest! {
    #![proptest_config(crate::thorough::cases(1_000))]

    #[test]
    fn random_bytes_are_refused_calmly(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0u16..48) {
        let _ = Batch::decode(&bytes);
        let mut framed = batch(vec![]).encode();
        framed[19] = 1;
        framed.extend_from_slice(&kind.to_le_bytes());
        framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        framed.extend_from_slice(&bytes);
        let _ = Batch::decode(&framed);
    }

    /// Whatever still reads as a batch after damage is encoded as those very bytes: there are no
    /// two ways to write one batch, so that a checksum of the bytes is one of the events.
    #[test]
    fn damaged_bytes_are_refused_or_mean_another_batch(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let all = batch(events().into_iter().map(|(_, event)| event).collect());
        let mut bytes = all.encode();
        for (place, bit) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        if let Ok(read) = Batch::decode(&bytes) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }
}
