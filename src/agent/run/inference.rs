//! The inference stage's thread: frames in, scores out to the incident stage.
//!
//! Batching never waits: what several cameras have queued by the time a pass begins goes into that pass.

use std::sync::Arc;
use std::time::Duration;

use super::events::{Event, Events};
use super::health::Health;
use super::incidents::{Inbox, Work};
use crate::agent::capture::Frame;
use crate::agent::infer::classifier::Classifier;
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::progress::Beat;
use crate::base::queue::{Popped, Queue};

/// The longest wait between two rounds.
const ROUND: Duration = Duration::from_millis(200);
/// Frames in one pass.
const BATCH: usize = 8;

/// See the module's doc.
pub struct Inference {
    /// What comes in.
    pub frames: Queue<Frame>,
    /// Views, engine, windows.
    pub classifier: Classifier,
    /// Where scores go.
    pub inbox: Inbox,
    /// Who watches.
    pub events: Events,
    /// Times and failures are reported here.
    pub health: Arc<Health>,
    /// For those times.
    pub clock: Arc<dyn Clock>,
}

impl Inference {
    /// Runs until the queue is closed and empty.
    pub fn run(mut self, beat: &Beat) {
        loop {
            beat.beat();
            match self.frames.pop(ROUND) {
                Popped::Item(first) => self.pass(first),
                Popped::TimedOut => {}
                Popped::Closed => break,
            }
        }
        beat.end();
    }

    fn pass(&mut self, first: Frame) {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Popped::Item(frame) = self.frames.pop(Duration::ZERO)
        {
            batch.push(frame);
        }
        let began = self.clock.now();
        let results = self.classifier.push_batch(&batch);
        self.health.inferred(batch.iter().map(|f| f.arrival), self.clock.now().since(began));
        for (frame, result) in batch.iter().zip(results) {
            match result {
                Ok(Some(score)) => {
                    self.health.scored(&frame.camera);
                    self.inbox.push(Work::Score(score.clone()));
                    self.events.announce(Event::Score(score));
                }
                Ok(None) => {}
                Err(e) => {
                    // An engine that fails may fail eight times a second; the counter tells the rest.
                    if self.health.inference_failed(&frame.camera) {
                        log::error!(camera:% = frame.camera; "{}", Chain(&e));
                    }
                }
            }
        }
    }
}
