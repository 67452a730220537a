//! `vedette status`: the running daemon's health.

mod text;

use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::{config, http::client};

/// Show the running daemon's health, as its heartbeat carries it
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

pub fn run(args: StatusArgs) -> anyhow::Result<Outcome> {
    let config = config::load(&args.config.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(client::status(&config.paths.runtime_dir, Duration::from_secs(10)))?;
    let mut out = Out::new();
    match args.json {
        true => out.line(serde_json::to_string_pretty(&status)?)?,
        false => {
            let status = serde_json::from_value(status)
                .context("the daemon answers as another version of this program would; --json shows what it says")?;
            text::lines(&status).iter().try_for_each(|line| out.line(line))?;
        }
    }
    Ok(Outcome::Good)
}
