//! `vedette engine` of a program that was built without TensorRT: it says so.

use clap::Args;

use super::Outcome;

/// Build, prove and measure TensorRT engines (not in this program: it was built without the feature tensorrt)
#[derive(Debug, Args)]
pub struct EngineArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _rest: Vec<String>,
}

pub fn run(_: EngineArgs) -> anyhow::Result<Outcome> {
    anyhow::bail!("this vedette was built without TensorRT (cargo feature `tensorrt`): it classifies on the CPU")
}
