//! Clocks for silence: a body that stops coming, a connection on which nothing moves.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// What a request is told whose body stopped coming.
pub const IDLE: &str = "the body stopped coming";

/// A socket's silence is measured in the runtime's own time, in which its timers fire.
#[allow(clippy::disallowed_methods)] // reason: see above
fn now() -> Instant {
    Instant::now()
}

/// Fires when nothing was reported for a while. Reporting costs a store; the timer is moved only
/// when it fires too early.
struct Silence {
    limit: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(limit: Duration) -> Silence {
        let last = now();
        Silence {
            limit,
            last,
            timer: Box::pin(tokio::time::sleep_until(last + limit)),
        }
    }

    fn broken(&mut self) {
        self.last = now();
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            let until = self.last + self.limit;
            if until <= now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(until);
        }
        Poll::Pending
    }
}

/// A body that fails when it stops coming.
pub struct IdleBody<B> {
    inner: B,
    silence: Silence,
}

impl<B> IdleBody<B> {
    pub fn new(inner: B, limit: Duration) -> IdleBody<B> {
        let silence = Silence::new(limit);
        IdleBody { inner, silence }
    }
}

impl<B: Body<Data = Bytes, Error = hyper::Error> + Unpin> Body for IdleBody<B> {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                self.silence.broken();
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => self.silence.poll(context).map(|()| Some(Err(IDLE.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// So many bytes tell the version; until they have come none of hyper's own clocks runs.
const PREFACE_BYTES: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// A connection that fails when nothing moves on it in either direction. Its first bytes must
/// come sooner: a client that says nothing at all has no claim to a place.
pub struct IdleStream<S> {
    inner: S,
    silence: Silence,
    /// Bytes of the preface that have not come yet.
    awaited: usize,
    idle: Duration,
}

impl<S> IdleStream<S> {
    /// `first` between its first bytes, `idle` afterwards.
    pub fn new(inner: S, first: Duration, idle: Duration) -> IdleStream<S> {
        IdleStream {
            inner,
            silence: Silence::new(first),
            awaited: PREFACE_BYTES,
            idle,
        }
    }

    /// Once the version can be told, the clocks of its protocol take over.
    fn came(&mut self, bytes: usize) {
        if self.awaited > 0 {
            self.awaited = self.awaited.saturating_sub(bytes);
            if self.awaited == 0 {
                self.silence.limit = self.idle;
            }
        }
    }

    fn watched<T>(
        &mut self,
        poll: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(result) => {
                self.silence.broken();
                Poll::Ready(result)
            }
            Poll::Pending => self
                .silence
                .poll(context)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for IdleStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.came(buffer.filled().len() - before);
        self.watched(poll, context)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for IdleStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Whoever is answered has been understood.
        self.came(PREFACE_BYTES);
        let poll = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.watched(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.came(PREFACE_BYTES);
        let poll = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.watched(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(context);
        self.watched(poll, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(context);
        self.watched(poll, context)
    }
}
