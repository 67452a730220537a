//! `vedette model`: how the device stands with its model, a release from a USB stick, and what has been.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::config;
use crate::agent::http::{Install, client};
use crate::agent::ota::prove;
use crate::contract::command::{Command, CommandOutcome};
use crate::contract::update::{CUSTOM, SlotReport, UpdateReport, UpdateStatus};

/// The daemon answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The model that serves, and releases of models over the air
#[derive(Debug, Args)]
pub struct ModelCommand {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What serves, what it goes back to, what is on its way
    Status(Shown),
    /// What became of releases on this device, newest first
    History(Shown),
    /// Install a release of the repository that the configuration names, if it is signed for this device
    Update(UpdateArgs),
    /// Call off a release that is not committed; what serves on trial is taken back
    Cancel(CancelArgs),
    /// Install a release from the copy of a repository, on a USB stick: by the same signatures as over the air
    Install(InstallArgs),
    /// For the daemon: loads, proves and measures a model in a process of its own
    #[command(hide = true)]
    ProveChild,
}

#[derive(Debug, Args)]
struct Shown {
    #[command(flatten)]
    config: ConfigArgs,
    /// As JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// Its number
    release: u64,
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct CancelArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// The directory that holds metadata/, targets/ and files/; the daemon's user must be able to read it
    dir: PathBuf,
    /// Another release than its newest
    #[arg(long, value_name = "N")]
    release: Option<u64>,
    #[command(flatten)]
    config: ConfigArgs,
}

pub fn run(args: ModelCommand) -> anyhow::Result<Outcome> {
    match args.what {
        What::Status(shown) => {
            let said = ask(&shown, false)?;
            show(&shown, said, |status: UpdateStatus| status_lines(&status))
        }
        What::History(shown) => {
            let said = ask(&shown, true)?;
            show(&shown, said, |steps: Vec<UpdateReport>| steps.iter().map(step_line).collect())
        }
        What::Update(args) => {
            submit(&args.config, &Command::UpdateModel { release: args.release, rollout: None })?;
            offered(args.release)
        }
        What::Cancel(args) => {
            submit(&args.config, &Command::CancelUpdate { release: None })?;
            Out::new().line("it is called off; `vedette model status` shows what became of it")?;
            Ok(Outcome::Good)
        }
        What::Install(args) => install(&args),
        What::ProveChild => match prove::run(std::io::stdin().lock(), std::io::stdout().lock()) {
            0 => Ok(Outcome::Good),
            _ => Ok(Outcome::SomethingWrong),
        },
    }
}

fn ask(shown: &Shown, history: bool) -> anyhow::Result<Value> {
    let config = config::load(&shown.config.config)?;
    block_on(client::updates(&config.paths.runtime_dir, history, ANSWER_WITHIN))?
}

fn block_on<T>(asked: impl Future<Output = Result<T, client::ClientError>>) -> anyhow::Result<anyhow::Result<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(asked).map_err(Into::into))
}

fn submit(config: &ConfigArgs, command: &Command) -> anyhow::Result<()> {
    let config = config::load(&config.config)?;
    match block_on(client::submit(&config.paths.runtime_dir, command, ANSWER_WITHIN))?? {
        CommandOutcome::Accepted { .. } => Ok(()),
        CommandOutcome::Rejected { reason } | CommandOutcome::Failed { reason } => bail!("{reason}"),
    }
}

fn offered(release: u64) -> anyhow::Result<Outcome> {
    Out::new().line(format!("release {release} is offered; `vedette model status` shows how far it is"))?;
    Ok(Outcome::Good)
}

fn show<T: serde::de::DeserializeOwned>(
    shown: &Shown,
    said: Value,
    lines: impl FnOnce(T) -> Vec<String>,
) -> anyhow::Result<Outcome> {
    if let Some(why) = said.get("refused").and_then(Value::as_str) {
        bail!("{why}");
    }
    let mut out = Out::new();
    if shown.json {
        out.line(serde_json::to_string_pretty(&said)?)?;
    } else {
        let said = serde_json::from_value(said)
            .context("the daemon answers as another version of this program would; --json shows what it says")?;
        lines(said).iter().try_for_each(|line| out.line(line))?;
    }
    Ok(Outcome::Good)
}

fn slot(slot: &SlotReport) -> String {
    let from = slot.release.map_or("came with the package".to_owned(), |n| format!("release {n}"));
    format!("{} {} ({from}; SHA-256 {})", slot.model.name, slot.model.version, slot.model.digest)
}

fn status_lines(s: &UpdateStatus) -> Vec<String> {
    let mut lines = vec![
        format!("serves     {}", slot(&s.current)),
        format!("before it  {}", s.previous.as_ref().map_or("what came with the package".to_owned(), slot)),
        format!("floor      release {}: none lower is taken", s.floor),
        format!("hardware   {}", s.hardware.join(", ")),
        format!("checked    {}", s.checked.as_deref().unwrap_or("never")),
    ];
    if let Some(trouble) = &s.trouble {
        lines.push(format!("trouble    {}: {}", trouble.fault.as_str(), trouble.words));
    }
    if let Some(update) = &s.update {
        lines.push(format!("update     {}", step_line(update)));
    }
    lines
}

fn step_line(step: &UpdateReport) -> String {
    let model = match (&step.model, &step.version) {
        (Some(model), Some(version)) => format!(" ({model} {version})"),
        _ => String::new(),
    };
    let mut line = format!("{}  release {}{model}: {}", step.since, step.release, step.state.as_str());
    if let (Some(size), Some(fetched)) = (step.figures.size_bytes, step.figures.fetched_bytes) {
        line += &format!(", {} of {} kB fetched", fetched / 1000, size / 1000);
    }
    if let Some(waiting) = &step.waiting {
        line += &format!("; waits: {waiting}");
    }
    if let Some(reason) = &step.reason {
        line += &format!("; {}: {}", reason.fault.as_str(), reason.words);
    }
    line
}

fn install(args: &InstallArgs) -> anyhow::Result<Outcome> {
    let config = config::load(&args.config.config)?;
    let dir = std::path::absolute(&args.dir)?;
    let release = match args.release {
        Some(release) => release,
        None => newest_release(&dir)?,
    };
    let said = block_on(client::install(&config.paths.runtime_dir, &Install { dir, release }, ANSWER_WITHIN))??;
    if let Some(why) = said.get("refused").and_then(Value::as_str) {
        bail!("{why}");
    }
    offered(release)
}

/// The newest release that a repository's copy says it has. Nothing is verified here: the daemon does that.
fn newest_release(dir: &Path) -> anyhow::Result<u64> {
    let metadata = dir.join("metadata");
    let entries = std::fs::read_dir(&metadata)
        .with_context(|| format!("{} is no copy of a repository: metadata/ cannot be read", dir.display()))?;
    let version = |name: &str| match name {
        "targets.json" => Some(0),
        _ => name.strip_suffix(".targets.json")?.parse::<u64>().ok(),
    };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let newest = names.filter_map(|name| Some((version(&name)?, name))).max();
    let (_, name) = newest.with_context(|| format!("{} has no targets.json", metadata.display()))?;
    let text = std::fs::read(metadata.join(&name)).with_context(|| name.clone())?;
    let json: Value = serde_json::from_slice(&text).with_context(|| name.clone())?;
    let targets = json["signed"]["targets"].as_object().into_iter().flatten();
    let releases = targets.filter_map(|(_, target)| target["custom"][CUSTOM]["release"].as_u64());
    releases.max().with_context(|| format!("{} lists no release", metadata.join(&name).display()))
}
