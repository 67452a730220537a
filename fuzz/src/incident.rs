//! Any evidence in any order: the incident machine's invariants, by its public face alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use uuid::Uuid;
use vedette::agent::config::{self, CameraId};
use vedette::agent::incident::{EvidenceSource, Input, Machine, Thresholds, Transition};
use vedette::agent::infer::Score;
use vedette::base::clock::Mono;
use vedette::contract::alert::NORMAL;

use super::video::some;

const CLASSES: [&str; 3] = ["Normal", "Fighting", "Robbery"];

#[derive(Debug, Arbitrary)]
enum Act {
    Score {
        camera: u8,
        forward_ms: u16,
        back_ms: u16,
        length_ms: u16,
        scores: [f32; 3],
        fps: f32,
    },
    /// One number of scores too few, or too many.
    Misfit {
        camera: u8,
        scores: u8,
    },
    Test(u8),
    Lost(u8),
    Tick(u16),
    Reconfigure(Settings),
    Stop,
}

#[derive(Debug, Arbitrary)]
struct Settings {
    smoothing: u8,
    hysteresis: u8,
    min_windows: u8,
    seconds: [u8; 5],
    thresholds: [u8; 3],
}

impl Settings {
    /// Within the limits that the configuration keeps.
    fn incident(&self) -> config::Incident {
        let [close, cool, merge, max, update] = self.seconds.map(u64::from);
        let max = 10 + max;
        config::Incident {
            smoothing: (f32::from(self.smoothing) + 1.0) / 256.0,
            hysteresis: f32::from(self.hysteresis) / 512.0,
            min_windows: 1 + u32::from(self.min_windows) % 64,
            close_after: Duration::from_secs(close % max),
            cool_down: Duration::from_secs(cool),
            merge_within: Duration::from_secs(merge % max),
            max_length: Duration::from_secs(max),
            update_every: Duration::from_secs(1 + update),
        }
    }

    fn thresholds(&self) -> Thresholds {
        let levels = self.thresholds.map(|t| (f32::from(t) + 1.0) / 256.0);
        Thresholds { model: CLASSES.map(String::from).into_iter().zip(levels).collect(), cameras: BTreeMap::new() }
    }
}

/// See [`super`].
pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(first) = Settings::arbitrary(&mut u) else { return };
    let Ok(mut acts) = some::<Act>(&mut u, 400) else { return };
    acts.push(Act::Stop);
    let mut machine = Machine::new(CLASSES.map(String::from).to_vec(), first.incident(), first.thresholds());
    let (mut now, mut ids) = (Mono::from_millis(100_000), 0);
    let (mut open, mut seen, mut longest) = (BTreeMap::new(), BTreeSet::new(), first.incident().max_length);
    for act in &acts {
        let Some(input) = input(act, &mut now, &mut machine, &mut longest) else { continue };
        let transitions = machine.step(now, input, &mut || {
            ids += 1;
            Uuid::from_u128(ids)
        });
        for t in transitions {
            let i = t.incident().clone();
            assert!(i.start <= i.peak_at && i.peak_at <= i.end && i.end.since(i.start) <= longest, "{i:?}");
            assert!(i.class != NORMAL && i.peak_score.is_finite(), "{i:?}");
            match &t {
                Transition::Opened(_) => {
                    assert!(seen.insert(i.id), "an id twice");
                    open.insert(i.id, i);
                }
                Transition::Updated(_) => assert!(open.contains_key(&i.id), "updated and not open"),
                Transition::Closed(..) => assert!(open.remove(&i.id).is_some(), "closed and not open"),
            }
        }
        let mut cameras: Vec<_> =
            open.values().filter(|i| i.source == EvidenceSource::Classifier).map(|i| &i.camera).collect();
        let all = cameras.len();
        cameras.dedup();
        cameras.sort();
        cameras.dedup();
        assert_eq!(cameras.len(), all, "two classifier incidents on one camera");
    }
    assert!(open.is_empty(), "left open: {open:?}");
}

/// What an act means; none where it is a change of settings.
fn input(act: &Act, now: &mut Mono, machine: &mut Machine, longest: &mut Duration) -> Option<Input> {
    let name = |c: u8| CameraId::new(["a", "b", "c"][usize::from(c % 3)]);
    let score = |camera, end: Mono, length_ms: u16, probabilities: Vec<f32>, sample_fps| {
        let start = end.back(Duration::from_millis(length_ms.into()));
        let camera = name(camera);
        Input::Score(Score {
            camera,
            start,
            end,
            arrival: end,
            probabilities: probabilities.into(),
            sample_fps,
            padded: false,
        })
    };
    Some(match act {
        Act::Score { camera, forward_ms, back_ms, length_ms, scores, fps } => {
            *now = *now + Duration::from_millis(u64::from(forward_ms % 1500));
            let back = if back_ms % 8 == 0 { back_ms % 3000 } else { 0 };
            score(*camera, now.back(Duration::from_millis(back.into())), *length_ms, scores.to_vec(), *fps)
        }
        Act::Misfit { camera, scores } => score(*camera, *now, 2000, vec![0.9; usize::from(scores % 6)], 8.0),
        Act::Test(c) => Input::Test { camera: name(*c) },
        Act::Lost(c) => Input::CameraLost { camera: name(*c) },
        Act::Tick(forward_ms) => {
            *now = *now + Duration::from_millis((*forward_ms).into());
            Input::Tick
        }
        Act::Reconfigure(settings) => {
            // What is open already keeps what it has.
            *longest = (*longest).max(settings.incident().max_length);
            machine.reconfigure(settings.incident(), settings.thresholds());
            return None;
        }
        Act::Stop => Input::Stop,
    })
}
