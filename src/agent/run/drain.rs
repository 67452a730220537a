//! The daemon's end: each stage has taken what the one before still gave.

use super::{ALL_END_WITHIN, Daemon, DrainReport, END_WITHIN};
use crate::base::clock::{Clock, Mono, SystemClock};

impl Daemon {
    /// Ends everything, in the order of the flow, so that each stage has taken what the one before still gave:
    /// capture, infer (open incidents close), clip (cut short), store (flushed), uplink (final status), http.
    pub fn drain(self) -> DrainReport {
        let mut report = DrainReport::default();
        let clock = SystemClock::new();
        let left = || ALL_END_WITHIN.saturating_sub(clock.now().since(Mono::ZERO));
        // Nothing new is begun.
        let updates = self.updates.map(|(updates, stage)| {
            updates.end();
            (updates, stage)
        });
        let keeper = self.keepers.ending();
        self.commands.0.stop();
        report.join(self.commands.1, left());
        // That cameras go now is no trouble.
        self.troubles.0.stop();
        report.join(self.troubles.1, left());
        self.capture.0.stop();
        if self.flat_out {
            // A file read flat out may be waiting for room; its frames from here on are let go.
            self.inference.0.close();
        }
        report.join(self.capture.1, left());
        self.inference.0.close();
        report.join(self.inference.1, left());
        report.join(keeper.into_iter().collect(), left());
        self.inbox.close();
        report.join(self.incidents, left());
        self.clips.0.stop();
        self.clips.1.close();
        report.join(self.clips.2, left());
        let (network, runtime) = self.network;
        if let Some((updates, stage)) = updates {
            report.join(vec![stage], left());
            if report.troubles.is_empty() {
                updates.mark_orderly();
            }
        }
        // The uplink's last words need the store's last rows, and its acknowledgements go back into the store.
        if let Err(e) = self.store.0.flush() {
            report.troubles.push(format!("the store was not flushed: {}", crate::base::error::Chain(&e)));
        }
        for task in network {
            task.stop.stop();
            match runtime.block_on(async { tokio::time::timeout(END_WITHIN.min(left()), task.handle).await }) {
                Ok(Ok(())) => {}
                Ok(Err(e)) => report.troubles.push(format!("{} ended badly: {e}", task.name)),
                Err(_) => report.troubles.push(format!("{} did not end in time", task.name)),
            }
        }
        self.store.0.close();
        report.join(self.store.1, left());
        runtime.shutdown_background();
        report
    }
}
