//! The incident stage's thread: evidence in, transitions out to the store and the clip stage.
//!
//! Order for each transition: store first (row and alert, one transaction), then clip; neither may hold up
//! evidence, so both are queues that are never waited for. A record that the store refuses is counted and logged
//! there; a clip order that is refused marks the clip lost.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use uuid::Uuid;

use super::events::{Event, Events};
use super::health::Health;
use crate::agent::clip::ClipOrder;
use crate::agent::config::{self, CameraId};
use crate::agent::control::Incidents;
use crate::agent::incident::{self, Incident, Input, Machine, Thresholds, Transition};
use crate::agent::infer::Score;
use crate::agent::store::{ClipIntent, IncidentRecord, Store, Times};
use crate::base::clock::{Clock, Mono};
use crate::base::progress::Beat;
use crate::base::queue::{Full, Popped, Queue};

/// Scores of one camera that may wait; a newer one replaces the oldest.
const SCORES_PER_CAMERA: usize = 8;
/// The machine's clock tick while nothing comes: incidents close within this of their time.
const TICK: Duration = Duration::from_millis(200);
/// How long a person who raises a test waits for the incident to open.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What comes into the incident stage.
pub enum Work {
    /// A window's score.
    Score(Score),
    /// A camera is gone; what is open on it closes.
    CameraLost(CameraId),
    /// A test, and where its id goes.
    Test(CameraId, mpsc::SyncSender<Uuid>),
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
        let (answer, answered) = mpsc::sync_channel(1);
        self.push(Work::Test(camera.clone(), answer));
        answered
            .recv_timeout(ANSWER_WITHIN)
            .map_err(|_| "the incident stage did not answer; the device is stopping or overloaded".into())
    }
}

/// The stage: everything it needs, and [`Worker::run`].
pub struct Worker {
    /// Decides.
    pub machine: Machine,
    /// What comes in.
    pub inbox: Inbox,
    /// Where transitions become durable.
    pub store: Store,
    /// Where footage is ordered.
    pub clips: Queue<ClipOrder>,
    /// `[clip]`
    pub clip: config::Clip,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who watches.
    pub events: Events,
    /// Counts.
    pub health: Arc<Health>,
}

impl Worker {
    /// Runs until the inbox is closed and empty, then closes what is open.
    pub fn run(mut self, beat: &Beat) {
        loop {
            beat.beat();
            match self.inbox.0.pop(TICK) {
                Popped::Item(work) => self.take(work),
                Popped::TimedOut => {
                    self.step(Input::Tick);
                }
                Popped::Closed => break,
            }
        }
        self.step(Input::Stop);
        beat.end();
    }

    fn take(&mut self, work: Work) {
        match work {
            Work::Score(score) => {
                self.step(Input::Score(score));
            }
            Work::CameraLost(camera) => {
                self.step(Input::CameraLost { camera });
            }
            Work::Test(camera, answer) => {
                let opened = self.step(Input::Test { camera });
                if let Some(id) = opened
                    && answer.send(id).is_err()
                {
                    log::debug!("incident: nobody waits for the test's id any more");
                }
            }
            Work::Reconfigure(settings) => {
                self.clip = settings.clip;
                self.machine.reconfigure(settings.incident, settings.thresholds);
            }
        }
    }

    /// One step of the machine; the id of an incident that it opened.
    fn step(&mut self, input: Input) -> Option<Uuid> {
        let now = self.clock.now();
        let mut opened = None;
        let clock = Arc::clone(&self.clock);
        for transition in self.machine.step(now, input, &mut || incident::new_id(clock.wall())) {
            if let Transition::Opened(incident) = &transition {
                opened = Some(incident.id);
                self.health.incident_opened(&incident.camera);
            }
            self.carry_out(now, transition);
        }
        opened
    }

    fn carry_out(&mut self, now: Mono, transition: Transition) {
        tell(&transition);
        let incident = transition.incident();
        let planned_start = incident.start.back(self.clip.pre_roll);
        let order = ClipOrder::from(&transition);
        let label = |t: Mono| self.clock.wall_at(t);
        let times = Times {
            start: label(incident.start),
            end: label(incident.end),
            peak: label(incident.peak_at),
            event: label(if matches!(transition, Transition::Opened(_)) { incident.end } else { now }),
        };
        let id = incident.id;
        let clip = ClipIntent::Planned { start: label(planned_start) };
        self.events.announce(Event::Incident(Arc::new(transition.clone())));
        let opens = matches!(transition, Transition::Opened(_));
        // What the store could not take it has counted and logged; the volatile path of DESIGN section 6 starts here.
        let recorded = self.store.record(IncidentRecord { transition, times, clip }).is_ok();
        // A later order tells all that an earlier one did; only the one that opens the clip must not be missed.
        if self.clips.push(order).is_err() && opens && recorded {
            let why = "too many clips were being recorded at once";
            if let Err(e) = self.store.clip_lost(id, why) {
                log::error!("incident {id}: {why}, and that could not be stored: {}", crate::base::error::Chain(&e));
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
