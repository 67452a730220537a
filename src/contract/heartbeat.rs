//! How the device is: a full picture every `heartbeat_s`, retained, and the trait by which the uplink asks for
//! it. Counters count since the daemon started.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alert::ClockState;
use super::outbox::OutboxStatus;
use super::state::{CameraCondition, DeviceFacts, Origin};

/// `.../heartbeat`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// How it is.
    #[serde(flatten)]
    pub health: HealthReport,
    /// The durable queue; absent while the database does not answer.
    pub outbox: Option<OutboxStatus>,
}

/// `.../outbox`: the same queue, said whenever it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutboxState {
    /// Who says it.
    #[serde(flatten)]
    pub origin: Origin,
    /// The queue.
    #[serde(flatten)]
    pub status: OutboxStatus,
}

/// What the rest of the device reports of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct HealthReport {
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Cameras by id.
    pub cameras: BTreeMap<String, CameraHealth>,
    /// What was dropped, by cause; a cause that never came may be absent.
    pub drops: BTreeMap<String, u64>,
    /// Inference; absent while no model is loaded.
    pub inference: Option<InferenceHealth>,
    /// Memory of the machine and of the daemon.
    pub memory: Option<MemoryHealth>,
    /// File systems the daemon writes to, by what lives there (`state`).
    pub disks: BTreeMap<String, DiskHealth>,
    /// Degrees Celsius by sensor.
    pub temperatures_c: BTreeMap<String, f32>,
}

/// One camera's counters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CameraHealth {
    /// Access units that came from the camera or the encoder.
    pub access_units: u64,
    /// Pictures decoded.
    pub pictures: u64,
    /// Frames handed to inference.
    pub frames: u64,
    /// Windows scored.
    pub windows: u64,
    /// Incidents opened.
    pub incidents: u64,
    /// Times it was restarted.
    pub restarts: u64,
    /// Drops by cause.
    pub drops: BTreeMap<String, u64>,
    /// Age of the newest access unit, in milliseconds; absent before the first.
    pub last_video_age_ms: Option<u64>,
}

/// Time that inference takes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct InferenceHealth {
    /// Which engine.
    pub engine: String,
    /// Time a frame: its encoder pass and its share of the head's.
    pub frame_ms: Timing,
}

/// Durations of late, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Timing {
    /// How many since the start.
    pub count: u64,
    /// Median.
    pub median: f32,
    /// 99 of 100 are below.
    pub p99: f32,
    /// The longest.
    pub max: f32,
}

/// Memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct MemoryHealth {
    /// Resident memory of the daemon.
    pub resident_bytes: u64,
}

/// A file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct DiskHealth {
    /// What the daemon could still write.
    pub free_bytes: u64,
    /// Its size.
    pub total_bytes: u64,
}

/// Where the uplink learns how the device is. `health` (through `run`) implements it.
pub trait HealthSource: Send + Sync {
    /// How it is now. May read sensors and block briefly; the uplink does not call it on an async thread.
    fn report(&self) -> HealthReport;
    /// What it is.
    fn facts(&self) -> DeviceFacts;
    /// Its cameras.
    fn cameras(&self) -> Vec<CameraCondition>;
    /// The clock. Must not block.
    fn clock(&self) -> ClockState;
    /// A version that grows whenever `facts` or `cameras` change.
    fn changed(&self) -> tokio::sync::watch::Receiver<u64>;
}
