//! The command line: one file a subcommand, each no more than parsing, calling and printing. What a command does
//! lives in the stages and in `run`.
//!
//! The only place that prints. Results go to standard output, what is said about them to standard error.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this module is for")]

mod cameras;
mod check;
mod demo;
#[cfg_attr(not(feature = "tensorrt"), path = "engine_off.rs")]
mod engine;
mod evaluate;
mod frames;
mod incidents;
mod model;
pub(crate) mod out;
mod provision;
mod replay;
mod run;
mod status;
mod store;
mod test_alert;
mod views;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::agent::config::{ConfigError, Precision};
use crate::agent::infer::input::Input;
use crate::agent::run::clips_csv::ClipsError;
use crate::agent::run::offline::{self, OfflineError, Options};
use crate::base::error::Chain;

const ABOUT: &str = "Vedette watches local cameras with a streaming CNN-LSTM, keeps the video around what it sees, and \
delivers alerts over MQTT whatever happens to network, power, camera, disk or clock.";

const AFTER_HELP: &str = "The model that comes with it knows two classes, Fighting and Normal. The other
eight that the pipeline is made for (Abuse, Arson, Assault, Burglary, Explosion,
Road Accidents, Robbery, Shooting) need a model trained on data that we may not
ship: see engines/train in the source tree.

Exit codes:
  0  done
  1  done, and something is wrong: a config, a video, a store or a command that was looked at is bad
  2  the command line itself is wrong
  3  it could not be done: no model, no daemon, no disk, no permission";

/// The program's arguments.
#[derive(Debug, Parser)]
#[command(name = "vedette", version, about = ABOUT, after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub struct Cli {
    /// More of the log: once for debug, twice for trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Check(check::CheckArgs),
    Cameras(cameras::CamerasArgs),
    Engine(engine::EngineArgs),
    Replay(replay::ReplayArgs),
    Evaluate(evaluate::EvaluateArgs),
    Frames(frames::FramesArgs),
    Views(views::ViewsArgs),
    Incidents(incidents::IncidentsArgs),
    Model(model::ModelCommand),
    Store(store::StoreArgs),
    Status(status::StatusArgs),
    TestAlert(test_alert::TestAlertArgs),
    Demo(demo::DemoArgs),
    Provision(provision::ProvisionArgs),
}

/// Whether an error says that something the command was given is bad, rather than that it could not be done.
fn is_bad_input(e: &anyhow::Error) -> bool {
    e.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(ConfigError::Invalid { .. }))
            || matches!(cause.downcast_ref(), Some(ClipsError::Invalid { .. }))
            || cause.is::<OfflineError>()
    })
}

/// Where the model is, for the commands that load one without a config.
#[derive(Debug, Args)]
struct ModelArgs {
    /// Model directory (manifest, networks, golden vectors) [default: the one that came with this program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// Which of the model's networks run; a model's card says which it has
    #[arg(long, value_name = "P", default_value = "fp32", value_parser = precision)]
    precision: Precision,

    /// CPU threads for the encoder
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
}

impl ModelArgs {
    fn options(&self, sample_fps: Option<f32>, stride: Option<u16>) -> anyhow::Result<Options> {
        let model = match &self.model {
            Some(dir) => dir.clone(),
            None => offline::default_model()?,
        };
        let (precision, threads) = (self.precision, self.threads.into());
        Ok(Options { model, precision, threads, sample_fps, stride: stride.map(usize::from) })
    }
}

/// What decides the pixels, for the commands that need no network.
#[derive(Debug, Args)]
struct InputArgs {
    /// Model directory whose manifest says what a frame and a view are [default: the one that came with this program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,

    /// The same from a TOML file with sample_fps, [pixels] and [view]: the recipe of a model that is yet to be trained
    #[arg(long, value_name = "FILE", conflicts_with = "model")]
    recipe: Option<PathBuf>,
}

impl InputArgs {
    fn read(&self) -> anyhow::Result<Input> {
        use anyhow::Context;

        let Some(recipe) = &self.recipe else {
            let dir = self.model.clone().map_or_else(offline::default_model, Ok)?;
            return Ok(offline::open_model(&dir)?.manifest().input());
        };
        let text = std::fs::read_to_string(recipe).with_context(|| format!("cannot read {}", recipe.display()))?;
        Ok(Input::parse(recipe, &text)?)
    }
}

/// A precision on the command line.
fn precision(text: &str) -> Result<Precision, String> {
    let found = Precision::ALL.iter().find(|(word, _)| *word == text);
    found.map(|(_, precision)| *precision).ok_or_else(|| "expected fp32, fp16 or int8".into())
}

/// A rate on the command line.
fn fps(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(fps) if (0.5..=60.0).contains(&fps) => Ok(fps),
        _ => Err("expected frames a second, 0.5 to 60".into()),
    }
}

/// The config file, for the commands that speak to or about the daemon.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// The daemon's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/vedette/vedette.toml")]
    config: PathBuf,
}

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good,
    SomethingWrong,
}

/// Runs a parsed command line to its end.
pub fn main(cli: Cli) -> ExitCode {
    let verbose = cli.verbose;
    let logs = |default| out::log_to_terminal(verbose, default);
    let ended = match cli.command {
        Command::Run(args) => run::run(args, verbose),
        Command::Check(args) => check::run(args),
        Command::Cameras(args) => logs(log::LevelFilter::Warn).and_then(|()| cameras::run(args)),
        Command::Engine(args) => logs(log::LevelFilter::Warn).and_then(|()| engine::run(args)),
        Command::Replay(args) => logs(log::LevelFilter::Warn).and_then(|()| replay::run(args)),
        Command::Evaluate(args) => logs(log::LevelFilter::Warn).and_then(|()| evaluate::run(args)),
        Command::Frames(args) => logs(log::LevelFilter::Warn).and_then(|()| frames::run(args)),
        Command::Views(args) => logs(log::LevelFilter::Warn).and_then(|()| views::run(args)),
        Command::Incidents(args) => incidents::run(args),
        Command::Model(args) => logs(log::LevelFilter::Warn).and_then(|()| model::run(args)),
        Command::Store(args) => store::run(args),
        Command::Status(args) => status::run(args),
        Command::TestAlert(args) => test_alert::run(args),
        Command::Provision(args) => logs(log::LevelFilter::Warn).and_then(|()| provision::run(args)),
        Command::Demo(args) => logs(log::LevelFilter::Error).and_then(|()| demo::run(args)),
    };
    match ended {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::SomethingWrong) => ExitCode::from(1),
        // Whoever read our output has read enough.
        Err(e) if out::is_broken_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vedette: {}", Chain(e.as_ref()));
            ExitCode::from(if is_bad_input(&e) { 1 } else { 3 })
        }
    }
}
