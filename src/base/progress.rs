//! Whether every stage still goes round its loop: what the watchdog asks before it pings systemd.
//!
//! A stage beats once a round; waiting with a bound is going round. A stage that has ended is not asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Debug)]
struct Stage {
    name: String,
    rounds: AtomicU64,
    ended: AtomicBool,
}

/// A stage's own handle.
#[derive(Debug, Clone)]
pub struct Beat(Arc<Stage>);

impl Beat {
    /// A handle that no registry asks: tests, and commands without a watchdog.
    pub fn detached() -> Self {
        Progress::default().register("detached")
    }

    /// Says "I went round".
    pub fn beat(&self) {
        self.0.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// Says "I am done and won't go round again".
    pub fn end(&self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}

/// The registry of all stages of one daemon.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Mutex<Vec<Watched>>>);

/// A stage, and its rounds when they were last looked at.
#[derive(Debug)]
struct Watched {
    stage: Arc<Stage>,
    seen: u64,
}

impl Progress {
    /// Registers a stage.
    pub fn register(&self, name: impl Into<String>) -> Beat {
        let stage = Arc::new(Stage { name: name.into(), rounds: AtomicU64::new(1), ended: AtomicBool::new(false) });
        self.0.lock().expect("nothing panics under this lock").push(Watched { stage: Arc::clone(&stage), seen: 0 });
        Beat(stage)
    }

    /// The stages that have not gone round since this was last asked.
    pub fn stuck(&self) -> Vec<String> {
        let mut stages = self.0.lock().expect("nothing panics under this lock");
        stages.retain(|w| !w.stage.ended.load(Ordering::Relaxed));
        let mut stuck = Vec::new();
        for watched in stages.iter_mut() {
            let rounds = watched.stage.rounds.load(Ordering::Relaxed);
            if rounds == watched.seen {
                stuck.push(watched.stage.name.clone());
            }
            watched.seen = rounds;
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_one_that_hangs() {
        let progress = Progress::default();
        let (a, b) = (progress.register("a"), progress.register("b"));
        assert!(progress.stuck().is_empty(), "a new stage gets a first interval");
        a.beat();
        assert_eq!(progress.stuck(), ["b"]);
        b.end();
        a.beat();
        assert!(progress.stuck().is_empty());
    }
}
