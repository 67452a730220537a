//! The device's identity on its disk, below the state directory:
//!
//! ```text
//!   identity/record.json            who the device is, and which step is under way
//!            fleet-ca.crt           who signs its certificates
//!            current ─► slots/N     what the configuration names: device.crt and device.key
//!            slots/N/               one directory for each certificate, N its serial number
//!            pending/               a new key and the request for its certificate
//!   used-bundles.json               bundles that were taken here, ever
//! ```
//!
//! What does not belong here: when something is renewed (`renewal`), and how it all comes here (`provision`).
//!
//! Invariants: a certificate and its key change together, by one atomic rename of `current`; a slot is complete and synced
//! before anything points to it; keys have mode 0600 and directories 0700.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::key::{KeyError, PrivateKey};
use super::papers::{Paper, PaperError};
use crate::base::atomic_file::{self, sync_parent};
use crate::base::clock::Wall;

const VERSION: u32 = 1;
/// Larger than any of these files.
const LARGEST_BYTES: u64 = 1 << 20;
/// So many bundles are remembered.
const USED_MOST: usize = 1000;

/// The certificate's file in a slot,
pub const CERTIFICATE: &str = "device.crt";
/// and the key's.
pub const KEY: &str = "device.key";
const RECORD: &str = "record.json";
const AUTHORITY: &str = "fleet-ca.crt";
const REQUEST: &str = "request.pem";

/// Why the identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HoldingsError {
    /// A file or directory.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what this program writes.
    #[error("{} is damaged: have a new bundle made, and provision with --replace", .0.display())]
    Damaged(PathBuf),
    /// A key.
    #[error("{}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: KeyError,
    },
    /// A certificate.
    #[error("{}", path.display())]
    Paper {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: PaperError,
    },
}

/// Who the device is, and which step is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub(super) version: u32,
    /// Where it stands.
    pub site: String,
    /// The device.
    pub device: String,
    /// The bundle or answer that it was provisioned with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Uuid>,
    /// The key in use came in the bundle: it is to be replaced at once.
    #[serde(default)]
    pub travelled: bool,
    /// A new certificate is in use, and no connection was made with it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switch: Option<Switch>,
    /// What went wrong last, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Nothing is asked for before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_unix_ms: Option<Wall>,
}

/// From one certificate to the next, by their serial numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// What is gone back to.
    pub from: String,
    /// Whether its key came in the bundle.
    #[serde(default)]
    pub from_travelled: bool,
    /// What is tried.
    pub to: String,
}

impl Record {
    /// Of a device that was just provisioned.
    pub fn new(site: &str, device: &str, bundle: Option<Uuid>, travelled: bool) -> Record {
        Record {
            version: VERSION,
            site: site.to_owned(),
            device: device.to_owned(),
            bundle,
            travelled,
            switch: None,
            trouble: None,
            not_before_unix_ms: None,
        }
    }

    /// The broker's name for the device.
    pub fn name(&self) -> String {
        format!("{}/{}", self.site, self.device)
    }
}

/// The identity's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    dir: PathBuf,
}

impl Holdings {
    /// Below this state directory.
    pub fn of(state_dir: &Path) -> Holdings {
        Holdings::at(state_dir.join("identity"))
    }

    /// In this directory.
    pub fn at(dir: PathBuf) -> Holdings {
        Holdings { dir }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the configuration names as `cert_file`,
    pub fn certificate_path(&self) -> PathBuf {
        self.dir.join("current").join(CERTIFICATE)
    }

    /// and as `key_file`.
    pub fn key_path(&self) -> PathBuf {
        self.dir.join("current").join(KEY)
    }

    /// Who the device is; none: it was not provisioned.
    pub fn record(&self) -> Result<Option<Record>, HoldingsError> {
        let path = self.dir.join(RECORD);
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        match serde_json::from_str::<Record>(&text) {
            Ok(record) if record.version == VERSION => Ok(Some(record)),
            _ => Err(HoldingsError::Damaged(path)),
        }
    }

    /// Makes the record durable.
    pub fn save(&self, record: &Record) -> Result<(), HoldingsError> {
        let json = serde_json::to_vec_pretty(record).expect("texts");
        write_private(&self.dir.join(RECORD), &json)
    }

    /// Makes the directory, empty but for the authority.
    pub fn create(&self, authority_pem: &str) -> Result<(), HoldingsError> {
        make_dir(&self.dir)?;
        make_dir(&self.dir.join("slots"))?;
        write_private(&self.dir.join(AUTHORITY), authority_pem.as_bytes())
    }

    /// Who signs this device's certificates.
    pub fn authority(&self) -> Result<String, HoldingsError> {
        let path = self.dir.join(AUTHORITY);
        read_if_there(&path)?.ok_or(HoldingsError::Damaged(path))
    }

    /// The certificate in use, with its chain.
    pub fn certificate(&self) -> Result<String, HoldingsError> {
        let path = self.certificate_path();
        read_if_there(&path)?.ok_or(HoldingsError::Damaged(path))
    }

    /// What it says.
    pub fn paper(&self) -> Result<Paper, HoldingsError> {
        let path = self.certificate_path();
        Paper::read(&self.certificate()?).map_err(|source| HoldingsError::Paper { path, source })
    }

    /// What the certificate in another slot says.
    pub fn paper_of(&self, serial: &str) -> Result<Paper, HoldingsError> {
        let path = self.slot(serial).join(CERTIFICATE);
        let pem = read_if_there(&path)?.ok_or_else(|| HoldingsError::Damaged(path.clone()))?;
        Paper::read(&pem).map_err(|source| HoldingsError::Paper { path, source })
    }

    /// Writes certificate and key into a slot of their own. Nothing points to it yet.
    pub fn fill_slot(&self, serial: &str, certificate_pem: &str, key: &PrivateKey) -> Result<(), HoldingsError> {
        let slot = self.slot(serial);
        make_dir(&slot)?;
        write_private(&slot.join(KEY), key.pem().as_bytes())?;
        write_private(&slot.join(CERTIFICATE), certificate_pem.as_bytes())?;
        sync_parent(&slot).map_err(failed("make durable", &slot))
    }

    /// The slot that is in use.
    pub fn current(&self) -> Option<String> {
        let to = fs::read_link(self.dir.join("current")).ok()?;
        Some(to.file_name()?.to_str()?.to_owned())
    }

    /// Has another slot used.
    pub fn point_to(&self, serial: &str) -> Result<(), HoldingsError> {
        if !self.slot(serial).join(CERTIFICATE).exists() {
            return Err(HoldingsError::Damaged(self.slot(serial)));
        }
        let next = self.dir.join("next");
        remove(&next)?;
        let made = symlink(Path::new("slots").join(serial), &next);
        let done = made.and_then(|()| atomic_file::publish(&next, &self.dir.join("current")));
        done.map_err(failed("switch to", &self.slot(serial)))
    }

    /// Removes all slots but these.
    pub fn keep_slots(&self, kept: &[&str]) -> Result<(), HoldingsError> {
        let slots = self.dir.join("slots");
        for entry in fs::read_dir(&slots).map_err(failed("read", &slots))? {
            let entry = entry.map_err(failed("read", &slots))?;
            if !entry.file_name().to_str().is_some_and(|name| kept.contains(&name)) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Makes a new key, and the request for its certificate; both wait here.
    pub fn make_request(&self, name: &str) -> Result<String, HoldingsError> {
        let dir = self.pending();
        let wrong = |source| HoldingsError::Key { path: dir.join(KEY), source };
        let key = PrivateKey::generate().map_err(wrong)?;
        let request = key.request(name).map_err(wrong)?;
        remove(&dir)?;
        make_dir(&dir)?;
        write_private(&dir.join(KEY), key.pem().as_bytes())?;
        // The last: a key without its request is no pending one.
        write_private(&dir.join(REQUEST), request.as_bytes())?;
        Ok(request)
    }

    /// The request that waits for its certificate.
    pub fn request(&self) -> Result<Option<String>, HoldingsError> {
        read_if_there(&self.pending().join(REQUEST))
    }

    /// The key of that request.
    pub fn pending_key(&self) -> Result<Option<PrivateKey>, HoldingsError> {
        let path = self.pending().join(KEY);
        let key = read_if_there(&path)?.map(|pem| PrivateKey::read(SecretString::from(pem)));
        key.transpose().map_err(|source| HoldingsError::Key { path, source })
    }

    /// Nothing is asked for any more.
    pub fn forget_request(&self) -> Result<(), HoldingsError> {
        remove(&self.pending())
    }

    fn pending(&self) -> PathBuf {
        self.dir.join("pending")
    }

    fn slot(&self, serial: &str) -> PathBuf {
        self.dir.join("slots").join(serial)
    }
}

/// The bundles that were taken here, ever.
pub fn used_bundles(state_dir: &Path) -> Result<Vec<Uuid>, HoldingsError> {
    let path = state_dir.join("used-bundles.json");
    let Some(text) = read_if_there(&path)? else { return Ok(Vec::new()) };
    serde_json::from_str(&text).map_err(|_| HoldingsError::Damaged(path))
}

/// This bundle is not taken again.
pub fn note_used(state_dir: &Path, bundle: Uuid) -> Result<(), HoldingsError> {
    let mut used = used_bundles(state_dir)?;
    if used.contains(&bundle) {
        return Ok(());
    }
    used.push(bundle);
    // They have long expired.
    used.drain(..used.len().saturating_sub(USED_MOST));
    write_private(&state_dir.join("used-bundles.json"), &serde_json::to_vec(&used).expect("ids"))
}

/// Reads a text of bounded size.
pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, HoldingsError> {
    match fs::metadata(path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(failed("read", path)(e)),
        Ok(of) if !of.is_file() || of.len() > LARGEST_BYTES => return Err(HoldingsError::Damaged(path.to_owned())),
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(failed("read", path))
}

pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), HoldingsError> {
    atomic_file::write_private(path, bytes).map_err(failed("write", path))
}

pub(super) fn make_dir(path: &Path) -> Result<(), HoldingsError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make", path))
}

/// Removes a file, a link or a directory with all that is in it, if it is there.
pub(super) fn remove(path: &Path) -> Result<(), HoldingsError> {
    let removed = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => Err(e),
        Ok(of) if of.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.and_then(|()| sync_parent(path)).map_err(failed("remove", path))
}

pub(super) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> HoldingsError {
    let path = path.to_owned();
    move |source| HoldingsError::File { doing, path, source }
}
