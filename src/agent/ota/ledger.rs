//! What a device knows of its models, in one file: which serves, which served before, what is on its way and how far, and
//! below what it does not go back. Every step is here before it is done, in one atomic rename, so that a start after a
//! power cut at any instant finds either the one or the other.
//!
//! Pure but for [`Ledger::load`] and [`Ledger::save`]. Invariants, which `tests` holds against random histories: what is
//! `current` was committed; the floor never falls; a release that was refused for what it is, is never taken up again;
//! there is one attempt at most; what has ended is not moved any more.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use semver::Version;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::trust::Release;
use crate::base::atomic_file;
use crate::base::clock::Wall;
use crate::contract::alert::ModelRef;
use crate::contract::update::{SlotReport, UpdateFault, UpdateFigures, UpdateReason, UpdateReport, UpdateState};

/// Releases that are remembered as refused.
const REFUSED_MOST: usize = 256;
/// Ends of the daemon or the machine, not in good order, while a model is loaded or looks on: after more it is given up.
const LOADED_CUTS_MOST: u32 = 3;
/// A trial that the machine's own end has broken off so often is over: the model may be what ends it.
const CUTS_MOST: u32 = 1;

/// A model on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// SHA-256 of its manifest: its directory's name.
    pub digest: String,
    /// The release that it came with.
    pub release: u64,
    /// Name.
    pub model: String,
    /// Version.
    pub version: Version,
}

impl Slot {
    /// As others know it.
    pub fn report(&self) -> SlotReport {
        let (name, version, digest) = (self.model.clone(), self.version.to_string(), self.digest.clone());
        SlotReport { model: ModelRef { name, version, digest }, release: Some(self.release) }
    }
}

/// A release on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// As others know it.
    pub report: UpdateReport,
    /// What it is, once the signed metadata have said so.
    pub slot: Option<Slot>,
    /// Why it may be of an earlier version than what was committed.
    pub downgrade: Option<String>,
    /// Where it comes from, if not from the repository of the config: a USB stick.
    pub from_dir: Option<PathBuf>,
    /// Its trial.
    pub trial: Trial,
}

/// How a trial stands: for a start in the middle of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trial {
    /// The kernel's boot that it runs in.
    pub boot: String,
    /// Ends of the machine, not of the daemon, that have broken it off.
    pub cuts: u32,
    /// The daemon has ended in good order since.
    pub orderly: bool,
    /// Milliseconds that it has served.
    pub served_ms: u64,
}

/// A release that is not tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedRelease {
    /// Its number.
    pub release: u64,
    /// Why.
    pub reason: UpdateReason,
}

/// See the module's doc.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// What serves; none: what came with the package.
    pub current: Option<Slot>,
    /// What served before.
    pub previous: Option<Slot>,
    /// What is on its way.
    pub attempt: Option<Attempt>,
    /// What ended last.
    pub last: Option<UpdateReport>,
    /// The highest release that was committed.
    pub floor: u64,
    /// The highest version of each model that was committed.
    pub versions: BTreeMap<String, Version>,
    /// Oldest first.
    pub refused: Vec<RefusedRelease>,
    /// The newest time at which something was signed that was seen.
    pub newest_signed: Option<Wall>,
    /// When the signed metadata were last found valid.
    pub checked: Option<Wall>,
    /// When what was signed then expires, the earliest of it.
    pub expires: Option<Wall>,
    /// What is wrong with the repository.
    pub trouble: Option<UpdateReason>,
    /// Steps that were taken and are not known to be told, oldest first.
    #[serde(default)]
    pub untold: Vec<UpdateReport>,
}

/// Why an offer is not taken up at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoOffer {
    /// It is what serves.
    #[error("release {0} is what serves")]
    Serves(u64),
    /// It was refused, for what it is.
    #[error("release {release} was refused here: {words}", release = .0.release, words = .0.reason.words)]
    Refused(RefusedRelease),
    /// A model on trial is not pushed aside.
    #[error("release {0} is on trial: it is committed or taken back first, or called off with cancel_update")]
    OnTrial(u64),
}

/// What became of an offer.
#[derive(Debug, Clone, PartialEq)]
pub enum Offered {
    /// The same is on its way already.
    Known(Uuid),
    /// It is taken up; what it pushed aside, if anything.
    New(Uuid, Option<Box<UpdateReport>>),
}

/// What a start serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serve {
    /// What came with the package.
    Factory,
    /// What was committed.
    Current(Slot),
    /// What is on trial.
    OnTrial(Slot),
}

impl Ledger {
    /// Reads it; none: there is none yet. One that cannot be read is an error, and no empty one: the floor would be lost.
    pub fn load(path: &Path) -> io::Result<Option<Ledger>> {
        match std::fs::read(path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Writes it, durably and whole.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        atomic_file::write(path, &serde_json::to_vec_pretty(self).expect("plain data with textual keys"))
    }

    /// Somebody offers a release.
    pub fn offer(&mut self, offer: Offer, now: Wall) -> Result<Offered, NoOffer> {
        let Offer { id, release, rollout, from, from_dir } = offer;
        if let Some(attempt) = &self.attempt {
            if attempt.report.release == release {
                return Ok(Offered::Known(attempt.report.id));
            }
            if attempt.report.state == UpdateState::Trial {
                return Err(NoOffer::OnTrial(attempt.report.release));
            }
        }
        if self.current.as_ref().is_some_and(|c| c.release == release) {
            return Err(NoOffer::Serves(release));
        }
        if let Some(refused) = self.refused.iter().find(|r| r.release == release && !r.reason.fault.may_pass()) {
            return Err(NoOffer::Refused(refused.clone()));
        }
        let aside = self.end(UpdateState::Cancelled, None, now).map(Box::new);
        let report = UpdateReport {
            id,
            release,
            model: None,
            version: None,
            rollout,
            state: UpdateState::Offered,
            reason: None,
            waiting: None,
            from: Some(from),
            figures: UpdateFigures::default(),
            since: now.rfc3339(),
        };
        self.attempt = Some(Attempt { report, slot: None, downgrade: None, from_dir, trial: Trial::default() });
        Ok(Offered::New(id, aside))
    }

    /// The signed metadata have said what it is; whether it may be put in by what this device has committed.
    pub fn identify(&mut self, release: &Release) -> Result<(), UpdateReason> {
        let no = |fault, words: String| Err(UpdateReason { fault, words });
        let facts = &release.facts;
        let Ok(version) = Version::parse(&facts.version) else {
            return no(UpdateFault::ExtraneousTarget, format!("{:?} is no semantic version", facts.version));
        };
        if facts.release < self.floor {
            let words =
                format!("release {} is older than {}, which this device has committed", facts.release, self.floor);
            return no(UpdateFault::Rollback, words);
        }
        if let Some(newest) = self.versions.get(&facts.model).filter(|v| version < **v)
            && facts.downgrade.is_none()
        {
            let words = format!(
                "{} {version} is older than {newest}, which this device has committed, and is not signed as a downgrade",
                facts.model
            );
            return no(UpdateFault::Rollback, words);
        }
        let Some(attempt) = &mut self.attempt else { return Ok(()) };
        attempt.report.model = Some(facts.model.clone());
        attempt.report.version = Some(facts.version.clone());
        attempt.downgrade.clone_from(&facts.downgrade);
        let (digest, model) = (release.digest.clone(), facts.model.clone());
        attempt.slot = Some(Slot { digest, release: facts.release, model, version });
        Ok(())
    }

    /// The attempt comes to a state.
    pub fn advance(&mut self, state: UpdateState, now: Wall) -> Option<UpdateReport> {
        let attempt = self.attempt.as_mut()?;
        attempt.report.state = state;
        attempt.report.waiting = None;
        attempt.report.since = now.rfc3339();
        Some(attempt.report.clone())
    }

    /// What it waits for has changed; the report if it is news.
    pub fn wait(&mut self, waiting: Option<String>) -> Option<UpdateReport> {
        let report = &mut self.attempt.as_mut()?.report;
        let news = report.waiting != waiting;
        report.waiting = waiting;
        news.then(|| report.clone())
    }

    /// What is on trial becomes what the device goes back to.
    pub fn commit(&mut self, now: Wall) -> Option<UpdateReport> {
        let slot = self.attempt.as_ref()?.slot.clone()?;
        self.floor = self.floor.max(slot.release);
        let version = self.versions.entry(slot.model.clone()).or_insert_with(|| slot.version.clone());
        // A signed downgrade is the new measure: the version that it went back from may be what is wrong.
        *version = slot.version.clone();
        // The same model again, under a new number, leaves what it goes back to.
        if self.current.as_ref().is_some_and(|c| c.digest == slot.digest) {
            self.current = Some(slot);
        } else {
            self.previous = self.current.replace(slot);
        }
        self.end(UpdateState::Committed, None, now)
    }

    /// It is refused, or taken back if it has served; and remembered.
    pub fn fail(&mut self, reason: UpdateReason, now: Wall) -> Option<UpdateReport> {
        let report = &self.attempt.as_ref()?.report;
        let state = if report.state == UpdateState::Trial { UpdateState::RolledBack } else { UpdateState::Refused };
        let release = report.release;
        self.refused.retain(|r| r.release != release);
        self.refused.push(RefusedRelease { release, reason: reason.clone() });
        // Those that may be offered again are forgotten first, then those that are found again at once. What has served or
        // was proven to be bad stays, as far as a list can go.
        while self.refused.len() > REFUSED_MOST {
            let passes = self.refused.iter().position(|r| r.reason.fault.may_pass());
            let cheap = || self.refused.iter().position(|r| r.reason.fault.is_found_again());
            self.refused.remove(passes.or_else(cheap).unwrap_or(0));
        }
        self.end(state, Some(reason), now)
    }

    /// Somebody calls it off. What serves on trial is rolled back; the reason says by whose word.
    pub fn cancel(&mut self, now: Wall) -> Option<UpdateReport> {
        let on_trial = self.attempt.as_ref()?.report.state == UpdateState::Trial;
        self.end(if on_trial { UpdateState::RolledBack } else { UpdateState::Cancelled }, None, now)
    }

    fn end(&mut self, state: UpdateState, reason: Option<UpdateReason>, now: Wall) -> Option<UpdateReport> {
        let mut report = self.attempt.take()?.report;
        (report.state, report.reason, report.waiting, report.since) = (state, reason, None, now.rfc3339());
        self.last = Some(report.clone());
        Some(report)
    }

    /// What a start of the daemon, in this boot of the kernel, serves; and the report of a trial that is over by it.
    ///
    /// A daemon that died or was killed by its watchdog while a model was on trial in the same boot: it is taken back. A
    /// machine that lost power may lose it once.
    pub fn start(&mut self, boot: &str, now: Wall) -> (Serve, Option<UpdateReport>) {
        let mut over = None;
        let loaded = UpdateState::Building..=UpdateState::Shadow;
        if let Some(attempt) = self.attempt.as_mut().filter(|a| loaded.contains(&a.report.state)) {
            // It was in this process, or about to be: what ended that may have been it.
            attempt.trial.cuts += u32::from(!std::mem::take(&mut attempt.trial.orderly));
            if attempt.trial.cuts > LOADED_CUTS_MOST {
                let words = format!("the daemon ended {} times while it was loaded or looked on", attempt.trial.cuts);
                over = self.fail(UpdateReason { fault: UpdateFault::Restarted, words }, now);
            }
        }
        if let Some(attempt) = self.attempt.as_mut().filter(|a| a.report.state == UpdateState::Trial) {
            let trial = &mut attempt.trial;
            let same_boot = trial.boot == boot;
            trial.cuts += u32::from(!trial.orderly && !same_boot);
            let words = if trial.orderly || (!same_boot && trial.cuts <= CUTS_MOST) {
                None
            } else if same_boot {
                Some("the daemon died or hung while it served".to_owned())
            } else {
                Some(format!("the machine went down {} times while it served", trial.cuts))
            };
            (trial.orderly, trial.boot) = (false, boot.to_owned());
            match (words, attempt.slot.clone()) {
                (None, Some(slot)) => return (Serve::OnTrial(slot), None),
                (words, _) => {
                    let words = words.unwrap_or_else(|| "nothing says what was on trial".to_owned());
                    over = self.fail(UpdateReason { fault: UpdateFault::Restarted, words }, now);
                }
            }
        }
        (self.current.clone().map_or(Serve::Factory, Serve::Current), over)
    }

    /// What serves is no good any more: what served before takes its place, and after that what came with the package.
    pub fn fall_back(&mut self) -> Serve {
        self.current = self.previous.take();
        self.current.clone().map_or(Serve::Factory, Serve::Current)
    }

    /// The slots that must stay.
    pub fn keeps(&self) -> Vec<&str> {
        let slots = [&self.current, &self.previous].into_iter().flatten();
        let attempt = self.attempt.as_ref().and_then(|a| a.slot.as_ref());
        slots.chain(attempt).map(|s| s.digest.as_str()).collect()
    }
}

/// An offer.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Of the attempt.
    pub id: Uuid,
    /// The release's number.
    pub release: u64,
    /// The roll-out that it is part of.
    pub rollout: Option<String>,
    /// What serves now.
    pub from: ModelRef,
    /// Where it comes from, if not from the repository.
    pub from_dir: Option<PathBuf>,
}

#[cfg(test)]
mod tests;
