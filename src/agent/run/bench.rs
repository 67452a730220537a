//! Where a new model looks and serves: what `ota` needs of the daemon, by way of the inference stage's board. And where an
//! update tells of itself.

use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;

use super::engines::{Better, Handover, Keeper, Keepers, Never};
use super::health::Health;
use super::inference::beside::{Armed, Beside, Board};
use super::models::{KnownUpdates, models_dir};
use super::offline::LoadError;
use super::serving::{InUse, Serving};
use crate::agent::config::{Config, EngineChoice};
use crate::agent::health::hardware_classes;
use crate::agent::incident::{Machine, Thresholds};
use crate::agent::infer::Engine;
use crate::agent::infer::classifier::{Classifier, Options};
use crate::agent::infer::manifest::Manifest;
use crate::agent::infer::model::Model;
use crate::agent::ota::bench::{Bench, Journal, Ready};
use crate::agent::ota::fault::Trouble;
use crate::agent::ota::judge::{ShadowSeen, TrialSeen};
use crate::agent::ota::prove::{self, Found, Spec};
use crate::agent::ota::updater::{Parts, Updater};
use crate::agent::ota::updates::Updates;
use crate::agent::store::Store;
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::stage::Stage;
use crate::base::stop::StopToken;
use crate::contract::alert::ModelRef;
use crate::contract::notice::Trouble as Notice;
use crate::contract::update::{UpdateFault, UpdateReport, UpdateStatus};

/// The history that a new model is held against.
const HISTORY: Duration = Duration::from_secs(30 * 86_400);
/// A switch takes a pass of inference.
const SWITCH_WITHIN: Duration = Duration::from_secs(20);
/// What takes over again looks on until its windows are full, and at most so long.
const WARM_WITHIN: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// By the link, not by what it names: after an upgrade that is another program, or none.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// Makes the engine that a model can always have.
pub type Load = Arc<dyn Fn(&Model) -> Result<Engine, LoadError> + Send + Sync>;

/// See the module's doc.
pub struct Workbench {
    pub config: Config,
    pub serving: Arc<Serving>,
    pub board: Arc<Board>,
    pub handover: Arc<Handover>,
    pub keepers: Arc<Keepers>,
    pub health: Arc<Health>,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    pub load: Load,
    /// Makes better engines, where the machine has one.
    pub better: super::MakeBetter,
    pub restart: StopToken,
    /// What was so when what serves took over.
    pub since: Mutex<Since>,
}

/// What was counted when what serves took over.
#[derive(Debug, Clone, Copy, Default)]
pub struct Since {
    incidents: u64,
    memory_bytes: u64,
}

impl Workbench {
    /// Takes updates from now on: where they are offered, and the thread that moves them on. What the start has found is
    /// told first.
    pub fn take_updates(self, known: KnownUpdates, runtime: &Handle) -> std::io::Result<(Updates, Stage)> {
        let ota = self.config.ota.clone().expect("asked only where the config has it");
        let KnownUpdates { ledger: (path, mut ledger), damage, boot } = known;
        // What was committed is in the history too: a ledger that was lost does not lower the floor.
        match self.store.reader().highest_release() {
            Ok(floor) if floor > ledger.floor => {
                log::warn!("the floor of releases is {floor}, by the history");
                ledger.floor = floor;
                ledger.save(&path)?;
            }
            Ok(_) => {}
            Err(e) => log::error!("the floor of releases may be higher than is known: {}", Chain(&e)),
        }
        let mut hardware = hardware_classes(Path::new("/"));
        hardware.extend(ota.hardware.iter().cloned());
        let factory = self.config.model.dir.clone();
        let (clock, state_dir) = (self.clock.clone(), self.config.paths.state_dir.clone());
        let cameras = self.config.cameras.iter().filter(|c| c.classify).count();
        let journal = Arc::new(UpdateJournal { store: self.store.clone(), health: self.health.clone() });
        journal.trouble(Notice::ModelDamaged, damage);
        self.begin_trial();
        let bench: Arc<dyn Bench> = Arc::new(self);
        let updates = Updates::new((path, ledger), hardware.clone(), (bench.clone(), journal.clone(), clock.clone()));
        let parts = Parts {
            config: ota,
            dir: models_dir(&state_dir),
            factory,
            cameras,
            hardware,
            boot,
            bench,
            journal,
            clock,
            runtime: runtime.clone(),
        };
        let updater = Updater::new(updates.clone(), parts);
        let lost = || log::error!("no model will come over the air until the next start: its thread panicked");
        let stage = Stage::spawn("updates", lost, move || updater.run())?;
        Ok((updates, stage))
    }

    /// What serves now begins a trial: what is counted is counted from here.
    pub fn begin_trial(&self) {
        *self.since.lock().expect("nothing panics under this lock") =
            Since { incidents: self.health.incidents_seen(), memory_bytes: memory_bytes() };
    }

    fn thresholds(&self, manifest: &Manifest) -> Thresholds {
        let cameras = self.config.cameras.iter().map(|c| (c.id.clone(), c.thresholds.clone())).collect();
        Thresholds { model: manifest.thresholds.clone(), cameras }
    }

    fn options(&self) -> Options {
        let replaceable = self.config.model.engine == EngineChoice::Auto;
        Options { sample_fps: None, stride: self.config.model.stride, replaceable }
    }

    fn switch(&self) -> Result<(), Trouble> {
        // An engine of the model before must not be handed to the one that takes over.
        self.keepers.stop();
        self.handover.clear();
        let served = self.board.promote();
        match served.recv_timeout(SWITCH_WITHIN) {
            // Letting go of an engine may take a while: it is done here.
            Ok(old) => drop(old),
            // The daemon ends.
            Err(RecvTimeoutError::Disconnected) => return Err(Trouble::Stopped),
            Err(RecvTimeoutError::Timeout) => {
                self.board.unpromote();
                // It may have been done in the same moment.
                if served.try_recv().is_err() {
                    return Err(Trouble::fault(UpdateFault::EngineErrors, "inference did not let it take over"));
                }
            }
        }
        Ok(())
    }

    fn keep(&self, model: &Model) {
        let Some(better) = (self.better)(&self.config, model, &self.clock) else { return };
        let (load, model) = (Arc::clone(&self.load), model.clone());
        let keeper = Keeper {
            better,
            fallback: Box::new(move || Ok(load(&model)?)),
            handover: Arc::clone(&self.handover),
            health: Arc::clone(&self.health),
        };
        if let Err(e) = self.keepers.start(keeper) {
            log::error!("there will be no better engine: {e}");
        }
    }

    /// The better engine, if this machine has one; an error if it is what this device relies on.
    fn better_engine(&self, model: &Model, stop: &StopToken) -> Result<Option<Engine>, Trouble> {
        let Some(mut better): Option<Box<dyn Better>> = (self.better)(&self.config, model, &self.clock) else {
            return Ok(None);
        };
        let relied_on = self.health.engine_is_better();
        match better.make(stop, &mut |words| log::debug!("{words}")) {
            Ok(engine) => {
                better.settled();
                Ok(Some(engine))
            }
            Err(_) if stop.is_stopped() => Err(Trouble::Stopped),
            Err(Never::None) => Ok(None),
            Err(Never::Refused(why)) if relied_on => Err(Trouble::fault(UpdateFault::BuildFailed, why)),
            Err(Never::NotNow(why) | Never::Lost(why)) if relied_on => Err(Trouble::Wait(why)),
            Err(Never::Refused(why) | Never::NotNow(why) | Never::Lost(why)) => {
                log::warn!("{why}; the release is tried on the CPU, which serves now too");
                Ok(None)
            }
        }
    }
}

impl Bench for Workbench {
    fn serves(&self) -> ModelRef {
        self.serving.now().reference
    }

    fn fits(&self, manifest: &Manifest) -> Result<(), String> {
        let wrong = self.config.check_classes(&manifest.classes);
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
    }

    fn is_hot(&self, manifest: &Manifest) -> bool {
        let now = self.serving.now().manifest;
        now.sample_fps == manifest.sample_fps && now.pixels == manifest.pixels
    }

    fn prove(&self, model: &Model, stop: &StopToken, loaded: &mut dyn FnMut()) -> Result<Found, Trouble> {
        let ota = self.config.ota.as_ref().expect("asked only where the config has it");
        let m = &self.config.model;
        let spec = Spec {
            dir: model.dir().to_owned(),
            digest: model.reference().digest,
            precision: m.precision.to_string(),
            threads: m.threads,
            onnxruntime: m.onnxruntime.clone(),
            memory_bytes: ota.proof_memory_bytes,
        };
        prove::prove(Path::new(THIS_PROGRAM), &spec, ota.proof_within, (self.clock.as_ref(), stop), loaded)
    }

    fn ready(&self, model: &Model, stop: &StopToken) -> Result<Ready, Trouble> {
        if let Some(mut engine) = self.better_engine(model, stop)? {
            let m = model.manifest();
            let cameras = self.config.cameras.iter().filter(|c| c.classify).count().max(1);
            let times = crate::agent::infer::measure::measure(m, &mut engine, (cameras, 10), self.clock.as_ref())
                .map_err(|e| Trouble::fault(UpdateFault::BuildFailed, Chain(&e).to_string()))?;
            let frame_ms = Some(crate::agent::ota::prove::frame_ms(&times, m.stride));
            return Ok(Ready { engine, frame_ms });
        }
        let engine = (self.load)(model).map_err(|e| Trouble::fault(UpdateFault::BuildFailed, Chain(&e).to_string()))?;
        Ok(Ready { engine, frame_ms: None })
    }

    fn shadow(&self, model: &Model, engine: Engine) {
        let (new, now) = (InUse::of(model), self.serving.now());
        let machine =
            Machine::new(new.manifest.classes.clone(), self.config.incident.clone(), self.thresholds(&new.manifest));
        let classifier = Classifier::new(Arc::clone(&new.manifest), engine, self.options());
        let thresholds = (self.thresholds(&new.manifest), self.thresholds(&now.manifest));
        let armed: Armed = {
            let health = Arc::clone(&self.health);
            Arc::new(move |camera| health.camera(camera).is_armed())
        };
        self.board.look(Beside::new(new, classifier, machine, thresholds, (now.manifest.classes.clone(), armed)));
    }

    fn shadow_seen(&self) -> ShadowSeen {
        self.board.shadow()
    }

    fn end_shadow(&self) {
        self.board.end();
    }

    fn promote(&self, model: &Model) -> Result<(), Trouble> {
        self.wait_until_warm();
        self.switch()?;
        self.begin_trial();
        self.keep(model);
        Ok(())
    }

    fn trial_seen(&self) -> TrialSeen {
        let since = *self.since.lock().expect("nothing panics under this lock");
        TrialSeen {
            incidents: self.health.incidents_seen().saturating_sub(since.incidents),
            growth_bytes: memory_bytes().saturating_sub(since.memory_bytes),
            ..self.board.trial()
        }
    }

    fn take_back(&self, model: &Model) -> Result<(), Trouble> {
        if self.serves() == model.reference() {
            return Ok(());
        }
        if !self.is_hot(model.manifest()) {
            self.restart.stop();
            return Ok(());
        }
        let ready = self.ready(model, &StopToken::new())?;
        self.shadow(model, ready.engine);
        self.wait_until_warm();
        self.switch()?;
        self.keep(model);
        Ok(())
    }

    fn restart(&self) {
        self.restart.stop();
    }

    fn incidents_per_s(&self) -> f64 {
        let reader = self.store.reader();
        let from = self.clock.wall() - HISTORY;
        let (incidents, ran_ms) = (reader.incidents_since(from.unix_ms()), reader.ran_ms());
        match (incidents, ran_ms) {
            (Ok(incidents), Ok(ran_ms)) if ran_ms > 0 => {
                incidents as f64 / Duration::from_millis(ran_ms).min(HISTORY).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    fn knows_time_of_day(&self) -> bool {
        self.health.knows_time_of_day()
    }
}

impl Workbench {
    /// Until what looks on could take over without a window missing, or no camera gives any.
    fn wait_until_warm(&self) {
        let began = self.clock.now();
        let nobody = StopToken::new();
        while !self.board.is_warm() && self.clock.now().since(began) < WARM_WITHIN {
            nobody.wait(LOOK_EVERY);
        }
    }
}

/// Memory of this process now.
fn memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().split(' ').next()?.parse::<u64>().ok());
    kb.unwrap_or_default() * 1024
}

/// Where an update tells of itself: the store's history and outbox, and health for what is retained.
pub struct UpdateJournal {
    pub store: Store,
    pub health: Arc<Health>,
}

impl Journal for UpdateJournal {
    fn step(&self, report: &UpdateReport) -> bool {
        let (release, state) = (report.release, report.state.as_str());
        let model = report.model.as_deref().unwrap_or("a model");
        log::info!("release {release} ({model} {}): {state}", report.version.as_deref().unwrap_or("?"));
        let stored = self.store.update_step(report.clone());
        if let Err(e) = &stored {
            log::error!("release {release}: that it is {state} was not stored, and is told later: {}", Chain(e));
        }
        stored.is_ok()
    }

    fn status(&self, status: UpdateStatus) {
        self.health.update_is(status);
    }

    fn trouble(&self, trouble: Notice, words: Option<String>) {
        self.health.trouble_is(trouble, words);
    }
}
