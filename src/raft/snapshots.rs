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
        self.install_by_steps(received, &mut |_| {})
    }

    /// The same; `reached` is told of each step that the disk may be found at.
    fn install_by_steps(
        &self,
        received: &PathBuf,
        reached: &mut dyn FnMut(&'static str),
    ) -> io::Result<(State, Attachment)> {
        reached("received");
        let fresh = self.0.join(INSTALLING);
        if fresh.exists() {
            fs::remove_file(&fresh)?;
        }
        let store = RedbStore::open(&fresh).map_err(io::Error::other)?;
        reached("made an empty store");
        let mut reader = BufReader::with_capacity(1 << 20, File::open(received)?);
        let restored = State::restore(&mut reader, Box::new(store)).map_err(io::Error::other)?;
        reached("filled it");
        fs::rename(&fresh, self.0.join(STORE))?;
        reached("gave it its name");
        File::open(&*self.0)?.sync_all()?;
        fs::remove_file(received)?;
        reached("removed what was received");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, By, Event, Http, Key, Spec, Submit, Target, Time, When, encode};
    use crate::raft::types::log_id;
    use crate::state::StateHash;
    use std::collections::BTreeMap;
    use std::path::Path;

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
        let snapshots = Snapshots::open(dir.to_owned()).unwrap();
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
        let snapshots = Snapshots::open(dir.to_owned()).unwrap();
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
        let sender = Snapshots::open(theirs).unwrap();
        let (sending, _) = sender.state().unwrap();
        let (image, _, index) = sending.image().unwrap().unwrap();
        let part = sender.part("send");
        let (sent, _) = write_out(SnapshotData::Own { image, part, index }).unwrap();
        let whole = fs::read(&sent).unwrap();

        let receiver = Snapshots::open(ours.clone()).unwrap();
        let live = receiver.state().unwrap();
        let received = receiver.part("receive-9");
        // Cut off while it came in, or damaged on the way: it is not taken.
        for length in (0..whole.len()).step_by(whole.len() / 23 + 1) {
            fs::write(&received, &whole[..length]).unwrap();
            assert!(receiver.install(&received).is_err(), "{length} bytes");
            let killed = root.path().join(format!("cut-{length}"));
            copy(&ours, &killed);
            assert_eq!(found(&killed), (3, old, 3, 1), "{length} bytes");
        }
        fs::write(&received, &whole).unwrap();
        let mut steps = Vec::new();
        let installed = receiver.install_by_steps(&received, &mut |step| {
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
