//! The encoder's passes by ONNX Runtime itself: same library, graph, threads and batch as the agent's engine, and
//! nothing else in the loop.

use std::path::Path;

use anyhow::anyhow;
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::TensorRef;
use serde_json::{Value, json};
use vedette::agent::infer::model::Model;
use vedette::base::clock::{Clock, SystemClock};

use crate::{ms, process_cpu};

/// Passes before the measurement: the first ones allocate.
const WARM_UP: usize = 5;

pub fn measure(model: &Path, onnxruntime: &Path, passes: usize) -> anyhow::Result<Value> {
    let model = Model::open(model)?;
    let view = &model.manifest().view;
    let shape = [1, view.height as usize, view.width as usize, view.channels()];
    let graph = model.read("encoder.fp32.onnx")?;
    let environment = ort::init_from(onnxruntime)?.build()?;
    let mut session = session(&environment, &graph).map_err(|e| anyhow!(e))?;
    // What a convolution costs does not depend on what it sees; noise has no denormals in it.
    let mut random = fastrand::Rng::with_seed(1);
    let input: Vec<u8> = (0..shape.iter().product()).map(|_| random.u8(..)).collect();

    let clock = SystemClock::new();
    let mut pass = || -> anyhow::Result<()> {
        session.run(ort::inputs![TensorRef::from_array_view((shape, &input[..]))?])?;
        Ok(())
    };
    for _ in 0..WARM_UP {
        pass()?;
    }
    let (cpu, began) = (process_cpu(), clock.now());
    for _ in 0..passes {
        pass()?;
    }
    let (cpu, wall) = (process_cpu() - cpu, clock.now().since(began));
    Ok(json!({ "passes": passes, "cpu_ms": ms(cpu), "wall_ms": ms(wall) }))
}

/// As `infer::onnx` makes it.
fn session(environment: &ort::environment::Environment, graph: &[u8]) -> Result<Session, String> {
    fn words<T>(e: ort::Error<T>) -> String {
        e.to_string()
    }
    Session::builder(environment)
        .map_err(words)?
        .with_optimization_level(GraphOptimizationLevel::Level3)
        .map_err(words)?
        .with_intra_threads(1)
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
