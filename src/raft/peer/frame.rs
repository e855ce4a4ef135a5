//! Frames: a length, a checksum, a call's number, a kind, a body.

use bytes::{Bytes, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest body. Entries are at most a few MiB; snapshots come in chunks.
pub(crate) const BODY_BYTES_MAX: usize = 128 << 20;
const HEAD: usize = 4 + 4 + 8 + 1;
/// The kind of an answer that says, as text, why there is none.
pub(crate) const FAILED: u8 = 254;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) id: u64,
    pub(crate) kind: u8,
    pub(crate) body: Bytes,
}

impl Frame {
    fn checksum(&self) -> u32 {
        let mut head = [0; 9];
        head[..8].copy_from_slice(&self.id.to_le_bytes());
        head[8] = self.kind;
        crc32c::crc32c_append(crc32c::crc32c(&head), &self.body)
    }

    /// Writes; the caller flushes.
    pub(crate) async fn write(&self, out: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut head = [0; HEAD];
        head[..4].copy_from_slice(&(self.body.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&self.checksum().to_le_bytes());
        head[8..16].copy_from_slice(&self.id.to_le_bytes());
        head[16] = self.kind;
        out.write_all(&head).await?;
        out.write_all(&self.body).await
    }

    /// Reads and checks; a frame that was damaged on its way is an error, and the connection
    /// with it.
    pub(crate) async fn read(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Frame> {
        let mut head = [0; HEAD];
        input.read_exact(&mut head).await?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, checksum) = (word(0) as usize, word(4));
        let id = u64::from(word(8)) | u64::from(word(12)) << 32;
        if length > BODY_BYTES_MAX {
            return Err(io::Error::other("a frame is larger than any may be"));
        }
        let mut body = BytesMut::zeroed(length);
        input.read_exact(&mut body).await?;
        let frame = Frame {
            id,
            kind: head[16],
            body: body.freeze(),
        };
        if frame.checksum() != checksum {
            return Err(io::Error::other("a frame was damaged on its way"));
        }
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flipped_bit_anywhere_is_noticed() {
        let frame = Frame {
            id: 7,
            kind: 3,
            body: Bytes::from_static(b"hello"),
        };
        let mut bytes = Vec::new();
        frame.write(&mut bytes).await.unwrap();
        assert_eq!(Frame::read(&mut bytes.as_slice()).await.unwrap(), frame);
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(
                Frame::read(&mut bent.as_slice()).await.is_err(),
                "byte {at}"
            );
        }
    }
}
