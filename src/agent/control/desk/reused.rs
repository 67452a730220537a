//! Ids that come with another command than the one they stand for: said to be rejected, and nothing more.
//!
//! What the id stands for stays as it is in the store, so the rejection has no row there. It waits here, in memory, and the
//! broker is told only once it is said that it need not keep the request: what a restart forgets comes again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::contract::command::{CommandReport, Order, Receipt};

/// Rejections that may wait to be said; the rest comes again over the next connection.
const WAITING: usize = 64;

/// For the person who sent it.
pub(super) const WHY: &str = "this id was used for another command, whose answer stays as it was: take a new id";

/// Rejections that no broker has. Clones share them. One lock, held for as long as it takes to look.
#[derive(Clone, Default)]
pub(super) struct Reused(Arc<Mutex<VecDeque<(CommandReport, Receipt)>>>);

impl Reused {
    pub(super) fn add(&self, report: CommandReport, receipt: Receipt) {
        let mut waiting = self.lock();
        if let Some((_, earlier)) = take(&mut waiting, |r| r.id == report.id) {
            earlier();
        }
        if waiting.len() < WAITING {
            waiting.push_back((report, receipt));
        }
    }

    pub(super) fn unsaid(&self, limit: usize) -> Vec<CommandReport> {
        self.lock().iter().take(limit).map(|(report, _)| report.clone()).collect()
    }

    /// Whether it was one of these.
    pub(super) fn said(&self, report: &CommandReport) -> bool {
        let found = take(&mut self.lock(), |r| r == report);
        found.map(|(_, receipt)| receipt()).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(CommandReport, Receipt)>> {
        self.0.lock().expect("nobody panics under it")
    }
}

fn take(
    waiting: &mut VecDeque<(CommandReport, Receipt)>,
    wanted: impl Fn(&CommandReport) -> bool,
) -> Option<(CommandReport, Receipt)> {
    waiting.iter().position(|(report, _)| wanted(report)).and_then(|i| waiting.remove(i))
}

/// Whether a payload asks for the same as what was stored of an earlier one. Who asks and until when may differ: a request
/// is sent again later, by another. Of one that was not looked at nothing was stored, and what comes counts as the same.
pub(super) fn is_same(stored: &str, payload: &[u8]) -> bool {
    match (Order::parse(stored.as_bytes()), Order::parse(payload)) {
        _ if stored.is_empty() => true,
        (Ok(stored), Ok(new)) => stored.command == new.command,
        (Err(_), Err(_)) => stored == String::from_utf8_lossy(payload),
        _ => false,
    }
}
