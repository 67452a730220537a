//! `vedette check`: is this a config that the daemon can start with?

use std::collections::BTreeMap;

use clap::Args;
use serde_json::json;

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::capture::{self, hardware};
use crate::agent::config::{self, ConfigError};
use crate::agent::infer::model::Model;
use crate::base::error::Chain;

/// Validate a configuration: every problem at once, with its key, what is allowed, and the nearest right spelling
///
/// A configuration that is valid in itself is then held against the model directory that it names: every file's digest,
/// and the thresholds against the model's classes. Exit code 0: valid. 1: not. It does not look at cameras or the
/// network, and does not load the networks: `vedette run` does, and proves them, before it starts. It also says who decodes and
/// encodes on this machine: a Jetson's hardware, or software.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// One JSON object: {"valid", "problems": [{"key", "line", "message", "remedy"}], "done_by": {work: elements}}
    #[arg(long)]
    json: bool,
}

pub fn run(args: CheckArgs) -> anyhow::Result<Outcome> {
    let path = &args.config.config;
    let (problems, said) = match config::load(path) {
        Ok(config) => match Model::open(&config.model.dir) {
            Ok(model) => {
                let problems = config.check_classes(&model.manifest().classes);
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
        out.json(&json!({ "valid": valid, "problems": problems, "done_by": done_by }))?;
    } else if valid {
        out.line(format_args!("{}: valid", path.display()))?;
        for (work, doer) in &done_by {
            out.line(format_args!("  {work}: {doer}"))?;
        }
    } else {
        for line in said {
            out.line(line)?;
        }
    }
    Ok(if valid { Outcome::Good } else { Outcome::SomethingWrong })
}
