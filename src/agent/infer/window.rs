//! The last frames of one camera, contiguous in time, and when the head is due to look at them.
//!
//! Pure: no clock, no engine. What a frame is represented by (a [`Slot`](super::Slot), or anything in tests) is
//! the type parameter.
//!
//! Invariants: a [`Snapshot`] holds exactly the window's length of items, oldest first; the items of one that is
//! not padded were pushed one after another with no restart between them; it is never made at less than
//! [`LEAST_RATE`] of the model's rate.

use std::collections::VecDeque;

use crate::base::clock::Mono;

/// Sampled frames further apart than this many sampling periods are not neighbours.
pub const GAP_PERIODS: f64 = 2.5;

/// A window made at less than this part of the model's rate says nothing: none is made.
pub const LEAST_RATE: f32 = 5.0 / 8.0;
/// What the rate of a window may be off, for each frame is the picture nearest to its time.
const RATE_TOLERANCE: f32 = 0.03;

/// Whether `fps` is too far below the model's rate to look at.
pub fn is_too_slow(fps: f32, model_fps: f32) -> bool {
    fps < model_fps * LEAST_RATE * (1.0 - RATE_TOLERANCE)
}

/// Whether `next` does not follow `previous` closely enough to share a window: more than
/// [`GAP_PERIODS`] / `sample_fps` later, or not later at all.
pub fn is_gap(previous: Mono, next: Mono, sample_fps: f32) -> bool {
    next <= previous || next.since(previous).as_secs_f64() * f64::from(sample_fps) > GAP_PERIODS
}

/// What the window keeps of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Item<T> {
    /// Its features.
    pub features: T,
    /// Presentation time.
    pub at: Mono,
    /// When its access unit came into the process.
    pub arrival: Mono,
    /// Frames a second that its tap aimed at.
    pub sample_fps: f32,
}

/// One window, ready for the head.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot<T> {
    /// Features, oldest first; exactly the window's length.
    pub features: Vec<T>,
    /// Presentation time of the first frame.
    pub start: Mono,
    /// Presentation time of the last.
    pub end: Mono,
    /// When the last frame's access unit came into the process.
    pub arrival: Mono,
    /// Frames a second, as measured over the window; of a single frame, what its tap aimed at.
    pub sample_fps: f32,
    /// The last frame's features stand in for frames that the video did not have.
    pub padded: bool,
}

/// The window of one camera.
///
/// ```text
///   filling ──(length frames)──► full: a snapshot at once, then one every `stride` frames; one that is due while the
///      ▲                           │   frames come too slowly is made as soon as they don't
///      └────────── restart ────────┘
/// ```
#[derive(Debug)]
pub struct Window<T> {
    items: VecDeque<Item<T>>,
    length: usize,
    stride: usize,
    model_fps: f32,
    /// Frames until the next snapshot, once the window is full.
    wait: usize,
    ever_made: bool,
}

impl<T: Clone> Window<T> {
    /// A window of `length` frames, moved on by `stride` frames, both at least 1; of a model for `model_fps` of them a
    /// second.
    pub fn new(length: usize, stride: usize, model_fps: f32) -> Self {
        let (length, stride) = (length.max(1), stride.max(1));
        Window { items: VecDeque::with_capacity(length), length, stride, model_fps, wait: 0, ever_made: false }
    }

    /// Forgets the frames: what comes next does not follow them.
    pub fn restart(&mut self) {
        self.items.clear();
        self.wait = 0;
    }

    /// Puts other features in the place of its frames', oldest first: another engine's of the same frames. Starts anew where
    /// they are not as many.
    pub fn represent(&mut self, features: Vec<T>) {
        if features.len() != self.items.len() {
            return self.restart();
        }
        for (item, features) in self.items.iter_mut().zip(features) {
            item.features = features;
        }
    }

    /// Takes the next frame; a snapshot if one is due.
    pub fn push(&mut self, item: Item<T>) -> Option<Snapshot<T>> {
        if self.items.len() == self.length {
            self.items.pop_front();
        }
        self.items.push_back(item);
        if self.items.len() < self.length {
            return None;
        }
        if self.wait > 0 {
            self.wait -= 1;
        }
        if self.wait > 0 {
            return None;
        }
        let snapshot = self.snapshot()?;
        self.wait = self.stride;
        self.ever_made = true;
        Some(snapshot)
    }

    /// The end of a video: if it was too short for any window, the one it would have made with its last frame
    /// repeated. A live camera is never finished.
    pub fn finish(&self) -> Option<Snapshot<T>> {
        if self.ever_made { None } else { self.snapshot() }
    }

    fn snapshot(&self) -> Option<Snapshot<T>> {
        let (first, last) = (self.items.front()?, self.items.back()?);
        let missing = self.length - self.items.len();
        let intervals = self.items.len() - 1;
        let sample_fps = match intervals {
            0 => last.sample_fps,
            n => (n as f64 / last.at.since(first.at).as_secs_f64()) as f32,
        };
        if is_too_slow(sample_fps, self.model_fps) {
            return None;
        }
        let features = self.items.iter().chain(std::iter::repeat_n(last, missing)).map(|i| i.features.clone());
        Some(Snapshot {
            features: features.collect(),
            start: first.at,
            end: last.at,
            arrival: last.arrival,
            sample_fps,
            padded: missing > 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(n: u64, at: Mono) -> Item<u64> {
        Item { features: n, at, arrival: at, sample_fps: 8.0 }
    }

    #[test]
    fn a_gap_is_more_than_two_and_a_half_periods_or_a_step_back() {
        let t = Mono::from_millis(1000);
        let after = |us: u64| Mono::from_nanos(t.as_nanos() + us * 1000);
        assert!(!is_gap(t, after(312_500), 8.0));
        assert!(is_gap(t, after(312_501), 8.0));
        assert!(is_gap(t, t, 8.0));
        assert!(is_gap(t, Mono::ZERO, 8.0));
    }

    #[test]
    fn says_the_rate_it_was_made_at() {
        let mut w = Window::new(16, 4, 8.0);
        let made: Vec<_> = (0..16).filter_map(|n| w.push(item(n, Mono::from_millis(n * 200)))).collect();
        assert_eq!(made.len(), 1);
        assert!((made[0].sample_fps - 5.0).abs() < 1e-4, "{}", made[0].sample_fps);
        assert_eq!((made[0].start, made[0].end), (Mono::ZERO, Mono::from_millis(3000)));
    }

    #[test]
    fn frames_that_come_too_slowly_make_no_window_and_the_first_fast_enough_does() {
        let mut w = Window::new(4, 2, 8.0);
        let mut at = 0;
        let mut push = |w: &mut Window<u64>, step_ms: u64| {
            at += step_ms;
            w.push(item(at, Mono::from_millis(at))).map(|s| s.sample_fps)
        };
        // 4 frames a second: below 5.
        assert!((0..20).all(|_| push(&mut w, 250).is_none()));
        assert_eq!(w.finish(), None, "nor at the end of a file");
        assert!(push(&mut w, 125).is_none(), "3 intervals of 625 ms together: 4.8 a second");
        let fps = push(&mut w, 125).expect("500 ms together");
        assert!((fps - 6.0).abs() < 1e-3, "{fps}");
        assert!(push(&mut w, 125).is_none(), "the stride counts from the one that was made");
        assert!(push(&mut w, 125).is_some());
        assert!(!is_too_slow(4.95, 8.0) && is_too_slow(4.8, 8.0));
    }

    #[test]
    fn a_short_video_is_padded_with_its_last_frame_and_a_long_one_never() {
        let mut w = Window::new(4, 1, 8.0);
        assert_eq!(w.finish(), None, "nothing was seen");
        w.push(item(7, Mono::from_millis(0)));
        let one = w.finish().expect("one frame is enough to pad");
        assert_eq!((one.features, one.padded, one.sample_fps), (vec![7; 4], true, 8.0));
        w.push(item(8, Mono::from_millis(125)));
        let two = w.finish().expect("as above");
        assert_eq!((two.features, two.padded), (vec![7, 8, 8, 8], true));
        w.push(item(9, Mono::from_millis(250)));
        let full = w.push(item(10, Mono::from_millis(375))).expect("four frames");
        assert!(!full.padded);
        w.restart();
        w.push(item(11, Mono::from_millis(2000)));
        assert_eq!(w.finish(), None, "a window was made before the gap");
    }

    proptest! {
        /// Whatever gaps come, a snapshot holds neighbours only, and one is made as often as it should be.
        #[test]
        fn windows_are_contiguous(
            steps in prop::collection::vec((1u64..400, prop::bool::weighted(0.02)), 1..200),
            length in 1usize..20,
            stride in 1usize..20,
        ) {
            // A model so slow that no camera is slower.
            let mut w = Window::new(length, stride, 0.0);
            let (mut at, mut run, mut last) = (Mono::ZERO, Vec::new(), None);
            for (n, (step_ms, discontinuity)) in steps.into_iter().enumerate() {
                at = Mono::from_millis(at.as_millis() + step_ms);
                if discontinuity || last.is_some_and(|l| is_gap(l, at, 8.0)) {
                    w.restart();
                    run.clear();
                }
                last = Some(at);
                run.push(n as u64);
                let made = w.push(item(n as u64, at));
                let due = run.len() >= length && (run.len() - length).is_multiple_of(stride);
                prop_assert_eq!(made.is_some(), due);
                if let Some(s) = made {
                    prop_assert_eq!(&s.features[..], &run[run.len() - length..]);
                    prop_assert!(!s.padded);
                    prop_assert!(s.end.since(s.start).as_secs_f64() <= (length - 1) as f64 * GAP_PERIODS / 8.0);
                }
            }
        }
    }
}
