//! Model releases: checked as a device would check them, listed in signed metadata, published as static files.
//!
//! | file | what it is |
//! |---|---|
//! | `check` | a model, looked at as a device will; `baseline`: what it has to reach |
//! | `layout` | what stands where in a repository |
//! | `repository` | a manager's copy of it: what holds (`metadata/`) and what is being made (`staged/`) |
//! | `listing` | the releases in targets metadata: numbers, names, versions (pure) |
//! | `signing` | who signs what; when what is staged holds |
//! | `place` | where it is published: a directory, a bucket |
//! | `publish` | in which order, so that a client finds a whole repository at every instant |
//! | `verify` | the same as a device would see it |
//! | `gc` | what nobody needs any more |
//!
//! What a repository is (shared with `agent::ota`, and readable by every TUF client):
//!
//! ```text
//!   metadata/  N.root.json, N.targets.json, N.snapshot.json, timestamp.json
//!   targets/   <sha256>.<model>-<version>.manifest.toml     one for each release: its manifest, byte for byte
//!   files/     <sha256>                                     what manifests list, by content: each once
//! ```
//!
//! What does not belong here: keys and the root (`keys`), which device takes a release when (`rollout`).

pub mod baseline;
pub mod check;
pub mod gc;
pub mod layout;
pub mod listing;
pub mod place;
pub mod publish;
pub mod repository;
pub mod signing;
pub mod verify;

pub use listing::Release;
pub use repository::Repository;
