//! The daemon as a service: the journal or the terminal, signals, readiness and the watchdog.
//!
//! Under systemd (`Type=notify`) it says READY once the stages run, pings the watchdog only if every stage went
//! round its loop since the last ping, and drains on SIGTERM; SIGHUP reads the config again.

use std::path::Path;
use std::time::Duration;

use log::LevelFilter;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Daemon, DrainReport};
use crate::agent::config;
use crate::base::error::Chain;

/// How often the stages are looked at where systemd asks for no watchdog.
const LOOK_EVERY: Duration = Duration::from_secs(20);

/// Sends the log to the journal, with structured fields, if standard error is connected to it; false if it is not.
pub fn log_to_journal(level: LevelFilter) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
    if !systemd_journal_logger::connected_to_journal() {
        return Ok(false);
    }
    systemd_journal_logger::JournalLog::new()?.install()?;
    log::set_max_level(level);
    Ok(true)
}

/// Why the service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A signal asked for it and everything was drained.
    Asked(DrainReport),
    /// A stage panicked or hangs; systemd is to start the daemon again.
    Broken {
        /// What broke.
        why: String,
        /// What could be drained all the same.
        report: DrainReport,
    },
}

/// Runs a started daemon until it is told to stop or breaks. Blocks.
pub fn serve(daemon: Daemon, config_path: &Path) -> std::io::Result<Ended> {
    daemon.live().reads(config_path);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let broken = runtime.block_on(attend(&daemon, config_path))?;
    notify(&[NotifyState::Stopping]);
    let report = daemon.drain();
    Ok(match broken {
        None => Ended::Asked(report),
        Some(why) => Ended::Broken { why, report },
    })
}

/// Attends to signals and the watchdog; what broke, or none if a signal asked for the end.
async fn attend(daemon: &Daemon, config_path: &Path) -> std::io::Result<Option<String>> {
    let (mut term, mut int) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let mut hup = on(SignalKind::hangup())?;
    let watchdog = sd_notify::watchdog_enabled();
    // Half of systemd's time-out, so that one late round is no death.
    let mut look = tokio::time::interval(watchdog.map_or(LOOK_EVERY, |w| w / 2));
    look.reset();
    notify(&[NotifyState::Ready, NotifyState::Status(&daemon.summary())]);
    loop {
        tokio::select! {
            _ = term.recv() => { log::info!("SIGTERM: draining"); return Ok(None); }
            _ = int.recv() => { log::info!("SIGINT: draining"); return Ok(None); }
            () = daemon.live().restart_asked() => { log::warn!("a command asks for a new start: draining"); return Ok(None); }
            () = daemon.failed() => return Ok(Some("a stage panicked; its message is above".into())),
            _ = hup.recv() => reload(daemon, config_path),
            _ = look.tick() => {
                let stuck = daemon.progress().stuck();
                if stuck.is_empty() {
                    notify(&[NotifyState::Watchdog, NotifyState::Status(&daemon.summary())]);
                } else {
                    log::error!("no ping for the watchdog: these stages hang: {}", stuck.join(", "));
                }
            }
        }
    }
}

fn on(kind: SignalKind) -> std::io::Result<Signal> {
    signal(kind)
}

/// Applies what it can of the config as it now stands; says what it could not. A bad config changes nothing.
fn reload(daemon: &Daemon, path: &Path) {
    let monotonic = NotifyState::monotonic_usec_now();
    if let Ok(since) = monotonic {
        notify(&[NotifyState::Reloading, since]);
    }
    match config::load(path) {
        Ok(new) => {
            let notes = daemon.live().take_over(new);
            if notes.is_empty() {
                log::info!("SIGHUP: {} says nothing new", path.display());
            }
            for note in notes {
                log::warn!("SIGHUP: {note}");
            }
        }
        Err(e) => log::error!("SIGHUP: {} is not applied, the old config stays: {}", path.display(), Chain(&e)),
    }
    notify(&[NotifyState::Ready]);
}

fn notify(states: &[NotifyState]) {
    if let Err(e) = sd_notify::notify(states) {
        log::warn!("cannot notify systemd: {e}");
    }
}
