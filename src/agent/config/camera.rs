//! `[[camera]]`: its keys, defaults and limits, and what it must agree on with the rest of the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::path::Path;
use std::time::Duration;

use super::kind::{Fault, boolean, choice, fraction, integer, is_name, name, seconds};
use super::section::Section;
use super::spelling::{alternatives, nearest};
use super::units::Unit;
use super::{
    Camera, CameraId, Config, Pace, Problem, Schedule, Source, Transport, files, local, place, secret, shape, url,
};
use crate::contract::alert::NORMAL;

/// What other sections say that a camera must agree with. `None`: it is wrong, which was noted.
pub(super) struct Context<'a> {
    pub(super) base_dir: &'a Path,
    pub(super) hysteresis: Option<f32>,
    pub(super) pre_roll: Option<Duration>,
    pub(super) schedules: Option<BTreeMap<String, Schedule>>,
}

/// A ring holds the pre-roll and so much more: the keyframe before it may be that far back.
pub(super) const RING_BEYOND_PRE_ROLL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq)]
enum SourceKind {
    Csi,
    File,
    Rtsp,
    Test,
    V4l2,
}

/// The keys that do not go with every kind.
const KEYS_OF_KINDS: [(SourceKind, &str, &[&str]); 5] = [
    (SourceKind::Csi, "csi", local::CSI),
    (SourceKind::File, "file", &["path", "pace", "repeat"]),
    (SourceKind::Rtsp, "rtsp", &["url", "credentials_file", "transport", "latency_ms"]),
    (SourceKind::Test, "test", &["width", "height", "fps"]),
    (SourceKind::V4l2, "v4l2", local::V4L2),
];

const TRANSPORTS: [(&str, Transport); 5] = [
    ("auto", Transport::Auto),
    ("tcp", Transport::Tcp),
    ("udp", Transport::Udp),
    ("multicast", Transport::Multicast),
    ("http", Transport::Http),
];

/// Reads one camera; `taken` holds the ids of those before it.
pub(super) fn read(s: &mut Section<'_>, context: &Context<'_>, taken: &mut BTreeSet<String>) -> Option<Camera> {
    if let Some(id) = s.peek("id").filter(|id| is_name(id) && !taken.contains(*id)) {
        s.rename(format!("camera[{id}]"));
    }
    let id = s.required("id", name());
    if let Some(id) = &id
        && !taken.insert(id.clone())
    {
        s.problem("id", format!("{id:?} is the id of another camera"), "give each camera its own");
    }
    if id.as_deref().is_some_and(|id| id.starts_with('_')) {
        s.problem("id", "names that begin with _ stand for the device itself", "choose another one");
    }
    let source = source(s, context);
    let place = s.optional_section("place", place::read);
    let classify = s.or("classify", true, boolean());
    let schedule = schedule(s, context, classify);
    let region = s.optional_section("region", shape::region);
    let masks = shape::masks(s);
    let threshold = fraction((Excluded(0.0), Included(1.0)));
    let thresholds = s.map("thresholds", threshold, |class, threshold| match context.hysteresis {
        _ if class == NORMAL => Err(Fault::with_remedy("never makes an incident", "leave it out")),
        Some(hysteresis) if *threshold <= hysteresis => Err(Fault::with_remedy(
            format!("an incident above {threshold} would never close: incident.hysteresis is {hysteresis}"),
            "make it greater than the hysteresis",
        )),
        _ => Ok(()),
    });
    let ring_time = s.or("ring_seconds", Duration::from_secs(30), seconds(5..=300));
    let ring_max_bytes =
        s.or("ring_max_mb", 64_000_000, integer(4..=1024, Some(Unit::Megabytes)).map(|mb| mb as usize * 1_000_000));
    let encode_kbps = s.or("encode_kbps", 2000, integer(100..=50_000, Some(Unit::KilobitsPerSecond)));
    let frozen_after = s.or("frozen_after_s", Duration::from_secs(10), seconds(2..=300));

    if let (Some(ring), Some(pre_roll)) = (ring_time, context.pre_roll) {
        let least = pre_roll + RING_BEYOND_PRE_ROLL;
        if ring < least {
            s.problem(
                "ring_seconds",
                format!("{} s of video cannot hold clip.pre_roll_s = {} s", ring.as_secs_f64(), pre_roll.as_secs_f64()),
                format!("at least pre_roll_s + 5: {}", least.as_secs_f64()),
            );
        }
    }
    Some(Camera {
        id: CameraId::new(&id?),
        source: source?,
        place: place?,
        classify: classify?,
        schedule: schedule?,
        region: region?,
        masks: masks?,
        thresholds: thresholds?,
        ring_time: ring_time?,
        ring_max_bytes: ring_max_bytes?,
        encode_kbps: encode_kbps?,
        frozen_after: frozen_after?,
    })
}

fn schedule(s: &mut Section<'_>, context: &Context<'_>, classify: Option<bool>) -> Option<Option<Schedule>> {
    if classify == Some(false) && s.has("schedule") {
        s.problem("schedule", "with classify = false nothing is detected at any time", "leave out one of the two");
    }
    named_schedule(s, context)
}

/// The `[schedule.<name>]` that the key `schedule` names.
pub(super) fn named_schedule(s: &mut Section<'_>, context: &Context<'_>) -> Option<Option<Schedule>> {
    let Some(wanted) = s.optional("schedule", name())? else { return Some(None) };
    // If the schedules are wrong, that was said.
    let schedules = context.schedules.as_ref()?;
    if let Some(schedule) = schedules.get(&wanted) {
        return Some(Some(schedule.clone()));
    }
    let known: Vec<&str> = schedules.keys().map(String::as_str).collect();
    let remedy = match nearest(&wanted, known.iter().copied()) {
        Some(right) => format!("did you mean {right:?}?"),
        None if known.is_empty() => format!("add a section [schedule.{wanted}]"),
        None => format!("there is {}", alternatives(&known)),
    };
    s.problem("schedule", format!("there is no section [schedule.{wanted}]"), remedy);
    None
}

fn source(s: &mut Section<'_>, context: &Context<'_>) -> Option<Source> {
    let kind = s.required("kind", choice(KEYS_OF_KINDS.map(|(kind, word, _)| (word, kind))));
    // Each once, though several kinds may have it.
    let all: BTreeSet<&'static str> = KEYS_OF_KINDS.iter().flat_map(|(_, _, keys)| *keys).copied().collect();
    for key in all {
        let with = KEYS_OF_KINDS.iter().filter(|(_, _, keys)| keys.contains(&key));
        match kind {
            Some(kind) if with.clone().all(|(other, ..)| *other != kind) => {
                let words: Vec<String> = with.map(|(_, word, _)| format!("{word:?}")).collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let message = format!("goes with kind = {} only", alternatives(&words));
                s.out_of_place(key, &message, "leave it out, or change kind");
            }
            Some(_) => {}
            // What else the camera has cannot be judged.
            None => s.pass_over(key),
        }
    }
    match kind? {
        SourceKind::Csi => local::csi(s),
        SourceKind::V4l2 => local::v4l2(s),
        SourceKind::File => {
            let path = s.required("path", files::file(context.base_dir));
            let pace =
                s.or("pace", Pace::Realtime, choice([("realtime", Pace::Realtime), ("flat_out", Pace::FlatOut)]));
            let repeat = s.or("repeat", false, boolean());
            if (pace, repeat) == (Some(Pace::FlatOut), Some(true)) {
                s.problem("repeat", "with pace = \"flat_out\" it would never come to an end", "use one or the other");
            }
            Some(Source::File { path: path?, pace: pace?, repeat: repeat? })
        }
        SourceKind::Rtsp => {
            let url = s.required("url", url::camera());
            let credentials = s.optional("credentials_file", secret::credentials(context.base_dir));
            let transport = s.or("transport", Transport::Auto, choice(TRANSPORTS));
            let latency = s.or(
                "latency_ms",
                Duration::from_millis(200),
                integer(0..=5000, Some(Unit::Milliseconds)).map(|ms| Duration::from_millis(ms.into())),
            );
            if transport == Some(Transport::Http) && url.as_ref().is_some_and(|url| url.starts_with("rtsps:")) {
                s.problem("transport", "\"http\" goes with rtsp:// only", "use \"tcp\", which rtsps:// encrypts");
            }
            Some(Source::Rtsp { url: url?, credentials: credentials?, transport: transport?, latency: latency? })
        }
        SourceKind::Test => {
            let width = s.or("width", 640, integer(32..=8192, None));
            let height = s.or("height", 360, integer(32..=8192, None));
            let fps = s.or("fps", 15, integer(1..=60, None));
            Some(Source::Test { width: width?, height: height?, fps: fps? })
        }
    }
}

impl Config {
    /// What is wrong with the class names in the configuration, given the classes that the model has.
    pub fn check_classes(&self, classes: &[String]) -> Vec<Problem> {
        let classes: Vec<&str> = classes.iter().map(String::as_str).filter(|c| *c != NORMAL).collect();
        let of_cameras = self.cameras.iter().flat_map(|camera| {
            let key = move |class| (format!("camera[{}].thresholds.{class}", camera.id), class);
            camera.thresholds.keys().map(key)
        });
        let unknown = of_cameras
            .chain(self.severity.keys().map(|class| (format!("severity.{class}"), class)))
            .filter(|(_, class)| !classes.contains(&class.as_str()));
        unknown
            .map(|(key, class)| Problem {
                key,
                line: None,
                message: "the model has no such class".into(),
                remedy: match nearest(class, classes.iter().copied()) {
                    Some(right) => format!("did you mean {right}?"),
                    None => format!("it has {}", alternatives(&classes)),
                },
            })
            .collect()
    }
}
