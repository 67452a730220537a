//! How a key is named: the path of a file, or a `pkcs11:` URI.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tough::schema::key::Key;

use super::file::{self, Content, FileError};
use super::secret::{SecretError, Secrets};
use super::token::{self, TokenError};
use super::uri::{Uri, UriError};
use super::{SigningKey, hex};

/// A key as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySpec {
    /// A file.
    File(PathBuf),
    /// An object in a PKCS#11 module.
    Token(Uri),
}

impl FromStr for KeySpec {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.starts_with("pkcs11:") { Ok(KeySpec::Token(text.parse()?)) } else { Ok(KeySpec::File(text.into())) }
    }
}

impl fmt::Display for KeySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySpec::File(path) => write!(f, "{}", path.display()),
            KeySpec::Token(uri) => write!(f, "{uri}"),
        }
    }
}

/// Why a key could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its passphrase or PIN.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its PKCS#11 module.
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// Opens keys to sign with, in their order.
pub fn open_all(specs: &[KeySpec], secrets: &Secrets) -> Result<Vec<SigningKey>, OpenError> {
    secrets.check_count(specs.len())?;
    specs.iter().enumerate().map(|(index, spec)| open(spec, index, secrets)).collect()
}

fn open(spec: &KeySpec, index: usize, secrets: &Secrets) -> Result<SigningKey, OpenError> {
    match spec {
        KeySpec::File(path) => match file::read(path)? {
            Content::Public(_) => Err(FileError::OnlyPublic { path: path.clone() }.into()),
            // The passphrase is asked for only of a file that can be a key.
            content => Ok(file::open(path, content, &secrets.of(index, &spec.to_string())?)?),
        },
        KeySpec::Token(uri) => {
            let pin = secrets.of(index, &format!("the token of {uri} (PIN)"))?;
            Ok(SigningKey::Token(Box::new(token::TokenKey::open(uri, &pin)?)))
        }
    }
}

/// The public half of a key: from a public key file, the `.pub` beside a private one, or the module. A passphrase is asked
/// for only where there is no other way.
pub fn public(spec: &KeySpec, index: usize, secrets: &Secrets) -> Result<Key, OpenError> {
    if let KeySpec::File(path) = spec {
        match file::read(path)? {
            Content::Public(key) => return Ok(key),
            Content::Encrypted(_) => {
                if let Ok(Content::Public(key)) = file::read(&file::public_path(path)) {
                    return Ok(key);
                }
            }
        }
    }
    Ok(open(spec, index, secrets)?.public())
}

/// A key id as people type it: the first 8 or more of its digits are enough.
pub fn matches_id(id: &[u8], typed: &str) -> bool {
    typed.len() >= 8 && hex(id).starts_with(&typed.to_ascii_lowercase())
}
