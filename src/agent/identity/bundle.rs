//! What `vedette-fleet enrol` gives out for one device: everything that it needs to be itself, in one document.
//!
//! A **bundle** is JSON behind a passphrase (age, scrypt; `age -d` reads it too) and brings a key that lives a few days: the
//! device makes its own and asks for that one's certificate as soon as it is connected. An **answer** is the same without a
//! key, for one that was made on the device; nothing in it is secret, and it is plain JSON.
//!
//! What does not belong here: what a device does with it (`provision`).
//!
//! Invariants: no archive, no paths: fields with names, each of bounded size; unknown fields are refused, because a device
//! that is older than the bundle must not do half of what was meant. The key shows in no message.

use age::secrecy::{ExposeSecret, SecretString, zeroize::Zeroizing};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::key::PrivateKey;
use super::papers::{self, Paper};
use crate::base::clock::Wall;
use crate::contract::topics::{DeviceTopics, TopicError};

/// Version of the document.
pub const VERSION: u32 = 1;
/// Larger than any bundle.
pub const LARGEST_BYTES: usize = 1 << 20;
/// Largest root metadata and configuration.
const LARGEST_TEXT_BYTES: usize = 256 * 1024;
/// scrypt's cost, as a power of two: 64 MiB and a moment, also on a small Jetson.
const WORK: u8 = 16;
/// What a device lets itself be asked for: 256 MiB.
const MOST_WORK: u8 = 18;
const BROKERS_MOST: usize = 8;
const GROUPS_MOST: usize = 64;

/// Why a bundle is not taken, or was not made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is larger than any.
    #[error("that is no provisioning bundle: it has more than {LARGEST_BYTES} bytes")]
    TooLarge,
    /// It is not one.
    #[error("that is no provisioning bundle ({0}); vedette-fleet enrol device makes one")]
    Malformed(String),
    /// Made by a later program.
    #[error("the bundle is of version {0}, and this program knows {VERSION}: install a newer one")]
    Version(u32),
    /// It does not open.
    #[error("the passphrase is not this bundle's, or the bundle is damaged; nothing was changed")]
    Passphrase,
    /// It says of itself what cannot be.
    #[error("the bundle cannot be used: {0}")]
    Unfit(String),
    /// It is too late.
    #[error(
        "the bundle expired {expired}, and by this device's clock it is {now}: have a new one made, or set the clock"
    )]
    Expired {
        /// When.
        expired: String,
        /// And what the clock shows.
        now: String,
    },
    /// It could not be encrypted.
    #[error("the bundle could not be encrypted: {0}")]
    Seal(String),
}

impl From<TopicError> for BundleError {
    fn from(e: TopicError) -> Self {
        BundleError::Unfit(e.to_string())
    }
}

/// What a device needs to be itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// [`VERSION`].
    pub vedette_bundle: u32,
    /// Its own; no device takes the same twice.
    pub id: Uuid,
    /// Where the device stands.
    pub site: String,
    /// The device.
    pub device: String,
    /// Groups that the fleet counts it among.
    #[serde(default)]
    pub groups: Vec<String>,
    /// It is taken until then.
    pub expires_unix_ms: Wall,
    /// Where its broker is, one or several.
    pub brokers: Vec<String>,
    /// The authorities that may have signed the broker's certificate.
    pub broker_ca_pem: String,
    /// The authority that signs the device's certificates.
    pub fleet_ca_pem: String,
    /// The device's certificate, and what leads from it to the authority.
    pub certificate_pem: String,
    /// Its key; none in an answer.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "expose", deserialize_with = "conceal")]
    pub private_key_pem: Option<SecretString>,
    /// Where models come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The repository's root metadata, as a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_json: Option<String>,
    /// Further sections of the configuration (TOML), for a device that has none yet: its cameras, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_toml: Option<String>,
}

fn expose<S: Serializer>(key: &Option<SecretString>, s: S) -> Result<S::Ok, S::Error> {
    key.as_ref().map(ExposeSecret::expose_secret).serialize(s)
}

fn conceal<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SecretString>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.map(SecretString::from))
}

impl Bundle {
    /// The broker's name for the device, and its certificate's.
    pub fn name(&self) -> String {
        format!("{}/{}", self.site, self.device)
    }

    /// Encrypts it.
    pub fn seal(&self, passphrase: SecretString) -> Result<Vec<u8>, BundleError> {
        let json = Zeroizing::new(self.json().into_bytes());
        let mut recipient = age::scrypt::Recipient::new(passphrase);
        recipient.set_work_factor(WORK);
        age::encrypt(&recipient, &json).map_err(|e| BundleError::Seal(e.to_string()))
    }

    /// As text; an answer is handed over like this.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts and numbers")
    }

    /// Opens a bundle.
    pub fn open(sealed: &[u8], passphrase: SecretString) -> Result<Bundle, BundleError> {
        if sealed.len() > LARGEST_BYTES {
            return Err(BundleError::TooLarge);
        }
        let mut identity = age::scrypt::Identity::new(passphrase);
        identity.set_max_work_factor(MOST_WORK);
        let json = Zeroizing::new(age::decrypt(&identity, sealed).map_err(|e| match e {
            age::DecryptError::DecryptionFailed
            | age::DecryptError::KeyDecryptionFailed
            | age::DecryptError::InvalidMac => BundleError::Passphrase,
            age::DecryptError::NoMatchingKeys => BundleError::Malformed("it is not encrypted with a passphrase".into()),
            e => BundleError::Malformed(e.to_string()),
        })?);
        Bundle::parse(&json)
    }

    /// Reads an answer, or what was in a bundle.
    pub fn parse(json: &[u8]) -> Result<Bundle, BundleError> {
        #[derive(Deserialize)]
        struct Version {
            vedette_bundle: u32,
        }
        if json.len() > LARGEST_BYTES {
            return Err(BundleError::TooLarge);
        }
        // The parser's own words may quote what it reads; where it stands is all that is told.
        let no = |e: serde_json::Error| {
            let what = e.to_string();
            let what = if what.starts_with("unknown field") || what.starts_with("missing field") {
                what
            } else {
                format!("line {}, column {} is not as it should be", e.line(), e.column())
            };
            BundleError::Malformed(what)
        };
        let Version { vedette_bundle } = serde_json::from_slice(json).map_err(no)?;
        if vedette_bundle != VERSION {
            return Err(BundleError::Version(vedette_bundle));
        }
        serde_json::from_slice(json).map_err(no)
    }

    /// Whether it holds together, and holds now; `key` is the device's where the bundle brings none.
    pub fn check(&self, key: Option<&PrivateKey>, now: Wall) -> Result<Paper, BundleError> {
        let unfit = |what: &dyn std::fmt::Display| BundleError::Unfit(what.to_string());
        DeviceTopics::new(&self.site, &self.device)?;
        if now >= self.expires_unix_ms {
            let (expired, now) = (self.expires_unix_ms.rfc3339(), now.rfc3339());
            return Err(BundleError::Expired { expired, now });
        }
        if self.brokers.is_empty() || self.brokers.len() > BROKERS_MOST || self.groups.len() > GROUPS_MOST {
            return Err(unfit(&"it names no broker, or more brokers or groups than there may be"));
        }
        if self.repository.is_some() != self.root_json.is_some() {
            return Err(unfit(&"a repository needs its root metadata, and the other way round"));
        }
        let texts = [&self.root_json, &self.config_toml];
        if texts.into_iter().flatten().any(|text| text.len() > LARGEST_TEXT_BYTES) {
            return Err(unfit(&format_args!("a text in it has more than {LARGEST_TEXT_BYTES} bytes")));
        }
        let paper =
            papers::holds(&self.certificate_pem, &self.name(), &self.fleet_ca_pem, now).map_err(|e| unfit(&e))?;
        Paper::read(&self.broker_ca_pem).map_err(|e| unfit(&format_args!("the broker's authority: {e}")))?;
        let own = self.private_key_pem.clone().map(PrivateKey::read).transpose().map_err(|e| unfit(&e))?;
        let digest = own.as_ref().or(key).map(PrivateKey::digest).transpose().map_err(|e| unfit(&e))?;
        if digest.as_ref() != Some(&paper.key) {
            return Err(unfit(&"its certificate is for another key than the one that is here"));
        }
        Ok(paper)
    }
}
