//! `vedette test-alert`: proves the way to the SOC.

use std::time::Duration;

use clap::Args;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::{config, http::client};
use crate::contract::command::{Command, CommandOutcome};

/// Ask the running daemon for an incident marked `test` that takes the whole way: clip, store, outbox, broker
#[derive(Debug, Args)]
pub struct TestAlertArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Camera [default: the first in the config]
    #[arg(long, value_name = "ID")]
    camera: Option<String>,

    /// Print the outcome as one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: TestAlertArgs) -> anyhow::Result<Outcome> {
    let config = config::load(&args.config.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let command = Command::TestAlert { camera: args.camera };
    let outcome = runtime.block_on(client::submit(&config.paths.runtime_dir, &command, Duration::from_secs(15)))?;
    let mut out = Out::new();
    match &outcome {
        _ if args.json => out.json(&outcome)?,
        CommandOutcome::Accepted { incident, .. } => {
            let id = incident.unwrap_or_default();
            out.line(format_args!("test incident {id} raised; follow it with: vedette incidents show {id}"))?;
        }
        CommandOutcome::Rejected { reason } => out.line(format_args!("rejected: {reason}"))?,
        CommandOutcome::Failed { reason } => out.line(format_args!("failed: {reason}"))?,
    }
    Ok(match outcome {
        CommandOutcome::Accepted { .. } => Outcome::Good,
        CommandOutcome::Rejected { .. } | CommandOutcome::Failed { .. } => Outcome::SomethingWrong,
    })
}
