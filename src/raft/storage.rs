//! The log, as openraft wants it.

use bytes::Bytes;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use tokio::sync::oneshot;

use super::types::{Entry, LogId, Types, Vote, VoteBytes, from_log, log_id, position, to_log};
use crate::bugs::{self, Bug};
use crate::log::LogStore;
use crate::model::{decode, encode};

/// So many bytes of entries are read at once for a follower that is behind: enough to keep a
/// connection busy, little enough that heartbeats are not starved of memory bandwidth.
const READ_BYTES_MAX: usize = 1 << 20;

/// The log store with openraft's traits.
#[derive(Clone)]
pub(crate) struct Storage(pub(crate) LogStore);

impl RaftLogReader<Types> for Storage {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.entries(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        let Some(bytes) = self.0.vote() else {
            return Ok(None);
        };
        let vote: VoteBytes = decode(&bytes).map_err(io::Error::other)?;
        Ok(Some(vote.into()))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.entries(start, end, READ_BYTES_MAX)
    }
}

impl Storage {
    fn entries(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let entries = self
            .0
            .read(start..end, max_bytes)
            .map_err(io::Error::other)?;
        entries
            .into_iter()
            .map(|entry| from_log(entry).map_err(io::Error::other))
            .collect()
    }

    async fn written(&self, submit: impl FnOnce(crate::log::Done)) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        submit(Box::new(move |result| {
            // Nobody waits any more when Raft is shutting down.
            let _ = tx.send(result);
        }));
        rx.await
            .map_err(|_| io::Error::other("the log writer has stopped"))?
    }
}

impl RaftLogStorage<Types> for Storage {
    type LogReader = Storage;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let bounds = self.0.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(log_id),
            last_log_id: bounds.last.map(log_id),
        })
    }

    async fn get_log_reader(&mut self) -> Storage {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if bugs::on(Bug::VoteNotSaved) {
            return Ok(());
        }
        let bytes = Bytes::from(encode(&VoteBytes::from(vote)));
        self.written(|done| self.0.save_vote(bytes, done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.note_committed(committed.as_ref().map(position));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.committed().map(log_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(|entry| to_log(&entry)).collect();
        self.0.append(
            entries,
            Box::new(move |result| callback.io_completed(result)),
        );
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let last = last.map(|id| id.index());
        self.written(|done| self.0.truncate_after(last, done)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let upto = match bugs::on(Bug::PurgeBeyondCheckpoint) {
            true => self.0.bounds().last.unwrap_or(position(&upto)),
            false => position(&upto),
        };
        self.written(|done| self.0.purge(upto, done)).await
    }
}
