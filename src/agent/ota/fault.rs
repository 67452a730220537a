//! What went wrong on the way from the repository, and what attack it looks like: the errors of `tough` and of our own
//! transport, by the names of the TUF and Uptane specifications.

use std::error::Error;

use tough::error::Error as Tuf;
use tough::schema::Error as Schema;

use super::remote::RemoteError;
use crate::base::error::Chain;
use crate::contract::update::{UpdateFault, UpdateReason};

/// Why a step came to nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Trouble {
    /// Something is wrong with what was offered.
    #[error("{}: {}", .0.fault.as_str(), .0.words)]
    Fault(UpdateReason),
    /// Something is not as it should be here or on the way, and may be so later.
    #[error("{0}")]
    Wait(String),
    /// It was called off, or the daemon ends.
    #[error("it was called off")]
    Stopped,
}

impl Trouble {
    /// A fault, in words for a person.
    pub fn fault(fault: UpdateFault, words: impl Into<String>) -> Trouble {
        Trouble::Fault(UpdateReason { fault, words: words.into() })
    }

    /// What `tough` said.
    pub fn of_tuf(e: &Tuf) -> Trouble {
        let words = Chain(e).to_string();
        let mut next: Option<&(dyn Error + 'static)> = Some(e);
        while let Some(e) = next {
            if let Some(fault) = e.downcast_ref::<Tuf>().and_then(of_tuf) {
                return Trouble::fault(fault, words);
            }
            if let Some(fault) = e.downcast_ref::<Schema>().and_then(of_schema) {
                return Trouble::fault(fault, words);
            }
            if let Some(e) = e.downcast_ref::<RemoteError>() {
                return Trouble::of_remote(e);
            }
            next = e.source();
        }
        Trouble::Wait(words)
    }

    /// What the way said.
    pub fn of_remote(e: &RemoteError) -> Trouble {
        let words = Chain(e).to_string();
        match e {
            RemoteError::Endless { .. } => Trouble::fault(UpdateFault::EndlessData, words),
            RemoteError::Slow { .. } => Trouble::fault(UpdateFault::SlowRetrieval, words),
            RemoteError::NotFound { .. } | RemoteError::Away { .. } | RemoteError::Certificates(_) => {
                Trouble::Wait(words)
            }
        }
    }
}

fn of_tuf(e: &Tuf) -> Option<UpdateFault> {
    use UpdateFault::*;
    Some(match e {
        Tuf::ExpiredMetadata { .. } => IndefiniteFreeze,
        Tuf::OlderMetadata { .. } | Tuf::OlderSnapshotInTimestamp { .. } | Tuf::SnapshotRoleRollback { .. } => Rollback,
        Tuf::HashMismatch { .. }
        | Tuf::VersionMismatch { .. }
        | Tuf::SnapshotRoleMissing { .. }
        | Tuf::SnapshotTargetsMetaMissing { .. }
        | Tuf::MissingSnapshotMeta { .. }
        | Tuf::TimestampMetaLength { .. }
        | Tuf::MetaMissing { .. } => MixAndMatch,
        Tuf::MaxSizeExceeded { .. } | Tuf::MaxUpdatesExceeded { .. } => EndlessData,
        Tuf::ParseMetadata { .. } | Tuf::NoRoleKeysinRoot { .. } => ArbitrarySoftware,
        _ => return None,
    })
}

fn of_schema(e: &Schema) -> Option<UpdateFault> {
    Some(match e {
        // Nobody whom the root trusts has signed it: a stranger, or a key that was revoked.
        Schema::SignatureThreshold { valid: 0, .. } => UpdateFault::ArbitrarySoftware,
        Schema::SignatureThreshold { .. } => UpdateFault::KeyThreshold,
        Schema::DuplicateKeyId { .. } | Schema::InvalidKeyId { .. } | Schema::MissingRole { .. } => {
            UpdateFault::ArbitrarySoftware
        }
        _ => return None,
    })
}

impl UpdateFault {
    /// Whether it shows before anything is loaded.
    pub(super) fn is_found_again(self) -> bool {
        matches!(self, UpdateFault::MalformedManifest | UpdateFault::ExtraneousTarget)
    }

    /// Whether it is of the way, the mirror or the clock, and not of the release itself: then the release may be offered
    /// again.
    pub(super) fn may_pass(self) -> bool {
        use UpdateFault::*;
        match self {
            ArbitrarySoftware | KeyThreshold | Rollback | IndefiniteFreeze | MixAndMatch | EndlessData
            | SlowRetrieval | ExtraneousTarget | DamagedFile | SlotDamaged | AgentTooOld | Memory => true,
            // They depend on this device's configuration, and are found again at once.
            WrongHardware | Incompatible => true,
            MalformedManifest | BuildFailed | BuildCrashed | GoldenVectors | Latency | Disagreement | AlertFlood
            | EngineErrors | Restarted => false,
        }
    }
}
