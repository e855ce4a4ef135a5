//! An unordered heap of entries, held in chunks.
//!
//! A slot of the wheel may hold one entry or ten million. In one growing vector the ten millionth
//! would copy all the others; in chunks an insert never costs more than one small allocation, and
//! an emptied pile gives its memory to the next one through [`Spare`] or back to the allocator.
use super::Slot;

/// Entries in a chunk: 4 KiB, one page. Small enough that a slot with few entries wastes little,
/// large enough that the list of chunks is a thousandth of what they hold.
const CHUNK: usize = if cfg!(test) { 32 } else { 256 };

/// Chunks kept for reuse: 1 MiB. What a herd needed beyond that is given back.
const SPARE_MAX: usize = 256;

/// Emptied chunks that wait for their next use, so that a cascade allocates nothing.
#[derive(Default)]
pub(super) struct Spare(Vec<Vec<Slot>>);

impl Spare {
    fn take(&mut self) -> Vec<Slot> {
        self.0.pop().unwrap_or_else(|| Vec::with_capacity(CHUNK))
    }

    pub fn give(&mut self, mut chunk: Vec<Slot>) {
        if chunk.capacity() == CHUNK && self.0.len() < SPARE_MAX {
            chunk.clear();
            self.0.push(chunk);
        }
    }

    pub fn memory(&self) -> usize {
        self.0.len() * CHUNK * size_of::<Slot>() + self.0.capacity() * size_of::<Vec<Slot>>()
    }
}

/// See the module. `tail` grows by doubling up to one chunk, so that a lone entry costs 64 bytes.
pub(super) struct Pile {
    least: u64,
    tail: Vec<Slot>,
    full: Vec<Vec<Slot>>,
}

impl Pile {
    pub const fn new() -> Pile {
        Pile {
            least: u64::MAX,
            tail: Vec::new(),
            full: Vec::new(),
        }
    }

    /// The earliest due tick of the pile, kept exact; `u64::MAX` when there is none.
    pub fn least(&self) -> u64 {
        self.least
    }

    pub fn len(&self) -> usize {
        // Every chunk but the tail is exactly full.
        self.full.len() * CHUNK + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.full.is_empty()
    }

    pub fn push(&mut self, slot: Slot, spare: &mut Spare) {
        self.least = self.least.min(slot.due);
        if self.tail.len() == CHUNK {
            self.rotate(spare);
        }
        self.tail.push(slot);
    }

    #[cold]
    fn rotate(&mut self, spare: &mut Spare) {
        self.full
            .push(std::mem::replace(&mut self.tail, spare.take()));
    }

    /// All entries, in the order of their insertion.
    pub fn chunks(&self) -> impl Iterator<Item = &[Slot]> {
        self.full
            .iter()
            .map(Vec::as_slice)
            .chain([self.tail.as_slice()])
    }

    /// Takes everything out, chunk by chunk, each given to `spare` once `visit` has seen it: a
    /// cascade of ten million entries needs no second ten million of room.
    pub fn drain(&mut self, spare: &mut Spare, mut visit: impl FnMut(&[Slot], &mut Spare)) {
        for chunk in std::mem::take(&mut self.full) {
            visit(&chunk, spare);
            spare.give(chunk);
        }
        visit(&self.tail, spare);
        self.tail.clear();
        self.least = u64::MAX;
    }

    /// The chunks themselves, for whoever goes on with them; the pile is empty afterwards.
    pub fn take_chunks(&mut self) -> Vec<Vec<Slot>> {
        let mut chunks = std::mem::take(&mut self.full);
        chunks.push(std::mem::take(&mut self.tail));
        self.least = u64::MAX;
        chunks
    }

    /// Drops the entries for which `keep` says no. Returns how many are left.
    pub fn sweep(&mut self, spare: &mut Spare, keep: &mut impl FnMut(Slot) -> bool) -> usize {
        let mut kept = Pile::new();
        self.drain(spare, |chunk, spare| {
            for &slot in chunk.iter().filter(|&&slot| keep(slot)) {
                kept.push(slot, spare);
            }
        });
        *self = kept;
        self.len()
    }

    pub fn memory(&self) -> usize {
        (self.full.len() * CHUNK + self.tail.capacity()) * size_of::<Slot>()
            + self.full.capacity() * size_of::<Vec<Slot>>()
    }
}
