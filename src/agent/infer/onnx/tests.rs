//! The CPU engine on the tiny networks: the contract, and what is refused.

use super::*;
use crate::agent::infer::classifier::{Classifier, Options};
use crate::agent::infer::engine_contract;
use crate::agent::infer::golden::tests::moving_square;
use crate::agent::infer::test_model::{Tiny, field, load as engine_of, nested, network};
use crate::base::error::Chain;

#[test]
fn keeps_the_contract() {
    let (_dir, model) = Tiny::new().open();
    engine_contract::holds(model.manifest(), || engine_of(&model));
}

#[test]
fn a_graph_that_is_not_what_the_manifest_says_is_refused_with_both_shapes() {
    let cases = [
        (
            Tiny::new().with("encoder.fp32.onnx", "encoder-width.onnx"),
            "encoder output `features` is float32 [N,5], the manifest says float32 [N,4]",
        ),
        (
            Tiny::new().edited("map = [2, 2]", "map = [7, 7]"),
            "encoder output `map` is float32 [N,4,2,2], the manifest says float32 [N,4,7,7]",
        ),
        (
            Tiny::new().edited("width = 8", "width = 16"),
            "the encoder's input is uint8 [N,8,8,6], the manifest says uint8 [N,8,16,6]",
        ),
        (
            Tiny::new().edited("window = 16", "window = 8"),
            "the head's input is float32 [N,16,4], the manifest says float32 [N,8,4]",
        ),
        (
            Tiny::new().with("head.fp32.onnx", "head-three.onnx"),
            "head output `probabilities` is float32 [N,3], the manifest says float32 [N,2]",
        ),
        (
            Tiny::new().with("head.fp32.onnx", "head-swapped.onnx"),
            "the head's list of labels is Normal,Fighting, the manifest says Fighting,Normal",
        ),
        (
            Tiny::new().with("head.fp32.onnx", "encoder.onnx"),
            "the head's input is uint8 [N,8,8,6], the manifest says float32 [N,16,4]",
        ),
    ];
    for (tiny, expected) in cases {
        let (_dir, model) = tiny.open();
        let e = load(&model, Precision::Fp32, 1, None).err().expect(expected);
        let text = Chain(&e).to_string();
        assert!(text.contains(expected) && text.contains("model tiny 1.2.3"), "{text}");
    }
}

#[test]
fn a_file_that_is_no_graph_is_refused() {
    let mut tiny = Tiny::new();
    tiny.files.insert("head.fp32.onnx", b"no graph at all".to_vec());
    let (_dir, model) = tiny.open();
    let e = load(&model, Precision::Fp32, 1, None).err().expect("fifteen letters are no graph");
    assert!(e.to_string().contains("cannot load the head of tiny 1.2.3"), "{e}");
}

#[test]
fn a_precision_that_the_model_does_not_come_in_is_refused() {
    let (_dir, model) = Tiny::new().open();
    let e = load(&model, Precision::Int8, 1, None).err().expect("only FP32 is there").to_string();
    assert_eq!(e, "model tiny 1.2.3 does not come in int8: it has fp32");
}

#[test]
fn a_graph_changed_after_the_model_was_opened_is_not_loaded() {
    let (dir, model) = Tiny::new().open();
    std::fs::write(dir.path().join("head.fp32.onnx"), crate::agent::infer::test_model::network("head-swapped.onnx"))
        .expect("writable");
    assert!(matches!(load(&model, Precision::Fp32, 1, None), Err(OnnxError::Model(ModelError::Differs { .. }))));
}

#[test]
fn nan_names_the_model_and_the_frame_and_is_no_score() {
    let (_dir, model) = Tiny::new().with("encoder.fp32.onnx", "encoder-nan.onnx").open();
    let manifest = Arc::new(model.manifest().clone());
    let mut classifier = Classifier::new(manifest, engine_of(&model), Options::default());
    classifier.push(&moving_square(0)).expect("a picture that is not black");
    let black =
        crate::agent::capture::Frame { rgb: vec![0; 480 * 135 * 3].into(), discontinuity: true, ..moving_square(1) };
    let e = classifier.push(&black).expect_err("0 / 0").to_string();
    assert!(e.contains("model tiny 1.2.3 gave a value that is not a finite number"), "{e}");
    assert!(e.contains("encoder, camera golden, frame at 125 ms"), "{e}");
    classifier.push(&moving_square(2)).expect("it goes on");
}

#[test]
fn the_classifier_streams_what_a_window_at_once_gives() {
    let (_dir, model) = Tiny::new().with_golden().open();
    let manifest = Arc::new(model.manifest().clone());
    let golden = model.golden().expect("made above");
    let mut classifier =
        Classifier::new(manifest, engine_of(&model), Options { stride: Some(2), ..Options::default() });
    let scores: Vec<_> = golden.frames.iter().filter_map(|f| classifier.push(f).expect("good frames")).collect();
    assert_eq!(scores.len(), 2, "18 frames, a window at 16 and at 18");
    model.prove(&mut engine_of(&model)).expect("the same two windows at once");
    let (_, probabilities) = golden_numbers(&model);
    for (score, expected) in scores.iter().zip(probabilities.chunks_exact(2)) {
        assert!(score.probabilities.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{score:?}");
    }
}

fn golden_numbers(model: &Model) -> (Vec<f32>, Vec<f32>) {
    let read = |file: &str| -> Vec<f32> {
        let bytes = model.read(file).expect("listed");
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    (read("golden/f.f32"), read("golden/p.f32"))
}

#[test]
fn a_network_that_would_end_a_runtime_is_not_given_to_it() {
    let recursive = field(25, &[field(1, b"a"), field(7, &field(4, b"a"))].concat());
    let cases = [(nested(20_000), "more than 8 deep"), ([network("encoder.onnx"), recursive].concat(), "calls itself")];
    for (bytes, said) in cases {
        let mut tiny = Tiny::new();
        tiny.files.insert("encoder.fp32.onnx", bytes);
        let (_dir, model) = tiny.open();
        let e = load(&model, Precision::Fp32, 1, None).err().expect("refused");
        let e = Chain(&e).to_string();
        assert!(e.contains("encoder.fp32.onnx cannot be used as a network") && e.contains(said), "{e}");
    }
}
