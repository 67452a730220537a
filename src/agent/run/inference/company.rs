//! Which cameras a pass may wait for: one pass over four frames costs a GPU little more than one over one.
//!
//! Pure. A camera is waited for if its next frame is due by the end of the wait, going by its last one and its rate. One
//! that is dead, or whose turn is later, is never waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::agent::capture::Frame;
use crate::agent::config::CameraId;
use crate::agent::infer::window::GAP_PERIODS;
use crate::base::clock::Mono;

/// The longest that a pass waits for company. A frame comes every 125 ms at 8 a second, and its alert is 30 ms away.
pub const WAIT: Duration = Duration::from_millis(4);
/// Frames come so much early, in parts of their period: networks and decoders are not clocks.
const EARLY: f64 = 0.1;

/// When each camera gave its last frame, and how far apart they are.
#[derive(Debug, Default)]
pub struct Company(BTreeMap<CameraId, (Mono, Duration)>);

impl Company {
    /// A frame has come.
    pub fn came(&mut self, frame: &Frame, now: Mono) {
        let period = Duration::from_secs_f64(1.0 / f64::from(frame.sample_fps.max(0.1)));
        self.0.insert(frame.camera.clone(), (now, period));
    }

    /// Whether a pass over `batch` that waits until `until` may gain another camera's frame.
    pub fn awaits(&self, batch: &[Frame], now: Mono, until: Mono) -> bool {
        self.0.iter().any(|(camera, (last, period))| {
            let due = *last + period.mul_f64(1.0 - EARLY);
            let dead = *last + period.mul_f64(GAP_PERIODS);
            due <= until && now < dead && !batch.iter().any(|frame| frame.camera == *camera)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(camera: &str, sample_fps: f32) -> Frame {
        Frame {
            camera: CameraId::new(camera),
            at: Mono::ZERO,
            arrival: Mono::ZERO,
            width: 0,
            height: 0,
            rgb: Vec::new().into(),
            discontinuity: false,
            sample_fps,
        }
    }

    fn ms(n: u64) -> Mono {
        Mono::from_millis(n)
    }

    #[test]
    fn one_whose_turn_it_is_is_waited_for_and_nobody_else() {
        let mut company = Company::default();
        let (a, b) = (frame("a", 8.0), frame("b", 8.0));
        let awaits = |company: &Company, now: u64| company.awaits(std::slice::from_ref(&a), ms(now), ms(now) + WAIT);
        company.came(&a, ms(1000));
        assert!(!awaits(&company, 1000), "there is nobody else");
        company.came(&b, ms(1000));
        assert!(!awaits(&company, 1050), "its next frame is far away");
        assert!(awaits(&company, 1110) && awaits(&company, 1125) && awaits(&company, 1300));
        assert!(!awaits(&company, 1320), "it is dead");
        assert!(!company.awaits(&[a.clone(), b.clone()], ms(1125), ms(1129)), "it is there");
    }

    proptest! {
        #[test]
        fn a_dead_camera_is_never_waited_for(last in 0_u64..10_000, later in 0_u64..100_000, fps in 0.5_f32..60.0) {
            let mut company = Company::default();
            company.came(&frame("b", fps), ms(last));
            let now = ms(last + later);
            let silent = now.since(ms(last)).as_secs_f64() * f64::from(fps);
            if company.awaits(&[frame("a", fps)], now, now + WAIT) {
                prop_assert!(silent < GAP_PERIODS);
            }
        }
    }
}
