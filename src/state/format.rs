//! Snapshot format 4 is frozen too, and damage to it is found: I-28.

use proptest::prelude::*;

use super::tests::*;
use super::{MemoryStore, Record, State};
use crate::model::format::assert_frozen;
use crate::model::*;

/// A small state with a task in every stage, a mark, and two tasks that were.
fn small() -> Desk {
    let mut desk = Desk::new();
    for stage in [Stage::Cancelled, Stage::Dead] {
        desk.bring("former", stage);
        desk.fold(retire(99_000, 99_000, 10));
    }
    for stage in Stage::ALL.into_iter().rev() {
        desk.bring(stage.name(), stage);
    }
    for event in [
        Event::from(Raise {
            level: Level::SCHEDULES,
        }),
        Event::from(MakeSet {
            name: "eu".into(),
            total: Some(12),
            by: "test".into(),
        }),
        FillSets {
            name: Some("eu".into()),
            window: Span(60_000),
            by: "test".into(),
        }
        .into(),
    ] {
        desk.fold(event);
    }
    desk.fold(Complete {
        mark: true,
        ..complete("early")
    });
    desk.fold(pause("bank"));
    desk
}

fn snapshot(desk: &Desk) -> Vec<u8> {
    desk.state.snapshot_now(b"membership")
}

fn restore(mut bytes: &[u8]) -> Result<State, String> {
    State::restore(&mut bytes, Box::new(MemoryStore::default()))
        .map(|(state, _)| state)
        .map_err(|e| e.to_string())
}

#[test]
fn records_and_snapshots_are_encoded_as_they_always_were() {
    let desk = small();
    let records: Vec<Record> = desk.state.table.all().into_iter().map(|(r, _)| r).collect();
    for record in &records {
        assert_eq!(decode::<Record>(&encode(record)).as_ref(), Ok(record));
    }
    let retrying = records
        .iter()
        .find(|r| r.task.stage == Stage::Retrying)
        .unwrap();
    let samples = [("record", encode(retrying)), ("snapshot", snapshot(&desk))];
    assert_frozen("state/fixtures/snapshot-5.hex", &samples);
}

#[test]
fn a_restored_state_goes_on_like_the_one_it_was_made_of() {
    let mut desk = small();
    let mut late = Desk::new();
    late.state = restore(&snapshot(&desk)).unwrap();
    (late.index, late.now) = (desk.index, desk.now);
    late.state.audit();
    for desk in [&mut desk, &mut late] {
        desk.submit_at("early", 9_000);
        assert_eq!(desk.stage("early"), Stage::Done, "the mark came along");
        desk.trigger(99_000);
    }
    assert!(snapshot(&desk) == snapshot(&late), "byte for byte");
}

#[test]
fn a_snapshot_that_ends_early_is_refused() {
    let bytes = snapshot(&small());
    for cut in 0..bytes.len() {
        assert!(restore(&bytes[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn records_that_are_not_those_of_the_hash_are_refused() {
    let desk = small();
    let mut fewer = small();
    fewer.fold(retire(99_000, 99_000, 10));
    let (bytes, other) = (snapshot(&desk), snapshot(&fewer));
    let [header, whole, marks, past, end] = frames(&bytes)[..] else {
        panic!("five frames")
    };
    // The mark has left, too.
    let [_, records, more, _] = frames(&other)[..] else {
        panic!("four frames")
    };
    let mixed = |frames: [(u8, &[u8]); 5]| {
        let bytes = [&bytes[..5], &frames.map(framed).concat()].concat();
        restore(&bytes).map(drop)
    };
    assert_eq!(mixed([header, whole, marks, past, end]), Ok(()));
    let missing = |e: String| e.contains("missing");
    assert!(mixed([header, records, marks, past, end]).is_err_and(missing));
    assert!(mixed([header, whole, marks, more, end]).is_err_and(missing));
}

#[test]
fn a_past_task_that_is_not_what_the_fold_wrote_is_refused() {
    let desk = small();
    let bytes = snapshot(&desk);
    let [_, _, _, (kind, past), _] = frames(&bytes)[..] else {
        panic!("five frames")
    };
    let ((former, rows), used): (super::past::Block, usize) = decode_first(past).unwrap();
    for bend in [
        |rows: &mut Vec<Row>| drop(rows.pop()),
        |rows: &mut Vec<Row>| rows.swap(0, 1),
        |rows: &mut Vec<Row>| rows[1].at = Time(5),
    ] {
        let mut bent = rows.clone();
        bend(&mut bent);
        let body = [&encode(&(former.clone(), bent))[..], &past[used..]].concat();
        let mut frames = frames(&bytes);
        frames[3] = (kind, &body);
        let frames: Vec<u8> = frames.into_iter().flat_map(framed).collect();
        let refused = restore(&[&bytes[..5], &frames].concat());
        assert!(refused.is_err_and(|e| e.contains("past task")));
    }
}

/// The frames of a snapshot: kind and body.
fn frames(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &bytes[5..];
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes([rest[1], rest[2], rest[3], rest[4]]) as usize;
        frames.push((rest[0], &rest[9..9 + length]));
        rest = &rest[9 + length..];
    }
    frames
}

/// A frame with the checksum that its body should have.
fn framed((kind, body): (u8, &[u8])) -> Vec<u8> {
    let sum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), body);
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

proptest! {
    #![proptest_config(crate::thorough::cases(300))]

    #[test]
    fn random_bytes_are_refused_calmly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(restore(&bytes).is_err());
        let begun = [b"HSNP\x05", &bytes[..]].concat();
        prop_assert!(restore(&begun).is_err());
        let header = [&b"HSNP\x05"[..], &framed((1, &bytes))].concat();
        prop_assert!(restore(&header).is_err());
    }

    #[test]
    fn every_flipped_bit_is_found(place: prop::sample::Index, bit in 0u8..8) {
        let mut bytes = snapshot(&small());
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(restore(&bytes).is_err(), "bit {} of byte {}", bit, place);
    }

    /// Damage that happened before the checksum was made: calmly refused, or harmless.
    #[test]
    fn damage_under_a_good_checksum_never_panics(
        which in 0usize..5, place: prop::sample::Index, bit in 0u8..8,
    ) {
        let whole = snapshot(&small());
        let mut bytes = whole[..5].to_vec();
        for (n, (kind, body)) in frames(&whole).into_iter().enumerate() {
            let mut body = body.to_vec();
            if n == which {
                let place = place.index(body.len());
                body[place] ^= 1 << bit;
            }
            bytes.extend_from_slice(&framed((kind, &body)));
        }
        let read = restore(&bytes);
        prop_assert!(which != 1 || read.is_err(), "records carry their own hashes");
    }
}
