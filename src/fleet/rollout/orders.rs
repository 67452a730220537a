//! What a person may tell a roll-out: to wait, to go on, to end. Pure; whoever carries it out stores the result.

use super::state::{Phase, Rollout};
use crate::base::clock::Wall;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Offer nobody until told otherwise. Who is at it goes on, and the gates are watched.
    Pause,
    /// Go on.
    Resume,
    /// Offer nobody any more, and call off who is at it.
    Abort {
        /// In the person's words.
        why: Option<String>,
    },
}

/// Why it cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// It is over.
    #[error("the roll-out {id} is {phase}, which is final; to go on, start another")]
    Final {
        /// Which.
        id: String,
        /// How it ended.
        phase: &'static str,
    },
}

impl Order {
    /// What becomes of the roll-out. What is so already stays.
    pub fn apply(&self, now: Wall, by: &str, rollout: &Rollout) -> Result<Rollout, OrderError> {
        let mut next = rollout.clone();
        let said = match (self, &rollout.head.phase) {
            (Order::Pause, Phase::Paused { .. }) | (Order::Resume, Phase::Running) => return Ok(next),
            (Order::Abort { .. }, Phase::Aborted { .. }) => return Ok(next),
            (_, phase) if !phase.is_open() => {
                return Err(OrderError::Final { id: rollout.id.clone(), phase: phase.as_str() });
            }
            (Order::Pause, _) => {
                next.head.phase = Phase::Paused { by: by.to_owned() };
                format!("paused by {by}")
            }
            (Order::Resume, _) => {
                next.head.phase = Phase::Running;
                format!("resumed by {by}")
            }
            (Order::Abort { why }, _) => {
                next.head.phase = Phase::Aborted { by: by.to_owned(), why: why.clone() };
                next.head.hold = None;
                format!("aborted by {by}{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())
            }
        };
        next.note(now, said);
        Ok(next)
    }
}
