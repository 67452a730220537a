//! Roll-outs in a world of the test's own: devices that follow a script, managers that hear of them late, twice or not at
//! all, and that are killed between storing and sending.

use std::collections::BTreeMap;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::contract::update::{UpdateFault, UpdateReason};
use crate::fleet::rollout::gates::Gate;
use crate::fleet::rollout::observe::Reading;
use crate::fleet::rollout::orders::Order;
use crate::fleet::rollout::plan::{Gates, Pace, Plan, Wave, Who};

const RELEASE: u64 = 7;
const START: Wall = Wall::from_unix_ms(1_800_000_000_000);

/// What a device makes of the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Commits,
    Refuses,
    RollsBack,
    Floods,
    Slows,
    Hangs,
    Rejects,
}

struct Device {
    script: Script,
    seen: Seen,
    /// Commands that it has carried out.
    done: BTreeSet<String>,
    /// Offers that it began.
    begun: u64,
    quiet: bool,
    /// Incidents it has by nature, one in so many ticks of a minute.
    every: u64,
    ticks: u64,
}

impl Device {
    fn new(script: Script, n: usize) -> Device {
        let mut seen = Seen::new(START);
        (seen.online, seen.updates, seen.current) = (true, true, Some(RELEASE - 1));
        (seen.floor, seen.reading) = (RELEASE - 1, Some(Self::reading(36_000, 10)));
        Device { script, seen, done: BTreeSet::new(), begun: 0, quiet: false, every: 60, ticks: n as u64 * 7 }
    }

    fn reading(uptime_s: u64, incidents: u64) -> Reading {
        let said = Some(START + Duration::from_secs(uptime_s - 36_000));
        Reading { session: 1, uptime_s, incidents, p99_ms: Some(20.0), said }
    }

    fn command(&mut self, now: Wall, command: &Outgoing, ours: &str) {
        if !self.seen.online || now > command.until || !self.done.insert(command.id.clone()) {
            return;
        }
        let answer = |state, reason: Option<&str>| Answer { state, reason: reason.map(String::from) };
        let told = self.seen.told.as_mut().filter(|t| !t.state.is_final());
        let said = match (command.kind, told) {
            (CommandKind::Offer, _) if self.script == Script::Rejects => {
                answer(CommandState::Rejected, Some("unknown variant `update_model`"))
            }
            (CommandKind::Offer, Some(_)) => answer(CommandState::Succeeded, None),
            (CommandKind::Offer, None) => {
                self.begun += 1;
                self.seen.told = Some(Told {
                    id: Uuid::from_u128(self.begun.into()),
                    release: RELEASE,
                    rollout: Some(ours.to_owned()),
                    state: UpdateState::Offered,
                    reason: None,
                    waiting: None,
                    since: Some(now),
                });
                answer(CommandState::Succeeded, None)
            }
            (CommandKind::CallOff, Some(told)) => {
                (told.state, told.since) = (UpdateState::Cancelled, Some(now));
                self.seen.current = Some(RELEASE - 1);
                answer(CommandState::Succeeded, None)
            }
            (CommandKind::CallOff, None) => answer(CommandState::Rejected, Some("nothing to call off")),
        };
        self.seen.answers.insert(command.id.clone(), said);
        self.seen.heard = now;
    }

    /// A minute of its life.
    fn tick(&mut self, now: Wall) {
        if !self.seen.online || self.quiet {
            return;
        }
        self.ticks += 1;
        self.seen.heard = now;
        let serves = self.seen.current == Some(RELEASE);
        let mut more = u64::from(self.ticks.is_multiple_of(self.every));
        if let Some(told) = self.seen.told.as_mut().filter(|t| !t.state.is_final()) {
            use UpdateState as S;
            let next = S::ALL[S::ALL.iter().position(|s| *s == told.state).expect("one of all") + 1];
            told.state = match (self.script, next) {
                (Script::Refuses, S::Proving) => S::Refused,
                (Script::RollsBack, S::Committed) => S::RolledBack,
                (Script::Hangs, _) => told.state,
                (_, next) => next,
            };
            told.since = Some(now);
            if matches!(told.state, S::Refused | S::RolledBack) {
                told.reason = Some(UpdateReason { fault: UpdateFault::GoldenVectors, words: "0.9 of 1e-3".into() });
                self.seen.refused.push(RELEASE);
            }
            self.seen.current = Some(if matches!(told.state, S::Trial | S::Committed) { RELEASE } else { RELEASE - 1 });
        }
        more += if serves && self.script == Script::Floods { 3 } else { 0 };
        let slow = serves && self.script == Script::Slows;
        let last = self.seen.reading.as_mut().expect("every one has counters");
        (last.uptime_s, last.incidents) = (last.uptime_s + 60, last.incidents + more);
        (last.said, last.p99_ms) = (Some(now), Some(if slow { 80.0 } else { 20.0 }));
    }
}

fn id(n: usize) -> DeviceId {
    format!("s/d{n:04}").parse().expect("a name")
}

fn plan(waves: &[f64]) -> Plan {
    Plan {
        release: RELEASE,
        salt: "salt".into(),
        among: None,
        waves: waves.iter().map(|p| Wave { who: Who::Percent(*p), soak_s: 3600 }).collect(),
        pace: Pace { at_once: 10, ..Pace::default() },
        gates: Gates::default(),
        inventory: None,
    }
}

struct World {
    now: Wall,
    devices: BTreeMap<DeviceId, Device>,
    stored: Rollout,
}

impl World {
    fn new(n: usize, plan: Plan, script: impl Fn(usize) -> Script) -> World {
        plan.check().expect("a plan");
        let devices = (0..n).map(|i| (id(i), Device::new(script(i), i))).collect();
        World { now: START, devices, stored: Rollout::new("r1".into(), plan, "test".into(), START) }
    }

    fn seen(&self) -> Observations {
        let devices = self.devices.iter().map(|(id, d)| (id.clone(), d.seen.clone())).collect();
        Observations { watching_since: Some(START), devices }
    }

    /// A minute, in which a manager sees all and all arrives.
    fn minute(&mut self) -> Next {
        self.now = self.now + Duration::from_secs(60);
        self.devices.values_mut().for_each(|d| d.tick(self.now));
        let next = step(self.now, &self.stored, &self.seen());
        let again = step(self.now, &next.rollout, &self.seen());
        assert!(!again.is_news, "the same input twice: {:?} {:?}", again.changed, again.rollout.head);
        assert_eq!(again.commands, next.commands);
        self.stored = next.rollout.clone();
        self.deliver(&next.commands);
        next
    }

    fn deliver(&mut self, commands: &[Outgoing]) {
        for command in commands {
            if let Some(device) = self.devices.get_mut(&command.device) {
                device.command(self.now, command, "r1");
            }
        }
    }

    fn until(&mut self, minutes: usize, mut done: impl FnMut(&World) -> bool) {
        for _ in 0..minutes {
            if done(self) {
                return;
            }
            self.minute();
        }
        panic!("not within {minutes} minutes: {:#?}", self.stored.head);
    }

    fn count(&self, how: How) -> usize {
        self.stored.devices.values().filter(|r| r.standing() == Standing::Ended(how)).count()
    }

    fn stopped_by(&self) -> Option<Gate> {
        match &self.stored.head.phase {
            Phase::Stopped { finding } => Some(finding.gate),
            _ => None,
        }
    }

    fn wave(&self, wave: usize) -> Vec<DeviceId> {
        self.devices.keys().filter(|id| self.stored.plan.wave_of(id) == Some(wave)).cloned().collect()
    }

    /// Devices that ever began with the release.
    fn touched(&self) -> usize {
        self.devices.values().filter(|d| d.begun > 0).count()
    }
}

const WAVES: &[f64] = &[5.0, 30.0, 100.0];

#[test]
fn a_healthy_release_reaches_everybody_wave_by_wave_with_soaks_between() {
    let mut world = World::new(300, plan(WAVES), |_| Script::Commits);
    let mut began = vec![world.now];
    world.until(1000, |w| {
        if w.stored.head.wave == began.len() {
            began.push(w.now);
        }
        w.stored.head.phase == Phase::Done
    });
    assert_eq!(world.count(How::Committed), 300);
    assert!(began.windows(2).all(|w| w[1] >= after(w[0], 3600)), "a wave is watched for its hour: {began:?}");
    let last = world.stored.head.history.last().expect("a history");
    assert_eq!(last.what, "done: 300 of 300 devices have committed");
    assert!(world.stored.is_over());
}

#[test]
fn a_release_that_fails_stops_within_the_first_wave() {
    let mut world = World::new(1000, plan(WAVES), |_| Script::Refuses);
    world.until(100, |w| w.stopped_by().is_some());
    assert_eq!(world.stopped_by(), Some(Gate::Failures));
    let wave = world.wave(0).len();
    assert!(world.touched() <= 20 && world.touched() < wave, "{} of {wave}", world.touched());
    world.until(30, |w| w.stored.is_over());
    let before = world.touched();
    (0..200).for_each(|_| assert!(world.minute().commands.iter().all(|c| c.kind == CommandKind::CallOff)));
    assert_eq!(world.touched(), before);
}

#[test]
fn each_gate_stops_what_it_is_for() {
    for (script, gate) in
        [(Script::RollsBack, Gate::Rollbacks), (Script::Floods, Gate::Alerts), (Script::Slows, Gate::Latency)]
    {
        let mut plan = plan(WAVES);
        plan.gates.failures = Some(1.0);
        let mut world = World::new(1000, plan, |_| script);
        world.until(200, |w| w.stopped_by().is_some());
        assert_eq!((world.stopped_by(), world.stored.head.wave), (Some(gate), 0), "{script:?}");
    }
}

#[test]
fn devices_that_fall_silent_stop_it_and_one_that_was_away_does_not() {
    let mut world = World::new(400, plan(WAVES), |_| Script::Commits);
    world.until(20, |w| w.count(How::Committed) >= 10);
    let silenced: Vec<_> = world.wave(0).into_iter().take(6).collect();
    silenced.iter().for_each(|id| world.devices.get_mut(id).expect("there").quiet = true);
    world.until(40, |w| w.stopped_by().is_some());
    assert_eq!(world.stopped_by(), Some(Gate::Silent));

    let mut world = World::new(400, plan(WAVES), |_| Script::Commits);
    let away: Vec<_> = world.wave(0).into_iter().take(6).collect();
    away.iter().for_each(|id| world.devices.get_mut(id).expect("there").seen.online = false);
    world.until(400, |w| w.stored.head.wave == 1);
    assert!(away.iter().all(|id| world.devices[id].begun == 0));
    away.iter().for_each(|id| world.devices.get_mut(id).expect("there").seen.online = true);
    world.until(2000, |w| w.stored.head.phase == Phase::Done);
    assert_eq!(world.count(How::Committed), 400, "those that were away had it later");
}

#[test]
fn a_usual_night_stops_nothing() {
    // One device in a hundred fails for reasons of its own, alerts come by chance, one place has a bad day.
    let script = |n: usize| if n % 100 == 42 { Script::Refuses } else { Script::Commits };
    let mut world = World::new(1000, plan(WAVES), script);
    world.devices.values_mut().enumerate().for_each(|(n, d)| d.every = 20 + (n as u64 * 37) % 400);
    let busy = world.wave(1)[0].clone();
    world.devices.get_mut(&busy).expect("there").every = 1;
    world.until(3000, |w| !w.stored.head.phase.is_open());
    assert_eq!(world.stored.head.phase, Phase::Done, "{:#?}", world.stored.head.findings);
    assert_eq!((world.count(How::Committed), world.count(How::Refused)), (990, 10));
}

#[test]
fn too_few_of_a_wave_hold_the_next() {
    let mut world = World::new(400, plan(WAVES), |_| Script::Commits);
    let first = world.wave(0);
    let away = first.len() * 2 / 3;
    first.iter().take(away).for_each(|id| world.devices.get_mut(id).expect("there").seen.online = false);
    (0..300).for_each(|_| drop(world.minute()));
    assert_eq!(world.stored.head.wave, 0);
    assert!(matches!(world.stored.head.hold, Some(Hold::Quorum { .. })), "{:?}", world.stored.head.hold);
}

#[test]
fn an_agent_that_does_not_know_the_command_counts_as_failed_after_its_attempts() {
    let mut world = World::new(400, plan(WAVES), |_| Script::Rejects);
    world.until(60, |w| w.stopped_by().is_some());
    assert_eq!(world.stopped_by(), Some(Gate::Failures));
    let words = world.stored.devices.values().find_map(|r| r.end.as_ref()?.words.clone());
    assert_eq!(words.as_deref(), Some("unknown variant `update_model`"));
}

#[test]
fn an_abort_calls_off_who_is_at_it_and_those_who_come_back_at_it() {
    let mut world = World::new(200, plan(&[100.0]), |_| Script::Hangs);
    (0..3).for_each(|_| drop(world.minute()));
    assert_eq!(world.touched(), 10, "as many as may be at it at once");
    let lost = world.devices.iter().find(|(_, d)| d.begun > 0).map(|(id, _)| id.clone()).expect("some");
    world.devices.get_mut(&lost).expect("there").seen.online = false;
    let abort = Order::Abort { why: Some("wrong labels".into()) };
    world.stored = abort.apply(world.now, "kim", &world.stored).expect("it runs");
    let mut settled = false;
    (0..5).for_each(|_| settled = world.minute().settled);
    assert!(settled && !world.stored.is_over());
    assert_eq!(world.count(How::CalledOff), 9);
    world.devices.get_mut(&lost).expect("there").seen.online = true;
    world.until(10, |w| w.stored.is_over());
    assert_eq!((world.count(How::CalledOff), world.touched()), (10, 10));
    assert!(Order::Resume.apply(world.now, "kim", &world.stored).is_err(), "aborted is final");
}

#[test]
fn a_device_that_has_it_is_not_asked_and_one_with_a_later_one_is_left_alone() {
    let mut world = World::new(40, plan(&[100.0]), |_| Script::Commits);
    for (n, (current, floor)) in [(RELEASE, RELEASE), (RELEASE + 3, RELEASE + 3)].into_iter().enumerate() {
        let seen = &mut world.devices.get_mut(&id(n)).expect("there").seen;
        (seen.current, seen.floor) = (Some(current), floor);
    }
    world.until(1000, |w| w.stored.head.phase == Phase::Done);
    assert_eq!((world.touched(), world.count(How::Committed), world.count(How::Later)), (38, 39, 1));
}

#[test]
fn an_earlier_roll_out_of_the_same_release_that_was_called_off_is_not_taken_for_this_one() {
    let mut world = World::new(1, plan(&[100.0]), |_| Script::Commits);
    let device = world.devices.get_mut(&id(0)).expect("there");
    device.begun = 1;
    device.seen.told = Some(Told {
        id: Uuid::from_u128(1),
        release: RELEASE,
        rollout: Some("r0".into()),
        state: UpdateState::Cancelled,
        reason: None,
        waiting: None,
        since: Some(START),
    });
    world.until(1000, |w| w.stored.head.phase == Phase::Done);
    assert_eq!((world.count(How::Committed), world.devices[&id(0)].begun), (1, 2));
}

#[test]
fn a_broker_that_has_forgotten_everybody_finishes_nothing() {
    let world = World::new(10, plan(WAVES), |_| Script::Commits);
    let nobody = Observations { watching_since: Some(START), devices: BTreeMap::new() };
    let next = step(after(START, 100_000), &world.stored, &nobody);
    assert_eq!((next.rollout.head.phase, next.rollout.head.hold), (Phase::Running, Some(Hold::AnyDevice)));
    let blind = Observations { watching_since: None, ..world.seen() };
    assert!(!step(after(START, 100_000), &world.stored, &blind).is_news);
}

#[derive(Debug, Clone)]
enum Op {
    /// A manager steps, stores, and sends so many of its commands before it is killed.
    Step {
        manager: bool,
        sends: usize,
    },
    /// A manager is started anew and knows nothing.
    Restart {
        manager: bool,
    },
    /// A manager hears of a device: as it is, or as it was.
    Hear {
        manager: bool,
        device: usize,
        stale: bool,
    },
    /// A manager hears of all.
    HearAll {
        manager: bool,
    },
    /// Time passes.
    Minutes(u64),
    /// A device goes or comes.
    Flip(usize),
    Pause,
    Resume,
    Abort,
}

fn op() -> impl Strategy<Value = Op> {
    let m = any::<bool>;
    prop_oneof![
        8 => (m(), 0usize..40).prop_map(|(manager, sends)| Op::Step { manager, sends }),
        6 => m().prop_map(|manager| Op::HearAll { manager }),
        4 => (m(), 0usize..40, m()).prop_map(|(manager, device, stale)| Op::Hear { manager, device, stale }),
        6 => (1u64..40).prop_map(Op::Minutes),
        2 => (0usize..40).prop_map(Op::Flip),
        1 => m().prop_map(|manager| Op::Restart { manager }),
        1 => Just(Op::Pause),
        1 => Just(Op::Resume),
        1 => Just(Op::Abort),
    ]
}

fn script() -> impl Strategy<Value = Script> {
    use Script as S;
    let bad = prop_oneof![
        Just(S::Refuses),
        Just(S::RollsBack),
        Just(S::Floods),
        Just(S::Slows),
        Just(S::Hangs),
        Just(S::Rejects)
    ];
    prop_oneof![6 => Just(S::Commits), 1 => bad]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn whatever_happens_nobody_is_offered_what_he_should_not_be(
        scripts in proptest::collection::vec(script(), 40), ops in proptest::collection::vec(op(), 1..120)
    ) {
        let mut world = World::new(40, plan(&[20.0, 60.0, 100.0]), |n| scripts[n]);
        let mut managers = [true, false].map(|_| Observations { watching_since: Some(START), ..Observations::default() });
        let mut past: Vec<(DeviceId, Seen)> = Vec::new();
        for op in ops {
            let before = world.stored.clone();
            match op {
                Op::Step { manager, sends } => {
                    let next = step(world.now, &world.stored, &managers[usize::from(manager)]);
                    let again = step(world.now, &next.rollout, &managers[usize::from(manager)]);
                    prop_assert!(!again.is_news);
                    prop_assert_eq!(&again.commands, &next.commands);
                    world.stored = next.rollout;
                    let offers = next.commands.iter().filter(|c| c.kind == CommandKind::Offer);
                    for command in offers {
                        let record = &world.stored.devices[&command.device];
                        prop_assert!(record.wave <= world.stored.head.wave, "a later wave");
                        prop_assert_eq!(&world.stored.head.phase, &Phase::Running);
                        prop_assert_eq!(record.standing(), Standing::Offered);
                    }
                    let first = |r: &Rollout| r.devices.values().filter(|r| r.offered_at.is_some()).count();
                    prop_assert!(first(&world.stored) - first(&before) <= 10, "more than may be at it at once");
                    if !before.head.phase.is_open() || !world.stored.head.phase.is_open() {
                        prop_assert_eq!(first(&world.stored), first(&before), "after its end");
                    }
                    world.deliver(&next.commands[..sends.min(next.commands.len())]);
                }
                Op::Restart { manager } => {
                    managers[usize::from(manager)] =
                        Observations { watching_since: Some(world.now), ..Observations::default() };
                }
                Op::Hear { manager, device, stale } => {
                    let heard = match past.get(device).filter(|_| stale) {
                        Some(past) => past.clone(),
                        None => (id(device), world.devices[&id(device)].seen.clone()),
                    };
                    managers[usize::from(manager)].devices.insert(heard.0, heard.1);
                }
                Op::HearAll { manager } => managers[usize::from(manager)].devices = world.seen().devices,
                Op::Minutes(n) => for _ in 0..n {
                    world.now = after(world.now, 60);
                    let now = world.now;
                    past = world.seen().devices.into_iter().collect();
                    world.devices.values_mut().for_each(|d| d.tick(now));
                },
                Op::Flip(n) => {
                    let seen = &mut world.devices.get_mut(&id(n)).expect("there").seen;
                    seen.online = !seen.online;
                }
                Op::Pause => drop(Order::Pause.apply(world.now, "p", &world.stored).map(|r| world.stored = r)),
                Op::Resume => drop(Order::Resume.apply(world.now, "p", &world.stored).map(|r| world.stored = r)),
                Op::Abort => {
                    let order = Order::Abort { why: None };
                    drop(order.apply(world.now, "p", &world.stored).map(|r| world.stored = r));
                }
            }
            let (was, is) = (&before, &world.stored);
            prop_assert!(is.head.wave >= was.head.wave, "a wave is never gone back to");
            if !was.head.phase.is_open() {
                prop_assert_eq!(&is.head.phase, &was.head.phase, "an end is an end");
            }
            for (id, record) in &was.devices {
                let now = &is.devices[id];
                prop_assert_eq!(now.wave, record.wave);
                let at = |r: &Record| r.report.as_ref().map(|r| (r.id, r.state));
                prop_assert!(at(now) >= at(record), "{id} went back from {:?} to {:?}", at(record), at(now));
                prop_assert!(now.offer.as_ref().map(|o| o.number) >= record.offer.as_ref().map(|o| o.number));
            }
        }
        // Whoever began was offered it, and is known for it.
        for (id, device) in world.devices.iter().filter(|(_, d)| d.begun > 0) {
            prop_assert!(world.stored.devices[id].offered_at.is_some());
            prop_assert!(device.done.len() <= 30);
        }
        let waves = world.stored.devices.iter().filter(|(_, r)| r.offered_at.is_some());
        prop_assert!(waves.clone().all(|(_, r)| r.wave <= world.stored.head.wave));
    }
}
