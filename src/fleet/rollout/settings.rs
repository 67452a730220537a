//! How roll-outs reach the broker and where their state is kept: a small TOML file of the fleet manager's machine.
//!
//! ```toml
//! [broker]
//! url = "mqtts://broker.example.net"      # mqtts:// (8883) or mqtt:// (1883; never beyond this machine)
//! ca_file = "/etc/vedette/ca.crt"
//! cert_file = "/etc/vedette/fleet.crt"    # its common name is the broker's user; of two managers each has its own
//! key_file = "/etc/vedette/fleet.key"
//!
//! [state]
//! directory = "/var/lib/vedette-fleet/rollouts"     # or a database, for managers on several machines:
//! # postgres = "host=db.example.net user=vedette dbname=vedette"
//! # ca_file = "/etc/vedette/db-ca.crt"              # TLS; without it only a socket or this machine
//! ```
//!
//! What does not belong here: a roll-out's own plan.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::tls::Files;

/// Where the file is looked for by default.
pub const DEFAULT: &str = "/etc/vedette/fleet-rollout.toml";

/// The file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `[broker]`; only what carries out needs it.
    #[serde(default)]
    pub broker: Option<Broker>,
    /// `[state]`
    pub state: State,
}

/// `[broker]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// `mqtts://host[:port]`
    #[serde(deserialize_with = "url_of")]
    pub url: url::Url,
    /// PEM of the authority that signed the broker's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM of this manager's certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM of its key.
    pub key_file: Option<PathBuf>,
    /// For brokers that know users by passwords.
    pub user: Option<String>,
    /// The password is its first line.
    pub password_file: Option<PathBuf>,
}

impl Broker {
    /// Its TLS files.
    pub fn files(&self) -> Files<'_> {
        Files { ca: self.ca_file.as_deref(), cert: self.cert_file.as_deref(), key: self.key_file.as_deref() }
    }
}

/// `[state]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// A directory of this machine.
    pub directory: Option<PathBuf>,
    /// Or a database: a connection string of libpq's form, or `postgres://...`.
    pub postgres: Option<String>,
    /// PEM of the authority that signed the database's certificate.
    pub ca_file: Option<PathBuf>,
    /// PEM of this manager's certificate towards the database.
    pub cert_file: Option<PathBuf>,
    /// PEM of its key.
    pub key_file: Option<PathBuf>,
}

impl State {
    /// Its TLS files.
    pub fn files(&self) -> Files<'_> {
        Files { ca: self.ca_file.as_deref(), cert: self.cert_file.as_deref(), key: self.key_file.as_deref() }
    }
}

fn url_of<'de, D: Deserializer<'de>>(from: D) -> Result<url::Url, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map_err(|e| D::Error::custom(format!("{text:?} is no URL: {e}")))
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No file.
    #[error("could not read {}: it names the broker and where state is kept (deploy/fleet/rollout.md)", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not what it should be.
    #[error("{} is not as it should be", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// Contradictory.
    #[error("{}: {why}", path.display())]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What, with the remedy.
        why: &'static str,
    },
}

/// Reads and checks the file.
pub fn load(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    let settings: Settings = toml::from_str(&text)
        .map_err(|source| SettingsError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    match wrong(&settings) {
        Some(why) => Err(SettingsError::Wrong { path: path.to_owned(), why }),
        None => Ok(settings),
    }
}

fn wrong(settings: &Settings) -> Option<&'static str> {
    let state = &settings.state;
    if state.directory.is_some() == state.postgres.is_some() {
        return Some("[state] names either a directory or postgres");
    }
    if state.cert_file.is_some() != state.key_file.is_some() {
        return Some("[state] cert_file and key_file go together");
    }
    let broker = settings.broker.as_ref()?;
    if broker.cert_file.is_some() != broker.key_file.is_some() {
        return Some("[broker] cert_file and key_file go together");
    }
    if broker.user.is_some() != broker.password_file.is_some() {
        return Some("[broker] user and password_file go together");
    }
    let here = matches!(broker.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    match broker.url.scheme() {
        "mqtts" if broker.ca_file.is_none() => Some("[broker] mqtts:// needs ca_file, by which the broker is known"),
        "mqtts" => None,
        "mqtt" if here => None,
        "mqtt" => Some("[broker] mqtt:// is not encrypted, and only for this machine: use mqtts://"),
        _ => Some("[broker] url is mqtts://host or, for this machine, mqtt://localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Settings, SettingsError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("fleet.toml");
        std::fs::write(&path, text).expect("writable");
        load(&path)
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_remedy() {
        of("[state]\ndirectory = \"/x\"").expect("no broker is needed to look");
        let broker = |b: &str| of(&format!("[state]\ndirectory = \"/x\"\n[broker]\n{b}"));
        broker("url = \"mqtt://127.0.0.1:1884\"").expect("a trial");
        broker("url = \"mqtts://b\"\nca_file = \"ca\"\ncert_file = \"c\"\nkey_file = \"k\"").expect("as it should be");
        for (text, why) in [
            ("url = \"mqtt://b\"", "mqtts://"),
            ("url = \"mqtts://b\"", "ca_file"),
            ("url = \"https://b\"", "mqtts://host"),
            ("url = \"mqtts://b\"\nca_file = \"ca\"\ncert_file = \"c\"", "key_file"),
            ("url = \"mqtts://b\"\nca_file = \"ca\"\nuser = \"c\"", "password_file"),
        ] {
            let e = broker(text).expect_err(text).to_string();
            assert!(e.contains(why), "{e}");
        }
        assert!(of("[state]").expect_err("no state").to_string().contains("either"));
        assert!(of("[state]\ndirectory = \"/x\"\nwhere = 1").is_err());
    }
}
