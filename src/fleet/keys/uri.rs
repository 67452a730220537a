//! `pkcs11:` URIs (RFC 7512), as far as they name a key: token, object, id, serial, slot-id, module-path.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Why a URI names no key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UriError {
    /// It is none.
    #[error("{text:?} is no PKCS#11 URI; one looks like pkcs11:token=NAME;object=LABEL?module-path=/usr/lib/libX.so")]
    Syntax {
        /// What was found.
        text: String,
    },
    /// It says what this program does not know.
    #[error(
        "a PKCS#11 URI with {name}: this program looks at token, object, id, serial, slot-id, type and module-path"
    )]
    Unknown {
        /// The attribute.
        name: String,
    },
    /// It has a PIN in it.
    #[error(
        "a PKCS#11 URI with a PIN in it can be read by every user of the machine: leave it out, and see --passphrase-file"
    )]
    Pin,
    /// It names no module.
    #[error("the PKCS#11 URI names no module: add ?module-path=/usr/lib/.../libX.so")]
    NoModule,
    /// It names no key.
    #[error("the PKCS#11 URI names no key: add object=LABEL or id=%01")]
    NoKey,
}

/// A key in a PKCS#11 module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uri {
    /// The shared library.
    pub module: PathBuf,
    /// Label of the token; none: the only one.
    pub token: Option<String>,
    /// Serial number of the token.
    pub serial: Option<String>,
    /// Slot.
    pub slot: Option<u64>,
    /// Label of the key.
    pub object: Option<String>,
    /// CKA_ID of the key.
    pub id: Option<Vec<u8>>,
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let syntax = || UriError::Syntax { text: text.to_owned() };
        let rest = text.strip_prefix("pkcs11:").ok_or_else(syntax)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Uri::default();
        for part in path.split(';').chain(query.split('&')).filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(syntax)?;
            // Before anything of it is decoded, and so could be shown.
            if name.starts_with("pin") {
                return Err(UriError::Pin);
            }
            let bytes = decode(value).ok_or_else(syntax)?;
            let string = || String::from_utf8(bytes.clone()).map_err(|_| syntax());
            match name {
                "token" => uri.token = Some(string()?),
                "serial" => uri.serial = Some(string()?),
                "slot-id" => uri.slot = Some(string()?.parse().map_err(|_| syntax())?),
                "object" => uri.object = Some(string()?),
                "id" => uri.id = Some(bytes),
                "module-path" => uri.module = string()?.into(),
                "type" if matches!(value, "private" | "public") => {}
                _ => return Err(UriError::Unknown { name: name.to_owned() }),
            }
        }
        if uri.module.as_os_str().is_empty() {
            return Err(UriError::NoModule);
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err(UriError::NoKey);
        }
        Ok(uri)
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut text = |name: &str, value: &Option<String>| {
            if let Some(value) = value {
                parts.push(format!("{name}={}", encode(value.as_bytes())));
            }
        };
        text("token", &self.token);
        text("serial", &self.serial);
        text("object", &self.object);
        if let Some(slot) = self.slot {
            parts.push(format!("slot-id={slot}"));
        }
        if let Some(id) = &self.id {
            parts.push(format!("id={}", id.iter().map(|b| format!("%{b:02X}")).collect::<String>()));
        }
        write!(f, "pkcs11:{}?module-path={}", parts.join(";"), self.module.display())
    }
}

fn encode(bytes: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    bytes.iter().map(|b| if plain(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_key_and_comes_back() {
        let text = "pkcs11:token=fleet%20keys;object=targets;id=%01%fF?module-path=/usr/lib/softhsm/libsofthsm2.so";
        let uri: Uri = text.parse().expect("a URI");
        assert_eq!(uri.token.as_deref(), Some("fleet keys"));
        assert_eq!(uri.id, Some(vec![1, 255]));
        assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
    }

    #[test]
    fn what_names_no_key_is_refused_and_a_pin_is_not_repeated() {
        let refused = |text: &str| text.parse::<Uri>().expect_err(text);
        assert_eq!(refused("pkcs11:object=a"), UriError::NoModule);
        assert_eq!(refused("pkcs11:token=a?module-path=/m.so"), UriError::NoKey);
        assert_eq!(refused("pkcs11:object=a?module-path=/m.so&pin-value=1234"), UriError::Pin);
        assert!(!refused("pkcs11:object=a?pin-value=1234").to_string().contains("1234"));
        assert!(matches!(refused("pkcs11:object"), UriError::Syntax { .. }));
        assert!(matches!(refused("pkcs11:object=%g1"), UriError::Syntax { .. }));
        assert!(matches!(refused("pkcs11:library-version=3"), UriError::Unknown { .. }));
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            // Whatever it is, it is an answer.
            let _answer = format!("pkcs11:{text}").parse::<Uri>();
        }
    }
}
