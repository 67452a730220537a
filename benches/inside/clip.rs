//! Writing a clip: units in memory, as a ring holds them, to a whole file under its name.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use vedette::agent::capture::{
    AccessUnit, CameraState, Capture, CaptureSink, Continuity, Frame, Snapshots, Stats, Wants,
};
use vedette::agent::clip::mp4::write_clip;
use vedette::agent::config::{Camera, CameraId, Pace, Source};
use vedette::base::clock::{Clock, SystemClock};
use vedette::base::progress::Beat;
use vedette::base::stop::StopToken;

use crate::{ms, thread_cpu};

pub fn measure(video: &Path, dir: &Path, length: Duration, clips: usize) -> anyhow::Result<Value> {
    let units = units_of(video, length)?;
    let bytes: usize = units.iter().map(|u| u.data.len()).sum();
    let clock = SystemClock::new();
    let (mut cpu_ms, mut wall_ms) = (Vec::new(), Vec::new());
    for n in 0..clips {
        let path = dir.join(format!("{n}.mp4"));
        let (cpu, began) = (thread_cpu(), clock.now());
        let written = write_clip(&path, &units, clock.wall())?;
        cpu_ms.push(ms(thread_cpu() - cpu));
        wall_ms.push(ms(clock.now().since(began)));
        ensure!(written.samples == units.len(), "{} of {} pictures were written", written.samples, units.len());
        std::fs::remove_file(&path)?;
    }
    Ok(json!({ "units": units.len(), "bytes": bytes, "cpu_ms": cpu_ms, "wall_ms": wall_ms }))
}

/// The first units of a file, by the agent's own capture.
fn units_of(video: &Path, length: Duration) -> anyhow::Result<Vec<AccessUnit>> {
    let sink = Arc::new(Kept { until: length, units: Mutex::default(), full: StopToken::new() });
    let capture = Capture {
        camera: Camera {
            place: None,
            id: CameraId::new("bench"),
            source: Source::File { path: video.to_owned(), pace: Pace::FlatOut, repeat: false },
            classify: false,
            schedule: None,
            region: None,
            masks: Vec::new(),
            thresholds: Default::default(),
            ring_time: Duration::ZERO,
            ring_max_bytes: 0,
            encode_kbps: 0,
            frozen_after: Duration::from_secs(30),
        },
        wants: Wants { access_units: true, frames: None },
        clock: Arc::new(SystemClock::new()),
        sink: sink.clone(),
        stats: Arc::new(Stats::default()),
        snapshots: Snapshots::default(),
    };
    capture.run_once(&mut Continuity::default(), &sink.full, &Beat::detached())?;
    let units = std::mem::take(&mut *sink.units.lock().expect("nothing panics under this lock"));
    let length_s = units.last().context("the video has no access unit")?.dts.as_nanos() as f64 / 1e9;
    ensure!(length_s > length.as_secs_f64() * 0.95, "the video has only {length_s:.1} s");
    Ok(units)
}

struct Kept {
    until: Duration,
    units: Mutex<Vec<AccessUnit>>,
    full: StopToken,
}

impl CaptureSink for Kept {
    fn access_unit(&self, unit: AccessUnit) {
        if u128::from(unit.dts.as_nanos()) < self.until.as_nanos() {
            self.units.lock().expect("nothing panics under this lock").push(unit);
        } else {
            self.full.stop();
        }
    }

    fn frame(&self, _: Frame) {}

    fn state(&self, _: CameraState) {}
}
