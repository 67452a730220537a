//! `vedette-fleet enrol renew`: answers the requests of devices over the broker.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::config;
use crate::agent::identity::papers::Paper;
use crate::base::clock::{Clock, SystemClock};
use crate::base::error::Chain;
use crate::base::stop::StopToken;
use crate::fleet::enrol::line::Service;
use crate::fleet::enrol::office::Office;
use crate::fleet::enrol::renewals::Answer;

/// Where the broker is, and how to be let in.
#[derive(Debug, Args)]
pub struct RenewArgs {
    /// Stay, and answer as requests come; without it: answer what is there, and end
    #[arg(long)]
    pub watch: bool,
    /// The broker, such as mqtts://broker.example
    #[arg(long, value_name = "URL")]
    broker: String,
    /// PEM of who signed the broker's certificate [default: this authority]
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
    /// Certificate by which the broker knows this program (vedette-fleet enrol client fleet-enrol)
    #[arg(long, value_name = "FILE")]
    cert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Program that is run with the path of the revocation list whenever that is new: brings it to the broker
    #[arg(long, value_name = "PROGRAM")]
    on_crl: Option<PathBuf>,
    /// Days that a certificate is valid
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub days: u16,
    /// Days that a revocation list is valid; it is made anew at half of that
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(2..=3650))]
    pub crl_days: u16,
}

pub fn run(args: &RenewArgs, ca: &Path, office: &Office) -> anyhow::Result<ExitCode> {
    let broker = match config::parse_broker(&args.broker) {
        Ok(broker) if broker.tls && broker.websocket.is_none() => broker,
        Ok(_) => bail!("--broker: this program speaks mqtts:// alone"),
        Err(why) => bail!("--broker: {why}"),
    };
    let pem = std::fs::read_to_string(&args.cert).with_context(|| format!("cannot read {}", args.cert.display()))?;
    let service = Service {
        office,
        broker,
        ca: args.broker_ca.clone().unwrap_or_else(|| ca.join("ca.crt")),
        cert: args.cert.clone(),
        key: args.key.clone(),
        user: Paper::read(&pem)?.name,
        clock: Arc::new(SystemClock::new()) as Arc<dyn Clock>,
        tell: Box::new(tell),
        on_crl: Box::new(|| {
            if let Some(program) = &args.on_crl {
                bring(program, &office.authority.crl_path());
            }
        }),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(async {
            if !args.watch {
                return Ok(service.once().await?);
            }
            let stop = StopToken::new();
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            tokio::select! {
                ended = service.watch(&stop) => Ok(ended?),
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
            }
        })
        .map(|()| ExitCode::SUCCESS)
}

fn tell(answer: &Answer) {
    match answer {
        Answer::Send { device, serial, .. } => eprintln!("{device}: certificate {serial} is on its way"),
        Answer::Withdrawn(device) => eprintln!("{device}: has its new certificate; the ones before it are revoked"),
        Answer::Refused { device, why } => eprintln!("{device}: refused: {}", Chain(why)),
    }
}

fn bring(program: &Path, crl: &Path) {
    let done = Command::new(program).arg(crl).stdin(Stdio::null()).status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => log::error!("{} {}: {status}", program.display(), crl.display()),
        Err(e) => log::error!("{}: {e}", program.display()),
    }
}
