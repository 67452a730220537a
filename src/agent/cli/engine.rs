//! `vedette engine`: TensorRT engines for people: built, proven, measured, listed, let go; and the shim that they need.

mod bench;
mod beside;
mod build_shim;
mod plans;

use clap::{Args, Subcommand};

use super::{ConfigArgs, Outcome};
use crate::agent::infer::tensorrt::build::child;
use crate::agent::infer::tensorrt::ffi;

/// Build, prove and measure TensorRT engines on this machine
///
/// The daemon does all of this by itself where TensorRT is installed (JetPack) and the shim is there: it serves on the CPU
/// until an engine is built, proven against the model's golden vectors and fast enough. These commands are for who wants to
/// see it, or have it done beforehand. Run them as the user of the daemon (sudo -u vedette), to whom the plans belong.
#[derive(Debug, Args)]
pub struct EngineArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Build the engine that the configuration asks for, prove and measure it; takes minutes
    ///
    /// What was built before for the same model, TensorRT, CUDA, GPU and options is replaced, also one that was refused.
    Build {
        #[command(flatten)]
        config: ConfigArgs,
        /// As JSON lines: {"step"}, then {"engine"}
        #[arg(long)]
        json: bool,
    },
    /// Load the engine that is there, prove it against the golden vectors and measure it; exit code 1 if it is refused
    Verify {
        #[command(flatten)]
        config: ConfigArgs,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the engines that are kept: for what, how large, whether this machine can use them
    List {
        #[command(flatten)]
        config: ConfigArgs,
        /// One JSON array
        #[arg(long)]
        json: bool,
    },
    /// Let go of engines that are not needed: of other machines, unreadable ones, the oldest beyond tensorrt.cache_mb
    Gc {
        #[command(flatten)]
        config: ConfigArgs,
        /// Of this machine, too, but for the one that this configuration asks for and those that a daemon uses
        #[arg(long)]
        all: bool,
    },
    Bench(bench::BenchArgs),
    BuildShim(build_shim::BuildShimArgs),
    /// For the daemon: build what standard input says
    #[command(hide = true)]
    BuildChild,
}

pub fn run(args: EngineArgs) -> anyhow::Result<Outcome> {
    match args.what {
        What::Build { config, json } => plans::build(&config, json),
        What::Verify { config, json } => plans::verify(&config, json),
        What::List { config, json } => plans::list(&config, json),
        What::Gc { config, all } => plans::gc(&config, all),
        What::Bench(args) => bench::run(args),
        What::BuildShim(args) => build_shim::run(&args),
        What::BuildChild => {
            ffi::close_inherited();
            // A library that prints would print into our lines: what it prints goes where the log goes.
            let lines = std::fs::File::from(rustix::io::dup(std::io::stdout())?);
            rustix::stdio::dup2_stdout(std::io::stderr())?;
            match child::run(std::io::stdin(), lines) {
                0 => Ok(Outcome::Good),
                _ => Ok(Outcome::SomethingWrong),
            }
        }
    }
}
