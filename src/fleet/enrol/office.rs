//! Enrolling, answering, renewing, revoking: a signature and its entry in the registry, together.
//!
//! ```text
//!   lock the registry ─► may they? ─► sign ─► entry ─► save ─► only now is it handed out
//! ```
//!
//! A crash between two of these leaves at most a signature that nobody has seen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use age::secrecy::SecretString;
use rcgen::PublicKeyData;
use uuid::Uuid;

use super::authority::{Authority, AuthorityError, Signed, Signer, Subject};
use super::registry::{Holder, Issued, Locked, Purpose, Registry, RegistryError, Standing};
use super::request::{Request, RequestError};
use super::secret_key;
use crate::agent::identity::bundle::{self, Bundle, BundleError};
use crate::base::atomic_file;
use crate::base::clock::Wall;
use crate::contract::topics::{DeviceTopics, TopicError};

/// A day.
pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// A device that asks for more certificates in a day without using one of them is out of its mind, or not itself.
const REQUESTS_A_DAY: usize = 5;

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum OfficeError {
    /// The authority.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// No name of a device.
    #[error("a device is named SITE/DEVICE")]
    Name(#[from] TopicError),
    /// Nobody of that name.
    #[error("{0} is not enrolled: vedette-fleet enrol list says who is")]
    Unknown(String),
    /// Not any more.
    #[error("{0} is revoked: vedette-fleet enrol device enrols it anew")]
    Revoked(String),
    /// The request is in another's name.
    #[error("the request is in the name of {found:?}, and came from {from:?}")]
    OtherName {
        /// The name in it.
        found: String,
        /// Who sent it.
        from: String,
    },
    /// The key is not new.
    #[error("the request is for a key that has had a certificate: a renewal is for a new key")]
    OldKey,
    /// Too many.
    #[error("{0} has had {REQUESTS_A_DAY} certificates within a day and uses none of them: look at the device")]
    TooMany(String),
    /// A file.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a device is to know beside who it is.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Groups that it is counted among.
    pub groups: Vec<String>,
    /// Where its broker is.
    pub brokers: Vec<String>,
    /// Who may have signed the broker's certificate; none: the fleet's authority.
    pub broker_ca_pem: Option<String>,
    /// Where models come from, and the repository's root metadata.
    pub repository: Option<(String, String)>,
    /// Further configuration, TOML.
    pub config_toml: Option<String>,
}

/// How long what is given out is good for.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// A device's certificate.
    pub device: Duration,
    /// A bundle, and the certificate of the key that travels in it.
    pub bundle: Duration,
    /// A revocation list.
    pub crl: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        Lives { device: 90 * DAY, bundle: 7 * DAY, crl: 90 * DAY }
    }
}

/// The fleet's enrolment office.
pub struct Office {
    /// Whose it is.
    pub authority: Authority,
    /// Who signs.
    pub signer: Signer,
    /// For how long.
    pub lives: Lives,
    /// Whom there is nothing to do for: with which certificate a device was settled when that was last looked at. A service
    /// that connects hears ten thousand devices say so at once.
    settled: Mutex<Option<BTreeMap<String, String>>>,
}

impl Office {
    /// With this authority.
    pub fn new(authority: Authority, signer: Signer, lives: Lives) -> Office {
        Office { authority, signer, lives, settled: Mutex::default() }
    }

    fn is_settled(&self, name: &str, serial: &str) -> Result<bool, OfficeError> {
        let mut settled = self.settled.lock().expect("nobody panics under it");
        if settled.is_none() {
            let registry = Registry::read(self.authority.dir())?;
            let pairs =
                registry.devices.iter().filter_map(|(name, holder)| Some((name.clone(), holder.settled()?.to_owned())));
            *settled = Some(pairs.collect());
        }
        Ok(settled.as_ref().and_then(|s| s.get(name)).is_some_and(|s| s == serial))
    }

    /// Makes the bundle of a device, with a key of its own for the way.
    pub fn bundle(&self, name: &str, with: Surroundings, now: Wall) -> Result<Bundle, OfficeError> {
        let key = secret_key::generate().map_err(AuthorityError::from)?;
        let pem = SecretString::from(key.serialize_pem());
        let mut bundle = self.hand_out(name, &key, (Purpose::Bundle, None), with, now)?;
        bundle.private_key_pem = Some(pem);
        bundle.check(None, now)?;
        Ok(bundle)
    }

    /// Answers the request of a device that has made its own key.
    pub fn answer(&self, request_pem: &str, with: Surroundings, now: Wall) -> Result<Bundle, OfficeError> {
        let request = Request::read(request_pem)?;
        let digest = Some(request.digest);
        if Registry::read(self.authority.dir())?.knows_key(&request.key_digest) {
            return Err(OfficeError::OldKey);
        }
        self.hand_out(&request.name, &request.key, (Purpose::Device, digest), with, now)
    }

    fn hand_out(
        &self,
        name: &str,
        key: &impl PublicKeyData,
        (purpose, request): (Purpose, Option<String>),
        with: Surroundings,
        now: Wall,
    ) -> Result<Bundle, OfficeError> {
        let topics = device(name)?;
        let lives = if purpose == Purpose::Bundle { self.lives.bundle } else { self.lives.device };
        let mut locked = Locked::open(self.authority.dir())?;
        let signed = self.signer.sign(&Subject::Device(name.to_owned()), key, now, lives)?;
        let id = Uuid::now_v7();
        let withdrawn = locked.registry.withdrawn().count();
        let holder = locked.registry.devices.entry(name.to_owned()).or_default();
        holder.withdraw_bundles(now);
        // Whoever enrols a device that was revoked means it; what it had stays revoked.
        holder.revoked_unix_ms = None;
        holder.groups.clone_from(&with.groups);
        holder.certificates.push(issued(&signed, purpose, now, request, Some(id)));
        match locked.registry.withdrawn().count() == withdrawn {
            true => locked.save(now)?,
            false => self.write_crl(&mut locked, now)?,
        }
        let (repository, root_json) = with.repository.unzip();
        Ok(Bundle {
            vedette_bundle: bundle::VERSION,
            id,
            site: topics.site.to_string(),
            device: topics.device.to_string(),
            groups: with.groups,
            expires_unix_ms: now + self.lives.bundle,
            brokers: with.brokers,
            broker_ca_pem: with.broker_ca_pem.unwrap_or_else(|| self.authority.root_pem.clone()),
            fleet_ca_pem: self.authority.root_pem.clone(),
            certificate_pem: signed.pem,
            private_key_pem: None,
            repository,
            root_json,
            config_toml: with.config_toml,
        })
    }

    /// A certificate and key for a broker, a consumer or a manager: certificate with chain, and key, in PEM.
    pub fn issue(&self, subject: &Subject, lives: Duration, now: Wall) -> Result<(String, SecretString), OfficeError> {
        let (name, purpose) = match subject {
            Subject::Server(names) => (format!("broker {}", names.join(" ")), Purpose::Server),
            Subject::Client(name) | Subject::Device(name) => (name.clone(), Purpose::Client),
        };
        let key = secret_key::generate().map_err(AuthorityError::from)?;
        let mut locked = Locked::open(self.authority.dir())?;
        let signed = self.signer.sign(subject, &key, now, lives)?;
        let holder = locked.registry.others.entry(name).or_default();
        holder.revoked_unix_ms = None;
        holder.certificates.push(issued(&signed, purpose, now, None, None));
        locked.save(now)?;
        Ok((signed.pem, SecretString::from(key.serialize_pem())))
    }

    /// Answers a request that came from this device over the broker. The same request has the same answer.
    pub fn renew(&self, from: &str, request_pem: &str, now: Wall) -> Result<Issued, OfficeError> {
        let request = Request::read(request_pem)?;
        if request.name != from {
            return Err(OfficeError::OtherName { found: request.name, from: from.to_owned() });
        }
        let mut locked = Locked::open(self.authority.dir())?;
        let reused = locked.registry.knows_key(&request.key_digest);
        let holder = enrolled(&mut locked.registry, from)?;
        let known = holder.certificates.iter().find(|c| c.request.as_ref() == Some(&request.digest));
        if let Some(known) = known.filter(|c| c.standing == Standing::Issued) {
            return Ok(known.clone());
        }
        if reused {
            return Err(OfficeError::OldKey);
        }
        let recent = |c: &&Issued| c.standing == Standing::Issued && c.issued_unix_ms + DAY > now;
        if holder.certificates.iter().filter(recent).count() >= REQUESTS_A_DAY {
            return Err(OfficeError::TooMany(from.to_owned()));
        }
        let signed = self.signer.sign(&Subject::Device(from.to_owned()), &request.key, now, self.lives.device)?;
        let issued = issued(&signed, Purpose::Device, now, Some(request.digest), None);
        holder.certificates.push(issued.clone());
        locked.save(now)?;
        Ok(issued)
    }

    /// A device says that it is connected with the certificate of this number: what it had before is withdrawn. Whether
    /// that changed the revocation list, which is then written.
    pub fn settle(&self, name: &str, serial: &str, now: Wall) -> Result<bool, OfficeError> {
        if self.is_settled(name, serial)? {
            return Ok(false);
        }
        let mut locked = Locked::open(self.authority.dir())?;
        let withdrawn = locked.registry.withdrawn().count();
        let changed = enrolled(&mut locked.registry, name)?.settle(serial, now);
        let list_changed = locked.registry.withdrawn().count() != withdrawn;
        if list_changed {
            self.write_crl(&mut locked, now)?;
        } else if changed {
            locked.save(now)?;
        }
        if let Some(settled) = self.settled.lock().expect("nobody panics under it").as_mut() {
            settled.insert(name.to_owned(), serial.to_owned());
        }
        Ok(list_changed)
    }

    /// Withdraws all that a device, a consumer or a broker has, and writes the revocation list.
    pub fn revoke(&self, name: &str, now: Wall) -> Result<usize, OfficeError> {
        let mut locked = Locked::open(self.authority.dir())?;
        let Registry { devices, others, .. } = &mut locked.registry;
        let holder = devices.get_mut(name).or_else(|| others.get_mut(name));
        let holder = holder.ok_or_else(|| OfficeError::Unknown(name.to_owned()))?;
        let standing = holder.certificates.iter().filter(|c| !c.is_withdrawn()).count();
        holder.revoke(now);
        self.write_crl(&mut locked, now)?;
        Ok(standing)
    }

    /// Writes the revocation list anew if it is past half of its life, or whenever it is asked for.
    pub fn renew_crl(&self, whenever: bool, now: Wall) -> Result<bool, OfficeError> {
        let mut locked = Locked::open(self.authority.dir())?;
        let there = self.authority.crl_path().exists();
        let due = locked.registry.crl_next_unix_ms.is_none_or(|next| now + self.lives.crl / 2 > next);
        if there && !due && !whenever {
            return Ok(false);
        }
        self.write_crl(&mut locked, now)?;
        Ok(true)
    }

    fn write_crl(&self, locked: &mut Locked, now: Wall) -> Result<(), OfficeError> {
        let registry = &mut locked.registry;
        registry.crl_number += 1;
        let next = now + self.lives.crl;
        registry.crl_next_unix_ms = Some(next);
        // One that has expired is refused without standing on a list; a day more for wrong clocks.
        let listed = registry.withdrawn().filter(|c| c.not_after_unix_ms + DAY > now);
        let pem = self.signer.crl(listed, registry.crl_number, now, next)?;
        // The registry first: a list is made again from it, and not the other way round.
        locked.save(now)?;
        let path = self.authority.crl_path();
        atomic_file::write(&path, pem.as_bytes()).map_err(|source| OfficeError::Write { path, source })
    }
}

fn device(name: &str) -> Result<DeviceTopics, OfficeError> {
    let (site, device) = name.split_once('/').unwrap_or((name, ""));
    Ok(DeviceTopics::new(site, device)?)
}

fn enrolled<'a>(registry: &'a mut Registry, name: &str) -> Result<&'a mut Holder, OfficeError> {
    let holder = registry.devices.get_mut(name).ok_or_else(|| OfficeError::Unknown(name.to_owned()))?;
    match holder.revoked_unix_ms {
        Some(_) => Err(OfficeError::Revoked(name.to_owned())),
        None => Ok(holder),
    }
}

fn issued(signed: &Signed, purpose: Purpose, now: Wall, request: Option<String>, bundle: Option<Uuid>) -> Issued {
    Issued {
        serial: signed.paper.serial.clone(),
        purpose,
        standing: Standing::Issued,
        since_unix_ms: now,
        issued_unix_ms: now,
        not_after_unix_ms: signed.paper.not_after,
        key: signed.paper.key.clone(),
        // Who asked over the broker may have to be told again.
        pem: if request.is_some() { signed.pem.clone() } else { String::new() },
        request,
        bundle,
    }
}
