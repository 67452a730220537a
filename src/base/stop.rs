//! One token that asks everything that holds it to end; threads wait on it, tasks await it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tokio::sync::watch;

#[derive(Debug)]
struct Shared {
    stopped: Mutex<bool>,
    changed: Condvar,
    tasks: watch::Sender<bool>,
}

/// A cheap, clonable request to stop. Once stopped it stays so.
#[derive(Debug, Clone)]
pub struct StopToken(Arc<Shared>);

impl Default for StopToken {
    fn default() -> Self {
        Self::new()
    }
}

impl StopToken {
    /// A token nobody has stopped yet.
    pub fn new() -> Self {
        StopToken(Arc::new(Shared {
            stopped: Mutex::new(false),
            changed: Condvar::new(),
            tasks: watch::Sender::new(false),
        }))
    }

    /// Asks every holder to end.
    pub fn stop(&self) {
        *self.0.stopped.lock().expect("the flag's lock is never held across code that panics") = true;
        self.0.changed.notify_all();
        self.0.tasks.send_replace(true);
    }

    /// Whether a stop was asked for.
    pub fn is_stopped(&self) -> bool {
        *self.0.stopped.lock().expect("the flag's lock is never held across code that panics")
    }

    /// Sleeps for `d` or until stopped; true if stopped. The only way a stage waits for time.
    pub fn wait(&self, d: Duration) -> bool {
        let guard = self.0.stopped.lock().expect("the flag's lock is never held across code that panics");
        let (guard, _) = self
            .0
            .changed
            .wait_timeout_while(guard, d, |stopped| !*stopped)
            .expect("the flag's lock is never held across code that panics");
        *guard
    }

    /// Completes when stopped.
    pub async fn stopped(&self) {
        // The sender lives in `self`, so waiting can only end by the value.
        self.0.tasks.subscribe().wait_for(|s| *s).await.map(|_| ()).unwrap_or(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wakes_a_waiting_thread_at_once() {
        let token = StopToken::new();
        let waiter = std::thread::spawn({
            let token = token.clone();
            move || token.wait(Duration::from_secs(60))
        });
        token.stop();
        assert!(waiter.join().expect("the waiter does not panic"));
        assert!(token.is_stopped());
    }

    #[test]
    fn a_wait_that_runs_out_says_so() {
        assert!(!StopToken::new().wait(Duration::from_millis(1)));
    }

    #[tokio::test]
    async fn tasks_see_a_stop_that_came_before_they_asked() {
        let token = StopToken::new();
        token.stop();
        token.stopped().await;
    }
}
