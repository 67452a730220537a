//! `vedette incidents`: what was seen, from the store; works with and without a daemon.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use uuid::Uuid;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::config;
use crate::agent::http::client;
use crate::agent::store::{ClipState, Filter, IncidentState, Reader, StoredIncident, VerdictCounts};
use crate::base::clock::Wall;

/// How long the daemon may take for its answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// List, show and export the incidents in the device's store
#[derive(Debug, Args)]
pub struct IncidentsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One line an incident, newest first
    List {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Everything about one incident: times, scores, model, clip, alerts still in the outbox (JSON)
    Show {
        #[command(flatten)]
        config: ConfigArgs,
        /// The incident's id
        id: Uuid,
    },
    /// How many incidents of each camera and class operators confirmed, and how many were false alarms. Verdicts on test
    /// incidents are kept, and not counted
    Verdicts {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only on incidents that began at or after this time (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        since: Option<Wall>,
        /// Only on those that began before this time (RFC 3339)
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        until: Option<Wall>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Signed links to an incident's clip and the picture of its peak, from the running daemon's HTTPS (JSON)
    Link {
        #[command(flatten)]
        config: ConfigArgs,
        /// The incident's id
        id: Uuid,
    },
    /// Have the running daemon send an incident's clip to where [upload] says, whatever the policy is but "never"
    Upload {
        #[command(flatten)]
        config: ConfigArgs,
        /// The incident's id
        id: Uuid,
    },
    /// Copy incidents to a directory: incidents.jsonl, and each clip and picture of the peak that is ready
    Export {
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Directory to write to; made if it does not exist
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
struct FilterArgs {
    /// Only of this camera
    #[arg(long, value_name = "ID")]
    camera: Option<String>,
    /// Only of this class
    #[arg(long)]
    class: Option<String>,
    /// Only with evidence at or after this time (RFC 3339, such as 2026-11-21T08:00:00Z)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Wall>,
    /// Only those that began before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Wall>,
    /// Only those still open
    #[arg(long)]
    open: bool,
    /// At most so many, the newest
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

impl FilterArgs {
    fn filter(self) -> Filter {
        Filter {
            camera: self.camera,
            class: self.class,
            since: self.since,
            until: self.until,
            state: self.open.then_some(IncidentState::Open),
            limit: self.limit,
        }
    }
}

fn parse_time(text: &str) -> Result<Wall, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| "expected RFC 3339, such as 2026-11-21T08:00:00Z")?;
    Ok(Wall::from_unix_ms(time.as_millisecond()))
}

pub fn run(args: IncidentsArgs) -> anyhow::Result<Outcome> {
    match args.what {
        What::List { config, filter, json } => list(&config, filter.filter(), json),
        What::Show { config, id } => show(&config, id),
        What::Verdicts { config, since, until, json } => verdicts(&config, since, until, json),
        What::Link { config, id } => link(&config, id),
        What::Upload { config, id } => upload(&config, id),
        What::Export { config, filter, out } => export(&config, filter.filter(), &out),
    }
}

fn open(args: &ConfigArgs) -> anyhow::Result<(Reader, PathBuf)> {
    let state_dir = config::load(&args.config)?.paths.state_dir;
    Ok((Reader::open(&state_dir)?, state_dir))
}

fn list(config: &ConfigArgs, filter: Filter, json: bool) -> anyhow::Result<Outcome> {
    let (reader, _) = open(config)?;
    let mut out = Out::new();
    let mut printed = Ok(());
    reader.for_each(&filter, |incident| {
        printed = if json { out.json(&incident) } else { out.line(line(&incident)) };
        printed.is_ok()
    })?;
    printed?;
    Ok(Outcome::Good)
}

fn line(i: &StoredIncident) -> String {
    let length_s = (i.end_unix_ms.unix_ms() - i.start_unix_ms.unix_ms()) as f64 / 1000.0;
    let state = match i.state {
        IncidentState::Open => "open",
        IncidentState::Closed => "closed",
    };
    let clip = match &i.clip {
        None => "no clip".to_owned(),
        Some(clip) => match (&clip.report.path, &clip.report.lost_because) {
            (_, Some(why)) if clip.state == ClipState::Expired => format!("clip {why}"),
            (_, Some(why)) => format!("clip lost: {why}"),
            (Some(path), None) => path.clone(),
            (None, None) => "clip to come".to_owned(),
        },
    };
    format!(
        "{}  {}  {:<16} {:<14} {:.2}  {length_s:>6.1} s  {state:<6}  {clip}",
        i.report.start_time, i.report.id, i.report.camera, i.report.class, i.report.peak_score
    )
}

fn show(config: &ConfigArgs, id: Uuid) -> anyhow::Result<Outcome> {
    let (reader, _) = open(config)?;
    match reader.incident(id)? {
        Some(detail) => {
            Out::new().line(serde_json::to_string_pretty(&detail)?)?;
            Ok(Outcome::Good)
        }
        None => {
            eprintln!("the store {} knows no incident {id}", reader.path().display());
            Ok(Outcome::SomethingWrong)
        }
    }
}

fn verdicts(config: &ConfigArgs, since: Option<Wall>, until: Option<Wall>, json: bool) -> anyhow::Result<Outcome> {
    let (reader, _) = open(config)?;
    let mut out = Out::new();
    let by_camera = reader.verdicts(since, until)?;
    if by_camera.is_empty() && !json {
        out.line("no operator has said anything about an incident of this time")?;
    }
    if !json {
        eprintln!("verdicts on test incidents are not counted");
    }
    for (camera, by_class) in by_camera {
        for (class, counts) in by_class {
            let precision = counts.precision();
            if json {
                out.json(&serde_json::json!({
                    "camera": camera, "class": class, "confirmed": counts.confirmed,
                    "false_alarms": counts.false_alarms, "unclear": counts.unclear, "precision": precision,
                }))?;
                continue;
            }
            let VerdictCounts { confirmed, false_alarms, unclear } = counts;
            let precision = precision.map_or("nobody could tell".into(), |p| format!("precision {:.0} %", p * 100.0));
            out.line(format_args!(
                "{camera}  {class}: {confirmed} confirmed, {false_alarms} false alarms, {unclear} unclear; {precision}"
            ))?;
        }
    }
    Ok(Outcome::Good)
}

fn link(config: &ConfigArgs, id: Uuid) -> anyhow::Result<Outcome> {
    let config = config::load(&config.config)?;
    ask(client::link(&config.paths.runtime_dir, id, PATIENCE))
}

fn upload(config: &ConfigArgs, id: Uuid) -> anyhow::Result<Outcome> {
    let config = config::load(&config.config)?;
    ask(client::upload(&config.paths.runtime_dir, id, PATIENCE))
}

/// Asks the daemon, and prints its answer or its refusal.
fn ask(request: impl Future<Output = Result<serde_json::Value, client::ClientError>>) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(request)?;
    if let Some(why) = answer["refused"].as_str() {
        eprintln!("vedette: {why}");
        return Ok(Outcome::SomethingWrong);
    }
    Out::new().line(serde_json::to_string_pretty(&answer)?)?;
    Ok(Outcome::Good)
}

fn export(config: &ConfigArgs, filter: Filter, to: &std::path::Path) -> anyhow::Result<Outcome> {
    use std::io::Write;

    let (reader, state_dir) = open(config)?;
    std::fs::create_dir_all(to).with_context(|| format!("cannot create {}", to.display()))?;
    let list = to.join("incidents.jsonl");
    let file = std::fs::File::create(&list).with_context(|| format!("cannot create {}", list.display()))?;
    let mut file = std::io::BufWriter::new(file);
    let (mut incidents, mut copied, mut missing) = (0, 0, Vec::new());
    let mut written: anyhow::Result<()> = Ok(());
    reader.for_each(&filter, |incident| {
        written = (|| {
            serde_json::to_writer(&mut file, &incident)?;
            writeln!(file)?;
            incidents += 1;
            let report = incident.clip.as_ref().filter(|c| c.state == ClipState::Done).map(|c| &c.report);
            for path in report.into_iter().flat_map(|r| [&r.path, &r.peak_jpeg_path]).flatten() {
                let target = to.join(path);
                if let Some(dir) = target.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                match std::fs::copy(state_dir.join(path), &target) {
                    Ok(_) => copied += 1,
                    Err(e) => missing.push(format!("{path}: {e}")),
                }
            }
            Ok(())
        })();
        written.is_ok()
    })?;
    written.with_context(|| format!("cannot write to {}", to.display()))?;
    file.flush()?;
    eprintln!("{incidents} incidents and {copied} files in {}", to.display());
    for m in &missing {
        eprintln!("could not be copied: {m}");
    }
    Ok(if missing.is_empty() { Outcome::Good } else { Outcome::SomethingWrong })
}
