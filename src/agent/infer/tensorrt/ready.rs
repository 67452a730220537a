//! From a model to an engine that may serve: plans from the cache or newly built, loaded, proven against the golden
//! vectors, and fast enough. Whatever fails on the way leaves the device on what it had.
//!
//! ```text
//!   cached ──no──► build (child process) ──► cached
//!     │yes                                     │
//!     └──────────► load ──► prove ──► measure ─┴─► engine
//!                    └────────┴─────────┴── refused: remembered, with the numbers
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::build::{BuildError, Builder, Limits, Spec, Step};
use super::cache::{Cache, CacheError, Found, InUse, Key, names_of};
use super::machine::{Machine, MachineError, Places};
use super::types::ShimError;
use super::{LoadError, Plans};
use crate::agent::config;
use crate::agent::infer::golden::{Proof, ProofError};
use crate::agent::infer::measure::{Times, measure};
use crate::agent::infer::model::Model;
use crate::agent::infer::{Engine, EngineError};
use crate::base::clock::Clock;
use crate::base::error::Chain;
use crate::base::stop::StopToken;

/// Passes that are measured before an engine serves.
const PASSES: usize = 200;
/// Of the time from one sampled frame to the next, what a round over all cameras may take: the rest is for decoding.
const SHARE: f64 = 0.5;

/// An engine that may serve, and what it showed.
pub struct Ready {
    /// It.
    pub engine: Engine,
    /// Keeps its plans from being let go.
    pub in_use: Option<InUse>,
    /// How near it came to the golden vectors.
    pub proof: Proof,
    /// How long it takes.
    pub times: Times,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The machine cannot run one.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// Plans cannot be kept, and building them at every start would take minutes each time.
    #[error("no TensorRT engine is built, for it would have to be built anew at every start")]
    Cache(#[from] CacheError),
    /// The build came to nothing.
    #[error("no TensorRT engine of {model} could be built")]
    Build {
        /// Of what.
        model: String,
        /// Why.
        source: BuildError,
    },
    /// It was tried before.
    #[error(
        "the TensorRT engine was refused before: {0}; `vedette engine build`, and then a restart of the daemon, tries again"
    )]
    Refused(String),
    /// The shim or the library.
    #[error("TensorRT cannot be opened")]
    Open(#[source] ShimError),
    /// The plans cannot be used.
    #[error("the TensorRT engine cannot be loaded")]
    Load(#[from] LoadError),
    /// It does not compute the model.
    #[error("the TensorRT engine is refused")]
    Proof(#[from] ProofError),
    /// It failed while it was measured.
    #[error("the TensorRT engine failed while it was measured")]
    Run(#[from] EngineError),
    /// It is too slow.
    #[error(
        "the TensorRT engine is too slow for now: a round over {cameras} cameras takes {:.1} ms (median), and {:.1} ms is the limit",
        took.as_secs_f64() * 1e3,
        allowed.as_secs_f64() * 1e3
    )]
    Slow {
        /// How many it was measured with.
        cameras: usize,
        /// What it took.
        took: Duration,
        /// What it may take.
        allowed: Duration,
    },
}

impl NotReady {
    /// Whether it may be otherwise in a while, though nobody does anything about it.
    pub fn may_pass(&self) -> bool {
        match self {
            NotReady::Machine(MachineError::Gpu { .. }) | NotReady::Slow { .. } | NotReady::Run(_) => true,
            NotReady::Build { source, .. } => !source.is_lasting(),
            NotReady::Cache(e) => e.may_pass(),
            NotReady::Load(e) => !e.is_of_the_plan(),
            NotReady::Proof(e) => !is_of_the_engine(e),
            NotReady::Machine(_) | NotReady::Refused(_) | NotReady::Open(_) => false,
        }
    }

    /// Whether the GPU is of no more use to this process: another one may well use it.
    pub fn is_lost(&self) -> bool {
        match self {
            NotReady::Run(e) | NotReady::Proof(ProofError::Engine { source: e, .. }) => e.is_lost(),
            NotReady::Load(e) => e.is_lost(),
            _ => false,
        }
    }
}

/// Whether what was computed is wrong, and not merely that nothing could be computed.
fn is_of_the_engine(e: &ProofError) -> bool {
    matches!(e, ProofError::WrongNumbers { .. } | ProofError::WrongDirection { .. } | ProofError::NoTolerance { .. })
        || matches!(e, ProofError::Engine { source: EngineError::NotFinite { .. }, .. })
}

/// Whether what is found of plans is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remember {
    /// By who will use them.
    Yes,
    /// By who only looks.
    No,
}

/// An engine of the cache that is begun to be used.
pub struct Trial {
    cache: Cache,
    key: Key,
}

impl Trial {
    /// It has served for a while, or ends in good order.
    pub fn settled(&self) {
        self.cache.end_trial(&self.key);
    }
}

/// Makes engines of one model on one machine.
pub struct Maker<'a> {
    machine: Machine,
    model: &'a Model,
    config: &'a config::TensorRt,
    cache: Cache,
    key: Key,
    clock: Arc<dyn Clock>,
}

impl<'a> Maker<'a> {
    /// For so many cameras; plans are kept below the state directory.
    pub fn new(
        model: &'a Model,
        config: &'a config::TensorRt,
        (cameras, state_dir): (usize, &Path),
        clock: Arc<dyn Clock>,
    ) -> Result<Maker<'a>, NotReady> {
        let places = Places { library: config.library.clone(), shim: config.shim.clone() };
        let machine = Machine::find(&places)?;
        let (tensorrt, gpu) = names_of(&machine);
        let reference = model.reference();
        let key = Key {
            model: model.manifest().title(),
            model_sha256: reference.digest,
            tensorrt,
            cuda: machine.gpu.cuda,
            gpu,
            precision: config.precision.to_string(),
            max_batch: cameras.max(1),
            likely_batch: cameras.max(1),
            dla_core: config.dla_core,
            workspace_bytes: config.workspace_bytes,
        };
        Ok(Maker { machine, model, config, cache: Cache::new(state_dir), key, clock })
    }

    /// What it runs on.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// To say later that what was made is good: without asking the machine, which may have lost its GPU by then.
    pub fn trial(&self) -> Trial {
        Trial { cache: self.cache.clone(), key: self.key.clone() }
    }

    /// What its plans are good for.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Where they are kept.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// An engine of the plans that are there; none: they have to be built, and why.
    ///
    /// Who remembers calls [`Trial::settled`] when it has served for a while: what takes the process with it, again and
    /// again, is not used for ever.
    pub fn cached(&self, remember: Remember) -> Result<Result<Ready, String>, NotReady> {
        let in_use = self.cache.hold(&self.key);
        let plans = match self.cache.find(&self.key) {
            Found::Refused(why) => return Err(NotReady::Refused(why)),
            Found::Nothing(why) => return Ok(Err(why)),
            Found::Plans { encoder, head } => {
                Plans { encoder, head, precision: self.config.precision, dla_core: self.config.dla_core }
            }
        };
        if remember == Remember::Yes {
            self.cache.begin_trial(&self.key)?;
        }
        let ready = self.ready(&plans, in_use);
        if remember == Remember::Yes
            && let Err(e) = &ready
            // What has made the GPU useless to the process is not ended in good order.
            && !e.is_lost()
        {
            self.cache.end_trial(&self.key);
            if let NotReady::Proof(proof) = e
                && is_of_the_engine(proof)
            {
                self.cache.refuse(&self.key, &Chain(e).to_string(), self.clock.wall())?;
            }
        }
        match ready {
            // A driver or a library has changed under it: it is built anew.
            Err(NotReady::Load(e)) if e.is_of_the_plan() => Ok(Err(Chain(&e).to_string())),
            other => other.map(Ok),
        }
    }

    /// Builds plans and makes an engine of them; `progress` hears of each step. What was there before is replaced.
    pub fn build(
        &self,
        builder: &Builder,
        stop: &StopToken,
        progress: &mut dyn FnMut(&Step),
    ) -> Result<Ready, NotReady> {
        let _lock = self.cache.make_ready()?;
        let out = self.cache.begin(&self.key)?;
        let began = self.clock.now();
        let limits = Limits { within: self.config.build_within, keeps_free_bytes: self.config.build_keeps_free_bytes };
        let built = builder.build(&self.spec(out), limits, (self.clock.as_ref(), stop), progress);
        if let Err(e) = built {
            // It may be what the builder choked on.
            if matches!(e, BuildError::Died { .. })
                && let Err(e) = std::fs::remove_file(self.cache.timing_path(&self.key))
            {
                log::debug!("tensorrt: the timing cache: {e}");
            }
            if e.is_lasting() {
                self.cache.refuse(&self.key, &Chain(&e).to_string(), self.clock.wall())?;
            }
            return Err(NotReady::Build { model: self.key.model.clone(), source: e });
        }
        let took = self.clock.now().since(began).as_secs_f64();
        self.cache.finish(&self.key, self.clock.wall(), took)?;
        match self.cached(Remember::Yes)? {
            Ok(ready) => Ok(ready),
            Err(why) => {
                self.cache.refuse(&self.key, &why, self.clock.wall())?;
                Err(NotReady::Refused(why))
            }
        }
    }

    /// Lets go of plans that are not needed any more.
    pub fn collect(&self) -> Result<Vec<String>, CacheError> {
        let lock = self.cache.lock()?;
        self.cache.collect(&lock, Some(&self.key), &[self.key.id()], self.config.cache_bytes)
    }

    /// Loads, proves at every batch size, and measures.
    fn ready(&self, plans: &Plans, in_use: Option<InUse>) -> Result<Ready, NotReady> {
        let m = self.model.manifest();
        let library = self.machine.open(false).map_err(NotReady::Open)?;
        let mut engine = super::load(m, &library, plans, self.config.cuda_graph)?;
        match self.judge(&mut engine) {
            Ok((proof, times)) => Ok(Ready { engine, in_use, proof, times }),
            Err(e) => {
                if e.is_lost() {
                    // To free it is work for the GPU, too, which takes none any more.
                    std::mem::forget(engine);
                }
                Err(e)
            }
        }
    }

    fn judge(&self, engine: &mut Engine) -> Result<(Proof, Times), NotReady> {
        let m = self.model.manifest();
        let batches: Vec<usize> = (1..=self.key.max_batch).collect();
        let proof = self.model.prove_at(engine, &batches)?;
        let times = measure(m, engine, (self.key.max_batch, PASSES), self.clock.as_ref())?;
        let allowed = Duration::from_secs_f64(SHARE / f64::from(m.sample_fps));
        match times.round() {
            took if took > allowed => Err(NotReady::Slow { cameras: self.key.max_batch, took, allowed }),
            _ => Ok((proof, times)),
        }
    }

    fn spec(&self, out: PathBuf) -> Spec {
        Spec {
            model_dir: self.model.dir().to_path_buf(),
            model_sha256: self.key.model_sha256.clone(),
            library: self.machine.library.clone(),
            parser: self.machine.parser.clone(),
            shim: self.machine.shim.clone(),
            precision: self.key.precision.clone(),
            max_batch: self.key.max_batch,
            likely_batch: self.key.likely_batch,
            dla_core: self.key.dla_core,
            workspace_bytes: self.key.workspace_bytes,
            out,
            timing_cache: self.cache.timing_path(&self.key),
            memory_bytes: self.config.build_memory_bytes,
        }
    }
}
