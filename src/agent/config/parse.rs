//! From the text of the file to a [`Config`]: which keys there are, their defaults and limits, and which
//! combinations are impossible. `[[camera]]`, `[schedule]`, `[mqtt]`, `[adapters]`, `[upload]`,
//! `[http]` and `[metrics]` have files of their own.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included};
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;

use super::kind::{Fault, choice, days, days_long, fraction, integer, name, seconds, unspoken_choice};
use super::problem::{ConfigError, Problem};
use super::section::{Document, Section, line_of};
use super::units::Unit;
use super::{
    Camera, Clip, Config, Device, EngineChoice, Incident, Model, Paths, Precision, Storage, adapters, camera, files,
    http, mqtt, ota, place, schedule, tensorrt, upload,
};
use crate::contract::alert::{NORMAL, Severity};

/// Most memory that the rings of all cameras may take together, in MB (10^6 bytes).
const ALL_RINGS_MAX_MB: usize = 4096;
const ENGINES: [(&str, EngineChoice); 2] = [("auto", EngineChoice::Auto), ("cpu", EngineChoice::Cpu)];
/// Most cameras of one device.
const CAMERAS_MAX: usize = 64;

/// Reads and validates the configuration file at `path`, and the secrets and certificates that it names.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_path_buf(), source };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    // Absolute, so that a message names a file that can be found from anywhere.
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let base_dir = absolute.parent().unwrap_or(Path::new("/"));
    parse(&text, base_dir).map_err(|problems| ConfigError::Invalid { path: path.to_path_buf(), problems })
}

/// Validates the text of a configuration whose relative paths start at `base_dir`. Reads the secrets and
/// certificates that it names. The problems are in the order of the text.
pub fn parse(text: &str, base_dir: &Path) -> Result<Config, Vec<Problem>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let mut problems: Vec<Problem> = errors.iter().map(|error| syntax_problem(text, error)).collect();
        // The parser's later words on one line are about what its first ones led to.
        problems.sort_by_key(|p| p.line);
        problems.dedup_by_key(|p| p.line);
        return Err(problems);
    }
    let document = Document::new(text);
    let config = document.read(table.get_ref(), |root| read(root, base_dir));
    let problems = document.finish();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

/// Without the parser's own picture of the line, which may show a secret.
fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    // What is missing at the end is missing in the last line, not in one behind it.
    let end = text.trim_end_matches(['\n', '\r']).len();
    let at = error.span().map(|span| span.start.min(end));
    let column = at.map(|at| {
        let before = &text.as_bytes()[..at];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        1 + String::from_utf8_lossy(&before[line_start..]).chars().count()
    });
    Problem {
        key: String::new(),
        line: at.map(|at| line_of(text, at)),
        message: match column {
            Some(column) => format!("column {column}: not TOML: {}", error.message()),
            None => format!("not TOML: {}", error.message()),
        },
        remedy: "text stands in quotes, a section's name in brackets, a key once only; see https://toml.io".into(),
    }
}

fn read(root: &mut Section<'_>, base_dir: &Path) -> Option<Config> {
    let device = root.section("device", device);
    let paths = root.section("paths", |s| paths(s, base_dir));
    let model = root.section("model", |s| model(s, base_dir));
    let mut context = camera::Context { base_dir, hysteresis: None, pre_roll: None, schedules: None };
    let incident = root.section("incident", |s| incident(s, &mut context));
    let clip = root.section("clip", |s| clip(s, &mut context));
    context.schedules = root.named_sections("schedule", schedule::read);
    let cameras = cameras(root, &context);
    let storage = root.section("storage", storage);
    let severity = root.map("severity", unspoken_choice(Severity::ALL), |class, _| match class {
        NORMAL => Err(Fault::with_remedy("never makes an incident", "leave it out")),
        _ => Ok(()),
    });
    let connected = root.has("mqtt");
    let mqtt = root.optional_section("mqtt", |s| mqtt::read(s, base_dir));
    let adapters = root.section("adapters", |s| adapters::read(s, connected));
    let upload = root.section("upload", |s| upload::read(s, &context));
    let http = root.section("http", |s| http::read(s, base_dir));
    let metrics = root.section("metrics", http::metrics);
    let ota = root.optional_section("ota", |s| ota::read(s, &context));
    let tensorrt = root.section("tensorrt", |s| tensorrt::read(s, base_dir));
    context.schedules?;
    Some(Config {
        device: device?,
        paths: paths?,
        model: model?,
        cameras: cameras?,
        incident: incident?,
        clip: clip?,
        storage: storage?,
        severity: severity?,
        mqtt: mqtt?,
        upload: upload?,
        http: http?,
        metrics: metrics?,
        adapters: adapters?,
        tensorrt: tensorrt?,
        ota: ota?,
    })
}

fn device(s: &mut Section<'_>) -> Option<Device> {
    let site = s.required("site", name());
    let id = s.required("id", name());
    let place = s.optional_section("place", place::read);
    Some(Device { site: site?, id: id?, place: place? })
}

fn paths(s: &mut Section<'_>, base_dir: &Path) -> Option<Paths> {
    let state_dir = s.or_text("state_dir", "/var/lib/vedette", files::path(base_dir));
    let runtime_dir = s.or_text("runtime_dir", "/run/vedette", files::runtime_dir(base_dir));
    Some(Paths { state_dir: state_dir?, runtime_dir: runtime_dir? })
}

fn model(s: &mut Section<'_>, base_dir: &Path) -> Option<Model> {
    let dir = s.or_text("dir", "/usr/share/vedette/models/default", files::model_dir(base_dir));
    let threads = s.or("threads", 1, integer(1..=64, None).map(|n| n as usize));
    let precision = s.or("precision", Precision::Fp32, choice(Precision::ALL));
    let engine = s.or("engine", EngineChoice::Auto, choice(ENGINES));
    let stride = s.optional("stride", integer(1..=16, None).map(|n| n as usize));
    let onnxruntime = s.optional("onnxruntime", files::file(base_dir));
    let (threads, precision, engine) = (threads?, precision?, engine?);
    Some(Model { dir: dir?, threads, precision, engine, stride: stride?, onnxruntime: onnxruntime? })
}

fn incident(s: &mut Section<'_>, context: &mut camera::Context<'_>) -> Option<Incident> {
    let default = Incident::default();
    let smoothing = s.or("smoothing", default.smoothing, fraction((Excluded(0.0), Included(1.0))));
    let hysteresis = s.or("hysteresis", default.hysteresis, fraction(0.0..=0.5));
    context.hysteresis = hysteresis;
    let min_windows = s.or("min_windows", default.min_windows, integer(1..=64, None));
    let close_after = s.or("close_after_s", default.close_after, seconds(0..=600));
    let cool_down = s.or("cool_down_s", default.cool_down, seconds(0..=3600));
    let merge_within = s.or("merge_within_s", default.merge_within, seconds(0..=600));
    let max_length = s.or("max_length_s", default.max_length, seconds(10..=3600));
    let update_every = s.or("update_every_s", default.update_every, seconds(1..=600));
    for (key, quiet) in [("close_after_s", close_after), ("merge_within_s", merge_within)] {
        if let (Some(quiet), Some(longest)) = (quiet, max_length)
            && quiet >= longest
        {
            s.problem(
                key,
                format!(
                    "with {} s no incident could close before max_length_s = {} s",
                    quiet.as_secs_f64(),
                    longest.as_secs_f64()
                ),
                "make it shorter than max_length_s",
            );
        }
    }
    Some(Incident {
        smoothing: smoothing?,
        hysteresis: hysteresis?,
        min_windows: min_windows?,
        close_after: close_after?,
        cool_down: cool_down?,
        merge_within: merge_within?,
        max_length: max_length?,
        update_every: update_every?,
    })
}

fn clip(s: &mut Section<'_>, context: &mut camera::Context<'_>) -> Option<Clip> {
    let pre_roll = s.or("pre_roll_s", Duration::from_secs(10), seconds(0..=120));
    let post_roll = s.or("post_roll_s", Duration::from_secs(10), seconds(0..=120));
    context.pre_roll = pre_roll;
    Some(Clip { pre_roll: pre_roll?, post_roll: post_roll? })
}

fn storage(s: &mut Section<'_>) -> Option<Storage> {
    let megabytes = |range| integer(range, Some(Unit::Megabytes)).map(|mb| u64::from(mb) * 1_000_000);
    let keep = s.or("keep_days", days_long(30), days(3_650));
    let clips_max_bytes = s.optional("clips_max_mb", megabytes(10..=100_000_000));
    let min_free_bytes = s.or("min_free_mb", 500_000_000, megabytes(0..=1_000_000));
    let keep_incidents = s.or("keep_incidents_days", days_long(365), days(36_500));
    if let (Some(clips), Some(rows)) = (keep, keep_incidents)
        && rows < clips
    {
        let message = "an incident's row would go before its clip may";
        s.problem("keep_incidents_days", message, "make it at least keep_days");
    }
    Some(Storage {
        keep: keep?,
        clips_max_bytes: clips_max_bytes?,
        min_free_bytes: min_free_bytes?,
        keep_incidents: keep_incidents?,
    })
}

fn cameras(root: &mut Section<'_>, context: &camera::Context<'_>) -> Option<Vec<Camera>> {
    let (mut taken, mut all_rings_mb, mut count) = (BTreeSet::new(), 0, 0);
    let cameras = root.sections("camera", |s| {
        count += 1;
        let camera = camera::read(s, context, &mut taken)?;
        all_rings_mb += camera.ring_max_bytes / 1_000_000;
        Some(camera)
    });
    if count == 0 && cameras.is_some() {
        root.problem("camera", "there is none", "add a section [[camera]] with id and kind");
        return None;
    }
    if count > CAMERAS_MAX {
        root.problem("camera", format!("there are {count}"), format!("at most {CAMERAS_MAX} on one device"));
    }
    if all_rings_mb > ALL_RINGS_MAX_MB {
        root.problem(
            "camera",
            format!("ring_max_mb of all cameras together is {all_rings_mb} MB of memory"),
            format!("allowed: {ALL_RINGS_MAX_MB} MB together; lower ring_max_mb"),
        );
    }
    cameras
}
