//! One connection to a peer: many calls in flight, answered by number.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Duplex;
use super::frame::{FAILED, Frame};
use super::handshake::refusal;

/// Frames that may wait for the socket before callers wait themselves.
const OUTBOX: usize = 256;

/// A link on which calls run out of time, and nothing at all was heard for so long, is given up. What
/// the network lost it may send again only much later, by the kernel's own doubling of pauses; a new
/// connection is through at once. Longer than a busy peer is silent.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// Nothing was sent: surely no effect.
    #[error("cannot reach {address}: {why}")]
    Unsent { address: String, why: String },
    /// It was sent, or may have been: the outcome is unknown.
    #[error("no answer from {address}: {why}")]
    Lost { address: String, why: String },
    /// The other side could not begin with it: no effect.
    #[error("{address} cannot: {why}")]
    Failed { address: String, why: String },
    /// The other side does not want this node.
    #[error("refused by {address}: {why}")]
    Refused { address: String, why: String },
}

/// In order of numbers, so that those who wait for a connection that broke wake in that order.
type Pending = Arc<Mutex<Option<BTreeMap<u64, oneshot::Sender<Frame>>>>>;

/// An open connection. Dropping it closes it.
pub(crate) struct Link {
    address: String,
    outbox: mpsc::Sender<Frame>,
    pending: Pending,
    next: AtomicU64,
    refused: Arc<Mutex<Option<String>>>,
    heard: Arc<Mutex<Instant>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Takes over a connection on which the handshake is done.
    pub(crate) fn new(address: String, stream: Box<dyn Duplex>) -> Link {
        let (outbox, inbox) = mpsc::channel(OUTBOX);
        let pending: Pending = Arc::new(Mutex::new(Some(BTreeMap::new())));
        let refused = Arc::new(Mutex::new(None));
        let heard = Arc::new(Mutex::new(Instant::now()));
        let shared = (pending.clone(), refused.clone(), heard.clone());
        let task = tokio::spawn(carry(stream, inbox, shared));
        Link {
            address,
            outbox,
            pending,
            next: AtomicU64::new(1),
            refused,
            heard,
            task,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        lock(&self.pending).is_some() && !self.outbox.is_closed()
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn call(
        &self,
        kind: u8,
        body: Bytes,
        within: Duration,
    ) -> Result<Bytes, CallError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        match lock(&self.pending).as_mut() {
            Some(pending) => pending.insert(id, tx),
            None => return Err(self.unsent("the connection is closed")),
        };
        let answer = tokio::time::timeout(within, async {
            if self.outbox.send(Frame { id, kind, body }).await.is_err() {
                return Err(self.unsent("the connection is closed"));
            }
            let frame = rx.await.map_err(|_| self.lost("the connection broke"))?;
            match frame.kind {
                FAILED => Err(self.failed(&frame.body)),
                _ => Ok(frame.body),
            }
        });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => {
                if let Some(pending) = lock(&self.pending).as_mut() {
                    pending.remove(&id);
                }
                self.give_up_if_silent();
                Err(self.lost("it took too long"))
            }
        }
    }

    /// The next call makes a new connection then.
    fn give_up_if_silent(&self) {
        if lock(&self.heard).elapsed() >= SILENT_MAX {
            self.task.abort();
            // Whoever still waits is told that the connection broke.
            lock(&self.pending).take();
        }
    }

    fn unsent(&self, why: &str) -> CallError {
        CallError::Unsent {
            address: self.address.clone(),
            why: why.into(),
        }
    }

    fn failed(&self, why: &[u8]) -> CallError {
        CallError::Failed {
            address: self.address.clone(),
            why: String::from_utf8_lossy(why).into_owned(),
        }
    }

    fn lost(&self, why: &str) -> CallError {
        match lock(&self.refused).clone() {
            Some(why) => CallError::Refused {
                address: self.address.clone(),
                why,
            },
            None => CallError::Lost {
                address: self.address.clone(),
                why: why.into(),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Told = (Pending, Arc<Mutex<Option<String>>>, Arc<Mutex<Instant>>);

/// Moves frames both ways until either way ends; then nobody waits in vain.
async fn carry(
    stream: Box<dyn Duplex>,
    mut inbox: mpsc::Receiver<Frame>,
    (pending, refused, heard): Told,
) {
    let (read, write) = tokio::io::split(stream);
    let (mut read, mut write) = (
        BufReader::with_capacity(64 << 10, read),
        BufWriter::new(write),
    );
    let sender = async {
        while let Some(frame) = inbox.recv().await {
            frame.write(&mut write).await?;
            // What is waiting already shares the flush.
            while let Ok(frame) = inbox.try_recv() {
                frame.write(&mut write).await?;
            }
            write.flush().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let receiver = async {
        loop {
            let frame = Frame::read(&mut read).await?;
            *lock(&heard) = Instant::now();
            if let Some(why) = refusal(&frame) {
                *lock(&refused) = Some(why);
                return Ok(());
            }
            let waiting = lock(&pending).as_mut().and_then(|p| p.remove(&frame.id));
            if let Some(waiting) = waiting {
                // The caller may have given up.
                let _ = waiting.send(frame);
            }
        }
        #[allow(unreachable_code)]
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        _ = sender => {}
        _ = receiver => {}
    }
    lock(&pending).take();
}
