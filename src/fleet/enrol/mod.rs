//! Enrolment: the fleet's certificate authority, and which devices hold which certificates of it.
//!
//! ```text
//!   ca init ─► root (offline) ─► issuing authority ─┬─► device: bundle, or answer to its request
//!                                                   ├─► renewal: request over MQTT ─► certificate ─► `install_certificate`
//!                                                   └─► revocation list ─► the broker
//! ```
//!
//! | file | is |
//! |---|---|
//! | `authority` | the authority's files, and what it signs |
//! | `secret_key` | its keys, encrypted |
//! | `registry` | who is enrolled, with serial numbers and expiry; one file, locked and replaced whole |
//! | `request` | whether a request for a certificate is one, and whose |
//! | `renewals`, `line` | requests of devices that come over the broker, and the connection to it |
//! | `office` | enrolling, answering, renewing, revoking: a signature and its entry in the registry, together |
//!
//! What does not belong here: what a device does with what it is given (`agent::identity`), and which release it runs.
//!
//! Invariants: nothing is signed that is not in the registry first; a revoked device is given nothing; a key that has had a
//! certificate is given no other.

pub mod authority;
pub mod line;
pub mod office;
pub mod registry;
pub mod renewals;
pub mod request;
pub mod secret_key;

#[cfg(test)]
mod tests;
