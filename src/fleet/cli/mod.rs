//! `vedette-fleet`: one file for each group of commands. Exit codes: 0 done, 1 failed, 2 used wrongly.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keys, releases, roll-outs and enrolment of Vedette devices
#[derive(Debug, Parser)]
#[command(name = "vedette-fleet", version, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {}

/// Carries out what was asked.
pub fn main(cli: Cli) -> ExitCode {
    match cli.command {}
}
