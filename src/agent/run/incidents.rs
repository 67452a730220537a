//! The incident stage's thread: evidence in, transitions out to the store and the clip stage.
//!
//! Order for each transition: store first (row and alert, one transaction), then clip; neither may hold up
//! evidence, so both are queues that are never waited for. A record that the store refuses is counted and logged
//! there; an incident that opens while the clip stage's queue is full is stored with its clip marked lost.
//!
//! Labels: an incident's start is labelled by the wall clock as it stands when it opens, and all its other times
//! and its clip's from there, so that a clock that is stepped in the middle changes neither order nor durations. What
//! the clock was worth at that moment goes with them.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use uuid::Uuid;

use super::events::{Event, Events};
use super::health::Health;
use super::serving::InUse;
use crate::agent::clip::ClipOrder;
use crate::agent::config::{self, CameraId, Schedule};
use crate::agent::control::{ArmingWish, Incidents};
use crate::agent::incident::arming::Arming;
use crate::agent::incident::{self, EvidenceSource, Incident, Input, Machine, Thresholds, Transition};
use crate::agent::infer::Score;
use crate::agent::store::{ClipIntent, IncidentRecord, Store, Times};
use crate::base::clock::{Clock, Mono, Wall};
use crate::base::progress::Beat;
use crate::base::queue::{Full, Popped, PushError, Queue};
use crate::contract::alert::ClockState;
use crate::contract::heartbeat::HealthSource;

/// Scores of one camera that may wait; a newer one replaces the oldest.
const SCORES_PER_CAMERA: usize = 8;
/// Schedules are looked at so often.
const LOOK_AT_SCHEDULES: Duration = Duration::from_secs(1);
/// The machine's clock tick: what closes by the clock closes within this of its time.
const TICK: Duration = Duration::from_millis(200);
/// Test incidents open at the same time; more are refused.
const MOST_TESTS: usize = 8;
/// How long a person who raises a test waits for the incident to open.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Where an id goes, or why there is none.
type Answer = mpsc::SyncSender<Result<Uuid, String>>;

/// What comes into the incident stage.
pub enum Work {
    /// A window's score.
    Score(Score),
    /// A camera is gone; what is open on it closes.
    CameraLost(CameraId),
    /// A test, unless whoever asked has given up; and where its id, or the reason that there is none, goes.
    Test(CameraId, Arc<AtomicBool>, Answer),
    /// Footage of a time, likewise.
    Clip(CameraId, (Wall, Wall), Arc<AtomicBool>, Answer),
    /// Another model's scores come from here on.
    Model(Box<InUse>),
    /// New settings, in force from here on.
    Reconfigure(Box<Settings>),
}

/// What can be changed while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[incident]`
    pub incident: config::Incident,
    /// `[clip]`
    pub clip: config::Clip,
    /// The model's thresholds, and each camera's own.
    pub thresholds: Thresholds,
    /// By which incidents open; a camera without one is always armed.
    pub schedules: HashMap<CameraId, Schedule>,
    /// What stands instead of them.
    pub wishes: HashMap<CameraId, ArmingWish>,
}

/// The way into the incident stage.
#[derive(Clone)]
pub struct Inbox(Queue<Work>);

impl Default for Inbox {
    fn default() -> Self {
        // Only scores are replaced by newer ones; the rest is rare and never dropped.
        Inbox(Queue::new(
            SCORES_PER_CAMERA,
            Full::DropOldestOfKey(|a, b| matches!((a, b), (Work::Score(a), Work::Score(b)) if a.camera == b.camera)),
        ))
    }
}

impl Inbox {
    /// Hands in work; after the close there is nobody to take it.
    pub fn push(&self, work: Work) {
        if self.0.push(work).is_err() {
            log::debug!("incident: work after the end is ignored");
        }
    }

    /// No more work comes: open incidents close and the stage ends.
    pub fn close(&self) {
        self.0.close();
    }

    /// Scores replaced by newer ones.
    pub fn dropped(&self) -> u64 {
        self.0.dropped()
    }
}

impl Incidents for Inbox {
    fn raise_test(&self, camera: &CameraId) -> Result<Uuid, String> {
        self.ask(|given_up, answer| Work::Test(camera.clone(), given_up, answer))
    }

    fn request_clip(&self, camera: &CameraId, from: Wall, to: Wall) -> Result<Uuid, String> {
        self.ask(|given_up, answer| Work::Clip(camera.clone(), (from, to), given_up, answer))
    }
}

impl Inbox {
    fn ask(&self, work: impl FnOnce(Arc<AtomicBool>, Answer) -> Work) -> Result<Uuid, String> {
        let (answer, answered) = mpsc::sync_channel(1);
        let given_up = Arc::new(AtomicBool::new(false));
        self.push(work(given_up.clone(), answer));
        answered.recv_timeout(ANSWER_WITHIN).unwrap_or_else(|_| {
            given_up.store(true, Ordering::Release);
            Err("the incident stage did not answer; the device is stopping or overloaded".into())
        })
    }
}

/// What the stage works with.
pub struct Parts {
    /// Decides.
    pub machine: Machine,
    /// What comes in.
    pub inbox: Inbox,
    /// Where transitions become durable.
    pub store: Store,
    /// Where footage is ordered; nobody else puts orders in.
    pub clips: Queue<ClipOrder>,
    /// How many orders that queue holds.
    pub most_clip_orders: usize,
    /// `[clip]`
    pub clip: config::Clip,
    /// When incidents open.
    pub schedules: HashMap<CameraId, Schedule>,
    /// What stands instead of that.
    pub wishes: HashMap<CameraId, ArmingWish>,
    /// The longest incident, and so the longest footage that may be asked for.
    pub longest_request: Duration,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who watches.
    pub events: Events,
    /// Counts.
    pub health: Arc<Health>,
}

/// The stage.
pub struct Worker {
    parts: Parts,
    ticked: Mono,
    schedules_seen: Option<Mono>,
    /// Orders that the clip stage has not taken yet.
    orders: VecDeque<ClipOrder>,
    /// Wall label of the start of each open incident, and what the clock was worth then.
    labels: HashMap<Uuid, (Wall, ClockState)>,
}

impl Worker {
    /// A stage that has seen nothing yet.
    pub fn new(parts: Parts) -> Self {
        Worker { parts, ticked: Mono::ZERO, schedules_seen: None, orders: VecDeque::new(), labels: HashMap::new() }
    }

    /// Runs until the inbox is closed and empty, then closes what is open.
    pub fn run(mut self, beat: &Beat) {
        while self.round().is_continue() {
            beat.beat();
        }
        self.step(Input::Stop);
        beat.end();
    }

    /// Waits for work and does it; a break: none will come.
    fn round(&mut self) -> ControlFlow<()> {
        self.look_at_schedules();
        match self.parts.inbox.0.pop(TICK) {
            Popped::Item(work) => self.take(work),
            Popped::TimedOut => {}
            Popped::Closed => return ControlFlow::Break(()),
        }
        // Also while scores never stop coming: tests close by the clock.
        let now = self.parts.clock.now();
        if now.since(self.ticked) >= TICK {
            self.ticked = now;
            self.step(Input::Tick);
        }
        ControlFlow::Continue(())
    }

    /// Arms and disarms cameras.
    fn look_at_schedules(&mut self) {
        let now = self.parts.clock.now();
        if self.schedules_seen.is_some_and(|seen| now.since(seen) < LOOK_AT_SCHEDULES) {
            return;
        }
        self.schedules_seen = Some(now);
        let Parts { machine, schedules, wishes, health, clock, .. } = &mut self.parts;
        let (wall, knows_time) = (clock.wall(), health.knows_time_of_day());
        for camera in health.camera_ids() {
            let wish = wishes.get(camera).map(|w| (w.armed, w.until));
            let arming = Arming::with_wish(wish, schedules.get(camera), wall, knows_time);
            machine.arm(camera, arming.is_armed());
            health.armed(camera, arming);
        }
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Score(score) => {
                self.step(Input::Score(score));
            }
            Work::CameraLost(camera) => {
                self.step(Input::CameraLost { camera });
            }
            Work::Test(_, given_up, _) if given_up.load(Ordering::Acquire) => {}
            Work::Test(camera, _, answer) => {
                let result = if self.parts.machine.open().filter(|i| i.source == EvidenceSource::Test).count()
                    >= MOST_TESTS
                {
                    Err(format!("{MOST_TESTS} test incidents are open already; they close by themselves in seconds"))
                } else {
                    self.step(Input::Test { camera }).unwrap_or_else(|| Err("no test incident was opened".into()))
                };
                if answer.send(result).is_err() {
                    log::debug!("incident: nobody waits for the test's id any more");
                }
            }
            Work::Clip(_, _, given_up, _) if given_up.load(Ordering::Acquire) => {}
            Work::Clip(camera, span, _, answer) => {
                if answer.send(self.requested(camera, span)).is_err() {
                    log::debug!("incident: nobody waits for the clip's id any more");
                }
            }
            Work::Model(model) => {
                let InUse { reference, manifest } = *model;
                self.parts.machine.serve(reference, manifest.classes.clone(), manifest.thresholds.clone());
            }
            Work::Reconfigure(settings) => {
                self.parts.clip = settings.clip;
                self.parts.schedules = settings.schedules;
                self.parts.wishes = settings.wishes;
                self.parts.longest_request = settings.incident.max_length;
                self.schedules_seen = None;
                self.parts.machine.reconfigure(settings.incident, settings.thresholds);
            }
        }
    }

    /// Orders the footage of a time that is past, as an incident that was over before it began.
    fn requested(&mut self, camera: CameraId, (from, to): (Wall, Wall)) -> Result<Uuid, String> {
        let (now, wall) = (self.parts.clock.now(), self.parts.clock.wall());
        let ago = |t: Wall| u64::try_from(wall.unix_ms().saturating_sub(t.unix_ms())).map(Duration::from_millis);
        let (Ok(begins), Ok(ends)) = (ago(from), ago(to)) else {
            return Err(format!("it is {} here: footage of the future cannot be had", wall.rfc3339()));
        };
        let most = self.parts.longest_request;
        if from >= to || begins - ends > most {
            return Err(format!(
                "from must be before to, and at most {} s before (incident.max_length_s)",
                most.as_secs()
            ));
        }
        if begins > now.since(Mono::ZERO) {
            return Err("that was before this device was started".into());
        }
        let id = incident::new_id(wall);
        let (start, end) = (now.before(begins), now.before(ends));
        let footage = Incident::requested(id, camera, start, end);
        self.carry_out(Transition::Opened(footage.clone()))?;
        self.carry_out(Transition::Closed(footage, incident::CloseReason::Requested))?;
        self.order_what_waits();
        Ok(id)
    }

    /// One step of the machine; the id of an incident that it opened, or why that could not be stored.
    fn step(&mut self, input: Input) -> Option<Result<Uuid, String>> {
        let now = self.parts.clock.now();
        let mut opened = None;
        let clock = Arc::clone(&self.parts.clock);
        for transition in self.parts.machine.step(now, input, &mut || incident::new_id(clock.wall())) {
            let id = transition.incident().id;
            let opens = matches!(transition, Transition::Opened(_));
            if opens {
                self.parts.health.incident_opened(&transition.incident().camera);
                if transition.incident().source == EvidenceSource::Classifier {
                    self.parts.health.incident_seen();
                }
            }
            let recorded = self.carry_out(transition);
            if opens {
                opened = Some(recorded.map(|()| id));
            }
        }
        self.parts.health.machine(self.parts.machine.counters());
        self.order_what_waits();
        opened
    }

    fn carry_out(&mut self, transition: Transition) -> Result<(), String> {
        tell(&transition);
        let incident = transition.incident();
        let parts = &self.parts;
        let now = || (parts.clock.wall_at(incident.start), parts.health.clock());
        let (start, clock) = *self.labels.entry(incident.id).or_insert_with(now);
        let label = |t: Mono| start + t.since(incident.start);
        let times =
            Times { start, end: label(incident.end), peak: label(incident.peak_at), event: label(incident.end), clock };
        // Nobody else puts orders in, so what has room now is not refused below.
        let clip = if self.parts.clips.len() < self.parts.most_clip_orders {
            ClipIntent::Planned { start: start - self.parts.clip.pre_roll }
        } else {
            ClipIntent::Lost { because: "too many clips were being recorded at once".into() }
        };
        let order = ClipOrder::new(&transition, start);
        match &transition {
            Transition::Opened(_) if matches!(clip, ClipIntent::Lost { .. }) => {}
            _ => self.orders.push_back(order),
        }
        if let Transition::Closed(incident, _) = &transition {
            self.labels.remove(&incident.id);
        }
        self.parts.events.announce(Event::Incident(Arc::new(transition.clone())));
        // What the store could not take it has counted and logged; the volatile path of DESIGN section 6 starts here.
        self.parts.store.record(IncidentRecord { transition, times, clip }).map_err(|e| e.to_string())
    }

    /// Hands the clip stage its orders. One that is refused waits here: an incident's last order must reach it.
    fn order_what_waits(&mut self) {
        while let Some(order) = self.orders.pop_front() {
            match self.parts.clips.push(order) {
                Ok(()) => {}
                Err(PushError::Full(order)) => {
                    self.orders.push_front(order);
                    return;
                }
                Err(PushError::Closed(_)) => return,
            }
        }
    }
}

fn tell(transition: &Transition) {
    let Incident { id, camera, class, peak_score, .. } = transition.incident();
    match transition {
        Transition::Opened(_) => {
            log::warn!(incident:% = id, camera:% = camera, class = class.as_str(); "incident {id} opened on {camera}: {class}, score {peak_score:.2}");
        }
        Transition::Updated(_) => {
            log::info!(incident:% = id, camera:% = camera, class = class.as_str(); "incident {id} on {camera}: {class}, score {peak_score:.2}");
        }
        Transition::Closed(_, why) => {
            log::warn!(incident:% = id, camera:% = camera, class = class.as_str(); "incident {id} on {camera} closed ({why:?}): {class}, peak score {peak_score:.2}");
        }
    }
}

#[cfg(test)]
mod tests;
