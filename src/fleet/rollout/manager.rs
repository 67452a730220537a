//! What carries roll-outs out: load, step, store, and only then send; over and over.
//!
//! ```text
//!   every second, or when a device has said something:
//!     what is stored ─► step ─► news? ─► store it ── conflict: somebody else was faster, look again
//!                                  └───────┴─► still that version? ─► send
//! ```
//!
//! What does not belong here: decisions (`step`), MQTT (`fleet`).
//!
//! Invariant: nothing is sent that does not follow from what is stored. A manager that is killed anywhere in this picture
//! leaves either a state of which nothing was sent yet, which the next one sends, or the state before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::fleet::{Fleet, Steady};
use super::orders::{Order, OrderError};
use super::state::Rollout;
use super::step::{Next, step};
use super::store::{Store, StoreError, Stored};
use crate::base::error::{Chain, Retry};
use crate::base::stop::StopToken;

/// How often it looks at what is stored, and at the time.
const ROUND: Duration = Duration::from_secs(1);
/// What devices say within so long is looked at together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How often an order is tried against somebody who is always faster.
const TRIES: usize = 20;

/// Why a manager ends.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// What is kept is not to be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It cannot be done.
    #[error(transparent)]
    Order(#[from] OrderError),
}

/// Whose roll-outs are carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// This one, until it is settled.
    One(String),
    /// All that are not over, those that are yet to come too, until stopped.
    All,
}

/// Carries out roll-outs.
pub struct Manager {
    store: Arc<dyn Store>,
    fleet: Arc<Fleet>,
    steady: Steady,
    /// As they were last loaded or stored.
    held: BTreeMap<String, Stored>,
    /// Those of which it was said that they cannot be read.
    unreadable: BTreeSet<String>,
}

impl Manager {
    /// One that has done nothing yet.
    pub fn new(store: Arc<dyn Store>, fleet: Arc<Fleet>, steady: Steady) -> Manager {
        Manager { store, fleet, steady, held: BTreeMap::new(), unreadable: BTreeSet::new() }
    }

    /// Goes on until stopped, or until the one is settled. What cannot mend itself ends it; `shown` sees every round.
    pub async fn run(
        &mut self,
        which: &Which,
        stop: &StopToken,
        mut shown: impl FnMut(&Rollout),
    ) -> Result<(), ManagerError> {
        let mut complaint = String::new();
        while !stop.is_stopped() {
            // What is cut off in the middle is what a kill would cut off.
            let round = tokio::select! {
                () = stop.stopped() => break,
                round = self.round(which, &mut shown) => round,
            };
            match round {
                Ok(true) => return Ok(()),
                Ok(false) => complaint.clear(),
                Err(e) if e.retry() == Retry::Never => return Err(e.into()),
                Err(e) => {
                    let why = Chain(&e).to_string();
                    if why != complaint {
                        log::warn!("{why}; trying again");
                        complaint = why;
                    }
                    self.held.clear();
                }
            }
            tokio::select! {
                () = stop.stopped() => {}
                () = tokio::time::sleep(ROUND) => {}
                () = async {
                    self.fleet.changed().await;
                    tokio::time::sleep(TOGETHER).await;
                } => {}
            }
        }
        Ok(())
    }

    /// One look at each. Whether the one that is asked for is settled.
    async fn round(&mut self, which: &Which, shown: &mut impl FnMut(&Rollout)) -> Result<bool, StoreError> {
        match which {
            Which::One(id) => {
                let version = self.store.version(id).await?;
                self.one(id, version, shown).await
            }
            Which::All => {
                let open = self.store.list().await?.into_iter().filter(|e| !e.over);
                let open: Vec<_> = open.map(|e| (e.id, e.version)).collect();
                self.held.retain(|id, _| open.iter().any(|(open, _)| open == id));
                for (id, version) in open {
                    match self.one(&id, version, shown).await {
                        // One that cannot be read does not hold up the others.
                        Err(e) if e.retry() == Retry::Never && self.unreadable.insert(id.clone()) => {
                            log::error!("{id} is left alone: {}", Chain(&e));
                        }
                        Err(e) if e.retry() == Retry::Later => return Err(e),
                        _ => {}
                    }
                }
                Ok(false)
            }
        }
    }

    async fn one(&mut self, id: &str, version: u64, shown: &mut impl FnMut(&Rollout)) -> Result<bool, StoreError> {
        let held = match self.held.remove(id).filter(|held| held.version == version) {
            Some(held) => held,
            None => self.store.load(id).await?,
        };
        let next = self.fleet.with(|seen| step(self.steady.now(), &held.rollout, seen));
        let Next { rollout, changed, is_news, commands, settled } = next;
        let mut version = held.version;
        if is_news {
            version = match self.store.commit(version, &rollout, &changed).await {
                Ok(version) => version,
                // Loaded anew in the next round.
                Err(StoreError::Conflict(_)) => return Ok(false),
                Err(e) => return Err(e),
            };
        }
        // Somebody may have ended it in this very moment.
        let unchanged = commands.is_empty() || self.store.version(id).await? == version;
        let sent = unchanged && self.fleet.send(&commands, rollout.plan.release, id).await;
        shown(&rollout);
        self.held.insert(id.to_owned(), Stored { version, rollout });
        Ok(settled && sent)
    }
}

/// Carries out what a person says; the roll-out as it is then. Devices hear of it from whoever carries the roll-out out.
pub async fn tell(
    store: &dyn Store,
    steady: &Steady,
    id: &str,
    by: &str,
    order: &Order,
) -> Result<Rollout, ManagerError> {
    let mut tries = 0;
    loop {
        let held = store.load(id).await?;
        let next = order.apply(steady.now(), by, &held.rollout)?;
        if next == held.rollout {
            return Ok(next);
        }
        match store.commit(held.version, &next, &Default::default()).await {
            Ok(_) => return Ok(next),
            Err(StoreError::Conflict(_)) if tries < TRIES => tries += 1,
            Err(e) => return Err(e.into()),
        }
    }
}
