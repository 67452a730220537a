//! Signing metadata, and who has signed them. By the rules of TUF and with `tough`'s own verification, so that what is
//! called complete here is so for a device.

use std::collections::HashMap;
use std::num::NonZeroU64;

use tough::schema::{Role, RoleType, Root, Signature, Signed};

use super::{SignError, SigningKey, hex};

/// Adds the key's signature, or replaces the one that it made before.
pub fn sign<T: Role>(metadata: &mut Signed<T>, key: &SigningKey) -> Result<(), SignError> {
    let no_form = |_| SignError::Library(key.id());
    let form = metadata.signed.canonical_form().map_err(no_form)?;
    let keyid = key.public().key_id().map_err(no_form)?;
    let sig = key.sign_bytes(&form)?.into();
    metadata.signatures.retain(|s| s.keyid != keyid);
    metadata.signatures.push(Signature { keyid, sig });
    Ok(())
}

/// How far a role's signatures have come.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Standing {
    /// The role.
    #[serde(serialize_with = "name")]
    pub role: RoleType,
    /// Keys that have to sign.
    pub threshold: u64,
    /// Ids of the role's keys that have signed.
    pub signed: Vec<String>,
    /// Ids of those that have not.
    pub missing: Vec<String>,
}

fn name<S: serde::Serializer>(role: &RoleType, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(role)
}

impl Standing {
    /// Whether enough have signed.
    pub fn is_complete(&self) -> bool {
        self.signed.len() as u64 >= self.threshold
    }

    /// "1 of 2 signatures; ... have not signed", for people.
    pub fn words(&self) -> String {
        let short: Vec<_> = self.missing.iter().map(|id| &id[..id.len().min(16)]).collect();
        let (have, of) = (self.signed.len(), self.threshold);
        let who = match short.len() as u64 + have as u64 {
            all if all < of => format!("; root has only {all} keys for this role"),
            _ => format!("; keys that have not signed: {}", short.join(", ")),
        };
        format!("{}: {have} of {of} signatures{}", self.role, if self.is_complete() { "" } else { &who })
    }
}

/// Who has signed `metadata`, by what `root` says of its role.
pub fn standing<T: Role + Clone>(root: &Root, metadata: &Signed<T>) -> Standing {
    let Some(keys) = root.roles.get(&T::TYPE) else {
        return Standing { role: T::TYPE, threshold: u64::MAX, signed: Vec::new(), missing: Vec::new() };
    };
    let (mut signed, mut missing) = (Vec::new(), Vec::new());
    for id in &keys.keyids {
        // The root as it would be if this key's word were enough.
        let mut alone = root.clone();
        let role = alone.roles.get_mut(&T::TYPE).expect("it is a clone");
        (role.keyids, role.threshold) = (vec![id.clone()], NonZeroU64::MIN);
        let signatures = metadata.signatures.iter().filter(|s| s.keyid == *id).cloned().collect();
        let valid = alone.verify_role(&Signed { signed: metadata.signed.clone(), signatures }).is_ok();
        if valid { &mut signed } else { &mut missing }.push(hex(id));
    }
    Standing { role: T::TYPE, threshold: keys.threshold.get(), signed, missing }
}

/// Which roles a key has in `root`.
pub fn roles_of(root: &Root, key: &SigningKey) -> Vec<RoleType> {
    let Ok(id) = key.public().key_id() else { return Vec::new() };
    super::root::ROLES.into_iter().filter(|role| root.roles.get(role).is_some_and(|r| r.keyids.contains(&id))).collect()
}

/// Metadata without signatures.
pub fn unsigned<T>(signed: T) -> Signed<T> {
    Signed { signed, signatures: Vec::new() }
}

/// No unknown fields: what `tough` wants where it keeps those of others.
pub fn nothing_more() -> HashMap<String, serde_json::Value> {
    HashMap::new()
}
