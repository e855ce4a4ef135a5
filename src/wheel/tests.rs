//! The edges, one by one. The rest is found by `model_test`.
use super::{SWEEP_MIN, Slot, Wheel};

fn all(wheel: &mut Wheel, until: u64) -> Vec<(u64, u64)> {
    let mut out = Vec::new();
    assert!(!wheel.expire(until, usize::MAX, &mut out));
    out.iter().map(|slot| (slot.due, slot.key)).collect()
}

#[test]
fn an_empty_wheel_moves_its_hand() {
    let mut wheel = Wheel::new(0);
    assert_eq!(wheel.next_due(), None);
    assert_eq!(all(&mut wheel, 1_000), []);
    assert_eq!(wheel.hand(), 1_000);
    assert_eq!(all(&mut wheel, 10), []);
    assert_eq!(wheel.hand(), 1_000, "the hand never goes back");
}

#[test]
fn the_ends_of_time() {
    let mut wheel = Wheel::new(0);
    for due in [u64::MAX, 0, 1, u64::MAX - 1, 1 << 63, (1 << 63) - 1] {
        wheel.insert(due, 7);
    }
    assert_eq!(wheel.next_due(), Some(0));
    assert_eq!(all(&mut wheel, 0), [(0, 7)], "overdue at hand 0");
    assert_eq!(wheel.next_due(), Some(1));
    assert_eq!(
        all(&mut wheel, 1 << 63),
        [(1, 7), ((1 << 63) - 1, 7), (1 << 63, 7)]
    );
    assert_eq!(all(&mut wheel, u64::MAX - 1), [(u64::MAX - 1, 7)]);
    assert_eq!(wheel.next_due(), Some(u64::MAX));
    assert_eq!(all(&mut wheel, u64::MAX), [(u64::MAX, 7)]);
    wheel.insert(u64::MAX, 8);
    wheel.insert(0, 9);
    assert_eq!(
        all(&mut wheel, 0),
        [(0, 9), (u64::MAX, 8)],
        "at the end all is overdue"
    );
}

#[test]
fn the_borders_of_every_level() {
    for start in [0, 1, 63, 64, 4_095, 1 << 36, 0xfff_ffff_ffff] {
        let mut wheel = Wheel::new(start);
        let borders = (0..64).flat_map(|bit| {
            let border = ((start >> bit) + 1) << bit;
            [border - 1, border, border + 1]
        });
        let mut dues: Vec<u64> = borders.filter(|&due| due > start).collect();
        dues.iter().for_each(|&due| wheel.insert(due, due));
        dues.sort_unstable();
        for due in dues {
            assert_eq!(wheel.next_due(), Some(due));
            let mut out = Vec::new();
            wheel.expire(due - 1, 9, &mut out);
            assert_eq!(out, [], "never early");
            wheel.expire(due, 1, &mut out);
            assert_eq!(out, [Slot { due, key: due }]);
        }
        assert!(wheel.is_empty());
    }
}

#[test]
fn an_overdue_insert_comes_with_the_very_next_call_in_its_order() {
    let mut wheel = Wheel::new(100);
    for (due, key) in [(105, 1), (100, 5), (7, 6), (100, 4), (106, 0)] {
        wheel.insert(due, key);
    }
    assert_eq!(wheel.next_due(), Some(7));
    assert_eq!(
        all(&mut wheel, 0),
        [(7, 6), (100, 4), (100, 5)],
        "until is at least the hand"
    );
    assert_eq!(all(&mut wheel, 105), [(105, 1)]);
    assert_eq!(wheel.len(), 1);
}

#[test]
fn equal_entries_are_kept_apart() {
    let mut wheel = Wheel::new(0);
    (0..3).for_each(|_| wheel.insert(9, 9));
    assert_eq!(all(&mut wheel, 9), [(9, 9); 3]);
}

#[test]
fn a_herd_comes_in_pieces_and_late_ones_fall_in_at_their_place() {
    for step in [1, 7_919] {
        let mut wheel = Wheel::new(0);
        let herd = 100_000;
        // 7,919 shares no factor with the herd: every even key once, in disorder.
        (0..herd).for_each(|i| wheel.insert(60_000, i * step % herd * 2));
        let mut out = Vec::new();
        assert!(wheel.expire(60_500, 1_000, &mut out));
        assert_eq!(wheel.hand(), 59_999, "the herd's tick is not done");
        wheel.insert(60_000, 2_001);
        wheel.insert(60_000, 3);
        wheel.insert(60_001, 0);
        assert_eq!(wheel.next_due(), Some(60_000));
        assert!(wheel.expire(60_500, 3, &mut out));
        let keys: Vec<u64> = out[1_000..].iter().map(|slot| slot.key).collect();
        assert_eq!(keys, [3, 2_000, 2_001]);
        out.clear();
        while wheel.expire(60_500, 8_192, &mut out) {}
        assert_eq!(out.len() as u64, herd - 1_001 + 1);
        assert!(out.is_sorted());
        assert_eq!(
            out.last(),
            Some(&Slot {
                due: 60_001,
                key: 0
            })
        );
        assert_eq!(wheel.hand(), 60_500);
    }
}

#[test]
fn no_room_means_only_an_answer() {
    let mut wheel = Wheel::new(0);
    wheel.insert(50, 1);
    let mut out = Vec::new();
    assert!(!wheel.expire(49, 0, &mut out));
    assert!(wheel.expire(80, 0, &mut out));
    assert_eq!((wheel.hand(), out.len(), wheel.len()), (49, 0, 1));
}

#[test]
fn memory_is_given_back_after_a_herd() {
    let mut wheel = Wheel::new(0);
    let idle = wheel.memory();
    (0..1_000_000).for_each(|key| wheel.insert(5_000, key));
    let full = wheel.memory();
    assert!(
        (16_000_000..18_000_000).contains(&full),
        "{full} bytes for a million"
    );
    let mut out = Vec::new();
    while wheel.expire(5_000, 8_192, &mut out) {
        assert!(
            wheel.memory() <= full + 64 * 1024,
            "handing out takes no second herd of memory"
        );
        out.clear();
    }
    assert!(
        wheel.memory() < idle + 2 * 1024 * 1024,
        "{} bytes kept",
        wheel.memory()
    );
}

#[test]
fn a_sweep_takes_the_dead_from_everywhere() {
    let mut wheel = Wheel::new(0);
    let count = 4 * SWEEP_MIN as u64;
    (0..count).for_each(|key| wheel.insert(100 + key % 3 * 100_000, key));
    wheel.expire(100, 10, &mut Vec::new());
    wheel.insert(3, 0);
    wheel.insert(2, 1);
    wheel.cancelled(wheel.len() / 2);
    assert!(!wheel.wants_sweep(), "half is not more than half");
    wheel.cancelled(1);
    assert!(wheel.wants_sweep());
    wheel.sweep(|slot| slot.key % 2 == 0 && slot.due != 100_100);
    assert!(!wheel.wants_sweep());
    assert_eq!(wheel.next_due(), Some(3));
    let out = all(&mut wheel, u64::MAX);
    assert!(out.is_sorted() && out.iter().all(|&(due, key)| key % 2 == 0 && due != 100_100));
    assert_eq!(wheel.len(), 0);
    assert_eq!(out[0], (3, 0));
    // 10 keys of the first tick went before, five of them even; one more came.
    let lived = (0..count)
        .filter(|key| key % 2 == 0 && key % 3 != 1)
        .count();
    assert_eq!(out.len(), lived - 5 + 1);
}
