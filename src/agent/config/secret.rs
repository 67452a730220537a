//! Secrets live in files of their own, which nobody but their owner may read.
//!
//! Those of `[mqtt]` are renewed while the daemon runs: the configuration keeps their paths, here they are judged once,
//! so that `check` says what is wrong, and read again for each connection, by the same rules.
//!
//! A path that begins with `$CREDENTIALS_DIRECTORY/` is a systemd credential (`LoadCredential=` in a drop-in of the
//! unit). systemd makes that directory for the daemon when it starts it, and nobody else sees it: where a command runs by
//! itself, such a file of `[mqtt]` is not judged.
//!
//! Invariant: what such a file holds goes into [`Credentials`] or [`SecretPem`] and into no message; nor does a
//! value that looks as if the secret itself had been written where its file's path belongs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files;
use super::kind::{Fault, Kind};
use super::{ClientFiles, Credentials, Mqtt, MqttTls, SecretPem};

/// More than any credentials file or chain of certificates holds.
const LARGEST_BYTES: u64 = 1 << 20;

/// Why a file that the configuration names cannot be used now.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", remedy.as_ref().map_or(String::new(), |r| format!(": {r}")))]
pub struct SecretError {
    what: String,
    remedy: Option<String>,
}

impl From<Fault> for SecretError {
    fn from(Fault { message, remedy }: Fault) -> Self {
        SecretError { what: message, remedy }
    }
}

/// What the files of a [`MqttTls`] hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPem {
    /// The authorities.
    pub ca: Vec<u8>,
    /// Certificate and key.
    pub client: Option<(Vec<u8>, SecretPem)>,
}

impl MqttTls {
    /// Reads the files as they are now.
    pub fn read(&self) -> Result<TlsPem, SecretError> {
        let client = self.client.as_ref().map(ClientFiles::read).transpose()?;
        Ok(TlsPem { ca: read_certificates(&self.ca_file)?, client })
    }
}

impl ClientFiles {
    /// Reads the files as they are now.
    pub fn read(&self) -> Result<(Vec<u8>, SecretPem), SecretError> {
        Ok((read_certificates(&self.cert)?, read_private_key(&self.key)?))
    }
}

impl Mqtt {
    /// Reads user and password as they are now.
    pub fn credentials(&self) -> Result<Option<Credentials>, SecretError> {
        Ok(self.credentials_file.as_deref().map(read_credentials).transpose()?)
    }

    /// The files that a connection is made with.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let tls = self.tls.iter().flat_map(|t| {
            let client = t.client.iter().flat_map(|c| [&c.cert, &c.key]);
            std::iter::once(&t.ca_file).chain(client)
        });
        tls.chain(&self.credentials_file).map(PathBuf::as_path)
    }
}

/// Two lines, user and password.
pub(super) fn credentials(base_dir: &Path) -> Kind<'_, Credentials> {
    Kind::of_text(CREDENTIALS, |text| read_credentials(&path_of(base_dir, text)?))
}

/// A file of [`credentials`].
pub(super) fn credentials_file(base_dir: &Path) -> Kind<'_, PathBuf> {
    judged(CREDENTIALS, base_dir, read_credentials)
}

const CREDENTIALS: &str = "the path of a file with two lines, user and password, that only its owner may read";

/// The path of a file that can be read as it should.
fn judged<'a, T: 'a>(
    allowed: &str,
    base_dir: &'a Path,
    read: impl Fn(&Path) -> Result<T, Fault> + 'a,
) -> Kind<'a, PathBuf> {
    Kind::of_text(allowed, move |text| {
        let path = path_of(base_dir, text)?;
        let not_ours_to_see = is_credential(text) && credentials_directory().is_none();
        if !not_ours_to_see {
            read(&path)?;
        }
        Ok(path)
    })
}

fn read_credentials(path: &Path) -> Result<Credentials, Fault> {
    let bytes = private(path)?;
    two_lines(&bytes).map_err(|what| {
        Fault::with_remedy(
            format!("{} {what}", path.display()),
            "write the user on its first line and the password on its second",
        )
    })
}

fn two_lines(bytes: &[u8]) -> Result<Credentials, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not text in UTF-8")?;
    let mut lines = text.lines();
    let (Some(user), Some(password)) = (lines.next(), lines.next()) else {
        return Err("has fewer than two lines");
    };
    if lines.any(|line| !line.is_empty()) {
        return Err("has more than two lines");
    }
    if user.is_empty() {
        return Err("has an empty first line");
    }
    if text.contains(|c: char| c.is_control() && c != '\n' && c != '\r') {
        return Err("has control characters");
    }
    Ok(Credentials { user: user.to_string(), password: password.to_string() })
}

/// A file of certificates in PEM; no secret.
pub(super) fn certificates(base_dir: &Path) -> Kind<'_, PathBuf> {
    judged(CERTIFICATES, base_dir, read_certificates)
}

/// What such a file holds, where it is read once.
pub(super) fn certificates_pem(base_dir: &Path) -> Kind<'_, Vec<u8>> {
    Kind::of_text(CERTIFICATES, |text| read_certificates(&path_of(base_dir, text)?))
}

const CERTIFICATES: &str = "the path of a PEM file with certificates";

fn read_certificates(path: &Path) -> Result<Vec<u8>, Fault> {
    let bytes =
        files::open(path).and_then(read).map_err(|e| Fault::new(format!("{}: {}", path.display(), files::why(&e))))?;
    match contains(&bytes, "-----BEGIN CERTIFICATE-----") {
        true => Ok(bytes),
        false => Err(Fault::new(format!("{} holds no certificate in PEM", path.display()))),
    }
}

/// A file with a private key in PEM.
pub(super) fn private_key(base_dir: &Path) -> Kind<'_, PathBuf> {
    judged(PRIVATE_KEY, base_dir, read_private_key)
}

/// What such a file holds, where it is read once.
pub(super) fn private_key_pem(base_dir: &Path) -> Kind<'_, SecretPem> {
    Kind::of_text(PRIVATE_KEY, |text| read_private_key(&path_of(base_dir, text)?))
}

const PRIVATE_KEY: &str = "the path of a PEM file with a private key, not encrypted, that only its owner may read";

fn read_private_key(path: &Path) -> Result<SecretPem, Fault> {
    let bytes = private(path)?;
    if contains(&bytes, "ENCRYPTED") {
        return Err(Fault::with_remedy(
            format!("{} is an encrypted key, and nobody is there to type its passphrase", path.display()),
            "store the key decrypted, readable by its owner only",
        ));
    }
    match contains(&bytes, "PRIVATE KEY-----") {
        true => Ok(SecretPem(bytes)),
        false => Err(Fault::new(format!("{} holds no private key in PEM", path.display()))),
    }
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|w| w == what.as_bytes())
}

/// The path, unless the text is more likely to be the secret itself.
fn path_of(base_dir: &Path, text: &str) -> Result<PathBuf, Fault> {
    if text.contains([':', '@', '\n', '\r']) || text.starts_with("-----") {
        return Err(Fault::with_remedy(
            "looks like the secret itself, not like the path of a file",
            "store it in a file that only its owner may read and write that file's path here",
        ));
    }
    match text.strip_prefix(CREDENTIALS_DIRECTORY) {
        Some(name) => files::resolve(&credentials_directory().unwrap_or_else(|| UNDER_SYSTEMD.into()), name),
        None => files::resolve(base_dir, text),
    }
}

const CREDENTIALS_DIRECTORY: &str = "$CREDENTIALS_DIRECTORY/";
/// Where systemd keeps them, for messages of commands that run by themselves.
const UNDER_SYSTEMD: &str = "/run/credentials/vedette.service";

fn is_credential(text: &str) -> bool {
    text.starts_with(CREDENTIALS_DIRECTORY)
}

/// Set by systemd for the processes of the unit.
fn credentials_directory() -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|dir: &OsString| !dir.is_empty()).map(PathBuf::from)
}

/// The content of a file that its owner alone may read.
fn private(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |e: io::Error| Fault::new(format!("{}: {}", path.display(), files::why(&e)));
    let file = files::open(path).map_err(unreadable)?;
    // Of the file that is open, not of what may stand at its path by then.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o7777;
    // systemd lets the daemon's user read a credential by an entry in its access list, which shows among the mode's bits as
    // if a group might; who gets into the directory is seen to by the directory.
    let kept_by_systemd = credentials_directory().is_some_and(|dir| path.starts_with(dir));
    if mode & 0o077 != 0 && !(kept_by_systemd && mode & 0o037 == 0) {
        return Err(Fault::with_remedy(
            format!("{} is open to others than its owner (mode {mode:04o})", path.display()),
            format!("run chmod 600 {}, and change the secret if others may have read it", path.display()),
        ));
    }
    read(file).map_err(unreadable)
}

fn read(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LARGEST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST_BYTES {
        return Err(io::Error::other("is larger than 1 MiB"));
    }
    Ok(bytes)
}
