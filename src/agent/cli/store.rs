//! `vedette store check`: do the database, its rows and the files hold together?

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::out::Out;
use super::{ConfigArgs, Outcome};
use crate::agent::config::{self, Config};
use crate::agent::health::Sensors;
use crate::agent::run::repair::recover;
use crate::agent::run::{labels, outbox_policy};
use crate::agent::store::{CheckReport, DeviceContext, Repair, check, database_path};
use crate::base::clock::{Clock, SystemClock};

/// Look after the device's store
#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Compare database, rows, files and hashes; exit code 1 if something is wrong
    ///
    /// Without --repair it only looks, and may do so while the daemon runs. With --repair (the daemon must be stopped)
    /// incidents that a killed daemon left open are closed, the clips it was recording are finished with the footage
    /// that they have, and clips whose files are gone or damaged are marked lost, each with its alert. A damaged database is set
    /// aside and its readable rows carried over. No footage is ever deleted: it may be evidence.
    Check {
        #[command(flatten)]
        config: ConfigArgs,
        /// Put right what can be
        #[arg(long)]
        repair: bool,
        /// Print the report as one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: StoreArgs) -> anyhow::Result<Outcome> {
    let What::Check { config, repair, json } = args.what;
    let config = config::load(&config.config)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let context = context(&config, &clock);
    let state_dir = &config.paths.state_dir;
    let report = if repair {
        // What is not there is reported by the check, not made by the repair.
        let there = database_path(state_dir).exists();
        let finished = if there { recover(state_dir, context.clone(), Arc::clone(&clock))? } else { Vec::new() };
        let mut report = check(state_dir, Repair::Yes { context: &context, clock: &*clock })?;
        report.repaired.splice(0..0, finished);
        report
    } else {
        check(state_dir, Repair::No)?
    };
    let mut out = Out::new();
    if json {
        out.json(&report)?;
    } else {
        for line in text(&report) {
            out.line(line)?;
        }
    }
    Ok(if report.is_clean() { Outcome::Good } else { Outcome::SomethingWrong })
}

/// The device as the daemon would tell the store; alerts that a repair writes carry it.
fn context(config: &Config, clock: &Arc<dyn Clock>) -> DeviceContext {
    let (sensors, clock) = (Sensors::of_machine(&config.paths.state_dir), Arc::clone(clock));
    DeviceContext {
        site: config.device.site.clone(),
        device: config.device.id.clone(),
        outbox: outbox_policy(config),
        labels: labels(config),
        clock_state: Arc::new(move || sensors.clock(clock.wall()).into()),
    }
}

fn text(r: &CheckReport) -> Vec<String> {
    let running = if r.daemon_running { "; a daemon works on it now" } else { "" };
    let mut lines = vec![format!(
        "{}: {} incidents, {} clips, {} alerts in the outbox{running}",
        r.database, r.incidents, r.clips_done, r.outbox_rows
    )];
    lines.extend(r.integrity.iter().map(|i| format!("database: {i}")));
    lines.extend(r.clip_faults.iter().map(|f| format!("clip: {f}")));
    lines.extend(r.orphan_files.iter().map(|f| format!("no row names {f}; it is kept")));
    lines.extend(
        r.partial_files
            .iter()
            .map(|f| format!("not finished: {f} (--repair, or the daemon's next start, finishes it)")),
    );
    lines.extend(r.open_incidents.iter().map(|i| format!("left open: incident {i} (--repair closes it)")));
    lines.extend(
        r.unfinished_clips
            .iter()
            .map(|i| format!("left unfinished: clip of incident {i} (--repair finishes it, or marks it lost)")),
    );
    lines.extend(r.repaired.iter().map(|what| format!("repaired: {what}")));
    lines.push(if r.is_clean() { "all is well".to_owned() } else { "something is wrong, see above".to_owned() });
    lines
}
