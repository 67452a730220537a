//! `vedette-fleet enrol`: the fleet's certificate authority, and who is enrolled.

mod renew;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use age::secrecy::ExposeSecret;
use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::agent::cli::out::Out;
use crate::agent::config;
use crate::agent::identity::bundle::Bundle;
use crate::agent::identity::papers::Paper;
use crate::agent::identity::passphrase::Passphrase;
use crate::base::atomic_file;
use crate::base::clock::{Clock, SystemClock};
use crate::fleet::enrol::authority::{Authority, Subject};
use crate::fleet::enrol::office::{DAY, Lives, Office, Surroundings};

/// The variable that is asked where no file was named.
const VARIABLE: &str = "VEDETTE_FLEET_PASSPHRASE";

/// The fleet's certificate authority: enrol devices, renew and revoke their certificates
///
/// An authority is a directory; deploy/fleet/enrolment.md walks through its life. Passphrases are asked for, or come from a
/// file, or from the variable VEDETTE_FLEET_PASSPHRASE.
#[derive(Debug, Args)]
pub struct EnrolArgs {
    /// Directory of the authority
    #[arg(long, value_name = "DIR", default_value = "fleet-ca", global = true)]
    ca: PathBuf,

    /// File whose first line is the passphrase of the key that signs; - is standard input
    #[arg(long, value_name = "FILE", global = true)]
    passphrase_file: Option<PathBuf>,

    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The authority itself
    #[command(subcommand)]
    Ca(Ca),
    /// Enrol a device: a provisioning bundle, encrypted, for `vedette provision` on it
    Device {
        /// The device
        #[arg(value_name = "SITE/DEVICE")]
        device: String,
        #[command(flatten)]
        with: WithArgs,
        /// File whose first line is the passphrase of the bundle; - is standard input
        #[arg(long, value_name = "FILE")]
        bundle_passphrase_file: Option<PathBuf>,
        /// Where the bundle goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Enrol a device that made its own key (`vedette provision --request`): an answer, for `vedette provision --answer`
    Sign {
        /// The device's request
        #[arg(value_name = "REQUEST")]
        request: PathBuf,
        #[command(flatten)]
        with: WithArgs,
        /// Where the answer goes; nothing in it is secret
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Certificate and key of a broker: server.crt and server.key
    Server {
        /// Names and addresses by which devices and consumers reach it
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Certificate and key of a consumer or a manager: NAME.crt and NAME.key
    Client {
        /// Its name at the broker, such as soc, monitor or fleet-enrol
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        issue: IssueArgs,
    },
    /// Answer devices that ask for their next certificate over the broker, and withdraw the ones before
    Renew(renew::RenewArgs),
    /// Withdraw all certificates of a device (or a consumer), and write the revocation list, crl.pem
    Revoke {
        /// Whose
        #[arg(value_name = "SITE/DEVICE")]
        name: String,
    },
    /// Write the revocation list anew: a broker lets nobody in whose list has expired
    Crl {
        /// Days until it expires
        #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
        days: u16,
    },
    /// Who is enrolled
    List {
        /// One JSON object for each
        #[arg(long)]
        json: bool,
    },
    /// All that was given to a device
    Show {
        /// Which
        #[arg(value_name = "SITE/DEVICE")]
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Ca {
    /// Make an authority
    ///
    /// With --issuing it has two keys: ca.key, the root's, goes to a safe place after this, and issuing.key signs day by day.
    Init {
        /// What it is called in certificates
        #[arg(long, value_name = "NAME", default_value = "Vedette fleet authority")]
        name: String,
        /// An issuing authority below the root
        #[arg(long)]
        issuing: bool,
        /// File whose first line is the passphrase of the root's key, where there is an issuing authority too
        #[arg(long, value_name = "FILE", requires = "issuing")]
        root_passphrase_file: Option<PathBuf>,
    },
}

/// What a device is to know.
#[derive(Debug, Args)]
struct WithArgs {
    /// Group that the device is counted among; may be given several times
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Where its broker is, such as mqtts://broker.example; may be given several times
    #[arg(long = "broker", value_name = "URL", required = true)]
    brokers: Vec<String>,
    /// PEM of who signed the broker's certificate [default: this authority]
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
    /// Where models come from: https://host/path
    #[arg(long, value_name = "URL", requires = "root")]
    repository: Option<String>,
    /// The repository's root.json
    #[arg(long, value_name = "FILE", requires = "repository")]
    root: Option<PathBuf>,
    /// Further sections of the configuration, for a device that has none: its cameras
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Days that the bundle may take to reach the device, and that its key lives
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=365))]
    bundle_days: u16,
    /// Days that a certificate is valid whose key was made on the device
    #[arg(long, value_name = "N", default_value_t = 90, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

/// Where certificate and key go.
#[derive(Debug, Args)]
struct IssueArgs {
    /// Directory for the two files; nothing in it is overwritten
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Days that it is valid
    #[arg(long, value_name = "N", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    days: u16,
}

pub fn run(args: EnrolArgs) -> anyhow::Result<ExitCode> {
    let EnrolArgs { ca, passphrase_file, what } = args;
    let passphrase = Passphrase { file: passphrase_file, variable: Some(VARIABLE) };
    let now = SystemClock::new().wall();
    let mut out = Out::new();
    let office = |lives: Lives| open(&ca, &passphrase, lives);
    match what {
        What::Ca(Ca::Init { name, issuing, root_passphrase_file }) => {
            let signing = passphrase.get_new(if issuing { "the issuing authority" } else { "the authority" })?;
            let root = match issuing {
                true => Passphrase { file: root_passphrase_file, variable: None }.get_new("the root")?,
                false => signing.clone(),
            };
            let made = Authority::init(&ca, &name, &root, issuing.then_some(&signing), now)?;
            let ends = Paper::read(&made.root_pem)?.not_after.rfc3339();
            out.line(format_args!("{}: what devices and brokers trust, until {ends}", ca.join("ca.crt").display()))?;
            let offline = if issuing { "keep it offline: day by day issuing.key signs" } else { "it signs: guard it" };
            out.line(format_args!("{}: its key; {offline}", ca.join("ca.key").display()))?;
        }
        What::Device { device, with, bundle_passphrase_file, out: to } => {
            absent(&to)?;
            let surroundings = with.read()?;
            let office = office(with.lives())?;
            let secret = Passphrase { file: bundle_passphrase_file, variable: None }.get_new("the bundle")?;
            let bundle = office.bundle(&device, surroundings, now)?;
            let sealed = bundle.seal(secret)?;
            atomic_file::write_private(&to, &sealed).with_context(|| format!("cannot write {}", to.display()))?;
            let until = bundle.expires_unix_ms.rfc3339();
            out.line(format_args!("{}: the bundle of {device}, for one use, until {until}", to.display()))?;
            out.line("on the device: vedette provision FILE; tell its passphrase by another way than the file takes")?;
        }
        What::Sign { request, with, out: to } => {
            absent(&to)?;
            let pem = text(&request)?;
            let answer = office(with.lives())?.answer(&pem, with.read()?, now)?;
            write_answer(&to, &answer)?;
            out.line(format_args!(
                "{}: the answer to {}; on it: vedette provision --answer FILE",
                to.display(),
                answer.name()
            ))?;
        }
        What::Server { names, issue } => {
            issue.carry_out(&office(Lives::default())?, "server", Subject::Server(names), &mut out)?
        }
        What::Client { name, issue } => {
            // It becomes the name of a file too.
            let plain = name.parse::<crate::contract::topics::Name>().context("a consumer's or a manager's name")?;
            issue.carry_out(&office(Lives::default())?, plain.as_str(), Subject::Client(name), &mut out)?;
        }
        What::Renew(args) => {
            let (device, crl) = (u32::from(args.days) * DAY, u32::from(args.crl_days) * DAY);
            return renew::run(&args, &ca, &office(Lives { device, crl, ..Lives::default() })?);
        }
        What::Revoke { name } => {
            let office = office(Lives::default())?;
            let n = office.revoke(&name, now)?;
            let list = office.authority.crl_path();
            out.line(format_args!("{name}: {n} certificates revoked; bring {} to the broker", list.display()))?;
        }
        What::Crl { days } => {
            let office = office(Lives { crl: u32::from(days) * DAY, ..Lives::default() })?;
            office.renew_crl(true, now)?;
            let until = (now + office.lives.crl).rfc3339();
            out.line(format_args!("{}: until {until}; bring it to the broker", office.authority.crl_path().display()))?;
        }
        What::List { json } => show::list(&ca, json, now, &mut out)?,
        What::Show { name, json } => show::one(&ca, &name, json, now, &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn open(ca: &Path, passphrase: &Passphrase, lives: Lives) -> anyhow::Result<Office> {
    let authority = Authority::open(ca)?;
    let signer = authority.unlock(&passphrase.get(&authority.key_path().display().to_string())?)?;
    Ok(Office::new(authority, signer, lives))
}

impl WithArgs {
    fn lives(&self) -> Lives {
        let (device, bundle) = (u32::from(self.days) * DAY, u32::from(self.bundle_days) * DAY);
        Lives { device, bundle, ..Lives::default() }
    }

    fn read(&self) -> anyhow::Result<Surroundings> {
        let repository = self.repository.clone().zip(self.root.as_deref().map(text).transpose()?);
        let surroundings = Surroundings {
            groups: self.groups.clone(),
            brokers: self.brokers.clone(),
            broker_ca_pem: self.broker_ca.as_deref().map(text).transpose()?,
            repository,
            config_toml: self.config.as_deref().map(text).transpose()?,
        };
        for group in &surroundings.groups {
            group.parse::<crate::contract::topics::Name>().context("--group")?;
        }
        for broker in &surroundings.brokers {
            match config::parse_broker(broker) {
                Err(why) => bail!("--broker {broker}: {why}"),
                Ok(broker) if !broker.tls => {
                    bail!("--broker: a device shows its certificate over TLS: mqtts:// or wss://")
                }
                Ok(_) => {}
            }
        }
        if let Some((_, root)) = &surroundings.repository {
            let json: serde_json::Value = serde_json::from_str(root).context("--root is no JSON")?;
            if json["signed"]["_type"] != "root" {
                bail!("--root is no root metadata of TUF: take N.root.json from the repository's metadata");
            }
        }
        Ok(surroundings)
    }
}

impl IssueArgs {
    fn carry_out(&self, office: &Office, file: &str, subject: Subject, out: &mut Out) -> anyhow::Result<()> {
        let name = |end: &str| self.out.join(format!("{file}.{end}"));
        let (certificate, key) = (name("crt"), name("key"));
        absent(&certificate)?;
        absent(&key)?;
        let lives: Duration = u32::from(self.days) * DAY;
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let (pem, secret) = office.issue(&subject, lives, SystemClock::new().wall())?;
        atomic_file::write_private(&key, secret.expose_secret().as_bytes())
            .and_then(|()| atomic_file::write(&certificate, pem.as_bytes()))
            .with_context(|| format!("cannot write {}", certificate.display()))?;
        let until = Paper::read(&pem)?.not_after.rfc3339();
        out.line(format_args!("{}, {}: until {until}", certificate.display(), key.display()))?;
        Ok(())
    }
}

fn write_answer(to: &Path, answer: &Bundle) -> anyhow::Result<()> {
    let json = format!("{}\n", answer.json());
    atomic_file::write(to, json.as_bytes()).with_context(|| format!("cannot write {}", to.display()))
}

fn absent(path: &Path) -> anyhow::Result<()> {
    match path.exists() {
        true => bail!("{} is there already, and is not overwritten", path.display()),
        false => Ok(()),
    }
}

fn text(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
