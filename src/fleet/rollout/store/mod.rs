//! Where roll-outs are kept, so that neither a crash nor a second manager does harm.
//!
//! What belongs here: keeping. What does not: what is kept (`super::state`).
//!
//! Invariant of every implementation: [`Store::commit`] changes a roll-out only if it is still the one that was loaded (its
//! version is the same), whole or not at all, and durably. Whoever was slower gets [`StoreError::Conflict`], loads and looks
//! again. One suite of tests (`tests/rollout_store.rs`) asks this of all of them.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::plan::DeviceId;
use super::settings::State;
use super::state::Rollout;
use super::tls::TlsError;
use crate::base::clock::Wall;
use crate::base::error::Retry;

mod file;
mod postgres;

pub use file::FileStore;
pub use postgres::PostgresStore;

/// A roll-out, and the version that a change is made against.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// From 1; another one after every change.
    pub version: u64,
    /// The roll-out.
    pub rollout: Rollout,
}

/// What is known of a roll-out without loading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// See [`Stored::version`].
    pub version: u64,
    /// The release.
    pub release: u64,
    /// Its phase's word.
    pub phase: String,
    /// It offers, or will when it is resumed.
    pub open: bool,
    /// Nothing more comes of it.
    pub over: bool,
    /// When it was started.
    pub created: Wall,
    /// By whom.
    pub created_by: String,
}

impl Entry {
    fn of(rollout: &Rollout, version: u64) -> Entry {
        Entry {
            id: rollout.id.clone(),
            version,
            release: rollout.plan.release,
            phase: rollout.head.phase.as_str().to_owned(),
            open: rollout.head.phase.is_open(),
            over: rollout.is_over(),
            created: rollout.head.created,
            created_by: rollout.head.created_by.clone(),
        }
    }
}

/// Whether a roll-out may begin while another one is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// It may not: two would offer one device different releases in turn.
    Alone,
    /// Whoever starts it knows that they share no device.
    Beside,
}

/// What keeps roll-outs.
#[async_trait]
pub trait Store: Send + Sync {
    /// Keeps a new one.
    async fn create(&self, rollout: &Rollout, company: Company) -> Result<(), StoreError>;
    /// All of them, the latest first.
    async fn list(&self) -> Result<Vec<Entry>, StoreError>;
    /// Which version one is at.
    async fn version(&self, id: &str) -> Result<u64, StoreError>;
    /// One of them.
    async fn load(&self, id: &str) -> Result<Stored, StoreError>;
    /// Replaces what was loaded as version `expected`; `changed` are the devices whose records are others. The new version.
    async fn commit(&self, expected: u64, rollout: &Rollout, changed: &BTreeSet<DeviceId>) -> Result<u64, StoreError>;
}

/// Why something is not kept, or not found.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none of that name.
    #[error("there is no roll-out {0:?}: `vedette-fleet rollout list` names them")]
    Missing(String),
    /// There is one already.
    #[error("there is a roll-out {0:?} already: choose another name")]
    Exists(String),
    /// Not a name.
    #[error("{0:?} is no name of a roll-out: 1 to 64 of a-z A-Z 0-9 _ -")]
    Name(String),
    /// Another one is open.
    #[error("the roll-out {0:?} is not over: abort it, or, if the two share no device, say --beside")]
    Open(String),
    /// Somebody else was faster.
    #[error("the roll-out {0:?} was changed by somebody else in the meantime")]
    Conflict(String),
    /// The disk.
    #[error("could not {what} {}", path.display())]
    Disk {
        /// Read, write, lock.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is kept cannot be understood.
    #[error("{place} holds what this version cannot read; nothing was changed: is it of a later version?")]
    Unreadable {
        /// File or table.
        place: String,
        /// Where.
        source: serde_json::Error,
    },
    /// A later version keeps its state there.
    #[error("the database is of a later version of this program ({found}, this one knows {known}): use that one")]
    Later {
        /// What it says.
        found: i32,
        /// What we know.
        known: i32,
    },
    /// The database.
    #[error("could not {what} the database")]
    Database {
        /// Connect to, read, write.
        what: &'static str,
        /// What it, or the network, said.
        source: tokio_postgres::Error,
    },
    /// The database does not answer.
    #[error("the database has not answered for {0} s")]
    Silent(u64),
    /// Nothing encrypts the way to the database.
    #[error("the database is on another machine: name its authority as [state] ca_file, so that TLS protects the way")]
    Plain,
    /// TLS to the database.
    #[error("could not use the files that [state] names")]
    Tls(#[from] TlsError),
}

impl StoreError {
    /// Whether the same may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            StoreError::Conflict(_) | StoreError::Disk { .. } | StoreError::Database { .. } | StoreError::Silent(_) => {
                Retry::Later
            }
            _ => Retry::Never,
        }
    }
}

/// Opens what `[state]` names.
pub async fn open(state: &State) -> Result<Box<dyn Store>, StoreError> {
    match (&state.directory, &state.postgres) {
        (Some(directory), _) => Ok(Box::new(FileStore::open(directory)?)),
        (None, Some(database)) => Ok(Box::new(PostgresStore::open(database, state.files()).await?)),
        (None, None) => unreachable!("settings name one of the two"),
    }
}

fn check_name(id: &str) -> Result<(), StoreError> {
    let name: Result<crate::contract::topics::Name, _> = id.parse();
    name.map(drop).map_err(|_| StoreError::Name(id.to_owned()))
}
