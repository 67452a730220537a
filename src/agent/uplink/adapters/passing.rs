//! What alerts become, on its way: beside the pump, never before it.
//!
//! An alert is rendered when the broker has taken it, so that what is not acknowledged and goes again is not said twice
//! here. What was rendered waits in memory, in order, one message at a time in flight; a connection that is lost costs
//! nothing, a restart of the daemon may cost what waited.
//!
//! Invariant: bounded. What finds no room pushes out the oldest and is counted.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;

use rumqttc::{PubAckReason, PublishNoticeError, PublishResult};

use super::Adapters;
use crate::agent::uplink::error::SessionError;
use crate::agent::uplink::line::{Line, Message, Verdict};
use crate::contract::alert::Alert;

/// Messages that wait for a connection, or for their turn.
const WAITING_MOST: usize = 1024;

/// One for the device; it outlives the connections.
pub(in crate::agent::uplink) struct Passing {
    adapters: Adapters,
    /// Alerts that were sent over this connection and not acknowledged yet.
    sent: BTreeMap<u64, Alert>,
    /// Rendered, the oldest first. It stays until it is acknowledged.
    queue: VecDeque<Message>,
    /// The answer to the queue's first, while that is in flight. No task of its own: a refusal that ends the connection
    /// must be heard before the end.
    answer: Option<Pin<Box<dyn Future<Output = Answer> + Send + Sync>>>,
    /// Found no room since the last complaint.
    lost: u64,
    /// Nobody has to confirm alerts.
    nobody_confirms: bool,
}

/// What came of a message.
pub(in crate::agent::uplink) type Answer = Result<PublishResult, PublishNoticeError>;

impl Passing {
    /// `nobody_confirms`: no consumer is configured.
    pub(in crate::agent::uplink) fn new(adapters: Adapters, nobody_confirms: bool) -> Self {
        Passing { adapters, sent: BTreeMap::new(), queue: VecDeque::new(), answer: None, lost: 0, nobody_confirms }
    }

    /// The adapters are whom alerts are for: that nobody subscribes to these themselves is as it should be.
    pub(in crate::agent::uplink) fn is_the_audience(&self) -> bool {
        self.nobody_confirms && !self.adapters.are_off()
    }

    /// A new connection: nothing is in flight, neither alerts nor messages.
    pub(in crate::agent::uplink) fn begin(&mut self) {
        self.sent.clear();
        self.answer = None;
    }

    /// An alert is on its way to the broker.
    pub(in crate::agent::uplink) fn sent(&mut self, seq: u64, alert: &Alert) {
        if !self.adapters.are_off() {
            self.sent.insert(seq, alert.clone());
        }
    }

    /// The broker has an alert that was sent.
    pub(in crate::agent::uplink) fn taken(&mut self, seq: u64) {
        let Some(alert) = self.sent.remove(&seq) else { return };
        self.queue.extend(self.adapters.alert(&alert));
        while self.queue.len() > WAITING_MOST {
            // Not the first: it may be in flight, and its answer must find it.
            self.queue.remove(1);
            self.lost += 1;
        }
    }

    /// The broker has not taken it; it is sent again.
    pub(in crate::agent::uplink) fn not_taken(&mut self, seq: u64) {
        self.sent.remove(&seq);
    }

    /// Nothing waits any more.
    pub(in crate::agent::uplink) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> &VecDeque<Message> {
        &self.queue
    }

    #[cfg(test)]
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Sends the next one, if none is in flight.
    pub(in crate::agent::uplink) fn start(&mut self, line: &Line) -> Result<(), SessionError> {
        while self.answer.is_none()
            && let Some(next) = self.queue.front()
        {
            match line.send(next.clone())? {
                Some(notice) => self.answer = Some(Box::pin(notice.wait_async())),
                None => {
                    self.judge(Verdict::NotSendable);
                }
            }
        }
        Ok(())
    }

    /// The next answer; waits for ever while nothing is in flight. Nothing is lost if it is not waited for to the end.
    pub(in crate::agent::uplink) async fn answered(&mut self) -> Answer {
        match &mut self.answer {
            Some(answer) => {
                let answer = answer.await;
                self.answer = None;
                answer
            }
            None => std::future::pending().await,
        }
    }

    /// Takes it in.
    pub(in crate::agent::uplink) fn judge(&mut self, verdict: Verdict) {
        let Some(message) = self.queue.pop_front() else { return };
        match verdict {
            // Whether anybody listens is their affair: nothing waits for it.
            Verdict::Taken | Verdict::NoSubscriber => {}
            Verdict::Refused(PubAckReason::NotAuthorized) => {
                self.adapters.give_up(&message.topic);
                self.queue.retain(|other| other.topic != message.topic);
            }
            Verdict::Refused(_) | Verdict::NotSendable => {
                log::warn!("the broker did not take a message on {}: {verdict:?}", message.topic);
            }
        }
        if self.lost > 0 && self.queue.is_empty() {
            log::warn!("{} adapter messages found no room and were not sent", std::mem::take(&mut self.lost));
        }
    }
}
