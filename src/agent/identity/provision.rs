//! From a bundle (or an answer) to a device that is somebody.
//!
//! ```text
//!   staged in identity.new/ ══ rename ══► identity.ready/ ─► files of the configuration ─► identity/ ─► vedette.toml ─► gone
//!        │ power cut: wiped             │ power cut anywhere here: the next call goes on from where it was
//!        └──────────────────────────────┘
//! ```
//!
//! Everything is written and synced beside what is there before anything is changed; the rename is the point of no return.
//! From there on each step can be done twice. The configuration is the last: a daemon that starts meanwhile finds the old
//! one or the new one, whole.
//!
//! Invariants: an identity is never overwritten unasked; what was staged and is not used is removed, the key with it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::bundle::{Bundle, BundleError};
use super::config_text::{self, EditError};
use super::holdings::{self, Holdings, HoldingsError, Record, failed, make_dir, read_if_there, remove, write_private};
use super::key::PrivateKey;
use crate::base::atomic_file;
use crate::base::clock::Wall;
use crate::base::fail_point;

/// Names beside the configuration.
pub const CONFIG: &str = "vedette.toml";
/// Who may have signed the broker's certificate.
pub const BROKER_CA: &str = "broker-ca.crt";
/// The repository's root metadata.
pub const ROOT: &str = "root.json";
const INSTALL: &str = "install.json";

/// Where a device that was given no configuration begins.
const TEMPLATE: &str = "# Written by `vedette provision`. What is missing is at least one [[camera]]: see\n\
     # /usr/share/doc/vedette/example.toml, and `vedette check` for what is wrong.\n";

/// Why the device is not provisioned.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A file.
    #[error(transparent)]
    Holdings(#[from] HoldingsError),
    /// The configuration.
    #[error("{}", path.display())]
    Config {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: EditError,
    },
    /// It was taken before.
    #[error("this bundle was used on this device before, and is good for one use: have a new one made")]
    Used,
    /// It is somebody else's.
    #[error(
        "the bundle is for {bundle}, and this device is {device}: take its own bundle, or make it another with --replace"
    )]
    OtherDevice {
        /// Who the bundle is for.
        bundle: String,
        /// Who this is.
        device: String,
    },
    /// It is somebody.
    #[error("this device has an identity ({0}); --replace gives it another, --wipe takes it away")]
    Provisioned(String),
    /// An answer to nothing.
    #[error("no request was made on this device: vedette provision --request SITE/DEVICE makes one")]
    NoRequest,
    /// A wipe was cut short.
    #[error("a wipe was cut short: finish it with vedette provision --wipe")]
    Wiping,
    /// No such user.
    #[error("there is no user {0:?} here, who is to own the key: --user names another")]
    NoUser(String),
    /// The clock.
    #[error(
        "this device's clock shows {0}, which is before this program was made: set it (timedatectl), certificates depend on it"
    )]
    Clock(String),
}

/// Where the device keeps what.
#[derive(Debug, Clone)]
pub struct Places {
    /// Of the configuration.
    pub config_dir: PathBuf,
    /// Of the data.
    pub state_dir: PathBuf,
    /// Who the daemon runs as, where this is run by root: user and group.
    pub owner: Option<(u32, u32)>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provisioned {
    /// It is this device from now on.
    Done(String),
    /// What was cut short is finished.
    Resumed(String),
    /// It was so already.
    Already(String),
}

/// What is still to be put in its place when all is staged.
#[derive(Debug, Serialize, Deserialize)]
struct Install {
    config_dir: PathBuf,
    /// Names of files in `files/`, in their order.
    files: Vec<String>,
    bundle: uuid::Uuid,
    name: String,
}

impl Places {
    /// With what the configuration in `config_dir` says of the state directory, if there is one.
    pub fn of(config_dir: &Path, state_dir: Option<&Path>) -> Result<Places, ProvisionError> {
        let config_dir = std::path::absolute(config_dir).map_err(failed("find", config_dir))?;
        let state_dir = match state_dir {
            Some(dir) => std::path::absolute(dir).map_err(failed("find", dir))?,
            None => {
                let text = read_if_there(&config_dir.join(CONFIG))?.unwrap_or_default();
                let table: Table = text.parse().unwrap_or_default();
                let said = table.get("paths").and_then(|p| p.get("state_dir")).and_then(Value::as_str);
                config_dir.join(said.unwrap_or("/var/lib/vedette"))
            }
        };
        Ok(Places { config_dir, state_dir, owner: None })
    }

    /// With the daemon's user as the owner of what is written, where this is root's doing. `asked`: that one, or none.
    pub fn owned_by(mut self, asked: Option<&str>) -> Result<Places, ProvisionError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(self);
        }
        let name = asked.unwrap_or("vedette");
        let passwd = read_if_there(Path::new("/etc/passwd"))?.unwrap_or_default();
        let user = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let (found, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            (found == name).then_some((uid.parse().ok()?, gid.parse().ok()?))
        });
        match (user, asked) {
            (None, Some(name)) => return Err(ProvisionError::NoUser(name.to_owned())),
            (user, _) => self.owner = user,
        }
        Ok(self)
    }

    fn holdings(&self) -> Holdings {
        Holdings::of(&self.state_dir)
    }
    fn staged(&self) -> PathBuf {
        self.state_dir.join("identity.new")
    }
    fn ready(&self) -> PathBuf {
        self.state_dir.join("identity.ready")
    }
    fn old(&self) -> PathBuf {
        self.state_dir.join("identity.old")
    }
    /// The mark that a wipe is under way.
    pub(super) fn wiping(&self) -> PathBuf {
        self.state_dir.join("wiping")
    }

    fn own(&self, path: &Path) -> Result<(), HoldingsError> {
        let Some((uid, gid)) = self.owner else { return Ok(()) };
        let of = fs::symlink_metadata(path).map_err(failed("find", path))?;
        lchown(path, Some(uid), Some(gid)).map_err(failed("give away", path))?;
        if of.is_dir() {
            for entry in fs::read_dir(path).map_err(failed("read", path))? {
                self.own(&entry.map_err(failed("read", path))?.path())?;
            }
        }
        Ok(())
    }

    fn prepare(&self) -> Result<(), ProvisionError> {
        if self.wiping().exists() {
            return Err(ProvisionError::Wiping);
        }
        if !self.state_dir.exists() {
            fs::create_dir_all(&self.state_dir).map_err(failed("make", &self.state_dir))?;
            fs::set_permissions(&self.state_dir, fs::Permissions::from_mode(0o750))
                .map_err(failed("make", &self.state_dir))?;
            self.own(&self.state_dir)?;
        }
        fs::create_dir_all(&self.config_dir).map_err(failed("make", &self.config_dir))?;
        Ok(())
    }
}

/// Finishes what a power cut interrupted, or undoes what had not got to the point of no return. None: nothing was.
pub fn resume(places: &Places) -> Result<Option<Provisioned>, ProvisionError> {
    places.prepare()?;
    remove(&places.staged())?;
    match places.ready().exists() {
        true => install(places).map(|name| Some(Provisioned::Resumed(name))),
        false => {
            remove(&places.old())?;
            Ok(None)
        }
    }
}

/// Makes the device the one of the bundle. Call [`resume`] first.
pub fn provision(places: &Places, bundle: &Bundle, replace: bool, now: Wall) -> Result<Provisioned, ProvisionError> {
    places.prepare()?;
    let staged = stage(places, bundle, replace, now);
    match staged {
        Ok(None) => Ok(Provisioned::Already(bundle.name())),
        Ok(Some(())) => {
            fail_point::reach("provision_staged");
            fs::rename(places.staged(), places.ready())
                .and_then(|()| atomic_file::sync_parent(&places.ready()))
                .map_err(failed("rename", &places.staged()))?;
            fail_point::reach("provision_committed");
            install(places).map(Provisioned::Done)
        }
        Err(e) => {
            // The key with it.
            remove(&places.staged())?;
            Err(e)
        }
    }
}

/// Makes a key on the device, and the request for its certificate; the same one until it is answered.
pub fn request(places: &Places, name: &str, replace: bool) -> Result<String, ProvisionError> {
    places.prepare()?;
    if let Some(record) = places.holdings().record()?.filter(|_| !replace) {
        return Err(ProvisionError::Provisioned(record.name()));
    }
    let asking = asking(places);
    let whose = read_if_there(&asking.dir().join("name"))?;
    match asking.request()?.filter(|_| whose.as_deref() == Some(name)) {
        Some(request) => Ok(request),
        None => {
            make_dir(asking.dir())?;
            write_private(&asking.dir().join("name"), name.as_bytes())?;
            Ok(asking.make_request(name)?)
        }
    }
}

/// Where a key waits for its first certificate, apart from an identity that is there.
fn asking(places: &Places) -> Holdings {
    Holdings::at(places.state_dir.join("identity.asked"))
}

fn stage(places: &Places, bundle: &Bundle, replace: bool, now: Wall) -> Result<Option<()>, ProvisionError> {
    if now.unix_ms() < MADE_UNIX_MS {
        return Err(ProvisionError::Clock(now.rfc3339()));
    }
    let there = places.holdings().record();
    // A damaged one is replaced when that is asked for.
    let there = if replace { there.unwrap_or_default() } else { there? };
    if there.as_ref().is_some_and(|r| r.bundle == Some(bundle.id)) {
        return Ok(None);
    }
    if holdings::used_bundles(&places.state_dir)?.contains(&bundle.id) {
        return Err(ProvisionError::Used);
    }
    let pending = match bundle.private_key_pem {
        Some(_) => None,
        None => Some(asking(places).pending_key()?.ok_or(ProvisionError::NoRequest)?),
    };
    let paper = bundle.check(pending.as_ref(), now)?;
    let config_path = places.config_dir.join(CONFIG);
    let before = read_if_there(&config_path)?;
    if !replace {
        if let Some(record) = there {
            return Err(match record.name() == bundle.name() {
                true => ProvisionError::Provisioned(record.name()),
                false => ProvisionError::OtherDevice { bundle: bundle.name(), device: record.name() },
            });
        }
        if let Some(device) = before.as_deref().and_then(name_in).filter(|name| *name != bundle.name()) {
            return Err(ProvisionError::OtherDevice { bundle: bundle.name(), device });
        }
    }
    let text = before.as_deref().or(bundle.config_toml.as_deref()).unwrap_or(TEMPLATE);
    let text =
        configure(places, bundle, text).map_err(|source| ProvisionError::Config { path: config_path, source })?;

    let new = places.staged();
    remove(&new)?;
    make_dir(&new)?;
    let identity = Holdings::at(new.join("identity"));
    identity.create(&bundle.fleet_ca_pem)?;
    let own = bundle.private_key_pem.clone().map(PrivateKey::read).transpose();
    let own = own.map_err(|e| BundleError::Unfit(e.to_string()))?;
    let key = own.as_ref().or(pending.as_ref()).ok_or(ProvisionError::NoRequest)?;
    identity.fill_slot(&paper.serial, &bundle.certificate_pem, key)?;
    identity.point_to(&paper.serial)?;
    identity.save(&Record::new(&bundle.site, &bundle.device, Some(bundle.id), own.is_some()))?;
    places.own(identity.dir())?;
    let files = new.join("files");
    make_dir(&files)?;
    let mut names = vec![(BROKER_CA, bundle.broker_ca_pem.as_str())];
    names.extend(bundle.root_json.as_deref().map(|root| (ROOT, root)));
    names.push((CONFIG, &text));
    for (name, content) in &names {
        write_private(&files.join(name), content.as_bytes())?;
    }
    let install = Install {
        config_dir: places.config_dir.clone(),
        files: names.iter().map(|(name, _)| (*name).to_owned()).collect(),
        bundle: bundle.id,
        name: bundle.name(),
    };
    write_private(&new.join(INSTALL), &serde_json::to_vec(&install).expect("texts"))?;
    Ok(Some(()))
}

/// From the point of no return to the end; returns the device's name.
fn install(places: &Places) -> Result<String, ProvisionError> {
    let ready = places.ready();
    let path = ready.join(INSTALL);
    let text = read_if_there(&path)?.unwrap_or_default();
    let install: Install = serde_json::from_str(&text).map_err(|_| HoldingsError::Damaged(path))?;
    let put = |name: &String| -> Result<(), ProvisionError> {
        let Some(content) = read_if_there(&ready.join("files").join(name))? else { return Ok(()) };
        put_file(&install.config_dir.join(name), &content)?;
        Ok(())
    };
    let (config, others): (Vec<_>, Vec<_>) = install.files.iter().partition(|name| *name == CONFIG);
    others.into_iter().try_for_each(put)?;
    fail_point::reach("provision_files");
    let (identity, waiting) = (places.holdings(), ready.join("identity"));
    if waiting.exists() {
        if identity.dir().exists() {
            remove(&places.old())?;
            rename(identity.dir(), &places.old())?;
            fail_point::reach("provision_moved_away");
        }
        rename(&waiting, identity.dir())?;
    }
    fail_point::reach("provision_in_place");
    config.into_iter().try_for_each(put)?;
    fail_point::reach("provision_configured");
    holdings::note_used(&places.state_dir, install.bundle)?;
    places.own(&places.state_dir.join("used-bundles.json"))?;
    fail_point::reach("provision_noted");
    // What was before, and the key that asked.
    remove(&places.old())?;
    remove(asking(places).dir())?;
    remove(&ready)?;
    Ok(install.name)
}

fn rename(from: &Path, to: &Path) -> Result<(), HoldingsError> {
    fs::rename(from, to).and_then(|()| atomic_file::sync_parent(to)).map_err(failed("rename", from))
}

/// Puts a file where the configuration is, readable by the daemon; one that is there keeps its owner and mode.
fn put_file(path: &Path, content: &str) -> Result<(), HoldingsError> {
    let (mode, owner) = match fs::metadata(path) {
        Ok(of) => (of.mode() & 0o777, Some((of.uid(), of.gid()))),
        Err(_) => (0o644, None),
    };
    let next = path.with_file_name(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
    let put = || -> io::Result<()> {
        atomic_file::write_private(&next, content.as_bytes())?;
        if let (Some((uid, gid)), true) = (owner, rustix::process::geteuid().is_root()) {
            chown(&next, Some(uid), Some(gid))?;
        }
        fs::set_permissions(&next, fs::Permissions::from_mode(mode))?;
        atomic_file::publish(&next, path)
    };
    put().map_err(failed("write", path))
}

/// The device that a configuration is of.
fn name_in(text: &str) -> Option<String> {
    let table: Table = text.parse().ok()?;
    let device = table.get("device")?;
    Some(format!("{}/{}", device.get("site")?.as_str()?, device.get("id")?.as_str()?))
}

/// The configuration, with who the device is and what it connects with.
fn configure(places: &Places, bundle: &Bundle, text: &str) -> Result<String, EditError> {
    let value = |text: &str| Value::String(text.to_owned());
    let path = |path: PathBuf| Value::String(path.to_string_lossy().into_owned());
    let holdings = places.holdings();
    let url = match &bundle.brokers[..] {
        [one] => value(one),
        many => Value::Array(many.iter().map(|b| value(b)).collect()),
    };
    let mut sections = vec![
        ("device", vec![("site", value(&bundle.site)), ("id", value(&bundle.device))]),
        (
            "mqtt",
            vec![
                ("url", url),
                ("ca_file", value(BROKER_CA)),
                ("cert_file", path(holdings.certificate_path())),
                ("key_file", path(holdings.key_path())),
            ],
        ),
    ];
    if let Some(repository) = &bundle.repository {
        let mut keys = vec![("repository", value(repository)), ("root_file", value(ROOT))];
        // A web server that asks who comes is told the same.
        keys.push(("cert_file", path(holdings.certificate_path())));
        keys.push(("key_file", path(holdings.key_path())));
        sections.push(("ota", keys));
    }
    let table: Table = text.parse().unwrap_or_default();
    let said = table.get("paths").and_then(|p| p.get("state_dir")).and_then(Value::as_str);
    if places.config_dir.join(said.unwrap_or("/var/lib/vedette")) != places.state_dir {
        sections.push(("paths", vec![("state_dir", path(places.state_dir.clone()))]));
    }
    config_text::set(text, &sections)
}

/// 2026-01-01: a clock that shows less was never set.
const MADE_UNIX_MS: i64 = 1_767_225_600_000;
