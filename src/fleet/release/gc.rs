//! What nobody needs any more: superseded metadata, manifests and files that no list names.
//!
//! A device may be in the middle of what was published before. So a list counts for the grace period after the next one has
//! taken its place, with all that it names; and nothing goes that came more recently than that. Roots never go: a device that
//! was away needs all of them.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use tough::schema::{Signed, Targets};

use super::layout::{self, FILES, METADATA, TARGETS};
use super::listing;
use super::place::{Object, Place, PlaceError};
use crate::agent::infer::manifest::{Manifest, ManifestError};
use crate::base::clock::Wall;

/// Why nothing was let go.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// A list of releases cannot be read.
    #[error("{path} cannot be read, so it is not known what is needed: nothing was removed")]
    Metadata {
        /// Which.
        path: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A manifest cannot be read.
    #[error("{path} cannot be read, so it is not known what is needed: nothing was removed")]
    Manifest {
        /// Which.
        path: String,
        /// Why; none: it is not there, or no text.
        source: Option<Box<ManifestError>>,
    },
    /// There is no list.
    #[error("{place} holds no list of releases: nothing was removed")]
    Nothing {
        /// Where.
        place: String,
    },
}

/// What may go from `place`. `staged` are lists that are being made there.
pub async fn unneeded(place: &Place, staged: &[&Targets], now: Wall, grace: Duration) -> Result<Vec<String>, GcError> {
    let metadata = place.list(METADATA).await?;
    let is_old = |o: &Object| now.unix_ms().saturating_sub(o.modified_unix_ms) > grace.as_millis() as i64;
    let (lists, old_lists) = superseded(&metadata, "targets", is_old);
    let (snapshots, old_snapshots) = superseded(&metadata, "snapshot", is_old);
    if lists.is_empty() || snapshots.is_empty() {
        return Err(GcError::Nothing { place: place.to_string() });
    }
    let mut needed = BTreeSet::new();
    for path in &lists {
        let bytes = place.get(path).await?.unwrap_or_default();
        let list: Signed<Targets> =
            serde_json::from_slice(&bytes).map_err(|source| GcError::Metadata { path: path.clone(), source })?;
        add(place, &list.signed, &mut needed).await?;
    }
    for list in staged {
        add(place, list, &mut needed).await?;
    }
    let mut going = [old_lists, old_snapshots].concat();
    for folder in [TARGETS, FILES] {
        let found = place.list(folder).await?;
        going.extend(found.into_iter().filter(|o| is_old(o) && !needed.contains(&o.path)).map(|o| o.path));
    }
    going.sort();
    Ok(going)
}

/// The paths of a role's metadata that are needed, and of those that are not.
fn superseded(all: &[Object], role: &str, is_old: impl Fn(&Object) -> bool) -> (Vec<String>, Vec<String>) {
    let version = |o: &Object| -> Option<NonZeroU64> {
        let name = Path::new(&o.path).file_name()?.to_str()?;
        name.strip_suffix(&format!(".{role}.json"))?.parse().ok()
    };
    let mut found: Vec<_> = all.iter().filter_map(|o| Some((version(o)?, o))).collect();
    found.sort_by_key(|(version, _)| *version);
    let (mut needed, mut going) = (Vec::new(), Vec::new());
    for (n, (_, object)) in found.iter().enumerate() {
        // It ended when the next one came.
        let ended = found.get(n + 1).is_some_and(|(_, next)| is_old(next));
        if ended { &mut going } else { &mut needed }.push(object.path.clone());
    }
    (needed, going)
}

async fn add(place: &Place, list: &Targets, needed: &mut BTreeSet<String>) -> Result<(), GcError> {
    for release in listing::releases(list) {
        let path = layout::manifest(&release.digest, &release.target);
        if !needed.insert(path.clone()) {
            continue;
        }
        let bytes = place.get(&path).await?;
        let text = bytes.as_deref().and_then(|b| std::str::from_utf8(b).ok());
        let text = text.ok_or_else(|| GcError::Manifest { path: path.clone(), source: None })?;
        let manifest = Manifest::parse(Path::new(&path), text)
            .map_err(|e| GcError::Manifest { path: path.clone(), source: Some(Box::new(e)) })?;
        needed.extend(manifest.files.iter().map(|entry| layout::file(&entry.sha256)));
    }
    Ok(())
}
