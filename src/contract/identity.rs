//! The device's certificate, and its request for the next.
//!
//! ```text
//!     settled ─► requested ─► switching ─► settled       (the broker takes the new certificate: the old one is done with)
//!        ▲           │            │
//!        │           │            └─► settled, with trouble: it does not, and the old one is gone back to
//!        └───────────┘ the certificate does not come: the request stays
//! ```
//!
//! The device makes each key itself; none leaves it. Whoever answers signs the request in `request_pem` if it is in the name
//! that the topic has, and sends `install_certificate`. Nothing here is secret.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::state::Origin;

/// Where the device is with its certificate; see the module's diagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// The certificate is in use, and the broker takes it.
    Settled,
    /// It asks for the next.
    Requested,
    /// It has the next, and was not connected with it yet.
    Switching,
}

/// How a device stands with its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdentityStatus {
    /// Where it is.
    pub state: IdentityState,
    /// The serial number of the certificate that it was last connected with, hexadecimal.
    pub serial: String,
    /// RFC 3339, UTC: until when that is valid.
    pub not_after: String,
    /// The key of that certificate came in a bundle, and is to be replaced.
    pub travelled: bool,
    /// The request for the next certificate (PKCS#10, PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_pem: Option<String>,
    /// What went wrong last, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// `.../identity`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Identity")]
pub struct IdentityMessage {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// How it stands.
    #[serde(flatten)]
    pub status: IdentityStatus,
}
