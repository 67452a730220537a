//! The keeper and its handover, with engines that do as the test says; what inference does with them is in its own tests.

use std::sync::mpsc;
use std::thread;

use super::*;
use crate::agent::config;
use crate::agent::health::Sensors;
use crate::agent::infer::{EngineInfo, scripted};
use crate::base::clock::{ManualClock, Wall};
use crate::contract::alert::ModelRef;
use crate::contract::heartbeat::HealthSource;

const PATIENCE: Duration = Duration::from_secs(60);

/// Makes what it was told to make, one after the other; for ever nothing after that.
struct Scripted(Vec<Result<&'static str, Never>>, mpsc::Sender<()>);

impl Better for Scripted {
    fn make(&mut self, _: &StopToken, tell: Tell<'_>) -> Result<Engine, Never> {
        tell("at it".into());
        self.1.send(()).ok();
        match self.0.is_empty() {
            true => Err(Never::None),
            false => self.0.remove(0).map(engine),
        }
    }

    fn settled(&mut self) {}
}

fn engine(runtime: &str) -> Engine {
    let engine = scripted::by_brightness(&scripted::manifest());
    Engine { info: EngineInfo { runtime: runtime.into(), ..engine.info.clone() }, ..engine }
}

struct Rig {
    _dir: tempfile::TempDir,
    handover: Arc<Handover>,
    health: Arc<Health>,
    made: mpsc::Receiver<()>,
    stop: StopToken,
    thread: thread::JoinHandle<()>,
}

impl Rig {
    fn new(script: Vec<Result<&'static str, Never>>) -> Rig {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("manifest.toml"), "").expect("writable");
        let text =
            "[device]\nsite = \"s\"\nid = \"d\"\n[model]\ndir = \".\"\n[[camera]]\nid = \"c\"\nkind = \"test\"\n";
        let config = config::parse(text, dir.path()).expect("a good config");
        let (clock, manifest) = (Arc::new(ManualClock::new(Wall::from_unix_ms(0))), scripted::manifest());
        let model = ModelRef { name: "m".into(), version: "1.0.0".into(), digest: "ab".into() };
        let sensors = Sensors::under(dir.path(), dir.path());
        let info = Some(engine("cpu").info);
        let health = Arc::new(Health::new(&config, (model, &manifest), info, (clock, sensors)));
        let (send, made) = mpsc::channel();
        let (handover, stop) = (Arc::new(Handover::default()), StopToken::new());
        let keeper = Keeper {
            better: Box::new(Scripted(script, send)),
            fallback: Box::new(|| Ok(engine("cpu"))),
            handover: handover.clone(),
            health: health.clone(),
        };
        let thread = thread::spawn({
            let stop = stop.clone();
            move || keeper.run(&stop)
        });
        Rig { _dir: dir, handover, health, made, stop, thread }
    }

    fn wait_for<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let never = StopToken::new();
        for _ in 0..PATIENCE.as_millis() / 5 {
            match look() {
                Some(found) => return found,
                None => never.wait(Duration::from_millis(5)),
            };
        }
        panic!("{what} never came")
    }

    fn offered(&self) -> String {
        self.wait_for("an engine", || self.handover.take()).info.runtime
    }

    fn words(&self) -> Option<String> {
        self.health.report().inference.expect("an engine").better_engine
    }

    fn end(self) {
        self.stop.stop();
        self.thread.join().expect("it does not panic");
    }
}

#[test]
fn a_machine_without_a_better_engine_is_left_alone() {
    let rig = Rig::new(vec![]);
    rig.made.recv_timeout(PATIENCE).expect("it looks once");
    rig.wait_for("its end", || rig.thread.is_finished().then_some(()));
    assert!(rig.words().is_none() && rig.handover.take().is_none());
    rig.end();
}

#[test]
fn a_proven_engine_is_handed_over_and_a_broken_one_is_taken_back() {
    let rig = Rig::new(vec![Ok("gpu")]);
    assert_eq!(rig.offered(), "gpu");
    assert_eq!(rig.words(), None, "nothing is to be said of what serves");
    rig.handover.is_broken(Broken::Fails);
    assert_eq!(rig.offered(), "cpu");
    assert!(rig.words().is_some_and(|words| words.contains("failed with every frame")));
    assert!(!rig.thread.is_finished(), "it will be tried again");
    rig.end();
}

#[test]
fn what_is_refused_is_said_and_what_may_come_is_waited_for() {
    let rig = Rig::new(vec![Err(Never::Refused("off by 0.3".into()))]);
    rig.wait_for("the words", || rig.words().filter(|words| words.contains("not in use: off by 0.3")));
    rig.wait_for("its end", || rig.thread.is_finished().then_some(()));
    assert!(rig.handover.take().is_none());
    rig.end();

    let rig = Rig::new(vec![Err(Never::NotNow("no memory".into())), Ok("gpu")]);
    rig.wait_for("the words", || rig.words().filter(|words| words.contains("not yet: no memory")));
    assert!(!rig.thread.is_finished() && rig.handover.take().is_none());
    rig.end();
}

#[test]
fn an_engine_whose_device_is_lost_is_replaced_for_good_and_the_remedy_is_said() {
    // Another one is on offer, and must not be asked for.
    let rig = Rig::new(vec![Ok("gpu"), Ok("gpu again")]);
    assert_eq!(rig.offered(), "gpu");
    rig.handover.is_broken(Broken::Lost("an illegal memory access was encountered".into()));
    assert_eq!(rig.offered(), "cpu");
    rig.wait_for("its end", || rig.thread.is_finished().then_some(()));
    let words = rig.words().expect("it is said");
    assert!(words.contains("systemctl restart vedette") && words.contains("an illegal memory access"), "{words}");
    assert_eq!(rig.made.try_iter().count(), 1, "it is not tried again");
    rig.end();

    // Lost while it was made.
    let rig = Rig::new(vec![Err(Never::Lost("unspecified launch failure".into())), Ok("gpu")]);
    rig.wait_for("its end", || rig.thread.is_finished().then_some(()));
    let words = rig.words().expect("it is said");
    assert!(words.contains("systemctl restart vedette") && words.contains("unspecified launch failure"), "{words}");
    assert!(rig.handover.take().is_none(), "the CPU serves already");
    rig.end();
}
