//! A published repository as a device sees it: a fresh TUF client, from a root that is known, to every file of every
//! release.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tough::schema::Targets;
use tough::{IntoVec, RepositoryLoader, TargetName, Transport, TransportError, TransportErrorKind, TransportStream};
use url::Url;

use super::layout;
use super::listing::{self, Release};
use super::place::{Place, PlaceError};
use crate::agent::infer::manifest::{Manifest, ManifestError};
use crate::base::digest;

/// Why a published repository would not be followed by a device.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The place cannot be read.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// Its metadata do not hold.
    #[error("a device would not follow what is published at {place}")]
    Metadata {
        /// Where.
        place: String,
        /// What the client says.
        source: Box<tough::error::Error>,
    },
    /// A manifest cannot be used.
    #[error("the manifest of release {release} cannot be used by this program's version of the agent")]
    Manifest {
        /// Which.
        release: u64,
        /// Why.
        source: Box<ManifestError>,
    },
    /// A manifest is no text.
    #[error("the manifest of release {release} is no text")]
    NoText {
        /// Which.
        release: u64,
    },
    /// A file is not there, or is another one.
    #[error("release {release} needs {path}, and it {what}: publish again")]
    File {
        /// Which.
        release: u64,
        /// Where it should be.
        path: String,
        /// What is wrong.
        what: String,
    },
}

/// How closely files are looked at.
#[derive(Debug, Clone)]
pub enum Depth {
    /// Only their sizes, but for these paths, which are read.
    Sizes(BTreeSet<String>),
    /// All are read.
    Digests,
}

/// `tough`'s way to a place.
#[derive(Clone)]
struct Way(Arc<Place>);

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Way({})", self.0)
    }
}

#[async_trait]
impl Transport for Way {
    async fn fetch(&self, url: Url) -> Result<TransportStream, TransportError> {
        let kind = TransportErrorKind::Other;
        match self.0.get(url.path().trim_start_matches('/')).await {
            Ok(Some(bytes)) => Ok(Box::pin(futures_util::stream::iter([Ok(bytes)]))),
            Ok(None) => Err(TransportError::new(TransportErrorKind::FileNotFound, url)),
            Err(e) => Err(TransportError::new_with_cause(kind, url, e)),
        }
    }
}

/// Follows the repository at `place` from `root` with a fresh client. What it lists.
pub async fn verify(place: Arc<Place>, root: &[u8], depth: Depth) -> Result<Vec<Release>, VerifyError> {
    let said =
        |source: tough::error::Error| VerifyError::Metadata { place: place.to_string(), source: Box::new(source) };
    let base = |folder: &str| Url::parse(&format!("place:///{folder}/")).expect("constants make a URL");
    let client = RepositoryLoader::new(&root, base(layout::METADATA), base(layout::TARGETS))
        .transport(Way(Arc::clone(&place)))
        .load()
        .await
        .map_err(said)?;
    let targets: &Targets = &client.targets().signed;
    let releases = listing::releases(targets);
    for release in &releases {
        let number = release.facts.release;
        let name = TargetName::new(&release.target).map_err(said)?;
        let stream = client.read_target(&name).await.map_err(said)?;
        let stream = stream.ok_or(VerifyError::NoText { release: number })?;
        let bytes = stream.into_vec().await.map_err(said)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| VerifyError::NoText { release: number })?;
        let manifest = match Manifest::parse(&PathBuf::from(&release.target), text) {
            // For a later agent than this: its files cannot be known here.
            Err(ManifestError::AgentTooOld { .. }) => continue,
            parsed => parsed.map_err(|e| VerifyError::Manifest { release: number, source: Box::new(e) })?,
        };
        for entry in &manifest.files {
            let path = layout::file(&entry.sha256);
            let wrong = |what: String| VerifyError::File { release: number, path: path.clone(), what };
            let read = match &depth {
                Depth::Digests => true,
                Depth::Sizes(but) => but.contains(&path),
            };
            let (size, sha256) = if read {
                let bytes = place.get(&path).await?.ok_or_else(|| wrong("is not there".into()))?;
                (bytes.len() as u64, digest::of_bytes(&bytes))
            } else {
                let size = place.size_of(&path).await?.ok_or_else(|| wrong("is not there".into()))?;
                (size, entry.sha256.clone())
            };
            if size != entry.size_bytes {
                return Err(wrong(format!("has {size} bytes and should have {}", entry.size_bytes)));
            }
            if sha256 != entry.sha256 {
                return Err(wrong("is another file".into()));
            }
        }
    }
    Ok(releases)
}
