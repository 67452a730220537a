//! What the device and its cameras are in: birth, will, and the state of each camera. All retained: the
//! latest alone, history is in the device's store.
//!
//! ```text
//!     connect:  will = offline, connection_lost, session n        (kept by the broker)
//!               birth = online, connected, session n
//!     stop:     offline, stopped, session n
//! ```
//!
//! A will with a smaller `session` than the last birth is stale: the device has come back since.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alert::{ClockState, ModelRef};

/// MQTT content type of everything that is not a CloudEvent.
pub const CONTENT_TYPE: &str = "application/json; charset=utf-8";

/// The broker waits so long before it calls the device offline: a connection that is made anew at once is no news.
pub const WILL_DELAY_S: u32 = 5;

/// Who says it, in which session, and when: the head of every state message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// Where the device stands.
    pub site: String,
    /// The device.
    pub device: String,
    /// The session counter: it grows with every connection, also across restarts, with gaps.
    pub session: u64,
    /// RFC 3339, UTC: the device's clock when it was sent. In a will: when the connection was made.
    pub publish_time: String,
    /// What that clock is worth.
    pub clock: ClockState,
}

/// Why the device is on- or offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StateReason {
    /// It has connected.
    Connected,
    /// It was stopped and said goodbye.
    Stopped,
    /// The broker lost it; said by its will.
    ConnectionLost,
}

/// What a device is, however it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceFacts {
    /// Version of the agent.
    pub agent_version: String,
    /// The model that looks; absent while none is loaded.
    pub model: Option<ModelRef>,
}

/// `.../state`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeviceState {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// Whether it is connected.
    pub online: bool,
    /// Why.
    pub reason: StateReason,
    /// RFC 3339, UTC: since when it is so; absent in a will, which is written before it comes true.
    pub since: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub facts: DeviceFacts,
}

/// What a camera is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CameraStatus {
    /// No picture yet.
    #[default]
    Starting,
    /// Pictures come.
    Live,
    /// Pictures have stopped; it is being restarted.
    Lost,
    /// A file that is at its end.
    Ended,
}

/// A camera as the device knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CameraCondition {
    /// The camera.
    pub camera: String,
    /// What it is doing.
    pub status: CameraStatus,
    /// RFC 3339, UTC: since when.
    pub since: String,
    /// Why, in words for a person; absent when all is well.
    pub reason: Option<String>,
    /// What a live local camera gives, as chosen of what it offers, in words for a person; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<String>,
    /// Why nothing on it can be detected though video comes, in words for a person; absent while the model sees it.
    pub blind: Option<String>,
    /// Whether incidents open on it; absent without a schedule: then always.
    pub arming: Option<ArmingState>,
}

/// Whether incidents open on a camera that has a schedule. While it is disarmed its video is recorded and watched
/// over as ever, and test alerts pass; an incident that was open goes on to its own end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ArmingState {
    /// Whether they do.
    pub armed: bool,
    /// RFC 3339, UTC: until when; absent if nothing changes it.
    pub until: Option<String>,
    /// Why it is not as the schedule says, in words for a person; absent when it is.
    pub reason: Option<String>,
}

/// `.../camera/{camera}`: holds only while the device's `state` says online.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CameraState {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// How it is.
    #[serde(flatten)]
    pub condition: CameraCondition,
}
