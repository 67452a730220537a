//! How the device is: a full picture every `heartbeat_s`, retained, and the trait by which the uplink asks for
//! it. Counters count since the daemon started.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::alert::ClockState;
use super::identity::IdentityStatus;
use super::outbox::OutboxStatus;
use super::state::{ArmingState, CameraCondition, CameraStatus, DeviceFacts, Origin};
use super::update::UpdateStatus;

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
    /// How much of the last minute work waited, by what it waited for (`cpu`, `memory`, `io`); empty where the kernel
    /// keeps no account.
    #[serde(default)]
    pub stalls: BTreeMap<String, StallHealth>,
    /// File systems the daemon writes to, by what lives there (`state`).
    pub disks: BTreeMap<String, DiskHealth>,
    /// Wear of the device's flash, by block device; those that don't tell are missing.
    #[serde(default)]
    pub wear: BTreeMap<String, WearHealth>,
    /// Degrees Celsius by sensor.
    pub temperatures_c: BTreeMap<String, f32>,
    /// What holds the machine back; absent where nothing of it can be read.
    pub throttling: Option<ThrottlingHealth>,
    /// Watts by rail, as the board calls it (`VDD_IN`); empty where none is measured. Rails overlap: they are not to be
    /// added up. Below zero is what flows back, or a sensor's error about zero.
    #[serde(default)]
    pub power_w: BTreeMap<String, f32>,
    /// The power mode in force, as the board calls it (a Jetson's `nvpmodel`: `15W`, `MAXN`); absent where there is none.
    #[serde(default)]
    pub power_mode: Option<String>,
    /// Clips that leave the device; absent where none does, by policy.
    #[serde(default)]
    pub uploads: Option<UploadHealth>,
}

/// Clips that leave the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct UploadHealth {
    /// To be sent.
    pub pending: u64,
    /// Sent, of those that the device still knows.
    pub done: u64,
    /// Given up, of those that the device still knows.
    pub failed: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Bytes handed to the network.
    pub sent_bytes: u64,
}

/// One camera: its state, and its counters.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CameraHealth {
    /// What it is doing, as in its own `camera` message.
    #[serde(default)]
    pub status: CameraStatus,
    /// Why, in words for a person; absent when all is well.
    pub reason: Option<String>,
    /// Why nothing on it can be detected though video comes, in words for a person; absent while the model sees it.
    pub blind: Option<String>,
    /// Whether incidents open on it; absent without a schedule: then always.
    pub arming: Option<ArmingState>,
    /// How often its pictures are looked at; absent for a camera that is only recorded.
    pub sampling: Option<SamplingHealth>,
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
    /// The newest video, in memory: where a clip's pre-roll comes from.
    #[serde(default)]
    pub ring: Option<RingHealth>,
    /// A network camera's own clock; absent where it doesn't tell.
    pub camera_clock: Option<CameraClockHealth>,
}

/// The newest video of a camera, in memory.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RingHealth {
    /// Seconds of video held.
    pub held_s: f32,
    /// Seconds of video that are kept at most.
    pub wanted_s: f32,
    /// Memory in use.
    pub bytes: u64,
    /// Memory that may be used.
    pub max_bytes: u64,
    /// The longest time from one keyframe to the next, in seconds.
    pub longest_group_s: f32,
    /// Seconds of video since the last keyframe.
    pub since_keyframe_s: f32,
    /// Why clips will lack video, in words for a person; absent when all is well.
    pub trouble: Option<String>,
}

/// A network camera's own clock, by its RTCP sender reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CameraClockHealth {
    /// Milliseconds that it is ahead of the device's clock; negative: behind. A picture's way from the lens to the device
    /// (some tens to hundreds of milliseconds) counts as behind.
    pub offset_ms: i64,
    /// Age of that measurement, in milliseconds.
    pub age_ms: u64,
}

/// How often a camera's pictures are looked at, in frames a second.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct SamplingHealth {
    /// What the model is made for.
    pub model_fps: f32,
    /// What it is shown now: less than `model_fps` while the machine can't keep up or is throttled (7, 6 or 5 eighths of it).
    #[serde(default)]
    pub aimed_fps: f32,
    /// Why it is less; absent when it isn't.
    #[serde(default)]
    pub slowed_by: Option<SlowedBy>,
    /// What came, in the mean over the last five seconds.
    pub frames_fps: f32,
}

/// Why the model is shown fewer frames than it is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SlowedBy {
    /// More frames came than the engine had time for.
    Overload,
    /// Something slows the machine down (`throttling`), or did until a moment ago.
    Throttling,
}

/// Time that inference takes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct InferenceHealth {
    /// Which engine.
    pub engine: String,
    /// Time a frame: its encoder pass and its share of the head's.
    pub frame_ms: Timing,
    /// From the arrival of a frame's access unit to the end of the pass that it was in: decoding, waiting, inference.
    #[serde(default)]
    pub delay_ms: Timing,
    /// Part of the last seconds that the engine worked.
    #[serde(default)]
    pub busy_percent: u32,
    /// What becomes of a better engine, in words: how far it is built, or why it does not serve. Absent: there is nothing
    /// to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better_engine: Option<String>,
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
    /// All of them together, since the start.
    #[serde(default)]
    pub sum: f64,
}

/// Memory. A Jetson's graphics processor uses the machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct MemoryHealth {
    /// Resident memory of the daemon.
    pub resident_bytes: u64,
    /// What programs of the machine could still have without swapping.
    pub available_bytes: Option<u64>,
    /// All memory of the machine.
    pub total_bytes: Option<u64>,
}

/// How much of the last minute work waited for something that was short, in percent of the time.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct StallHealth {
    /// At least one task waited.
    pub some_percent: f32,
    /// All tasks that were not idle waited at once; absent where the kernel doesn't say.
    pub all_percent: Option<f32>,
}

/// How worn flash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct WearHealth {
    /// Part of its rated life that is used up at most, in steps of 10; 110: more than all of it.
    pub life_used_percent: Option<u8>,
    /// What is left of the blocks that stand in for worn ones.
    pub reserve: Option<Reserve>,
}

/// Reserve blocks of flash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reserve {
    /// Enough.
    Normal,
    /// 80 % are used: replace the device soon.
    Warning,
    /// Hardly any are left: it may become read-only at any time.
    Urgent,
}

/// What the machine does against heat and over-current.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ThrottlingHealth {
    /// Something is slowed down now.
    pub active: bool,
    /// Cooling devices in force, by the kernel's name; fans are left out.
    pub cooling: BTreeMap<String, CoolingLevel>,
    /// Clocks of the processors, `cpu` and `gpu`, where they can be read; of several clusters the one that is limited most.
    pub clocks: BTreeMap<String, ProcessorClock>,
    /// Times since boot that the supply could not give the current asked for (Jetson Orin).
    pub over_current_events: Option<u64>,
}

/// How far a cooling device is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct CoolingLevel {
    /// From 0, not in force ...
    pub level: u64,
    /// ... to this.
    pub most: u64,
}

/// A processor's clock, in MHz.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ProcessorClock {
    /// Now.
    pub now_mhz: u32,
    /// The limit in force: heat sets one, and so does a power mode.
    pub limit_mhz: u32,
    /// What the hardware can.
    pub rated_mhz: u32,
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
    /// How it stands with its updates; none where it takes none.
    fn update(&self) -> Option<UpdateStatus> {
        None
    }
    /// How it stands with its certificate; none where it was not provisioned with one.
    fn identity(&self) -> Option<IdentityStatus> {
        None
    }
    /// Its cameras.
    fn cameras(&self) -> Vec<CameraCondition>;
    /// The clock. Must not block.
    fn clock(&self) -> ClockState;
    /// A version that grows whenever `facts` or `cameras` change.
    fn changed(&self) -> tokio::sync::watch::Receiver<u64>;
}
