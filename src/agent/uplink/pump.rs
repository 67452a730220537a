//! Rows of the outbox to the broker, and the broker's word back to the outbox.
//!
//! The decisions are [`Lanes`]'; here is the waiting. A row is marked sent when, and only when, its own PUBACK
//! says that somebody gets it. What was acknowledged and could not be marked (the disk is full) is remembered
//! across connections and not sent again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{PublishNoticeError, PublishResult};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::LinksTo;
use super::adapters::Passing;
use super::error::SessionError;
use super::lanes::{Fetch, Lanes, News, Outcome, UNFIT_FOR, WINDOW};
use super::line::{Line, Message, Verdict};
use crate::base::backoff::Backoff;
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::stop::StopToken;
use crate::contract::alert::AlertKind;
use crate::contract::cloudevent::{self, Number, Sending};
use crate::contract::outbox::{Dispatch, Outbox, OutboxError, OutboxRow, OutboxStatus};
use crate::contract::topics::DeviceTopics;

/// How long a stop waits for what is on its way.
const FLUSH: Duration = Duration::from_secs(3);
const ROUND: Duration = Duration::from_secs(1);
/// Alerts without a row that wait for a connection; beyond, the oldest goes.
const VOLATILE_MOST: usize = 64;

/// The pump; it outlives the connections.
pub(super) struct Pump {
    outbox: Arc<dyn Outbox>,
    /// What alerts become in others' formats.
    passing: Passing,
    topics: DeviceTopics,
    clock: Arc<dyn Clock>,
    /// Where clips can be had; none: alerts don't say.
    links: Option<LinksTo>,
    /// Something about the outbox has changed by our doing.
    touched: Arc<Notify>,
    /// Acknowledged by a broker, not marked yet.
    unmarked: BTreeSet<u64>,
    /// Not stored, and not acknowledged yet: see [`Outbox::take_volatile`].
    volatile: VecDeque<Dispatch>,
    /// So many rows yet are sent one at a time, after a connection that the broker ended over one of them.
    careful: usize,
    /// Rows over which it ended one, and how long they are not sent.
    aside: BTreeMap<u64, Mono>,
}

/// What goes over one connection.
pub(super) struct Flow {
    lanes: Lanes,
    waiting: Waiting,
    added: watch::Receiver<u64>,
    rewound: watch::Receiver<u64>,
}

type Answer = (u64, Result<PublishResult, PublishNoticeError>);

/// What waits for an answer in one connection.
struct Waiting {
    /// What the numbers count within.
    epoch: Uuid,
    answers: JoinSet<Answer>,
    /// At most one read,
    reads: JoinSet<(Fetch, Result<Vec<OutboxRow>, OutboxError>)>,
    /// and one write at a time: what comes meanwhile goes in the next, together.
    marks: JoinSet<(Vec<u64>, Result<(), OutboxError>)>,
    /// Alerts without a row, by message.
    volatile: JoinSet<(Uuid, Result<PublishResult, PublishNoticeError>)>,
    /// Those sent over this connection.
    passed_by: BTreeSet<Uuid>,
    database: Patience,
    last_answer: Mono,
}

/// A database that does not answer is asked again with growing delays, and complained about once.
struct Patience {
    delays: Backoff,
    not_before: Mono,
    said: bool,
}

impl Patience {
    fn failed(&mut self, e: &OutboxError, now: Mono) {
        if !self.said {
            self.said = true;
            log::error!("alerts wait on the device: {}", Chain(e));
        }
        self.not_before = now + self.delays.next_delay();
    }

    fn answered(&mut self) {
        self.delays.reset();
        self.said = false;
    }
}

impl Pump {
    pub(super) fn new(
        outbox: Arc<dyn Outbox>,
        passing: Passing,
        topics: DeviceTopics,
        links: Option<LinksTo>,
        clock: Arc<dyn Clock>,
        touched: Arc<Notify>,
    ) -> Self {
        Pump {
            outbox,
            passing,
            topics,
            links,
            clock,
            touched,
            unmarked: BTreeSet::new(),
            volatile: VecDeque::new(),
            careful: 0,
            aside: BTreeMap::new(),
        }
    }

    /// Draws the line between history and news for a new connection; none if stopped first.
    pub(super) async fn begin(&mut self, stop: &StopToken, beat: &Beat) -> Option<Flow> {
        let (added, rewound) = (self.outbox.added(), self.outbox.rewound());
        let mut database = Patience {
            delays: Backoff::new(Duration::from_millis(100), Duration::from_secs(10)),
            not_before: Mono::ZERO,
            said: false,
        };
        let OutboxStatus { epoch, newest, .. } = self.status(stop, beat, &mut database).await?;
        let mut lanes = Lanes::new(newest);
        let now = self.clock.now();
        self.aside.retain(|_, until| *until > now);
        lanes.carefully(self.careful, &self.aside);
        let waiting = Waiting {
            epoch,
            answers: JoinSet::new(),
            reads: JoinSet::new(),
            marks: JoinSet::new(),
            volatile: JoinSet::new(),
            passed_by: BTreeSet::new(),
            database,
            last_answer: self.clock.now(),
        };
        Some(Flow { lanes, waiting, added, rewound })
    }

    /// Pumps until the connection fails, or until a stop and then as much as can be sent in a few seconds.
    pub(super) async fn run(
        &mut self,
        flow: Flow,
        line: &Line,
        stop: &StopToken,
        beat: &Beat,
    ) -> Result<(), SessionError> {
        let Flow { mut lanes, mut waiting, mut added, mut rewound } = flow;
        self.passing.begin();
        let pumped = self.pump(&mut lanes, &mut waiting, (&mut added, &mut rewound), line, stop, beat).await;
        self.careful = lanes.careful();
        if matches!(pumped, Err(SessionError::Lost { .. })) && line.objected().await {
            self.careful = 2 * WINDOW;
            if let Some(seq) = lanes.only_in_flight() {
                self.aside.insert(seq, self.clock.now() + UNFIT_FOR);
                self.say(News::SetAside, seq, "it ended the connection over it");
            }
        }
        pumped
    }

    async fn pump(
        &mut self,
        lanes: &mut Lanes,
        waiting: &mut Waiting,
        (added, rewound): (&mut watch::Receiver<u64>, &mut watch::Receiver<u64>),
        line: &Line,
        stop: &StopToken,
        beat: &Beat,
    ) -> Result<(), SessionError> {
        let mut rounds = tokio::time::interval(ROUND);
        let mut stop_by = None;
        loop {
            self.start_what_can_be(lanes, waiting, line)?;
            let quiet = lanes.drained()
                && waiting.reads.is_empty()
                && self.unmarked.is_empty()
                && waiting.volatile.is_empty()
                && self.passing.is_idle();
            if stop_by.is_some_and(|by| quiet || self.clock.now() >= by) {
                return Ok(());
            }
            tokio::select! {
                Some(answer) = waiting.answers.join_next() => {
                    waiting.last_answer = self.clock.now();
                    let (seq, answer) = joined(answer);
                    let verdict = line.verdict(answer)?;
                    self.judge(lanes, seq, verdict);
                }
                Some(answer) = waiting.volatile.join_next() => {
                    waiting.last_answer = self.clock.now();
                    let (id, answer) = joined(answer);
                    let verdict = line.verdict(answer)?;
                    // Whatever the verdict: when the disk is back its row is sent until somebody gets it.
                    log::debug!("an alert that is not stored was sent: {verdict:?}");
                    self.volatile.retain(|dispatch| dispatch.id() != id);
                    waiting.passed_by.remove(&id);
                }
                answer = self.passing.answered() => {
                    let verdict = line.verdict(answer)?;
                    self.passing.judge(verdict);
                }
                Some(read) = waiting.reads.join_next() => match joined(read) {
                    (fetch, Ok(rows)) => {
                        waiting.database.answered();
                        for (row, _) in lanes.offer(fetch, rows, &self.unmarked, self.clock.now()) {
                            self.send(lanes, waiting, line, row)?;
                        }
                    }
                    (_, Err(e)) => waiting.database.failed(&e, self.clock.now()),
                },
                Some(mark) = waiting.marks.join_next() => match joined(mark) {
                    (marked, Ok(())) => {
                        waiting.database.answered();
                        for seq in marked {
                            self.unmarked.remove(&seq);
                        }
                        self.touched.notify_one();
                    }
                    (_, Err(e)) => waiting.database.failed(&e, self.clock.now()),
                },
                Ok(()) = added.changed() => {
                    let newest = *added.borrow_and_update();
                    lanes.added(newest, self.clock.now());
                }
                Ok(()) = rewound.changed() => {
                    rewound.borrow_and_update();
                    // From the first on: several requests may have come at once, and what was sent is not read again.
                    lanes.rewind(1);
                }
                _ = rounds.tick() => {
                    beat.beat();
                    let waits = lanes.in_flight() > 0 || !waiting.volatile.is_empty();
                    if waits && self.clock.now().since(waiting.last_answer) > line.patience {
                        return Err(line.silent());
                    }
                }
                () = stop.stopped(), if stop_by.is_none() => {
                    stop_by = Some(self.clock.now() + FLUSH);
                    // A row may have been added in the same instant: look once more.
                    let newest = *added.borrow_and_update();
                    lanes.added(newest, self.clock.now());
                }
            }
        }
    }

    /// The state of the outbox, asked until the database answers.
    async fn status(&self, stop: &StopToken, beat: &Beat, database: &mut Patience) -> Option<OutboxStatus> {
        loop {
            let outbox = Arc::clone(&self.outbox);
            match joined(tokio::task::spawn_blocking(move || outbox.status()).await) {
                Ok(status) => {
                    database.answered();
                    return Some(status);
                }
                Err(e) => database.failed(&e, self.clock.now()),
            }
            while self.clock.now() < database.not_before {
                beat.beat();
                tokio::select! {
                    () = stop.stopped() => return None,
                    () = tokio::time::sleep(database.not_before.since(self.clock.now()).min(ROUND)) => {}
                }
            }
        }
    }

    fn start_what_can_be(&mut self, lanes: &mut Lanes, waiting: &mut Waiting, line: &Line) -> Result<(), SessionError> {
        let now = self.clock.now();
        self.send_volatile(waiting, line)?;
        self.passing.start(line)?;
        for row in lanes.probes(now) {
            self.send(lanes, waiting, line, row)?;
        }
        if now < waiting.database.not_before {
            return Ok(());
        }
        if waiting.marks.is_empty() && !self.unmarked.is_empty() {
            let (outbox, seqs) = (Arc::clone(&self.outbox), self.unmarked.iter().copied().collect::<Vec<_>>());
            waiting.marks.spawn_blocking(move || {
                let marked = outbox.mark_sent(&seqs);
                (seqs, marked)
            });
        }
        if waiting.reads.is_empty()
            && let Some(fetch) = lanes.want()
        {
            let outbox = Arc::clone(&self.outbox);
            waiting.reads.spawn_blocking(move || (fetch, outbox.pending(fetch.from, fetch.limit)));
        }
        Ok(())
    }

    /// Sends what the disk refused; also what an earlier connection did not get acknowledged.
    fn send_volatile(&mut self, waiting: &mut Waiting, line: &Line) -> Result<(), SessionError> {
        self.volatile.extend(self.outbox.take_volatile());
        while self.volatile.len() > VOLATILE_MOST {
            self.volatile.pop_front();
        }
        for dispatch in &self.volatile {
            let Ok(topic) = self.topics.alerts(dispatch.speaker()) else { continue };
            if !waiting.passed_by.insert(dispatch.id()) {
                continue;
            }
            if waiting.volatile.is_empty() && waiting.answers.is_empty() {
                waiting.last_answer = self.clock.now();
            }
            let sending = Sending { number: None, publish_time: self.clock.wall(), replayed: false };
            let message = self.message(topic, dispatch, sending);
            if let Some(notice) = line.send(message)? {
                let id = dispatch.id();
                waiting.volatile.spawn(async move { (id, notice.wait_async().await) });
            }
        }
        Ok(())
    }

    /// The same with links to a clip that is there: made when it is sent, for they expire.
    fn with_links(&self, dispatch: &Dispatch) -> Option<Dispatch> {
        let (links, alert) = (self.links.as_ref()?, dispatch.alert()?);
        let mut alert = alert.clone();
        let clip = alert.clip.as_mut().filter(|_| alert.kind == AlertKind::ClipReady)?;
        let to = links(alert.incident.id);
        clip.url = Some(to.clip);
        clip.peak_url = clip.peak_jpeg_path.is_some().then_some(to.peak);
        Some(alert.into())
    }

    fn message(&self, topic: String, dispatch: &Dispatch, sending: Sending) -> Message {
        let linked = self.with_links(dispatch);
        let dispatch = linked.as_ref().unwrap_or(dispatch);
        Message {
            topic,
            payload: cloudevent::render(&self.topics, dispatch, sending),
            retain: false,
            expiry_s: None,
            content_type: cloudevent::CONTENT_TYPE,
            user_properties: cloudevent::user_properties(dispatch, sending.number.map(|n| n.seq)),
        }
    }

    fn send(
        &mut self,
        lanes: &mut Lanes,
        waiting: &mut Waiting,
        line: &Line,
        row: OutboxRow,
    ) -> Result<(), SessionError> {
        let now = self.clock.now();
        let Ok(topic) = self.topics.alerts(row.dispatch.speaker()) else {
            self.say(lanes.answered(row.seq, Outcome::Unfit, now), row.seq, "its camera's name fits no topic");
            return Ok(());
        };
        let publish_time = self.clock.wall();
        let replayed = lanes.is_history(&row, now);
        let number = Some(Number { epoch: waiting.epoch, seq: row.seq });
        let message = self.message(topic, &row.dispatch, Sending { number, publish_time, replayed });
        if waiting.answers.is_empty() {
            waiting.last_answer = now;
        }
        match line.send(message)? {
            Some(notice) => {
                let seq = row.seq;
                if let Dispatch::Alert(alert) = &row.dispatch {
                    self.passing.sent(seq, alert);
                }
                waiting.answers.spawn(async move { (seq, notice.wait_async().await) });
            }
            None => self.judge(lanes, row.seq, Verdict::NotSendable),
        }
        Ok(())
    }

    fn judge(&mut self, lanes: &mut Lanes, seq: u64, verdict: Verdict) {
        use rumqttc::PubAckReason as R;
        let verdict = match verdict {
            Verdict::NoSubscriber if self.passing.is_the_audience() => Verdict::Taken,
            verdict => verdict,
        };
        let (outcome, why) = match verdict {
            Verdict::Taken => {
                self.unmarked.insert(seq);
                self.passing.taken(seq);
                (Outcome::Delivered, "")
            }
            Verdict::NoSubscriber => (Outcome::Nobody, "nobody subscribes to it"),
            Verdict::Refused(R::NotAuthorized) => (Outcome::Refused, "the device is not authorised for the topic"),
            Verdict::Refused(R::QuotaExceeded) => (Outcome::Refused, "a quota is used up"),
            Verdict::Refused(R::TopicNameInvalid) => (Outcome::Refused, "it does not accept the topic"),
            Verdict::Refused(R::PayloadFormatInvalid) => (Outcome::Unfit, "it takes its payload for malformed"),
            // Of one message or of the broker: not said. Others are not held up by it.
            Verdict::Refused(_) => (Outcome::Unfit, "it gives no reason"),
            Verdict::NotSendable => (Outcome::Unfit, "it is larger than the broker takes"),
        };
        if outcome != Outcome::Delivered {
            self.passing.not_taken(seq);
        }
        let news = lanes.answered(seq, outcome, self.clock.now());
        self.say(news, seq, why);
    }

    fn say(&self, news: News, seq: u64, why: &str) {
        match news {
            News::None => {}
            News::Held => log::warn!("alert {seq} and those of its camera stay on the device for now: {why}"),
            News::Lifted => log::info!("alerts flow again from alert {seq}'s camera"),
            News::SetAside => log::warn!("the broker did not take alert {seq}, kept for a later try: {why}"),
        }
    }
}

/// A task's result; its panic goes on here, so that the daemon sees it.
fn joined<T>(result: Result<T, tokio::task::JoinError>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => unreachable!("the pump's tasks are dropped with it and never aborted before: {e}"),
        },
    }
}
