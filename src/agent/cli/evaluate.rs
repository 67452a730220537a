//! `vedette evaluate`: labelled clips through the daemon's pipeline, judged.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;

use super::out::Out;
use super::{ModelArgs, Outcome};
use crate::agent::run::clips_csv;
use crate::agent::run::metrics::{self, Labelled, Rates, Table};
use crate::agent::run::offline::Pipeline;
use crate::base::error::Chain;
use crate::contract::alert::NORMAL;

/// Judge a model on labelled clips: accuracy, ROC AUC, specificity, precision and recall by class, confusion matrix
///
/// The clips go through the daemon's own pipeline. A clip's probabilities are those of its window with the highest
/// 1 - P(Normal); its predicted label is their argmax; the ROC curve takes 1 - P(Normal) as the score of "not Normal".
/// No smoothing and no incident logic is applied. Specificity is the recall of Normal. Intervals are 95 % bootstrap
/// intervals that resample source videos (clips, where the file names none).
///
/// With --json, one object with the keys clips, accuracy, roc_auc, specificity, per_class.CLASS.{precision, recall,
/// f1, support, roc_auc}, macro, weighted, confusion.TRUE.PREDICTED, interval95, failed. A clip that cannot be decoded
/// is reported on standard error and listed under failed, the others are judged, and the exit code is 1.
#[derive(Debug, Args)]
pub struct EvaluateArgs {
    /// CSV file with a header: clip,label[,source_video]; clip paths are relative to the file
    #[arg(long, value_name = "CSV")]
    data: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Count clips labelled FROM as class TO; may be given several times
    #[arg(long, value_name = "FROM=TO", value_parser = parse_map)]
    map: Vec<(String, String)>,

    /// Frames a second that are looked at [default: the model's]
    #[arg(long, value_name = "N", value_parser = super::fps)]
    sample_fps: Option<f32>,

    /// Sampled frames from one window to the next [default: the model's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    stride: Option<u16>,
}

fn parse_map(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.into(), to.into())),
        _ => Err("expected FROM=TO, a label of the file and a class of the model".into()),
    }
}

/// The table, and the clips that are not in it.
#[derive(serde::Serialize)]
struct Report {
    #[serde(flatten)]
    table: Table,
    model: crate::contract::alert::ModelRef,
    failed: Vec<String>,
}

pub fn run(args: EvaluateArgs) -> anyhow::Result<Outcome> {
    let mut pipeline = Pipeline::load(&args.model.options(args.sample_fps, args.stride)?)?;
    let classes = pipeline.classes().to_vec();
    anyhow::ensure!(
        classes.iter().any(|c| c == NORMAL),
        "the model {} has no class Normal; specificity and ROC need one",
        pipeline.model_ref().name
    );
    let map: BTreeMap<_, _> = args.map.into_iter().collect();
    let clips = clips_csv::read(&args.data, &classes, &map)?;
    let by_source = clips.iter().any(|c| c.source.is_some());
    let (mut judged, mut failed) = (Vec::new(), Vec::new());
    let show = std::io::stderr().is_terminal();
    for (i, clip) in clips.iter().enumerate() {
        if show {
            eprint!("\r{}/{} clips", i + 1, clips.len());
        }
        match pipeline.clip_probabilities(&clip.path) {
            Ok(probabilities) => judged.push(Labelled {
                label: clip.label,
                probabilities,
                source: clip.source.clone().unwrap_or_else(|| clip.name.clone()),
            }),
            Err(e) => {
                eprintln!("{}{}: {}", if show { "\n" } else { "" }, clip.path.display(), Chain(&e));
                failed.push(clip.name.clone());
            }
        }
    }
    if show {
        eprintln!();
    }
    anyhow::ensure!(!judged.is_empty(), "none of the {} clips could be decoded", clips.len());
    let report = Report { table: metrics::table(&classes, &judged, by_source), model: pipeline.model_ref(), failed };
    let mut out = Out::new();
    if args.json {
        out.json(&report)?;
    } else {
        for line in text(&report) {
            out.line(line)?;
        }
    }
    Ok(if report.failed.is_empty() { Outcome::Good } else { Outcome::SomethingWrong })
}

fn text(report: &Report) -> Vec<String> {
    let Report { table: t, model, failed } = report;
    let mut lines = vec![
        format!("model {} {} ({} clips)", model.name, model.version, t.clips),
        String::new(),
        format!("{:<16} {:>9} {:>9} {:>9} {:>9} {:>9}", "class", "precision", "recall", "F1", "AUC", "clips"),
    ];
    let row = |name: &str, r: &Rates, auc: Option<f64>, support: usize| {
        let auc = auc.map_or("-".into(), |a| format!("{a:.3}"));
        format!("{name:<16} {:>9.3} {:>9.3} {:>9.3} {auc:>9} {support:>9}", r.precision, r.recall, r.f1)
    };
    lines.extend(t.per_class.iter().map(|(name, c)| row(name, &c.rates, c.roc_auc, c.support)));
    lines.push(row("macro average", &t.macro_average, None, t.clips));
    lines.push(row("weighted average", &t.weighted, None, t.clips));
    lines.push(String::new());
    let i = &t.interval95;
    let figure = |name: &str, value: Option<f64>, interval: Option<[f64; 2]>| {
        let value = value.map_or("undefined".into(), |v| format!("{v:.3}"));
        let interval = interval.map_or(String::new(), |[lo, hi]| format!("  95 % interval {lo:.3} to {hi:.3}"));
        format!("{name:<16} {value:>9}{interval}")
    };
    lines.push(figure("accuracy", Some(t.accuracy), i.accuracy));
    lines.push(figure("ROC AUC", t.roc_auc, i.roc_auc));
    lines.push(figure("specificity", t.specificity, i.specificity));
    lines.push(figure("macro F1", Some(t.macro_average.f1), i.macro_f1));
    lines.push(format!("intervals: bootstrap over {} groups by {}", i.groups, i.by));
    lines.push(String::new());
    lines.push("confusion (rows: true, columns: predicted)".into());
    let names: Vec<_> = t.confusion.keys().cloned().collect();
    let head: String = names.iter().map(|n| format!(" {n:>14}")).collect();
    lines.push(format!("{:<16}{head}", ""));
    for (name, row) in &t.confusion {
        lines.push(format!("{name:<16}{}", row.values().map(|n| format!(" {n:>14}")).collect::<String>()));
    }
    if !failed.is_empty() {
        lines.push(format!("not judged, because they could not be decoded: {}", failed.join(", ")));
    }
    lines
}
