//! `vedette-fleet`: one file for each group of commands. Exit codes: 0 done, 1 failed, 2 used wrongly.

#![allow(clippy::print_stderr, reason = "printing is what this module is for")]

mod common;
mod keys;
mod release;
mod rollout;
mod enrol;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::agent::cli::out;
use crate::base::error::Chain;

/// Keys, releases, roll-outs and enrolment of Vedette devices
#[derive(Debug, Parser)]
#[command(name = "vedette-fleet", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Keys(keys::KeysArgs),
    Release(release::ReleaseArgs),
    Rollout(rollout::RolloutArgs),
    Enrol(enrol::EnrolArgs),
}

/// Carries out what was asked.
pub fn main(cli: Cli) -> ExitCode {
    let ended = out::log_to_terminal(0, log::LevelFilter::Warn).and_then(|()| match cli.command {
        Command::Keys(args) => keys::run(args),
        Command::Release(args) => release::run(args),
        Command::Rollout(args) => rollout::run(args),
        Command::Enrol(args) => enrol::run(args),
    });
    match ended {
        Ok(code) => code,
        // Whoever read our output has read enough.
        Err(e) if out::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vedette-fleet: {}", Chain(e.as_ref()));
            ExitCode::FAILURE
        }
    }
}
