//! The agent's program: parse, call.

use std::process::ExitCode;

use clap::Parser;
use vedette::agent::cli;

fn main() -> ExitCode {
    cli::main(cli::Cli::parse())
}
