//! The store's folder, and snapshots on their way out of it and into it.
//!
//! A snapshot *is* a checkpoint: an image of the store, written as a stream of sorted rows when a
//! lagging node needs it. A received one becomes a new store beside the old, which it replaces by
//! its name once it is whole.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::machine::attachment;
use super::types::Attachment;
use crate::state::{Image, RedbStore, State, read_attachment, write_snapshot};

/// The folder of a node's store.
#[derive(Clone)]
pub(crate) struct Snapshots(Arc<PathBuf>);

const STORE: &str = "state.redb";
const INSTALLING: &str = "state.installing";

/// A snapshot as openraft hands it around.
pub(crate) enum SnapshotData {
    /// Of this node's own store, and where it may be written.
    Own {
        image: Box<dyn Image>,
        part: PathBuf,
        index: u64,
    },
    /// Received, and complete.
    Received(PathBuf),
}

impl Snapshots {
    /// Opens the folder, and clears what an interrupted snapshot left.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Snapshots> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|e| e == "part" || e == "installing")
            {
                fs::remove_file(path)?;
            }
        }
        Ok(Snapshots(Arc::new(dir)))
    }

    /// Opens the store and the state in it, with what Raft wants to know.
    pub(crate) fn state(&self) -> io::Result<(State, Attachment)> {
        let store = RedbStore::open(&self.0.join(STORE)).map_err(io::Error::other)?;
        let (state, bytes) = State::open(Box::new(store)).map_err(io::Error::other)?;
        let attachment = if bytes.is_empty() {
            Attachment::default()
        } else {
            attachment(&bytes)?
        };
        Ok((state, attachment))
    }

    /// Where a snapshot is written on its way.
    pub(crate) fn part(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.part"))
    }

    /// Makes a received snapshot this node's store. What was the store before is gone when the
    /// state that holds it is dropped.
    pub(crate) fn install(&self, received: &PathBuf) -> io::Result<(State, Attachment)> {
        let fresh = self.0.join(INSTALLING);
        if fresh.exists() {
            fs::remove_file(&fresh)?;
        }
        let store = RedbStore::open(&fresh).map_err(io::Error::other)?;
        let mut reader = BufReader::with_capacity(1 << 20, File::open(received)?);
        let restored = State::restore(&mut reader, Box::new(store)).map_err(io::Error::other)?;
        fs::rename(&fresh, self.0.join(STORE))?;
        File::open(&*self.0)?.sync_all()?;
        fs::remove_file(received)?;
        let (state, bytes) = restored;
        Ok((state, attachment(&bytes)?))
    }
}

/// What a received file carries for Raft.
pub(crate) fn received_attachment(path: &PathBuf) -> io::Result<Attachment> {
    let bytes = read_attachment(&mut BufReader::new(File::open(path)?));
    attachment(&bytes.map_err(io::Error::other)?)
}

/// Writes a snapshot out, to be sent.
pub(crate) fn write_out(data: SnapshotData) -> io::Result<(PathBuf, u64)> {
    let SnapshotData::Own { image, part, index } = data else {
        return Err(io::Error::other(
            "a received snapshot is installed, not sent on",
        ));
    };
    let mut writer = BufWriter::with_capacity(1 << 20, File::create(&part)?);
    write_snapshot(&*image, &mut writer).map_err(io::Error::other)?;
    writer.flush()?;
    Ok((part, index))
}
