//! Roll-outs over a real Mosquitto to fleets of simulated devices, by managers in this process (whose time is the test's) and
//! by the program itself (which is killed).
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use vedette::agent::ota::prove::Found;
use vedette::base::clock::{Clock, ManualClock, SystemClock, Wall};
use vedette::base::stop::StopToken;
use vedette::contract::update::UpdateFault;
use vedette::fleet::rollout::fleet::{Fleet, Steady};
use vedette::fleet::rollout::gates::Gate;
use vedette::fleet::rollout::manager::{Manager, Which, tell};
use vedette::fleet::rollout::orders::Order;
use vedette::fleet::rollout::plan::{DeviceId, Gates, Pace, Plan, Wave, Who};
use vedette::fleet::rollout::settings;
use vedette::fleet::rollout::state::{How, Phase, Rollout, Standing};
use vedette::fleet::rollout::store::{Company, FileStore, PostgresStore, Store, Stored};
use vedette::fleet::rollout::tls::Files;

use crate::common::broker::Broker;
use crate::common::fleet::{repository_with, tiny, variant};
use crate::common::pki::{NOW, Pki};
use crate::common::postgres::Postgres;
use crate::common::simulated::{Script, Scripted, Simulation, Way};
use crate::common::updating::{Real, Script as Judged};
use crate::common::{PATIENCE, wait_for};

const RELEASE: u64 = 2;
const START: Wall = Wall::from_unix_ms(1_790_000_000_000);
/// What passes at once when a test lets time pass: less than makes a device silent.
const STRIDE: Duration = Duration::from_secs(300);
const STEP: Duration = Duration::from_millis(5);

fn plan(waves: &[f64]) -> Plan {
    Plan {
        release: RELEASE,
        salt: "salt".into(),
        among: None,
        waves: waves.iter().map(|p| Wave { who: Who::Percent(*p), soak_s: 3600 }).collect(),
        pace: Pace { at_once: 100, ..Pace::default() },
        gates: Gates::default(),
        inventory: None,
    }
}

/// A manager in a thread of its own; ends, as if killed, with its value.
struct Running {
    fleet: Arc<Fleet>,
    stop: StopToken,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(settings: &Path, clock: &Arc<dyn Clock>) -> Running {
        let steady = Steady::new(Arc::clone(clock));
        let (fleet, stop) = (Arc::new(Fleet::new(steady.clone())), StopToken::new());
        let settings = settings::load(settings).unwrap();
        let (listener, token) = (Arc::clone(&fleet), stop.clone());
        let thread = std::thread::spawn(move || {
            Runtime::new().unwrap().block_on(async {
                let store = FileStore::open(settings.state.directory.as_deref().unwrap()).unwrap();
                let mut manager = Manager::new(Arc::new(store), Arc::clone(&listener), steady);
                let broker = settings.broker.unwrap();
                tokio::select! {
                    ended = listener.listen(&broker, &token) => ended.unwrap(),
                    ended = manager.run(&Which::All, &token, |_| ()) => ended.unwrap(),
                }
            });
        });
        Running { fleet, stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(ended) = self.thread.take().map(JoinHandle::join) {
            assert!(ended.is_ok() || std::thread::panicking(), "the manager ended badly");
        }
    }
}

/// A broker, a fleet, a place to keep roll-outs, and time that stands until the test moves it.
struct Stage {
    broker: Broker,
    fleet: Simulation,
    clock: Arc<ManualClock>,
    dir: tempfile::TempDir,
    runtime: Runtime,
    held: RefCell<Option<Stored>>,
}

impl Stage {
    fn new(devices: usize, script: impl Fn(usize) -> Script) -> Stage {
        Stage::with(|way, clock| {
            let scripted = |n| Scripted { script: script(n), step: STEP };
            Simulation::start(devices, way, clock, scripted)
        })
    }

    fn of(devices: usize, updater: impl Fn(usize) -> Arc<Real>) -> Stage {
        Stage::with(|way, clock| Simulation::of(devices, way, clock, |n| (false, updater(n) as _)))
    }

    fn with(fleet: impl FnOnce(&Way, Arc<dyn Clock>) -> Simulation) -> Stage {
        let broker = Broker::plaintext().start();
        let clock = Arc::new(ManualClock::new(START));
        let way = Way { port: broker.port, pki: None };
        let fleet = fleet(&way, Arc::clone(&clock) as Arc<dyn Clock>);
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[broker]\nurl = \"mqtt://127.0.0.1:{}\"\n[state]\ndirectory = {:?}\n",
            broker.port,
            dir.path().join("state")
        );
        std::fs::write(dir.path().join("fleet.toml"), text).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Stage { broker, fleet, clock, dir, runtime, held: RefCell::default() }
    }

    fn store(&self) -> FileStore {
        FileStore::open(&self.dir.path().join("state")).unwrap()
    }

    fn create(&self, name: &str, plan: Plan) {
        plan.check().unwrap();
        let rollout = Rollout::new(name.into(), plan, "test".into(), self.clock.wall());
        self.runtime.block_on(self.store().create(&rollout, Company::Alone)).unwrap();
    }

    fn manager(&self) -> Running {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as _;
        Running::start(&self.dir.path().join("fleet.toml"), &clock)
    }

    /// As it is kept; not read again while it is the same: with a thousand devices that takes as long as all else.
    fn rollout(&self, name: &str) -> Rollout {
        let mut held = self.held.borrow_mut();
        let version = self.runtime.block_on(self.store().version(name)).unwrap();
        match &*held {
            Some(held) if held.version == version => held.rollout.clone(),
            _ => held.insert(self.runtime.block_on(self.store().load(name)).unwrap()).rollout.clone(),
        }
    }

    fn tell(&self, name: &str, order: &Order) {
        let steady = Steady::new(Arc::clone(&self.clock) as _);
        self.runtime.block_on(tell(&self.store(), &steady, name, "test", order)).unwrap();
    }

    /// A stretch of time, at whose end the manager has heard again of everybody who is there.
    fn stride(&self, manager: &Running) {
        self.clock.advance(STRIDE);
        self.fleet.heartbeats();
        let now = self.clock.wall();
        wait_for("heartbeats", || {
            manager.fleet.with(|seen| {
                let mut there = seen.devices.values().filter(|d| d.online).peekable();
                (there.peek().is_some() && seen.watching_since.is_some() && there.all(|d| d.heard >= now)).then_some(())
            })
        });
    }

    /// Waits until the manager has seen so many devices.
    fn met(&self, manager: &Running, devices: usize) {
        wait_for("the fleet", || {
            let met = manager
                .fleet
                .with(|s| s.devices.values().filter(|d| d.online && d.updates && d.reading.is_some()).count());
            (met == devices).then_some(())
        });
    }

    /// Lets time pass, as long as nothing is under way, until the roll-out is as it should be.
    fn until(&self, manager: &Running, name: &str, is: impl Fn(&Rollout) -> bool) -> Rollout {
        let spent = SystemClock::new();
        loop {
            let rollout = self.rollout(name);
            if is(&rollout) {
                return rollout;
            }
            assert!(!rollout.is_over(), "it ended otherwise: {:#?}", rollout.head);
            assert!(spent.now().as_millis() < 4 * PATIENCE.as_millis() as u64, "{:#?}", rollout.head);
            self.stride(manager);
            // What was offered in it takes real time.
            wait_for("the devices' steps", || {
                let at_it = self.fleet.devices.iter().any(|d| d.report().is_some_and(|r| !r.state.is_final()));
                let waited_for = || self.rollout(name).devices.values().any(|r| r.is_under_way());
                (at_it || !waited_for()).then_some(())
            });
        }
    }
}

fn count(rollout: &Rollout, how: How) -> usize {
    rollout.devices.values().filter(|r| r.standing() == Standing::Ended(how)).count()
}

fn in_wave(rollout: &Rollout, wave: usize) -> usize {
    rollout.devices.values().filter(|r| r.wave == wave).count()
}

#[test]
fn a_healthy_release_reaches_a_thousand_devices_in_three_waves() {
    let stage = Stage::new(1000, |_| Script::Commits);
    let manager = stage.manager();
    stage.met(&manager, 1000);
    stage.create("r", plan(&[5.0, 30.0, 100.0]));
    let done = stage.until(&manager, "r", |r| r.head.phase == Phase::Done);
    assert_eq!((count(&done, How::Committed), stage.fleet.serving(RELEASE)), (1000, 1000));
    let begins: Vec<_> = done.head.history.iter().filter(|e| e.what.contains("begins")).map(|e| e.at).collect();
    assert_eq!(begins.len(), 2);
    assert!(begins[0] >= START + Duration::from_secs(3600) && begins[1] >= begins[0] + Duration::from_secs(3600));
    assert!(stage.fleet.devices.iter().all(|d| d.begun() == 1), "nobody twice");
}

/// A manifest with its networks alone: what is scripted needs no golden vectors, and a thousand devices have a file less to
/// write for each.
fn lean(version: &str, to: &Path) -> PathBuf {
    let dir = variant(&tiny(), to, &[("version = \"1.2.3\"", &format!("version = \"{version}\""))]);
    let text = std::fs::read_to_string(dir.join("manifest.toml")).unwrap();
    let (head, files) = text.split_once("[[file]]").unwrap();
    let kept = files.split("[[file]]").filter(|f| f.contains(".onnx"));
    let text = kept.fold(head.to_owned(), |text, file| text + "[[file]]" + file);
    std::fs::write(dir.join("manifest.toml"), text).unwrap();
    dir
}

/// A thousand devices whose updates are the real ones (TUF, slots, ledger, judgement) with a repository of static files; only
/// what computes is scripted. One of fifty finds that the release is too slow for it.
#[test]
fn a_thousand_real_updaters_take_a_release_from_a_real_repository() {
    let models = tempfile::tempdir().unwrap();
    let repository =
        repository_with(&[&lean("1.3.0", &models.path().join("1")), &lean("1.4.0", &models.path().join("2"))]);
    // fsync of a thousand devices on one disk is not what is tested. In a container it may be too small.
    let shm = Path::new("/dev/shm");
    let is_large = rustix::fs::statvfs(shm).is_ok_and(|s| s.f_bavail * s.f_frsize > 500_000_000);
    let states = if is_large { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let known = (format!("file://{}", repository.published().display()), repository.first_root());
    let slow: fn(&mut Judged) = |s| s.proven = Ok(Found { frame_ms: 1e6, memory_bytes: 1 });
    let stage = Stage::of(1000, |i| {
        let script = if i % 50 == 7 { slow } else { |_: &mut Judged| () };
        Arc::new(Real::new(states.path().join(i.to_string()), known.clone(), script))
    });
    let manager = stage.manager();
    stage.met(&manager, 1000);
    let mut plan = plan(&[5.0, 30.0, 100.0]);
    plan.gates.failures = Some(0.1);
    stage.create("r", plan);
    let at_it = || stage.fleet.devices.iter().any(|d| d.report().is_some_and(|r| !r.state.is_final()));
    let done = loop {
        let rollout = stage.rollout("r");
        if rollout.head.phase == Phase::Done {
            break rollout;
        }
        assert!(!rollout.is_over(), "{:#?}", rollout.head);
        stage.stride(&manager);
        wait_for("the devices' ends", || (!at_it()).then_some(()));
    };
    assert_eq!((count(&done, How::Committed), stage.fleet.serving(RELEASE)), (980, 980));
    let refused = stage.fleet.devices.iter().filter_map(|d| d.report()?.reason);
    assert!(refused.clone().all(|r| r.fault == UpdateFault::Latency) && refused.count() == 20);
}

#[test]
fn a_bad_release_stops_within_the_first_wave_and_names_the_gate() {
    let stage = Stage::new(1000, |_| Script::Refuses);
    let manager = stage.manager();
    stage.met(&manager, 1000);
    let mut plan = plan(&[5.0, 30.0, 100.0]);
    plan.pace.at_once = 10;
    stage.create("r", plan);
    let end = stage.until(&manager, "r", |r| r.is_over());
    let Phase::Stopped { finding } = &end.head.phase else { panic!("{:?}", end.head.phase) };
    assert_eq!((finding.gate, finding.wave), (Gate::Failures, Some(0)));
    let (touched, wave) = (stage.fleet.touched(), in_wave(&end, 0));
    assert!(touched < wave && touched <= 20, "{touched} devices of a wave of {wave}");
    let words = end.devices.values().find_map(|r| r.end.as_ref()?.words.clone()).unwrap();
    assert_eq!(words, "golden_vectors: 0.31 of at most 0.001");
    assert_eq!(stage.fleet.serving(RELEASE), 0);
    (0..20).for_each(|_| stage.stride(&manager));
    assert_eq!(stage.fleet.touched(), touched, "nobody is offered it any more");
}

#[test]
fn a_release_that_floods_is_stopped_by_the_devices_own_history() {
    let stage = Stage::new(200, |_| Script::Floods);
    let manager = stage.manager();
    stage.met(&manager, 200);
    stage.create("r", plan(&[10.0, 100.0]));
    let end = stage.until(&manager, "r", |r| !r.head.phase.is_open());
    let Phase::Stopped { finding } = &end.head.phase else { panic!("{:?}", end.head.phase) };
    assert_eq!((finding.gate, end.head.wave), (Gate::Alerts, 0), "{finding}");
    assert!(stage.fleet.touched() <= in_wave(&end, 0));
}

#[test]
fn an_abort_calls_off_who_is_at_it() {
    let stage = Stage::new(60, |_| Script::Hangs);
    let manager = stage.manager();
    stage.met(&manager, 60);
    stage.create("r", plan(&[50.0, 100.0]));
    let size = stage.until(&manager, "r", |r| stage.fleet.touched() > 0 && stage.fleet.touched() == in_wave(r, 0));
    let size = in_wave(&size, 0);
    stage.tell("r", &Order::Abort { why: Some("wrong labels".into()) });
    let end = stage.until(&manager, "r", |r| r.is_over());
    assert_eq!((count(&end, How::CalledOff), stage.fleet.touched()), (size, size));
    assert!(end.head.history.last().unwrap().what.contains("wrong labels"));
}

#[test]
fn a_paused_one_offers_nothing_until_it_is_resumed() {
    let stage = Stage::new(30, |_| Script::Commits);
    let manager = stage.manager();
    stage.met(&manager, 30);
    stage.create("r", plan(&[50.0, 100.0]));
    stage.tell("r", &Order::Pause);
    (0..5).for_each(|_| stage.stride(&manager));
    let before = stage.fleet.touched();
    (0..20).for_each(|_| stage.stride(&manager));
    assert_eq!(stage.fleet.touched(), before);
    stage.tell("r", &Order::Resume);
    stage.until(&manager, "r", |r| r.head.phase == Phase::Done);
    assert_eq!(stage.fleet.serving(RELEASE), 30);
}

#[test]
fn a_device_that_was_away_for_its_whole_wave_has_it_when_it_is_back() {
    let stage = Stage::new(60, |_| Script::Commits);
    let manager = stage.manager();
    stage.met(&manager, 60);
    let plan = plan(&[30.0, 100.0]);
    let first = |d: &&Arc<crate::common::simulated::Device>| plan.wave_of(&DeviceId::from(&d.topics)) == Some(0);
    let away: Vec<_> = stage.fleet.devices.iter().filter(first).take(3).cloned().collect();
    away.iter().for_each(|d| d.set_present(false));
    stage.met(&manager, 57);
    stage.create("r", plan.clone());
    stage.until(&manager, "r", |r| r.head.wave == 1);
    assert!(away.iter().all(|d| d.begun() == 0));
    away.iter().for_each(|d| d.set_present(true));
    stage.met(&manager, 60);
    let done = stage.until(&manager, "r", |r| r.head.phase == Phase::Done);
    assert_eq!((count(&done, How::Committed), stage.fleet.serving(RELEASE)), (60, 60));
}

#[test]
fn a_broker_that_is_killed_amid_a_wave_costs_nothing() {
    let mut stage = Stage::new(100, |_| Script::Commits);
    let manager = stage.manager();
    stage.met(&manager, 100);
    let mut plan = plan(&[20.0, 100.0]);
    plan.pace.at_once = 5;
    stage.create("r", plan);
    stage.until(&manager, "r", |_| stage.fleet.touched() > 4);
    for forgets in [false, true] {
        if forgets {
            stage.broker.restart_without_memory()
        } else {
            stage.broker.restart()
        }
        wait_for("the manager's connection", || manager.fleet.with(|s| s.watching_since.is_some()).then_some(()));
        stage.met(&manager, 100);
        let before = stage.fleet.touched();
        stage.until(&manager, "r", |r| r.head.wave > 0 || stage.fleet.touched() > before);
    }
    let done = stage.until(&manager, "r", |r| r.head.phase == Phase::Done);
    assert_eq!((count(&done, How::Committed), stage.fleet.serving(RELEASE)), (100, 100));
    assert!(stage.fleet.devices.iter().all(|d| d.begun() == 1), "nobody twice");
}

/// A manager of its own process: the program itself.
struct Program {
    settings: PathBuf,
    child: Option<Child>,
}

impl Program {
    fn new(settings: &Path) -> Program {
        Program { settings: settings.to_owned(), child: None }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vedette-fleet"));
        command.arg("rollout").args(args).arg("--config").arg(&self.settings).stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn run(&mut self) {
        self.child = Some(self.command(&["run"]).stdout(Stdio::null()).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.output(&["status", "r", "--json"])).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

fn settings(dir: &Path, port: u16, state: &str) -> PathBuf {
    let path = dir.join("fleet.toml");
    std::fs::write(&path, format!("[broker]\nurl = \"mqtt://127.0.0.1:{port}\"\n[state]\n{state}\n")).unwrap();
    path
}

const QUICK: &[&str] = &[
    "start",
    "--release",
    "2",
    "--name",
    "r",
    "--detach",
    "--soak",
    "1s",
    "--settle",
    "1s",
    "--at-once",
    "8",
    "--wave",
    "20%",
    "--wave",
    "100%",
    "--reach-within",
    "3s",
];

/// A fleet in real time, whose devices take a step in so long.
fn in_real_time(devices: usize, port: u16, step: Duration) -> Simulation {
    let way = Way { port, pki: None };
    let fleet =
        Simulation::start(devices, &way, Arc::new(SystemClock::new()), |_| Scripted { script: Script::Commits, step });
    fleet.heartbeats_every(Duration::from_secs(1));
    fleet
}

#[test]
fn managers_that_are_killed_at_any_moment_finish_what_they_began() {
    let (broker, dir) = (Broker::plaintext().start(), tempfile::tempdir().unwrap());
    let fleet = in_real_time(80, broker.port, Duration::from_millis(60));
    let state = format!("directory = {:?}", dir.path().join("state"));
    let mut program = Program::new(&settings(dir.path(), broker.port, &state));
    program.output(QUICK);
    let never = StopToken::new();
    let (clock, mut kills) = (SystemClock::new(), 0);
    while program.status()["phase"] == "running" && clock.now().as_millis() < 2 * PATIENCE.as_millis() as u64 {
        program.run();
        // Long enough to settle and to do something, short enough to be cut off in the middle of it.
        never.wait(Duration::from_millis(if kills < 12 { 1200 + fastrand::u64(..1500) } else { 15_000 }));
        program.kill();
        kills += 1;
    }
    let status = program.status();
    assert_eq!(status["phase"], "done", "{status:#}");
    assert!(kills > 3, "{kills}");
    assert_eq!(fleet.serving(RELEASE), 80);
    assert!(fleet.devices.iter().all(|d| d.begun() == 1), "nobody twice");
}

#[test]
fn two_managers_with_one_database_do_it_once() {
    let (broker, dir, postgres) = (Broker::plaintext().start(), tempfile::tempdir().unwrap(), Postgres::start());
    let fleet = in_real_time(80, broker.port, Duration::from_millis(30));
    let path = settings(dir.path(), broker.port, &format!("postgres = {:?}", postgres.address()));
    let mut managers = [Program::new(&path), Program::new(&path)];
    managers.iter_mut().for_each(Program::run);
    managers[0].output(QUICK);
    let done = wait_for("the end", || Some(managers[1].status()).filter(|s| s["phase"] != "running"));
    assert_eq!(done["phase"], "done", "{done:#}");
    assert_eq!(done["waves"][1]["counts"]["committed"], done["waves"][1]["devices"]);
    assert_eq!(fleet.serving(RELEASE), 80);
    assert!(fleet.devices.iter().all(|d| d.begun() == 1), "nobody twice");
    // Waves do not begin twice either.
    let begins = done["history"].as_array().unwrap().iter().filter(|e| e["what"].as_str().unwrap().contains("begins"));
    assert_eq!(begins.count(), 1);
    let runtime = Runtime::new().unwrap();
    let kept = runtime.block_on(async {
        let plain = Files { ca: None, cert: None, key: None };
        PostgresStore::open(&postgres.address(), plain).await.unwrap().load("r").await.unwrap()
    });
    assert_eq!(kept.rollout.devices.keys().collect::<BTreeSet<_>>().len(), 80);
}

#[test]
fn a_person_starts_one_in_a_terminal_and_looks_at_it_from_another() {
    let (broker, dir) = (Broker::plaintext().start(), tempfile::tempdir().unwrap());
    let fleet = in_real_time(10, broker.port, Duration::from_millis(10));
    let state = format!("directory = {:?}", dir.path().join("state"));
    let program = Program::new(&settings(dir.path(), broker.port, &state));
    let attached: Vec<_> = QUICK.iter().filter(|a| **a != "--detach").copied().collect();
    let text = program.output(&attached);
    assert!(text.contains("r: release 2, done"), "{text}");
    assert!(text.contains("done: 10 of 10 devices have committed"), "{text}");
    assert_eq!(fleet.serving(RELEASE), 10);
    let text = program.output(&["status"]);
    assert!(text.contains("committed") && !text.contains('\x1b'), "{text}");
    assert!(program.output(&["list"]).contains("done"));
    let refused = program.command(&["resume", "r"]).output().unwrap();
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && why.contains("the roll-out r is done, which is final"), "{why}");
    let twice = program.command(QUICK).output().unwrap();
    assert!(String::from_utf8_lossy(&twice.stderr).contains("already"));
}

#[test]
fn by_the_shipped_access_rules_a_manager_may_do_what_it_must_and_no_more() {
    let pki = Arc::new(Pki::new());
    let ours = pki.device("fleet", NOW);
    let broker = Broker::production(&pki).start();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let way = Way { port: broker.port, pki: Some(Arc::clone(&pki)) };
    let fleet = Simulation::start(3, &way, clock, |_| Scripted { script: Script::Commits, step: STEP });
    fleet.heartbeats_every(Duration::from_secs(1));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleet.toml");
    let text = format!(
        "[broker]\nurl = \"mqtts://127.0.0.1:{}\"\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\n[state]\ndirectory = {:?}\n",
        broker.port,
        pki.file("ca.crt"),
        ours.cert,
        ours.key,
        dir.path().join("state")
    );
    std::fs::write(&path, text).unwrap();
    let program = Program::new(&path);
    let mut attached: Vec<_> = QUICK.iter().filter(|a| **a != "--detach").copied().collect();
    attached.extend(["--quorum", "100"]);
    let text = program.output(&attached);
    assert!(text.contains("done: 3 of 3 devices have committed"), "{text}");
    assert_eq!(fleet.serving(RELEASE), 3);

    let file = |p: &Path| p.to_str().unwrap().to_owned();
    let mut watching = broker.subscribe("vedette/v1/#");
    for (topic, may) in [
        ("vedette/v1/s0/d0000/update", false),
        ("vedette/v1/s0/d0000/ack/soc", false),
        ("vedette/v1/s0/d0000/cmd/x/status", false),
        ("other", false),
        ("vedette/v1/s9/nobody/cmd/x", true),
    ] {
        let mut publish = Command::new("mosquitto_pub");
        publish.args([
            "-V",
            "mqttv5",
            "-h",
            "127.0.0.1",
            "-p",
            &broker.port.to_string(),
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            "{}",
        ]);
        publish.args(["--cafile", &file(&pki.file("ca.crt")), "--cert", &file(&ours.cert), "--key", &file(&ours.key)]);
        let said = String::from_utf8_lossy(&publish.output().unwrap().stderr).into_owned();
        assert_eq!(!said.contains("Not authorized"), may, "{topic}: {said}");
    }
    watching.wait_for("the command", |m| m.topic == "vedette/v1/s9/nobody/cmd/x");
}
