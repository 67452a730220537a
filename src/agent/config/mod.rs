//! What the installer wrote, validated: the types below, or the list of everything that is wrong, each by its
//! key.
//!
//! ```text
//!     text ─► toml (with positions) ─► section ─► kind, files, secret, url ─► parse, camera, mqtt ─► Config
//!                                      one key     one value                  combinations      └─ diff (SIGHUP)
//!                                      at a time
//! ```
//!
//! What belongs here: limits, defaults, units, and errors a person on a ladder can act on. What does not:
//! looking at hardware or the network (that is `doctor`'s and the stages' work).
//!
//! Invariants: a [`Config`] that exists is one the daemon can start with; nothing is clamped silently; no
//! secret shows in `Debug` or in a message.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::contract::alert::{Place, Severity};

mod adapters;
mod camera;
mod diff;
mod files;
mod http;
mod kind;
mod local;
mod locate;
mod mqtt;
mod ota;
mod parse;
mod place;
mod problem;
mod schedule;
mod secret;
mod section;
mod shape;
mod spelling;
mod tensorrt;
mod units;
mod upload;
mod url;
pub mod x509;
#[cfg(test)]
mod tests;

pub use diff::{Applies, Change};
pub use locate::locate;
pub use parse::{load, parse};
pub use problem::{ConfigError, Problem};
pub use schedule::{Schedule, Span};
pub use secret::{SecretError, TlsPem};
pub use shape::{Mask, Point};
pub use url::{Broker, endpoint, parse_broker};

/// The name of a camera: 1 to 64 of `a-z A-Z 0-9 _ -`, unique on the device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct CameraId(pub Arc<str>);

impl CameraId {
    /// From a name already known to be valid.
    pub fn new(name: &str) -> Self {
        CameraId(Arc::from(name))
    }
}

impl fmt::Display for CameraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The whole configuration of one device.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Who and where this device is.
    pub device: Device,
    /// Where its data lives.
    pub paths: Paths,
    /// What it looks with.
    pub model: Model,
    /// What it looks at; 1 to 64, with at most 4,096 MB for all their rings.
    pub cameras: Vec<Camera>,
    /// When evidence becomes an incident.
    pub incident: Incident,
    /// What footage an incident keeps.
    pub clip: Clip,
    /// What is kept on the disk, and for how long.
    pub storage: Storage,
    /// `[severity]`: how bad a class is, instead of what the product says of it.
    pub severity: BTreeMap<String, Severity>,
    /// Where alerts go; none: incidents and clips stay on the device.
    pub mqtt: Option<Mqtt>,
    /// Which clips leave the device, and where to; none: they stay (`policy = "never"`).
    pub upload: Option<Upload>,
    /// The device's own HTTPS, for links to clips.
    pub http: Http,
    /// `[metrics]`, `listen`: address and port on which Prometheus finds the metrics; default none.
    pub metrics: Option<SocketAddr>,
    /// In whose formats besides.
    pub adapters: Adapters,
    /// The GPU's engine.
    pub tensorrt: TensorRt,
    /// Where models come from over the air; none: they come with the package.
    pub ota: Option<Ota>,
}

/// `[device]`
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// `site`: where the device stands; 1 to 64 of `a-z A-Z 0-9 _ -`. Part of every topic.
    pub site: String,
    /// `id`: the device; same form; unique in the site.
    pub id: String,
    /// `place`: where it is, and every camera that has none of its own; default: not said.
    pub place: Option<Place>,
}

/// `[paths]`
#[derive(Debug, Clone, PartialEq)]
pub struct Paths {
    /// `state_dir`: database and clips. Default `/var/lib/vedette`.
    pub state_dir: PathBuf,
    /// `runtime_dir`: the daemon's socket; at most 80 bytes long. Default `/run/vedette`.
    pub runtime_dir: PathBuf,
}

/// `[model]`
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// `dir`: a model directory (manifest, networks, golden vectors). Default `/usr/share/vedette/models/default`.
    pub dir: PathBuf,
    /// `threads`: CPU threads for the encoder, 1 to 64; default 1.
    pub threads: usize,
    /// `precision`: which of the model's networks run on the CPU, `fp32`, `fp16` or `int8`; default `fp32`.
    pub precision: Precision,
    /// `engine`: `auto` (TensorRT where the machine has it, the CPU until that is ready and everywhere else) or `cpu`.
    /// Default `auto`.
    pub engine: EngineChoice,
    /// `stride`: sampled frames from one window to the next, 1 to 16; default the manifest's.
    pub stride: Option<usize>,
    /// `onnxruntime`: path of libonnxruntime.so; default: searched for (see `infer::onnx`).
    pub onnxruntime: Option<PathBuf>,
}

/// On what a model's networks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineChoice {
    /// On TensorRT where the machine has it, on the CPU until that is ready and everywhere else.
    Auto,
    /// On the CPU, whatever the machine has.
    Cpu,
}

/// `[tensorrt]`: the GPU's engine, where there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorRt {
    /// `precision`: `fp16` or `fp32`; default `fp16`.
    pub precision: Precision,
    /// `library`: path of libnvinfer.so; default: searched for (see `infer::tensorrt::machine`).
    pub library: Option<PathBuf>,
    /// `shim`: path of the shim for it; default: searched for.
    pub shim: Option<PathBuf>,
    /// `dla_core`: the deep learning accelerator that computes what it can, 0 or 1; default none.
    pub dla_core: Option<u8>,
    /// `cuda_graph`: whether a pass is one launch; default true.
    pub cuda_graph: bool,
    /// `workspace_mb`: largest scratch memory of a layer, 16 to 8192 MB (10^6 bytes), less where a build that begins would
    /// leave the machine less than `build_keeps_free_mb`; default 512 MB.
    pub workspace_bytes: u64,
    /// `build_memory_mb`: memory of its own that a build may take, 256 to 32,768 MB; default 3,000 MB.
    pub build_memory_bytes: u64,
    /// `build_keeps_free_mb`: a build is ended when the machine has less memory left, 64 to 8192 MB; default 400 MB.
    pub build_keeps_free_bytes: u64,
    /// `build_within_s`: the longest that a build may take, 60 to 14,400 s; default 3,600 s.
    pub build_within: Duration,
    /// `cache_mb`: what plans may take on the disk, 32 to 8192 MB; the oldest go, never those in use; default 512 MB.
    pub cache_bytes: u64,
}

/// `[ota]`: where models come from over the air, and what they must show before they are trusted.
#[derive(Debug, Clone, PartialEq)]
pub struct Ota {
    /// `repository`: `https://host[:port][/path]` of a TUF repository (`metadata/`, `targets/`, `files/` below it), or a
    /// directory. Here always a URL, without a slash at its end.
    pub repository: String,
    /// `root_file`: the root metadata that the device was given; all trust begins with it. What the file holds.
    pub root_json: Vec<u8>,
    /// `ca_file`: the only authorities that are trusted for the server's certificate; default the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// `cert_file`, `key_file`: the device's certificate and key, where the server asks for them.
    pub client: Option<ClientFiles>,
    /// `check_every_s`: how often the signed metadata are looked at, 10 to 604,800 s; default 3,600 s.
    pub check_every: Duration,
    /// `limit_kbps`: at most so fast, 8 to 10,000,000 kbit/s; default as fast as it goes. Here bytes a second.
    pub limit_bytes_per_s: Option<u64>,
    /// `schedule`: releases are fetched and put in within the spans of this `[schedule.<name>]`; default at any time.
    pub schedule: Option<Schedule>,
    /// `shadow_s`: how long a new model looks on before it serves, 0 to 604,800 s; default 600 s.
    pub shadow: Duration,
    /// `trial_s`: how long it serves before it is what the device goes back to, 1 to 604,800 s; default 1,800 s.
    pub trial: Duration,
    /// `min_agreement`: the share of windows on which it must raise what the model before it raises, 0 to 1; default 0.8.
    pub min_agreement: f32,
    /// `max_alert_factor`: so many times the alerts of the device's history are let pass, 1 to 100; default 3.
    pub max_alert_factor: u32,
    /// `max_model_mb`: the files of a model have at most so much, 1 to 4,000 MB (10^6 bytes); default 500 MB.
    pub max_model_bytes: u64,
    /// `proof_memory_mb`: memory that loading and proving a model may take, 128 to 32,768 MB; default 2,000 MB.
    pub proof_memory_bytes: u64,
    /// `proof_within_s`: the longest that it may take, 10 to 7,200 s; default 300 s.
    pub proof_within: Duration,
    /// `hardware`: classes that this device counts as, besides those that it finds by itself.
    pub hardware: Vec<String>,
}

/// What a model's networks compute in. A model carries some or all of them; its manifest says how far each may be from its
/// golden vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    Fp32,
    /// 16-bit floating point, where the graph says so (strongly typed).
    Fp16,
    /// The encoder's convolutions in 8-bit integers, for processors without floating-point units to spare; the head is
    /// that of FP32.
    Int8,
}

impl Precision {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Precision); 3] =
        [("fp32", Precision::Fp32), ("fp16", Precision::Fp16), ("int8", Precision::Int8)];
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Precision::Fp32 => "fp32",
            Precision::Fp16 => "fp16",
            Precision::Int8 => "int8",
        })
    }
}

/// `[[camera]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Camera {
    /// `id`; none begins with `_`, which stands for the device itself in topics.
    pub id: CameraId,
    /// `kind` and the keys that go with it.
    pub source: Source,
    /// `place`: where it is; default: that of the device.
    pub place: Option<Place>,
    /// `classify`: whether the model looks at it; false only records. Default true.
    pub classify: bool,
    /// `schedule`: the name of the `[schedule.<name>]` by which incidents open on it; default: always.
    pub schedule: Option<Schedule>,
    /// `region`: what is classified, normalised to the full picture; default all of it.
    pub region: Option<Region>,
    /// `masks`: what is hidden from everything, at most 32; default nothing. A camera with masks is always encoded anew.
    pub masks: Vec<Mask>,
    /// `thresholds.<Class>`: overrides of the manifest's, above `incident.hysteresis`, at most 1. Whether the
    /// model has the classes: [`Config::check_classes`].
    pub thresholds: BTreeMap<String, f32>,
    /// `ring_seconds`: video kept in memory, 5 to 300 s; at least pre-roll + 5 s; default 30 s.
    pub ring_time: Duration,
    /// `ring_max_mb`: and at most so much of it, 4 to 1024 MB (10^6 bytes); default 64 MB.
    pub ring_max_bytes: usize,
    /// `encode_kbps`: bit rate where the video has to be encoded, 100 to 50,000 kbit/s; default 2,000.
    pub encode_kbps: u32,
    /// `frozen_after_s`: no new picture for so long restarts the camera; 2 to 300 s; default 10 s.
    pub frozen_after: Duration,
}

/// `region`, a rectangle normalised to the full picture: 0 <= x, x + width <= 1 (but for rounding), likewise y;
/// at least 0.05 each way. All four keys are required.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Left edge.
    pub x: f32,
    /// Top edge.
    pub y: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

/// Where a camera's video comes from. To show it, use its `Display`, which leaves out the path of a URL: some
/// cameras want a password there.
#[derive(Clone, PartialEq)]
pub enum Source {
    /// `kind = "file"`
    File {
        /// `path`
        path: PathBuf,
        /// `pace`: `"realtime"` (default) or `"flat_out"`.
        pace: Pace,
        /// `repeat`: start over at the end; default false (the camera then ends).
        repeat: bool,
    },
    /// `kind = "rtsp"`
    Rtsp {
        /// `url`: `rtsp://` or `rtsps://`, without credentials in it.
        url: String,
        /// `credentials_file`: two lines, user and password; not readable by others.
        credentials: Option<Credentials>,
        /// `transport`: `"auto"` (default), `"tcp"`, `"udp"`, `"multicast"` or `"http"`.
        transport: Transport,
        /// `latency_ms`: jitter buffer, 0 to 5,000 ms; default 200 ms.
        latency: Duration,
    },
    /// `kind = "v4l2"`: a camera with a device node, such as a USB camera.
    V4l2 {
        /// `device`: `/dev/videoN`, or better a link below `/dev/v4l/by-id`, which names the same camera wherever it is
        /// plugged in.
        device: PathBuf,
        /// `width`, `height`, `fps`, `format`
        wish: VideoWish,
        /// `controls.<name>`, by the names of `v4l2-ctl --list-ctrls`; default none.
        controls: BTreeMap<String, ControlValue>,
    },
    /// `kind = "csi"`: a sensor on a Jetson's CSI connector, through NVIDIA's libargus.
    Csi {
        /// `sensor_id`, 0 to 15; default 0.
        sensor_id: u32,
        /// `sensor_mode`, 0 to 63; default: libargus chooses by size and rate.
        sensor_mode: Option<u32>,
        /// `width` in pixels, 32 to 8192; default 1280.
        width: u32,
        /// `height` in pixels, 32 to 8192; default 720.
        height: u32,
        /// `fps`, frames a second, 1 to 240; default 30.
        fps: u32,
    },
    /// `kind = "test"`: a moving pattern, for a device without a camera.
    Test {
        /// `width`, 32 to 8192; default 640.
        width: u32,
        /// `height`, 32 to 8192; default 360.
        height: u32,
        /// `fps`, 1 to 60; default 15.
        fps: u32,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { path, .. } => write!(f, "{}", path.display()),
            Source::Rtsp { url, .. } => f.write_str(&url::without_path(url)),
            Source::V4l2 { device, .. } => write!(f, "{}", device.display()),
            Source::Csi { sensor_id, .. } => write!(f, "CSI sensor {sensor_id}"),
            Source::Test { width, height, fps } => write!(f, "test pattern, {width}x{height}, {fps} fps"),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// What a local camera is to give. What is left out is chosen by what it offers (`capture::v4l2::choose`); what stands
/// here and isn't offered is an error when the camera is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VideoWish {
    /// `width` in pixels, 32 to 8192.
    pub width: Option<u32>,
    /// `height` in pixels, 32 to 8192.
    pub height: Option<u32>,
    /// `fps`, frames a second, 1 to 240.
    pub fps: Option<u32>,
    /// `format`
    pub format: Option<VideoFormat>,
}

/// How a local camera's video is coded, the preferred one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VideoFormat {
    /// `"h264"`: stored as it comes.
    H264,
    /// `"h265"`: stored as it comes.
    H265,
    /// `"mjpeg"`: decoded and encoded on the device.
    Mjpeg,
    /// `"raw"`: encoded on the device.
    Raw,
}

impl VideoFormat {
    /// All of them, with their words.
    pub const ALL: [(&'static str, VideoFormat); 4] = [
        ("h264", VideoFormat::H264),
        ("h265", VideoFormat::H265),
        ("mjpeg", VideoFormat::Mjpeg),
        ("raw", VideoFormat::Raw),
    ];
}

/// What a control of a local camera is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlValue {
    /// A number.
    Number(i64),
    /// On or off.
    Switch(bool),
    /// The label of a menu's item.
    Label(String),
}

impl fmt::Display for ControlValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlValue::Number(n) => write!(f, "{n}"),
            ControlValue::Switch(on) => write!(f, "{on}"),
            ControlValue::Label(label) => write!(f, "{label:?}"),
        }
    }
}

/// How a network camera's video travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Over TCP; should the camera refuse that, by UDP, and then by multicast.
    Auto,
    /// Within the RTSP connection: nothing is lost, and one port is enough for a firewall.
    Tcp,
    /// By UDP, to ports that the device names.
    Udp,
    /// By UDP, to a group that the camera names.
    Multicast,
    /// Within an HTTP connection, for networks that let nothing else through.
    Http,
}

/// How fast a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As if it were a camera; late pictures are dropped.
    Realtime,
    /// As fast as the machine goes; nothing is dropped.
    FlatOut,
}

/// A user and a password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User.
    pub user: String,
    /// Password.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// `[incident]`: the defaults for all cameras.
#[derive(Debug, Clone, PartialEq)]
pub struct Incident {
    /// `smoothing`: weight of the newest window in the running mean of scores, above 0, at most 1; default 0.5.
    pub smoothing: f32,
    /// `hysteresis`: an incident holds until the score falls below threshold - hysteresis; 0 to 0.5; default 0.1.
    pub hysteresis: f32,
    /// `min_windows`: consecutive windows above the threshold before it opens; 1 to 64; default 2.
    pub min_windows: u32,
    /// `close_after_s`: and closes after so long below; 0 to 600 s; default 5 s.
    pub close_after: Duration,
    /// `cool_down_s`: the same class opens no new incident on the camera for so long after one closed: new
    /// evidence within it reopens (merges into) nothing and is counted; 0 to 3600 s; default 0 s.
    pub cool_down: Duration,
    /// `merge_within_s`: new evidence of any class so soon after it fell below continues the same incident (a camera
    /// has one at a time, reported as the class of the highest score); 0 to 600 s; default 10 s. An incident therefore closes after the greater of this and
    /// `close_after_s`; both are shorter than `max_length_s`.
    pub merge_within: Duration,
    /// `max_length_s`: a longer incident is closed and a new one opened; 10 to 3600 s; default 120 s.
    pub max_length: Duration,
    /// `update_every_s`: at most one `updated` alert in so long, unless the class changes or the score rises by 0.1; 1 to 600 s; default 5 s.
    pub update_every: Duration,
}

impl Default for Incident {
    fn default() -> Self {
        Incident {
            smoothing: 0.5,
            hysteresis: 0.1,
            min_windows: 2,
            close_after: Duration::from_secs(5),
            cool_down: Duration::ZERO,
            merge_within: Duration::from_secs(10),
            max_length: Duration::from_secs(120),
            update_every: Duration::from_secs(5),
        }
    }
}

/// `[clip]`
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    /// `pre_roll_s`: 0 to 120 s; default 10 s.
    pub pre_roll: Duration,
    /// `post_roll_s`: 0 to 120 s; default 10 s.
    pub post_roll: Duration,
}

/// `[storage]`
#[derive(Debug, Clone, PartialEq)]
pub struct Storage {
    /// `keep_days`: clips older than this are deleted; 1 to 3,650 days; default 30.
    pub keep: Duration,
    /// `clips_max_mb`: all clips together at most; 10 MB to 100 TB; default: as much as `min_free_bytes` leaves.
    pub clips_max_bytes: Option<u64>,
    /// `min_free_mb`: so much of the disk is kept free; 0 to 1 TB; default 500 MB.
    pub min_free_bytes: u64,
    /// `keep_incidents_days`: rows of incidents whose clip is gone, and the audit trail; 1 to 36,500 days; default 365.
    pub keep_incidents: Duration,
}

/// `[mqtt]`
#[derive(Debug, Clone, PartialEq)]
pub struct Mqtt {
    /// `url`: `mqtts://host[:8883]` or `wss://host[:443][/mqtt]`; without encryption `mqtt://host[:1883]` or
    /// `ws://host[:80][/mqtt]`, for a broker on the loopback interface (elsewhere only with `allow_plaintext = true`).
    /// One, or a list of 1 to 8: they are tried in turn, and one that works is kept.
    pub brokers: Vec<Broker>,
    /// For the brokers with TLS; none if there is no such.
    pub tls: Option<MqttTls>,
    /// `credentials_file`: two lines, user and password; not readable by others. Read again for each connection.
    pub credentials_file: Option<PathBuf>,
    /// `heartbeat_s`: 1 to 3600 s; default 30 s.
    pub heartbeat_every: Duration,
    /// `keep_alive_s`: 5 to 3600 s; default 30 s.
    pub keep_alive: Duration,
    /// `renew_at`: the share of its certificate's life that is left when a provisioned device asks for the next, 0.05 to 0.95;
    /// default 0.33.
    pub renew_at: f32,
    /// `consumers`: who must confirm an alert before its row is let go; default `["soc"]`; empty: delivery to
    /// the broker is all that is promised.
    pub consumers: Vec<String>,
    /// `keep_days`: an unconfirmed alert is let go after so long; 1 to 3650 days; default 30 days.
    pub keep: Duration,
    /// `keep_mb`: and the oldest where all of them take more than so much, 10 to 100,000 MB (10^6 bytes); default 500 MB.
    pub keep_bytes: u64,
    /// `thumbnails`: a small picture of the peak goes into the alert that a clip is ready, at most 32 KiB; default false.
    pub thumbnails: bool,
}

/// `[adapters.*]`: formats of others, each none unless `enabled = true`; default false. They need `[mqtt]`. A prefix is the
/// first 1 to 8 levels of a topic.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adapters {
    /// `[adapters.onvif]`
    pub onvif: Option<OnvifAdapter>,
    /// `[adapters.home_assistant]`
    pub home_assistant: Option<HomeAssistantAdapter>,
    /// `[adapters.frigate]`
    pub frigate: Option<FrigateAdapter>,
}

/// `[adapters.onvif]`: ONVIF events in JSON (`onvif-ej`).
#[derive(Debug, Clone, PartialEq)]
pub struct OnvifAdapter {
    /// `prefix`: what stands before `{site}/{device}/onvif-ej`; default `vedette/v1`.
    pub prefix: String,
}

/// `[adapters.home_assistant]`: MQTT discovery.
#[derive(Debug, Clone, PartialEq)]
pub struct HomeAssistantAdapter {
    /// `discovery_prefix`: as it is set in Home Assistant; default `homeassistant`.
    pub discovery_prefix: String,
}

/// `[adapters.frigate]`: the shape of Frigate's events.
#[derive(Debug, Clone, PartialEq)]
pub struct FrigateAdapter {
    /// `prefix`: Frigate's `topic_prefix`; default `frigate`. Devices at one broker share it only if their cameras have
    /// different names.
    pub prefix: String,
}

/// TLS of `[mqtt]`, version 1.2 or 1.3. The files were right when the configuration was read; they are renewed while the
/// daemon runs, so that their content is read again for each connection ([`MqttTls::read`]).
#[derive(Debug, Clone, PartialEq)]
pub struct MqttTls {
    /// `ca_file`: PEM, the only authorities that may have signed the broker's certificate; required.
    pub ca_file: PathBuf,
    /// `cert_file` and `key_file`: PEM; both or neither.
    pub client: Option<ClientFiles>,
    /// `alpn`: protocols offered to the broker in the TLS handshake, the preferred one first; default none.
    pub alpn: Vec<String>,
}

/// The files by which the device proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// `cert_file`
    pub cert: PathBuf,
    /// `key_file`
    pub key: PathBuf,
}

/// A private key in PEM; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretPem(pub Vec<u8>);

impl fmt::Debug for SecretPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretPem(hidden)")
    }
}

/// `[upload]`
#[derive(Debug, Clone, PartialEq)]
pub struct Upload {
    /// `policy`: `"never"` (default), `"on_request"` or `"always"`.
    pub policy: UploadPolicy,
    /// `url`, with `endpoint` and `region` for S3.
    pub target: UploadTarget,
    /// `ca_file`: PEM; the only authorities that are trusted for it; default: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// `credentials_file`: two lines, access key and secret (S3) or user and password (HTTP); required for S3.
    pub credentials: Option<Credentials>,
    /// `limit_kbps`: at most so fast, 8 to 10,000,000 kbit/s; default: as fast as it goes.
    pub limit_bytes_per_s: Option<u64>,
    /// `schedule`: the name of the `[schedule.<name>]` in whose spans clips are sent; default: always.
    pub schedule: Option<Schedule>,
    /// `part_mb`: S3 takes a larger clip in parts of so many MB (10^6 bytes), and after a power cut goes on at the next
    /// one; 6 to 100, for S3 takes none below 5 MiB; default 8.
    pub part_bytes: usize,
}

/// Which clips leave the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadPolicy {
    /// Those that somebody asks for.
    OnRequest,
    /// All.
    Always,
}

/// Where clips go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadTarget {
    /// `s3://bucket[/prefix]`
    S3 {
        /// The bucket.
        bucket: String,
        /// Before every key, without slashes at its ends; may be empty.
        prefix: String,
        /// `endpoint`: of another service than Amazon's; `http://` only on the loopback interface, or with
        /// `allow_plaintext = true`.
        endpoint: Option<String>,
        /// `region`, default `us-east-1`.
        region: String,
    },
    /// `https://host[:port][/path]`, to which files are PUT.
    Http {
        /// Without a slash at its end.
        url: String,
    },
}

/// `[http]`
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// `listen`: address and port for HTTPS, such as `0.0.0.0:8443`; default none: nothing listens.
    pub listen: Option<SocketAddr>,
    /// `cert_file` and `key_file`: PEM; default: a certificate that the device makes and signs itself.
    pub certificate: Option<(Vec<u8>, SecretPem)>,
    /// `public_url`: where others reach `listen`; default: by its address, or by the host's name.
    pub public_url: Option<String>,
    /// `link_valid_s`: so long a link can be used; 10 to 604,800 s; default 3,600 s.
    pub link_valid: Duration,
    /// `links_in_alerts`: `clip_ready` alerts carry a link; default false.
    pub links_in_alerts: bool,
}
