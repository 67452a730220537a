//! Whether the model sees a camera at all, and if not, why: a camera can be live and recorded while no window is made
//! of it. Pure.

use std::time::Duration;

use crate::agent::infer::window::{LEAST_RATE, is_too_slow};

/// What the model looks at a camera with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Frames a second that it is made for.
    pub model_fps: f32,
    /// Without a window for so long, while video comes, it is blind.
    pub patience: Duration,
}

impl Look {
    /// Of a model with such windows: twice what a window and the way to the next one take at the least rate, and not
    /// below 10 s.
    pub fn of(model_fps: f32, window: usize, stride: usize) -> Self {
        let frames = 2.0 * (window + stride) as f64;
        let slowest = Duration::from_secs_f64(frames / f64::from(model_fps * LEAST_RATE));
        Look { model_fps, patience: slowest.max(Duration::from_secs(10)) }
    }
}

/// What is known of a camera whose video comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// How long video has come, and how long there has been no window of it; the shorter of the two.
    pub without_window: Duration,
    /// Frames a second that came of late.
    pub frames_fps: f32,
    /// Frames a second that were let go for newer ones of late.
    pub overtaken_fps: f32,
    /// What inference said, if it has only failed since the last window.
    pub failing: Option<String>,
}

/// Why a camera is not seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Blind {
    /// Each frame that it was shown made the engine fail.
    Failing(String),
    /// Video comes, pictures don't.
    NoPictures,
    /// It gives too few pictures.
    TooSlow {
        /// What it gives.
        frames_fps: f32,
        /// What it must give.
        least_fps: f32,
        /// What it should give.
        model_fps: f32,
    },
    /// The machine has no time for them.
    Overloaded,
    /// They come in bursts.
    Gaps,
}

/// Whether it is blind.
pub fn blind(look: Look, seen: &Seen) -> Option<Blind> {
    if seen.without_window < look.patience {
        return None;
    }
    Some(match &seen.failing {
        Some(why) => Blind::Failing(why.clone()),
        None if seen.frames_fps == 0.0 => Blind::NoPictures,
        // A quarter of them is more than a camera's own slowness explains.
        None if seen.overtaken_fps * 4.0 > seen.frames_fps => Blind::Overloaded,
        None if is_too_slow(seen.frames_fps, look.model_fps) => Blind::TooSlow {
            frames_fps: seen.frames_fps,
            least_fps: look.model_fps * LEAST_RATE,
            model_fps: look.model_fps,
        },
        None if seen.overtaken_fps > 0.0 => Blind::Overloaded,
        None => Blind::Gaps,
    })
}

impl std::fmt::Display for Blind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Blind::Failing(why) => write!(f, "inference fails on each of its frames: {why}"),
            Blind::NoPictures => f.write_str(
                "video comes, but no picture can be decoded: the camera may send no keyframe; set its keyframe interval \
                 to 2 s or less",
            ),
            Blind::TooSlow { frames_fps, least_fps, model_fps } => write!(
                f,
                "only {frames_fps:.1} frames a second come and the model needs {least_fps:.1}: set the camera to \
                 {model_fps:.0} or more"
            ),
            Blind::Overloaded => f.write_str(
                "the machine has no time for its frames: classify fewer cameras, or use a faster precision",
            ),
            Blind::Gaps => f.write_str("its frames come in bursts with gaps between them: look at the network"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen { without_window: Duration::from_secs(60), frames_fps: 8.0, overtaken_fps: 0.0, failing: None }
    }

    #[test]
    fn says_the_cause_that_explains_most() {
        let look = Look::of(8.0, 16, 4);
        let say = |seen: &Seen| blind(look, seen).map(|b| b.to_string()).expect("a minute without a window");
        assert!(say(&Seen { failing: Some("NaN".into()), frames_fps: 0.0, ..seen() }).ends_with("frames: NaN"));
        assert!(say(&Seen { frames_fps: 0.0, ..seen() }).contains("no picture can be decoded"));
        let slow = say(&Seen { frames_fps: 4.0, overtaken_fps: 1.0, ..seen() });
        assert_eq!(slow, "only 4.0 frames a second come and the model needs 5.0: set the camera to 8 or more");
        assert!(say(&Seen { overtaken_fps: 3.0, ..seen() }).contains("no time for its frames"));
        assert!(say(&Seen { frames_fps: 4.8, overtaken_fps: 3.0, ..seen() }).contains("no time for its frames"));
        assert!(say(&Seen { overtaken_fps: 0.5, ..seen() }).contains("no time for its frames"));
        assert!(say(&seen()).contains("bursts"));
    }

    #[test]
    fn is_patient_for_two_windows() {
        let look = Look::of(8.0, 16, 4);
        assert_eq!(look.patience, Duration::from_secs(10));
        assert_eq!(Look::of(1.0, 16, 16).patience, Duration::from_secs_f64(102.4));
        assert_eq!(blind(look, &Seen { without_window: Duration::from_secs(9), frames_fps: 0.0, ..seen() }), None);
    }
}
