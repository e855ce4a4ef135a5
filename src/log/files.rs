//! Making files so that a crash leaves either the old state or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::fault::LogFault;

/// Replaces `path` by a file with these bytes: written beside it, synced, renamed, folder synced.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LogFault> {
    let unfinished = path.with_extension("new");
    let written = File::create(&unfinished).and_then(|mut file| file.write_all(bytes));
    written.map_err(|source| failed("writing", &unfinished, source))?;
    publish(&unfinished, path)
}

/// Syncs a finished file, gives it its name, and syncs the folder so that the name stays.
pub(crate) fn publish(unfinished: &Path, path: &Path) -> Result<(), LogFault> {
    File::open(unfinished)
        .and_then(|file| file.sync_all())
        .map_err(|source| failed("syncing", unfinished, source))?;
    fs::rename(unfinished, path).map_err(|source| failed("renaming", unfinished, source))?;
    match path.parent() {
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<(), LogFault> {
    File::open(folder)
        .and_then(|file| file.sync_all())
        .map_err(|source| failed("syncing", folder, source))
}

pub(crate) fn remove_if_there(path: &Path) -> Result<(), LogFault> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("removing", path, source))
        }
        _ => Ok(()),
    }
}

/// The folder, made if it is not there, with its name durable.
pub(crate) fn make_folder(dir: &Path) -> Result<(), LogFault> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|source| failed("creating", dir, source))?;
    match dir.parent() {
        Some(above) if !above.as_os_str().is_empty() => sync_folder(above),
        _ => Ok(()),
    }
}

pub(crate) fn failed(doing: &str, path: &Path, source: io::Error) -> LogFault {
    LogFault::io(format!("{doing} {}", path.display()), source)
}
