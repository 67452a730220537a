//! A model's first run on this device, in a process of its own: a network may crash, hang or exhaust what loads it.
//! There it is loaded, held against its golden vectors, and measured; only then the daemon loads it itself.

use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::Trouble;
use crate::agent::config::Precision;
use crate::agent::health;
use crate::agent::infer::golden::ProofError;
use crate::agent::infer::measure::{Times, measure};
use crate::agent::infer::model::Model;
use crate::agent::infer::onnx;
use crate::base::child::{self, Bounds, ChildError};
use crate::base::clock::{Clock, SystemClock};
use crate::base::error::Chain;
use crate::base::fail_point;
use crate::base::stop::StopToken;
use crate::contract::update::{UpdateFault, UpdateReason};

/// What the machine keeps of its memory while a model is proven.
const KEEPS_FREE_BYTES: u64 = 200_000_000;
/// The command by which this program does it.
pub const COMMAND: [&str; 2] = ["model", "prove-child"];
/// What is asked is at most so long.
const SPEC_MAX_BYTES: u64 = 1 << 20;
/// Batches at which it is proven, and passes that are measured.
const BATCHES: [usize; 2] = [1, 2];
const PASSES: usize = 15;

/// What is to be proven.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The model.
    pub dir: PathBuf,
    /// SHA-256 of its manifest.
    pub digest: String,
    /// Which of its networks.
    pub precision: String,
    /// Threads of the CPU.
    pub threads: usize,
    /// ONNX Runtime's library; none: searched for.
    pub onnxruntime: Option<PathBuf>,
    /// Memory that it may take.
    pub memory_bytes: u64,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Median time of a frame and its share of a window, milliseconds.
    pub frame_ms: f64,
    /// The most memory that the process has had, bytes.
    pub memory_bytes: u64,
}

/// A line of the child's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    /// It is loaded.
    Loaded {},
    /// It is what it should be.
    Proven(Found),
    /// It is not.
    Failed(UpdateReason),
}

/// The time of a frame and its share of a window, milliseconds.
pub fn frame_ms(times: &Times, stride: usize) -> f64 {
    let each = |m: &crate::agent::infer::measure::Measured| m.p50().as_secs_f64() * 1e3 / m.batch as f64;
    each(&times.encoder) + each(&times.head) / stride as f64
}

/// Proves a model by running `program` on it; `loaded` is called when it could be loaded.
pub fn prove(
    program: &Path,
    spec: &Spec,
    within: Duration,
    (clock, stop): (&dyn Clock, &StopToken),
    loaded: &mut dyn FnMut(),
) -> Result<Found, Trouble> {
    let input = serde_json::to_vec(spec).expect("plain data");
    let left = || health::available_memory_bytes(Path::new("/proc/meminfo"));
    let bounds = Bounds { within, keeps_free_bytes: KEEPS_FREE_BYTES, left_bytes: &left };
    let mut hear = |line| match line {
        Line::Loaded {} => {
            loaded();
            ControlFlow::Continue(())
        }
        Line::Proven(found) => ControlFlow::Break(Ok(found)),
        Line::Failed(reason) => ControlFlow::Break(Err(Trouble::Fault(reason))),
    };
    let crashed = |e: &ChildError, what: &str| {
        Trouble::fault(UpdateFault::BuildCrashed, format!("what was to load and prove the model {what}: {}", Chain(e)))
    };
    match child::run(Command::new(program).args(COMMAND), &input, &bounds, (clock, stop), &mut hear) {
        Ok(found) => found,
        // By the kernel, for want of memory, or by a person: as a machine that is short of memory, not as what it did itself.
        Err(e @ ChildError::Died { killed: true, .. }) => {
            Err(Trouble::fault(UpdateFault::Memory, Chain(&e).to_string()))
        }
        Err(e @ ChildError::Died { .. }) => Err(crashed(&e, "died")),
        Err(e @ ChildError::TooLong(_)) => Err(crashed(&e, "hung (ota.proof_within_s)")),
        Err(e @ ChildError::Memory { .. }) => Err(Trouble::fault(UpdateFault::Memory, Chain(&e).to_string())),
        Err(ChildError::Stopped) => Err(Trouble::Stopped),
        Err(e @ ChildError::Spawn(_)) => Err(Trouble::Wait(Chain(&e).to_string())),
    }
}

/// Runs as the child; its exit code.
pub fn run(input: impl Read, mut output: impl Write) -> i32 {
    let mut say = |line: &Line| {
        let text = serde_json::to_string(line).expect("plain data");
        if let Err(e) = writeln!(output, "{text}").and_then(|()| output.flush()) {
            log::debug!("nobody listens: {e}");
        }
    };
    let mut text = Vec::new();
    let read = input.take(SPEC_MAX_BYTES).read_to_end(&mut text);
    let Ok(spec) = read.map_err(drop).and_then(|_| serde_json::from_slice::<Spec>(&text).map_err(drop)) else {
        log::error!("what to prove cannot be read");
        return 2;
    };
    child::bind_this_process(spec.memory_bytes);
    let (last, code) = match proven(&spec, &mut || say(&Line::Loaded {})) {
        Ok(found) => (Line::Proven(found), 0),
        Err(reason) => (Line::Failed(reason), 1),
    };
    say(&last);
    code
}

fn proven(spec: &Spec, loaded: &mut dyn FnMut()) -> Result<Found, UpdateReason> {
    let no = |fault, words: String| UpdateReason { fault, words };
    let model = Model::open(&spec.dir).map_err(|e| no(UpdateFault::SlotDamaged, Chain(&e).to_string()))?;
    if model.reference().digest != spec.digest {
        return Err(no(UpdateFault::SlotDamaged, format!("{} holds another model", spec.dir.display())));
    }
    let precision = Precision::ALL.iter().find(|(word, _)| *word == spec.precision).map(|(_, p)| *p);
    let precision =
        precision.ok_or_else(|| no(UpdateFault::Incompatible, format!("no precision {}", spec.precision)))?;
    if !model.manifest().tolerances.contains_key(&precision) {
        let words =
            format!("this device runs models in {precision} (model.precision), and this one has no such networks");
        return Err(no(UpdateFault::Incompatible, words));
    }
    let mut engine = onnx::load(&model, precision, spec.threads, spec.onnxruntime.as_deref())
        .map_err(|e| no(UpdateFault::BuildFailed, Chain(&e).to_string()))?;
    loaded();
    model.prove_at(&mut engine, &BATCHES).map_err(|e| {
        let fault = match &e {
            ProofError::Model(_) | ProofError::Broken { .. } | ProofError::View { .. } => {
                UpdateFault::MalformedManifest
            }
            ProofError::Engine { .. } => UpdateFault::BuildFailed,
            ProofError::WrongView { .. } | ProofError::WrongNumbers { .. } | ProofError::WrongDirection { .. } => {
                UpdateFault::GoldenVectors
            }
            ProofError::NoTolerance { .. } => UpdateFault::Incompatible,
        };
        no(fault, Chain(&e).to_string())
    })?;
    fail_point::reach("prove");
    let m = model.manifest();
    let times = measure(m, &mut engine, (1, PASSES), &SystemClock::new())
        .map_err(|e| no(UpdateFault::BuildFailed, Chain(&e).to_string()))?;
    Ok(Found { frame_ms: frame_ms(&times, m.stride), memory_bytes: peak_memory_bytes() })
}

/// The most that this process has had in memory.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kb = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse::<u64>().ok());
    kb.unwrap_or_default() * 1024
}
