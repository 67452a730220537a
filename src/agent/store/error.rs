//! Why the store did not do what was asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;
use uuid::Uuid;

use super::{holders, schema};
use crate::base::error::Retry;

/// What went wrong, with the operation and the file. Clonable: one failed commit answers many callers.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("could not {operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
    },
    /// Another daemon (or `store check` with repair) has the state directory.
    #[error("{path} is locked by {who}: another vedette works on this state directory; stop it first")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who has it, as far as that can be told.
        who: String,
    },
    /// Another program holds the database's own lock.
    #[error("could not {operation}: {path} is locked by {who}, for longer than is waited; close that program")]
    Held {
        /// What was tried.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// Who has it, as far as that can be told.
        who: String,
    },
    /// The database was written by a later version.
    #[error(
        "{path} was written by a newer vedette (schema {found}, this one knows up to {known}): install that version \
         again, or move the file away to start with an empty store"
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// It is a database, but not this program's.
    #[error("{path} is an SQLite database, but not vedette's: move it away or set another paths.state_dir")]
    Foreign {
        /// The database.
        path: PathBuf,
    },
    /// The database is damaged.
    #[error(
        "{path} is damaged ({detail}): when the daemon starts it sets it aside, carries over every row that can be read, \
         and goes on with a new one; clips stay on disk"
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What SQLite found.
        detail: String,
    },
    /// There is no database yet.
    #[error("there is no store at {path}: the daemon makes it when it first runs")]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// SQLite refused.
    #[error("could not {operation} in {path}")]
    Sql {
        /// What was tried.
        operation: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// The schema could not be brought up to date.
    #[error("could not bring the schema of {path} up to date")]
    Migrate {
        /// The database.
        path: PathBuf,
        /// What went wrong.
        source: Arc<rusqlite_migration::Error>,
    },
    /// A JSON column does not hold what was written there.
    #[error("{path} holds {what} that cannot be read")]
    Malformed {
        /// The database.
        path: PathBuf,
        /// Which column.
        what: &'static str,
        /// What the parser said.
        source: Arc<serde_json::Error>,
    },
    /// No such incident.
    #[error("the store knows no incident {0}")]
    UnknownIncident(Uuid),
    /// The clip is not where it would have to be for this step.
    #[error("the clip of incident {incident} is {found}; it cannot take this step")]
    ClipState {
        /// The incident.
        incident: Uuid,
        /// Its clip's state.
        found: &'static str,
    },
    /// The writer did not answer in time. What was asked may still happen.
    #[error("the store did not {operation} within {within:?}; it may still do so")]
    TimedOut {
        /// What was asked.
        operation: &'static str,
        /// How long it was given.
        within: Duration,
    },
    /// More is queued than the writer can take.
    #[error("the store is too busy to {operation}")]
    Busy {
        /// What was asked.
        operation: &'static str,
    },
    /// The writer has ended.
    #[error("the store has ended and cannot {operation}")]
    Ended {
        /// What was asked.
        operation: &'static str,
    },
}

impl StoreError {
    /// Whether asking again can help without anybody changing anything.
    pub fn retry(&self) -> Retry {
        match self {
            StoreError::Sql { source, .. } => match source.sqlite_error_code() {
                Some(
                    ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::OutOfMemory
                    | ErrorCode::ReadOnly
                    | ErrorCode::CannotOpen
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::OperationInterrupted,
                ) => Retry::Later,
                _ => Retry::Never,
            },
            StoreError::Io { .. } | StoreError::Held { .. } | StoreError::TimedOut { .. } | StoreError::Busy { .. } => {
                Retry::Later
            }
            _ => Retry::Never,
        }
    }

    /// Whether the database itself can no longer be trusted.
    pub fn is_corruption(&self) -> bool {
        matches!(self, StoreError::Corrupt { .. })
    }
}

/// Turns rusqlite's errors into ours, for one operation on one database.
pub(super) fn sql<'a>(
    operation: &'static str,
    path: &'a std::path::Path,
) -> impl Fn(rusqlite::Error) -> StoreError + Copy + 'a {
    move |e| match e.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path: path.to_owned(), detail: format!("while it tried to {operation}: {e}") }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let beside = ["-shm", "-wal"].map(|suffix| schema::beside(path, suffix));
            let who = holders::of(&[path, &beside[0], &beside[1]]);
            StoreError::Held { operation, path: path.to_owned(), who }
        }
        _ => StoreError::Sql { operation, path: path.to_owned(), source: Arc::new(e) },
    }
}

/// Turns the file system's errors into ours.
pub(super) fn io<'a>(
    operation: &'static str,
    path: &'a std::path::Path,
) -> impl Fn(std::io::Error) -> StoreError + Copy + 'a {
    move |e| StoreError::Io { operation, path: path.to_owned(), source: Arc::new(e) }
}
