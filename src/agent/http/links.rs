//! Links to clips and pictures that whoever has one may follow until it expires: the path and the time, signed with a
//! key that only this device has.
//!
//! ```text
//!     /clips/{incident}.mp4?expires={Unix seconds}&sig={HMAC-SHA256 of the path and the time, hexadecimal}
//! ```
//!
//! Invariants: a signature is compared in constant time; the key never leaves its file (mode 0600) and this module.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::{hmac, rand};
use uuid::Uuid;

use crate::base::atomic_file;
use crate::base::clock::Wall;
use crate::contract::result::SignedLink;

/// In the state directory.
const KEY_FILE: &str = "link-key";
const KEY_BYTES: usize = 32;

/// What a link leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// An incident's clip.
    Clip,
    /// The picture of its peak.
    Peak,
}

impl Medium {
    /// Its directory and extension in a link.
    fn form(self) -> (&'static str, &'static str) {
        match self {
            Medium::Clip => ("/clips/", ".mp4"),
            Medium::Peak => ("/peaks/", ".jpg"),
        }
    }

    /// The path of an incident's.
    pub fn path(self, incident: Uuid) -> String {
        let (dir, extension) = self.form();
        format!("{dir}{incident}{extension}")
    }

    /// What a path leads to; none if it is not written as [`Medium::path`] writes it.
    pub fn of(path: &str) -> Option<(Medium, Uuid)> {
        [Medium::Clip, Medium::Peak].into_iter().find_map(|medium| {
            let (dir, extension) = medium.form();
            let incident = path.strip_prefix(dir)?.strip_suffix(extension)?.parse().ok()?;
            (medium.path(incident) == path).then_some((medium, incident))
        })
    }
}

/// Why a link is not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no time or signature, or not this device's.
    #[error("the link is not one that this device made")]
    Forged,
    /// It was good once.
    #[error("the link has expired: ask for a new one")]
    Expired,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file system refused.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is no key.
    #[error("{} is not a key of {KEY_BYTES} bytes: delete it (links made before are then refused)", .0.display())]
    Unfit(PathBuf),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

/// Makes links and knows its own again.
pub struct Links {
    key: hmac::Key,
    /// What stands before the path.
    base: String,
    valid: Duration,
}

impl Links {
    /// With the key of this state directory, made if there is none yet.
    pub fn open(state_dir: &Path, base: impl Into<String>, valid: Duration) -> Result<Links, KeyError> {
        let path = state_dir.join(KEY_FILE);
        let fail = |operation| {
            let path = path.clone();
            move |source| KeyError::Io { operation, path, source }
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut bytes = vec![0; KEY_BYTES];
                rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
                atomic_file::write_private(&path, &bytes).map_err(fail("write"))?;
                bytes
            }
            Err(e) => return Err(fail("read")(e)),
        };
        if bytes.len() != KEY_BYTES {
            return Err(KeyError::Unfit(path));
        }
        Ok(Links { key: hmac::Key::new(hmac::HMAC_SHA256, &bytes), base: base.into(), valid })
    }

    /// A link to what there is of an incident, good from now on.
    pub fn link(&self, medium: Medium, incident: Uuid, now: Wall) -> SignedLink {
        let until = now + self.valid;
        let (path, expires) = (medium.path(incident), until.unix_ms().div_euclid(1000));
        let sig: String =
            hmac::sign(&self.key, &signed(&path, expires)).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        SignedLink { url: format!("{}{path}?expires={expires}&sig={sig}", self.base), expires: until.rfc3339() }
    }

    /// Whether a link with this path, time and signature may be followed now.
    pub fn check(&self, path: &str, expires: &str, sig: &str, now: Wall) -> Result<(), Refused> {
        let expires: i64 = expires.parse().map_err(|_| Refused::Forged)?;
        let sig = unhex(sig).ok_or(Refused::Forged)?;
        // The signature first: of a time that nobody signed there is nothing to tell.
        hmac::verify(&self.key, &signed(path, expires), &sig).map_err(|_| Refused::Forged)?;
        if now.unix_ms().div_euclid(1000) > expires { Err(Refused::Expired) } else { Ok(()) }
    }
}

fn signed(path: &str, expires: i64) -> Vec<u8> {
    format!("{path}\n{expires}").into_bytes()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use proptest::prelude::*;

    fn parts(link: &SignedLink) -> (String, String, String) {
        let (path, query) = link.url["https://d".len()..].split_once('?').unwrap();
        let (expires, sig) = query.split_once('&').unwrap();
        (path.into(), expires["expires=".len()..].into(), sig["sig=".len()..].into())
    }

    #[test]
    fn a_link_is_good_until_it_expires_and_over_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Links::open(dir.path(), "https://d", Duration::from_secs(60)).unwrap();
        let now = Wall::from_unix_ms(1_790_000_000_500);
        let link = open().link(Medium::Clip, Uuid::max(), now);
        let (path, expires, sig) = parts(&link);
        assert_eq!(
            (path.as_str(), expires.as_str()),
            ("/clips/ffffffff-ffff-ffff-ffff-ffffffffffff.mp4", "1790000060")
        );
        let later = |s: u64| open().check(&path, &expires, &sig, now + Duration::from_secs(s));
        assert_eq!((later(0), later(59), later(62)), (Ok(()), Ok(()), Err(Refused::Expired)));
        let mode = std::fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(dir.path().join(KEY_FILE), "short").unwrap();
        assert!(matches!(Links::open(dir.path(), "", Duration::ZERO), Err(KeyError::Unfit(_))));
    }

    #[test]
    fn another_path_another_time_or_another_device_is_forged() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let [ours, theirs] = [&a, &b].map(|d| Links::open(d.path(), "https://d", Duration::from_secs(60)).unwrap());
        let now = Wall::from_unix_ms(1_790_000_000_000);
        let (path, expires, sig) = parts(&ours.link(Medium::Clip, Uuid::nil(), now));
        let other = Medium::Peak.path(Uuid::nil());
        for (path, expires, sig) in [
            (other.as_str(), expires.as_str(), sig.as_str()),
            (&path, "1890000000", &sig),
            (&path, "+1790000060", &sig[..62]),
            (&path, &expires, ""),
            (&path, &expires, &sig[1..]),
            (&path, "", &sig),
            (&path, "soon", "zz"),
        ] {
            assert_eq!(ours.check(path, expires, sig, now), Err(Refused::Forged), "{path} {expires} {sig}");
        }
        assert_eq!(theirs.check(&path, &expires, &sig, now), Err(Refused::Forged));
        assert_eq!(ours.check(&path, &expires, &sig, now), Ok(()));
    }

    proptest! {
        #[test]
        fn no_path_but_its_own_leads_anywhere(path in "(/clips/|/peaks/|/)?[0-9a-f/.%A-F{}-]{0,60}(.mp4|.jpg)?") {
            if let Some((medium, incident)) = Medium::of(&path) {
                prop_assert_eq!(medium.path(incident), path);
            }
        }
    }

    #[test]
    fn a_path_is_written_one_way_only() {
        let id = Uuid::from_u128(0xabc);
        assert_eq!(Medium::of(&Medium::Peak.path(id)), Some((Medium::Peak, id)));
        for path in [
            format!("/clips/{}.mp4", id.simple()),
            format!("/clips/{}.mp4", id.to_string().to_uppercase()),
            format!("/clips/{id}.jpg"),
            "/clips/../vedette.db".into(),
            format!("/clips/{id}/../x.mp4"),
        ] {
            assert_eq!(Medium::of(&path), None, "{path}");
        }
    }
}
