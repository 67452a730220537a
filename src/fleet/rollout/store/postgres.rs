//! Roll-outs in PostgreSQL: for managers on several machines, and for fleets whose file would be large at every change.
//! A change writes the head and the records that changed, in one transaction that begins by asking for the version.
//!
//! TLS: with `ca_file` always, versions 1.2 and 1.3, the server's certificate checked with its name (libpq's `verify-full`),
//! with a client certificate if one is named. Without it only over a Unix socket or the loopback interface, or where the
//! connection string says `sslmode=disable` in so many words. Channel binding is not spoken.
//!
//! The columns are `json` and not `jsonb`: what a device says may hold a NUL, which `jsonb` does not take.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, IsolationLevel, NoTls, Transaction};

use super::{Company, Entry, Store, StoreError, Stored, check_name};
use crate::fleet::rollout::plan::DeviceId;
use crate::fleet::rollout::state::Rollout;
use crate::fleet::rollout::tls::{self, Files, ForDatabase};

const PATIENCE: Duration = Duration::from_secs(20);
/// Held while roll-outs are created and the tables are brought up to date: any number that nobody else uses.
const LOCK: i64 = 0x0076_6564_6574_7465;

/// One step for each version of the tables. Only ever appended to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE vedette_fleet.rollouts (
        id text PRIMARY KEY,
        version bigint NOT NULL,
        entry json NOT NULL,
        is_open boolean NOT NULL,
        is_over boolean NOT NULL,
        plan json NOT NULL,
        head json NOT NULL
    );
    CREATE TABLE vedette_fleet.rollout_devices (
        rollout text NOT NULL REFERENCES vedette_fleet.rollouts (id) ON DELETE CASCADE,
        device text NOT NULL,
        record json NOT NULL,
        PRIMARY KEY (rollout, device)
    );
"];

/// A database of roll-outs.
pub struct PostgresStore {
    config: Config,
    tls: Option<ForDatabase>,
    /// The connection, as long as it is sound.
    client: Mutex<Option<Client>>,
}

impl PostgresStore {
    /// Connects, and brings the tables up to date.
    pub async fn open(database: &str, files: Files<'_>) -> Result<PostgresStore, StoreError> {
        let mut config: Config = database.parse().map_err(|e| failed("understand the name of", e))?;
        let tls = tls::config(files)?.map(ForDatabase);
        match &tls {
            Some(_) => {
                config.ssl_mode(SslMode::Require);
            }
            None if config.get_ssl_mode() == SslMode::Disable => {}
            None if config.get_ssl_mode() == SslMode::Prefer && config.get_hosts().iter().all(is_here) => {}
            None => return Err(StoreError::Plain),
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(PATIENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name("vedette-fleet rollout");
        }
        let store = PostgresStore { config, tls, client: Mutex::new(None) };
        store.within(async |client| migrate(client).await).await?;
        Ok(store)
    }

    async fn connect(&self) -> Result<Client, StoreError> {
        let failed = |e| failed("connect to", e);
        macro_rules! spawned {
            ($tls:expr) => {{
                let (client, connection) = self.config.connect($tls).await.map_err(failed)?;
                tokio::spawn(async move {
                    // Whoever uses the client hears of its end.
                    if let Err(e) = connection.await {
                        log::debug!("the connection to the database ended: {e}");
                    }
                });
                client
            }};
        }
        Ok(match &self.tls {
            Some(tls) => spawned!(tls.clone()),
            None => spawned!(NoTls),
        })
    }

    /// Does something over a connection that is sound, and lets go of one that has shown not to be.
    async fn within<T>(&self, work: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut held = self.client.lock().await;
        let mut client = match held.take().filter(|c| !c.is_closed()) {
            Some(client) => client,
            None => self.connect().await?,
        };
        let done = tokio::time::timeout(PATIENCE, work(&mut client)).await;
        let done = done.unwrap_or(Err(StoreError::Silent(PATIENCE.as_secs())));
        // In doubt a new one: what a connection that failed still does cannot be known.
        if !matches!(done, Err(StoreError::Database { .. } | StoreError::Silent(_))) {
            *held = Some(client);
        }
        done
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn create(&self, rollout: &Rollout, company: Company) -> Result<(), StoreError> {
        check_name(&rollout.id)?;
        let (plan, head) = (json(&*rollout.plan)?, json(&rollout.head)?);
        let entry = Entry::of(rollout, 1);
        self.within(async |client| {
            let t = client.transaction().await.map_err(failed_to_write)?;
            t.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed_to_write)?;
            let open = "SELECT id FROM vedette_fleet.rollouts WHERE is_open LIMIT 1";
            let open = t.query_opt(open, &[]).await.map_err(failed_to_write)?;
            if let (Company::Alone, Some(other)) = (company, open) {
                return Err(StoreError::Open(other.get(0)));
            }
            let insert = "INSERT INTO vedette_fleet.rollouts (id, version, entry, is_open, is_over, plan, head)
                          VALUES ($1, 1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
            let said = json(&entry)?;
            let inserted = t.execute(insert, &[&entry.id, &said, &entry.open, &entry.over, &plan, &head]).await;
            if inserted.map_err(failed_to_write)? == 0 {
                return Err(StoreError::Exists(rollout.id.clone()));
            }
            write_records(&t, rollout, rollout.devices.keys()).await?;
            t.commit().await.map_err(failed_to_write)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Entry>, StoreError> {
        self.within(async |client| {
            let rows = client.query("SELECT entry FROM vedette_fleet.rollouts", &[]).await.map_err(failed_to_read)?;
            let mut entries: Vec<Entry> = rows.into_iter().map(|row| read(row.get(0))).collect::<Result<_, _>>()?;
            entries.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
            Ok(entries)
        })
        .await
    }

    async fn version(&self, id: &str) -> Result<u64, StoreError> {
        check_name(id)?;
        self.within(async |client| {
            let row = client.query_opt("SELECT version FROM vedette_fleet.rollouts WHERE id = $1", &[&id]).await;
            let row = row.map_err(failed_to_read)?.ok_or_else(|| StoreError::Missing(id.to_owned()))?;
            Ok(row.get::<_, i64>(0).unsigned_abs())
        })
        .await
    }

    async fn load(&self, id: &str) -> Result<Stored, StoreError> {
        check_name(id)?;
        self.within(async |client| {
            // One moment for both tables.
            let snapshot = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
            let t = snapshot.start().await.map_err(failed_to_read)?;
            let row = t.query_opt("SELECT version, plan, head FROM vedette_fleet.rollouts WHERE id = $1", &[&id]).await;
            let row = row.map_err(failed_to_read)?.ok_or_else(|| StoreError::Missing(id.to_owned()))?;
            let records = "SELECT device, record FROM vedette_fleet.rollout_devices WHERE rollout = $1";
            let records = t.query(records, &[&id]).await.map_err(failed_to_read)?;
            t.commit().await.map_err(failed_to_read)?;
            let devices = records
                .into_iter()
                .map(|r| Ok((read::<DeviceId>(Value::String(r.get(0)))?, read(r.get(1))?)))
                .collect::<Result<_, StoreError>>()?;
            let plan = std::sync::Arc::new(read(row.get(1))?);
            let rollout = Rollout { id: id.to_owned(), plan, head: read(row.get(2))?, devices };
            Ok(Stored { version: row.get::<_, i64>(0).unsigned_abs(), rollout })
        })
        .await
    }

    async fn commit(&self, expected: u64, rollout: &Rollout, changed: &BTreeSet<DeviceId>) -> Result<u64, StoreError> {
        check_name(&rollout.id)?;
        let (entry, head) = (Entry::of(rollout, expected + 1), json(&rollout.head)?);
        let (was, is) = (version(expected), version(expected + 1));
        self.within(async |client| {
            let t = client.transaction().await.map_err(failed_to_write)?;
            // The row is locked from here on: who comes second finds another version.
            let update =
                "UPDATE vedette_fleet.rollouts SET version = $3, entry = $4, is_open = $5, is_over = $6, head = $7
                          WHERE id = $1 AND version = $2";
            let said = json(&entry)?;
            let values: [&(dyn ToSql + Sync); 7] = [&rollout.id, &was, &is, &said, &entry.open, &entry.over, &head];
            let updated = t.execute(update, &values).await;
            if updated.map_err(failed_to_write)? == 0 {
                let there = "SELECT 1 FROM vedette_fleet.rollouts WHERE id = $1";
                let there = t.query_opt(there, &[&rollout.id]).await.map_err(failed_to_read)?.is_some();
                let id = rollout.id.clone();
                return Err(if there { StoreError::Conflict(id) } else { StoreError::Missing(id) });
            }
            write_records(&t, rollout, changed.iter()).await?;
            t.commit().await.map_err(failed_to_write)
        })
        .await?;
        Ok(expected + 1)
    }
}

async fn write_records(
    t: &Transaction<'_>,
    rollout: &Rollout,
    of: impl Iterator<Item = &DeviceId>,
) -> Result<(), StoreError> {
    let (mut devices, mut records) = (Vec::new(), Vec::new());
    for (id, record) in of.filter_map(|id| Some((id, rollout.devices.get(id)?))) {
        devices.push(id.as_str());
        records.push(json(record)?);
    }
    if devices.is_empty() {
        return Ok(());
    }
    let upsert = "INSERT INTO vedette_fleet.rollout_devices (rollout, device, record)
                  SELECT $1, * FROM unnest($2::text[], $3::json[])
                  ON CONFLICT (rollout, device) DO UPDATE SET record = EXCLUDED.record";
    t.execute(upsert, &[&rollout.id, &devices, &records]).await.map(drop).map_err(failed_to_write)
}

async fn migrate(client: &mut Client) -> Result<(), StoreError> {
    let failed = |e| failed("bring up to date the tables of", e);
    let t = client.transaction().await.map_err(failed)?;
    t.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed)?;
    let exists = "SELECT to_regclass('vedette_fleet.schema_version') IS NOT NULL";
    // Asked first: whoever may use the tables need not be who may make them.
    if !t.query_one(exists, &[]).await.map_err(failed)?.get::<_, bool>(0) {
        let first = "CREATE SCHEMA IF NOT EXISTS vedette_fleet;
                     CREATE TABLE vedette_fleet.schema_version (version integer NOT NULL);
                     INSERT INTO vedette_fleet.schema_version VALUES (0);";
        t.batch_execute(first).await.map_err(failed)?;
    }
    let found = t.query_one("SELECT version FROM vedette_fleet.schema_version", &[]).await.map_err(failed)?;
    let (found, known) = (found.get::<_, i32>(0), MIGRATIONS.len() as i32);
    if found > known {
        return Err(StoreError::Later { found, known });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        t.batch_execute(migration).await.map_err(failed)?;
    }
    if found < known {
        t.execute("UPDATE vedette_fleet.schema_version SET version = $1", &[&known]).await.map_err(failed)?;
    }
    t.commit().await.map_err(failed)
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()),
    }
}

fn version(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn failed(what: &'static str, source: tokio_postgres::Error) -> StoreError {
    StoreError::Database { what, source }
}

fn failed_to_write(source: tokio_postgres::Error) -> StoreError {
    failed("write to", source)
}

fn failed_to_read(source: tokio_postgres::Error) -> StoreError {
    failed("read from", source)
}

fn json(value: &impl Serialize) -> Result<Value, StoreError> {
    serde_json::to_value(value).map_err(unreadable)
}

fn read<T: DeserializeOwned>(value: Value) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(unreadable)
}

fn unreadable(source: serde_json::Error) -> StoreError {
    StoreError::Unreadable { place: "the schema vedette_fleet of the database".to_owned(), source }
}
