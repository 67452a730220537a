//! What is sent next, or how long nothing is. Pure.
//!
//! A schedule's spans are the only time in which anything is begun; a part (S3) or a file (HTTP) that is under way is
//! finished. While the time of day is not known a schedule counts as closed: it is there to spare a line that costs.

use std::collections::BTreeMap;
use std::time::Duration;

use uuid::Uuid;

use crate::agent::config::Schedule;
use crate::agent::incident::arming::Arming;
use crate::agent::store::PendingUpload;
use crate::base::backoff::Backoff;
use crate::base::clock::{Mono, Wall};

/// How long is waited after what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// After a server was away, did not answer or said it is in trouble: from here, doubling ...
    pub away_first: Duration,
    /// ... to here.
    pub away_most: Duration,
    /// After it refused us: somebody must act, and too many tries may lock an account. From here, doubling ...
    pub refused_first: Duration,
    /// ... to here.
    pub refused_most: Duration,
    /// How often it is looked for clips.
    pub look_every: Duration,
    /// A server that takes nothing and says nothing for so long is away.
    pub stalled_after: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Pacing {
            away_first: Duration::from_secs(5),
            away_most: Duration::from_secs(600),
            refused_first: Duration::from_secs(300),
            refused_most: Duration::from_secs(6 * 3600),
            look_every: Duration::from_secs(5),
            stalled_after: Duration::from_secs(60),
        }
    }
}

/// What went wrong, by what it means for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The server is away, slow or in trouble.
    Away,
    /// The server refuses us.
    Refused,
    /// This clip will never be sent.
    Clip,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Send this one.
    Send(PendingUpload),
    /// The server is left alone until then.
    Hold(Mono),
    /// The schedule is closed.
    Closed,
    /// Nothing waits.
    Nothing,
}

/// Whether clips may be sent by the schedule.
pub(super) fn is_open(schedule: Option<&Schedule>, now: Wall, knows_time: bool) -> bool {
    match Arming::at(schedule, now, knows_time) {
        Arming::Always => true,
        Arming::TimeUnknown => false,
        Arming::Scheduled { armed, .. } | Arming::Wished { armed, .. } => armed,
    }
}

/// See the module's doc.
pub(super) struct Planner {
    away: Backoff,
    refused: Backoff,
    hold: Mono,
    /// How often each clip went wrong since the start; those that did not come first.
    tries: BTreeMap<Uuid, u32>,
}

impl Planner {
    pub(super) fn new(pacing: &Pacing) -> Planner {
        Planner {
            away: Backoff::new(pacing.away_first, pacing.away_most),
            refused: Backoff::new(pacing.refused_first, pacing.refused_most),
            hold: Mono::ZERO,
            tries: BTreeMap::new(),
        }
    }

    /// What to do now. `pending` is in the order in which it is to be sent while nothing goes wrong.
    pub(super) fn next(&self, now: Mono, open: bool, pending: &[PendingUpload]) -> Turn {
        // The first of equals: a clip that went wrong lets all others past it once.
        let Some(clip) = pending.iter().min_by_key(|p| self.tries.get(&p.incident).copied().unwrap_or(0)) else {
            return Turn::Nothing;
        };
        match () {
            () if !open => Turn::Closed,
            () if now < self.hold => Turn::Hold(self.hold),
            () => Turn::Send(clip.clone()),
        }
    }

    /// A clip was sent, or a part of one: the server takes what we send.
    pub(super) fn accepted(&mut self) {
        self.away.reset();
        self.refused.reset();
    }

    /// A clip is settled.
    pub(super) fn settled(&mut self, incident: Uuid) {
        self.tries.remove(&incident);
    }

    /// Something went wrong; how long the server is left alone now.
    pub(super) fn failed(&mut self, now: Mono, incident: Uuid, trouble: Trouble) -> Duration {
        let wait = match trouble {
            Trouble::Away => self.away.next_delay(),
            Trouble::Refused => self.refused.next_delay(),
            Trouble::Clip => {
                self.settled(incident);
                return Duration::ZERO;
            }
        };
        *self.tries.entry(incident).or_default() += 1;
        self.hold = now + wait;
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(n: u128) -> PendingUpload {
        PendingUpload {
            incident: Uuid::from_u128(n),
            path: String::new(),
            size_bytes: 1,
            sha256: String::new(),
            parts: None,
        }
    }

    const T: Mono = Mono::from_millis(1_000_000);

    #[test]
    fn a_clip_that_goes_wrong_lets_the_others_past() {
        let pending = [clip(1), clip(2), clip(3)];
        let mut planner = Planner::new(&Pacing::default());
        let mut order = Vec::new();
        let mut now = T;
        for _ in 0..6 {
            let Turn::Send(next) = planner.next(now, true, &pending) else { panic!("something waits") };
            order.push(next.incident.as_u128());
            let wait = planner.failed(now, next.incident, Trouble::Away);
            assert_eq!(planner.next(now, true, &pending), Turn::Hold(now + wait));
            now = now + wait;
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 3]);
        planner.settled(Uuid::from_u128(3));
        assert_eq!(planner.next(now, true, &pending), Turn::Send(clip(3)), "tried anew, it is a new one");
    }

    #[test]
    fn a_refusal_is_waited_out_far_longer_than_an_absence() {
        let pacing = Pacing::default();
        let mut planner = Planner::new(&pacing);
        let id = Uuid::from_u128(1);
        let away = planner.failed(T, id, Trouble::Away);
        let refused: Vec<_> = (0..12).map(|_| planner.failed(T, id, Trouble::Refused)).collect();
        assert!(away <= pacing.away_first && refused[0] >= pacing.refused_first / 2);
        assert!(refused[11] >= pacing.refused_most / 2 && refused[11] <= pacing.refused_most);
        planner.accepted();
        assert!(planner.failed(T, id, Trouble::Refused) <= pacing.refused_first);
        assert_eq!(planner.failed(T, id, Trouble::Clip), Duration::ZERO, "its own trouble holds up nobody");
    }

    #[test]
    fn outside_the_schedule_nothing_is_begun() {
        let planner = Planner::new(&Pacing::default());
        assert_eq!(planner.next(T, false, &[clip(1)]), Turn::Closed);
        assert_eq!(planner.next(T, false, &[]), Turn::Nothing);
        assert!(is_open(None, Wall::from_unix_ms(0), false), "without a schedule the time of day does not matter");
    }
}
