//! TensorRT as the better engine.

use std::sync::Arc;
use std::time::Duration;

use super::{Better, Never, Tell};
use crate::agent::config::{Config, EngineChoice};
use crate::agent::infer::Engine;
use crate::agent::infer::model::Model;
use crate::agent::infer::tensorrt::build::{Builder, Step};
use crate::agent::infer::tensorrt::cache::InUse;
use crate::agent::infer::tensorrt::machine::MachineError;
use crate::agent::infer::tensorrt::ready::{Maker, NotReady, Ready, Remember, Trial};
use crate::base::clock::{Clock, Mono};
use crate::base::error::Chain;
use crate::base::stop::StopToken;

/// How often a build says in the journal how far it is.
const SAY_EVERY: Duration = Duration::from_secs(60);

struct TensorRt {
    model: Model,
    config: Config,
    clock: Arc<dyn Clock>,
    /// Of what was made last.
    trial: Option<Trial>,
    /// The plans of what was made last, for as long as it may serve.
    in_use: Option<InUse>,
}

/// TensorRT for the model of `config`, unless the config wants none.
pub fn better(config: &Config, model: &Model, clock: &Arc<dyn Clock>) -> Option<Box<dyn Better>> {
    (config.model.engine == EngineChoice::Auto).then(|| {
        let (model, config, clock) = (model.clone(), config.clone(), Arc::clone(clock));
        Box::new(TensorRt { model, config, clock, trial: None, in_use: None }) as Box<dyn Better>
    })
}

impl TensorRt {
    fn maker(&self) -> Result<Maker<'_>, NotReady> {
        let cameras = self.config.cameras.iter().filter(|c| c.classify).count();
        let places = (cameras, self.config.paths.state_dir.as_path());
        Maker::new(&self.model, &self.config.tensorrt, places, Arc::clone(&self.clock))
    }

    fn ready(&self, stop: &StopToken, tell: Tell<'_>) -> Result<(Ready, Trial), NotReady> {
        let maker = self.maker()?;
        log::info!("{}; plans in {}", maker.machine().describe(), maker.cache().dir().display());
        let why = match maker.cached(Remember::Yes)? {
            Ok(ready) => return Ok((ready, maker.trial())),
            Err(why) => why,
        };
        log::info!("a TensorRT engine is built ({why}); until then the CPU serves. This takes minutes");
        let builder = Builder::of_this_program();
        let mut said = Mono::ZERO;
        let mut progress = |step: &Step| {
            tell(format!("TensorRT is being built: {step}"));
            let now = self.clock.now();
            if now.since(said) >= SAY_EVERY || said == Mono::ZERO {
                log::info!("TensorRT: building: {step}");
                said = now;
            }
        };
        let ready = maker.build(&builder, stop, &mut progress)?;
        match maker.collect() {
            Ok(gone) if !gone.is_empty() => log::info!("TensorRT: {} old plans were let go", gone.len()),
            Ok(_) => {}
            Err(e) => log::warn!("TensorRT: {}", Chain(&e)),
        }
        Ok((ready, maker.trial()))
    }
}

impl Better for TensorRt {
    fn settled(&mut self) {
        if let Some(trial) = &self.trial {
            trial.settled();
        }
    }

    fn make(&mut self, stop: &StopToken, tell: Tell<'_>) -> Result<Engine, Never> {
        match self.ready(stop, tell) {
            Ok((ready, trial)) => {
                (self.trial, self.in_use) = (Some(trial), ready.in_use);
                log::info!(
                    "model {} on {}: proven against its golden vectors (smallest cosine of features {:.6}, largest \
                     difference of a probability {:.1e}); {:.2} ms a frame, {:.2} ms a window (medians, batch {})",
                    self.model.manifest().title(),
                    ready.engine.info.runtime,
                    ready.proof.features_cosine,
                    ready.proof.probabilities,
                    ready.times.encoder.p50().as_secs_f64() * 1e3 / ready.times.encoder.batch as f64,
                    ready.times.head.p50().as_secs_f64() * 1e3 / ready.times.head.batch as f64,
                    ready.times.encoder.batch,
                );
                Ok(ready.engine)
            }
            Err(NotReady::Machine(MachineError::None)) => Err(Never::None),
            Err(e) => {
                let why = Chain(&e).to_string();
                Err(if e.is_lost() {
                    Never::Lost(why)
                } else if e.may_pass() {
                    Never::NotNow(why)
                } else {
                    Never::Refused(why)
                })
            }
        }
    }
}
