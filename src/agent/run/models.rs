//! Which model a start serves, by the ledger of updates: what is on trial, what was committed, what served before, and at
//! last what came with the package. Whatever is wrong with one, the next is tried: a device that wakes up classifies.

use std::path::{Path, PathBuf};

use super::offline::{self, LoadError};
use crate::agent::config::Config;
use crate::agent::infer::Engine;
use crate::agent::infer::model::Model;
use crate::agent::ota::fault::Trouble;
use crate::agent::ota::ledger::{Ledger, Serve};
use crate::agent::ota::slots::Slots;
use crate::base::clock::Wall;
use crate::base::error::Chain;
use crate::contract::update::{UpdateFault, UpdateReason};

/// Models over the air, below the state directory.
pub fn models_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("models")
}

fn ledger_path(state_dir: &Path) -> PathBuf {
    models_dir(state_dir).join("ledger.json")
}

/// What a start serves, and what it has found.
pub struct Chosen {
    /// The model.
    pub model: Model,
    /// Its engine, if any camera is classified.
    pub engine: Option<Engine>,
    /// What is known of updates; none: the config wants none.
    pub updates: Option<KnownUpdates>,
}

/// See [`Chosen`].
pub struct KnownUpdates {
    /// The ledger, and where it is.
    pub ledger: (PathBuf, Ledger),
    /// What was wrong with a model that was proven.
    pub damage: Option<String>,
    /// This boot of the kernel.
    pub boot: String,
}

/// Chooses, and loads.
pub fn choose(
    config: &Config,
    now: Wall,
    load: &dyn Fn(&Model) -> Result<Engine, LoadError>,
) -> Result<Chosen, LoadError> {
    let classifies = config.cameras.iter().any(|c| c.classify);
    let open = |model: Model| {
        let engine = classifies.then(|| load(&model)).transpose()?;
        Ok::<_, LoadError>((model, engine))
    };
    let factory = || offline::open_model(&config.model.dir).and_then(open);
    if config.ota.is_none() {
        let (model, engine) = factory()?;
        return Ok(Chosen { model, engine, updates: None });
    }
    let path = ledger_path(&config.paths.state_dir);
    let slots = Slots::new(&models_dir(&config.paths.state_dir));
    let mut known = read(path, now);
    let boot = known.boot.clone();
    let (mut serve, over) = known.ledger.1.start(&boot, now);
    known.ledger.1.untold.extend(over);
    // On the disk before it serves: a model that takes the daemon with it is found out by the next start. Where the disk takes
    // nothing, none is on trial.
    if !known.save() && matches!(serve, Serve::OnTrial(_)) {
        serve = known.ledger.1.current.clone().map_or(Serve::Factory, Serve::Current);
    }
    loop {
        let slot = match &serve {
            Serve::Factory => {
                let (model, engine) = factory()?;
                return Ok(Chosen { model, engine, updates: Some(known) });
            }
            Serve::Current(slot) | Serve::OnTrial(slot) => slot.clone(),
        };
        let opened = slots.open(&slot.digest).and_then(|model| {
            let unfit = |fault, words| Trouble::fault(fault, words);
            let wrong = config.check_classes(&model.manifest().classes);
            if let Some(wrong) = wrong.first() {
                return Err(unfit(UpdateFault::Incompatible, wrong.to_string()));
            }
            open(model).map_err(|e| unfit(UpdateFault::BuildFailed, Chain(&e).to_string()))
        });
        let e = match opened {
            Ok((model, engine)) => return Ok(Chosen { model, engine, updates: Some(known) }),
            Err(e) => e,
        };
        log::error!("model {} {} of release {} cannot serve: {e}", slot.model, slot.version, slot.release);
        let ledger = &mut known.ledger.1;
        serve = match serve {
            Serve::OnTrial(_) => {
                let reason = match e {
                    Trouble::Fault(reason) => reason,
                    other => UpdateReason { fault: UpdateFault::SlotDamaged, words: other.to_string() },
                };
                let over = ledger.fail(reason, now);
                ledger.untold.extend(over);
                ledger.current.clone().map_or(Serve::Factory, Serve::Current)
            }
            Serve::Current(_) | Serve::Factory => {
                known.damage.get_or_insert(format!("release {}: {e}", slot.release));
                let is_damaged = matches!(&e, Trouble::Fault(r) if r.fault == UpdateFault::SlotDamaged);
                match (is_damaged, &ledger.previous) {
                    (true, _) => ledger.fall_back(),
                    // What the configuration or a missing library keeps from serving is there for the next start.
                    (false, Some(previous)) if previous.digest != slot.digest => Serve::Current(previous.clone()),
                    (false, _) => Serve::Factory,
                }
            }
        };
        known.save();
    }
}

fn read(path: PathBuf, now: Wall) -> KnownUpdates {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let mut known = KnownUpdates { ledger: (path.clone(), Ledger::default()), damage: None, boot };
    match Ledger::load(&path) {
        Ok(ledger) => known.ledger.1 = ledger.unwrap_or_default(),
        Err(e) => {
            let aside = path.with_extension(format!("damaged-{}", now.unix_ms()));
            let words = format!("{} cannot be read ({e}): what came with the package serves", path.display());
            log::error!("{words}; it is kept as {}", aside.display());
            if let Err(e) = std::fs::rename(&path, &aside) {
                log::error!("{}: {e}", aside.display());
            }
            known.damage = Some(words);
        }
    }
    known
}

impl KnownUpdates {
    /// Whether it is on the disk.
    fn save(&self) -> bool {
        let (path, ledger) = &self.ledger;
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let saved = made.and_then(|()| ledger.save(path));
        if let Err(e) = &saved {
            log::error!("{}: {e}", path.display());
        }
        saved.is_ok()
    }
}
