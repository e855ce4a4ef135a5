//! Numbers drawn from a name: the same on every node, in every release, for ever.

use xxhash_rust::xxh3::xxh3_64;

/// A number below `below` (at least 1) that the owner's name and the purpose decide.
///
/// xxh3 of `owner`, a zero byte, `purpose`: names never hold a zero byte, so no two pairs collide
/// by construction.
pub(super) fn draw(owner: &str, purpose: &str, below: u64) -> u64 {
    let text = [owner.as_bytes(), &[0], purpose.as_bytes()].concat();
    xxh3_64(&text) % below.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changing these would move every schedule that is spread.
    #[test]
    fn what_was_drawn_once_is_drawn_for_ever() {
        let drawn = ["minute", "hour", "second"].map(|field| draw("shop.report", field, 60));
        assert_eq!(drawn, [39, 26, 1]);
    }

    #[test]
    fn names_are_spread_evenly() {
        let mut hits = [0u32; 60];
        for n in 0..6_000 {
            hits[draw(&format!("group.name-{n}"), "minute", 60) as usize] += 1;
        }
        assert!(hits.iter().all(|hits| (60..150).contains(hits)), "{hits:?}");
    }
}
