//! The engine against the doubles of `tests/tensorrt`: a library with TensorRT's own binary interface that computes on the
//! host, and a CUDA driver whose streams run nothing before somebody waits. What a daemon does with it is in
//! `tests/tensorrt.rs`; the real one is met by `make test-gpu`.

use std::path::{Path, PathBuf};

use super::machine::{Machine, Places};
use super::types::Kind;
use super::*;
use crate::agent::infer::engine_contract;
use crate::agent::infer::golden::ProofError;
use crate::agent::infer::model::Model;
use crate::agent::infer::tensorrt::types::Request;
use crate::agent::infer::tensorrt::types::{ShimError, Typing};
use crate::agent::infer::test_model::{Tiny, network};

/// As `tests/tensorrt/doubles.sh` builds them.
fn doubles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tensorrt/doubles-10.16")
}

fn machine() -> Machine {
    // `make test-gpu`: this machine's own.
    if std::env::var("VEDETTE_TENSORRT").is_ok_and(|what| what == "real") {
        return Machine::find(&Places::default()).unwrap_or_else(|e| panic!("{}", crate::base::error::Chain(&e)));
    }
    let dir = doubles();
    ffi::stand_in(&dir.join("libcuda.so"));
    let places = Places { library: Some(dir.join("libnvinfer.so.10")), shim: Some(dir.join("libvedette_trt.so")) };
    Machine::find(&places)
        .unwrap_or_else(|e| panic!("{}: run tests/tensorrt/doubles.sh", crate::base::error::Chain(&e)))
}

fn library() -> Arc<TensorRt> {
    let machine = machine();
    Device::open().and_then(|d| d.gpu()).expect("the double's");
    machine.open(true).expect("the shim of its version")
}

fn request<'a>(onnx: &'a [u8], outputs: &'a [&'a str], most: i64) -> Request<'a> {
    Request {
        onnx,
        outputs,
        batches: [1, 1, most],
        precision: Typing::Fp32,
        dla_core: None,
        optimisation_level: None,
        workspace_bytes: 1 << 24,
        timing_cache: None,
    }
}

fn build(library: &TensorRt, onnx: &[u8], output: &str, most: i64) -> Result<Vec<u8>, ShimError> {
    let device = Device::open().expect("the double's");
    device.bind().expect("it can");
    library.build(&request(onnx, &[output], most), &mut |_, _, _| true).map(|built| built.plan)
}

fn plans(library: &TensorRt, model: &Model, most: i64) -> Plans {
    let of = |file: &str, output: &str| {
        let onnx = model.read(file).expect("listed");
        build(library, &onnx, output, most).unwrap_or_else(|e| panic!("{file}: {e}"))
    };
    Plans {
        encoder: of("encoder.fp32.onnx", "features"),
        head: of("head.fp32.onnx", "probabilities"),
        precision: Precision::Fp32,
        dla_core: None,
    }
}

#[test]
fn it_does_what_every_engine_has_to_do_with_graphs_and_without() {
    let (library, (_dir, model)) = (library(), Tiny::new().open());
    // Once with room for all, once with passes that have to be split.
    for (most, graphs) in [(17, true), (3, true), (17, false), (1, true)] {
        let plans = plans(&library, &model, most);
        let made = || load(model.manifest(), &library, &plans, graphs).expect("its own plans");
        engine_contract::holds(model.manifest(), made);
    }
}

#[test]
fn it_gives_what_the_golden_vectors_say_that_another_engine_made() {
    let (library, (_dir, model)) = (library(), Tiny::new().with_golden().open());
    let plans = plans(&library, &model, 4);
    let mut engine = load(model.manifest(), &library, &plans, true).expect("its own plans");
    let proof = model.prove(&mut engine).expect("the same network");
    assert!(proof.features_cosine > 0.9999 && proof.probabilities < 1e-4, "{proof:?}");
    assert!(engine.info.runtime.starts_with("TensorRT "), "{}", engine.info.runtime);
}

#[test]
fn the_direction_of_the_features_decides_where_the_manifest_says_so() {
    // A tolerance that no other engine could keep, and a cosine that each should.
    let strict = "fp32 = { features = 1e-30, features_cosine = 0.999, probabilities = 1e-4 }";
    let tiny = Tiny::new().with_golden().edited("fp32 = { features = 1e-4, probabilities = 1e-4 }", strict);
    let (library, (_dir, model)) = (library(), tiny.open());
    let mut engine = load(model.manifest(), &library, &plans(&library, &model, 4), true).expect("its own plans");
    let proof = model.prove(&mut engine).expect("it points where it should");
    // The same engine as one whose arithmetic is known is held to the numbers.
    engine.info.rounds_elsewhere = false;
    if proof.features > 0.0 {
        assert!(matches!(model.prove(&mut engine), Err(ProofError::WrongNumbers { what: "features", .. })));
    }
    let mut other = Tiny::new().with_golden().edited("fp32 = { features = 1e-4, probabilities = 1e-4 }", strict);
    let vectors = other.files.get_mut("golden/f.f32").expect("it was made");
    vectors[..4].copy_from_slice(&(-50.0f32).to_le_bytes());
    let (_dir, model) = other.open();
    engine.info.rounds_elsewhere = true;
    let e = model.prove(&mut engine).expect_err("it points elsewhere").to_string();
    assert!(e.contains("cosine") && e.contains("frame 0") && e.contains("0.999 is the least"), "{e}");
}

#[test]
fn a_value_that_is_no_number_is_no_score() {
    let (_dir, model) = Tiny::new().with("encoder.fp32.onnx", "encoder-nan.onnx").open();
    let library = library();
    let mut engine = load(model.manifest(), &library, &plans(&library, &model, 4), true).expect("its own plans");
    let m = model.manifest();
    let (good, black) = (vec![77; m.view.len_bytes()], vec![0; m.view.len_bytes()]);
    let slots = engine.encoder.encode(&[&good, &black]).expect("features stay where they are");
    let window = |slot: &Slot| vec![slot.clone(); m.window];
    let (good, black) = (window(&slots[0]), window(&slots[1]));
    assert!(engine.head.classify(&[&good]).is_ok());
    let e = engine.head.classify(&[&good, &black]).expect_err("NaN");
    assert!(matches!(e, EngineError::NotFinite { item: 1, .. }), "{e}");
}

#[test]
fn plans_that_are_none_are_refused_in_the_library_s_words() {
    let (library, (_dir, model)) = (library(), Tiny::new().open());
    let good = plans(&library, &model, 2);
    let with = |encoder: &[u8], head: &[u8]| {
        let plans =
            Plans { encoder: encoder.to_vec(), head: head.to_vec(), precision: Precision::Fp32, dla_core: None };
        crate::base::error::Chain(&load(model.manifest(), &library, &plans, true).err().expect("refused")).to_string()
    };
    for junk in [&b""[..], b"junk", &good.encoder[..good.encoder.len() / 2], &good.encoder[..good.encoder.len() - 1]] {
        let e = with(junk, &good.head);
        assert!(e.contains("the plan of the encoder cannot be used"), "{e}");
    }
    let mut changed = good.encoder.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert!(with(&changed, &good.head).contains("encoder"));
    // Good plans in each other's place.
    let e = with(&good.head, &good.encoder);
    assert!(e.contains("the input of the plan is") && e.contains("the model says"), "{e}");
}

#[test]
fn networks_that_tensorrt_cannot_take_are_refused_with_the_place() {
    let library = library();
    let encoder = network("encoder.onnx");
    let e = build(&library, b"", "features", 1).expect_err("empty");
    assert!(matches!(e.kind, Kind::Argument | Kind::Parse), "{e:?}");
    let e = build(&library, b"no protocol buffers", "features", 1).expect_err("junk");
    assert_eq!(e.kind, Kind::Parse, "{e}");
    let e = build(&library, &encoder[..encoder.len() / 2], "features", 1).expect_err("truncated");
    assert_eq!(e.kind, Kind::Parse, "{e}");
    let e = build(&library, &encoder, "no such output", 1).expect_err("absent");
    assert!(e.kind == Kind::Network && e.message.contains("features") && e.message.contains("map"), "{e}");
}

#[test]
fn a_build_can_be_broken_off() {
    let library = library();
    let device = Device::open().expect("the double's");
    device.bind().expect("it can");
    let onnx = network("encoder.onnx");
    let mut told = 0;
    let mut stop = |_: &str, _: u32, _: u32| {
        told += 1;
        false
    };
    let e = library.build(&request(&onnx, &["features"], 1), &mut stop).err().expect("told to stop");
    assert_eq!(e.kind, Kind::Cancelled, "{e}");
    assert!(told > 0);
}

#[test]
fn a_shim_of_another_version_is_refused_before_anything_is_called() {
    let dir = doubles();
    ffi::stand_in(&dir.join("libcuda.so"));
    let shim = ffi::Shim::open(&dir.join("libvedette_trt.so")).expect("it was built");
    // Any library with the entry point would do: the double of another family is the nearest thing to another TensorRT.
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/tensorrt/doubles-11.4/libnvinfer.so.11");
    let e = TensorRt::open(shim.clone(), &other, None).err().expect("10.16 is not 11.4");
    assert_eq!(e.kind, Kind::Version, "{e}");
    assert!(e.message.contains("10.16") && e.message.contains("11.4"), "{e}");
    let e = TensorRt::open(shim, Path::new("libm.so.6"), None).err().expect("it is no TensorRT");
    assert_eq!(e.kind, Kind::Symbol, "{e}");
}

#[test]
fn every_further_batch_size_works_in_the_memory_of_the_first() {
    let (library, (_dir, model)) = (library(), Tiny::new().open());
    let m = model.manifest();
    for graphs in [true, false] {
        let plans = plans(&library, &model, 8);
        let mut engine = load(m, &library, &plans, graphs).expect("its own plans");
        let device = Device::open().expect("the double's");
        device.bind().expect("it can");
        let free = || device.memory().expect("it says").0;
        let view = vec![77; m.view.len_bytes()];
        let mut pass = |batch: usize| {
            let slots = engine.encoder.encode(&vec![&view[..]; batch]).expect("it runs");
            let window = vec![slots[0].clone(); m.window];
            engine.head.classify(&vec![&window[..]; batch]).expect("it runs")
        };
        let first = pass(1);
        let before = free();
        for batch in (2..=8).chain([1, 5, 8]) {
            assert!(pass(batch).iter().all(|row| *row == first[0]), "{batch}");
        }
        assert_eq!(before, free(), "bytes of device memory for seven more batch sizes of two networks");
    }
}
