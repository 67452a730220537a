//! The building process: reads what to build, binds itself, builds, tells how far it is.
//!
//! What does not belong here: deciding what is built, and whether it is good.

use std::io::{Read, Write};
use std::path::Path;

use rustix::process::{Resource, Rlimit, Signal};

use super::{Line, Spec, Step};
use crate::agent::infer::manifest::Precision;
use crate::agent::infer::model::{Model, ModelError};
use crate::agent::infer::tensorrt::device::{Device, words};
use crate::agent::infer::tensorrt::ffi::{Shim, TensorRt};
use crate::agent::infer::tensorrt::types::{Kind, Request, ShimError, Typing, Version};
use crate::base::error::Chain;

/// A specification is at most so long.
const SPEC_MAX_BYTES: u64 = 1 << 20;
/// The lowest priority: whatever else runs goes first.
const NICE: i32 = 19;

/// Runs as the child; its exit code.
pub fn run(input: impl Read, output: impl Write + Send) -> i32 {
    let mut output = Lines(output);
    match build(input, &mut output) {
        Ok(()) => {
            output.say(&Line::Built {});
            0
        }
        Err(Failed { message, lasting }) => {
            output.say(&Line::Failed { message, lasting });
            1
        }
    }
}

/// Why nothing came of it. What is said without more may be otherwise another time: a disk that is full, a GPU that is
/// taken, memory that is short.
struct Failed {
    message: String,
    lasting: bool,
}

impl From<String> for Failed {
    fn from(message: String) -> Failed {
        Failed { message, lasting: false }
    }
}

impl Failed {
    /// What TensorRT says of a network.
    fn of(what: &str, e: ShimError) -> Failed {
        let lasting = matches!(e.kind, Kind::Parse | Kind::Network | Kind::Unsupported | Kind::Build);
        Failed { message: format!("{what}: {}", e.message), lasting }
    }
}

struct Lines<W>(W);

impl<W: Write> Lines<W> {
    /// Whether anybody listens.
    fn say(&mut self, line: &Line) -> bool {
        let text = serde_json::to_string(line).expect("plain data");
        writeln!(self.0, "{text}").and_then(|()| self.0.flush()).is_ok()
    }
}

fn build(input: impl Read, output: &mut Lines<impl Write + Send>) -> Result<(), Failed> {
    let mut text = Vec::new();
    input.take(SPEC_MAX_BYTES).read_to_end(&mut text).map_err(|e| format!("what to build cannot be read: {e}"))?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|e| format!("what to build cannot be read: {e}"))?;
    bind(&spec);
    let model = Model::open(&spec.model_dir).map_err(|e| Chain(&e).to_string())?;
    if model.reference().digest != spec.model_sha256 {
        return Err(format!("{} has been changed meanwhile", spec.model_dir.display()).into());
    }
    // The GPU has to be current before TensorRT looks for it.
    let device = Device::open().map_err(|e| e.to_string())?;
    device.bind().map_err(|e| format!("CUDA: {}", words(&e)))?;
    let library = Shim::open(&spec.shim)
        .and_then(|shim| TensorRt::open(shim, &spec.library, Some(&spec.parser)))
        .map_err(|e| e.message)?;
    let mut timing_cache = std::fs::read(&spec.timing_cache).ok();
    for (network, wanted) in [("encoder", "features"), ("head", "probabilities")] {
        let (of, typing) = typing(library.version(), &library.shim().flavour(), &spec.precision)?;
        let file = format!("{network}.{of}.onnx");
        let onnx = model
            .network(&file)
            .map_err(|e| Failed { message: Chain(&e).to_string(), lasting: matches!(e, ModelError::Unfit { .. }) })?;
        output.say(&Line::Step(Step { network: network.into(), ..Step::default() }));
        let batch = |n: usize| i64::try_from(n).expect("a handful");
        let request = Request {
            onnx: &onnx,
            outputs: &[wanted],
            // A deep learning accelerator takes one batch size only.
            batches: match spec.dla_core {
                Some(_) => [batch(spec.max_batch); 3],
                None => [1, batch(spec.likely_batch.clamp(1, spec.max_batch)), batch(spec.max_batch)],
            },
            precision: typing,
            dla_core: spec.dla_core,
            optimisation_level: None,
            workspace_bytes: spec.workspace_bytes,
            timing_cache: timing_cache.as_deref(),
        };
        let mut told = |phase: &str, step: u32, of: u32| {
            output.say(&Line::Step(Step { network: network.into(), phase: phase.into(), step, of }))
        };
        let built =
            library.build(&request, &mut told).map_err(|e| Failed::of(&format!("the {network} ({file})"), e))?;
        write(&spec.out.join(format!("{network}.plan")), &built.plan)?;
        if built.timing_cache.is_some() {
            timing_cache = built.timing_cache;
        }
    }
    // A build without it is slower and no worse.
    if let Some(cache) = timing_cache
        && let Err(e) = crate::base::atomic_file::write(&spec.timing_cache, &cache)
    {
        log::warn!("tensorrt: the timing cache was not kept: {}: {e}", spec.timing_cache.display());
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    std::fs::write(path, bytes).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

/// Which of a model's networks are built, and how their types are taken.
///
/// | TensorRT | `fp16` | `fp32` |
/// |---|---|---|
/// | 8.x | the FP32 network, with the builder's flag: FP16 where that is faster | the FP32 network |
/// | 10 and later, RTX | the FP16 network as it is typed | the FP32 network |
pub fn typing(version: Version, flavour: &str, precision: &str) -> Result<(Precision, Typing), String> {
    let typed = version.major() >= 10 || flavour != "TensorRT";
    match precision {
        "fp16" if typed => Ok((Precision::Fp16, Typing::AsTyped)),
        "fp16" => Ok((Precision::Fp32, Typing::Fp16Flag)),
        "fp32" => Ok((Precision::Fp32, Typing::Fp32)),
        other => Err(format!("TensorRT does not build {other}: fp16 or fp32")),
    }
}

/// Last in every queue, first to go when memory is short, no more memory than it may have, gone when the agent is.
/// What the system does not allow is said and left: the agent watches, too.
fn bind(spec: &Spec) {
    let said = |what: &str, result: std::io::Result<()>| {
        if let Err(e) = result {
            log::warn!("the building process: {what}: {e}");
        }
    };
    said("its priority", rustix::process::setpriority_process(None, NICE).map_err(Into::into));
    said("first to go", std::fs::write("/proc/self/oom_score_adj", "1000"));
    let limit = Rlimit { current: Some(spec.memory_bytes), maximum: Some(spec.memory_bytes) };
    said("its memory", rustix::process::setrlimit(Resource::Data, limit).map_err(Into::into));
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    said("no core file", rustix::process::setrlimit(Resource::Core, none).map_err(Into::into));
    said(
        "to end with the agent",
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(Into::into),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_takes_the_flag_and_ten_the_types() {
        let of = |version, precision| typing(Version(version), "TensorRT", precision).expect("known");
        assert_eq!(of(8502, "fp16"), (Precision::Fp32, Typing::Fp16Flag));
        assert_eq!(of(8601, "fp32"), (Precision::Fp32, Typing::Fp32));
        assert_eq!(of(100_300, "fp16"), (Precision::Fp16, Typing::AsTyped));
        assert_eq!(of(110_400, "fp32"), (Precision::Fp32, Typing::Fp32));
        assert_eq!(typing(Version(10_500), "TensorRT-RTX", "fp16"), Ok((Precision::Fp16, Typing::AsTyped)));
        assert!(typing(Version(100_300), "TensorRT", "int8").is_err());
    }
}
