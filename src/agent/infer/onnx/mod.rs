//! The CPU engine: ONNX Runtime, loaded at run time.
//!
//! The graphs are loaded from bytes that were verified against the manifest, and their inputs and outputs are
//! compared with it before anything runs. Threads sleep when they have nothing to do; a process that watches
//! cameras does not spin.
//!
//! Lock: the feature vectors, shared by encoder and head, held while a batch is copied in or out.

mod library;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use ort::session::builder::GraphOptimizationLevel;
use ort::session::{OutputSelector, RunOptions, Session};
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::manifest::{Manifest, Precision};
use super::model::{Model, ModelError};
use super::slot::SlotPool;
use super::{Encoder, Engine, EngineError, EngineInfo, Head, Network, Slot, all_finite};

pub use library::LibraryError;

/// Metadata of the head's graph that names its outputs, comma-separated, in order. A graph that has it is
/// compared with the manifest.
pub const CLASSES_METADATA: &str = "vedette.classes";

/// Why no engine came of a model.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// There is no ONNX Runtime.
    #[error("no CPU engine")]
    Library(#[from] LibraryError),
    /// A file of the model cannot be used.
    #[error("no CPU engine")]
    Model(#[from] ModelError),
    /// The model is not there in this precision.
    #[error("model {model} does not come in {precision}: it has {has}")]
    NoPrecision {
        /// Model.
        model: String,
        /// What was asked for.
        precision: Precision,
        /// What there is.
        has: String,
    },
    /// ONNX Runtime refused the graph.
    #[error("ONNX Runtime cannot load the {network} of {model}")]
    Graph {
        /// Model.
        model: String,
        /// Which one.
        network: Network,
        /// What it said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The graph is not what the manifest says.
    #[error("model {model}: {what} is {found}, the manifest says {expected}: the model was put together wrongly")]
    Mismatch {
        /// Model.
        model: String,
        /// Which input, output or label.
        what: String,
        /// What the graph has.
        found: String,
        /// What it should have.
        expected: String,
    },
}

/// Loads both networks of `model` with `threads` threads each; `onnxruntime` is the library's path from the config.
pub fn load(
    model: &Model,
    precision: Precision,
    threads: usize,
    onnxruntime: Option<&Path>,
) -> Result<Engine, OnnxError> {
    let m = model.manifest();
    if !m.tolerances.contains_key(&precision) {
        let has = m.tolerances.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(OnnxError::NoPrecision { model: m.title(), precision, has });
    }
    let (environment, path) = library::environment(onnxruntime)?;
    let session = |network: Network| -> Result<Session, OnnxError> {
        let computes_in = match (network, precision) {
            (Network::Head, Precision::Int8) => Precision::Fp32,
            _ => precision,
        };
        let bytes = model.network(&format!("{network}.{computes_in}.onnx"))?;
        build(&environment, threads, &bytes).map_err(|source| OnnxError::Graph { model: m.title(), network, source })
    };
    let (encoder, head) = (session(Network::Encoder)?, session(Network::Head)?);
    check(m, &encoder, &head)?;
    let only = |network, output: &str| {
        RunOptions::new()
            .map(|o| o.with_outputs(OutputSelector::no_default().with(output)))
            .map_err(|e| OnnxError::Graph { model: m.title(), network, source: Box::new(e) })
    };
    let shared = Shared { pool: SlotPool::default(), store: Arc::default(), size: m.features.size };
    let info = EngineInfo {
        runtime: format!("ONNX Runtime, {}", path.display()),
        precision,
        rounds_elsewhere: false,
        gains_by_batches: false,
    };
    let view = [m.view.height as usize, m.view.width as usize, m.view.channels()];
    Ok(Engine {
        info,
        encoder: Box::new(OnnxEncoder {
            session: encoder,
            features_only: only(Network::Encoder, "features")?,
            shared: shared.clone(),
            view,
            batch: Vec::new(),
        }),
        head: Box::new(OnnxHead {
            session: head,
            probabilities_only: only(Network::Head, "probabilities")?,
            shared,
            window: m.window,
            classes: m.classes.len(),
            batch: Vec::new(),
        }),
    })
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn build(environment: &ort::environment::Environment, threads: usize, graph: &[u8]) -> Result<Session, Cause> {
    // The builder's errors carry the builder, which cannot leave this thread: only their words go on.
    fn words<T>(e: ort::Error<T>) -> Cause {
        e.to_string().into()
    }
    Session::builder(environment)
        .map_err(words)?
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(words)?
        .with_intra_threads(threads)
        .map_err(words)?
        .with_inter_threads(1)
        .map_err(words)?
        .with_intra_op_spinning(false)
        .map_err(words)?
        .with_inter_op_spinning(false)
        .map_err(words)?
        .commit_from_memory(graph)
        .map_err(words)
}

/// Compares what the graphs declare with what the manifest says.
fn check(m: &Manifest, encoder: &Session, head: &Session) -> Result<(), OnnxError> {
    let mismatch = |what: String, found: String, expected: String| {
        Err(OnnxError::Mismatch { model: m.title(), what, found, expected })
    };
    let compare = |what: String, found: Option<&ValueType>, ty: TensorElementType, dims: &[usize]| {
        let expected = format!("{} [N,{}]", type_name(ty), join(dims.iter().map(|d| *d as i64)));
        match found {
            None => mismatch(what, "absent".into(), expected),
            Some(found) if fits(found, ty, dims) => Ok(()),
            Some(found) => mismatch(what, describe(found), expected),
        }
    };
    let input = |s: &Session| s.inputs().first().map(|i| i.dtype().clone());
    let output = |s: &Session, name: &str| s.outputs().iter().find(|o| o.name() == name).map(|o| o.dtype().clone());
    let (size, [rows, columns]) = (m.features.size, m.features.map);
    let (f32, u8) = (TensorElementType::Float32, TensorElementType::Uint8);
    let view = [m.view.height as usize, m.view.width as usize, m.view.channels()];
    for (network, session) in [(Network::Encoder, encoder), (Network::Head, head)] {
        if session.inputs().len() != 1 {
            return mismatch(format!("the number of {network} inputs"), session.inputs().len().to_string(), "1".into());
        }
    }
    compare("the encoder's input".into(), input(encoder).as_ref(), u8, &view)?;
    compare("encoder output `features`".into(), output(encoder, "features").as_ref(), f32, &[size])?;
    compare("encoder output `map`".into(), output(encoder, "map").as_ref(), f32, &[size, rows, columns])?;
    compare("the head's input".into(), input(head).as_ref(), f32, &[m.window, size])?;
    compare("head output `probabilities`".into(), output(head, "probabilities").as_ref(), f32, &[m.classes.len()])?;
    let expected = m.classes.join(",");
    match head.metadata().ok().and_then(|d| d.custom(CLASSES_METADATA)) {
        Some(found) if found != expected => mismatch("the head's list of labels".into(), found, expected),
        _ => Ok(()),
    }
}

/// A dimension that the graph leaves open (-1) fits: what comes out is counted again when it runs. The batch has
/// to be open.
fn fits(found: &ValueType, ty: TensorElementType, dims: &[usize]) -> bool {
    matches!(found, ValueType::Tensor { ty: t, shape, .. }
        if *t == ty
            && shape.len() == dims.len() + 1
            && shape[0] == -1
            && shape.iter().skip(1).zip(dims).all(|(f, d)| *f == -1 || *f == *d as i64))
}

fn describe(found: &ValueType) -> String {
    match found {
        ValueType::Tensor { ty, shape, .. } => format!("{} [{}]", type_name(*ty), join(shape.iter().copied())),
        _ => "no tensor".into(),
    }
}

fn type_name(ty: TensorElementType) -> String {
    format!("{ty:?}").to_lowercase()
}

fn join(dims: impl Iterator<Item = i64>) -> String {
    dims.map(|d| if d == -1 { "N".into() } else { d.to_string() }).collect::<Vec<_>>().join(",")
}

/// The feature vectors, `size` floats at `index * size`.
#[derive(Clone)]
struct Shared {
    pool: SlotPool,
    store: Arc<Mutex<Vec<f32>>>,
    size: usize,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<f32>> {
        self.store.lock().expect("nothing panics while it holds the feature vectors")
    }

    fn keep(&self, features: &[f32]) -> Vec<Slot> {
        let mut store = self.lock();
        let place = |vector: &[f32]| {
            let slot = self.pool.take();
            let at = self.pool.index_of(&slot).expect("the pool just gave it") * self.size;
            if store.len() < at + self.size {
                store.resize(at + self.size, 0.0);
            }
            store[at..at + self.size].copy_from_slice(vector);
            slot
        };
        features.chunks_exact(self.size).map(place).collect()
    }

    fn copy_into(&self, slot: &Slot, to: &mut Vec<f32>) -> Result<(), EngineError> {
        let at = self.pool.index_of(slot).ok_or(EngineError::ForeignSlot)? * self.size;
        to.extend_from_slice(&self.lock()[at..at + self.size]);
        Ok(())
    }
}

struct OnnxEncoder {
    session: Session,
    features_only: RunOptions<ort::session::HasSelectedOutputs>,
    shared: Shared,
    /// Height, width, channels.
    view: [usize; 3],
    batch: Vec<u8>,
}

impl Encoder for OnnxEncoder {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        let network = Network::Encoder;
        let [height, width, channels] = self.view;
        let len = height * width * channels;
        if let Some(odd) = views.iter().find(|v| v.len() != len) {
            let (found, expected) = (format!("a view of {} bytes", odd.len()), format!("{len}"));
            return Err(EngineError::Input { network, found, expected });
        }
        if views.is_empty() {
            return Ok(Vec::new());
        }
        self.batch.clear();
        views.iter().for_each(|v| self.batch.extend_from_slice(v));
        let failed = |e: ort::Error| EngineError::Run { network, source: Box::new(e) };
        let input =
            TensorRef::from_array_view(([views.len(), height, width, channels], &self.batch[..])).map_err(failed)?;
        let outputs = self.session.run_with_options(ort::inputs![input], &self.features_only).map_err(failed)?;
        let (shape, features) = outputs["features"].try_extract_tensor::<f32>().map_err(failed)?;
        sized(network, shape, &[views.len(), self.shared.size])?;
        all_finite(network, features, self.shared.size)?;
        Ok(self.shared.keep(features))
    }

    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        let mut features = Vec::with_capacity(self.shared.size);
        self.shared.copy_into(slot, &mut features)?;
        Ok(features)
    }
}

struct OnnxHead {
    session: Session,
    probabilities_only: RunOptions<ort::session::HasSelectedOutputs>,
    shared: Shared,
    window: usize,
    classes: usize,
    batch: Vec<f32>,
}

impl Head for OnnxHead {
    fn classify(&mut self, windows: &[&[Slot]]) -> Result<Vec<Arc<[f32]>>, EngineError> {
        let network = Network::Head;
        if let Some(odd) = windows.iter().find(|w| w.len() != self.window) {
            let (found, expected) = (format!("a window of {} frames", odd.len()), self.window.to_string());
            return Err(EngineError::Input { network, found, expected });
        }
        if windows.is_empty() {
            return Ok(Vec::new());
        }
        self.batch.clear();
        for slot in windows.iter().copied().flatten() {
            self.shared.copy_into(slot, &mut self.batch)?;
        }
        let failed = |e: ort::Error| EngineError::Run { network, source: Box::new(e) };
        let shape = [windows.len(), self.window, self.shared.size];
        let input = TensorRef::from_array_view((shape, &self.batch[..])).map_err(failed)?;
        let outputs = self.session.run_with_options(ort::inputs![input], &self.probabilities_only).map_err(failed)?;
        let (shape, probabilities) = outputs["probabilities"].try_extract_tensor::<f32>().map_err(failed)?;
        sized(network, shape, &[windows.len(), self.classes])?;
        all_finite(network, probabilities, self.classes)?;
        Ok(probabilities.chunks_exact(self.classes).map(Arc::from).collect())
    }
}

/// What the graph left open has to come out right when it runs.
fn sized(network: Network, found: &[i64], expected: &[usize]) -> Result<(), EngineError> {
    if found.iter().map(|d| usize::try_from(*d).ok()).eq(expected.iter().map(|d| Some(*d))) {
        return Ok(());
    }
    let source = format!("its output has the shape {found:?}, not {expected:?}").into();
    Err(EngineError::Run { network, source })
}

#[cfg(test)]
mod tests;
