//! `vedette provision`: makes this device somebody, and nobody again.

use std::io::{self, BufRead, IsTerminal, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::Outcome;
use super::out::Out;
use crate::agent::config;
use crate::agent::http::socket_path;
use crate::agent::identity::bundle::{Bundle, LARGEST_BYTES};
use crate::agent::identity::passphrase::Passphrase;
use crate::agent::identity::provision::{self, CONFIG, Places, Provisioned};
use crate::agent::identity::wipe::{self, Evidence};
use crate::base::clock::{Clock, SystemClock};
use crate::base::error::Chain;
use crate::contract::topics::DeviceTopics;

const VARIABLE: &str = "VEDETTE_BUNDLE_PASSPHRASE";

/// Give this device its identity: site and name, key and certificate, broker, model repository
///
/// BUNDLE comes from `vedette-fleet enrol device`. Everything is written beside what is there and put in its place in one
/// go; after a power cut the same command finishes it. Other keys of a configuration that is there stay as they are. The key
/// in the bundle serves for the first connection only: the daemon makes one of its own and has it certified.
///
/// Without a bundle: --request makes the key here, the fleet answers (`vedette-fleet enrol sign`), --answer takes that.
/// Start the daemon afterwards.
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// The bundle
    #[arg(value_name = "BUNDLE", required_unless_present_any = ["request", "answer", "wipe"])]
    bundle: Option<PathBuf>,

    /// File whose first line is the bundle's passphrase; - is standard input [default: VEDETTE_BUNDLE_PASSPHRASE, or ask]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,

    /// Make a key here and print the request for its certificate
    #[arg(long, value_name = "SITE/DEVICE", conflicts_with_all = ["bundle", "answer", "wipe"])]
    request: Option<String>,

    /// What `vedette-fleet enrol sign` made of the request
    #[arg(long, value_name = "FILE", conflicts_with_all = ["bundle", "wipe"])]
    answer: Option<PathBuf>,

    /// Give a device that has an identity another one
    #[arg(long)]
    replace: bool,

    /// Take everything away: keys, certificates, credentials, configuration, models, incidents and clips
    #[arg(long, conflicts_with_all = ["bundle", "replace"])]
    wipe: bool,

    /// Leave incidents and clips where they are
    #[arg(long, requires = "wipe")]
    keep_incidents: bool,

    /// Do not ask
    #[arg(long, requires = "wipe")]
    yes: bool,

    /// Where the configuration is, or goes
    #[arg(long, value_name = "DIR", default_value = "/etc/vedette")]
    config_dir: PathBuf,

    /// Where the data are [default: what the configuration says, else /var/lib/vedette]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,

    /// Who the daemon runs as, and is to own the key, where root runs this [default: vedette]
    #[arg(long, value_name = "USER")]
    user: Option<String>,

    /// Print what came of it as one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: ProvisionArgs) -> anyhow::Result<Outcome> {
    let places = Places::of(&args.config_dir, args.state_dir.as_deref())?.owned_by(args.user.as_deref())?;
    let mut out = Out::new();
    if args.wipe {
        return take_away(&args, &places, &mut out);
    }
    if let Some(name) = &args.request {
        let (site, device) = name.split_once('/').unwrap_or((name, ""));
        DeviceTopics::new(site, device).context("a device is named SITE/DEVICE")?;
        let request = provision::request(&places, name, args.replace)?;
        out.line(request.trim_end())?;
        say("bring this to the fleet: vedette-fleet enrol sign FILE ...; then: vedette provision --answer FILE");
        return Ok(Outcome::Good);
    }
    let came = match provision::resume(&places)? {
        Some(resumed) => resumed,
        None => {
            let bundle = args.read()?;
            provision::provision(&places, &bundle, args.replace, SystemClock::new().wall())?
        }
    };
    let (word, name) = match &came {
        Provisioned::Done(name) => ("provisioned", name),
        Provisioned::Resumed(name) => ("resumed", name),
        Provisioned::Already(name) => ("already", name),
    };
    let problem = config::load(&places.config_dir.join(CONFIG)).err().map(|e| Chain(&e).to_string());
    if args.json {
        out.json(&json!({"outcome": word, "device": name, "config_problem": problem}))?;
        return Ok(Outcome::Good);
    }
    out.line(match came {
        Provisioned::Done(name) => format!("this device is {name}"),
        Provisioned::Resumed(name) => format!("this device is {name}: what was interrupted is finished"),
        Provisioned::Already(name) => format!("this device is {name} by this bundle already: nothing to do"),
    })?;
    match problem {
        None => say("start it: systemctl restart vedette; then delete the bundle"),
        Some(problem) => say(&format!("the daemon needs more than the bundle brought: {problem}")),
    }
    Ok(Outcome::Good)
}

impl ProvisionArgs {
    fn read(&self) -> anyhow::Result<Bundle> {
        let path = self.bundle.as_ref().or(self.answer.as_ref()).context("a bundle or an answer")?;
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        file.take(LARGEST_BYTES as u64 + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("cannot read {}", path.display()))?;
        if self.answer.is_some() {
            return Ok(Bundle::parse(&bytes)?);
        }
        let passphrase = Passphrase { file: self.passphrase_file.clone(), variable: Some(VARIABLE) };
        Ok(Bundle::open(&bytes, passphrase.get("the bundle")?)?)
    }
}

fn take_away(args: &ProvisionArgs, places: &Places, out: &mut Out) -> anyhow::Result<Outcome> {
    if let Some(socket) = running(&places.config_dir.join(CONFIG)) {
        bail!("the daemon runs ({}): systemctl stop vedette, then wipe", socket.display());
    }
    let evidence = if args.keep_incidents { Evidence::Kept } else { Evidence::Removed };
    let plan = wipe::plan(places, evidence)?;
    if plan.removed.is_empty() && !wipe::is_under_way(places) {
        out.line("there is nothing to remove")?;
        return Ok(Outcome::Good);
    }
    for path in &plan.removed {
        out.line(format_args!("removes {}", path.display()))?;
    }
    for path in &plan.kept {
        out.line(format_args!("keeps   {}", path.display()))?;
    }
    if !args.yes {
        if !io::stdin().is_terminal() {
            bail!("nothing is removed: there is nobody to ask, so say --yes");
        }
        for question in ["type wipe to remove all this: ", "it cannot be brought back. Type wipe again: "] {
            if ask(question)? != "wipe" {
                bail!("nothing is removed");
            }
        }
    }
    wipe::wipe(places, &plan)?;
    out.line("done. On the fleet's side: vedette-fleet enrol revoke SITE/DEVICE, and bring the list to the broker")?;
    Ok(Outcome::Good)
}

fn ask(question: &str) -> anyhow::Result<String> {
    eprint!("{question}");
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// The socket of a daemon that runs by this configuration.
fn running(config: &Path) -> Option<PathBuf> {
    let table: toml::Table = std::fs::read_to_string(config).ok()?.parse().ok()?;
    let said = table.get("paths").and_then(|p| p.get("runtime_dir")).and_then(toml::Value::as_str);
    let socket = socket_path(&config.parent()?.join(said.unwrap_or("/run/vedette")));
    UnixStream::connect(&socket).is_ok().then_some(socket)
}

fn say(what: &str) {
    eprintln!("{what}");
}
