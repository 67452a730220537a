//! Keys that come and go: rotations, revocations, thresholds, and what devices make of it on the way.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tough::schema::{RoleType, Signed, Timestamp};
use vedette::fleet::keys::root::{self, Change, ROLES};
use vedette::fleet::keys::{Kind, SigningKey, signatures};
use vedette::fleet::release::place::Place;
use vedette::fleet::release::publish::{self, PublishError, Step};
use vedette::fleet::release::repository::RepositoryError;
use vedette::fleet::release::signing::Renew;

use crate::common::fleet::{Fleet, Keys, block_on, now, repository_with, tiny, variant};
use crate::fleet_release::{python, seen};

fn one() -> SigningKey {
    SigningKey::generate(Kind::Ed25519).expect("entropy")
}

/// The keys of a role.
fn of(keys: &mut Keys, role: RoleType) -> &mut Vec<SigningKey> {
    match role {
        RoleType::Root => &mut keys.root,
        RoleType::Targets => &mut keys.targets,
        RoleType::Snapshot => &mut keys.snapshot,
        _ => &mut keys.timestamp,
    }
}

/// New keys for these roles. What they sign is signed by the old ones, too, where these are still there.
fn rotate(fleet: &mut Fleet, roles: &[RoleType], old_ones_sign: bool) {
    let (mut changes, mut old) = (Vec::new(), Vec::new());
    for role in roles.iter().copied() {
        let new = one();
        let gone = std::mem::replace(of(&mut fleet.keys, role), vec![new]).remove(0);
        let id = gone.public().key_id().expect("an id");
        let new = Some(of(&mut fleet.keys, role)[0].public());
        changes.push(Change::Replace { role, old: Some(id), new });
        old.push((role, gone));
    }
    fleet.repository.change_root(&changes, now()).expect("a root");
    let Keys { root, targets, snapshot, timestamp } = &mut fleet.keys;
    let mut all: Vec<SigningKey> = Vec::new();
    // Root keys are never spared: without the old ones no device follows.
    all.extend(old.into_iter().filter(|(role, _)| old_ones_sign || *role == RoleType::Root).map(|(_, key)| key));
    let counts = [root.len(), targets.len(), snapshot.len(), timestamp.len()];
    let spared = all.len();
    for keys in [root, targets, snapshot, timestamp] {
        all.append(keys);
    }
    let signing = fleet.repository.sign(&all, Renew::Nothing, now()).expect("they have roles");
    assert!(signing.is_complete(), "{signing:?}");
    let mut rest = all.split_off(spared).into_iter();
    for (role, count) in ROLES.into_iter().zip(counts) {
        of(&mut fleet.keys, role).extend(rest.by_ref().take(count));
    }
}

/// Publishes step by step; what a fresh client said before each step, and after the last.
fn watched(fleet: &Fleet) -> Vec<(Option<Step>, Result<usize, String>)> {
    let place = Place::Dir(fleet.published());
    let look = || seen(&fleet.published(), &fleet.first_root()).map(|r| r.len());
    let steps = block_on(publish::plan(&fleet.repository, &place)).expect("a plan");
    let mut all = Vec::new();
    for step in steps {
        all.push((Some(step.clone()), look()));
        block_on(publish::carry_out(&fleet.repository, &place, &step)).expect("a step");
    }
    all.push((None, look()));
    all
}

#[test]
fn three_rotations_of_every_key_are_followed_by_both_clients_at_every_instant() {
    let mut fleet = repository_with(&[&tiny()]);
    let (follows, away) = (fleet.scratch().join("follows"), fleet.scratch().join("away"));
    python(&fleet.published(), &fleet.first_root(), &follows);
    for rotation in 1..=3_u64 {
        rotate(&mut fleet, &ROLES, true);
        for (before, found) in watched(&fleet) {
            assert_eq!(found, Ok(1), "rotation {rotation}, before {before:?}");
        }
        if let Some(found) = python(&fleet.published(), &fleet.first_root(), &follows) {
            assert_eq!(found.expect("it follows")["versions"]["root"], rotation + 1);
        }
    }
    let newer = variant(&tiny(), &fleet.scratch().join("newer"), &[("1.2.3", "1.3.0")]);
    fleet.release(&newer);
    for state in [&follows, &away] {
        if let Some(found) = python(&fleet.published(), &fleet.first_root(), state) {
            let found = found.expect("it follows");
            assert_eq!((&found["versions"]["root"], found["releases"].as_array().map(Vec::len)), (&4.into(), Some(2)));
        }
    }
}

#[test]
fn a_key_that_is_gone_signs_nothing_more_and_the_gap_is_two_writes_wide() {
    for role in [RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp] {
        let mut fleet = repository_with(&[&tiny()]);
        rotate(&mut fleet, &[role], false);
        let all = watched(&fleet);
        let failed: Vec<_> = all.iter().filter(|(_, found)| found.is_err()).collect();
        assert_eq!(failed.len(), 1, "{role}: {all:?}");
        assert!(matches!(&failed[0].0, Some(Step::Timestamp(_))), "{role}: after the root: {failed:?}");
        assert_eq!(all.last().expect("an end").1, Ok(1));
    }
}

#[test]
fn below_its_threshold_nothing_holds_and_who_is_missing_is_said() {
    let three = || vec![one(), one(), one()];
    let keys = Keys { root: three(), targets: three(), snapshot: three(), timestamp: three() };
    let mut fleet = Fleet::with_keys(keys, 2);
    fleet.add(&tiny(), None);
    let Keys { root, targets, snapshot, timestamp } = &fleet.keys;
    let sign = |fleet: &mut vedette::fleet::release::Repository, keys: &[SigningKey]| {
        fleet.sign(keys, Renew::Nothing, now()).expect("they have roles")
    };
    let repository = &mut fleet.repository;
    assert!(matches!(repository.sign(&targets[..1], Renew::Nothing, now()), Err(RepositoryError::NoRoot { .. })));
    let first = sign(repository, &root[..1]);
    let said = first.missing[0].words();
    assert!(said.starts_with("root: 1 of 2 signatures; keys that have not signed: "), "{said}");
    assert!(said.contains(&root[1].id()[..16]) && !said.contains(&root[0].id()[..16]), "{said}");
    let refused = block_on(publish::plan(repository, &Place::Dir(fleet_dir(repository.dir())))).expect_err("no root");
    assert!(matches!(&refused, PublishError::Unsigned { missing } if missing.contains("root: 1 of 2")), "{refused}");
    // The same holder twice is one holder.
    assert_eq!(sign(repository, &root[..1]).missing[0].signed.len(), 1);
    sign(repository, &root[2..]);
    for keys in [targets, snapshot, timestamp] {
        let half = sign(repository, &keys[..1]);
        assert_eq!((half.missing[0].signed.len(), half.missing[0].threshold), (1, 2), "{half:?}");
        sign(repository, &keys[1..2]);
    }
    assert!(repository.missing().is_empty(), "{:?}", repository.missing());
    fleet.publish();
    assert_eq!(seen(&fleet.published(), &fleet.first_root()).map(|r| r.len()), Ok(1));

    // A second root that only its own new keys have signed does not hold.
    let new = one();
    let change = Change::Replace { role: RoleType::Root, old: None, new: Some(new.public()) };
    fleet.repository.change_root(&[change], now()).expect("a root");
    fleet.repository.sign(&[new], Renew::Nothing, now()).expect("it has a role there");
    assert_eq!(fleet.repository.root().expect("the first").signed.version, NonZeroU64::MIN);
    assert_eq!(fleet.publish(), Vec::<String>::new());
    assert!(matches!(fleet.repository.change_root(&[], now()), Err(RepositoryError::RootWaits { .. })));
    fleet.repository.drop_root().expect("it waits");
    assert!(fleet.repository.missing().is_empty());
}

fn fleet_dir(repository: &Path) -> std::path::PathBuf {
    repository.with_file_name("nowhere")
}

#[test]
fn who_has_fast_forwarded_with_a_stolen_key_is_undone_by_a_new_one() {
    let mut fleet = repository_with(&[&tiny()]);
    let state = fleet.scratch().join("python");
    python(&fleet.published(), &fleet.first_root(), &state);
    let at = fleet.published().join("metadata/timestamp.json");
    let mut stolen: Signed<Timestamp> =
        serde_json::from_slice(&std::fs::read(&at).expect("published")).expect("a timestamp");
    stolen.signed.version = NonZeroU64::new(i32::MAX as u64).expect("not 0");
    stolen.signatures.clear();
    signatures::sign(&mut stolen, &fleet.keys.timestamp[0]).expect("the stolen key");
    std::fs::write(&at, serde_json::to_vec(&stolen).expect("JSON")).expect("writable");
    // The client takes it: nobody could know.
    let believed = python(&fleet.published(), &fleet.first_root(), &state);
    assert!(believed.is_none_or(|b| b.expect("valid")["versions"]["timestamp"] == i32::MAX));
    fleet.sign_with(Renew::Freshness);
    let behind = block_on(publish::publish(&fleet.repository, Arc::new(Place::Dir(fleet.published()))));
    assert!(matches!(behind, Err(PublishError::Behind { .. })), "{behind:?}");
    rotate(&mut fleet, &[RoleType::Timestamp], false);
    fleet.publish();
    assert_eq!(seen(&fleet.published(), &fleet.first_root()).map(|r| r.len()), Ok(1));
    if let Some(found) = python(&fleet.published(), &fleet.first_root(), &state) {
        assert_eq!(found.expect("it follows again")["versions"]["root"], 2);
    }
}

#[test]
fn a_revoked_key_is_out_of_every_role_and_changes_that_leave_too_few_are_refused() {
    let mut fleet = repository_with(&[]);
    let id = fleet.keys.targets[0].public().key_id().expect("an id");
    let refused = fleet.repository.change_root(&[Change::Revoke(id.clone())], now()).expect_err("the only key");
    assert!(refused.to_string().contains("would have 0 keys"), "{refused}");
    let both = one();
    let add = |role| Change::Replace { role, old: None, new: Some(both.public()) };
    let changes = [add(RoleType::Targets), add(RoleType::Snapshot), add(RoleType::Timestamp)];
    let root = fleet.repository.root().expect("a root").signed.clone();
    let root = root::changed(&root, &changes, now()).expect("more keys");
    let revoked = root::changed(&root, &[Change::Revoke(both.public().key_id().expect("an id"))], now());
    let revoked = revoked.expect("the others are there");
    assert_eq!((revoked.version.get(), revoked.keys.len()), (3, 4));
    assert!(revoked.roles.values().all(|r| r.keyids.len() == 1));
}

#[test]
fn freshness_leaves_what_waits_alone() {
    let mut fleet = repository_with(&[&tiny()]);
    let newer = variant(&tiny(), &fleet.scratch().join("newer"), &[("1.2.3", "1.3.0")]);
    fleet.add(&newer, None);
    let Keys { targets, snapshot, timestamp, .. } = &fleet.keys;
    for keys in [targets, snapshot] {
        fleet.repository.sign(keys, Renew::Nothing, now()).expect("they have roles");
    }
    for n in 2..5_u64 {
        fleet.repository.sign(timestamp, Renew::Freshness, now()).expect("it has a role");
        let at = fleet.repository.current();
        assert_eq!(at.timestamp.as_ref().expect("one").metadata.signed.version.get(), n);
        assert_eq!(fleet.repository.signed_releases().len(), 1);
    }
    assert!(fleet.repository.sign(timestamp, Renew::Nothing, now()).expect("it has a role").is_complete());
    assert_eq!(fleet.repository.signed_releases().len(), 2);
    fleet.publish();
}

#[test]
fn what_has_expired_is_not_published() {
    let mut fleet = repository_with(&[&tiny()]);
    let (before, after) = (now() - Duration::from_secs(10 * 86_400), now());
    fleet.repository.sign(&fleet.keys.timestamp, Renew::Freshness, before).expect("it has a role");
    let place = || Arc::new(Place::Dir(fleet.published()));
    let refused = block_on(publish::publish(&fleet.repository, place())).expect_err("it lasted 7 days");
    assert!(matches!(refused, PublishError::Here(_)) && refused.to_string().contains("--renew"), "{refused}");
    assert_eq!(seen(&fleet.published(), &fleet.first_root()).map(|r| r.len()), Ok(1), "what was there is there");
    fleet.repository.sign(&fleet.keys.timestamp, Renew::Freshness, after).expect("it has a role");
    fleet.publish();
}
