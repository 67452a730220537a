//! Keys in a PKCS#11 module (a smart card, an HSM, SoftHSM): they sign there and never leave it. ECDSA on P-256, and
//! Ed25519 where the module has it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use age::secrecy::{ExposeSecret, SecretString};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use sha2::{Digest, Sha256};
use tough::schema::key::Key;

use super::uri::Uri;
use super::{public_ed25519, public_p256};

/// Why a key in a module cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The module cannot be loaded.
    #[error("the PKCS#11 module {} cannot be loaded: is it there, and is it for this machine?", module.display())]
    Module {
        /// Which.
        module: PathBuf,
        /// Why.
        source: Error,
    },
    /// It has no such token, or several.
    #[error("{found} tokens of {} are what {uri} says; one is needed: name it by token=, serial= or slot-id=", module.display())]
    Tokens {
        /// The module.
        module: PathBuf,
        /// How many were found.
        found: usize,
        /// What was looked for.
        uri: String,
    },
    /// The PIN is wrong.
    #[error("the PIN is not that of the token of {uri}; after a few wrong ones a token locks itself")]
    Pin {
        /// The key.
        uri: String,
    },
    /// It has no such key, or several.
    #[error("{found} {class} keys in the token are what {uri} says; one is needed")]
    Keys {
        /// How many were found.
        found: usize,
        /// "private" or "public".
        class: &'static str,
        /// What was looked for.
        uri: String,
    },
    /// It is a key of another kind.
    #[error("the key {uri} is neither on P-256 nor Ed25519: no device could verify it")]
    Kind {
        /// The key.
        uri: String,
    },
    /// The module failed.
    #[error("the PKCS#11 module could not {operation} ({uri})")]
    Failed {
        /// What it should have done.
        operation: &'static str,
        /// The key.
        uri: String,
        /// Why.
        source: Error,
    },
}

/// A key in a module, and the session in which it is used.
pub struct TokenKey {
    uri: String,
    // A session is used by one thread at a time.
    session: Mutex<Session>,
    private: ObjectHandle,
    public: Key,
}

/// A module is initialised once in a process, whatever number of keys it has.
fn module(path: &Path) -> Result<Pkcs11, Error> {
    static LOADED: OnceLock<Mutex<HashMap<PathBuf, Pkcs11>>> = OnceLock::new();
    let mut loaded = LOADED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.get(path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(path)?;
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    loaded.insert(path.to_owned(), module.clone());
    Ok(module)
}

impl TokenKey {
    /// Logs in and finds the key and its public half.
    pub fn open(uri: &Uri, pin: &SecretString) -> Result<TokenKey, TokenError> {
        let said = uri.to_string();
        let failed = |operation| {
            let uri = said.clone();
            move |source| TokenError::Failed { operation, uri, source }
        };
        let no_module = |source| TokenError::Module { module: uri.module.clone(), source };
        let module = module(&uri.module).map_err(no_module)?;
        let mut slots = Vec::new();
        for slot in module.get_slots_with_initialized_token().map_err(failed("list its tokens"))? {
            let token = module.get_token_info(slot).map_err(failed("describe a token"))?;
            let is =
                |wish: &Option<String>, found: &str| wish.as_ref().is_none_or(|w| w.trim_end() == found.trim_end());
            if is(&uri.token, token.label())
                && is(&uri.serial, token.serial_number())
                && uri.slot.is_none_or(|s| s == slot.id())
            {
                slots.push(slot);
            }
        }
        let [slot] = slots[..] else {
            return Err(TokenError::Tokens { module: uri.module.clone(), found: slots.len(), uri: said });
        };
        let session = module.open_ro_session(slot).map_err(failed("open a session"))?;
        match session.login(UserType::User, Some(&AuthPin::new(pin.expose_secret().into()))) {
            // Another key of the same token has logged in.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                return Err(TokenError::Pin { uri: said });
            }
            Err(source) => return Err(failed("log in")(source)),
        }
        let private = find(&session, uri, ObjectClass::PRIVATE_KEY, "private")?;
        let public = find(&session, uri, ObjectClass::PUBLIC_KEY, "public")?;
        let wanted = [AttributeType::KeyType, AttributeType::EcPoint];
        let attributes = session.get_attributes(public, &wanted).map_err(failed("read the public key"))?;
        let public = public_of(&attributes).ok_or(TokenError::Kind { uri: said.clone() })?;
        Ok(TokenKey { uri: said, session: Mutex::new(session), private, public })
    }

    /// Its public half.
    pub fn public(&self) -> &Key {
        &self.public
    }

    /// Signs `message` in the module.
    pub fn sign_bytes(&self, message: &[u8]) -> Result<Vec<u8>, TokenError> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = match self.public {
            Key::Ed25519 { .. } => {
                let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
                session.sign(&mechanism, self.private, message)
            }
            // CKM_ECDSA_SHA256 is not in every module; every module signs a digest.
            _ => session.sign(&Mechanism::Ecdsa, self.private, &Sha256::digest(message)).map(|raw| der(&raw)),
        };
        signed.map_err(|source| TokenError::Failed { operation: "sign", uri: self.uri.clone(), source })
    }
}

fn find(session: &Session, uri: &Uri, class: ObjectClass, said: &'static str) -> Result<ObjectHandle, TokenError> {
    let mut template = vec![Attribute::Class(class)];
    template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
    let failed = |source| TokenError::Failed { operation: "look for the key", uri: uri.to_string(), source };
    let found = session.find_objects(&template).map_err(failed)?;
    match found[..] {
        [one] => Ok(one),
        _ => Err(TokenError::Keys { found: found.len(), class: said, uri: uri.to_string() }),
    }
}

fn public_of(attributes: &[Attribute]) -> Option<Key> {
    let kind = attributes.iter().find_map(|a| if let Attribute::KeyType(k) = a { Some(*k) } else { None })?;
    let point = attributes.iter().find_map(|a| if let Attribute::EcPoint(p) = a { Some(&p[..]) } else { None })?;
    // PKCS#11 wants an OCTET STRING around it; some modules leave it out.
    let bare = match point {
        [0x04, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
        other => other,
    };
    match (kind, bare) {
        (KeyType::EC_EDWARDS, bare) if bare.len() == 32 => Some(public_ed25519(bare)),
        (KeyType::EC, [0x04, rest @ ..]) if rest.len() == 64 => Some(public_p256(bare)),
        _ => None,
    }
}

/// PKCS#11 gives r and s one after the other; TUF wants an ASN.1 sequence of two integers.
fn der(raw: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1));
        let bytes = &bytes[first..];
        let sign = bytes.first().is_some_and(|b| b & 0x80 != 0);
        let mut out = vec![0x02, (bytes.len() + usize::from(sign)) as u8];
        out.extend(sign.then_some(0));
        out.extend(bytes);
        out
    };
    let (r, s) = raw.split_at(raw.len() / 2);
    let both = [integer(r), integer(s)].concat();
    [&[0x30, both.len() as u8][..], &both].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_become_a_sequence_of_integers() {
        assert_eq!(der(&[0, 1, 0x80, 2]), [0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 2]);
        assert_eq!(der(&[0, 0, 0, 0]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    }
}
