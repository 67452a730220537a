//! The better engine: made ready beside the one that serves, handed over when it is proven, taken back when it fails.
//!
//! ```text
//!   the CPU engine serves ──► better one made (built if need be, proven, measured) ──► handed over ──► it serves
//!            ▲                      │ not ready: said, tried again if that can help                      │
//!            ├──────────────────────┴────────────────── its passes fail one after the other ◄────────────┤
//!            └───── for good: said as an error, with the remedy ◄── its device is lost to this process ◄─┘
//! ```
//!
//! After some errors CUDA is of no more use to the process ("must be terminated and relaunched"). The daemon does not end
//! itself for that: the CPU serves, and a person decides when video may stop for a restart.
//!
//! Its thread is not one that the watchdog asks: it may wait for minutes inside somebody else's code while the engine that
//! serves goes on. What ends the whole process is noted before it is tried (`infer::tensorrt::cache`), and is not tried for
//! ever.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::health::Health;
use crate::agent::infer::Engine;
use crate::base::error::Chain;
use crate::base::stage::{Ended, Stage};
use crate::base::stop::StopToken;

/// How often the keeper looks after an engine that serves.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After an engine has failed, or could not be made for want of something that may come.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// A keeper that was told to end.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// An engine that has served for a minute takes no process with it.
const SETTLED_AFTER_LOOKS: u32 = 120;
/// Between two tries to have any engine at all.
const FALLBACK_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Why there is no better engine.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(not(any(feature = "tensorrt", test)), expect(dead_code, reason = "nothing better was built in"))]
pub enum Never {
    /// This machine has none, and nothing is wrong.
    None,
    /// Said to the operator; trying again would come to the same.
    Refused(String),
    /// Said to the operator; it may go better in a while.
    NotNow(String),
    /// Said to the operator: what it runs on is of no more use to this process.
    Lost(String),
}

/// What is wrong with an engine that was taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Broken {
    /// Its passes fail one after the other.
    Fails,
    /// What it runs on is of no more use to this process, and why.
    Lost(String),
}

/// How an engine stopped serving.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum End {
    /// A better one took over.
    #[default]
    Good,
    /// Its passes failed.
    Failed,
    /// What it runs on is of no more use to this process.
    Lost,
}

/// What to do about it.
const AFTER_A_RESTART: &str =
    "the GPU can be used again only after a restart of the daemon (systemctl restart vedette)";

/// Hears how far the making is.
pub type Tell<'a> = &'a mut dyn FnMut(String);

/// Makes better engines.
pub trait Better: Send {
    /// One that is proven; takes its time, and breaks off when told to.
    fn make(&mut self, stop: &StopToken, tell: Tell<'_>) -> Result<Engine, Never>;

    /// What was made last has served for a while, or ends in good order: it takes no process with it.
    fn settled(&mut self);
}

/// Makes the engine to fall back on.
pub type Fallback = Box<dyn Fn() -> Result<Engine, Box<dyn std::error::Error + Send + Sync>> + Send>;

/// Between the keeper and the inference stage.
#[derive(Default)]
pub struct Handover {
    offered: Mutex<Option<Engine>>,
    /// What served before: to go back to without loading anything.
    spare: Mutex<Option<Engine>>,
    /// What served before and failed.
    failed: Mutex<Option<Engine>>,
    broken: Mutex<Option<Broken>>,
}

impl Handover {
    /// Offers an engine; it is taken before the next pass.
    pub fn offer(&self, engine: Engine) {
        *self.offered.lock().expect("nothing panics under this lock") = Some(engine);
    }

    /// What was offered. What was said of the one before is not said of this one.
    pub fn take(&self) -> Option<Engine> {
        let engine = self.offered.lock().expect("nothing panics under this lock").take();
        if engine.is_some() {
            *self.broken.lock().expect("nothing panics under this lock") = None;
        }
        engine
    }

    /// Keeps what served before, as one to go back to if it is good.
    pub fn keep(&self, engine: Engine, end: End) {
        let place = match end {
            // One that may be lost with the device is nothing to go back to.
            End::Good if engine.info.gains_by_batches => &self.failed,
            End::Good => &self.spare,
            End::Failed => &self.failed,
            // To free it is work for the device, too, which takes none any more: the end of the process frees it.
            End::Lost => return std::mem::forget(engine),
        };
        *place.lock().expect("nothing panics under this lock") = Some(engine);
    }

    /// Nothing that was offered or kept is of use any more: it is of another model.
    pub fn clear(&self) {
        for place in [&self.offered, &self.spare, &self.failed] {
            drop(place.lock().expect("nothing panics under this lock").take());
        }
        *self.broken.lock().expect("nothing panics under this lock") = None;
    }

    fn spare(&self) -> Option<Engine> {
        self.spare.lock().expect("nothing panics under this lock").take()
    }

    /// Says that what was taken is no good; what was said first stands.
    pub fn is_broken(&self, how: Broken) {
        self.broken.lock().expect("nothing panics under this lock").get_or_insert(how);
    }

    /// What was said of it since this was last asked.
    pub fn was_broken(&self) -> Option<Broken> {
        self.broken.lock().expect("nothing panics under this lock").take()
    }
}

/// The thread of the keeper; one at most.
///
/// Locks: one, over which it is; held while one ends.
#[derive(Default)]
pub struct Keepers(Mutex<Option<(StopToken, Stage)>>);

impl Keepers {
    /// Starts one; it is not the watchdog's, and its panic costs the better engine and nothing else.
    pub fn start(&self, keeper: Keeper) -> std::io::Result<()> {
        let stop = StopToken::new();
        let lost = || log::error!("there will be no better engine: its keeper panicked");
        let stage = Stage::spawn("engine", lost, {
            let stop = stop.clone();
            move || keeper.run(&stop)
        })?;
        *self.0.lock().expect("nothing panics under this lock") = Some((stop, stage));
        Ok(())
    }

    /// Ends it; it breaks off what it is at.
    pub fn stop(&self) {
        let keeper = self.0.lock().expect("nothing panics under this lock").take();
        if let Some((stop, stage)) = keeper {
            stop.stop();
            if !matches!(stage.join(ENDS_WITHIN), Ended::Done) {
                log::warn!("the keeper of the better engine did not end in time");
            }
        }
    }

    /// The thread, told to end.
    pub fn ending(&self) -> Option<Stage> {
        let (stop, stage) = self.0.lock().expect("nothing panics under this lock").take()?;
        stop.stop();
        Some(stage)
    }
}

/// What comes after an engine has served.
#[derive(Debug, PartialEq, Eq)]
enum After {
    /// It is tried again.
    Again,
    /// Nothing: the daemon ends, or only its restart would help.
    Nothing,
}

/// See the module's doc.
pub struct Keeper {
    /// Where better ones come from.
    pub better: Box<dyn Better>,
    /// What to go back to.
    pub fallback: Fallback,
    /// Where they go.
    pub handover: Arc<Handover>,
    /// Who is told.
    pub health: Arc<Health>,
}

impl Keeper {
    /// Until it is stopped, or there is nothing more to hope for.
    pub fn run(mut self, stop: &StopToken) {
        while !stop.is_stopped() {
            drop(self.handover.failed.lock().expect("nothing panics under this lock").take());
            let made = {
                let health = &self.health;
                self.better.make(stop, &mut |words| health.better_engine(Some(words)))
            };
            match made {
                Ok(engine) => {
                    self.health.better_engine(None);
                    self.handover.offer(engine);
                    if self.serves(stop) == After::Nothing {
                        return;
                    }
                }
                Err(Never::None) => return self.health.better_engine(None),
                Err(Never::Refused(why)) => {
                    log::error!("{why}; the engine that serves goes on");
                    return self.health.better_engine(Some(format!("not in use: {why}")));
                }
                Err(Never::Lost(why)) => return self.lost(&why),
                Err(Never::NotNow(why)) => {
                    if !stop.is_stopped() {
                        log::warn!("{why}; tried again in {} min", AGAIN_AFTER.as_secs() / 60);
                        self.health.better_engine(Some(format!("not yet: {why}")));
                    }
                }
            }
            stop.wait(AGAIN_AFTER);
        }
    }

    /// Nothing that is tried in this process can help, so nothing is.
    fn lost(&self, why: &str) {
        log::error!("{AFTER_A_RESTART}; until then the CPU serves: {why}");
        self.health.better_engine(Some(format!("lost: {AFTER_A_RESTART}: {why}")));
    }

    /// While it serves, and until the other one serves again should it fail.
    fn serves(&mut self, stop: &StopToken) -> After {
        let mut looks = 0u32;
        while !stop.wait(LOOK_EVERY) {
            looks += 1;
            if looks == SETTLED_AFTER_LOOKS {
                self.better.settled();
            }
            match self.handover.was_broken() {
                None => continue,
                Some(Broken::Fails) => {}
                // Not settled, unless it was before: should it do so at every start, it is not used for ever.
                Some(Broken::Lost(why)) => {
                    self.lost(&why);
                    self.fall_back(stop);
                    return After::Nothing;
                }
            }
            self.better.settled();
            let minutes = AGAIN_AFTER.as_secs() / 60;
            log::error!(
                "the engine fails with every frame: the CPU takes over, and it is tried again in {minutes} min"
            );
            self.health.better_engine(Some("it failed with every frame, and is tried again".into()));
            self.fall_back(stop);
            return After::Again;
        }
        self.better.settled();
        After::Nothing
    }

    /// Until it has come about: without it the cameras are blind.
    fn fall_back(&self, stop: &StopToken) {
        if let Some(spare) = self.handover.spare() {
            return self.handover.offer(spare);
        }
        loop {
            match (self.fallback)() {
                Ok(engine) => return self.handover.offer(engine),
                Err(e) => log::error!("there is nothing to take over: {}", Chain(e.as_ref())),
            }
            if stop.wait(FALLBACK_AGAIN_AFTER) {
                return;
            }
        }
    }
}

#[cfg_attr(feature = "tensorrt", path = "engines/tensorrt.rs")]
#[cfg_attr(not(feature = "tensorrt"), path = "engines/off.rs")]
mod source;
pub use source::better;

#[cfg(test)]
mod tests;
