//! `vedette-fleet release`: models checked, listed, signed, published.

mod check;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::json;

use super::common::{KeyArgs, RepositoryArgs, tell};
use crate::agent::cli::out::Out;
use crate::base::clock::{Clock, SystemClock};
use crate::fleet::release::place::{Place, S3Options};
use crate::fleet::release::signing::Renew;
use crate::fleet::release::verify::{Depth, verify};
use crate::fleet::release::{Release, Repository, gc, publish, repository};

/// Check models, and bring them to the devices as signed releases
///
/// A release goes through add (checked, listed), sign (by the targets key, then snapshot and timestamp), publish. Devices
/// take it when a roll-out tells them to look (vedette-fleet rollout).
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Check(check::CheckArgs),
    Add(AddArgs),
    Sign(SignArgs),
    Timestamp(TimestampArgs),
    Publish(PublishArgs),
    /// List the releases
    List(ListArgs),
    /// Take a release off the list; its number is not given again
    Remove(RemoveArgs),
    Verify(VerifyArgs),
    Gc(GcArgs),
}

/// List a model as the next release: it is checked, its files are copied, its manifest waits for signatures
#[derive(Debug, Args)]
struct AddArgs {
    /// Model directory
    model: PathBuf,

    #[command(flatten)]
    repository: RepositoryArgs,

    /// Have devices go back to this older version, and say why: an emergency
    #[arg(long, value_name = "REASON")]
    downgrade: Option<String>,

    /// Don't check it again: this is the --report of a check of this very model
    #[arg(long, value_name = "FILE.json")]
    already_checked: Option<PathBuf>,

    #[command(flatten)]
    wishes: check::WishArgs,
}

/// Sign what waits for a signature, as far as these keys may
///
/// One holder after the other, on machines of their own if they like: the repository is a directory that can be carried.
#[derive(Debug, Args)]
struct SignArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    keys: KeyArgs,

    /// Sign anew, with a new expiry, what these keys have signed before
    #[arg(long)]
    renew: bool,
}

/// Sign the timestamp anew (and the snapshot, with a key for it), so that devices know that nothing is kept from them
///
/// For a job that runs more often than a timestamp lasts. What waits for signatures stays as it is.
#[derive(Debug, Args)]
struct TimestampArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    keys: KeyArgs,
}

/// Where to publish.
#[derive(Debug, Args)]
struct PlaceArgs {
    /// A directory (of a web server, of a USB stick), or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE")]
    to: String,

    #[command(flatten)]
    s3: S3Args,
}

/// How a bucket is reached.
#[derive(Debug, Args)]
struct S3Args {
    /// URL of an S3 service that is not Amazon's
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<String>,

    /// Region of the bucket [default: AWS_REGION]
    #[arg(long, value_name = "REGION")]
    s3_region: Option<String>,
}

impl PlaceArgs {
    fn place(&self) -> anyhow::Result<Place> {
        self.s3.place(&self.to)
    }
}

impl S3Args {
    fn place(&self, to: &str) -> anyhow::Result<Place> {
        let (endpoint, region) = (self.s3_endpoint.clone(), self.s3_region.clone());
        Ok(Place::parse(to, &S3Options { endpoint, region, credentials: None })?)
    }
}

/// Bring what holds to where devices look for it, and look at it as one of them would
///
/// In an order in which whoever looks finds a whole repository at every instant; interrupted, it is run again. A bucket's keys
/// are taken from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY).
#[derive(Debug, Args)]
struct PublishArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    place: PlaceArgs,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// One JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RemoveArgs {
    /// Number of the release
    release: u64,

    #[command(flatten)]
    repository: RepositoryArgs,
}

/// Look at what is published as a fresh device would, at every file of every release
#[derive(Debug, Args)]
struct VerifyArgs {
    #[command(flatten)]
    place: PlaceArgs,

    /// The root that devices are provisioned with
    #[arg(long, value_name = "FILE")]
    root: PathBuf,
}

/// Remove what no release needs any more: from your copy, and from where it is published (--to)
///
/// What a list named stays for the grace period after the next list took its place: a device may be fetching it.
#[derive(Debug, Args)]
struct GcArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// Also there: a directory, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,

    #[command(flatten)]
    s3: S3Args,

    /// Days that what is superseded stays
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    grace_days: u16,

    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: ReleaseArgs) -> anyhow::Result<ExitCode> {
    let now = SystemClock::new().wall();
    match args.what {
        What::Check(args) => check::run(&args),
        What::Add(args) => {
            let model = check::before_adding(&args.model, &args.wishes, args.already_checked.as_deref())?;
            let mut repository = Repository::open(&args.repository.repository)?;
            let release = repository.add(&model, args.downgrade, now)?;
            Out::new()
                .line(format_args!("{}; it waits for signatures (vedette-fleet release sign)", text(&release)))?;
            Ok(ExitCode::SUCCESS)
        }
        What::Sign(args) => {
            anyhow::ensure!(!args.keys.key.is_empty(), "no key to sign with was named: --key FILE or --key pkcs11:...");
            let keys = args.keys.open()?;
            let renew = if args.renew { Renew::All } else { Renew::Nothing };
            tell(&Repository::open(&args.repository.repository)?.sign(&keys, renew, now)?)
        }
        What::Timestamp(args) => {
            let keys = args.keys.open()?;
            tell(&Repository::open(&args.repository.repository)?.sign(&keys, Renew::Freshness, now)?)
        }
        What::Publish(args) => {
            let repository = Repository::open(&args.repository.repository)?;
            let place = Arc::new(args.place.place()?);
            let published = runtime()?.block_on(publish::publish(&repository, Arc::clone(&place)))?;
            let mut out = Out::new();
            if args.json {
                out.json(&json!({ "written": published.written, "releases": published.releases }))?;
            } else {
                let (files, place) = (published.written.len(), place.to_string());
                let releases = published.releases.len();
                out.line(format_args!(
                    "{files} files written to {place}; a fresh client finds {releases} releases there"
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        What::List(args) => list(&args),
        What::Remove(args) => {
            let removed = Repository::open(&args.repository.repository)?.remove(args.release, now)?;
            Out::new().line(format_args!("{} is off the list, as soon as that is signed", text(&removed)))?;
            Ok(ExitCode::SUCCESS)
        }
        What::Verify(args) => {
            let root = std::fs::read(&args.root).with_context(|| format!("cannot read {}", args.root.display()))?;
            let place = Arc::new(args.place.place()?);
            let mut out = Out::new();
            for release in runtime()?.block_on(verify(place, &root, Depth::Digests))? {
                out.line(text(&release))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        What::Gc(args) => collect(&args),
    }
}

fn collect(args: &GcArgs) -> anyhow::Result<ExitCode> {
    let repository = Repository::open(&args.repository.repository)?;
    let staged: Vec<_> = repository.staged().targets.iter().map(|t| &t.metadata.signed).collect();
    let mut places = vec![(Place::Dir(repository.dir().to_owned()), staged)];
    if let Some(to) = &args.to {
        places.push((args.s3.place(to)?, Vec::new()));
    }
    let (runtime, now) = (runtime()?, SystemClock::new().wall());
    let grace = Duration::from_secs(u64::from(args.grace_days) * 86_400);
    let mut out = Out::new();
    for (place, staged) in places {
        for path in runtime.block_on(gc::unneeded(&place, &staged, now, grace))? {
            if !args.dry_run {
                runtime.block_on(place.delete(&path))?;
            }
            out.line(format_args!("{} {place}/{path}", if args.dry_run { "would remove" } else { "removed" }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let (current, staged) = repository::read(&args.repository.repository)?;
    let of = |set: &repository::Set| {
        let targets = set.targets.as_ref();
        targets.map(|t| crate::fleet::release::listing::releases(&t.metadata.signed))
    };
    let signed = of(&current).unwrap_or_default();
    let all = of(&staged).unwrap_or_else(|| signed.clone());
    let mut out = Out::new();
    if args.json {
        let rows: Vec<_> = all.iter().map(|r| json!({ "signed": signed.contains(r), "release": r })).collect();
        out.json(&rows)?;
        return Ok(ExitCode::SUCCESS);
    }
    for release in &all {
        let state = if signed.contains(release) { "" } else { "  (waits for signatures)" };
        out.line(format_args!("{}{state}", text(release)))?;
    }
    for gone in signed.iter().filter(|r| !all.contains(r)) {
        out.line(format_args!("{}  (goes, as soon as that is signed)", text(gone)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(release: &Release) -> String {
    let facts = &release.facts;
    let why = facts.downgrade.as_ref().map_or(String::new(), |why| format!("  downgrade: {why}"));
    format!(
        "release {}  {} {}  {}  manifest {}{why}",
        facts.release,
        facts.model,
        facts.version,
        facts.published,
        &release.digest[..16.min(release.digest.len())]
    )
}
