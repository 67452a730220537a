//! `vedette status`: the running daemon's health.

use std::time::Duration;

use clap::Args;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::{config, http::client};

/// Show the running daemon's health, as its heartbeat carries it (JSON)
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub fn run(args: StatusArgs) -> anyhow::Result<Outcome> {
    let config = config::load(&args.config.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(client::status(&config.paths.runtime_dir, Duration::from_secs(10)))?;
    Out::new().line(serde_json::to_string_pretty(&status)?)?;
    Ok(Outcome::Good)
}
