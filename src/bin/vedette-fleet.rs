//! The fleet manager's program: parse, call.

use std::process::ExitCode;

use clap::Parser;
use vedette::fleet::cli;

fn main() -> ExitCode {
    cli::main(cli::Cli::parse())
}
