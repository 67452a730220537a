//! Which row goes next: the pure core of the pump.
//!
//! ```text
//!     outbox   1 ........ boundary │ boundary+1 ......►
//!              backlog lane        │ live lane
//!              replayed: true      │ replayed: false
//!
//!     backlog row ─► in flight ─► delivered ─► marked (by the pump)
//!                        │
//!                        ├─ nobody / refused ─► its topic is held: backlog of that topic waits, one row probes
//!                        │                      after a growing delay; success lifts the hold and rewinds
//!                        └─ unfit ─► the row alone is set aside for ten minutes
//! ```
//!
//! A broker that ends the connection over a message does not say which it was. The next connection then sends
//! [carefully](Lanes::carefully), one row at a time: the row over which it ends again is known, and set aside.
//!
//! The boundary is the newest row at the time of the connection. Live rows go first and are each tried once
//! even where the topic is held, so that news never waits for history; the backlog never fills the window, and
//! takes no more of it than the line answers promptly: a live row waits behind no more than that. But nothing of an
//! incident overtakes what comes before it: a row whose incident still has one to go joins the backlog, behind that.
//!
//! Invariants: a row is in flight at most once; never more than [`WINDOW`] rows are in flight, nor more than
//! [`BACKLOG_MOST`] of the backlog; a row that was delivered is not offered again; every other pending row
//! is offered again some time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use crate::base::backoff::Backoff;
use crate::base::clock::Mono;
use crate::contract::outbox::OutboxRow;

/// Most rows in flight.
pub(super) const WINDOW: usize = BACKLOG_MOST + 8;
/// Rows of the backlog in flight on a line that is slow, or not known yet.
const BACKLOG_FIRST: usize = 8;
/// Rows of the backlog in flight on a line that answers them promptly.
const BACKLOG_MOST: usize = 128;
/// A line that answers a row of the backlog within this, or within twice what it took at its best, can carry more of them
/// at a time; one that doesn't, fewer.
const PROMPT: Duration = Duration::from_millis(200);
/// Rows that went out live and are remembered, for rows that were read before their mark was made.
const REMEMBERED: usize = 256;

const NOBODY_FIRST: Duration = Duration::from_secs(1);
const NOBODY_MOST: Duration = Duration::from_secs(30);
const REFUSED_FIRST: Duration = Duration::from_secs(5);
const REFUSED_MOST: Duration = Duration::from_secs(300);
pub(super) const UNFIT_FOR: Duration = Duration::from_secs(600);
/// A live row that waits for longer than this, give or take [`ARRIVALS_EVERY`], is history too.
const NEWS_FOR: Duration = Duration::from_secs(30);
const ARRIVALS_EVERY: Duration = Duration::from_secs(1);
/// Rows looked at in one fetch where many have to be passed over.
const PASS_OVER: usize = 64;

/// Which part of the outbox a row was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Committed since the connection.
    Live,
    /// Committed before it, or tried in vain since.
    Backlog,
}

/// What to read from the outbox next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fetch {
    pub(super) lane: Lane,
    pub(super) from: u64,
    pub(super) limit: usize,
}

/// What became of a row that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The broker has it and somebody gets it.
    Delivered,
    /// The broker acknowledged and threw it away: nobody subscribes to the topic.
    Nobody,
    /// The broker does not take messages on this topic now.
    Refused,
    /// The broker does not take this message.
    Unfit,
}

/// What the pump tells people about an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Nothing that was not said before.
    None,
    /// The topic is held from now on.
    Held,
    /// The topic is open again.
    Lifted,
    /// The row was set aside.
    SetAside,
}

#[derive(Debug)]
struct InFlight {
    row: OutboxRow,
    lane: Lane,
    since: Mono,
}

#[derive(Debug)]
struct Hold {
    /// A row that was sent in vain, and will be again to see whether the topic is open.
    probe: OutboxRow,
    /// The lowest row of the topic that was sent in vain or passed over: where to go on when it is open.
    lowest: u64,
    probing: bool,
    until: Mono,
    delays: Backoff,
}

/// The state of the pump in one connection.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The newest row when the connection was made.
    newest_before: u64,
    boundary: u64,
    live_from: u64,
    live_dry: bool,
    /// Which row was the newest and when, oldest first: by the clock that nobody sets.
    arrivals: VecDeque<(u64, Mono)>,
    /// Live rows up to this have waited for too long to be news.
    stale: u64,
    backlog_from: u64,
    backlog_dry: bool,
    in_flight: BTreeMap<u64, InFlight>,
    /// By camera, which is by topic.
    held: BTreeMap<String, Hold>,
    /// Rows set aside and until when.
    unfit: BTreeMap<u64, Mono>,
    /// Rows of the backlog that the line carries at a time, by what it has shown: how fast it was at its best, and when
    /// it was found too slow last.
    backlog_window: usize,
    quickest: Duration,
    slowed: Mono,
    /// The last that went out live and were delivered.
    gone: BTreeSet<u64>,
    /// So many rows yet are sent one at a time.
    careful: usize,
}

impl Lanes {
    /// A new connection; `newest` is the newest row of the outbox now.
    pub(super) fn new(newest: u64) -> Self {
        Lanes {
            newest_before: newest,
            boundary: newest,
            live_from: newest + 1,
            live_dry: false,
            arrivals: VecDeque::new(),
            stale: 0,
            backlog_from: 1,
            backlog_dry: newest == 0,
            in_flight: BTreeMap::new(),
            held: BTreeMap::new(),
            unfit: BTreeMap::new(),
            backlog_window: BACKLOG_FIRST,
            quickest: Duration::MAX,
            slowed: Mono::ZERO,
            gone: BTreeSet::new(),
            careful: 0,
        }
    }

    /// Sends so many rows one at a time, and not at all for now those that an earlier connection ended over.
    pub(super) fn carefully(&mut self, rows: usize, aside: &BTreeMap<u64, Mono>) {
        self.careful = rows;
        self.unfit.extend(aside);
    }

    /// How many rows are still to be sent one at a time.
    pub(super) fn careful(&self) -> usize {
        self.careful
    }

    /// The row in flight, if it is the only one.
    pub(super) fn only_in_flight(&self) -> Option<u64> {
        self.in_flight.keys().next().copied().filter(|_| self.in_flight.len() == 1)
    }

    fn window(&self) -> usize {
        if self.careful > 0 { 1 } else { WINDOW }
    }

    /// Rows were added to the outbox; `newest` is its newest now.
    pub(super) fn added(&mut self, newest: u64, now: Mono) {
        self.live_dry = false;
        match self.arrivals.back_mut() {
            Some((last, at)) if now.since(*at) < ARRIVALS_EVERY => *last = newest,
            _ => self.arrivals.push_back((newest, now)),
        }
    }

    /// Whether what this row tells is past: a consumer must not take it for news.
    pub(super) fn is_history(&mut self, row: &OutboxRow, now: Mono) -> bool {
        while let Some((newest, _)) = self.arrivals.pop_front_if(|(_, at)| now.since(*at) > NEWS_FOR) {
            self.stale = newest;
        }
        row.seq <= self.newest_before.max(self.stale) || row.attempts > 0
    }

    /// Rows sent and not answered yet.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether all that can be sent now was sent and answered.
    pub(super) fn drained(&self) -> bool {
        self.in_flight.is_empty() && self.live_dry && self.backlog_dry
    }

    fn backlog_room(&self) -> usize {
        let backlog = self.in_flight.values().filter(|f| f.lane == Lane::Backlog).count();
        let room = self.window().saturating_sub(self.in_flight.len());
        // The window may have shrunk under what is in flight.
        room.min(self.backlog_window.saturating_sub(backlog))
    }

    /// A row of the backlog that was sent then has been answered.
    fn learn(&mut self, sent: Mono, now: Mono) {
        let took = now.since(sent);
        self.quickest = self.quickest.min(took);
        if took <= PROMPT.max(self.quickest * 2) {
            self.backlog_window = (self.backlog_window + 1).min(BACKLOG_MOST);
        } else if sent >= self.slowed {
            // Once for all that were on their way together.
            self.backlog_window = (self.backlog_window / 2).max(BACKLOG_FIRST);
            self.slowed = now;
        }
    }

    /// Whether something of its incident has to go before it, that has not gone.
    fn must_wait(&self, row: &OutboxRow, delivered: &BTreeSet<u64>) -> bool {
        let gone = |seq| self.in_flight.contains_key(&seq) || delivered.contains(&seq) || self.gone.contains(&seq);
        row.after.is_some_and(|seq| !gone(seq))
    }

    /// What to read next, if there is room for it.
    pub(super) fn want(&self) -> Option<Fetch> {
        let wide = |room: usize| if self.held.is_empty() && self.unfit.is_empty() { room } else { PASS_OVER };
        let room = self.window().saturating_sub(self.in_flight.len());
        if !self.live_dry && room > 0 {
            return Some(Fetch { lane: Lane::Live, from: self.live_from, limit: wide(room) });
        }
        // Half a window at a time: one read for several rows.
        let room = self.backlog_room();
        (!self.backlog_dry && room >= (self.backlog_window / 2).min(self.window())).then(|| Fetch {
            lane: Lane::Backlog,
            from: self.backlog_from,
            limit: wide(room),
        })
    }

    /// Takes what was read and returns what to send, in order. `delivered` tells the rows that a broker has
    /// though the outbox does not know yet.
    pub(super) fn offer(
        &mut self,
        fetch: Fetch,
        rows: Vec<OutboxRow>,
        delivered: &BTreeSet<u64>,
        now: Mono,
    ) -> Vec<(OutboxRow, Lane)> {
        let at = if fetch.lane == Lane::Live { self.live_from } else { self.backlog_from };
        if at != fetch.from {
            // Rewound while the rows were being read: they are no longer the next.
            return Vec::new();
        }
        let (mut next, mut dry) = (fetch.from, rows.len() < fetch.limit);
        let (mut send, mut joins) = (Vec::new(), None);
        for row in rows {
            let seq = row.seq;
            if fetch.lane == Lane::Backlog && seq > self.boundary {
                dry = true;
                break;
            }
            let mut pass_over =
                self.in_flight.contains_key(&seq) || delivered.contains(&seq) || self.unfit.contains_key(&seq);
            if !pass_over
                && fetch.lane == Lane::Backlog
                && let Some(hold) = self.held.get_mut(row.dispatch.speaker())
            {
                hold.lowest = hold.lowest.min(seq);
                pass_over = true;
            }
            if !pass_over && fetch.lane == Lane::Live && self.must_wait(&row, delivered) {
                joins = joins.or(Some(seq));
                pass_over = true;
            }
            if !pass_over {
                let room = match fetch.lane {
                    Lane::Live => self.window().saturating_sub(self.in_flight.len()),
                    Lane::Backlog => self.backlog_room(),
                };
                if room == 0 {
                    dry = false;
                    break;
                }
                self.in_flight.insert(seq, InFlight { row: row.clone(), lane: fetch.lane, since: now });
                send.push((row, fetch.lane));
            }
            next = seq + 1;
        }
        match fetch.lane {
            Lane::Live => (self.live_from, self.live_dry) = (next, dry),
            Lane::Backlog => (self.backlog_from, self.backlog_dry) = (next, dry),
        }
        if let Some(seq) = joins {
            self.rewind(seq);
        }
        send
    }

    /// Rows that probe a held topic whose time has come; and rows that were set aside for long come back.
    pub(super) fn probes(&mut self, now: Mono) -> Vec<OutboxRow> {
        if let Some(first) = self.unfit.iter().find(|(_, until)| **until <= now).map(|(seq, _)| *seq) {
            self.unfit.retain(|_, until| *until > now);
            self.rewind(first);
        }
        let mut room = self.backlog_room();
        let mut probes = Vec::new();
        for hold in self.held.values_mut().filter(|h| !h.probing && h.until <= now) {
            // A live attempt of the same row is still out: its answer will do.
            if room == 0 || self.in_flight.contains_key(&hold.probe.seq) {
                continue;
            }
            room -= 1;
            hold.probing = true;
            let row = hold.probe.clone();
            self.in_flight.insert(row.seq, InFlight { row: row.clone(), lane: Lane::Backlog, since: now });
            probes.push(row);
        }
        probes
    }

    /// Takes the answer to a row.
    pub(super) fn answered(&mut self, seq: u64, outcome: Outcome, now: Mono) -> News {
        let Some(InFlight { row, lane, since }) = self.in_flight.remove(&seq) else { return News::None };
        match lane {
            Lane::Backlog => self.learn(since, now),
            Lane::Live if outcome == Outcome::Delivered => {
                self.gone.insert(seq);
                while self.gone.len() > REMEMBERED {
                    self.gone.pop_first();
                }
            }
            Lane::Live => {}
        }
        self.careful = self.careful.saturating_sub(1);
        let camera = row.dispatch.speaker().to_owned();
        match outcome {
            Outcome::Delivered => match self.held.remove(&camera) {
                Some(hold) => {
                    self.rewind(hold.lowest);
                    News::Lifted
                }
                None => News::None,
            },
            Outcome::Nobody => self.hold(camera, row, now, NOBODY_FIRST, NOBODY_MOST),
            Outcome::Refused => self.hold(camera, row, now, REFUSED_FIRST, REFUSED_MOST),
            Outcome::Unfit => {
                self.unfit.insert(seq, now + UNFIT_FOR);
                // It may have been the probe: then the topic is open after all, or the next row will tell.
                if let Some(hold) = self.held.remove(&camera) {
                    self.rewind(hold.lowest);
                }
                News::SetAside
            }
        }
    }

    fn hold(&mut self, camera: String, row: OutboxRow, now: Mono, first: Duration, most: Duration) -> News {
        if let Some(hold) = self.held.get_mut(&camera) {
            hold.lowest = hold.lowest.min(row.seq);
            if hold.probing && hold.probe.seq == row.seq {
                hold.probing = false;
                hold.until = now + hold.delays.next_delay();
            }
            return News::None;
        }
        let mut delays = Backoff::new(first, most);
        let until = now + delays.next_delay();
        self.held.insert(camera, Hold { lowest: row.seq, probe: row, probing: false, until, delays });
        News::Held
    }

    /// Goes through the backlog again from `seq`; what was live and is not delivered belongs to it now.
    pub(super) fn rewind(&mut self, seq: u64) {
        self.boundary = self.live_from - 1;
        self.backlog_from = self.backlog_from.min(seq);
        self.backlog_dry = false;
    }
}

#[cfg(test)]
mod tests;
