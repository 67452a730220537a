//! `vedette check`: is this a config that the daemon can start with?

mod certificates;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::capture::{self, hardware};
use crate::agent::config::{self, Camera, Config, ConfigError, UploadPolicy, UploadTarget};
use crate::agent::infer::model::Model;
use crate::base::error::Chain;

/// What masks cost, as it was measured.
const MEASURED: &str = "In software that took 15 ms of processor time a picture of 1920 x 1080 on a server core (AMD \
     EPYC), 10 ms of it beyond what classifying needs anyway; not run on a Jetson.";

/// Validate a configuration: every problem at once, with its key, what is allowed, and the nearest right spelling
///
/// A configuration that is valid in itself is then held against the model directory that it names: every file's digest,
/// and the thresholds against the model's classes; and certificates and keys are loaded as the daemon loads them, and
/// held against the clock. Exit code 0: valid. 1: not. It does not look at cameras or the
/// network, and does not load the networks: `vedette run` does, and proves them, before it starts. It also says who decodes and
/// encodes on this machine (a Jetson's hardware, or software), and what masks cost.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// One JSON object: {"valid", "problems": [{"key", "line", "message", "remedy"}], "done_by": {work: elements}, "notes":
    /// [{"key", "message"}]}
    #[arg(long)]
    json: bool,
}

/// What is right and worth knowing.
#[derive(Debug, Serialize)]
struct Note {
    key: String,
    message: String,
}

/// What it costs that a camera has masks; none if it has none.
fn cost_of_masks(camera: &Camera) -> Option<Note> {
    let (count, share) = (camera.masks.len(), capture::share_covered(&camera.masks));
    let hide = if count == 1 { "mask hides" } else { "masks hide" };
    (count > 0).then(|| Note {
        key: format!("camera[{}].masks", camera.id),
        message: format!(
            "{count} {hide} {:.0} % of the picture; the video is decoded, masked and encoded anew (H.264, {} kbit/s) \
             instead of being kept as the camera sends it. {MEASURED}",
            100.0 * share,
            camera.encode_kbps
        ),
    })
}

/// What leaves the device, and what listens on it.
fn network(config: &Config) -> Vec<Note> {
    let note = |key: &str, message: String| Note { key: key.to_owned(), message };
    let mut notes = Vec::new();
    if let Some(upload) = &config.upload {
        let which = match upload.policy {
            UploadPolicy::OnRequest => "clips that are asked for",
            UploadPolicy::Always => "all clips",
        };
        let to = match &upload.target {
            UploadTarget::S3 { bucket, prefix, endpoint, .. } => {
                format!("s3://{bucket}/{prefix} at {}", endpoint.as_deref().unwrap_or("Amazon's"))
            }
            UploadTarget::Http { url } => url.clone(),
        };
        let when = upload.schedule.as_ref().map_or(String::new(), |s| format!(", by [schedule.{}]", s.name));
        notes.push(note("upload.policy", format!("{which} leave the device: to {to}{when}")));
    }
    if let Some(listen) = config.http.listen {
        let reach =
            if listen.ip().is_loopback() { "on this machine only" } else { "for who reaches it, with a signed link" };
        let certificate = match config.http.certificate {
            Some(_) => "with the installer's certificate",
            None => "with a certificate that the device makes and signs itself: `vedette status` shows its fingerprint",
        };
        notes.push(note("http.listen", format!("{listen} serves clips {reach}, {certificate}")));
    }
    if let Some(listen) = config.metrics.filter(|listen| !listen.ip().is_loopback()) {
        let message = format!(
            "{listen} is beyond this machine: whoever reaches it reads the names of cameras and how the device is, \
             unencrypted and without a password; protect it with a firewall, or use 127.0.0.1"
        );
        notes.push(note("metrics.listen", message));
    }
    notes
}

pub fn run(args: CheckArgs) -> anyhow::Result<Outcome> {
    let path = &args.config.config;
    let mut notes = Vec::new();
    let (problems, said) = match config::load(path) {
        Ok(config) => match Model::open(&config.model.dir) {
            Ok(model) => {
                let mut problems = config.check_classes(&model.manifest().classes);
                let (wrong, doubtful) = certificates::judge(&config);
                problems.extend(wrong);
                config::locate(&std::fs::read_to_string(path).unwrap_or_default(), &mut problems);
                notes = config.cameras.iter().filter_map(cost_of_masks).collect();
                notes.extend(network(&config));
                notes.extend(doubtful);
                let said = problems.iter().map(|p| format!("{}: {p}", path.display())).collect();
                (problems, said)
            }
            Err(e) => {
                let problem = config::Problem {
                    key: "model.dir".into(),
                    line: None,
                    message: Chain(&e).to_string(),
                    remedy: "name a whole model directory".into(),
                };
                let said = vec![format!("{}: {problem}", path.display())];
                (vec![problem], said)
            }
        },
        Err(e @ ConfigError::Invalid { .. }) => (e.problems().to_vec(), vec![e.to_string()]),
        Err(e) => {
            let problem = config::Problem {
                key: String::new(),
                line: None,
                message: Chain(&e).to_string(),
                remedy: "name a readable file with --config".into(),
            };
            (vec![problem], vec![Chain(&e).to_string()])
        }
    };
    // Which elements do the work is this machine's matter, not the configuration's: it is said, and makes nothing invalid.
    capture::init()?;
    let done_by = hardware::of_this_machine();
    let mut out = Out::new();
    let valid = problems.is_empty();
    if args.json {
        let done_by: BTreeMap<_, _> = done_by.iter().map(|(work, doer)| (work.to_string(), doer.to_string())).collect();
        out.json(&json!({ "valid": valid, "problems": problems, "done_by": done_by, "notes": notes }))?;
    } else if valid {
        out.line(format_args!("{}: valid", path.display()))?;
        for (work, doer) in &done_by {
            out.line(format_args!("  {work}: {doer}"))?;
        }
        for Note { key, message } in notes {
            out.line(format_args!("  {key}: {message}"))?;
        }
    } else {
        for line in said {
            out.line(line)?;
        }
    }
    Ok(if valid { Outcome::Good } else { Outcome::SomethingWrong })
}
