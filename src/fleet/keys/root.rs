//! Root metadata: made, changed, checked. Pure: what it is given goes in, what is to be signed comes out.
//!
//! Every change is one version more; it holds once a threshold of the old root's keys and of its own have signed it. How
//! long each role's metadata last stands in it too (`x-vedette-days`), so that all who sign agree.

use std::num::NonZeroU64;

use jiff::{SignedDuration, Timestamp};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::schema::{RoleKeys, RoleType, Root, Signed};

use super::signatures::{Standing, nothing_more, standing};
use super::{hex, spec};
use crate::base::clock::Wall;

/// The roles that a repository has, in the order in which they are trusted.
pub const ROLES: [RoleType; 4] = [RoleType::Root, RoleType::Targets, RoleType::Snapshot, RoleType::Timestamp];

const SPEC_VERSION: &str = "1.0.31";
const DAYS: &str = "x-vedette-days";

/// Why a root cannot be changed so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootError {
    /// More signatures are asked for than there are keys.
    #[error("the role {role} would have {keys} keys and a threshold of {threshold}: add keys, or lower the threshold")]
    Threshold {
        /// Which.
        role: RoleType,
        /// Its keys.
        keys: usize,
        /// What it asks.
        threshold: u64,
    },
    /// No key has this id.
    #[error("no key of the root begins with {typed:?}; vedette-fleet keys list shows them (8 digits are enough)")]
    NoKey {
        /// What was typed.
        typed: String,
    },
    /// Several keys begin so.
    #[error("{found} keys of the root begin with {typed:?}: type more digits")]
    Ambiguous {
        /// What was typed.
        typed: String,
        /// How many.
        found: usize,
    },
    /// The key is not in the role.
    #[error("the key {id} is not in the role {role}")]
    NotInRole {
        /// The key.
        id: String,
        /// The role.
        role: RoleType,
    },
    /// It is there already.
    #[error("the key {id} is in the role {role} already")]
    InRole {
        /// The key.
        id: String,
        /// The role.
        role: RoleType,
    },
    /// A time outside of the calendar.
    #[error("{days} days from now is no date")]
    Date {
        /// What was asked.
        days: u32,
    },
    /// A key whose id cannot be computed.
    #[error("a key has no id: it cannot be written as JSON")]
    NoId,
    /// It was changed as often as it can be.
    #[error("the version of the root cannot be raised further")]
    Versions,
}

/// What `init` is told of one role.
#[derive(Debug, Clone)]
pub struct RolePlan {
    /// Which.
    pub role: RoleType,
    /// Its keys.
    pub keys: Vec<Key>,
    /// Signatures that it needs.
    pub threshold: NonZeroU64,
    /// How long what it signs lasts.
    pub days: u32,
}

/// So many days from `now`, on a whole second: other clients read no fractions.
pub fn expiry(now: Wall, days: u32) -> Result<Timestamp, RootError> {
    let bad = |_| RootError::Date { days };
    let now = Timestamp::from_second(now.unix_ms().div_euclid(1000)).map_err(bad)?;
    now.checked_add(SignedDuration::from_hours(i64::from(days) * 24)).map_err(bad)
}

/// The version after this one.
pub fn next(version: NonZeroU64) -> Result<NonZeroU64, RootError> {
    version.checked_add(1).ok_or(RootError::Versions)
}

/// How long what a role signs lasts, as the root says; the default where it was made by another program.
pub fn days(root: &Root, role: RoleType) -> u32 {
    let said = root.roles.get(&role).and_then(|r| r._extra.get(DAYS)?.as_u64());
    said.and_then(|d| u32::try_from(d).ok()).unwrap_or(default_days(role))
}

/// How long a role's metadata last where nothing is said.
pub fn default_days(role: RoleType) -> u32 {
    match role {
        RoleType::Root => 365,
        RoleType::Targets | RoleType::DelegatedTargets => 90,
        RoleType::Snapshot => 30,
        RoleType::Timestamp => 7,
    }
}

/// Version 1.
pub fn first(plans: &[RolePlan], now: Wall) -> Result<Root, RootError> {
    let root_days = plans.iter().find(|p| p.role == RoleType::Root).map_or(default_days(RoleType::Root), |p| p.days);
    let mut root = Root {
        spec_version: SPEC_VERSION.into(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: expiry(now, root_days)?,
        keys: Default::default(),
        roles: Default::default(),
        _extra: nothing_more(),
    };
    for plan in plans {
        let keys = RoleKeys { keyids: Vec::new(), threshold: plan.threshold, _extra: nothing_more() };
        root.roles.insert(plan.role, keys);
        set_days(&mut root, plan.role, plan.days);
        for key in &plan.keys {
            add(&mut root, plan.role, key)?;
        }
    }
    check(&root)?;
    Ok(root)
}

/// What may be done to a root.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new key of a role in the place of an old one; either may be absent.
    Replace {
        /// The role.
        role: RoleType,
        /// Goes.
        old: Option<Decoded<Hex>>,
        /// Comes.
        new: Option<Key>,
    },
    /// A key goes from every role.
    Revoke(Decoded<Hex>),
    /// Another threshold.
    Threshold(RoleType, NonZeroU64),
    /// Another lifetime of what a role signs.
    Days(RoleType, u32),
}

/// The root after these changes, one version on and with a fresh expiry. None at all is a renewal.
pub fn changed(root: &Root, changes: &[Change], now: Wall) -> Result<Root, RootError> {
    let mut new = root.clone();
    new.version = next(root.version)?;
    for change in changes {
        match change {
            Change::Replace { role, old, new: key } => {
                if let Some(id) = old {
                    remove(&mut new, *role, id)?;
                }
                if let Some(key) = key {
                    add(&mut new, *role, key)?;
                }
            }
            Change::Revoke(id) => {
                for role in ROLES {
                    // Absent from this role is what is wanted.
                    let _absent = remove(&mut new, role, id);
                }
            }
            Change::Threshold(role, threshold) => {
                if let Some(keys) = new.roles.get_mut(role) {
                    keys.threshold = *threshold;
                }
            }
            Change::Days(role, days) => set_days(&mut new, *role, *days),
        }
    }
    // A key without a role has no business in a root.
    let used: Vec<_> = new.roles.values().flat_map(|r| r.keyids.iter().cloned()).collect();
    new.keys.retain(|id, _| used.contains(id));
    new.expires = expiry(now, days(&new, RoleType::Root))?;
    check(&new)?;
    Ok(new)
}

/// The key whose id begins as somebody typed it.
pub fn find(root: &Root, typed: &str) -> Result<Decoded<Hex>, RootError> {
    let found: Vec<_> = root.keys.keys().filter(|id| spec::matches_id(id, typed)).collect();
    match found[..] {
        [one] => Ok(one.clone()),
        [] => Err(RootError::NoKey { typed: typed.into() }),
        _ => Err(RootError::Ambiguous { typed: typed.into(), found: found.len() }),
    }
}

/// Who has to sign a new root yet: by the root before it, if there is one, and by itself.
pub fn standings(before: Option<&Root>, new: &Signed<Root>) -> Vec<Standing> {
    let mut all: Vec<_> = before.iter().map(|root| standing(root, new)).collect();
    all.push(standing(&new.signed, new));
    all.dedup();
    all
}

fn set_days(root: &mut Root, role: RoleType, days: u32) {
    if let Some(keys) = root.roles.get_mut(&role) {
        keys._extra.insert(DAYS.into(), days.into());
    }
}

fn add(root: &mut Root, role: RoleType, key: &Key) -> Result<(), RootError> {
    let id = key.key_id().map_err(|_| RootError::NoId)?;
    let Some(keys) = root.roles.get_mut(&role) else { return Err(RootError::NotInRole { id: hex(&id), role }) };
    if keys.keyids.contains(&id) {
        return Err(RootError::InRole { id: hex(&id), role });
    }
    keys.keyids.push(id.clone());
    root.keys.insert(id, key.clone());
    Ok(())
}

fn remove(root: &mut Root, role: RoleType, id: &Decoded<Hex>) -> Result<(), RootError> {
    let not_there = || RootError::NotInRole { id: hex(id), role };
    let keys = root.roles.get_mut(&role).ok_or_else(not_there)?;
    let before = keys.keyids.len();
    keys.keyids.retain(|k| k != id);
    if keys.keyids.len() == before { Err(not_there()) } else { Ok(()) }
}

fn check(root: &Root) -> Result<(), RootError> {
    for role in ROLES {
        let (keys, threshold) = root.roles.get(&role).map_or((0, 1), |r| (r.keyids.len(), r.threshold.get()));
        if (keys as u64) < threshold {
            return Err(RootError::Threshold { role, keys, threshold });
        }
    }
    Ok(())
}
