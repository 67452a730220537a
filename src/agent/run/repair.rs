//! What the next start of a daemon would put right, without starting one: `vedette store check --repair`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::events::Events;
use super::ledger::StoreLedger;
use crate::agent::clip::recovery::{Recovery, Step};
use crate::agent::clip::{Ledger, LedgerError, Outcome};
use crate::agent::store::{DeviceContext, Store, StoreError, complaints, condemn};
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::stage::Stage;

/// How long the store may take to end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Closes incidents that a killed daemon left open and finishes its clips, with their alerts; sets a damaged database
/// aside and carries its rows over. A line for each thing that was put right. No daemon may run.
pub fn recover(state_dir: &Path, context: DeviceContext, clock: Arc<dyn Clock>) -> Result<Vec<String>, StoreError> {
    let mut lines = Vec::new();
    if let Some(complaint) = complaints(state_dir)?.first() {
        condemn(state_dir)?;
        lines.push(format!("the damaged database was set aside, its readable rows carried over ({complaint})"));
    }
    let (store, writer) = Store::open(state_dir, context, Arc::clone(&clock))?;
    let body = move || {
        if let Err(e) = writer.run(&Beat::detached()) {
            log::error!("store: {}", Chain(&e));
        }
    };
    let stage = Stage::spawn("store", || (), body).map_err(|e| StoreError::Io {
        operation: "start a thread for",
        path: state_dir.to_path_buf(),
        source: Arc::new(e),
    })?;
    let ledger = StoreLedger { store: store.clone(), events: Events::default() };
    let mut recovery = Recovery::scan(state_dir, &ledger);
    loop {
        match recovery.step(clock.now()) {
            Step::Idle => break,
            Step::Busy => {}
            Step::Over(outcome) => {
                let line = said(&outcome);
                match tell(&ledger, outcome) {
                    Ok(()) => lines.push(line),
                    Err(e) => log::error!("{line}: {}", Chain(&e)),
                }
            }
        }
    }
    store.close();
    stage.join(END_WITHIN);
    Ok(lines)
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(done) => format!("clip of {} finished: {:.1} s", done.incident, done.duration_ms as f64 / 1000.0),
        Outcome::Lost { incident, reason } => format!("clip of {incident} marked lost: {reason}"),
    }
}

fn tell(ledger: &StoreLedger, outcome: Outcome) -> Result<(), LedgerError> {
    match outcome {
        Outcome::Done(done) => ledger.done(&done),
        Outcome::Lost { incident, reason } => ledger.lost(incident, &reason),
    }
}
