//! `vedette run`: the daemon.

use std::sync::Arc;

use clap::Args;
use log::LevelFilter;

use super::{ConfigArgs, Outcome, out};
use crate::agent::config;
use crate::agent::run::{Daemon, service};
use crate::base::clock::SystemClock;

/// Run the daemon: capture, classify, record, store, alert
///
/// Works with no broker configured: incidents and clips then stay on the device. SIGTERM and SIGINT drain: open
/// incidents close, clips are finished, the final status is published. SIGHUP reads the config again, applies what it
/// can and says what needs a restart. Under systemd the log goes to the journal with structured fields.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

pub fn run(args: RunArgs, verbose: u8) -> anyhow::Result<Outcome> {
    if !service::log_to_journal(out::level(verbose, LevelFilter::Info)).map_err(anyhow::Error::from_boxed)? {
        out::log_to_terminal(verbose, LevelFilter::Info)?;
    }
    let path = &args.config.config;
    let daemon = Daemon::start(config::load(path)?, Arc::new(SystemClock::new()))?;
    outcome(service::serve(daemon, path)?)
}

/// What broke makes the program fail, so that systemd starts it again.
fn outcome(ended: service::Ended) -> anyhow::Result<Outcome> {
    match ended {
        service::Ended::Asked(report) if report.troubles.is_empty() => {
            log::info!("stopped: {report}");
            Ok(Outcome::Good)
        }
        service::Ended::Asked(report) => anyhow::bail!("stopped, but not everything was drained: {report}"),
        service::Ended::Broken { why, report } => anyhow::bail!("stopped because {why}; {report}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run::DrainReport;

    #[test]
    fn only_an_end_that_was_asked_for_and_went_well_is_a_success() {
        let (clean, troubled) =
            (DrainReport::default(), DrainReport { troubles: vec!["clip did not end in time".into()] });
        assert!(matches!(outcome(service::Ended::Asked(clean.clone())), Ok(Outcome::Good)));
        assert!(outcome(service::Ended::Asked(troubled)).is_err_and(|e| e.to_string().contains("clip did not end")));
        let broken = service::Ended::Broken { why: "a stage panicked".into(), report: clean };
        assert!(outcome(broken).is_err_and(|e| e.to_string().contains("a stage panicked")));
    }
}
