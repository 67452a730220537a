//! Who signs what, and when what is staged holds.
//!
//! Targets name the releases, a snapshot names the targets, a timestamp names the snapshot: each is made when the one below
//! it is complete and somebody brings a key for it. When all of them fit together under one root they become what holds.

use std::collections::HashMap;
use std::num::NonZeroU64;

use serde::Serialize;
use tough::schema::{Hashes, Metafile, Role, RoleType, Root, Signed, Snapshot, Targets, Timestamp};

use super::layout::{self, TIMESTAMP};
use super::repository::{Held, Repository, RepositoryError, Set, drop_stale, hold};
use crate::base::clock::Wall;
use crate::fleet::keys::SigningKey;
use crate::fleet::keys::root::{self, days, expiry, next};
use crate::fleet::keys::signatures::{self, Standing, nothing_more, roles_of, standing, unsigned};

/// What is to be made anew though it still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// Nothing: only what is missing.
    Nothing,
    /// Timestamp, and snapshot where a key for it is there: what holds stays, and lasts longer.
    Freshness,
    /// All of them, as far as there are keys.
    All,
}

/// What signing came to.
#[derive(Debug, Clone, Serialize)]
pub struct Signing {
    /// "targets 3" and the like: what was signed.
    pub signed: Vec<String>,
    /// Who has to sign yet; empty: everything holds.
    pub missing: Vec<Standing>,
}

impl Signing {
    /// Whether everything holds.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

impl Repository {
    /// Signs what these keys may sign, and makes it hold when it is complete.
    pub fn sign(&mut self, keys: &[SigningKey], renew: Renew, now: Wall) -> Result<Signing, RepositoryError> {
        let mut signed = Vec::new();
        if renew != Renew::Freshness {
            self.sign_root(keys, &mut signed)?;
        }
        let root = match self.root() {
            Ok(root) => root.signed.clone(),
            // The first root, and the first of its holders: nobody else can sign anything yet.
            Err(RepositoryError::NoRoot { .. }) if !signed.is_empty() => {
                return Ok(Signing { signed, missing: self.missing() });
            }
            Err(e) => return Err(e),
        };
        // A key that goes with the next root still signs for those devices that do not have that root yet.
        let before = self.current.root.as_ref().map(|r| r.metadata.signed.clone());
        let before = before.filter(|b| b.version != root.version);
        for key in keys {
            let known = |r: &Root| !roles_of(r, key).is_empty();
            if !known(&root) && !before.as_ref().is_some_and(known) && !known(&self.any_root().signed) {
                return Err(RepositoryError::NoRole { id: key.id() });
            }
        }
        let of = |role| keys_of(&root, before.as_ref(), keys, role);
        if renew != Renew::Freshness {
            self.sign_targets(&root, &of(RoleType::Targets), renew, now, &mut signed)?;
        }
        self.sign_snapshot(&root, &of(RoleType::Snapshot), renew, now, &mut signed)?;
        self.sign_timestamp(&root, &of(RoleType::Timestamp), renew, now, &mut signed)?;
        self.write_staged()?;
        self.settle()?;
        Ok(Signing { signed, missing: self.missing() })
    }

    fn sign_root(&mut self, keys: &[SigningKey], signed: &mut Vec<String>) -> Result<(), RepositoryError> {
        let Some(staged) = &self.staged.root else { return Ok(()) };
        let mut metadata = staged.metadata.clone();
        let current = self.current.root.as_ref().map(|r| &r.metadata.signed);
        for key in keys {
            let may = |r: &Root| roles_of(r, key).contains(&RoleType::Root);
            if may(&metadata.signed) || current.is_some_and(may) {
                signatures::sign(&mut metadata, key)?;
                signed.push(format!("root {}", metadata.signed.version));
            }
        }
        self.staged.root = Some(hold(metadata)?);
        self.write_staged()
    }

    fn sign_targets(
        &mut self,
        root: &Root,
        keys: &[&SigningKey],
        renew: Renew,
        now: Wall,
        signed: &mut Vec<String>,
    ) -> Result<(), RepositoryError> {
        let holds = self.current.targets.as_ref().is_some_and(|t| standing(root, &t.metadata).is_complete());
        if self.staged.targets.is_none() && (!holds || renew == Renew::All) && !keys.is_empty() {
            let again = self.next_targets(now)?;
            self.stage_targets(again)?;
        }
        if let Some(staged) = self.staged.targets.take() {
            self.staged.targets = Some(add_signatures(staged, keys, signed)?);
        }
        Ok(())
    }

    fn sign_snapshot(
        &mut self,
        root: &Root,
        keys: &[&SigningKey],
        renew: Renew,
        now: Wall,
        signed: &mut Vec<String>,
    ) -> Result<(), RepositoryError> {
        if keys.is_empty() {
            return Ok(());
        }
        let Some(targets) = self.targets_to_come(root, renew).cloned() else { return Ok(()) };
        let names = |s: &Held<Snapshot>| s.metadata.signed.meta.get("targets.json") == Some(&describe(&targets));
        let is_new = match (&self.staged.snapshot, &self.current.snapshot) {
            (Some(staged), _) if names(staged) && (renew == Renew::Nothing || !has_signed(staged, keys)) => false,
            (_, Some(current)) if names(current) && renew == Renew::Nothing => {
                if standing(root, &current.metadata).is_complete() {
                    return Ok(());
                }
                true
            }
            _ => true,
        };
        if is_new {
            let current = self.current.snapshot.as_ref().map(|s| s.metadata.signed.version);
            let snapshot = Snapshot {
                spec_version: root.spec_version.clone(),
                version: current.map_or(Ok(NonZeroU64::MIN), next)?,
                expires: expiry(now, days(root, RoleType::Snapshot))?,
                meta: HashMap::from([("targets.json".into(), describe(&targets))]),
                _extra: nothing_more(),
            };
            self.staged.snapshot = Some(hold(unsigned(snapshot))?);
        }
        if let Some(staged) = self.staged.snapshot.take() {
            self.staged.snapshot = Some(add_signatures(staged, keys, signed)?);
        }
        Ok(())
    }

    fn sign_timestamp(
        &mut self,
        root: &Root,
        keys: &[&SigningKey],
        renew: Renew,
        now: Wall,
        signed: &mut Vec<String>,
    ) -> Result<(), RepositoryError> {
        if keys.is_empty() {
            return Ok(());
        }
        let complete = |s: &&Held<Snapshot>| standing(root, &s.metadata).is_complete();
        // Who only keeps things fresh does not release what waits for others.
        let names_current = |s: &&Held<Snapshot>| {
            s.metadata.signed.meta.get("targets.json") == self.current.targets.as_ref().map(describe).as_ref()
        };
        let may = |s: &&Held<Snapshot>| renew != Renew::Freshness || names_current(s);
        let snapshot = self.staged.snapshot.as_ref().filter(complete).filter(may);
        let Some(snapshot) = snapshot.or(self.current.snapshot.as_ref().filter(complete)).cloned() else {
            return Ok(());
        };
        let names = |t: &Held<Timestamp>| t.metadata.signed.meta.get("snapshot.json") == Some(&describe(&snapshot));
        let is_new = match (&self.staged.timestamp, &self.current.timestamp) {
            (Some(staged), _) if names(staged) && (renew == Renew::Nothing || !has_signed(staged, keys)) => false,
            (_, Some(current)) if names(current) && renew == Renew::Nothing => {
                if standing(root, &current.metadata).is_complete() {
                    return Ok(());
                }
                true
            }
            _ => true,
        };
        if is_new {
            let current = self.current.timestamp.as_ref().map(|t| t.metadata.signed.version);
            let timestamp = Timestamp {
                spec_version: root.spec_version.clone(),
                version: current.map_or(Ok(NonZeroU64::MIN), next)?,
                expires: expiry(now, days(root, RoleType::Timestamp))?,
                meta: HashMap::from([("snapshot.json".into(), describe(&snapshot))]),
                _extra: nothing_more(),
            };
            self.staged.timestamp = Some(hold(unsigned(timestamp))?);
        }
        if let Some(staged) = self.staged.timestamp.take() {
            self.staged.timestamp = Some(add_signatures(staged, keys, signed)?);
        }
        Ok(())
    }

    /// The targets metadata that the next snapshot names: what is staged if it is complete, or what holds.
    fn targets_to_come(&self, root: &Root, renew: Renew) -> Option<&Held<Targets>> {
        let complete = |t: &&Held<Targets>| standing(root, &t.metadata).is_complete();
        // Who only keeps things fresh does not release what waits.
        let staged = self.staged.targets.as_ref().filter(|_| renew != Renew::Freshness).filter(complete);
        staged.or(self.current.targets.as_ref().filter(complete))
    }

    /// Makes what is staged hold if it is complete and fits together. At every write in between `metadata/` is a whole
    /// repository for who has the root before, for who has the new one, or for both.
    pub(super) fn settle(&mut self) -> Result<(), RepositoryError> {
        let Some(next) = self.complete_set() else { return Ok(()) };
        let (root, targets, snapshot, timestamp) = match &next {
            Set { root: Some(r), targets: Some(t), snapshot: Some(s), timestamp: Some(ts) } => (r, t, s, ts),
            _ => return Ok(()),
        };
        let is_new = |a: Option<&[u8]>, b: &[u8]| a != Some(b);
        let before = &self.current;
        if is_new(before.targets.as_ref().map(|h| &h.bytes[..]), &targets.bytes) {
            self.write(&layout::targets(targets.metadata.signed.version), &targets.bytes)?;
        }
        if is_new(before.snapshot.as_ref().map(|h| &h.bytes[..]), &snapshot.bytes) {
            self.write(&layout::snapshot(snapshot.metadata.signed.version), &snapshot.bytes)?;
        }
        let root_first = root_goes_first(before.root.as_ref().map(|r| &r.metadata.signed), &next);
        let path = layout::root(root.metadata.signed.version);
        let root_is_new = is_new(before.root.as_ref().map(|h| &h.bytes[..]), &root.bytes);
        if root_is_new && root_first {
            self.write(&path, &root.bytes)?;
        }
        if is_new(before.timestamp.as_ref().map(|h| &h.bytes[..]), &timestamp.bytes) {
            self.write(TIMESTAMP, &timestamp.bytes)?;
        }
        if root_is_new && !root_first {
            self.write(&path, &root.bytes)?;
        }
        self.current = next;
        drop_stale(&self.current, &mut self.staged);
        self.write_staged()
    }

    /// The newest root, targets, snapshot and timestamp that are complete and name each other.
    fn complete_set(&self) -> Option<Set> {
        let root = self.root().ok()?;
        let held = |h: &&Held<Root>| h.metadata == *root;
        let root_held = self.staged.root.as_ref().filter(held).or(self.current.root.as_ref().filter(held))?;
        let pick = |metadata: &Signed<Timestamp>| standing(&root.signed, metadata).is_complete();
        let timestamps = [&self.staged.timestamp, &self.current.timestamp];
        for timestamp in timestamps.into_iter().flatten().filter(|t| pick(&t.metadata)) {
            let snapshots = [&self.staged.snapshot, &self.current.snapshot];
            for snapshot in snapshots.into_iter().flatten() {
                let named = timestamp.metadata.signed.meta.get("snapshot.json") == Some(&describe(snapshot));
                if !named || !standing(&root.signed, &snapshot.metadata).is_complete() {
                    continue;
                }
                for targets in [&self.staged.targets, &self.current.targets].into_iter().flatten() {
                    let named = snapshot.metadata.signed.meta.get("targets.json") == Some(&describe(targets));
                    if named && standing(&root.signed, &targets.metadata).is_complete() {
                        return Some(Set {
                            root: Some(root_held.clone()),
                            targets: Some(targets.clone()),
                            snapshot: Some(snapshot.clone()),
                            timestamp: Some(timestamp.clone()),
                        });
                    }
                }
            }
        }
        None
    }

    /// Who has to sign before everything that is staged holds.
    pub fn missing(&self) -> Vec<Standing> {
        let mut all = Vec::new();
        if let Some(staged) = &self.staged.root {
            let current = self.current.root.as_ref().map(|r| &r.metadata.signed);
            all.extend(root::standings(current, &staged.metadata));
        }
        if let Ok(root) = self.root() {
            let root = &root.signed;
            let nobody = |role: RoleType| Standing {
                role,
                threshold: root.roles.get(&role).map_or(1, |r| r.threshold.get()),
                signed: Vec::new(),
                missing: root
                    .roles
                    .get(&role)
                    .iter()
                    .flat_map(|r| &r.keyids)
                    .map(|k| crate::fleet::keys::hex(k))
                    .collect(),
            };
            let targets = self.staged.targets.as_ref().or(self.current.targets.as_ref());
            let of_targets = targets.map_or(nobody(RoleType::Targets), |t| standing(root, &t.metadata));
            let snapshot = self.staged.snapshot.as_ref().or(self.current.snapshot.as_ref());
            let fits =
                |s: &&Held<Snapshot>| s.metadata.signed.meta.get("targets.json") == targets.map(describe).as_ref();
            let of_snapshot = snapshot.filter(fits).map_or(nobody(RoleType::Snapshot), |s| standing(root, &s.metadata));
            let timestamp = self.staged.timestamp.as_ref().or(self.current.timestamp.as_ref());
            let fits =
                |t: &&Held<Timestamp>| t.metadata.signed.meta.get("snapshot.json") == snapshot.map(describe).as_ref();
            let of_timestamp =
                timestamp.filter(fits).map_or(nobody(RoleType::Timestamp), |t| standing(root, &t.metadata));
            // One whose turn has not come is made anew then: what it has now counts for nothing.
            let below = of_targets.is_complete();
            let of_snapshot = if below { of_snapshot } else { nobody(RoleType::Snapshot) };
            let of_timestamp = if of_snapshot.is_complete() { of_timestamp } else { nobody(RoleType::Timestamp) };
            all.extend([of_targets, of_snapshot, of_timestamp]);
        }
        all.retain(|s| !s.is_complete());
        all.dedup();
        all
    }
}

/// Whether a new root has to be there before the timestamp that goes with it. It is not where all of the new metadata are
/// signed for the root before, too: then clients find a whole repository at every instant.
pub(super) fn root_goes_first(before: Option<&Root>, next: &Set) -> bool {
    let Some(before) = before else { return true };
    let complete = |s: Option<Standing>| s.is_some_and(|s| s.is_complete());
    !(complete(next.targets.as_ref().map(|t| standing(before, &t.metadata)))
        && complete(next.snapshot.as_ref().map(|s| standing(before, &s.metadata)))
        && complete(next.timestamp.as_ref().map(|t| standing(before, &t.metadata))))
}

fn keys_of<'a>(root: &Root, before: Option<&Root>, keys: &'a [SigningKey], role: RoleType) -> Vec<&'a SigningKey> {
    let may = |r: &Root, k: &SigningKey| roles_of(r, k).contains(&role);
    keys.iter().filter(|k| may(root, k) || before.is_some_and(|b| may(b, k))).collect()
}

/// Whether one of these keys has signed it already.
fn has_signed<T>(held: &Held<T>, keys: &[&SigningKey]) -> bool {
    let ids: Vec<_> = keys.iter().filter_map(|k| k.public().key_id().ok()).collect();
    held.metadata.signatures.iter().any(|s| ids.contains(&s.keyid))
}

fn add_signatures<T: Role + Serialize>(
    held: Held<T>,
    keys: &[&SigningKey],
    signed: &mut Vec<String>,
) -> Result<Held<T>, RepositoryError> {
    if keys.is_empty() {
        return Ok(held);
    }
    let mut metadata = held.metadata;
    for key in keys {
        signatures::sign(&mut metadata, key)?;
        signed.push(format!("{} {}", T::TYPE, metadata.signed.version()));
    }
    hold(metadata)
}

/// What the metadata above say of these.
fn describe<T: Role>(held: &Held<T>) -> Metafile {
    use sha2::Digest;
    let sha256 = sha2::Sha256::digest(&held.bytes).to_vec().into();
    Metafile {
        length: Some(held.bytes.len() as u64),
        hashes: Some(Hashes { sha256, _extra: HashMap::new() }),
        version: held.metadata.signed.version(),
        _extra: HashMap::new(),
    }
}
