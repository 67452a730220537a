//! What footage an incident keeps: pure decisions from what is said of the incident, what video has come, and the
//! time. The worker carries them out.
//!
//! One clip for each incident: incidents that overlap each get all of their footage, and nothing is merged (what
//! belongs together is already one incident when it comes here). A clip is wanted from the incident's start less the
//! pre-roll to its end plus the post-roll; while the incident is open its end is not known, and recording goes on.
//!
//! ```text
//!                  Opened ─► open ──── Closed ────► closed ── video has reached the end ──► finish (planned)
//!                             │                       │
//!      longer than the maximum│                       │ no new video for `silence`
//!                             ▼                       ▼
//!               finish (max length)         finish (camera silent), or lost where there is none of its video
//! ```
//!
//! While an incident is open a silent camera ends nothing: it may come back, and the incident has its own rule for
//! it. Video decides by its own times, silence by the daemon's clock; the two are never compared, so that video whose
//! time is not the daemon's (a file read flat out) is cut rightly too.

use std::time::Duration;

use uuid::Uuid;

use crate::agent::config::{self, CameraId};
use crate::agent::incident::Transition;
use crate::base::clock::{Mono, Wall};

#[cfg(test)]
mod tests;

/// What is said of an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// It has begun.
    Opened,
    /// It is longer, or worse.
    Updated,
    /// It is over.
    Closed,
}

/// An incident as it stands, as far as its clip is concerned. Each order tells all, so that one that is lost is made
/// good by the next.
#[derive(Debug, Clone, PartialEq)]
pub struct ClipOrder {
    /// What happened to it.
    pub kind: OrderKind,
    /// Which.
    pub incident: Uuid,
    /// Where.
    pub camera: CameraId,
    /// Its start, presentation time.
    pub start: Mono,
    /// The label of that: every label of the clip follows from it, so that they agree with the incident's whatever the
    /// wall clock does meanwhile.
    pub label: Wall,
    /// Its end so far, presentation time.
    pub end: Mono,
    /// Highest score so far, 0 to 1; when it rises a picture is taken.
    pub peak_score: f32,
}

impl ClipOrder {
    /// Of an incident whose start has this label.
    pub fn new(transition: &Transition, label: Wall) -> Self {
        let (kind, incident) = match transition {
            Transition::Opened(i) => (OrderKind::Opened, i),
            Transition::Updated(i) => (OrderKind::Updated, i),
            Transition::Closed(i, _) => (OrderKind::Closed, i),
        };
        ClipOrder {
            kind,
            incident: incident.id,
            camera: incident.camera.clone(),
            start: incident.start,
            label,
            end: incident.end,
            peak_score: incident.peak_score,
        }
    }
}

/// The installer's wishes and the stage's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Wanted before the incident's start.
    pub pre_roll: Duration,
    /// Wanted after its end.
    pub post_roll: Duration,
    /// Clips recorded at the same time; an incident beyond that has its clip marked lost.
    pub max_open: usize,
    /// A clip ends so long after its planned start, whatever the incident does.
    pub max_length: Duration,
    /// So long without new video, after the incident closed, ends the wait for the post-roll.
    pub silence: Duration,
}

impl Rules {
    /// From the configuration. The maximum length is never in the way of an incident that keeps to its own; it bounds
    /// a clip whose incident was never said to be closed.
    pub fn new(clip: &config::Clip, incident: &config::Incident) -> Rules {
        let slack = Duration::from_secs(30);
        let tail = incident.close_after.max(incident.merge_within);
        Rules {
            pre_roll: clip.pre_roll,
            post_roll: clip.post_roll,
            max_open: 16,
            max_length: clip.pre_roll + incident.max_length + tail + clip.post_roll + slack,
            silence: Duration::from_secs(10),
        }
    }
}

/// Why a clip ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It has all that was wanted.
    Planned,
    /// The camera sent no more video.
    CameraSilent,
    /// The camera's stream changed (another size, another codec, a time that fell): one file holds one stream.
    StreamChanged,
    /// It reached the longest that a clip may be.
    MaxLength,
    /// The disk took no more.
    WriteFailed,
    /// The daemon stopped.
    Stopped,
    /// The daemon was killed, or the disk took no more, and what there was has been finished since.
    Interrupted,
}

impl Ending {
    /// One word for rows and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Ending::Planned => "planned",
            Ending::CameraSilent => "camera_silent",
            Ending::StreamChanged => "stream_changed",
            Ending::MaxLength => "max_length",
            Ending::WriteFailed => "write_failed",
            Ending::Stopped => "stopped",
            Ending::Interrupted => "interrupted",
        }
    }
}

/// The video that has come for a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Decode time of the newest unit; none before the first.
    pub newest_dts: Option<Mono>,
    /// When, by the daemon's clock, the last one was found; before the first: when the clip was ordered.
    pub last_news: Mono,
}

/// What to do with a clip now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Record,
    /// Make a file of what there is, up to the plan's end.
    Finish(Ending),
    /// There is none of its video.
    Lose,
}

/// The plan for one incident's clip.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Incident.
    pub incident: Uuid,
    /// Camera.
    pub camera: CameraId,
    /// The incident's start, presentation time.
    pub incident_start: Mono,
    /// Where the clip should start, presentation time.
    pub start: Mono,
    rules: Rules,
    end: Option<Mono>,
    /// By the daemon's clock.
    ordered_at: Mono,
    closed_at: Option<Mono>,
    peak_score: f32,
}

impl Plan {
    /// The plan for an incident that was just heard of; `now` by the daemon's clock.
    pub fn new(rules: Rules, now: Mono, order: &ClipOrder) -> Plan {
        let mut plan = Plan {
            incident: order.incident,
            camera: order.camera.clone(),
            incident_start: order.start,
            start: order.start.back(rules.pre_roll),
            rules,
            end: None,
            ordered_at: now,
            closed_at: None,
            peak_score: order.peak_score,
        };
        plan.close_if_closed(now, order);
        plan
    }

    /// Takes in what is said of the incident; true if its peak rose.
    pub fn hear(&mut self, now: Mono, order: &ClipOrder) -> bool {
        self.close_if_closed(now, order);
        let rose = order.peak_score > self.peak_score;
        self.peak_score = self.peak_score.max(order.peak_score);
        rose
    }

    fn close_if_closed(&mut self, now: Mono, order: &ClipOrder) {
        if order.kind == OrderKind::Closed && self.end.is_none() {
            let end = order.end.max(self.incident_start) + self.rules.post_roll;
            self.end = Some(end.min(self.latest_end()));
            self.closed_at = Some(now);
        }
    }

    fn latest_end(&self) -> Mono {
        self.start + self.rules.max_length
    }

    /// Where the clip ends; only the bound while the incident is open.
    pub fn end(&self) -> Mono {
        self.end.unwrap_or(self.latest_end())
    }

    /// Whether a unit decoded at `dts` is past what is wanted.
    pub fn reached_by(&self, dts: Mono) -> bool {
        dts >= self.end()
    }

    /// Whether video up to `newest_dts` reaches into what is wanted, or is only footage from before it.
    pub fn has_footage(&self, newest_dts: Option<Mono>) -> bool {
        newest_dts.is_some_and(|dts| dts >= self.start)
    }

    /// Whether a clip that has got this far is to begin anew with the next unit, which is of another stream or comes
    /// after a hole: what was taken so far is all from before the wanted time, or it is pre-roll of another stream.
    pub fn begin_anew(&self, newest_dts: Option<Mono>, next_pts: Mono, other_stream: bool) -> bool {
        !self.has_footage(newest_dts) || (other_stream && next_pts <= self.incident_start)
    }

    /// What to do, given the video that has come; `now` by the daemon's clock.
    pub fn verdict(&self, now: Mono, seen: Seen) -> Verdict {
        let reached = |end: Mono| seen.newest_dts.is_some_and(|dts| dts >= end);
        let what_there_is = |ending| match self.has_footage(seen.newest_dts) {
            true => Verdict::Finish(ending),
            false => Verdict::Lose,
        };
        match (self.end, self.closed_at) {
            (Some(end), _) if reached(end) => Verdict::Finish(Ending::Planned),
            (_, Some(closed_at)) if now.since(closed_at.max(seen.last_news)) >= self.rules.silence => {
                what_there_is(Ending::CameraSilent)
            }
            (Some(_), _) => Verdict::Record,
            (None, _) if reached(self.latest_end()) => Verdict::Finish(Ending::MaxLength),
            (None, _) if now.since(self.ordered_at) >= self.rules.max_length + self.rules.silence => {
                what_there_is(Ending::MaxLength)
            }
            (None, _) => Verdict::Record,
        }
    }

    /// What to do when the daemon stops: no more video will come.
    pub fn verdict_at_stop(&self, now: Mono, seen: Seen) -> Verdict {
        match self.verdict(now, seen) {
            Verdict::Record if self.has_footage(seen.newest_dts) => Verdict::Finish(Ending::Stopped),
            Verdict::Record => Verdict::Lose,
            decided => decided,
        }
    }
}
