//! What stands where in a repository, as paths with `/` that hold for a directory, a bucket and a web server alike.

use std::num::NonZeroU64;

/// Where metadata stand.
pub const METADATA: &str = "metadata";
/// Where manifests stand.
pub const TARGETS: &str = "targets";
/// Where the files of models stand.
pub const FILES: &str = "files";
/// What is being made; in a manager's copy only, never published.
pub const STAGED: &str = "staged";
/// The one file that is replaced.
pub const TIMESTAMP: &str = "metadata/timestamp.json";

/// `metadata/N.root.json`
pub fn root(version: NonZeroU64) -> String {
    format!("{METADATA}/{version}.root.json")
}

/// `metadata/N.targets.json`
pub fn targets(version: NonZeroU64) -> String {
    format!("{METADATA}/{version}.targets.json")
}

/// `metadata/N.snapshot.json`
pub fn snapshot(version: NonZeroU64) -> String {
    format!("{METADATA}/{version}.snapshot.json")
}

/// `files/<sha256>`
pub fn file(sha256: &str) -> String {
    format!("{FILES}/{sha256}")
}

/// `targets/<sha256>.<name>`
pub fn manifest(sha256: &str, name: &str) -> String {
    format!("{TARGETS}/{sha256}.{name}")
}

/// Name of the target of a model's version. Without `/`: clients differ on where the digest goes in names that have one.
pub fn target_name(model: &str, version: &str) -> String {
    format!("{model}-{version}.manifest.toml")
}
