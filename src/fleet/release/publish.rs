//! In which order a repository is published: what is named comes before what names it, the timestamp last. Whoever is
//! interrupted leaves a place where clients find either what was there or what is new, whole.
//!
//! ```text
//!   files ─► manifests ─► N.targets ─► N.snapshot ─► timestamp ─► N.root
//!                                               └──► N.root ─► timestamp     where the new metadata do not hold for those
//!                                                                            who have the root before (keys that are gone):
//!                                                                            between these two, clients have to try again
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tough::schema::{Role, Root, Signed, Snapshot, Targets, Timestamp};

use super::layout::{self, METADATA, TIMESTAMP};
use super::listing::{self, Release};
use super::place::{Place, PlaceError};
use super::repository::{self, Repository, RepositoryError};
use super::signing::root_goes_first;
use super::verify::{Depth, VerifyError, verify};
use crate::agent::infer::manifest::Manifest;
use crate::fleet::keys::signatures::standing;

/// Why it was not published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The place.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The manager's copy.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// What was published does not hold.
    #[error("it was published, and does not hold there")]
    Verify(#[source] VerifyError),
    /// What would be published does not hold.
    #[error(
        "nothing was published, for this copy does not hold; if something has expired: vedette-fleet release sign --renew"
    )]
    Here(#[source] VerifyError),
    /// Nothing holds yet.
    #[error("there is nothing to publish: not all have signed ({missing})")]
    Unsigned {
        /// Who has not.
        missing: String,
    },
    /// What is published is newer.
    #[error(
        "timestamp {there} is published and this copy has {here}: somebody else has published. Copy theirs over yours, and make \
         your change again. If nobody of yours has, the timestamp key is stolen: deploy/fleet/keys-and-releases.md"
    )]
    Behind {
        /// Here.
        here: NonZeroU64,
        /// There.
        there: NonZeroU64,
    },
    /// It is another repository.
    #[error("{place} holds another repository: its {path} is not the one of this copy")]
    Another {
        /// Where.
        place: String,
        /// What differs.
        path: String,
    },
    /// A manifest of this copy is damaged.
    #[error("{path} in this copy is not the manifest that was signed: add the model again")]
    Manifest {
        /// Which.
        path: String,
    },
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A file that must not be there with other content.
    New(String),
    /// The timestamp, in the place of what was found there.
    Timestamp(Option<Bytes>),
    /// Metadata in the place of some that the root does not stand for any more: of who had a key that is revoked now.
    Instead(String, Bytes),
}

impl Step {
    /// What is written.
    pub fn path(&self) -> &str {
        match self {
            Step::New(path) | Step::Instead(path, _) => path,
            Step::Timestamp(_) => TIMESTAMP,
        }
    }
}

/// What there is to do, in order. Nothing is written.
pub async fn plan(from: &Repository, to: &Place) -> Result<Vec<Step>, PublishError> {
    let current = from.current();
    let (Some(root), Some(targets), Some(snapshot), Some(timestamp)) =
        (&current.root, &current.targets, &current.snapshot, &current.timestamp)
    else {
        let missing: Vec<_> = from.missing().iter().map(|s| s.words()).collect();
        return Err(PublishError::Unsigned { missing: missing.join("; ") });
    };
    let there = to.get(TIMESTAMP).await?;
    if let Some(bytes) = &there {
        let here = timestamp.metadata.signed.version;
        // One that cannot be read, or that the root does not stand for (any more), is in nobody's name.
        if let Some(found) = ours::<Timestamp>(&root.metadata.signed, bytes) {
            let there = found.signed.version;
            if there > here || (there == here && *bytes != timestamp.bytes) {
                return Err(PublishError::Behind { here, there });
            }
        }
    }
    let mut steps = Vec::new();
    for release in listing::releases(&targets.metadata.signed) {
        for path in files_of(from, &release)? {
            steps.push(Step::New(path));
        }
        steps.push(Step::New(layout::manifest(&release.digest, &release.target)));
    }
    steps.push(Step::New(layout::targets(targets.metadata.signed.version)));
    steps.push(Step::New(layout::snapshot(snapshot.metadata.signed.version)));
    let (mut before, mut roots) = (None, Vec::new());
    for version in repository::versions_of_root(&from.dir().join(METADATA))? {
        let path = layout::root(version);
        match to.get(&path).await? {
            // Not even a root that a thief of root keys made: that takes another place, and devices provisioned anew.
            Some(found) if found != read(from, &path)? => {
                return Err(PublishError::Another { place: to.to_string(), path });
            }
            Some(found) => before = serde_json::from_slice::<Signed<Root>>(&found).ok(),
            None => roots.push(Step::New(path)),
        }
    }
    let last = Step::Timestamp(there);
    if root_goes_first(before.as_ref().map(|r| &r.signed), current) {
        steps.extend(roots);
        steps.push(last);
    } else {
        steps.push(last);
        steps.extend(roots);
    }
    let mut seen = BTreeSet::new();
    let mut left = Vec::new();
    for step in steps {
        match step {
            Step::New(path) if !seen.insert(path.clone()) => {}
            Step::New(path) if path.starts_with(METADATA) => match to.get(&path).await? {
                None => left.push(Step::New(path)),
                Some(found) if found == read(from, &path)? => {}
                Some(found) if is_ours(&root.metadata.signed, &path, &found) => {
                    return Err(PlaceError::Conflict { path }.into());
                }
                Some(found) => left.push(Step::Instead(path, found)),
            },
            // By content: what is there with the right size is there. The end looks again.
            Step::New(path) => {
                let there = to.size_of(&path).await?;
                if there.is_none() || there != size_here(from, &path) {
                    left.push(Step::New(path));
                }
            }
            Step::Timestamp(Some(found)) if found == timestamp.bytes => {}
            step => left.push(step),
        }
    }
    Ok(left)
}

/// Metadata that the root stands for.
fn ours<T: Role + Clone + DeserializeOwned>(root: &Root, bytes: &[u8]) -> Option<Signed<T>> {
    let found: Signed<T> = serde_json::from_slice(bytes).ok()?;
    standing(root, &found).is_complete().then_some(found)
}

fn is_ours(root: &Root, path: &str, bytes: &[u8]) -> bool {
    match path {
        path if path.ends_with(".targets.json") => ours::<Targets>(root, bytes).is_some(),
        path if path.ends_with(".snapshot.json") => ours::<Snapshot>(root, bytes).is_some(),
        _ => true,
    }
}

/// Does one step.
pub async fn carry_out(from: &Repository, to: &Place, step: &Step) -> Result<(), PublishError> {
    let bytes = read(from, step.path())?;
    match step {
        Step::New(path) => to.put_new(path, bytes).await?,
        Step::Timestamp(before) => to.replace(TIMESTAMP, before.as_ref(), bytes).await?,
        Step::Instead(path, before) => to.replace(path, Some(before), bytes).await?,
    }
    Ok(())
}

/// What was published.
#[derive(Debug, Clone)]
pub struct Published {
    /// What was written, in order.
    pub written: Vec<String>,
    /// What a fresh client finds there now.
    pub releases: Vec<Release>,
}

/// Publishes what holds, and looks at it with a fresh client.
pub async fn publish(from: &Repository, to: Arc<Place>) -> Result<Published, PublishError> {
    let root = first_root(from)?;
    // Before anybody sees it: that something has expired, or a file is gone from this copy.
    if from.current().timestamp.is_some() {
        let here = Arc::new(Place::Dir(from.dir().to_owned()));
        verify(here, &root, Depth::Sizes(BTreeSet::new())).await.map_err(PublishError::Here)?;
    }
    let steps = plan(from, &to).await?;
    let mut written = Vec::new();
    for step in &steps {
        carry_out(from, &to, step).await?;
        written.push(step.path().to_owned());
    }
    let deep = Depth::Sizes(written.iter().cloned().collect());
    let releases = verify(to, &root, deep).await.map_err(PublishError::Verify)?;
    Ok(Published { written, releases })
}

/// The root that all trust begins with: the first one that this copy has.
fn first_root(from: &Repository) -> Result<Bytes, PublishError> {
    match repository::versions_of_root(&from.dir().join(METADATA))?.first() {
        Some(version) => read(from, &layout::root(*version)),
        None => Ok(Bytes::new()),
    }
}

/// The files that a release's manifest lists.
pub fn files_of(from: &Repository, release: &Release) -> Result<Vec<String>, PublishError> {
    let path = layout::manifest(&release.digest, &release.target);
    let bytes = read(from, &path)?;
    let damaged = || PublishError::Manifest { path: path.clone() };
    if crate::base::digest::of_bytes(&bytes) != release.digest {
        return Err(damaged());
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged())?;
    let manifest = Manifest::parse(&from.dir().join(&path), text).map_err(|_| damaged())?;
    Ok(manifest.files.iter().map(|entry| layout::file(&entry.sha256)).collect())
}

fn read(from: &Repository, path: &str) -> Result<Bytes, PublishError> {
    let at = from.dir().join(path);
    let bytes = fs::read(&at).map_err(|source| RepositoryError::Read { path: at, source })?;
    Ok(bytes.into())
}

fn size_here(from: &Repository, path: &str) -> Option<u64> {
    fs::metadata(from.dir().join(path)).ok().map(|of| of.len())
}
