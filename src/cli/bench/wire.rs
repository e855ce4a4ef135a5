//! HTTP/1.1 as little of it as a load generator needs: what it parses must not eat the CPU of what
//! it measures. Bytes come in pieces of any size; nothing is read twice.

use anyhow::{Result, bail};
use bytes::{Buf, BytesMut};

/// A head that is longer is none of ours.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How the line of a batch's answer begins when its task is new.
const CREATED: &[u8] = b"{\"status\":201";

/// What one request came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Lines of the body that say 201.
    pub created: u64,
}

/// The answers of one connection, in order.
pub struct Answers {
    buffer: BytesMut,
    place: Place,
    answer: Answer,
    lines: Lines,
}

/// Where in an answer the next byte belongs.
#[derive(Clone, Copy, Debug)]
enum Place {
    Head,
    Body(usize),
    ChunkSize,
    Chunk(usize),
    /// The line break after a chunk.
    ChunkEnd,
    /// The line break after the last chunk.
    LastEnd,
}

impl Default for Answers {
    fn default() -> Answers {
        Answers {
            buffer: BytesMut::with_capacity(16 << 10),
            place: Place::Head,
            answer: Answer::default(),
            lines: Lines::default(),
        }
    }
}

impl Answers {
    /// Where bytes from the connection go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The next whole answer, if it is there.
    ///
    /// # Errors
    /// When this is not the HTTP that servers speak to such a client.
    pub fn next(&mut self) -> Result<Option<Answer>> {
        loop {
            let more = match self.place {
                Place::Head => self.head()?,
                Place::Body(0) => return Ok(Some(self.end())),
                Place::Body(left) => self.data(left, Place::Body),
                Place::ChunkSize => self.chunk_size()?,
                Place::Chunk(0) => self.skip_line(Place::ChunkEnd, Place::ChunkSize),
                Place::Chunk(left) => self.data(left, Place::Chunk),
                Place::ChunkEnd => self.skip_line(Place::ChunkEnd, Place::ChunkSize),
                Place::LastEnd => match self.skip_line(Place::LastEnd, Place::Body(0)) {
                    true => return Ok(Some(self.end())),
                    false => false,
                },
            };
            if !more {
                return Ok(None);
            }
        }
    }

    fn end(&mut self) -> Answer {
        self.place = Place::Head;
        self.lines = Lines::default();
        std::mem::take(&mut self.answer)
    }

    fn head(&mut self) -> Result<bool> {
        let Some(end) = head_end(&self.buffer) else {
            if self.buffer.len() > HEAD_BYTES_MAX {
                bail!("an answer's head has more than {HEAD_BYTES_MAX} bytes");
            }
            return Ok(false);
        };
        let head = &self.buffer[..end];
        self.answer.status = status(head)?;
        let chunked = header(head, b"transfer-encoding").is_some_and(|v| v == b"chunked");
        self.place = match header(head, b"content-length").map(decimal) {
            _ if chunked => Place::ChunkSize,
            Some(Some(length)) => Place::Body(length),
            _ => bail!("an answer names no length"),
        };
        self.buffer.advance(end);
        Ok(true)
    }

    fn data(&mut self, left: usize, place: fn(usize) -> Place) -> bool {
        let here = left.min(self.buffer.len());
        self.answer.created += self.lines.count(&self.buffer[..here]);
        self.buffer.advance(here);
        self.place = place(left - here);
        here > 0
    }

    fn chunk_size(&mut self) -> Result<bool> {
        let Some(end) = self.buffer.iter().position(|b| *b == b'\n') else {
            return Ok(false);
        };
        let line = std::str::from_utf8(&self.buffer[..end]).unwrap_or_default();
        let digits = line.trim_end().split(';').next().unwrap_or_default();
        let Ok(size) = usize::from_str_radix(digits, 16) else {
            bail!("{line:?} is no size of a chunk");
        };
        self.buffer.advance(end + 1);
        self.place = if size == 0 {
            Place::LastEnd
        } else {
            Place::Chunk(size)
        };
        Ok(true)
    }

    fn skip_line(&mut self, here: Place, then: Place) -> bool {
        let whole = self.buffer.len() >= 2;
        if whole {
            self.buffer.advance(2);
        }
        self.place = if whole { then } else { here };
        whole
    }
}

/// Counts the lines that begin as [`CREATED`] does, however they are cut.
#[derive(Default)]
struct Lines {
    column: usize,
    differs: bool,
}

impl Lines {
    fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut created = 0;
        while !data.is_empty() {
            let wanted = &CREATED[self.column.min(CREATED.len())..];
            let here = wanted.len().min(data.len());
            self.differs |= data[..here] != wanted[..here];
            self.column += here;
            match data.iter().position(|byte| *byte == b'\n') {
                None => break,
                Some(end) => {
                    created += u64::from(!self.differs && self.column >= CREATED.len());
                    *self = Lines::default();
                    data = &data[end + 1..];
                }
            }
        }
        created
    }
}

/// Where a head ends, its empty line included.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    let found = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    found.map(|at| at + 4)
}

/// The value of a header; its name is given in lower case.
pub fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').find_map(|line| {
        let (given, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        given.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
    })
}

/// A decimal number.
pub fn decimal(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn status(head: &[u8]) -> Result<u16> {
    let digits = head.strip_prefix(b"HTTP/1.1 ").and_then(|h| h.get(..3));
    match digits.and_then(decimal) {
        Some(status) => Ok(status as u16),
        None => bail!("this is no answer over HTTP/1.1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
    const EMPTY: &str = "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
        1b\r\n{\"status\":201,\"id\":\"a\"}\n{\"s\r\n\
        3a\r\ntatus\":201,\"id\":\"b\"}\n{\"status\":409}\n{\"status\":201,\"id\":1}\n\r\n0\r\n\r\n";

    fn read(text: &str, piece: usize) -> Vec<Answer> {
        let mut answers = Answers::default();
        let mut read = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            answers.buffer().extend_from_slice(piece);
            while let Some(answer) = answers.next().unwrap() {
                read.push(answer);
            }
        }
        assert!(answers.buffer().is_empty());
        read
    }

    fn answer(status: u16, created: u64) -> Answer {
        Answer { status, created }
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let all = format!("{PLAIN}{EMPTY}{CHUNKED}{PLAIN}");
        for piece in 1..=all.len() {
            let want = [(201, 0), (204, 0), (200, 3), (201, 0)];
            let want = want.map(|(status, created)| answer(status, created));
            assert_eq!(read(&all, piece), want, "in pieces of {piece}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bad in [
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let mut answers = Answers::default();
            answers.buffer().extend_from_slice(bad.as_bytes());
            assert!(answers.next().is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_are_found_by_name() {
        let head = b"POST / HTTP/1.1\r\nHorolog-Task:  t-1 \r\nhorolog-task-x: 2\r\n\r\n";
        assert_eq!(header(head, b"horolog-task"), Some(&b"t-1"[..]));
        assert_eq!(header(head, b"horolog"), None);
    }
}
