//! Requests that come over the network: read, remembered, carried out one by one, and their statuses kept until a broker
//! has them. A request outlives the process: what was begun when the daemon ended is begun again at the next start, which
//! every command can bear; `restart` is then done.
//!
//! Bounds: [`WAITING`] requests wait; the rate is [`BURST`] at once and one a second after that. What is beyond is
//! rejected, and said so: that of up to [`HEARD`] that wait.
//!
//! An id stands for the command that it first came with: with the same command again it is answered again, with another
//! it is rejected ([`reused`]).

mod reused;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agent::store::{CommandRow, Store, StoreError};
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Mono, Wall};
use crate::base::error::{Chain, Retry};
use crate::base::progress::Beat;
use crate::base::queue::{Full, Popped, Queue};
use crate::base::stop::StopToken;
use crate::contract::command::{
    Command, CommandDesk, CommandOutcome, CommandReport, CommandSink, CommandState, NoRequest, Order, Receipt,
};
use crate::contract::result::{IncidentRaised, as_sent};

/// Requests that may wait to be looked at.
const WAITING: usize = 64;
/// Requests that wait for anything, be it only to hear that they were too many.
const HEARD: usize = 1024;
/// Requests that may come at once.
const BURST: u32 = 20;
/// And from then on one in so long.
const ONE_IN: Duration = Duration::from_secs(1);
/// Largest result that is said, in bytes of JSON: with the rest below the contract's 64 KiB.
const RESULT_BYTES: usize = 56 * 1024;
const IDLE: Duration = Duration::from_millis(500);
/// What was asked is kept of a request that is rejected, if it is no larger, to know it again.
const KEPT_OF_REJECTED_BYTES: usize = 4 * 1024;
/// A store that refuses is asked again after so long, and then after longer.
const AGAIN_FIRST: Duration = Duration::from_millis(200);
const AGAIN_MOST: Duration = Duration::from_secs(5);

/// See the module's doc. Clones share it.
#[derive(Clone)]
pub struct Desk {
    store: Store,
    waiting: Queue<Incoming>,
    changed: watch::Sender<u64>,
    reused: reused::Reused,
}

struct Incoming {
    id: String,
    /// None: too many wait.
    payload: Option<Vec<u8>>,
    receipt: Receipt,
}

impl Desk {
    /// Over this store.
    pub fn new(store: Store) -> Desk {
        let (waiting, changed) = (Queue::new(HEARD, Full::Refuse), watch::Sender::new(0));
        Desk { store, waiting, changed, reused: reused::Reused::default() }
    }

    fn put(&self, report: CommandReport, asked: &[u8], at: Wall) -> Result<(), StoreError> {
        let asked = String::from_utf8_lossy(asked).into_owned();
        self.store.put_command(CommandRow { asked, received: at, report })?;
        self.changed.send_modify(|v| *v += 1);
        Ok(())
    }

    fn reject_reused(&self, id: &str, now: Wall, receipt: Receipt) {
        log::warn!("command {id} rejected: {}", reused::WHY);
        let (state, reason) = (CommandState::Rejected, Some(reused::WHY.to_owned()));
        self.reused
            .add(CommandReport { id: id.to_owned(), state, reason, result: None, since: now.rfc3339() }, receipt);
        self.changed.send_modify(|v| *v += 1);
    }
}

impl CommandDesk for Desk {
    fn take(&self, id: &str, payload: &[u8], receipt: Receipt) {
        let payload = (self.waiting.len() < WAITING).then(|| payload.to_vec());
        if self.waiting.push(Incoming { id: id.to_owned(), payload, receipt }).is_err() {
            log::warn!(
                "command {id} is not taken now: far too many wait, or the device is stopping; the broker keeps it"
            );
        }
    }

    fn unsaid(&self, limit: usize) -> Vec<CommandReport> {
        let mut unsaid = self.reused.unsaid(limit);
        match self.store.reader().unsaid_commands(limit - unsaid.len()) {
            Ok(reports) => unsaid.extend(reports),
            Err(e) => log::debug!("no statuses of commands: {}", Chain(&e)),
        }
        unsaid
    }

    fn said(&self, reports: &[CommandReport]) {
        let said = reports.iter().filter(|r| !self.reused.said(r)).map(|r| (r.id.clone(), r.state)).collect();
        if let Err(e) = self.store.commands_said(said) {
            log::debug!("statuses of commands will be said again: {}", Chain(&e));
        }
    }

    fn unsayable(&self, report: &CommandReport, why: &str) {
        let why = format!("it was done, but its answer was not said: {why}");
        let short = CommandReport { state: CommandState::Failed, reason: Some(why), result: None, ..report.clone() };
        match self.store.reader().command(&report.id) {
            Ok(Some(row)) => {
                if let Err(e) = self.put(short, row.asked.as_bytes(), row.received) {
                    log::error!("command {}: {}", report.id, Chain(&e));
                }
            }
            Ok(None) => {}
            Err(e) => log::error!("command {}: {}", report.id, Chain(&e)),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Who carries requests out.
pub struct Clerk {
    /// Where they come from.
    pub desk: Desk,
    /// Who does it.
    pub sink: Arc<dyn CommandSink>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Whether the time of day is known: without it nothing expires.
    pub knows_time_of_day: Box<dyn Fn() -> bool + Send>,
}

impl Clerk {
    /// Until stopped.
    pub fn run(self, stop: &StopToken, beat: &Beat) {
        match self.desk.store.reader().open_commands() {
            Ok(rows) => rows.into_iter().for_each(|row| self.go_on_with(row, stop, beat)),
            Err(e) => log::error!("commands of before the start are not gone on with: {}", Chain(&e)),
        }
        let mut bucket = Bucket::full(self.clock.now());
        while !stop.is_stopped() {
            beat.beat();
            if let Popped::Item(Incoming { id, payload, receipt }) = self.desk.waiting.pop(IDLE) {
                let payload = payload.filter(|_| bucket.take(self.clock.now()));
                let persist = Persist { stop, beat };
                match persist.until_done(&id, || self.begin(&id, payload.as_deref())) {
                    None => continue,
                    Some(Begun::Reused) => self.desk.reject_reused(&id, self.clock.wall(), receipt),
                    Some(Begun::Answered) => receipt(),
                    Some(Begun::ToDo(order, received)) => {
                        receipt();
                        self.carry_out(&id, payload.as_deref().unwrap_or_default(), order, received, &persist);
                    }
                }
            }
        }
        beat.end();
    }

    /// Remembers a request; without what was asked: one too many.
    fn begin(&self, id: &str, payload: Option<&[u8]>) -> Result<Begun, StoreError> {
        if let Some(known) = self.desk.store.reader().command(id)? {
            if payload.is_some_and(|payload| !reused::is_same(&known.asked, payload)) {
                return Ok(Begun::Reused);
            }
            // Said again, not done again.
            self.desk.put(known.report, known.asked.as_bytes(), known.received)?;
            return Ok(Begun::Answered);
        }
        let now = self.clock.wall();
        let report = |state, reason: Option<String>| CommandReport {
            id: id.to_owned(),
            state,
            reason,
            result: None,
            since: now.rfc3339(),
        };
        match self.acceptable(payload) {
            Err(NoRequest(why)) => {
                log::warn!("command {id} rejected: {why}");
                let kept = payload.filter(|p| p.len() <= KEPT_OF_REJECTED_BYTES).unwrap_or_default();
                self.desk.put(report(CommandState::Rejected, Some(why)), kept, now)?;
                Ok(Begun::Answered)
            }
            Ok(order) => {
                self.desk.put(report(CommandState::InProgress, None), payload.unwrap_or_default(), now)?;
                Ok(Begun::ToDo(order, now))
            }
        }
    }

    fn acceptable(&self, payload: Option<&[u8]>) -> Result<Order, NoRequest> {
        let Some(payload) = payload else {
            let remedy = "send it again under another id";
            return Err(NoRequest(format!("too many commands: {BURST} at once, then one a second; {remedy}")));
        };
        let order = Order::parse(payload)?;
        match order.expires {
            Some(expires) if (self.knows_time_of_day)() && expires <= self.clock.wall() => {
                Err(NoRequest(format!("expired at {}; it is {} here", expires.rfc3339(), self.clock.wall().rfc3339())))
            }
            // It may have waited at the broker for days.
            Some(_) if !(self.knows_time_of_day)() => {
                let why = "it expires, and this device does not know the time of day yet";
                Err(NoRequest(format!("{why}: send it again under another id, later or without expires_at")))
            }
            _ => Ok(order),
        }
    }

    /// What an earlier run had begun.
    fn go_on_with(&self, row: CommandRow, stop: &StopToken, beat: &Beat) {
        let (id, asked, persist) = (&row.report.id, row.asked.as_bytes(), Persist { stop, beat });
        let end = |state, reason: &str| {
            let reason = Some(reason.to_owned()).filter(|r| !r.is_empty());
            self.end(id, asked, row.received, (state, reason, None), &persist);
        };
        let is_past = |expires| (self.knows_time_of_day)() && expires <= self.clock.wall();
        match Order::parse(asked) {
            Err(NoRequest(why)) => end(CommandState::Failed, &why),
            Ok(Order { command: Command::Restart {}, .. }) => end(CommandState::Succeeded, ""),
            Ok(order) if order.expires.is_some_and(is_past) => {
                end(CommandState::TimedOut, "it expired while the device was off");
            }
            Ok(order) => self.carry_out(id, asked, order, row.received, &persist),
        }
    }

    fn carry_out(&self, id: &str, asked: &[u8], order: Order, received: Wall, persist: &Persist<'_>) {
        let who = order.requested_by.as_deref().unwrap_or("nobody named");
        let restarts = order.command == (Command::Restart {});
        let outcome = self.sink.submit(&format!("mqtt, command {id}, {who}"), order.command);
        let ended = match outcome {
            // Done when the daemon is there again.
            CommandOutcome::Accepted { .. } if restarts => return,
            CommandOutcome::Accepted { incident, result } => {
                let result = result.or_else(|| incident.map(|incident| as_sent(&IncidentRaised { incident })));
                match result {
                    Some(r) if r.to_string().len() > RESULT_BYTES => {
                        (CommandState::Failed, Some("the answer is too large for a message".to_owned()), None)
                    }
                    result => (CommandState::Succeeded, None, result),
                }
            }
            CommandOutcome::Rejected { reason } => (CommandState::Rejected, Some(reason), None),
            CommandOutcome::Failed { reason } => (CommandState::Failed, Some(reason), None),
        };
        self.end(id, asked, received, ended, persist);
    }

    /// Makes durable how it ended, before anything else is begun: what is not known to have ended is done again at the next
    /// start, and must not undo what came after it.
    fn end(
        &self,
        id: &str,
        asked: &[u8],
        received: Wall,
        (state, reason, result): (CommandState, Option<String>, Option<serde_json::Value>),
        persist: &Persist<'_>,
    ) {
        let since = self.clock.wall().rfc3339();
        let report = CommandReport { id: id.to_owned(), state, reason, result, since };
        persist.until_done(id, || self.desk.put(report.clone(), asked, received));
    }
}

/// What is to be done about a request.
enum Begun {
    /// To carry it out; since when it is known.
    ToDo(Order, Wall),
    /// Nothing: its status is stored, to be said.
    Answered,
    /// Nothing but to say that its id stands for another.
    Reused,
}

/// Asks a store that does not answer now again and again.
struct Persist<'a> {
    stop: &'a StopToken,
    beat: &'a Beat,
}

impl Persist<'_> {
    /// None: it cannot be done, or not before the stop.
    fn until_done<T>(&self, id: &str, mut attempt: impl FnMut() -> Result<T, StoreError>) -> Option<T> {
        let mut delays = Backoff::new(AGAIN_FIRST, AGAIN_MOST);
        let mut said = false;
        loop {
            self.beat.beat();
            match attempt() {
                Ok(done) => return Some(done),
                Err(e) if e.retry() == Retry::Later => {
                    if !std::mem::replace(&mut said, true) {
                        log::error!("command {id} waits for the store: {}", Chain(&e));
                    }
                }
                Err(e) => {
                    log::error!("command {id}: {}", Chain(&e));
                    return None;
                }
            }
            if self.stop.wait(delays.next_delay()) {
                return None;
            }
        }
    }
}

/// Tokens for requests; pure.
struct Bucket {
    tokens: u32,
    filled: Mono,
}

impl Bucket {
    fn full(now: Mono) -> Bucket {
        Bucket { tokens: BURST, filled: now }
    }

    fn take(&mut self, now: Mono) -> bool {
        let new = (now.since(self.filled).as_millis() / ONE_IN.as_millis()).min(u128::from(BURST)) as u32;
        if new > 0 {
            self.tokens = (self.tokens + new).min(BURST);
            self.filled = if self.tokens == BURST { now } else { self.filled + ONE_IN * new };
        }
        let some = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests;
