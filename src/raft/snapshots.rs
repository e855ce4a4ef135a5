//! The store's folder, and snapshots on their way out of it and into it.
//!
//! A snapshot *is* a checkpoint: an image of the store, written as a stream of sorted rows when a
//! lagging node needs it. A received one becomes a new store beside the old, which it replaces by
//! its name once it is whole.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::sync::Arc;

use super::folder::Folder;
use super::machine::attachment;
use super::types::Attachment;
use crate::state::{Image, State, read_attachment, write_snapshot};

/// The folder of a node's store.
#[derive(Clone)]
pub(crate) struct Snapshots(Arc<dyn Folder>);

const STORE: &str = "state.redb";
const INSTALLING: &str = "state.installing";
/// What is only on its way.
const UNFINISHED: [&str; 2] = [".part", ".installing"];
const BUFFER_BYTES: usize = 1 << 20;

/// A snapshot as openraft hands it around.
pub(crate) enum SnapshotData {
    /// Of this node's own store.
    Own { image: Box<dyn Image>, index: u64 },
    /// Received, and complete, under this name.
    Received(String),
}

impl Snapshots {
    /// Clears what an interrupted snapshot left.
    pub(crate) fn open(folder: Arc<dyn Folder>) -> io::Result<Snapshots> {
        for name in folder.names()? {
            if UNFINISHED.iter().any(|end| name.ends_with(end)) {
                folder.remove(&name)?;
            }
        }
        Ok(Snapshots(folder))
    }

    /// Opens the store and the state in it, with what Raft wants to know.
    pub(crate) fn state(&self) -> io::Result<(State, Attachment)> {
        let store = self.0.store(STORE).map_err(io::Error::other)?;
        let (state, bytes) = State::open(Box::new(store)).map_err(io::Error::other)?;
        let attachment = if bytes.is_empty() {
            Attachment::default()
        } else {
            attachment(&bytes)?
        };
        Ok((state, attachment))
    }

    /// Begins a file for a snapshot that comes in.
    pub(crate) fn receive(&self, index: u64) -> io::Result<(String, Box<dyn Write + Send>)> {
        let name = format!("receive-{index}.part");
        let file = self.0.create(&name)?;
        Ok((name, file))
    }

    /// Makes a received snapshot this node's store. What was the store before is gone when the
    /// state that holds it is dropped.
    pub(crate) fn install(&self, received: &str) -> io::Result<(State, Attachment)> {
        self.install_by_steps(received, &mut |_| {})
    }

    /// The same; `reached` is told of each step that the disk may be found at.
    fn install_by_steps(
        &self,
        received: &str,
        reached: &mut dyn FnMut(&'static str),
    ) -> io::Result<(State, Attachment)> {
        reached("received");
        if self.0.names()?.iter().any(|name| name == INSTALLING) {
            self.0.remove(INSTALLING)?;
        }
        let store = self.0.store(INSTALLING).map_err(io::Error::other)?;
        reached("made an empty store");
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, self.0.open(received)?);
        let restored = State::restore(&mut reader, Box::new(store)).map_err(io::Error::other)?;
        reached("filled it");
        self.0.rename(INSTALLING, STORE)?;
        reached("gave it its name");
        self.0.sync()?;
        self.0.remove(received)?;
        reached("removed what was received");
        let (state, bytes) = restored;
        Ok((state, attachment(&bytes)?))
    }

    /// What a received file carries for Raft.
    pub(crate) fn received_attachment(&self, received: &str) -> io::Result<Attachment> {
        let bytes = read_attachment(&mut BufReader::new(self.0.open(received)?));
        attachment(&bytes.map_err(io::Error::other)?)
    }

    /// Writes a snapshot of this node's own store out; returns its name.
    pub(crate) fn write_out(&self, data: SnapshotData) -> io::Result<(String, u64)> {
        let SnapshotData::Own { image, index } = data else {
            return Err(io::Error::other(
                "a received snapshot is installed, not sent on",
            ));
        };
        let name = format!("send-{index}.part");
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, self.0.create(&name)?);
        write_snapshot(&*image, &mut writer).map_err(io::Error::other)?;
        writer.flush()?;
        Ok((name, index))
    }

    /// The same, to be read: the file lives as long as that takes.
    pub(crate) fn to_send(&self, data: SnapshotData) -> io::Result<(Box<dyn Read + Send>, u64)> {
        let (name, index) = self.write_out(data)?;
        let file = self.0.open(&name)?;
        self.0.remove(&name)?;
        Ok((file, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, By, Event, Http, Key, Spec, Submit, Target, Time, When, encode};
    use crate::raft::folder::Directory;
    use crate::raft::types::log_id;
    use crate::state::StateHash;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    fn over(dir: &Path) -> Snapshots {
        Snapshots::open(Arc::new(Directory::open(dir.to_owned()).unwrap())).unwrap()
    }

    fn submit(n: u64) -> Event {
        let http = Http {
            url: "http://a/".into(),
            ..Http::default()
        };
        let spec = Spec {
            target: Target::Http(http),
            retry: None,
            accept_timeout: None,
            expires_at: None,
            labels: BTreeMap::new(),
            placement: None,
            next: Default::default(),
        };
        let (spec, when) = (spec.encode(), When::At(Time(10_000_000 + n)));
        Event::from(Submit {
            key: Key::new("shop", &format!("order-{n}")).unwrap(),
            when,
            digest: Spec::digest(&spec, when),
            spec,
            by: By::from("test"),
        })
    }

    /// A folder whose store holds the tasks of so many entries; its state is not kept open.
    fn folder(dir: &Path, entries: u64) -> StateHash {
        let snapshots = over(dir);
        let (mut state, _) = snapshots.state().unwrap();
        for index in 1..=entries {
            let events = (0..40).map(|n| submit(index * 100 + n)).collect();
            let (stamp, now) = (Time(1_000), Time(1_000));
            let batch = Batch { stamp, now, events };
            state.prepare(&batch).unwrap();
            state.apply(index, batch, &mut Vec::new());
        }
        let at = crate::log::Position {
            term: 1,
            node: 1,
            index: entries,
        };
        let attachment = Attachment::new(Some(&log_id(at)), &Default::default());
        let checkpoint = state.begin_checkpoint(encode(&attachment)).unwrap();
        checkpoint.write().unwrap();
        state.end_checkpoint().unwrap();
        state.hash()
    }

    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for file in fs::read_dir(from).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }

    /// What a node finds that starts on a folder: its state's index and hash, what Raft is told,
    /// and the files that are left.
    fn found(dir: &Path) -> (u64, StateHash, u64, usize) {
        let snapshots = over(dir);
        let (state, attachment) = snapshots.state().unwrap();
        let told = attachment.applied().map_or(0, |id| id.index());
        let files = fs::read_dir(dir).unwrap().count();
        (state.applied(), state.hash(), told, files)
    }

    /// A node that is killed at any step of taking a snapshot in starts with the whole state of
    /// before, or the whole new one.
    #[test]
    fn a_kill_at_every_step_of_an_install_leaves_one_state_whole() {
        let root = tempfile::tempdir().unwrap();
        let (ours, theirs) = (root.path().join("ours"), root.path().join("theirs"));
        let (old, new) = (folder(&ours, 3), folder(&theirs, 9));
        let sender = over(&theirs);
        let (sending, _) = sender.state().unwrap();
        let (image, _, index) = sending.image().unwrap().unwrap();
        let (sent, _) = sender
            .write_out(SnapshotData::Own { image, index })
            .unwrap();
        let whole = fs::read(theirs.join(sent)).unwrap();

        let receiver = over(&ours);
        let live = receiver.state().unwrap();
        let received = "receive-9.part";
        let file = ours.join(received);
        // Cut off while it came in, or damaged on the way: it is not taken.
        for length in (0..whole.len()).step_by(whole.len() / 23 + 1) {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(receiver.install(received).is_err(), "{length} bytes");
            let killed = root.path().join(format!("cut-{length}"));
            copy(&ours, &killed);
            assert_eq!(found(&killed), (3, old, 3, 1), "{length} bytes");
        }
        fs::write(&file, &whole).unwrap();
        let mut steps = Vec::new();
        let installed = receiver.install_by_steps(received, &mut |step| {
            copy(&ours, &root.path().join(step));
            steps.push(step);
        });
        let (state, attachment) = installed.unwrap();
        assert_eq!((state.applied(), state.hash()), (9, new));
        assert_eq!(attachment.applied().map(|id| id.index()), Some(9));
        drop((live, state));
        let named = steps.iter().position(|step| *step == "gave it its name");
        for (n, step) in steps.iter().enumerate() {
            let expected = match Some(n) < named {
                true => (3, old, 3, 1),
                false => (9, new, 9, 1),
            };
            assert_eq!(found(&root.path().join(step)), expected, "{step}");
        }
        assert_eq!(steps.len(), 5);
    }
}
