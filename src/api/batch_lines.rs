//! A body cut into lines, each within its bound, without holding more than one of them.

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};

use super::batch::{next_frame, too_large};
use super::body::drain;
use super::problem::{Kind, Problem};
use crate::model::limits::{BATCH_BODY_BYTES_MAX, TASK_BYTES_MAX};

/// What a body holds next.
pub enum Piece {
    /// A line that is not blank, without its end.
    Line(Bytes),
    /// A line, or the rest of the body, that cannot be read.
    Bad(Problem),
    /// Nothing at the moment.
    Pause,
    End,
}

/// Reads lines from a body.
pub struct Lines {
    body: Body,
    held: BytesMut,
    /// So many bytes of `held` are known to have no line end.
    searched: usize,
    seen: usize,
    /// The present line is too long, and is dropped up to its end.
    skipping: bool,
    ended: bool,
}

impl Lines {
    pub fn new(body: Body) -> Lines {
        Lines {
            body,
            held: BytesMut::new(),
            searched: 0,
            seen: 0,
            skipping: false,
            ended: false,
        }
    }

    /// The next line; waits for it only if `wait` says so.
    pub async fn next(&mut self, wait: bool) -> Piece {
        loop {
            if let Some(piece) = self.cut() {
                return piece;
            }
            if self.ended {
                return Piece::End;
            }
            match next_frame(&mut self.body, wait).await {
                None => return Piece::Pause,
                Some(None) => self.ended = true,
                Some(Some(Err(problem))) => return self.give_up(problem),
                Some(Some(Ok(data))) => {
                    self.seen += data.len();
                    if self.seen > BATCH_BODY_BYTES_MAX {
                        drain(&mut self.body).await;
                        return self.give_up(too_large());
                    }
                    self.held.extend_from_slice(&data);
                }
            }
        }
    }

    fn give_up(&mut self, problem: Problem) -> Piece {
        self.ended = true;
        self.held.clear();
        self.searched = 0;
        Piece::Bad(problem)
    }

    /// A line out of what is held, if there is a whole one.
    fn cut(&mut self) -> Option<Piece> {
        loop {
            let end = self.held[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n');
            let line = match end {
                Some(end) => {
                    let line = self.held.split_to(self.searched + end).freeze();
                    self.held.advance(1);
                    line
                }
                None if self.ended && !self.held.is_empty() => self.held.split().freeze(),
                None => return self.unfinished(),
            };
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if line.len() > TASK_BYTES_MAX {
                return Some(Piece::Bad(long_line()));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Some(Piece::Line(line));
            }
        }
    }

    /// No line end in sight: remembers so, and drops what can be no line any more.
    fn unfinished(&mut self) -> Option<Piece> {
        self.searched = self.held.len();
        if self.skipping || self.searched > TASK_BYTES_MAX {
            self.held.clear();
            self.searched = 0;
            let first = !std::mem::replace(&mut self.skipping, true);
            return first.then(|| Piece::Bad(long_line()));
        }
        None
    }
}

fn long_line() -> Problem {
    let detail = format!("a line has at most {TASK_BYTES_MAX} bytes");
    Problem::new(Kind::TooLarge, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pieces(frames: Vec<Vec<u8>>) -> Vec<String> {
        let frames = frames.into_iter().map(Ok::<_, std::io::Error>);
        let mut lines = Lines::new(Body::from_stream(futures::stream::iter(frames)));
        let mut out = Vec::new();
        loop {
            match lines.next(true).await {
                Piece::Line(line) => out.push(String::from_utf8_lossy(&line).into_owned()),
                Piece::Bad(problem) => out.push(problem.status().as_u16().to_string()),
                Piece::Pause => {}
                Piece::End => return out,
            }
        }
    }

    #[tokio::test]
    async fn lines_cross_frames() {
        let frames = vec![b"ab".to_vec(), b"c\n\r\n".to_vec(), b"d\ne".to_vec()];
        assert_eq!(pieces(frames).await, ["abc", "d", "e"]);
        assert_eq!(pieces(vec![]).await, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_in_a_line_ends_with_a_problem() {
        let broken = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let frames = [Ok(b"a\nhalf a li".to_vec()), Err(broken)];
        let mut lines = Lines::new(Body::from_stream(futures::stream::iter(frames)));
        assert!(matches!(lines.next(true).await, Piece::Line(_)));
        assert!(matches!(lines.next(true).await, Piece::Bad(_)));
        assert!(matches!(lines.next(true).await, Piece::End));
    }

    #[tokio::test]
    async fn a_long_line_fails_alone() {
        let mut frames = vec![b"a\n".to_vec()];
        frames.extend((0..5).map(|_| vec![b'x'; TASK_BYTES_MAX / 2]));
        frames.push(b"xx\nb\n".to_vec());
        assert_eq!(pieces(frames).await, ["a", "413", "b"]);
    }

    #[tokio::test]
    async fn a_long_body_ends_with_a_problem() {
        let line = [vec![b'x'; TASK_BYTES_MAX - 1], b"\n".to_vec()].concat();
        let answers = pieces((0..70).map(|_| line.clone()).collect()).await;
        assert_eq!(answers.len(), 65);
        assert_eq!(answers.last().map(String::as_str), Some("413"));
    }
}
