//! What several tests stand on: programs and devices that are real, or as good as.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

pub mod agent;
pub mod broker;
pub mod bucket;
pub mod camera;
#[cfg(feature = "fleet")]
pub mod fleet;
#[cfg(feature = "fleet")]
pub mod enrol;
pub mod netns;
pub mod odd_camera;
pub mod pki;
#[cfg(feature = "fleet")]
pub mod postgres;
pub mod relay;
pub mod rtsp;
#[cfg(feature = "fleet")]
pub mod updating;
#[cfg(feature = "fleet")]
pub mod simulated;
pub mod video;

use std::time::Duration;

use vedette::base::clock::{Clock, SystemClock};
use vedette::base::stop::StopToken;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer; panics with `what` after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let (clock, never) = (SystemClock::new(), StopToken::new());
    while clock.now().as_millis() < PATIENCE.as_millis() as u64 {
        if let Some(answer) = ask() {
            return answer;
        }
        never.wait(Duration::from_millis(10));
    }
    panic!("waited {} s in vain for {what}", PATIENCE.as_secs());
}
