//! A device's updates without the device: the real updater, ledger, trust, slots and way, on a bench that a test scripts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use vedette::agent::config::Ota;
use vedette::agent::infer::Engine;
use vedette::agent::infer::manifest::Manifest;
use vedette::agent::infer::model::Model;
use vedette::agent::infer::scripted;
use vedette::agent::ota::bench::{Bench, Journal, Ready};
use vedette::agent::ota::fault::Trouble;
use vedette::agent::ota::judge::{ShadowSeen, TrialSeen};
use vedette::agent::ota::ledger::Ledger;
use vedette::agent::ota::prove::Found;
use vedette::agent::ota::updater::{Parts, Updater};
use vedette::agent::ota::updates::Updates;
use vedette::base::clock::{Clock, SystemClock};
use vedette::base::stop::StopToken;
use vedette::contract::alert::ModelRef;
use vedette::contract::command::{Command, CommandOutcome};
use vedette::contract::notice::Trouble as Notice;
use vedette::contract::update::{UpdateReason, UpdateReport, UpdateState, UpdateStatus};

use super::simulated::{self, Device};
use super::{fleet::tiny, wait_for};

/// What the scripted bench says and has been told.
pub struct Script {
    pub serves: ModelRef,
    looks_on: Option<ModelRef>,
    pub proven: Result<Found, Trouble>,
    pub shadow: ShadowSeen,
    pub trial: TrialSeen,
    pub knows_time: bool,
    pub misfit: Option<String>,
    pub restarts: u32,
}

/// A bench on which nothing is computed.
pub struct Scripted(Mutex<Script>);

impl Scripted {
    pub fn new(serves: ModelRef) -> Scripted {
        let shadow = ShadowSeen { windows: 100, agreed: 100, ..ShadowSeen::default() };
        Scripted(Mutex::new(Script {
            serves,
            looks_on: None,
            proven: Ok(Found { frame_ms: 1.0, memory_bytes: 1 }),
            shadow,
            trial: TrialSeen::default(),
            knows_time: true,
            misfit: None,
            restarts: 0,
        }))
    }

    /// Nothing is wrong with the next model.
    pub fn mend(&self) {
        let mut script = self.script();
        let new = Scripted::new(script.serves.clone());
        *script = new.0.into_inner().expect("nobody else has it");
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("nothing panics under it")
    }
}

impl Bench for Scripted {
    fn serves(&self) -> ModelRef {
        self.script().serves.clone()
    }

    fn fits(&self, _: &Manifest) -> Result<(), String> {
        self.script().misfit.clone().map_or(Ok(()), Err)
    }

    fn is_hot(&self, _: &Manifest) -> bool {
        true
    }

    fn prove(&self, _: &Model, _: &StopToken, loaded: &mut dyn FnMut()) -> Result<Found, Trouble> {
        loaded();
        self.script().proven.clone()
    }

    fn ready(&self, model: &Model, _: &StopToken) -> Result<Ready, Trouble> {
        Ok(Ready { engine: scripted::by_brightness(model.manifest()), frame_ms: None })
    }

    fn shadow(&self, model: &Model, _: Engine) {
        self.script().looks_on = Some(model.reference());
    }

    fn shadow_seen(&self) -> ShadowSeen {
        self.script().shadow
    }

    fn end_shadow(&self) {
        self.script().looks_on = None;
    }

    fn promote(&self, model: &Model) -> Result<(), Trouble> {
        let mut script = self.script();
        assert_eq!(script.looks_on.take(), Some(model.reference()), "it looked on before");
        script.serves = model.reference();
        Ok(())
    }

    fn trial_seen(&self) -> TrialSeen {
        self.script().trial
    }

    fn take_back(&self, model: &Model) -> Result<(), Trouble> {
        self.script().serves = model.reference();
        Ok(())
    }

    fn restart(&self) {
        self.script().restarts += 1;
    }

    fn incidents_per_s(&self) -> f64 {
        0.0
    }

    fn knows_time_of_day(&self) -> bool {
        self.script().knows_time
    }
}

/// What was told.
#[derive(Default)]
pub struct Told {
    pub steps: Mutex<Vec<UpdateReport>>,
    pub status: Mutex<Option<UpdateStatus>>,
    pub frozen: Mutex<Option<String>>,
    device: Option<Arc<Device>>,
}

impl Journal for Told {
    fn step(&self, report: &UpdateReport) -> bool {
        self.steps.lock().expect("no panic").push(report.clone());
        true
    }

    fn status(&self, status: UpdateStatus) {
        if let Some(device) = &self.device {
            device.stands(status.clone());
        }
        *self.status.lock().expect("no panic") = Some(status);
    }

    fn trouble(&self, trouble: Notice, words: Option<String>) {
        if trouble == Notice::UpdatesFrozen {
            *self.frozen.lock().expect("no panic") = words;
        }
    }
}

/// One for all: a thousand devices in a process do with one, too.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime")
    })
}

/// What carries releases out on a simulated device as a real one does, but for the computing.
pub struct Real {
    /// Its state.
    pub dir: PathBuf,
    /// The repository, and the root that it was given.
    pub repository: (String, PathBuf),
    /// What it makes of a release.
    pub script: fn(&mut Script),
    updating: OnceLock<Updating>,
}

impl Real {
    pub fn new(dir: PathBuf, repository: (String, PathBuf), script: fn(&mut Script)) -> Real {
        Real { dir, repository, script, updating: OnceLock::new() }
    }
}

impl simulated::Updater for Real {
    fn carry_out(&self, device: &Arc<Device>, command: Command) -> CommandOutcome {
        let updating = self.updating.get_or_init(|| {
            let (repository, root) = &self.repository;
            // It looks when it is asked to: a thousand that look at every second are another test.
            let change = |ota: &mut Ota| ota.check_every = Duration::from_secs(86_400);
            let updating = Updating::of(&self.dir, repository, root, change, Some(Arc::clone(device)));
            (self.script)(&mut updating.bench.script());
            updating
        });
        let outcome = match command {
            Command::UpdateModel { release, rollout } => updating.updates.offer(release, rollout, None),
            Command::CancelUpdate { release } => updating.updates.cancel(release),
            other => return CommandOutcome::Rejected { reason: format!("not simulated: {other:?}") },
        };
        match outcome {
            Ok(id) => {
                device.has_begun(id);
                CommandOutcome::Accepted { incident: None, result: None }
            }
            Err(e) => CommandOutcome::Rejected { reason: e.to_string() },
        }
    }
}

/// Updates of one device, over a repository in `repository`, which a test may change.
pub struct Updating {
    pub dir: PathBuf,
    pub bench: Arc<Scripted>,
    pub told: Arc<Told>,
    pub updates: Updates,
    worker: Option<JoinHandle<()>>,
}

impl Updating {
    /// A device whose state is in `dir`, that knows this repository by this root; `change` changes its `[ota]`.
    pub fn new(dir: &Path, repository: &str, root: &Path, change: impl FnOnce(&mut Ota)) -> Updating {
        Updating::of(dir, repository, root, change, None)
    }

    /// The same for a simulated device, which says how it stands.
    pub fn of(
        dir: &Path,
        repository: &str,
        root: &Path,
        change: impl FnOnce(&mut Ota),
        device: Option<Arc<Device>>,
    ) -> Updating {
        let factory = Model::open(&tiny()).expect("a model");
        let mut config = Ota {
            repository: repository.to_owned(),
            root_json: std::fs::read(root).expect("a root"),
            ca_pem: None,
            client: None,
            check_every: Duration::from_secs(1),
            limit_bytes_per_s: None,
            schedule: None,
            shadow: Duration::ZERO,
            trial: Duration::from_millis(600),
            min_agreement: 0.8,
            max_alert_factor: 3,
            max_model_bytes: 10_000_000,
            proof_memory_bytes: 1_000_000_000,
            proof_within: Duration::from_secs(60),
            hardware: Vec::new(),
        };
        change(&mut config);
        let path = dir.join("ledger.json");
        std::fs::create_dir_all(dir).expect("writable");
        let mut ledger = Ledger::load(&path).expect("readable").unwrap_or_default();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (serve, _) = ledger.start("boot", clock.wall());
        ledger.save(&path).expect("writable");
        let serves = match serve {
            vedette::agent::ota::ledger::Serve::Factory => factory.reference(),
            vedette::agent::ota::ledger::Serve::Current(slot) | vedette::agent::ota::ledger::Serve::OnTrial(slot) => {
                slot.report().model
            }
        };
        let bench = Arc::new(Scripted::new(serves));
        let told = Arc::new(Told { device, ..Told::default() });
        let hardware = vec!["x86_64".to_owned()];
        let updates = Updates::new((path, ledger), hardware.clone(), (bench.clone(), told.clone(), clock.clone()));
        let updater = Updater::new(
            updates.clone(),
            Parts {
                config,
                dir: dir.to_owned(),
                factory: tiny(),
                cameras: 1,
                hardware,
                boot: "boot".into(),
                bench: bench.clone(),
                journal: told.clone(),
                clock,
                runtime: runtime().handle().clone(),
            },
        );
        let worker = Some(std::thread::spawn(move || updater.run()));
        Updating { dir: dir.to_owned(), bench, told, updates, worker }
    }

    /// How it stands.
    pub fn status(&self) -> UpdateStatus {
        self.updates.status()
    }

    /// Offers a release and waits for its end.
    pub fn offer(&self, release: u64) -> UpdateReport {
        self.updates.offer(release, None, None).expect("taken up");
        self.end_of(release)
    }

    /// Waits for the end of a release.
    pub fn end_of(&self, release: u64) -> UpdateReport {
        wait_for(&format!("the end of release {release}"), || {
            let update = self.status().update?;
            (update.release == release && update.state.is_final()).then_some(update)
        })
    }

    /// Waits until a release waits for something; for what.
    pub fn waits(&self, release: u64) -> String {
        wait_for(&format!("that release {release} waits"), || {
            self.status().update.filter(|u| u.release == release)?.waiting
        })
    }

    /// The states of a release, in the order in which they were told.
    pub fn states(&self, release: u64) -> Vec<UpdateState> {
        let steps = self.told.steps.lock().expect("no panic");
        steps.iter().filter(|s| s.release == release).map(|s| s.state).collect()
    }

    /// Trouble of the repository, once it is seen.
    pub fn trouble(&self) -> UpdateReason {
        wait_for("trouble with the repository", || self.status().trouble)
    }

    /// The device is switched off in good order.
    pub fn end(mut self) {
        self.close();
    }

    fn close(&mut self) {
        self.updates.end();
        if let Some(worker) = self.worker.take() {
            worker.join().expect("it ends without a panic");
        }
    }
}

impl Drop for Updating {
    fn drop(&mut self) {
        self.close();
    }
}
