//! What a classifier makes of many cameras' frames, on the scripted engine.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::agent::infer::{Encoder, scripted};
use crate::base::clock::Mono;

fn frame(camera: &str, at_ms: u64, brightness: u8) -> Frame {
    let at = Mono::from_millis(at_ms);
    Frame {
        camera: CameraId::new(camera),
        at,
        arrival: at + Duration::from_millis(3),
        width: 48,
        height: 27,
        rgb: vec![brightness; 48 * 27 * 3].into(),
        discontinuity: false,
        sample_fps: 8.0,
    }
}

fn classifier() -> Classifier {
    let manifest = Arc::new(scripted::manifest());
    let engine = scripted::by_brightness(&manifest);
    Classifier::new(manifest, engine, Options::default())
}

/// An engine that gives NaN for whatever is brighter than 250.
fn classifier_with_nan() -> Classifier {
    struct Blinded(Box<dyn Encoder>);
    impl Encoder for Blinded {
        fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
            match views.iter().position(|v| v[0] > 250) {
                Some(item) => Err(EngineError::NotFinite { network: Network::Encoder, item }),
                None => self.0.encode(views),
            }
        }
        fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
            self.0.features(slot)
        }
    }
    let manifest = Arc::new(scripted::manifest());
    let engine =
        scripted::engine(&manifest, |w| if w[15] == 0.0 { vec![f32::NAN; 2] } else { vec![w[15], 1.0 - w[15]] });
    let engine = Engine { encoder: Box::new(Blinded(engine.encoder)), ..engine };
    Classifier::new(manifest, engine, Options::default())
}

#[test]
fn a_score_after_sixteen_frames_and_then_every_stride() {
    let mut c = classifier();
    let made: Vec<_> =
        (0..24).filter_map(|n| c.push(&frame("door", n * 125, 102)).expect("good frames").map(|s| (n, s))).collect();
    assert_eq!(made.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [15, 19, 23]);
    let s = &made[1].1;
    assert_eq!((s.camera.0.as_ref(), s.start, s.end), ("door", Mono::from_millis(500), Mono::from_millis(2375)));
    assert_eq!(s.arrival, Mono::from_millis(2378));
    assert!((s.sample_fps - 8.0).abs() < 1e-4 && !s.padded);
    assert!((s.probabilities[0] - 0.4).abs() < 1e-3, "{s:?}");
    assert_eq!(c.encoded(), 24);
    assert_eq!(c.finish(&CameraId::new("door")).expect("nothing to classify"), None, "windows were made");
}

#[test]
fn a_gap_starts_the_window_anew() {
    let mut c = classifier();
    let times = (0..15).chain(18..33).map(|n| n * 125);
    let made = times.filter_map(|t| c.push(&frame("door", t, 9)).expect("good frames")).count();
    assert_eq!(made, 0, "15 frames, a gap, 15 frames");
    let s = c.push(&frame("door", 33 * 125, 9)).expect("a good frame").expect("the sixteenth after the gap");
    assert_eq!(s.start, Mono::from_millis(18 * 125));
}

#[test]
fn too_short_a_video_is_padded_once_and_forgotten() {
    let mut c = classifier();
    for n in 0..5 {
        assert_eq!(c.push(&frame("a.mp4", n * 125, 51)).expect("a good frame"), None);
    }
    let id = CameraId::new("a.mp4");
    let s = c.finish(&id).expect("it can be padded").expect("five frames were seen");
    assert!(s.padded && (s.probabilities[0] - 0.2).abs() < 1e-3, "{s:?}");
    assert_eq!((s.start, s.end), (Mono::ZERO, Mono::from_millis(500)));
    assert_eq!(c.finish(&id).expect("nothing to classify"), None);
}

#[test]
fn the_caller_may_choose_rate_and_stride() {
    let manifest = Arc::new(scripted::manifest());
    let engine = scripted::by_brightness(&manifest);
    let mut c =
        Classifier::new(manifest, engine, Options { sample_fps: Some(2.0), stride: Some(1), replaceable: false });
    let made: Vec<_> = (0..18).filter_map(|n| c.push(&frame("slow", n * 500, 9)).expect("good frames")).collect();
    assert_eq!(made.len(), 3, "half a second is no gap at 2 frames a second");
    assert!((made[0].sample_fps - 2.0).abs() < 1e-4);
}

#[test]
fn frames_of_a_batch_share_no_fate() {
    let (mut batched, mut alone) = (classifier_with_nan(), classifier_with_nan());
    for n in 0..20 {
        let ill = frame("ill", n * 125, if n == 17 { 255 } else { 100 });
        let results = batched.push_batch(&[frame("a", n * 125, 50), ill, frame("b", n * 125, 200)]);
        assert_eq!(results.len(), 3);
        for (camera, brightness, result) in [("a", 50, &results[0]), ("b", 200, &results[2])] {
            let expected = alone.push(&frame(camera, n * 125, brightness)).expect("a good frame");
            assert_eq!(result.as_ref().expect("a good frame"), &expected);
        }
        match &results[1] {
            Err(e) => {
                let text = e.to_string();
                assert_eq!(n, 17);
                assert!(text.contains("scripted 0.1.0") && text.contains("camera ill, frame at 2125 ms"), "{text}");
            }
            Ok(score) => assert_eq!(score.is_some(), n == 15, "and after the failure a window is filled anew"),
        }
    }
}

#[test]
fn nan_of_the_head_is_an_error_and_no_score() {
    let mut c = classifier_with_nan();
    let results: Vec<_> = (0..16).map(|n| c.push(&frame("dark", n * 125, 0))).collect();
    let e = results[15].as_ref().expect_err("the script gives NaN").to_string();
    assert!(e.contains("head, camera dark, frame at 1875 ms"), "{e}");
    assert!(results[..15].iter().all(|r| matches!(r, Ok(None))));
}

#[test]
fn a_broken_frame_names_its_camera_and_costs_its_window() {
    let mut c = classifier();
    for n in 0..15 {
        c.push(&frame("door", n * 125, 9)).expect("a good frame");
    }
    let broken = Frame { rgb: Arc::from([1u8, 2]), ..frame("door", 15 * 125, 9) };
    let e = c.push(&broken).expect_err("two bytes are no picture").to_string();
    assert!(e.contains("camera door, frame at 1875 ms"), "{e}");
    assert_eq!(c.push(&frame("door", 16 * 125, 9)).expect("a good frame"), None);
}

#[test]
fn a_reset_camera_starts_anew_and_slots_do_not_pile_up() {
    let mut c = classifier();
    for n in 0..15 {
        c.push(&frame("door", n * 125, 9)).expect("a good frame");
    }
    c.reset(&CameraId::new("door"));
    assert_eq!(c.push(&frame("door", 15 * 125, 9)).expect("a good frame"), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]

    /// Batched or one by one, in whatever order cameras come: the same scores.
    #[test]
    fn batches_change_nothing(picks in prop::collection::vec((0usize..3, 60u64..400, any::<u8>()), 1..150), batch in 1usize..7) {
        let (mut batched, mut alone) = (classifier(), classifier());
        let mut now = [0; 3];
        let frames: Vec<_> = picks
            .into_iter()
            .map(|(camera, step, brightness)| {
                now[camera] += step;
                frame(["a", "b", "c"][camera], now[camera], brightness)
            })
            .collect();
        for some in frames.chunks(batch) {
            for (together, f) in batched.push_batch(some).into_iter().zip(some) {
                let together = together.expect("good frames");
                prop_assert_eq!(&together, &alone.push(f).expect("good frames"));
                if let Some(s) = together {
                    prop_assert_eq!(&s.camera, &f.camera);
                    prop_assert!((s.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                }
            }
        }
        prop_assert_eq!(batched.encoded(), frames.len() as u64);
    }
}

/// What two cameras score over 40 frames; before frame `at`, `replace` may do something.
fn scores_of_two(options: Options, at: u64, replace: impl Fn(&mut Classifier)) -> Vec<Score> {
    let manifest = Arc::new(scripted::manifest());
    let engine = scripted::by_brightness(&manifest);
    let mut c = Classifier::new(manifest, engine, options);
    let mut scores = Vec::new();
    for n in 0..40u64 {
        if n == at {
            replace(&mut c);
        }
        // The second camera loses half a second on the way, and another one comes later.
        let second = if n < 20 { n * 125 } else { n * 125 + 500 };
        let batch = [frame("a", n * 125, (n * 6) as u8), frame("b", second, (250 - n * 5) as u8)];
        scores.extend(c.push_batch(&batch).into_iter().filter_map(|r| r.expect("good frames")));
    }
    scores
}

#[test]
fn an_engine_that_takes_over_knows_what_the_one_before_saw() {
    let options = Options { replaceable: true, ..Options::default() };
    let expected = scores_of_two(options, 99, |_| {});
    assert!(expected.len() > 10, "{}", expected.len());
    for at in [1, 7, 16, 21, 30] {
        let found = scores_of_two(options, at, |c| {
            let other = scripted::by_brightness(&scripted::manifest());
            assert!(c.replace(other).is_ok());
        });
        assert_eq!(found, expected, "replaced before frame {at}");
    }
}

#[test]
fn an_engine_that_cannot_take_over_leaves_the_one_before_as_it_was() {
    struct Broken;
    impl Encoder for Broken {
        fn encode(&mut self, _: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
            Err(EngineError::Run { network: Network::Encoder, source: "the GPU fell off the bus".into() })
        }
        fn features(&self, _: &Slot) -> Result<Vec<f32>, EngineError> {
            Err(EngineError::ForeignSlot)
        }
    }
    let options = Options { replaceable: true, ..Options::default() };
    let expected = scores_of_two(options, 99, |_| {});
    let found = scores_of_two(options, 20, |c| {
        let other = Engine { encoder: Box::new(Broken), ..scripted::by_brightness(&scripted::manifest()) };
        let (_, e) = c.replace(other).err().expect("it does not work");
        assert!(e.to_string().contains("encoder"), "{e}");
    });
    assert_eq!(found, expected);
}
