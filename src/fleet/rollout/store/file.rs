//! Roll-outs in a directory of this machine, one file each: a line that says what it is (an [`Entry`]) and the roll-out.
//!
//! A change is a new file renamed into the old one's place, under a lock that the kernel lets go when its holder dies.
//! Managers on several machines need a database: a lock on a network's file system is worth what that file system makes of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use rustix::fs::FlockOperation;

use super::{Company, Entry, Store, StoreError, Stored, check_name};
use crate::base::atomic_file;
use crate::fleet::rollout::plan::DeviceId;
use crate::fleet::rollout::state::Rollout;

/// A directory of roll-outs.
#[derive(Debug, Clone)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// Opens the directory; it is made if it is not there.
    pub fn open(directory: &Path) -> Result<FileStore, StoreError> {
        let store = FileStore { directory: directory.to_owned() };
        fs::create_dir_all(directory).map_err(|e| disk("make the directory", directory, e))?;
        // Found out now, not at the first wave.
        store.lock().map(|_| store)
    }

    fn path(&self, id: &str) -> Result<PathBuf, StoreError> {
        check_name(id)?;
        Ok(self.directory.join(format!("{id}.rollout")))
    }

    /// Nobody else changes anything while the file lives.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.directory.join("lock");
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        let file = file.map_err(|e| disk("open", &path, e))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| disk("lock", &path, e.into()))?;
        Ok(file)
    }

    fn entry(&self, id: &str) -> Result<(Entry, BufReader<File>, PathBuf), StoreError> {
        let path = self.path(id)?;
        let file = File::open(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => StoreError::Missing(id.to_owned()),
            _ => disk("read", &path, e),
        })?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        reader.read_line(&mut line).map_err(|e| disk("read", &path, e))?;
        let entry = serde_json::from_str(&line).map_err(|e| unreadable(&path, e))?;
        Ok((entry, reader, path))
    }

    fn list_now(&self) -> Result<Vec<Entry>, StoreError> {
        let failed = |e| disk("read", &self.directory, e);
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.directory).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            if let Some(id) = name.to_str().and_then(|n| n.strip_suffix(".rollout")) {
                entries.push(self.entry(id)?.0);
            }
        }
        entries.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(entries)
    }

    fn create_now(&self, rollout: &Rollout, company: Company) -> Result<(), StoreError> {
        let path = self.path(&rollout.id)?;
        let _lock = self.lock()?;
        if path.exists() {
            return Err(StoreError::Exists(rollout.id.clone()));
        }
        if company == Company::Alone
            && let Some(other) = self.list_now()?.into_iter().find(|e| e.open)
        {
            return Err(StoreError::Open(other.id));
        }
        write(&path, rollout, 1)
    }

    fn commit_now(&self, expected: u64, rollout: &Rollout) -> Result<u64, StoreError> {
        let path = self.path(&rollout.id)?;
        let _lock = self.lock()?;
        if self.entry(&rollout.id)?.0.version != expected {
            return Err(StoreError::Conflict(rollout.id.clone()));
        }
        write(&path, rollout, expected + 1)?;
        Ok(expected + 1)
    }

    fn load_now(&self, id: &str) -> Result<Stored, StoreError> {
        let (entry, mut rest, path) = self.entry(id)?;
        let mut text = String::new();
        rest.read_to_string(&mut text).map_err(|e| disk("read", &path, e))?;
        let rollout = serde_json::from_str(&text).map_err(|e| unreadable(&path, e))?;
        Ok(Stored { version: entry.version, rollout })
    }
}

#[async_trait]
impl Store for FileStore {
    async fn create(&self, rollout: &Rollout, company: Company) -> Result<(), StoreError> {
        let (store, rollout) = (self.clone(), rollout.clone());
        off_the_runtime(move || store.create_now(&rollout, company)).await
    }

    async fn list(&self) -> Result<Vec<Entry>, StoreError> {
        let store = self.clone();
        off_the_runtime(move || store.list_now()).await
    }

    async fn version(&self, id: &str) -> Result<u64, StoreError> {
        let (store, id) = (self.clone(), id.to_owned());
        off_the_runtime(move || Ok(store.entry(&id)?.0.version)).await
    }

    async fn load(&self, id: &str) -> Result<Stored, StoreError> {
        let (store, id) = (self.clone(), id.to_owned());
        off_the_runtime(move || store.load_now(&id)).await
    }

    async fn commit(&self, expected: u64, rollout: &Rollout, _: &BTreeSet<DeviceId>) -> Result<u64, StoreError> {
        let (store, rollout) = (self.clone(), rollout.clone());
        off_the_runtime(move || store.commit_now(expected, &rollout)).await
    }
}

fn write(path: &Path, rollout: &Rollout, version: u64) -> Result<(), StoreError> {
    let unwritable = |e| unreadable(path, e);
    let mut text = serde_json::to_vec(&Entry::of(rollout, version)).map_err(unwritable)?;
    text.push(b'\n');
    serde_json::to_writer(&mut text, rollout).map_err(unwritable)?;
    atomic_file::write(path, &text).map_err(|e| disk("write", path, e))
}

fn disk(what: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::Disk { what, path: path.to_owned(), source }
}

fn unreadable(path: &Path, source: serde_json::Error) -> StoreError {
    StoreError::Unreadable { place: path.display().to_string(), source }
}

async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}
