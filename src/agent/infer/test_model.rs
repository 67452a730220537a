//! A small, complete model directory for tests, made of the networks in `tests/fixtures/models`; and the ways to
//! break it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::manifest::{MANIFEST, Precision};
use super::model::Model;
use super::view::ViewState;
use super::{Engine, onnx};
use crate::base::digest;

/// Frames in its golden sequence.
const FRAMES: usize = 18;

const MANIFEST_TEXT: &str = r#"
name = "tiny"
version = "1.2.3"
kind = "cnn-lstm"
minimum_agent = "0.1.0"
classes = ["Fighting", "Normal"]
sample_fps = 8.0
window = 16
stride = 4
licence = "MIT OR Apache-2.0"
data = "none: weights by formula"

[pixels]
frame_width = 480
scale = "bilinear-antialiased"
gray = "bt601"

[view]
width = 8
height = 8
frames = "pair"
box = "motion"

[view.motion]
grid = [64, 36]
keep_percent = 70
noise_floor = 6
size_percent = 50
centre_pull_percent = 10

[features]
size = 4
map = [2, 2]

[thresholds]
Fighting = 0.75

[tolerances]
fp32 = { features = 1e-4, probabilities = 1e-4 }
"#;

/// A network of `tests/fixtures/models`.
pub fn network(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A model directory that is still being put together.
pub struct Tiny {
    pub manifest: String,
    pub files: BTreeMap<&'static str, Vec<u8>>,
}

impl Tiny {
    /// A good one, without golden vectors.
    pub fn new() -> Self {
        let files =
            BTreeMap::from([("encoder.fp32.onnx", network("encoder.onnx")), ("head.fp32.onnx", network("head.onnx"))]);
        Tiny { manifest: MANIFEST_TEXT.into(), files }
    }

    /// The same with `name` another network of the fixtures.
    pub fn with(mut self, file: &'static str, name: &str) -> Self {
        self.files.insert(file, network(name));
        self
    }

    /// The same with one piece of the manifest replaced.
    pub fn edited(mut self, from: &str, to: &str) -> Self {
        assert!(self.manifest.contains(from), "{from} is not in the manifest");
        self.manifest = self.manifest.replace(from, to);
        self
    }

    /// The same with golden vectors: frames of a moving square, and what the engine itself makes of them.
    pub fn with_golden(mut self) -> Self {
        let (dir, _) = self.write();
        let model = Model::open(dir.path()).expect("a good model");
        let mut engine = load(&model);
        let mut views = ViewState::new(&model.manifest().view, model.manifest().sample_fps);
        let mut toml = String::from(
            "clip = 'golden/clip.mp4'\nfeatures = 'golden/f.f32'\nprobabilities = 'golden/p.f32'\nwindows = [0, 2]\n",
        );
        let (mut slots, mut features) = (Vec::new(), Vec::new());
        for n in 0..FRAMES {
            let frame = super::golden::tests::moving_square(n as u64);
            let view = views.push(&frame).expect("a good frame");
            slots.extend(engine.encoder.encode(&[&view.bytes]).expect("a good view"));
            features.extend(engine.encoder.features(&slots[n]).expect("its own slot"));
            let file: &'static str = format!("golden/{n:02}.png").leak();
            let (at_ms, sha256) = (frame.at.as_millis(), digest::of_bytes(&view.bytes));
            toml += &format!("[[frame]]\nfile = '{file}'\nat_ms = {at_ms}\nview_sha256 = '{sha256}'\n");
            self.files.insert(file, png(frame.width, frame.height, &frame.rgb));
        }
        let probabilities = engine.head.classify(&[&slots[..16], &slots[2..]]).expect("good windows").concat();
        self.files.insert("golden/f.f32", features.iter().flat_map(|f| f.to_le_bytes()).collect());
        self.files.insert("golden/p.f32", probabilities.iter().flat_map(|p| p.to_le_bytes()).collect());
        self.files.insert("golden/clip.mp4", b"not looked into here".to_vec());
        self.files.insert("golden/golden.toml", toml.into_bytes());
        self
    }

    /// Writes it, with a manifest that lists every file as it is.
    pub fn write(&self) -> (TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = self.write_to(dir.path());
        (dir, path)
    }

    /// The same into `dir`; the manifest's path.
    fn write_to(&self, dir: &Path) -> PathBuf {
        let mut manifest = self.manifest.clone();
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().expect("it is below the directory")).expect("writable");
            std::fs::write(path, bytes).expect("writable");
            let (sha256, size) = (digest::of_bytes(bytes), bytes.len());
            manifest += &format!("\n[[file]]\npath = '{name}'\nsha256 = '{sha256}'\nsize_bytes = {size}\n");
        }
        let path = dir.join(MANIFEST);
        std::fs::write(&path, manifest).expect("writable");
        path
    }

    /// Writes and opens it.
    pub fn open(&self) -> (TempDir, Model) {
        let (dir, _) = self.write();
        let model = Model::open(dir.path()).expect("a good model");
        (dir, model)
    }
}

/// The CPU engine of a model. ONNX Runtime is part of a checkout (`make setup`): without it the tests fail, and
/// the error says so.
pub fn load(model: &Model) -> Engine {
    onnx::load(model, Precision::Fp32, 1, None).unwrap_or_else(|e| panic!("{}", crate::base::error::Chain(&e)))
}

/// An 8-bit RGB PNG.
pub fn png(width: u32, height: u32, rgb: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header().and_then(|mut w| w.write_image_data(rgb)).expect("memory takes it");
    bytes
}

/// The same model as a directory, for the programs under test: `VEDETTE_REGENERATE=1` writes it.
#[test]
fn the_tiny_model_directory_is_a_good_one() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny");
    let tolerance = "fp32 = { features = 1e-4, probabilities = 1e-4 }";
    let for_others = "fp32 = { features = 1e-4, features_cosine = 0.999, probabilities = 1e-4 }";
    let tiny = Tiny::new().edited(tolerance, for_others).with_golden();
    if std::env::var_os("VEDETTE_REGENERATE").is_some() {
        tiny.write_to(&dir);
    }
    let model = Model::open(&dir).expect("every file is as its manifest says");
    model.prove(&mut load(&model)).expect("the engine that made the vectors");
    assert_eq!(model.read("encoder.fp32.onnx").expect("listed"), network("encoder.onnx"), "made of the fixtures");
}

/// A field of a message of Protocol Buffers, with bytes in it.
pub fn field(number: u32, bytes: &[u8]) -> Vec<u8> {
    fn varint(mut value: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }
    [varint((number as usize) << 3 | 2), varint(bytes.len()), bytes.to_vec()].concat()
}

/// An ONNX whose graph has a condition whose branch has a condition, so many times.
pub fn nested(levels: usize) -> Vec<u8> {
    let mut graph = field(1, &field(4, b"Relu"));
    for _ in 0..levels {
        graph = field(1, &[field(4, b"If"), field(5, &field(6, &graph))].concat());
    }
    field(7, &graph)
}
