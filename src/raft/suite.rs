//! openraft's own storage suite, over each engine.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

use super::folder::Directory;
use super::machine::{Folded, Machine};
use super::runner::Threads;
use super::snapshots::Snapshots;
use super::storage::Storage;
use super::types::Types;
use super::upkeep::Cadence;
use crate::log::{EngineKind, LogStore};
use crate::model::Level;

struct Stores(EngineKind);

impl StoreBuilder<Types, Storage, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, Storage, Machine), StorageError<Types>> {
        let failed = |e: std::io::Error| {
            StorageError::<Types>::from_io_error(
                openraft::ErrorSubject::Store,
                openraft::ErrorVerb::Write,
                e,
            )
        };
        let dir = tempfile::tempdir().map_err(failed)?;
        let log = LogStore::open(dir.path(), self.0)
            .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
        let folder = Directory::open(dir.path().join("snapshots")).map_err(failed)?;
        let snapshots = Snapshots::open(Arc::new(folder)).map_err(failed)?;
        let machine = Machine::open(
            snapshots,
            Arc::new(Folded::new(&Cadence::default(), Level::NEWEST)),
            Arc::new(Threads),
            (1, 1),
        )
        .map_err(failed)?;
        Ok((dir, Storage(log), machine))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redb_passes() -> Result<(), StorageError<Types>> {
    Suite::test_all(Stores(EngineKind::Redb)).await
}

#[cfg(feature = "sled")]
#[tokio::test(flavor = "multi_thread")]
async fn sled_passes() -> Result<(), StorageError<Types>> {
    Suite::test_all(Stores(EngineKind::Sled)).await
}
