//! How a store begins: the database is opened, or, where it is damaged, a fresh one takes its place; what an earlier run
//! left open is closed.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior, params};

use super::apply::Apply;
use super::damaged::{self, Mark};
use super::error::{io, sql};
use super::numbers::Numbers;
use super::{DeviceContext, StoreError, outbox, recover, schema};
use crate::agent::incident::new_id;
use crate::base::clock::Clock;
use crate::base::error::Chain;

/// The database, the outbox's numbers and the newest of them. The caller holds the lock on the state directory.
pub(super) fn begin(
    state_dir: &Path,
    path: &Path,
    context: &DeviceContext,
    clock: &dyn Clock,
) -> Result<(Connection, Numbers, u64), StoreError> {
    let mut numbers = Numbers::open(state_dir).map_err(io("read the outbox's numbers in", state_dir))?;
    let mut aside = match damaged::marked(state_dir) {
        Mark::None => None,
        Mark::Damaged => Some(damaged::set_aside(state_dir, path, clock.wall())?),
        Mark::Aside(aside) => Some(aside),
    };
    let mut conn = match schema::open_writer(path) {
        Err(e) if e.is_corruption() && aside.is_none() => {
            log::error!("store: {}", Chain(&e));
            aside = Some(damaged::set_aside(state_dir, path, clock.wall())?);
            schema::open_writer(path)?
        }
        opened => opened?,
    };

    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("begin", path))?;
    let saved = match &aside {
        None => None,
        Some(aside) => Some(damaged::salvage(aside, &tx, path)?),
    };
    // A database that never gave out a number, on a device that did, has taken the place of one that was lost.
    let lost = saved.is_some() || outbox::newest(&tx, path)? == 0;
    let above = saved.map_or(0, |s| s.newest).max(numbers.bound());
    if lost && above > 0 {
        outbox::go_on_above(&tx, path, above, clock.wall())?;
        log::warn!("store: alerts are numbered from {} on; lower numbers may be in use", above + 1);
    }
    if let (Some(aside), Some(saved)) = (&aside, saved) {
        let what = format!(
            "the database was damaged and is kept as {}; saved from it: {} incidents, {} clips, {} alerts not yet confirmed",
            aside.display(),
            saved.incidents,
            saved.clips,
            saved.alerts
        );
        log::error!("store: {what}");
        tx.execute(
            "INSERT INTO audit (at_ms, who, what) VALUES (?1, 'vedette', ?2)",
            params![clock.wall().unix_ms(), what],
        )
        .map_err(sql("write the audit trail", path))?;
    }
    let epoch = match (outbox::stored_epoch(&tx, path)?, numbers.epoch()) {
        (Some(epoch), _) | (None, Some(epoch)) => epoch,
        (None, None) => new_id(clock.wall()),
    };
    outbox::count_within(&tx, path, epoch)?;
    numbers.count_within(epoch);
    let mut apply = Apply::new(&tx, path, context, clock);
    let found = recover::interrupted(&mut apply)?;
    outbox::release(&tx, path, &context.outbox)?;
    let newest = outbox::newest(&tx, path)?;
    tx.commit().map_err(sql("commit", path))?;
    if aside.is_some() {
        damaged::unmark(state_dir);
    }
    if !found.is_empty() {
        log::warn!(
            "store: an earlier run was killed: {} incidents closed as interrupted, {} clips lost before they were begun",
            found.incidents.len(),
            found.clips.len()
        );
    }
    if let Err(e) = numbers.cover(newest) {
        log::debug!("store: the outbox's numbers are not noted: {e}");
    }
    Ok((conn, numbers, newest))
}
