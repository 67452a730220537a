//! How a start of the daemon fails, and how its end went.

use std::fmt;
use std::time::Duration;

use super::{END_WITHIN, offline};
use crate::agent::capture::CaptureError;
use crate::agent::config::Problem;
use crate::agent::http::HttpError;
use crate::agent::store::StoreError;
use crate::base::clock::{Clock, Mono, SystemClock};
use crate::base::stage::{Ended, Stage};

/// Why the daemon did not start. Stages may have been started by then: the program is expected to end.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The model.
    #[error(transparent)]
    Model(#[from] offline::LoadError),
    /// The config names classes that the model has not.
    #[error("the config does not fit the model:\n{}", .0.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n"))]
    Classes(Vec<Problem>),
    /// The database.
    #[error("the store cannot be opened")]
    Store(#[from] StoreError),
    /// The socket.
    #[error("the daemon's socket cannot be opened")]
    Http(#[from] HttpError),
    /// GStreamer.
    #[error("cannot capture video")]
    Capture(#[from] CaptureError),
    /// The operating system gave no thread.
    #[error("cannot start {what}")]
    Thread {
        /// Which.
        what: String,
        /// What it said.
        source: std::io::Error,
    },
}

/// How the end went.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrainReport {
    /// Stages that did not end in time, or panicked, with the message.
    pub troubles: Vec<String>,
}

impl fmt::Display for DrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.troubles.is_empty() {
            f.write_str("everything was drained")
        } else {
            f.write_str(&self.troubles.join("; "))
        }
    }
}

impl DrainReport {
    /// Joins a group of stages, which share `END_WITHIN` and what is `left` of the whole.
    pub(super) fn join(&mut self, stages: Vec<Stage>, left: Duration) {
        let (clock, most) = (SystemClock::new(), END_WITHIN.min(left));
        for stage in stages {
            let name = stage.name().to_owned();
            match stage.join(most.saturating_sub(clock.now().since(Mono::ZERO))) {
                Ended::Done => {}
                Ended::Panicked(message) => self.troubles.push(format!("{name} panicked: {message}")),
                Ended::TimedOut => self.troubles.push(format!("{name} did not end in time")),
            }
        }
    }
}
