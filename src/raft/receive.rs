//! A snapshot on its way in, piece by piece.

use std::io::{self, Write};

use super::snapshots::Snapshots;
use super::wire::Chunk;

/// The file being written. A piece that does not continue it starts over, or is refused.
#[derive(Default)]
pub(crate) struct Receiving(Option<Part>);

struct Part {
    index: u64,
    offset: u64,
    name: String,
    file: Box<dyn Write + Send>,
    hasher: blake3::Hasher,
}

/// What a piece led to.
pub(crate) enum Received {
    Next,
    Restart,
    Whole(String),
}

impl Receiving {
    pub(crate) fn take(&mut self, snapshots: &Snapshots, chunk: &Chunk) -> io::Result<Received> {
        if chunk.offset == 0 {
            let (name, file) = snapshots.receive(chunk.index)?;
            let hasher = blake3::Hasher::new();
            self.0 = Some(Part {
                index: chunk.index,
                offset: 0,
                name,
                file,
                hasher,
            });
        }
        let Some(part) = self.0.as_mut() else {
            return Ok(Received::Restart);
        };
        if (part.index, part.offset) != (chunk.index, chunk.offset) {
            self.0 = None;
            return Ok(Received::Restart);
        }
        part.file.write_all(&chunk.bytes)?;
        part.hasher.update(&chunk.bytes);
        part.offset += chunk.bytes.len() as u64;
        let Some(hash) = chunk.last else {
            return Ok(Received::Next);
        };
        if part.hasher.finalize().as_bytes() != &hash {
            self.0 = None;
            return Ok(Received::Restart);
        }
        let whole = part.name.clone();
        self.0 = None;
        Ok(Received::Whole(whole))
    }
}
