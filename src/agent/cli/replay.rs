//! `vedette replay`: the daemon's pipeline over files.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::out::Out;
use super::{ModelArgs, Outcome};
use crate::agent::incident::Incident;
use crate::agent::infer::Score;
use crate::agent::run::offline::{Pipeline, Replayed};
use crate::base::error::Chain;

/// Run the daemon's own pipeline and window logic over video files, as fast as the machine goes
///
/// Prints each window's class probabilities and each incident that the daemon would have opened with the model's
/// thresholds. With --json, one object a line: {"type":"window","video","start_ms","end_ms","scores":{CLASS:P},"padded"}
/// and {"type":"incident","video","class","start_ms","end_ms","peak_score"}; times are the video's own. A video too
/// short for one window is padded with its last frame and says so. A video that cannot be decoded is reported on
/// standard error, the others go on, and the exit code is 1.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// Video files
    #[arg(required = true, value_name = "VIDEO")]
    videos: Vec<PathBuf>,

    #[command(flatten)]
    model: ModelArgs,

    /// One JSON object a line
    #[arg(long)]
    json: bool,

    /// Frames a second that are looked at [default: the model's]
    #[arg(long, value_name = "N", value_parser = super::fps)]
    sample_fps: Option<f32>,

    /// Sampled frames from one window to the next [default: the model's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    stride: Option<u16>,
}

pub fn run(args: ReplayArgs) -> anyhow::Result<Outcome> {
    let mut pipeline = Pipeline::load(&args.model.options(args.sample_fps, args.stride)?)?;
    let classes = pipeline.classes().to_vec();
    let mut out = Out::new();
    let mut outcome = Outcome::Good;
    for path in &args.videos {
        let video = path.display().to_string();
        let mut printed = Ok(());
        let ended = pipeline.replay(path, &mut |event| {
            printed = match event {
                Replayed::Window(score) if args.json => out.json(&window_json(&video, &score, &classes)),
                Replayed::Window(score) => out.line(window_text(&video, &score, &classes)),
                Replayed::Incident(incident) if args.json => out.json(&incident_json(&video, &incident)),
                Replayed::Incident(incident) => out.line(incident_text(&video, &incident)),
            };
            printed.is_ok()
        });
        printed?;
        match ended {
            Ok(summary) => {
                for warning in summary.warnings {
                    eprintln!("{video}: {warning}");
                }
            }
            Err(e) => {
                eprintln!("{video}: {}", Chain(&e));
                outcome = Outcome::SomethingWrong;
            }
        }
    }
    Ok(outcome)
}

fn window_json(video: &str, score: &Score, classes: &[String]) -> serde_json::Value {
    let scores: serde_json::Map<_, _> =
        classes.iter().cloned().zip(score.probabilities.iter().map(|p| json!(p))).collect();
    json!({
        "type": "window", "video": video, "start_ms": score.start.as_millis(), "end_ms": score.end.as_millis(),
        "scores": scores, "padded": score.padded,
    })
}

fn incident_json(video: &str, incident: &Incident) -> serde_json::Value {
    json!({
        "type": "incident", "video": video, "class": incident.class, "start_ms": incident.start.as_millis(),
        "end_ms": incident.end.as_millis(), "peak_score": incident.peak_score,
    })
}

fn window_text(video: &str, score: &Score, classes: &[String]) -> String {
    let mut by_score: Vec<_> = classes.iter().zip(score.probabilities.iter()).collect();
    by_score.sort_by(|a, b| b.1.total_cmp(a.1));
    let scores: Vec<_> = by_score.iter().take(3).map(|(class, p)| format!("{class} {p:.3}")).collect();
    let padded = if score.padded { "  (padded: the video is shorter than one window)" } else { "" };
    format!("{video}  {:>8.2} to {:>8.2} s  {}{padded}", secs(score.start), secs(score.end), scores.join("  "))
}

fn incident_text(video: &str, i: &Incident) -> String {
    format!(
        "{video}  INCIDENT {} from {:.2} to {:.2} s, peak score {:.3}",
        i.class,
        secs(i.start),
        secs(i.end),
        i.peak_score
    )
}

fn secs(t: crate::base::clock::Mono) -> f64 {
    t.as_nanos() as f64 / 1e9
}
