//! One clip under way: carries out what its plan decides, and answers for every file it makes.
//!
//! ```text
//! unrecorded ── row is durable ──► waiting ── first unit ──► recording ── verdict ──► finishing ──► done
//!     │                              │                         │  ▲ begins anew          │
//!     └──────── verdict ─────────────┴──► lost ◄── disk error ─┘  └──────────┘           └──► lost
//! ```

use std::fs;
use std::io;
use std::time::Duration;

use uuid::Uuid;

use super::mp4::finish::{Finished, Finisher};
use super::mp4::part::Part;
use super::paths::Paths;
use super::plan::{ClipOrder, Ending, OrderKind, Plan, Seen, Verdict};
use super::recovery::Leftover;
use super::worker::Wiring;
use super::{ClipError, Done, Recording, Snapshot, Unfinished};
use crate::agent::capture::AccessUnit;
use crate::agent::ring::{Cursor, SharedRing};
use crate::base::atomic_file;
use crate::base::clock::{Mono, Wall};
use crate::base::error::Chain;

/// Units taken from a ring at a time: several seconds, so that a pre-roll costs few fragments.
const BATCH_UNITS: usize = 256;
/// Batches in one round: others wait meanwhile.
const BATCHES: usize = 4;
/// Copied in one round when a clip is finished.
const COPY_BYTES: usize = 16 << 20;
/// At most one picture of an incident in so long, and one attempt at its row.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

const FOOTAGE_GONE: &str = "its footage had left the ring before it was recorded";

/// How a clip ended, to be told to the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Done(Done),
    /// It is not.
    Lost {
        /// Whose it was.
        incident: Uuid,
        /// For a person.
        reason: String,
    },
}

/// Whether more video can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    Running,
    /// No: the daemon stops, cut the clips short.
    Stopping,
}

/// What became of a clip in one round.
pub enum Advanced {
    /// Nothing to do before more video comes.
    Waiting,
    /// There is more to do at once.
    Busy,
    /// It is over.
    Over(Outcome),
}

enum Phase {
    Unrecorded { retry_at: Mono },
    Waiting,
    Recording(Box<Part>),
    Finishing { finisher: Box<Finisher>, first_pts: Mono, ending: Ending },
}

/// See the module's documentation.
pub struct Job {
    plan: Plan,
    ring: SharedRing,
    cursor: Cursor,
    seen: Seen,
    /// Wall label of the incident's start; every other label of this clip follows from it.
    label: Wall,
    paths: Paths,
    phase: Phase,
    units_lost: u64,
    peak: Option<Snapshot>,
    peak_wanted: bool,
    peak_asked: Option<Mono>,
}

impl Job {
    /// For an incident just heard of. Nothing is written yet; the place in the ring is taken now.
    pub fn new(wiring: &Wiring, ring: SharedRing, order: &ClipOrder) -> Job {
        let now = wiring.clock.now();
        let plan = Plan::new(wiring.rules_now(), now, order);
        let label = order.label;
        let mut job = Job {
            cursor: ring.locate(plan.start).map_or(ring.end(), |found| found.cursor),
            seen: Seen { newest_dts: None, last_news: now },
            paths: Paths::new(&wiring.state_dir, &order.camera, order.incident, label),
            phase: Phase::Unrecorded { retry_at: now },
            units_lost: 0,
            peak: None,
            peak_wanted: true,
            peak_asked: None,
            plan,
            ring,
            label,
        };
        job.take_peak(wiring, now);
        job
    }

    /// Whose clip it is.
    pub fn incident(&self) -> Uuid {
        self.plan.incident
    }

    /// What is left on the disk of a clip that was lost, if there is footage in it.
    pub fn leftover(&self) -> Option<Leftover> {
        let unfinished = Unfinished {
            incident: self.plan.incident,
            camera: self.plan.camera.clone(),
            path: self.paths.clip_below(),
            incident_start: self.label,
            lost: true,
        };
        self.paths.part().exists().then(|| Leftover { paths: self.paths.clone(), row: Some(unfinished) })
    }

    /// Takes in what is said of the incident.
    pub fn hear(&mut self, wiring: &Wiring, order: &ClipOrder) {
        let now = wiring.clock.now();
        self.peak_wanted |= self.plan.hear(now, order);
        // When it is over, what the camera shows is no longer its peak; better that than nothing.
        self.peak_wanted &= order.kind != OrderKind::Closed || self.peak.is_none();
        self.take_peak(wiring, now);
    }

    /// Does what can be done now.
    pub fn advance(&mut self, wiring: &Wiring, mode: Mode) -> Advanced {
        let now = wiring.clock.now();
        self.take_peak(wiring, now);
        match self.try_advance(wiring, now, mode) {
            Ok(advanced) => advanced,
            Err(e) => {
                let reason = Chain(&e).to_string();
                self.lose(reason)
            }
        }
    }

    fn try_advance(&mut self, wiring: &Wiring, now: Mono, mode: Mode) -> Result<Advanced, ClipError> {
        if let Phase::Unrecorded { retry_at } = self.phase {
            if now >= retry_at {
                self.record_row(wiring, now);
            }
            if matches!(self.phase, Phase::Unrecorded { .. }) {
                // Without its row nothing is written; the ring holds the footage for as long as it can.
                return Ok(match (mode, self.plan.verdict(now, self.seen)) {
                    (Mode::Running, Verdict::Record) => Advanced::Waiting,
                    _ => self.lose("the store did not take its row".into()),
                });
            }
        }
        if let Phase::Finishing { .. } = self.phase {
            return self.copy();
        }
        let ending = match self.follow(now)? {
            Some(ending) => Verdict::Finish(ending),
            None if self.seen_all() => match mode {
                Mode::Running => self.plan.verdict(now, self.seen),
                Mode::Stopping => self.plan.verdict_at_stop(now, self.seen),
            },
            None => return Ok(Advanced::Busy),
        };
        match ending {
            Verdict::Record => Ok(Advanced::Waiting),
            Verdict::Lose => {
                self.drop_part();
                Ok(self.lose("no video from the camera".into()))
            }
            Verdict::Finish(ending) => self.finish(ending),
        }
    }

    fn record_row(&mut self, wiring: &Wiring, now: Mono) {
        let row = Recording {
            incident: self.plan.incident,
            camera: self.plan.camera.clone(),
            planned_start: self.label_of(self.plan.start),
            path: self.paths.clip_below(),
        };
        match wiring.ledger.recording(&row) {
            Ok(()) => self.phase = Phase::Waiting,
            Err(e) => {
                log::warn!(camera = self.plan.camera.to_string().as_str(); "{}", Chain(&e));
                self.phase = Phase::Unrecorded { retry_at: now + AGAIN_AFTER };
            }
        }
    }

    /// Takes what the ring has; the ending that the video itself brought, if it did.
    fn follow(&mut self, now: Mono) -> Result<Option<Ending>, ClipError> {
        for _ in 0..BATCHES {
            let batch = self.ring.read(self.cursor, BATCH_UNITS);
            self.cursor = batch.next;
            let mut after_hole = batch.lost > 0;
            if matches!(self.phase, Phase::Recording(_)) {
                self.units_lost += batch.lost;
            }
            if batch.units.is_empty() {
                break;
            }
            self.seen.last_news = now;
            for unit in batch.units {
                if self.plan.reached_by(unit.dts) {
                    self.seen.newest_dts = Some(unit.dts);
                    return Ok(None);
                }
                after_hole |= unit.discontinuity;
                if let Some(ending) = self.take(unit, after_hole)? {
                    return Ok(Some(ending));
                }
                after_hole = false;
            }
            if let Phase::Recording(part) = &mut self.phase
                && let Err(e) = part.write_ready()
            {
                let fragments = part.fragments();
                return self.cut_short(e, fragments).map(Some);
            }
        }
        Ok(None)
    }

    /// After a failed write: what is on the disk already is worth trying to keep.
    fn cut_short(&self, error: ClipError, fragments: u32) -> Result<Ending, ClipError> {
        if fragments == 0 {
            return Err(error);
        }
        log::error!(camera = self.plan.camera.to_string().as_str(); "clip cut short: {}", Chain(&error));
        Ok(Ending::WriteFailed)
    }

    fn take(&mut self, unit: AccessUnit, after_hole: bool) -> Result<Option<Ending>, ClipError> {
        if let Phase::Recording(part) = &self.phase {
            let other_stream = !part.takes(&unit.stream);
            // A file has one time line only.
            let time_fell = self.seen.newest_dts.is_some_and(|dts| unit.dts < dts);
            let broken = after_hole || other_stream || time_fell;
            if broken && self.plan.begin_anew(self.seen.newest_dts, unit.pts, other_stream && !time_fell) {
                self.units_lost = 0;
                self.phase = Phase::Waiting;
            } else if other_stream || time_fell {
                return Ok(Some(Ending::StreamChanged));
            }
        }
        if let Phase::Waiting = self.phase {
            let part = match self.begin_part(&unit) {
                // The store removes directories that it has emptied; this one was empty until now.
                Err(ClipError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    self.begin_part(&unit)?
                }
                begun => begun?,
            };
            self.phase = Phase::Recording(Box::new(part));
        }
        self.seen.newest_dts = Some(unit.dts);
        if let Phase::Recording(part) = &mut self.phase {
            part.push(unit);
        }
        Ok(None)
    }

    fn begin_part(&self, first: &AccessUnit) -> Result<Part, ClipError> {
        let path = self.paths.part();
        self.paths.make_directory().map_err(|e| ClipError::io("make the directory of", &path, e))?;
        Part::create(&path, first, self.label_of(first.pts))
    }

    /// Whether nothing in the ring is unread, or nothing unread is wanted.
    fn seen_all(&self) -> bool {
        self.cursor >= self.ring.end() || self.seen.newest_dts.is_some_and(|dts| self.plan.reached_by(dts))
    }

    fn finish(&mut self, ending: Ending) -> Result<Advanced, ClipError> {
        let Phase::Recording(part) = &mut self.phase else {
            return Ok(self.lose(FOOTAGE_GONE.into()));
        };
        let written = if ending == Ending::WriteFailed { Ok(()) } else { part.write_rest() };
        let (fragments, first_pts, until) = (part.fragments(), part.first_pts(), part.ticks(self.plan.end()));
        let ending = match written {
            Ok(()) => ending,
            Err(e) => self.cut_short(e, fragments)?,
        };
        let finisher = match Finisher::begin(&self.paths.part(), &self.paths.clip(), Some(until)) {
            Err(ClipError::Empty { .. }) => {
                // All of it is from after the end, which was not known when it came.
                self.drop_part();
                return Ok(self.lose(FOOTAGE_GONE.into()));
            }
            begun => begun?,
        };
        self.phase = Phase::Finishing { finisher: Box::new(finisher), first_pts, ending };
        Ok(Advanced::Busy)
    }

    fn copy(&mut self) -> Result<Advanced, ClipError> {
        let Phase::Finishing { finisher, first_pts, ending } = &mut self.phase else { return Ok(Advanced::Waiting) };
        let (first_pts, ending) = (*first_pts, *ending);
        match finisher.step(COPY_BYTES)? {
            None => Ok(Advanced::Busy),
            Some(finished) => Ok(Advanced::Over(Outcome::Done(self.done(finished, first_pts, ending)))),
        }
    }

    fn done(&mut self, finished: Finished, start: Mono, ending: Ending) -> Done {
        let (event, start_ms) = (self.plan.incident_start.as_millis() as i64, start.as_millis() as i64);
        let (jpeg, thumbnail) = self.peak.take().map(|peak| (peak.jpeg, peak.thumbnail)).unzip();
        let peak_jpeg_path = jpeg.and_then(|bytes| match atomic_file::write(&self.paths.jpeg(), &bytes) {
            Ok(()) => Some(self.paths.jpeg_below()),
            Err(e) => {
                log::warn!("could not write {}: {e}", self.paths.jpeg().display());
                None
            }
        });
        Done {
            incident: self.plan.incident,
            camera: self.plan.camera.clone(),
            path: self.paths.clip_below(),
            start: self.label_of(start),
            duration_ms: finished.duration_ms,
            event_offset_ms: event - start_ms,
            size_bytes: finished.size_bytes,
            sha256: finished.sha256,
            peak_jpeg_path,
            thumbnail: thumbnail.flatten(),
            ending,
            units_lost: self.units_lost,
        }
    }

    /// Gives the clip up. A `.part` that holds nothing goes; one with whole fragments is left to the recovery.
    fn lose(&mut self, reason: String) -> Advanced {
        if matches!(&self.phase, Phase::Recording(part) if part.fragments() == 0) {
            self.drop_part();
        }
        Advanced::Over(Outcome::Lost { incident: self.plan.incident, reason })
    }

    /// Removes the `.part`, if there is one: nothing in it is wanted.
    fn drop_part(&mut self) {
        if let Phase::Recording(_) = self.phase
            && let Err(e) = fs::remove_file(self.paths.part())
        {
            log::debug!("could not remove {}: {e}", self.paths.part().display());
        }
        self.phase = Phase::Waiting;
    }

    fn take_peak(&mut self, wiring: &Wiring, now: Mono) {
        let too_soon = self.peak_asked.is_some_and(|asked| now.since(asked) < AGAIN_AFTER);
        if self.peak_wanted && !too_soon {
            self.peak_asked = Some(now);
            if let Some(snapshot) = wiring.snapshots.latest(&self.plan.camera) {
                (self.peak, self.peak_wanted) = (Some(snapshot), false);
            }
        }
    }

    /// The wall label of a presentation time of this clip.
    fn label_of(&self, at: Mono) -> Wall {
        let start = self.plan.incident_start;
        if at >= start { self.label + at.since(start) } else { self.label - start.since(at) }
    }
}
