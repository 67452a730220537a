//! The releases that targets metadata list. Pure.
//!
//! The metadata remember what they no longer list: the highest number that was ever given, and the highest version of each
//! model (`x-vedette`, signed with the rest). So a number is never given twice, whoever removed what.

use std::collections::{BTreeMap, HashMap};

use semver::Version;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tough::TargetName;
use tough::schema::{Hashes, Target, Targets};

use super::layout;
use crate::contract::update::{CUSTOM, ReleaseFacts};
use crate::fleet::keys::hex;

const MEMORY: &str = "x-vedette";
/// Characters of a reason.
const LONGEST_REASON: usize = 500;

/// A release, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Release {
    /// What is said of it.
    #[serde(flatten)]
    pub facts: ReleaseFacts,
    /// Name of its target.
    pub target: String,
    /// SHA-256 of its manifest, in hexadecimal: the model's digest.
    pub digest: String,
    /// Size of its manifest.
    pub manifest_bytes: u64,
}

/// Why a release is not listed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ListingError {
    /// Its name and version are taken by another model.
    #[error(
        "{model} {version} is release {release} already, with other content (manifest {digest}): give the changed model \
         another version"
    )]
    OtherContent {
        /// Name.
        model: String,
        /// Version.
        version: String,
        /// The number.
        release: u64,
        /// Of the manifest that is listed.
        digest: String,
    },
    /// It is listed.
    #[error("{model} {version} is release {release} already; to have devices go back to it: --downgrade REASON")]
    Listed {
        /// Name.
        model: String,
        /// Version.
        version: String,
        /// The number.
        release: u64,
    },
    /// It goes back.
    #[error(
        "{model} {version} is older than {newest}, which was released: devices take no older version. In an emergency: \
         --downgrade REASON"
    )]
    Older {
        /// Name.
        model: String,
        /// Version.
        version: String,
        /// The highest that was released.
        newest: String,
    },
    /// It does not go back.
    #[error("{model} {version} is no downgrade: no later version of it was released; leave out --downgrade")]
    NoDowngrade {
        /// Name.
        model: String,
        /// Version.
        version: String,
    },
    /// Its version cannot be a name.
    #[error(
        "the version {version} has build metadata (+...): versions that differ in nothing else count as equal; leave it out"
    )]
    BuildMetadata {
        /// Version.
        version: String,
    },
    /// No target can have this name.
    #[error("{name:?} cannot be the name of a target")]
    Name {
        /// Which.
        name: String,
    },
    /// The reason cannot be signed.
    #[error("the reason has to be 1 to {LONGEST_REASON} printable characters, accents composed (Unicode NFC)")]
    Reason,
    /// No such release.
    #[error("no release {release} is listed; vedette-fleet release list shows them")]
    Unknown {
        /// The number.
        release: u64,
    },
}

/// What the metadata remember.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Memory {
    last_release: u64,
    newest: BTreeMap<String, Version>,
}

/// All releases, in the order of their numbers. A target that is none of ours is left alone.
pub fn releases(targets: &Targets) -> Vec<Release> {
    let mut all: Vec<_> = targets.targets.iter().filter_map(|(name, target)| release_of(name, target)).collect();
    all.sort_by_key(|r| r.facts.release);
    all
}

fn release_of(name: &TargetName, target: &Target) -> Option<Release> {
    Some(Release {
        facts: serde_json::from_value(target.custom.get(CUSTOM)?.clone()).ok()?,
        target: name.raw().to_owned(),
        digest: hex(&target.hashes.sha256),
        manifest_bytes: target.length,
    })
}

fn memory(targets: &Targets) -> Memory {
    let said = targets._extra.get(MEMORY).and_then(|v| serde_json::from_value(v.clone()).ok());
    let mut memory: Memory = said.unwrap_or_default();
    for release in releases(targets) {
        memory.last_release = memory.last_release.max(release.facts.release);
        if let Ok(version) = Version::parse(&release.facts.version) {
            let newest = memory.newest.entry(release.facts.model).or_insert_with(|| version.clone());
            *newest = version.max(newest.clone());
        }
    }
    memory
}

/// A model that is to be listed.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Its name.
    pub model: &'a str,
    /// Its version.
    pub version: &'a Version,
    /// Its manifest.
    pub manifest: &'a [u8],
    /// SHA-256 of it.
    pub digest: Vec<u8>,
    /// Why devices are to go back to it.
    pub downgrade: Option<String>,
}

/// Lists it under the next number.
pub fn add(targets: &mut Targets, candidate: Candidate<'_>, published: String) -> Result<Release, ListingError> {
    let (model, version) = (candidate.model.to_owned(), candidate.version.to_string());
    if !candidate.version.build.is_empty() {
        return Err(ListingError::BuildMetadata { version });
    }
    let raw = layout::target_name(&model, &version);
    let name = TargetName::new(&raw).map_err(|_| ListingError::Name { name: raw.clone() })?;
    let mut memory = memory(targets);
    if let Some(listed) = targets.targets.get(&name).and_then(|t| release_of(&name, t)) {
        let release = listed.facts.release;
        if listed.digest != hex(&candidate.digest) {
            return Err(ListingError::OtherContent { model, version, release, digest: listed.digest });
        }
        if candidate.downgrade.is_none() {
            return Err(ListingError::Listed { model, version, release });
        }
    }
    let newest = memory.newest.get(&model).filter(|newest| candidate.version < *newest);
    match (newest, &candidate.downgrade) {
        (Some(newest), None) => return Err(ListingError::Older { newest: newest.to_string(), model, version }),
        (None, Some(_)) => return Err(ListingError::NoDowngrade { model, version }),
        (_, Some(reason)) if !is_signable(reason) => return Err(ListingError::Reason),
        _ => {}
    }
    let release = memory.last_release + 1;
    let facts = ReleaseFacts { release, model: model.clone(), version, published, downgrade: candidate.downgrade };
    let custom = serde_json::to_value(&facts).expect("numbers and strings are JSON");
    let target = Target {
        length: candidate.manifest.len() as u64,
        hashes: Hashes { sha256: candidate.digest.into(), _extra: HashMap::new() },
        custom: HashMap::from([(CUSTOM.to_owned(), custom)]),
        _extra: HashMap::new(),
    };
    let listed = release_of(&name, &target).expect("it was made just so");
    targets.targets.insert(name, target);
    memory.last_release = release;
    let highest = memory.newest.entry(model).or_insert_with(|| candidate.version.clone());
    *highest = candidate.version.max(highest).clone();
    remember(targets, &memory);
    Ok(listed)
}

/// Takes a release off the list. Its number is not given again.
pub fn remove(targets: &mut Targets, release: u64) -> Result<Release, ListingError> {
    let memory = memory(targets);
    let found = releases(targets).into_iter().find(|r| r.facts.release == release);
    let found = found.ok_or(ListingError::Unknown { release })?;
    targets.targets.retain(|name, _| name.raw() != found.target);
    remember(targets, &memory);
    Ok(found)
}

fn remember(targets: &mut Targets, memory: &Memory) {
    let value: Value = serde_json::to_value(memory).expect("numbers and strings are JSON");
    targets._extra.insert(MEMORY.into(), value);
}

/// Canonical JSON composes characters (NFC) with `tough` and leaves them with python-tuf, and writes control characters
/// bare: such a text would be signed by one and not verified by the other.
fn is_signable(text: &str) -> bool {
    let plain = !text.trim().is_empty()
        && text.chars().count() <= LONGEST_REASON
        && !text.chars().any(|c| c.is_control() || c == '"' || c == '\\');
    plain && canonical(text).is_some_and(|form| form == format!("\"{text}\"").as_bytes())
}

/// What `tough` signs of a text.
fn canonical(text: &str) -> Option<Vec<u8>> {
    use std::num::NonZeroU64;
    use tough::schema::Role;

    let mut probe = Targets::new(String::new(), NonZeroU64::MIN, jiff::Timestamp::UNIX_EPOCH);
    probe._extra.insert("a".into(), text.into());
    let form = probe.canonical_form().ok()?;
    let begin = form.windows(4).position(|w| w == b"\"a\":")? + 4;
    let end = begin + 1 + form[begin + 1..].iter().position(|b| *b == b'"')?;
    Some(form[begin..=end].to_vec())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn list(targets: &mut Targets, version: &str, downgrade: Option<&str>) -> Result<u64, ListingError> {
        let version = Version::parse(version).expect("a version");
        let manifest = version.to_string();
        let candidate = Candidate {
            model: "tiny",
            version: &version,
            manifest: manifest.as_bytes(),
            digest: manifest.clone().into_bytes(),
            downgrade: downgrade.map(str::to_owned),
        };
        add(targets, candidate, "2026-11-22T08:00:00.000Z".into()).map(|r| r.facts.release)
    }

    fn none() -> Targets {
        Targets::new("1.0.31".into(), NonZeroU64::MIN, jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn numbers_rise_and_are_given_once_also_when_releases_go() {
        let mut all = none();
        assert_eq!(list(&mut all, "1.0.0", None), Ok(1));
        assert_eq!(list(&mut all, "1.1.0", None), Ok(2));
        assert_eq!(remove(&mut all, 2).map(|r| r.facts.release), Ok(2));
        assert_eq!(remove(&mut all, 2), Err(ListingError::Unknown { release: 2 }));
        // What is gone from the list is remembered: devices may have it.
        assert!(matches!(list(&mut all, "1.0.5", None), Err(ListingError::Older { .. })));
        assert_eq!(list(&mut all, "1.2.0", None), Ok(3));
        assert_eq!(list(&mut all, "1.0.0", Some("1.2.0 is blind")), Ok(4));
        assert_eq!(releases(&all).iter().map(|r| r.facts.release).collect::<Vec<_>>(), [3, 4]);
        assert!(matches!(list(&mut all, "1.3.0", Some("why")), Err(ListingError::NoDowngrade { .. })));
        assert!(matches!(list(&mut all, "1.3.0+build", None), Err(ListingError::BuildMetadata { .. })));
        assert!(matches!(list(&mut all, "1.2.0", None), Err(ListingError::Listed { release: 3, .. })));
    }

    #[test]
    fn only_what_every_client_signs_alike_is_a_reason() {
        for reason in ["1.2.0 misses fights at night", "zu früh", "夜间漏报"] {
            assert!(is_signable(reason), "{reason}");
        }
        // Composed and not, control characters, quotes, nothing, too long.
        for reason in ["a\u{301}", "two\nlines", "a \"b\"", " ", &"x".repeat(501)] {
            assert!(!is_signable(reason), "{reason}");
        }
    }
}
