//! `vedette-fleet keys`: keys, and the root that says whose key signs what.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tough::schema::{RoleType, Root, Signed};

use super::common::{KeyArgs, PassphraseArgs, RepositoryArgs, tell};
use crate::agent::cli::out::Out;
use crate::base::clock::{Clock, SystemClock};
use crate::fleet::keys::root::{self, Change, ROLES, RolePlan};
use crate::fleet::keys::{self, KeySpec, Kind, SigningKey, file, hex, spec};
use crate::fleet::release::Repository;
use crate::fleet::release::repository;
use crate::fleet::release::signing::Renew;

/// Make keys, and say in the root whose key signs what
///
/// Four roles sign (TUF, https://theupdateframework.io): root names the keys of all roles and is kept offline; targets names
/// the releases; snapshot and timestamp say which of them are the newest, and for how long that is true. A walk-through, also
/// of rotation, revocation and what to do when a key was stolen: deploy/fleet/keys-and-releases.md.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    New(NewArgs),
    /// Show one key: its id, its kind, what it may sign in a repository
    Show(ShowArgs),
    Init(InitArgs),
    /// List roles, keys, thresholds and expiries
    List(ListArgs),
    /// Add your signature to a root (and to whatever else waits for one of these keys)
    SignRoot(SignRootArgs),
    Rotate(RotateArgs),
    Revoke(RevokeArgs),
    Renew(RenewArgs),
    /// Drop a root that waits for signatures
    DropRoot(#[command(flatten)] RepositoryArgs),
}

/// Make a key: NAME, encrypted with a passphrase, and its public half NAME with the ending .pub
///
/// Both are what openssl pkey reads. Keys in a PKCS#11 module are made with the module's own tools.
#[derive(Debug, Args)]
struct NewArgs {
    /// Where to write it, such as targets.pem
    file: PathBuf,

    /// What kind
    #[arg(long = "type", value_name = "KIND", default_value = "ed25519")]
    kind: KindArg,

    #[command(flatten)]
    passphrases: PassphraseArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Ed25519,
    P256,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// A key file, private or public, or a pkcs11: URI
    key: KeySpec,

    #[command(flatten)]
    passphrases: PassphraseArgs,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Make a repository: its first root, which then waits for the signatures of the root keys
///
/// Keys are named by their public files, or by private ones that have theirs beside them (no passphrase is needed), or by
/// pkcs11: URIs.
#[derive(Debug, Args)]
struct InitArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// A root key; give two or more, and keep them apart and offline
    #[arg(long, value_name = "KEY", required = true)]
    root_key: Vec<KeySpec>,
    /// Root keys that have to sign a new root
    #[arg(long, value_name = "N", default_value = "1")]
    root_threshold: NonZeroU64,
    /// Days that a root lasts
    #[arg(long, value_name = "DAYS", default_value_t = root::default_days(RoleType::Root), value_parser = days)]
    root_days: u32,

    /// A targets key: signs releases
    #[arg(long, value_name = "KEY", required = true)]
    targets_key: Vec<KeySpec>,
    /// Targets keys that have to sign a list of releases
    #[arg(long, value_name = "N", default_value = "1")]
    targets_threshold: NonZeroU64,
    /// Days that a list of releases lasts
    #[arg(long, value_name = "DAYS", default_value_t = root::default_days(RoleType::Targets), value_parser = days)]
    targets_days: u32,

    /// A snapshot key
    #[arg(long, value_name = "KEY", required = true)]
    snapshot_key: Vec<KeySpec>,
    /// Snapshot keys that have to sign
    #[arg(long, value_name = "N", default_value = "1")]
    snapshot_threshold: NonZeroU64,
    /// Days that a snapshot lasts
    #[arg(long, value_name = "DAYS", default_value_t = root::default_days(RoleType::Snapshot), value_parser = days)]
    snapshot_days: u32,

    /// A timestamp key: it is online, where releases are kept fresh
    #[arg(long, value_name = "KEY", required = true)]
    timestamp_key: Vec<KeySpec>,
    /// Timestamp keys that have to sign
    #[arg(long, value_name = "N", default_value = "1")]
    timestamp_threshold: NonZeroU64,
    /// Days that a timestamp lasts: devices that see no newer one for so long raise an alarm
    #[arg(long, value_name = "DAYS", default_value_t = root::default_days(RoleType::Timestamp), value_parser = days)]
    timestamp_days: u32,

    #[command(flatten)]
    passphrases: PassphraseArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct SignRootArgs {
    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    keys: KeyArgs,
}

/// Put a new key of a role in the place of an old one
///
/// Makes the next root. With the root keys (--key) it is signed at once, else later with sign-root, by one holder after the
/// other. Give also the role's keys, old and new: what the role has signed is then signed by both, and devices notice
/// nothing. Of root itself, old and new root keys both have to sign.
#[derive(Debug, Args)]
struct RotateArgs {
    /// root, targets, snapshot or timestamp
    #[arg(value_parser = role)]
    role: RoleType,

    /// Id of the key that goes (its first 8 digits or more); without it a key is added
    #[arg(long, value_name = "KEYID", required_unless_present = "new")]
    old: Option<String>,

    /// The key that comes; without it a key is taken out
    #[arg(long, value_name = "KEY")]
    new: Option<KeySpec>,

    /// Keys that have to sign from now on
    #[arg(long, value_name = "N")]
    threshold: Option<NonZeroU64>,

    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    keys: KeyArgs,
}

/// Take a key out of every role, and a new one in where it is needed
///
/// Makes the next root, signs it and what has to be signed again as far as keys are given, and says what is missing.
#[derive(Debug, Args)]
struct RevokeArgs {
    /// Id of the key (its first 8 digits or more)
    key_id: String,

    /// A key that takes its place in every role that it had
    #[arg(long, value_name = "KEY")]
    new: Option<KeySpec>,

    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    keys: KeyArgs,
}

/// Make the next root with a new expiry, and other lifetimes or thresholds where they are named
#[derive(Debug, Args)]
struct RenewArgs {
    /// Days that what a role signs lasts, such as timestamp=3
    #[arg(long, value_name = "ROLE=DAYS", value_parser = role_days)]
    days: Vec<(RoleType, u32)>,

    /// Keys of a role that have to sign, such as root=2
    #[arg(long, value_name = "ROLE=N", value_parser = role_threshold)]
    threshold: Vec<(RoleType, NonZeroU64)>,

    #[command(flatten)]
    repository: RepositoryArgs,

    #[command(flatten)]
    keys: KeyArgs,
}

fn days(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|d| (1..=3650).contains(d)).ok_or_else(|| "expected days, 1 to 3650".into())
}

fn role(text: &str) -> Result<RoleType, String> {
    let found = ROLES.into_iter().find(|r| r.to_string() == text);
    found.ok_or_else(|| "expected root, targets, snapshot or timestamp".into())
}

fn role_days(text: &str) -> Result<(RoleType, u32), String> {
    let (name, value) = text.split_once('=').ok_or("expected ROLE=DAYS")?;
    Ok((role(name)?, days(value)?))
}

fn role_threshold(text: &str) -> Result<(RoleType, NonZeroU64), String> {
    let (name, value) = text.split_once('=').ok_or("expected ROLE=N")?;
    Ok((role(name)?, value.parse().map_err(|_| "expected a number from 1")?))
}

pub fn run(args: KeysArgs) -> anyhow::Result<ExitCode> {
    match args.what {
        What::New(args) => new(&args),
        What::Show(args) => show(&args),
        What::Init(args) => init(&args),
        What::List(args) => list(&args),
        What::SignRoot(args) => sign(&mut Repository::open(&args.repository.repository)?, &args.keys),
        What::Rotate(args) => rotate(&args),
        What::Revoke(args) => revoke(&args),
        What::Renew(args) => {
            let mut changes: Vec<_> = args.days.iter().map(|(role, days)| Change::Days(*role, *days)).collect();
            changes.extend(args.threshold.iter().map(|(role, n)| Change::Threshold(*role, *n)));
            change(&mut Repository::open(&args.repository.repository)?, &changes, &args.keys)
        }
        What::DropRoot(args) => {
            let version = Repository::open(&args.repository)?.drop_root()?;
            Out::new().line(format_args!("root {version} is dropped"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn new(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let kind = match args.kind {
        KindArg::Ed25519 => Kind::Ed25519,
        KindArg::P256 => Kind::P256,
    };
    // Before anything is made: who is asked for a passphrase should not type it in vain.
    anyhow::ensure!(!args.file.exists(), file::FileError::Exists { path: args.file.clone() });
    let passphrase = args.passphrases.secrets().for_new(&args.file.display().to_string())?;
    let key = SigningKey::generate(kind)?;
    file::write(&args.file, &key, &passphrase)?;
    let beside = file::public_path(&args.file);
    Out::new().line(format_args!("{}  {}  public half: {}", key.id(), args.file.display(), beside.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &ShowArgs) -> anyhow::Result<ExitCode> {
    let key = spec::public(&args.key, 0, &args.passphrases.secrets())?;
    let (id, kind) = (keys::id_of(&key), keys::kind_of(&key));
    let mut out = Out::new();
    match args.json {
        true => out.json(&json!({ "id": id, "type": kind, "public": file::public_pem(&key) }))?,
        false => out.line(format_args!("{id}  {kind}\n{}", file::public_pem(&key).trim_end()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn init(args: &InitArgs) -> anyhow::Result<ExitCode> {
    let secrets = args.passphrases.secrets();
    let all = [&args.root_key, &args.targets_key, &args.snapshot_key, &args.timestamp_key];
    secrets.check_count(all.iter().map(|keys| keys.len()).sum())?;
    let mut index = 0..;
    let mut plan = |role, specs: &[KeySpec], threshold, days| -> anyhow::Result<RolePlan> {
        let numbered = specs.iter().zip(index.by_ref());
        let keys = numbered.map(|(s, n)| spec::public(s, n, &secrets)).collect::<Result<_, _>>()?;
        Ok(RolePlan { role, keys, threshold, days })
    };
    let plans = [
        plan(RoleType::Root, &args.root_key, args.root_threshold, args.root_days)?,
        plan(RoleType::Targets, &args.targets_key, args.targets_threshold, args.targets_days)?,
        plan(RoleType::Snapshot, &args.snapshot_key, args.snapshot_threshold, args.snapshot_days)?,
        plan(RoleType::Timestamp, &args.timestamp_key, args.timestamp_threshold, args.timestamp_days)?,
    ];
    let now = SystemClock::new().wall();
    let repository = Repository::create(&args.repository.repository, root::first(&plans, now)?, now)?;
    let mut out = Out::new();
    out.line(format_args!(
        "{}: root 1 waits for signatures (vedette-fleet keys sign-root)",
        repository.dir().display()
    ))?;
    for standing in repository.missing() {
        out.line(format_args!("waits for {}", standing.words()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn sign(repository: &mut Repository, keys: &KeyArgs) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(!keys.key.is_empty(), "no key to sign with was named: --key FILE or --key pkcs11:...");
    tell(&repository.sign(&keys.open()?, Renew::Nothing, SystemClock::new().wall())?)
}

fn change(repository: &mut Repository, changes: &[Change], keys: &KeyArgs) -> anyhow::Result<ExitCode> {
    // Opened first: a wrong passphrase should leave nothing begun.
    let opened = keys.open()?;
    let now = SystemClock::new().wall();
    let version = repository.change_root(changes, now)?.signed.version;
    Out::new().line(format_args!("root {version} is made"))?;
    tell(&repository.sign(&opened, Renew::Nothing, now)?)
}

fn rotate(args: &RotateArgs) -> anyhow::Result<ExitCode> {
    let mut repository = Repository::open(&args.repository.repository)?;
    let root = repository.root()?.signed.clone();
    let old = args.old.as_ref().map(|typed| root::find(&root, typed)).transpose()?;
    let new = args.new.as_ref().map(|s| spec::public(s, 0, &args.keys.passphrases.secrets())).transpose()?;
    let mut changes = vec![Change::Replace { role: args.role, old, new }];
    changes.extend(args.threshold.map(|n| Change::Threshold(args.role, n)));
    change(&mut repository, &changes, &args.keys)
}

fn revoke(args: &RevokeArgs) -> anyhow::Result<ExitCode> {
    let mut repository = Repository::open(&args.repository.repository)?;
    let root = repository.root()?.signed.clone();
    let id = root::find(&root, &args.key_id)?;
    let new = args.new.as_ref().map(|s| spec::public(s, 0, &args.keys.passphrases.secrets())).transpose()?;
    let had = ROLES.into_iter().filter(|r| root.roles.get(r).is_some_and(|keys| keys.keyids.contains(&id)));
    let mut changes = Vec::new();
    if let Some(new) = &new {
        changes.extend(had.map(|role| Change::Replace { role, old: None, new: Some(new.clone()) }));
    }
    changes.push(Change::Revoke(id));
    change(&mut repository, &changes, &args.keys)
}

fn list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let (current, staged) = repository::read(&args.repository.repository)?;
    let expiries = [
        current.targets.as_ref().map(|t| (RoleType::Targets, t.metadata.signed.version, t.metadata.signed.expires)),
        current.snapshot.as_ref().map(|s| (RoleType::Snapshot, s.metadata.signed.version, s.metadata.signed.expires)),
        current.timestamp.as_ref().map(|t| (RoleType::Timestamp, t.metadata.signed.version, t.metadata.signed.expires)),
    ];
    let before = current.root.as_ref().map(|r| &r.metadata.signed);
    let roots = [("holds", &current.root), ("waits for signatures", &staged.root)];
    let mut out = Out::new();
    let mut all = Vec::new();
    for (state, held) in roots {
        let Some(held) = held else { continue };
        if args.json {
            all.push(json!({ "state": state, "root": root_json(&held.metadata, &expiries) }));
            continue;
        }
        for line in root_text(&held.metadata, state, &expiries) {
            out.line(line)?;
        }
        if state != "holds" {
            for standing in root::standings(before, &held.metadata).iter().filter(|s| !s.is_complete()) {
                out.line(format_args!("  waits for {}", standing.words()))?;
            }
        }
    }
    if args.json {
        out.json(&json!({ "roots": all }))?;
    }
    Ok(ExitCode::SUCCESS)
}

type Expiry = Option<(RoleType, NonZeroU64, jiff::Timestamp)>;

fn root_json(held: &Signed<Root>, expiries: &[Expiry]) -> serde_json::Value {
    let root = &held.signed;
    let roles: serde_json::Map<_, _> = ROLES
        .into_iter()
        .filter_map(|role| {
            let of = root.roles.get(&role)?;
            let found = expiries.iter().flatten().find(|(r, ..)| *r == role);
            let (version, expires) = match role {
                RoleType::Root => (Some(root.version), Some(root.expires)),
                _ => (found.map(|f| f.1), found.map(|f| f.2)),
            };
            let keys: Vec<_> = of
                .keyids
                .iter()
                .map(|id| json!({ "id": hex(id), "type": root.keys.get(id).map(keys::kind_of) }))
                .collect();
            let value = json!({
                "threshold": of.threshold, "days": root::days(root, role), "keys": keys, "version": version,
                "expires": expires.map(|e| e.to_string()),
            });
            Some((role.to_string(), value))
        })
        .collect();
    json!({ "version": root.version, "expires": root.expires.to_string(), "roles": roles })
}

fn root_text(held: &Signed<Root>, state: &str, expiries: &[Expiry]) -> Vec<String> {
    let root = &held.signed;
    let mut lines = vec![format!("root {} {state}, {}", root.version, lasts(root.expires))];
    for role in ROLES {
        let Some(of) = root.roles.get(&role) else { continue };
        let now = expiries.iter().flatten().find(|(r, ..)| *r == role);
        let now = now.map_or(String::new(), |(_, version, expires)| format!("; version {version} {}", lasts(*expires)));
        let days = root::days(root, role);
        lines.push(format!("{role}: {} of {} keys, for {days} days{now}", of.threshold, of.keyids.len()));
        for id in &of.keyids {
            lines.push(format!("  {}  {}", hex(id), root.keys.get(id).map_or("no such key", keys::kind_of)));
        }
    }
    lines
}

/// Until when, and how soon that is.
fn lasts(until: jiff::Timestamp) -> String {
    let left_ms = until.as_millisecond() - SystemClock::new().wall().unix_ms();
    match left_ms.div_euclid(86_400_000) {
        days if days < 0 => format!("EXPIRED on {until}: devices raise an alarm"),
        days => format!("until {until} ({days} days)"),
    }
}
