//! The folder of a node's store, as a seam: a directory, or what a simulation takes for one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use crate::state::{RedbStore, StoreFault};

/// Named files, of which some are stores. A name that was given is durable after [`Folder::sync`].
pub trait Folder: Send + Sync + 'static {
    /// The names there are.
    fn names(&self) -> io::Result<Vec<String>>;
    /// Opens a store, or makes an empty one: whole, or not there at all.
    fn store(&self, name: &str) -> Result<RedbStore, StoreFault>;
    /// Makes an empty file, in place of one that may be there.
    fn create(&self, name: &str) -> io::Result<Box<dyn Write + Send>>;
    /// Reads a file, which may lose its name meanwhile.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    /// Gives a file another name, in place of one that may have it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory.
pub struct Directory(PathBuf);

impl Directory {
    /// # Errors
    /// It is not there and cannot be made.
    pub fn open(path: PathBuf) -> io::Result<Directory> {
        fs::create_dir_all(&path)?;
        Ok(Directory(path))
    }
}

impl Folder for Directory {
    fn names(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().into_string().ok());
        let names = fs::read_dir(&self.0)?.map(name);
        names.filter_map(Result::transpose).collect()
    }

    fn store(&self, name: &str) -> Result<RedbStore, StoreFault> {
        RedbStore::open(&self.0.join(name))
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Write + Send>> {
        Ok(Box::new(File::create(self.0.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.0.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }
}
