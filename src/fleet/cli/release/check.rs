//! `vedette-fleet release check`, and the same before a model is listed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::agent::cli::out::Out;
use crate::agent::infer::model::Model;
use crate::base::atomic_file;
use crate::base::clock::SystemClock;
use crate::fleet::release::check::{Report, Wishes, already, check};

/// Look at a model as a device will: verify its files, run its golden vectors at batch 1 and 8, measure it
///
/// With --clips also on labelled clips, through the device's own pipeline; with --baseline it is refused if it is worse than
/// that. Exit code 1 if it is refused.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Model directory
    model: PathBuf,

    #[command(flatten)]
    wishes: WishArgs,

    /// Write what was found to this file, for release add --already-checked and for later baselines
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is looked at beside the model.
#[derive(Debug, Args)]
pub struct WishArgs {
    /// Labelled clips: a CSV file (clip,label[,source_video]), or a directory with a clips.csv or a directory for each class
    #[arg(long, value_name = "PATH")]
    clips: Option<PathBuf>,

    /// Count clips labelled FROM as class TO; may be given several times
    #[arg(long, value_name = "FROM=TO", value_parser = map)]
    map: Vec<(String, String)>,

    /// What it must reach: a TOML file (accuracy, roc_auc, specificity, macro_f1, [recall], [precision], frame_ms_at_most), the
    /// --report of an earlier model, or a model directory, which is judged on the same clips
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,

    /// How much worse than an earlier model is no worse: a clip set has its own chance
    #[arg(long, value_name = "X", default_value_t = 0.01, value_parser = margin)]
    margin: f64,

    /// CPU threads
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,

    /// ONNX Runtime's library [default: where the agent looks for it]
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
}

fn map(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("expected FROM=TO, a label and a class of the model".into()),
    }
}

fn margin(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|m| (0.0..1.0).contains(m)).ok_or_else(|| "expected 0 to 1".into())
}

impl WishArgs {
    fn wishes(&self) -> Wishes {
        Wishes {
            clips: self.clips.clone(),
            map: self.map.iter().cloned().collect(),
            baseline: self.baseline.clone(),
            margin: self.margin,
            threads: self.threads.into(),
            onnxruntime: self.onnxruntime.clone(),
        }
    }
}

pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = check(&args.model, &args.wishes.wishes(), &SystemClock::new())?;
    if let Some(path) = &args.report {
        let mut bytes = serde_json::to_vec_pretty(&report)?;
        bytes.push(b'\n');
        atomic_file::write(path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut out = Out::new();
    if args.json {
        out.json(&report)?;
    } else {
        for line in text(&report) {
            out.line(line)?;
        }
    }
    Ok(if report.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Before a model is listed: it is looked at, or was.
pub fn before_adding(dir: &Path, wishes: &WishArgs, report: Option<&Path>) -> anyhow::Result<Model> {
    if let Some(path) = report {
        let model = Model::open(dir)?;
        already(path, &model)?;
        return Ok(model);
    }
    let report = check(dir, &wishes.wishes(), &SystemClock::new())?;
    anyhow::ensure!(
        report.refused.is_empty(),
        "{} {} is refused: {}",
        report.model.name,
        report.model.version,
        report.refused.join("; ")
    );
    Ok(Model::open(dir)?)
}

fn text(report: &Report) -> Vec<String> {
    let model = &report.model;
    let mut lines = vec![format!("model {} {}, manifest {}", model.name, model.version, model.digest)];
    for p in &report.proven {
        lines.push(format!(
            "{}: golden vectors hold at batch 1 and 8 (features off by {:.1e} at most, probabilities by {:.1e})",
            p.precision, p.features, p.probabilities
        ));
    }
    for t in &report.took {
        lines.push(format!(
            "fp32 on this CPU, batch {}: encoder {:.1} ms (99 of 100 below {:.1}), head {:.1} ms (below {:.1})",
            t.batch, t.encoder_ms, t.encoder_p99_ms, t.head_ms, t.head_p99_ms
        ));
    }
    if let Some(m) = &report.metrics {
        let some = |value: Option<f64>| value.map_or("undefined".into(), |v| format!("{v:.4}"));
        lines.push(format!(
            "{} clips: accuracy {:.4}, ROC AUC {}, specificity {}, macro F1 {:.4}",
            m.clips,
            m.accuracy,
            some(m.roc_auc),
            some(m.specificity),
            m.macro_f1
        ));
        for (class, recall) in &m.recall {
            let precision = m.precision.get(class).copied().unwrap_or_default();
            lines.push(format!("  {class}: recall {recall:.4}, precision {precision:.4}"));
        }
    }
    match report.refused.is_empty() {
        true => lines.push("it can be released".into()),
        false => lines.extend(report.refused.iter().map(|why| format!("REFUSED: {why}"))),
    }
    lines
}
