//! A repository of releases with throw-away keys, as `vedette-fleet` writes it.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tough::schema::RoleType;
use vedette::agent::infer::model::Model;
use vedette::base::clock::{Clock, SystemClock, Wall};
use vedette::fleet::keys::root::{self, RolePlan};
use vedette::fleet::keys::{Kind, SigningKey};
use vedette::fleet::release::place::Place;
use vedette::fleet::release::signing::{Renew, Signing};
use vedette::fleet::release::{Release, Repository, publish};

/// The keys of all roles, in memory.
pub struct Keys {
    pub root: Vec<SigningKey>,
    pub targets: Vec<SigningKey>,
    pub snapshot: Vec<SigningKey>,
    pub timestamp: Vec<SigningKey>,
}

impl Keys {
    pub fn new() -> Keys {
        let key = || vec![SigningKey::generate(Kind::Ed25519).expect("entropy")];
        Keys { root: key(), targets: key(), snapshot: key(), timestamp: key() }
    }
}

/// A repository, its keys, and the directory that devices see (`published`). All in one temporary directory.
pub struct Fleet {
    pub keys: Keys,
    pub repository: Repository,
    dir: tempfile::TempDir,
}

impl Fleet {
    /// With no release, nothing published.
    pub fn new() -> Fleet {
        Fleet::with_keys(Keys::new(), 1)
    }

    pub fn with_keys(keys: Keys, threshold: u64) -> Fleet {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let plan = |role, keys: &[SigningKey]| RolePlan {
            role,
            keys: keys.iter().map(SigningKey::public).collect(),
            threshold: NonZeroU64::new(threshold).expect("not 0"),
            days: root::default_days(role),
        };
        let plans = [
            plan(RoleType::Root, &keys.root),
            plan(RoleType::Targets, &keys.targets),
            plan(RoleType::Snapshot, &keys.snapshot),
            plan(RoleType::Timestamp, &keys.timestamp),
        ];
        let first = root::first(&plans, now()).expect("a root");
        let repository = Repository::create(&dir.path().join("repository"), first, now()).expect("a new directory");
        Fleet { keys, repository, dir }
    }

    /// Lists, signs and publishes a model; the number of its release.
    pub fn release(&mut self, model: &Path) -> u64 {
        let release = self.add(model, None);
        assert!(self.sign().is_complete());
        self.publish();
        release.facts.release
    }

    /// The same for one that goes back.
    pub fn downgrade(&mut self, model: &Path, reason: &str) -> u64 {
        let release = self.add(model, Some(reason.to_owned()));
        assert!(self.sign().is_complete());
        self.publish();
        release.facts.release
    }

    pub fn add(&mut self, model: &Path, downgrade: Option<String>) -> Release {
        let model = Model::open(model).expect("a model");
        self.repository.add(&model, downgrade, now()).expect("a release")
    }

    /// With every key there is.
    pub fn sign(&mut self) -> Signing {
        self.sign_with(Renew::Nothing)
    }

    pub fn sign_with(&mut self, renew: Renew) -> Signing {
        let mut signing = Signing { signed: Vec::new(), missing: Vec::new() };
        let Keys { root, targets, snapshot, timestamp } = &self.keys;
        for keys in [root, targets, snapshot, timestamp] {
            signing = self.repository.sign(keys, renew, now()).expect("they have roles");
        }
        signing
    }

    pub fn publish(&self) -> Vec<String> {
        let place = Arc::new(Place::Dir(self.published()));
        block_on(publish::publish(&self.repository, place)).expect("published").written
    }

    /// What a web server would serve.
    pub fn published(&self) -> PathBuf {
        self.dir.path().join("published")
    }

    /// The root that a device is provisioned with.
    pub fn first_root(&self) -> PathBuf {
        self.repository.dir().join("metadata/1.root.json")
    }

    /// For whatever a test wants beside it.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }
}

/// A published repository with one release of each of these models, in their order.
pub fn repository_with(models: &[&Path]) -> Fleet {
    let mut fleet = Fleet::new();
    for model in models {
        fleet.release(model);
    }
    if models.is_empty() {
        assert!(fleet.sign().is_complete());
        fleet.publish();
    }
    fleet
}

/// A copy of a model with other text in its manifest: `("1.2.3", "1.3.0")` makes another version of it.
pub fn variant(model: &Path, to: &Path, edits: &[(&str, &str)]) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("writable");
        for entry in std::fs::read_dir(from).expect("readable").flatten() {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() { copy(&entry.path(), &to) } else { drop(std::fs::copy(entry.path(), to)) }
        }
    }
    copy(model, to);
    let manifest = to.join("manifest.toml");
    let mut text = std::fs::read_to_string(&manifest).expect("a manifest");
    for (from, to) in edits {
        assert!(text.contains(from), "the manifest has no {from}");
        text = text.replacen(from, to, 1);
    }
    std::fs::write(&manifest, text).expect("writable");
    to.to_owned()
}

/// The model of tests: a few kilobytes, with golden vectors.
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny")
}

pub fn now() -> Wall {
    SystemClock::new().wall()
}

/// Runs what is asynchronous to its end.
pub fn block_on<F: Future>(what: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(what)
}
