//! Building plans, in a child process: minutes of work, a lot of memory, and NVIDIA's code with a network of ours in it.
//! Whatever becomes of the child, the agent and the engine that serves go on.
//!
//! ```text
//!   agent ── spec (JSON, standard input) ──► `vedette engine build-child` ── one JSON line a step ──► agent
//!     └─ ends it: told to stop, too long, the machine is short of memory
//! ```
//!
//! A Jetson's GPU takes its memory from the same chips as its processor, and no limit of the kernel's counts that. So
//! there are four bounds: what the child may take of its own (`RLIMIT_DATA`); what TensorRT may take as scratch memory of
//! a layer, at most what the machine can spare when the build begins; a watch over what the machine has left; and, should
//! it come to that, the child is the first that the kernel ends (`oom_score_adj`). What the GPU takes beyond the scratch
//! memory (weights, activations, what kernels are timed with) only the watch bounds, and it looks every 200 ms: what is
//! taken between two looks is taken.
//!
//! `child` is the other side of it.

pub mod child;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::agent::health;
use crate::base::clock::Clock;
use crate::base::stop::StopToken;

/// How often the child is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// As much scratch memory a layer is given in any case: what the config takes for the least.
const LEAST_WORKSPACE_BYTES: u64 = 16_000_000;
/// Lines that wait to be looked at; the child waits beyond that.
const LINES: usize = 64;
/// A line of the child's is at most so long; more is not one.
const LINE_MAX_BYTES: usize = 64 * 1024;

/// What the child is to build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// The model's directory.
    pub model_dir: PathBuf,
    /// SHA-256 of the manifest that is meant.
    pub model_sha256: String,
    /// libnvinfer.
    pub library: PathBuf,
    /// The parser.
    pub parser: PathBuf,
    /// The shim.
    pub shim: PathBuf,
    /// "fp16" or "fp32".
    pub precision: String,
    /// The largest batch.
    pub max_batch: usize,
    /// The batch to be fastest at.
    pub likely_batch: usize,
    /// With a deep learning accelerator.
    pub dla_core: Option<u8>,
    /// Largest scratch memory of a layer.
    pub workspace_bytes: u64,
    /// Where the plans go: an empty directory.
    pub out: PathBuf,
    /// TensorRT's timing cache, read and written.
    pub timing_cache: PathBuf,
    /// Memory that the child may take of its own.
    pub memory_bytes: u64,
}

/// What bounds a build from outside.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The longest it may take.
    pub within: Duration,
    /// It is ended when the machine has less memory left.
    pub keeps_free_bytes: u64,
}

/// A line of the child's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// It goes on.
    Step(Step),
    /// All is built.
    Built {},
    /// It came to nothing.
    Failed {
        /// Why.
        message: String,
        /// The same build would come to the same.
        lasting: bool,
    },
}

/// How far a build is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// "encoder" or "head".
    pub network: String,
    /// TensorRT's word for what it does; empty where it has none.
    pub phase: String,
    /// Which step of the phase.
    pub step: u32,
    /// Of how many; 0: not known.
    pub of: u32,
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.network)?;
        if !self.phase.is_empty() {
            write!(f, ", {}", self.phase)?;
        }
        if self.of > 0 {
            write!(f, ", step {} of {}", self.step, self.of)?;
        }
        Ok(())
    }
}

/// Why there are no plans.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No child could be started.
    #[error("no process could be started to build in")]
    Spawn(#[source] std::io::Error),
    /// TensorRT, the shim, the model or the disk.
    #[error("{message}")]
    Failed {
        /// In its words.
        message: String,
        /// The same build would come to the same.
        lasting: bool,
    },
    /// It ended without a word.
    #[error("the building process ended {how} while it built the {network}; its last words are in the log")]
    Died {
        /// By which status.
        how: String,
        /// What it was at.
        network: String,
        /// By the kernel or a person: not by what it did itself.
        killed: bool,
    },
    /// It took too long.
    #[error("the build was not done after {} s (tensorrt.build_within_s)", .0.as_secs())]
    TooLong(Duration),
    /// The machine ran short of memory.
    #[error(
        "the build was ended: it left the machine {} MB of memory, and {} MB are to stay free (tensorrt.build_keeps_free_mb)",
        left_bytes / 1_000_000,
        keeps_free_bytes / 1_000_000
    )]
    Memory {
        /// What was left.
        left_bytes: u64,
        /// What was to stay.
        keeps_free_bytes: u64,
    },
    /// The agent ends.
    #[error("the build was told to stop")]
    Stopped,
}

impl BuildError {
    /// Whether the same build would come to the same: then it is not tried again at every start.
    pub fn is_lasting(&self) -> bool {
        match self {
            BuildError::Failed { lasting, .. } => *lasting,
            BuildError::Died { killed, .. } => !killed,
            // A device that was hot, or busy, is quicker another time.
            BuildError::TooLong(_) | BuildError::Spawn(_) | BuildError::Memory { .. } | BuildError::Stopped => false,
        }
    }
}

/// Where builds are run: a program that knows `engine build-child`.
#[derive(Debug, Clone)]
pub struct Builder {
    program: PathBuf,
    meminfo: PathBuf,
}

impl Builder {
    /// This program.
    pub fn of_this_program() -> Builder {
        // By the link, not by what it names: after an upgrade that is another program, or none.
        Builder::new(Path::new("/proc/self/exe"))
    }

    /// Another one.
    pub fn new(program: &Path) -> Builder {
        Builder { program: program.into(), meminfo: "/proc/meminfo".into() }
    }

    /// The same with another account of the machine's memory.
    pub fn with_meminfo(self, meminfo: &Path) -> Builder {
        Builder { meminfo: meminfo.into(), ..self }
    }

    /// Builds; `progress` hears of each step, and is called at least every 200 ms or so.
    pub fn build(
        &self,
        spec: &Spec,
        limits: Limits,
        (clock, stop): (&dyn Clock, &StopToken),
        progress: &mut dyn FnMut(&Step),
    ) -> Result<(), BuildError> {
        let (asked, left) = (spec.workspace_bytes, health::available_memory_bytes(&self.meminfo));
        let workspace_bytes = workspace_within(asked, left, limits.keeps_free_bytes);
        if workspace_bytes < asked {
            log::warn!(
                "tensorrt: the build gets {} MB of scratch memory, not {} MB (tensorrt.workspace_mb): more would leave the machine \
                 less than tensorrt.build_keeps_free_mb. The engine may be slower for it",
                workspace_bytes / 1_000_000,
                asked / 1_000_000
            );
        }
        let spec = &Spec { workspace_bytes, ..spec.clone() };
        let mut child = Killed(
            Command::new(&self.program)
                .args(["engine", "build-child"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .map_err(BuildError::Spawn)?,
        );
        let text = serde_json::to_vec(spec).expect("plain data");
        let told = child.0.stdin.take().expect("piped").write_all(&text);
        let lines = lines_of(&mut child.0)?;
        if let Err(e) = told {
            log::debug!("tensorrt: the building process did not listen: {e}");
        }
        let began = clock.now();
        let mut step = Step::default();
        loop {
            match lines.recv_timeout(LOOK_EVERY) {
                Ok(Line::Step(new)) => step = new,
                Ok(Line::Built {}) => return Ok(()),
                Ok(Line::Failed { message, lasting }) => return Err(BuildError::Failed { message, lasting }),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.0.wait().map_err(BuildError::Spawn)?;
                    let killed = matches!(status.signal(), Some(9 | 15));
                    return Err(BuildError::Died { how: format!("by {status}"), network: step.network, killed });
                }
            }
            progress(&step);
            if stop.is_stopped() {
                return Err(BuildError::Stopped);
            }
            if clock.now().since(began) > limits.within {
                return Err(BuildError::TooLong(limits.within));
            }
            let left = health::available_memory_bytes(&self.meminfo);
            if let Some(left_bytes) = left.filter(|left| *left < limits.keeps_free_bytes) {
                return Err(BuildError::Memory { left_bytes, keeps_free_bytes: limits.keeps_free_bytes });
            }
        }
    }
}

/// The scratch memory that a layer may have: what was asked for, if the machine can spare it.
fn workspace_within(asked: u64, left_bytes: Option<u64>, keeps_free_bytes: u64) -> u64 {
    let spare = left_bytes.map_or(u64::MAX, |left| left.saturating_sub(keeps_free_bytes));
    asked.min(spare.max(LEAST_WORKSPACE_BYTES))
}

/// A child that does not outlive its build.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        if let Err(e) = self.0.kill().and_then(|()| self.0.wait().map(drop)) {
            log::debug!("tensorrt: the building process: {e}");
        }
    }
}

/// The child's lines as they come; what is none is passed over: a library may print what it likes.
fn lines_of(child: &mut Child) -> Result<mpsc::Receiver<Line>, BuildError> {
    let mut out = BufReader::with_capacity(LINE_MAX_BYTES, child.stdout.take().expect("piped"));
    let (send, lines) = mpsc::sync_channel(LINES);
    let read = move || {
        let mut line = Vec::new();
        loop {
            line.clear();
            match std::io::Read::take(&mut out, LINE_MAX_BYTES as u64).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            match serde_json::from_slice::<Line>(&line) {
                Ok(line) => {
                    if send.send(line).is_err() {
                        return;
                    }
                }
                Err(_) => log::debug!("tensorrt: {}", String::from_utf8_lossy(&line).trim_end()),
            }
        }
    };
    std::thread::Builder::new().name("plan lines".into()).spawn(read).map_err(BuildError::Spawn)?;
    Ok(lines)
}

#[cfg(test)]
mod tests;
