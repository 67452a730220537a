//! The file: its lock, its migrations, and how a connection to it is opened.
//!
//! Migrations are only ever appended; `user_version` counts them. Times are milliseconds since the Unix epoch.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};
use rustix::fs::{FlockOperation, flock};

use super::error::{io, sql};
use super::{StoreError, holders};

/// `application_id`: "VEDT" in ASCII.
const APPLICATION_ID: i64 = 0x5645_4454;

/// Locked for as long as a daemon works on the state directory; holds nothing.
const LOCK_FILE: &str = "vedette.lock";

/// How long a statement waits for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

const MIGRATIONS: &[M<'static>] =
    &[M::up(FIRST), M::up(RETENTION), M::up(RATE_AND_CLOCK), M::up(SOC), M::up(UPLOADS), M::up(ORDER), M::up(UPDATES)];

const FIRST: &str = "
    PRAGMA application_id = 0x56454454;  -- APPLICATION_ID

    CREATE TABLE incidents (
        id           TEXT PRIMARY KEY,   -- UUIDv7
        site         TEXT NOT NULL,
        device       TEXT NOT NULL,
        camera       TEXT NOT NULL,
        source       TEXT NOT NULL CHECK (source IN ('classifier', 'test')),
        state        TEXT NOT NULL CHECK (state IN ('open', 'closed')),
        close_reason TEXT CHECK ((close_reason IS NULL) = (state = 'open')),
        class        TEXT NOT NULL,
        start_ms     INTEGER NOT NULL,
        end_ms       INTEGER NOT NULL,   -- of the last supporting window so far
        peak_ms      INTEGER NOT NULL,
        peak_score   REAL NOT NULL,
        scores       TEXT NOT NULL,      -- JSON object, class to score of the peak's window
        threshold    REAL NOT NULL,
        windows      INTEGER NOT NULL,
        model        TEXT                -- JSON, contract::alert::ModelRef
    ) STRICT;
    CREATE INDEX incidents_by_start ON incidents (start_ms);
    CREATE INDEX incidents_open ON incidents (id) WHERE state = 'open';

    CREATE TABLE clips (
        incident         TEXT PRIMARY KEY REFERENCES incidents (id),
        state            TEXT NOT NULL CHECK (state IN ('planned', 'recording', 'done', 'lost')),
        planned_start_ms INTEGER,
        start_ms         INTEGER,
        event_offset_ms  INTEGER,
        duration_ms      INTEGER,
        path             TEXT UNIQUE,    -- below the state directory, as is peak_jpeg_path
        size_bytes       INTEGER,
        sha256           TEXT,
        peak_jpeg_path   TEXT,
        lost_because     TEXT
    ) STRICT;
    CREATE INDEX clips_unfinished ON clips (incident) WHERE state IN ('planned', 'recording');

    CREATE TABLE routes (
        name   TEXT PRIMARY KEY,
        newest INTEGER NOT NULL          -- sequence number given out last
    ) STRICT;
    INSERT INTO routes VALUES ('cloudevents', 0);

    CREATE TABLE outbox (
        route        TEXT NOT NULL REFERENCES routes (name),
        seq          INTEGER NOT NULL,
        incident     TEXT NOT NULL,
        queued_ms    INTEGER NOT NULL,
        aged_from_ms INTEGER,            -- its age counts from here; unknown while the clock was not set
        attempts     INTEGER NOT NULL DEFAULT 0,
        sent_ms      INTEGER,
        alert        TEXT NOT NULL,      -- JSON, contract::outbox::Dispatch
        PRIMARY KEY (route, seq)
    ) STRICT;
    CREATE INDEX outbox_pending ON outbox (route, seq) WHERE sent_ms IS NULL;

    CREATE TABLE confirmations (
        route    TEXT NOT NULL REFERENCES routes (name),
        consumer TEXT NOT NULL,
        seq      INTEGER NOT NULL,       -- highest contiguous
        PRIMARY KEY (route, consumer)
    ) STRICT;

    CREATE TABLE given_up (
        route     TEXT NOT NULL REFERENCES routes (name),
        first_seq INTEGER NOT NULL,
        last_seq  INTEGER NOT NULL,
        at_ms     INTEGER NOT NULL,
        PRIMARY KEY (route, first_seq)
    ) STRICT;

    CREATE TABLE audit (
        id    INTEGER PRIMARY KEY,
        at_ms INTEGER NOT NULL,
        who   TEXT NOT NULL,
        what  TEXT NOT NULL
    ) STRICT;
    ";

/// Clips that were deleted, and the ages that decide it. See `age`.
const RETENTION: &str = "
    CREATE TABLE running (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        ms INTEGER NOT NULL              -- that the daemon has run, over all its starts
    ) STRICT;
    INSERT INTO running VALUES (0, 0);

    ALTER TABLE outbox ADD COLUMN made_ran_ms INTEGER NOT NULL DEFAULT 0;  -- running.ms when it was queued
    CREATE INDEX outbox_by_incident ON outbox (incident);

    CREATE TABLE clips_2 (
        incident         TEXT PRIMARY KEY REFERENCES incidents (id),
        state            TEXT NOT NULL CHECK (state IN ('planned', 'recording', 'done', 'lost', 'expired')),
        planned_start_ms INTEGER,
        start_ms         INTEGER,
        event_offset_ms  INTEGER,
        duration_ms      INTEGER,
        path             TEXT UNIQUE,    -- below the state directory, as is peak_jpeg_path
        size_bytes       INTEGER,
        sha256           TEXT,
        peak_jpeg_path   TEXT,
        lost_because     TEXT,           -- of one that expired: why
        aged_from_ms     INTEGER,        -- its age counts from here; unknown while the clock was not set
        made_ran_ms      INTEGER NOT NULL DEFAULT 0    -- running.ms when it was done
    ) STRICT;
    INSERT INTO clips_2 SELECT *, NULL, 0 FROM clips;
    DROP TABLE clips;
    ALTER TABLE clips_2 RENAME TO clips;
    CREATE INDEX clips_unfinished ON clips (incident) WHERE state IN ('planned', 'recording');
    CREATE INDEX clips_done ON clips (incident, size_bytes) WHERE state = 'done';
    ";

/// Rows of before have neither.
const RATE_AND_CLOCK: &str = "
    ALTER TABLE incidents ADD COLUMN peak_fps REAL;  -- frames a second that the peak's window was made at
    ALTER TABLE incidents ADD COLUMN clock TEXT;     -- JSON, contract::alert::ClockState: what its labels are worth
    ";

/// What the SOC's side needs: what numbers count within, trouble, verdicts, commands, and how large the outbox is.
const SOC: &str = "
    CREATE TABLE epoch (
        id    INTEGER PRIMARY KEY CHECK (id = 0),
        epoch TEXT NOT NULL              -- UUID: what the outbox's numbers count within
    ) STRICT;

    CREATE TABLE troubles (              -- those that are raised
        id       TEXT PRIMARY KEY,       -- UUIDv7
        camera   TEXT NOT NULL,          -- '' for the device
        trouble  TEXT NOT NULL,          -- contract::notice::Trouble
        detail   TEXT NOT NULL,
        since_ms INTEGER NOT NULL,
        UNIQUE (camera, trouble)
    ) STRICT;

    CREATE TABLE verdicts (              -- the last one on each incident; the audit trail has all
        incident TEXT PRIMARY KEY REFERENCES incidents (id) ON DELETE CASCADE,
        verdict  TEXT NOT NULL CHECK (verdict IN ('confirmed', 'false_alarm', 'unclear')),
        words    TEXT,
        who      TEXT NOT NULL,
        at_ms    INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE commands (
        id          TEXT PRIMARY KEY,    -- the sender's
        asked       TEXT NOT NULL,       -- the payload as it came, JSON
        received_ms INTEGER NOT NULL,
        state       TEXT NOT NULL CHECK (state IN
                        ('queued', 'in_progress', 'succeeded', 'failed', 'rejected', 'timed_out')),
        reason      TEXT,
        result      TEXT,                -- JSON
        changed_ms  INTEGER NOT NULL,
        said        INTEGER NOT NULL     -- whether a broker has this state
    ) STRICT;
    CREATE INDEX commands_unsaid ON commands (id) WHERE said = 0;
    CREATE INDEX commands_open ON commands (received_ms) WHERE state IN ('queued', 'in_progress');

    -- Footage that somebody asked for is a source, too.
    PRAGMA defer_foreign_keys = ON;
    CREATE TABLE before AS SELECT * FROM incidents;
    DROP TABLE incidents;
    CREATE TABLE incidents (
        id           TEXT PRIMARY KEY,   -- UUIDv7
        site         TEXT NOT NULL,
        device       TEXT NOT NULL,
        camera       TEXT NOT NULL,
        source       TEXT NOT NULL CHECK (source IN ('classifier', 'test', 'request')),
        state        TEXT NOT NULL CHECK (state IN ('open', 'closed')),
        close_reason TEXT CHECK ((close_reason IS NULL) = (state = 'open')),
        class        TEXT NOT NULL,
        start_ms     INTEGER NOT NULL,
        end_ms       INTEGER NOT NULL,   -- of the last supporting window so far
        peak_ms      INTEGER NOT NULL,
        peak_score   REAL NOT NULL,
        scores       TEXT NOT NULL,      -- JSON object, class to score of the peak's window
        threshold    REAL NOT NULL,
        windows      INTEGER NOT NULL,
        model        TEXT,               -- JSON, contract::alert::ModelRef
        peak_fps     REAL,               -- frames a second that the peak's window was made at
        clock        TEXT                -- JSON, contract::alert::ClockState: what its labels are worth
    ) STRICT;
    -- Into the table of that name, so that what refers to it is in order again.
    INSERT INTO incidents SELECT id, site, device, camera, source, state, close_reason, class, start_ms, end_ms,
        peak_ms, peak_score, scores, threshold, windows, model, peak_fps, clock FROM before;
    DROP TABLE before;
    CREATE INDEX incidents_by_start ON incidents (start_ms);
    CREATE INDEX incidents_open ON incidents (id) WHERE state = 'open';

    DROP INDEX outbox_pending;           -- with sent_ms in it, to be counted by itself
    CREATE INDEX outbox_pending ON outbox (route, seq, sent_ms) WHERE sent_ms IS NULL;
    -- Kept up to date by the triggers: counting a long outbox, whose rows are large, would read all of it.
    ALTER TABLE routes ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;  -- of all its rows' alerts
    ALTER TABLE routes ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;   -- how many rows it has
    UPDATE routes SET bytes = (SELECT coalesce(sum(octet_length(alert)), 0) FROM outbox WHERE route = name),
                      kept = (SELECT count(*) FROM outbox WHERE route = name);
    CREATE TRIGGER outbox_grows AFTER INSERT ON outbox BEGIN
        UPDATE routes SET bytes = bytes + octet_length(new.alert), kept = kept + 1 WHERE name = new.route;
    END;
    CREATE TRIGGER outbox_shrinks AFTER DELETE ON outbox BEGIN
        UPDATE routes SET bytes = bytes - octet_length(old.alert), kept = kept - 1 WHERE name = old.route;
    END;
    ";

/// Clips that leave the device. See `uploads`.
const UPLOADS: &str = "
    CREATE TABLE uploads (
        incident     TEXT PRIMARY KEY REFERENCES incidents (id),
        state        TEXT NOT NULL CHECK (state IN ('queued', 'uploading', 'done', 'failed')),
        requested_by TEXT NOT NULL,      -- 'policy' where all clips leave
        requested_ms INTEGER NOT NULL,
        attempts     INTEGER NOT NULL DEFAULT 0,
        parts        TEXT,               -- JSON, uploads::PartsSent: what a server has of it
        url          TEXT CHECK (state != 'done' OR url IS NOT NULL),
        done_ms      INTEGER,
        error        TEXT                -- what went wrong last
    ) STRICT;
    CREATE INDEX uploads_unfinished ON uploads (incident) WHERE state IN ('queued', 'uploading');
    ";

/// What of one incident has not gone out yet, so that nothing of it overtakes the rest.
const ORDER: &str = "
CREATE INDEX outbox_pending_of ON outbox (route, incident, seq) WHERE sent_ms IS NULL;
";

/// Model releases, and incidents that two models have seen.
const UPDATES: &str = "
ALTER TABLE incidents ADD COLUMN later_model TEXT;  -- JSON, contract::alert::ModelRef

CREATE TABLE updates (
    seq     INTEGER PRIMARY KEY,
    offer   TEXT NOT NULL,     -- UUIDv7
    release INTEGER NOT NULL,
    state   TEXT NOT NULL,     -- contract::update::UpdateState
    at_ms   INTEGER NOT NULL,
    report  TEXT NOT NULL      -- JSON, contract::update::UpdateReport
) STRICT;
CREATE INDEX updates_by_state ON updates (state, release);
";

/// The newest schema version that this program knows.
pub(super) fn known_version() -> i64 {
    MIGRATIONS.len() as i64
}

/// Exclusive use of a state directory, until dropped or the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock at once or says who has it.
    pub(super) fn take(state_dir: &Path) -> Result<Lock, StoreError> {
        let path = state_dir.join(LOCK_FILE);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io("open the lock file", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let who = holders::of(&[&path]);
                Err(StoreError::Locked { path, who })
            }
            Err(e) => Err(io("lock", &path)(e.into())),
        }
    }

    /// Whether somebody holds it now. Makes no file: who looks may not be who runs the daemon.
    pub(super) fn is_held(state_dir: &Path) -> Result<bool, StoreError> {
        let path = state_dir.join(LOCK_FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(io("open the lock file", &path)(e)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(io("try the lock", &path)(e.into())),
        }
    }
}

/// Opens the database for writing, making or migrating it. The caller holds the [`Lock`].
pub(super) fn open_writer(path: &Path) -> Result<Connection, StoreError> {
    // A log that was not folded into the database means that the last writer was killed.
    let killed = fs::metadata(beside(path, "-wal")).is_ok_and(|m| m.len() > 0);
    let mut conn = Connection::open(path).map_err(sql("open the database", path))?;
    let setup = sql("set up the connection", path);
    conn.busy_timeout(BUSY_TIMEOUT).map_err(setup)?;
    // The first statement that reads the file: what is no database at all is found here.
    verify(&conn, path)?;
    let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0)).map_err(setup)?;
    if !mode.eq_ignore_ascii_case("wal") {
        log::warn!("store: {} cannot be in WAL mode here ({mode}): commits are durable, but slower", path.display());
    }
    conn.pragma_update(None, "synchronous", "FULL").map_err(setup)?;
    conn.pragma_update(None, "foreign_keys", true).map_err(setup)?;
    if killed {
        quick_check(&conn, path)?;
    }
    Migrations::from_slice(MIGRATIONS)
        .to_latest(&mut conn)
        .map_err(|e| StoreError::Migrate { path: path.to_owned(), source: Arc::new(e) })?;
    Ok(conn)
}

/// Opens the database for reading only.
pub(super) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    if !path.exists() {
        return Err(StoreError::Absent { path: path.to_owned() });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(sql("open the database", path))?;
    conn.busy_timeout(BUSY_TIMEOUT).map_err(sql("set up the connection", path))?;
    if verify(&conn, path)? < known_version() {
        // Only the daemon migrates; until it has run, an older file lacks what the queries ask for.
        return Err(StoreError::Absent { path: path.to_owned() });
    }
    Ok(conn)
}

/// Refuses what is not this program's database or is newer than it knows; returns the schema version.
fn verify(conn: &Connection, path: &Path) -> Result<i64, StoreError> {
    let read = sql("read the header of the database", path);
    let version: i64 = conn.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(read)?;
    let id: i64 = conn.pragma_query_value(None, "application_id", |r| r.get(0)).map_err(read)?;
    let tables: i64 =
        conn.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |r| r.get(0)).map_err(read)?;
    if id != APPLICATION_ID && (id != 0 || version != 0 || tables > 0) {
        return Err(StoreError::Foreign { path: path.to_owned() });
    }
    if version > known_version() {
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known: known_version() });
    }
    Ok(version)
}

/// SQLite's quick check: structure of every page, not the agreement of indexes with tables.
fn quick_check(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    let found: String = conn
        .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
        .map_err(sql("check the database after an unclean end", path))?;
    if found == "ok" { Ok(()) } else { Err(StoreError::Corrupt { path: path.to_owned(), detail: found }) }
}

/// The file that SQLite keeps beside a database under its name and this suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
