//! A stage: one named OS thread that is always joined, with a deadline, and whose panic is seen.

use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

/// How a stage ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It returned.
    Done,
    /// It panicked, with this message.
    Panicked(String),
    /// It had not ended by the deadline and was left behind.
    TimedOut,
}

/// A running stage.
#[derive(Debug)]
pub struct Stage {
    name: String,
    thread: Option<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl Stage {
    /// Starts `body` on its own thread. `on_panic` runs on that thread if `body` panics, after unwinding.
    pub fn spawn(
        name: impl Into<String>,
        on_panic: impl FnOnce() + Send + 'static,
        body: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Stage> {
        let name = name.into();
        let (tx, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            // Dropped last, also while unwinding: the joiner then knows that the thread is at its end.
            let _at_end = tx;
            if let Err(cause) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)) {
                on_panic();
                std::panic::resume_unwind(cause);
            }
        })?;
        Ok(Stage { name, thread: Some(thread), ended })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for its end, at most `deadline`.
    pub fn join(mut self, deadline: Duration) -> Ended {
        // Nothing is ever sent: either the sender goes (the thread is ending) or the time runs out.
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.ended.recv_timeout(deadline) {
            return Ended::TimedOut;
        }
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(())) => Ended::Done,
            Some(Err(cause)) => Ended::Panicked(
                cause
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| cause.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "a panic without a message".into()),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::stop::StopToken;

    #[test]
    fn a_panic_is_seen_and_named() {
        let told = StopToken::new();
        let on_panic = told.clone();
        let stage = Stage::spawn("p", move || on_panic.stop(), || panic!("out of range")).expect("threads can be had");
        assert_eq!(stage.join(Duration::from_secs(60)), Ended::Panicked("out of range".into()));
        assert!(told.is_stopped());
    }

    #[test]
    fn a_stage_that_hangs_is_left_behind() {
        let stop = StopToken::new();
        let inside = stop.clone();
        let stage = Stage::spawn(
            "h",
            || (),
            move || {
                inside.wait(Duration::from_secs(60));
            },
        )
        .expect("threads can be had");
        assert_eq!(stage.join(Duration::from_millis(5)), Ended::TimedOut);
        stop.stop();
    }
}
