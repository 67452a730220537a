//! What consumers confirm, on to the outbox. Confirmations are cumulative: only the latest of each consumer
//! matters, so nothing has to be queued, and a database that is slow delays nothing but the release of rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::base::backoff::Backoff;
use crate::base::error::Chain;
use crate::contract::ack::Ack;
use crate::contract::outbox::{Outbox, OutboxError};
use crate::contract::topics::{DeviceTopics, Name};

/// The latest confirmation of each configured consumer.
pub(super) struct Acks {
    topics: DeviceTopics,
    latest: watch::Sender<BTreeMap<String, Option<Ack>>>,
}

impl Acks {
    pub(super) fn new(topics: DeviceTopics, consumers: &[String]) -> Self {
        let none = consumers.iter().map(|c| (c.clone(), None)).collect();
        Acks { topics, latest: watch::Sender::new(none) }
    }

    /// Topics to subscribe to.
    pub(super) fn filters(&self) -> Vec<String> {
        self.latest.borrow().keys().filter_map(|c| self.topics.ack(c).ok()).collect()
    }

    /// Takes a message in. Never blocks.
    pub(super) fn take(&self, consumer: &Name, payload: &[u8]) {
        let Some(ack) = Ack::parse(payload) else {
            return log::warn!("consumer {consumer} confirmed in a form this version does not know");
        };
        self.latest.send_if_modified(|latest| match latest.get_mut(consumer.as_str()) {
            Some(last) if *last != Some(ack) => {
                *last = Some(ack);
                true
            }
            _ => false,
        });
    }

    /// Hands confirmations to the outbox, for ever.
    pub(super) async fn run(&self, outbox: Arc<dyn Outbox>, touched: Arc<Notify>) {
        let mut changes = self.latest.subscribe();
        let mut done = self.latest.borrow().clone();
        let mut delays = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut said = false;
        // The sender lives in `self`: waiting ends only by a change.
        while changes.changed().await.is_ok() {
            loop {
                let latest = changes.borrow_and_update().clone();
                let news: Vec<_> = latest
                    .iter()
                    .filter(|(consumer, ack)| done.get(*consumer) != Some(*ack))
                    .filter_map(|(consumer, ack)| ack.map(|a| (consumer.clone(), a)))
                    .collect();
                let outbox = Arc::clone(&outbox);
                match tokio::task::spawn_blocking(move || confirm(&*outbox, &news)).await {
                    Ok(Ok(())) => {
                        (done, said) = (latest, false);
                        delays.reset();
                        touched.notify_one();
                        break;
                    }
                    Ok(Err(e)) => {
                        if !said {
                            said = true;
                            log::error!("alerts are kept longer than need be: {}", Chain(&e));
                        }
                        tokio::time::sleep(delays.next_delay()).await;
                    }
                    Err(e) => match e.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(_) => return,
                    },
                }
            }
        }
    }
}

/// Numbers of another epoch count other alerts, and one above the newest was never given out by this outbox: its sender
/// has an earlier life of the device in mind, and taking its word would let go of rows that it has not seen.
fn confirm(outbox: &dyn Outbox, news: &[(String, Ack)]) -> Result<(), OutboxError> {
    let status = outbox.status()?;
    for (consumer, Ack { seq, epoch }) in news {
        if epoch.is_some_and(|e| e != status.epoch) {
            log::warn!("consumer {consumer} confirms alerts of an earlier life of this device: ignored");
        } else if *seq > status.newest {
            log::warn!("consumer {consumer} confirms alert {seq}, but the newest is {}: ignored", status.newest);
        } else {
            outbox.confirm(consumer, *seq)?;
        }
    }
    Ok(())
}
