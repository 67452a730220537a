//! What `vedette status` shows: everything the device knows of itself, at one moment. The daemon answers it on its
//! socket, and the command `diagnostics` with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alert::ClockState;
use super::heartbeat::HealthReport;
use super::outbox::OutboxStatus;
use super::state::{CameraCondition, DeviceFacts};

/// The answer of `/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceStatus {
    /// One line for a person.
    pub summary: String,
    /// What it is.
    pub agent: DeviceFacts,
    /// Whether it knows the time.
    pub clock: ClockState,
    /// Its cameras, in the words of their `camera` messages.
    pub cameras: Vec<CameraCondition>,
    /// How it is, as in the heartbeat.
    pub health: HealthReport,
    /// The durable queue; absent without a broker in the config, or while the database does not answer.
    pub outbox: Option<OutboxStatus>,
    /// Its own HTTPS; absent where nothing listens, by config.
    #[serde(default)]
    pub https: Option<HttpsStatus>,
}

/// The device's own HTTPS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpsStatus {
    /// Address and port.
    pub listen: String,
    /// SHA-256 of its certificate, as `openssl x509 -fingerprint -sha256` writes it.
    pub fingerprint_sha256: Option<String>,
    /// The device made the certificate itself: compare its fingerprint.
    pub self_signed: bool,
    /// Why it does not work; absent when all is well.
    pub trouble: Option<String>,
}
