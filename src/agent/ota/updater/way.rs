//! The way from the repository: looking at what is signed, and fetching what was offered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Updater;
use crate::agent::incident::arming::Arming;
use crate::agent::ota::fault::Trouble;
use crate::agent::ota::fetch;
use crate::agent::ota::ledger::{Attempt, Ledger};
use crate::agent::ota::remote::Remote;
use crate::agent::ota::trust::Listing;
use crate::base::clock::Wall;
use crate::base::error::Chain;
use crate::base::fail_point;
use crate::base::stop::StopToken;
use crate::contract::notice::Trouble as Notice;
use crate::contract::update::{UpdateFault, UpdateReason, UpdateState};

impl Updater {
    /// Whether releases may be fetched and put in now.
    pub(super) fn window_is_open(&self) -> Result<(), Trouble> {
        let (schedule, now) = (self.parts.config.schedule.as_ref(), self.parts.clock.wall());
        match Arming::at(schedule, now, self.parts.bench.knows_time_of_day()) {
            Arming::TimeUnknown => Err(Trouble::Wait("its schedule needs the time of day, which is not known".into())),
            arming if arming.is_armed() => Ok(()),
            _ => Err(Trouble::Wait("ota.schedule: not within its spans now".into())),
        }
    }

    /// Looks at what is signed.
    pub(super) fn look(
        &self,
        ledger: &Ledger,
        from_dir: Option<&PathBuf>,
        stop: &StopToken,
    ) -> Result<(Listing, Remote), Trouble> {
        if !self.parts.bench.knows_time_of_day() {
            return Err(Trouble::Wait("the device does not know the time: nothing signed can be judged".into()));
        }
        let remote = match from_dir {
            Some(dir) => Remote::directory(dir, Arc::clone(&self.parts.clock)),
            None => Remote::of(&self.parts.config, Arc::clone(&self.parts.clock)),
        };
        let remote = remote.map_err(|e| Trouble::of_remote(&e))?;
        let now = self.parts.clock.wall();
        let newest = ledger.newest_signed.unwrap_or(Wall::from_unix_ms(0));
        let looked = self.parts.runtime.block_on(async {
            tokio::select! {
                looked = self.trust.look(&remote, now, newest) => looked,
                () = stop.stopped() => Err(Trouble::Stopped),
            }
        });
        self.judge_the_way(&looked, from_dir.is_some())?;
        Ok((looked?, remote))
    }

    /// What a look says of the repository itself. Of a USB stick nothing is said: it is gone tomorrow.
    pub(super) fn judge_the_way(&self, looked: &Result<Listing, Trouble>, stick: bool) -> Result<(), Trouble> {
        let frozen = |words: String| Some(UpdateReason { fault: UpdateFault::IndefiniteFreeze, words });
        let ledger = self.updates.now().ledger;
        let trouble = match looked {
            Ok(_) => None,
            Err(Trouble::Stopped) => return Ok(()),
            _ if stick => return Ok(()),
            Err(Trouble::Fault(reason)) => Some(reason.clone()),
            // Nothing newer comes, and what there was has expired: held back, or a network that has been gone for too long.
            Err(Trouble::Wait(why)) => match ledger.expires {
                Some(expires) if expires < self.parts.clock.wall() && self.parts.bench.knows_time_of_day() => frozen(
                    format!("what is signed has expired on {}, and nothing newer comes: {why}", expires.rfc3339()),
                ),
                _ => ledger.trouble.clone(),
            },
        };
        let words = trouble.as_ref().map(|t| format!("{}: {}", t.fault.as_str(), t.words));
        if ledger.trouble.is_none()
            && let Some(words) = &words
        {
            log::error!("the repository of models: {words}; the model that serves goes on");
        }
        let changed = self.updates.looked(|ledger, now| {
            if let Ok(listing) = looked {
                ledger.newest_signed = Some(listing.newest_signed);
                if !stick {
                    (ledger.checked, ledger.expires) = (Some(now), Some(listing.expires));
                }
            }
            ledger.trouble = trouble;
        });
        self.parts.journal.trouble(Notice::UpdatesFrozen, words);
        changed.map_err(|e| Trouble::Wait(Chain(&e).to_string()))
    }

    /// Between offers: looks from time to time; how long until the next.
    pub(super) fn watch(&mut self, ledger: &Ledger, stop: &StopToken) -> Duration {
        let every = self.parts.config.check_every;
        let now = self.parts.clock.now();
        if let Some(left) = self.looked.map(|at| every.saturating_sub(now.since(at))).filter(|left| !left.is_zero()) {
            return left;
        }
        match self.look(ledger, None, stop) {
            Ok(_) | Err(Trouble::Fault(_)) => {
                self.looked = Some(now);
                self.backoff.reset();
                every
            }
            Err(Trouble::Stopped) => Duration::ZERO,
            Err(Trouble::Wait(why)) => {
                log::debug!("the repository of models: {why}");
                self.backoff.next_delay().min(every)
            }
        }
    }

    pub(super) fn fetch(&mut self, attempt: &Attempt, stop: &StopToken) -> Result<(), Trouble> {
        self.window_is_open()?;
        let ledger = self.updates.now().ledger;
        let (listing, remote) = self.look(&ledger, attempt.from_dir.as_ref(), stop)?;
        let release = listing.release(attempt.report.release)?.clone();
        let mut refused = None;
        self.step("downloading", attempt, |ledger, now| match ledger.identify(&release) {
            Ok(()) if attempt.report.state == UpdateState::Downloading => None,
            Ok(()) => ledger.advance(UpdateState::Downloading, now),
            Err(reason) => {
                refused = Some(reason);
                None
            }
        })?;
        if let Some(reason) = refused {
            return Err(Trouble::Fault(reason));
        }
        // What others have left half done makes room.
        self.collect();
        let runtime = self.parts.runtime.clone();
        let manifest = runtime.block_on(listing.manifest(&release))?;
        let incoming = self.slots.begin(&release.digest, &manifest)?;
        let m = &incoming.manifest;
        if (m.name.as_str(), m.version.to_string()) != (release.facts.model.as_str(), release.facts.version.clone()) {
            let words = format!(
                "it is signed as {} {}, and its manifest says {}",
                release.facts.model,
                release.facts.version,
                m.title()
            );
            return Err(Trouble::fault(UpdateFault::MalformedManifest, words));
        }
        let fits = m.hardware.is_empty() || m.hardware.iter().any(|h| self.parts.hardware.contains(h));
        if !fits {
            let words =
                format!("it is for {}; this device is {}", m.hardware.join(", "), self.parts.hardware.join(", "));
            return Err(Trouble::fault(UpdateFault::WrongHardware, words));
        }
        self.parts.bench.fits(m).map_err(|words| Trouble::fault(UpdateFault::Incompatible, words))?;
        let size_bytes = m.files.iter().fold(0u64, |sum, f| sum.saturating_add(f.size_bytes));
        if size_bytes > self.parts.config.max_model_bytes {
            let words = format!(
                "its files have {} MB, and {} MB are allowed (ota.max_model_mb)",
                size_bytes / 1_000_000,
                self.parts.config.max_model_bytes / 1_000_000
            );
            return Err(Trouble::fault(UpdateFault::EndlessData, words));
        }
        self.figures(attempt, |f| f.size_bytes = Some(size_bytes));
        let mut tell = |bytes| self.figures(attempt, |f| f.fetched_bytes = Some(bytes));
        let filled = runtime.block_on(async {
            tokio::select! {
                filled = fetch::fill(&incoming, &self.slots, (&remote, &self.parts.factory), stop, &mut tell) => filled,
                () = stop.stopped() => Err(Trouble::Stopped),
            }
        });
        filled?;
        fail_point::reach("slot.before");
        // A slot that is whole is never touched again: it may be the one that serves.
        if self.slots.open(&release.digest).is_err() {
            incoming.finish()?;
        }
        fail_point::reach("slot.after");
        self.to(attempt, UpdateState::Verified)
    }
}
