//! Who is enrolled: one JSON file beside the authority's. It is locked while it is changed, and replaced whole, so that two
//! programs and a crash do it no harm.
//!
//! ```text
//!   issued ──► current ──► superseded        (a later one of the device is current)
//!      │          └──────► revoked           (the device is)
//!      └─► superseded, revoked                superseded and revoked ones stand on the revocation list until they expire
//! ```
//!
//! What does not belong here: signing.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::base::atomic_file;
use crate::base::clock::Wall;

const VERSION: u32 = 1;
/// Certificates that expired so long ago are forgotten.
const REMEMBERED: Duration = Duration::from_secs(90 * 24 * 3600);

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file or its lock.
    #[error("cannot {doing} the registry {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error("the registry {} is damaged, or a later program's: restore it from your backup", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Where.
        source: serde_json::Error,
    },
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Its key travelled in a bundle: it lives for the first connection.
    Bundle,
    /// A device's, for a key that was made on it.
    Device,
    /// A broker's.
    Server,
    /// A consumer's, a manager's.
    Client,
}

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It was signed; nobody has been seen with it.
    Issued,
    /// Its device says that it has it, and has connected with it.
    Current,
    /// A later one is current.
    Superseded,
    /// Its device is revoked.
    Revoked,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// What for.
    pub purpose: Purpose,
    /// How it stands,
    pub standing: Standing,
    /// since when.
    pub since_unix_ms: Wall,
    /// When it was signed.
    pub issued_unix_ms: Wall,
    /// Until when it is valid.
    pub not_after_unix_ms: Wall,
    /// SHA-256 of its key.
    pub key: String,
    /// SHA-256 of the request for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The bundle or answer that it went out with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Uuid>,
    /// It, with what leads to the authority, in PEM, until its holder has it: the same request is answered with the same
    /// certificate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pem: String,
}

impl Issued {
    /// Whether it stands on the revocation list.
    pub fn is_withdrawn(&self) -> bool {
        matches!(self.standing, Standing::Superseded | Standing::Revoked)
    }

    fn withdraw(&mut self, standing: Standing, now: Wall) {
        if !self.is_withdrawn() {
            (self.standing, self.since_unix_ms) = (standing, now);
            self.pem.clear();
        }
    }
}

/// A device, or another who has certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Groups that it is counted among.
    #[serde(default)]
    pub groups: Vec<String>,
    /// It is given nothing any more, since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_unix_ms: Option<Wall>,
    /// The oldest first.
    pub certificates: Vec<Issued>,
}

impl Holder {
    /// What it uses, as far as is known: the one that it said it has, or else the last that it was given.
    pub fn current(&self) -> Option<&Issued> {
        let alive = || self.certificates.iter().rev().filter(|c| !c.is_withdrawn());
        alive().find(|c| c.standing == Standing::Current).or_else(|| alive().next())
    }

    /// The one that it has, where those before it are all done with.
    pub fn settled(&self) -> Option<&str> {
        let at = self.certificates.iter().rposition(|c| c.standing == Standing::Current)?;
        let alone = self.revoked_unix_ms.is_none() && self.certificates[..at].iter().all(Issued::is_withdrawn);
        alone.then(|| self.certificates[at].serial.as_str())
    }

    /// Its certificate of this number.
    pub fn certificate(&self, serial: &str) -> Option<&Issued> {
        self.certificates.iter().find(|c| c.serial == serial)
    }

    /// It says that it has connected with this one: those before it are done with. Whether anything changed.
    pub fn settle(&mut self, serial: &str, now: Wall) -> bool {
        let Some(at) = self.certificates.iter().position(|c| c.serial == serial) else { return false };
        if self.revoked_unix_ms.is_some() || self.certificates[at].is_withdrawn() {
            return false;
        }
        let before = self.certificates.clone();
        for earlier in &mut self.certificates[..at] {
            earlier.withdraw(Standing::Superseded, now);
        }
        let current = &mut self.certificates[at];
        if current.standing != Standing::Current {
            (current.standing, current.since_unix_ms) = (Standing::Current, now);
            current.pem.clear();
        }
        before != self.certificates
    }

    /// All of its certificates are done with.
    pub fn revoke(&mut self, now: Wall) {
        self.revoked_unix_ms.get_or_insert(now);
        self.certificates.iter_mut().for_each(|c| c.withdraw(Standing::Revoked, now));
    }

    /// Those of bundles that nobody came with are done with: another bundle is given out.
    pub fn withdraw_bundles(&mut self, now: Wall) {
        let unused = |c: &&mut Issued| c.purpose == Purpose::Bundle && c.standing == Standing::Issued;
        self.certificates.iter_mut().filter(unused).for_each(|c| c.withdraw(Standing::Superseded, now));
    }
}

/// The whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registry {
    version: u32,
    /// Number of the newest revocation list.
    pub crl_number: u64,
    /// When the newest revocation list is due to be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crl_next_unix_ms: Option<Wall>,
    /// Devices, by `{site}/{device}`.
    pub devices: BTreeMap<String, Holder>,
    /// Brokers, consumers and managers, by common name.
    pub others: BTreeMap<String, Holder>,
}

impl Default for Registry {
    fn default() -> Self {
        let (devices, others) = (BTreeMap::new(), BTreeMap::new());
        Registry { version: VERSION, crl_number: 0, crl_next_unix_ms: None, devices, others }
    }
}

impl Registry {
    /// Reads it; an authority that has signed nothing has none.
    pub fn read(dir: &Path) -> Result<Registry, RegistryError> {
        let path = path(dir);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Registry::default()),
            Err(source) => return Err(RegistryError::File { doing: "read", path, source }),
        };
        let read: Registry = match serde_json::from_slice(&bytes) {
            Ok(read) => read,
            Err(source) => return Err(RegistryError::Damaged { path, source }),
        };
        if read.version != VERSION {
            let source = serde::de::Error::custom(format!("version {}", read.version));
            return Err(RegistryError::Damaged { path, source });
        }
        Ok(read)
    }

    /// All certificates that stand on the revocation list.
    pub fn withdrawn(&self) -> impl Iterator<Item = &Issued> {
        let holders = self.devices.values().chain(self.others.values());
        holders.flat_map(|h| &h.certificates).filter(|c| c.is_withdrawn())
    }

    /// Whether this key has had a certificate.
    pub fn knows_key(&self, key: &str) -> bool {
        let holders = self.devices.values().chain(self.others.values());
        holders.flat_map(|h| &h.certificates).any(|c| c.key == key)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("registry.json")
}

/// The registry, while nobody else changes it.
pub struct Locked {
    dir: PathBuf,
    /// Let go of when it is closed.
    _lock: File,
    /// What is in it.
    pub registry: Registry,
}

impl Locked {
    /// Waits for it.
    pub fn open(dir: &Path) -> Result<Locked, RegistryError> {
        let lock_path = dir.join("registry.lock");
        let failed = |source| RegistryError::File { doing: "lock", path: lock_path.clone(), source };
        let lock = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Locked { dir: dir.to_owned(), _lock: lock, registry: Registry::read(dir)? })
    }

    /// Makes what is in it durable.
    pub fn save(&mut self, now: Wall) -> Result<(), RegistryError> {
        for holder in self.registry.devices.values_mut().chain(self.registry.others.values_mut()) {
            holder.certificates.retain(|c| c.not_after_unix_ms + REMEMBERED > now);
        }
        let mut json = serde_json::to_vec_pretty(&self.registry).expect("texts and numbers");
        json.push(b'\n');
        let path = path(&self.dir);
        let written = atomic_file::write_private(&path, &json);
        written.map_err(|source| RegistryError::File { doing: "write", path, source })
    }
}
