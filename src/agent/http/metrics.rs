//! The device's health as Prometheus reads it (text format 0.0.4): the same report as the heartbeat's, in units and under
//! names after the Prometheus conventions. Rendering is pure.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::contract::heartbeat::{CameraHealth, HealthReport, Timing};
use crate::contract::outbox::OutboxStatus;
use crate::contract::state::CameraStatus;
use crate::contract::status::DeviceStatus;

/// Takes the report.
pub type Take = Arc<dyn Fn() -> DeviceStatus + Send + Sync>;

/// `GET /metrics`.
pub fn routes(take: Take) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(take)
}

async fn metrics(State(take): State<Take>) -> Response {
    // It reads sensors and the database: not for the runtime's own threads.
    match tokio::task::spawn_blocking(move || render(&take())).await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The page.
pub fn render(status: &DeviceStatus) -> String {
    let mut page = Page::default();
    let health = &status.health;
    device(&mut page, status);
    cameras(&mut page, &health.cameras);
    let drops = health.drops.iter().map(|(cause, n)| (vec![("cause", cause.clone())], *n as f64));
    page.counter("vedette_drops_total", "What was dropped between the stages, by cause.", drops);
    if let Some(i) = &health.inference {
        page.summary("vedette_inference_seconds", "Time that inference takes for one frame.", &i.frame_ms);
        let help = "From the arrival of a frame's video to the end of its inference.";
        page.summary("vedette_inference_delay_seconds", help, &i.delay_ms);
        let help = "Part of the last seconds that the engine worked.";
        page.gauge("vedette_inference_busy_ratio", help, one(f64::from(i.busy_percent) / 100.0));
    }
    machine(&mut page, health);
    if let Some(outbox) = &status.outbox {
        queue(&mut page, outbox);
    }
    if let Some(u) = &health.uploads {
        page.gauge("vedette_uploads_pending", "Clips that are to be uploaded.", one(u.pending as f64));
        page.gauge("vedette_uploads_given_up", "Clips whose upload was given up.", one(u.failed as f64));
        let help = "Attempts to upload a clip that failed.";
        page.counter("vedette_upload_failures_total", help, one(u.failures as f64));
        let help = "Bytes of clips that were handed to the network.";
        page.counter("vedette_upload_bytes_total", help, one(u.sent_bytes as f64));
    }
    page.0
}

fn device(page: &mut Page, status: &DeviceStatus) {
    let model = status.agent.model.as_ref();
    let info = vec![
        ("version", status.agent.agent_version.clone()),
        ("model", model.map(|m| m.name.clone()).unwrap_or_default()),
        ("model_version", model.map(|m| m.version.clone()).unwrap_or_default()),
    ];
    page.gauge("vedette_build_info", "The agent and its model; always 1.", [(info, 1.0)]);
    page.gauge("vedette_uptime_seconds", "Since the daemon started.", one(status.health.uptime_s as f64));
    page.gauge(
        "vedette_clock_synchronised",
        "1: a time source disciplines the clock.",
        one(flag(status.clock.synchronised)),
    );
    let error = status.clock.estimated_error_ms.map(|ms| (Vec::new(), ms / 1e3));
    page.gauge("vedette_clock_error_seconds", "The kernel's estimate of the clock's error.", error);
}

fn cameras(page: &mut Page, cameras: &BTreeMap<String, CameraHealth>) {
    let each = |value: &dyn Fn(&CameraHealth) -> Option<f64>| -> Vec<Sample> {
        let sample = |(id, c): (&String, &CameraHealth)| Some((vec![("camera", id.clone())], value(c)?));
        cameras.iter().filter_map(sample).collect()
    };
    let up = each(&|c| Some(flag(c.status == CameraStatus::Live)));
    page.gauge("vedette_camera_up", "1: video comes from the camera.", up);
    let help = "1: nothing on the camera can be detected, though video comes.";
    page.gauge("vedette_camera_blind", help, each(&|c| Some(flag(c.blind.is_some()))));
    let help = "1: incidents open on the camera; without a schedule always.";
    page.gauge("vedette_camera_armed", help, each(&|c| Some(flag(c.arming.as_ref().is_none_or(|a| a.armed)))));
    type Count = fn(&CameraHealth) -> u64;
    let counts: [(&str, &str, Count); 6] = [
        ("vedette_camera_access_units_total", "Encoded frames that came.", |c| c.access_units),
        ("vedette_camera_pictures_total", "Pictures decoded.", |c| c.pictures),
        ("vedette_camera_frames_total", "Frames handed to inference.", |c| c.frames),
        ("vedette_camera_windows_total", "Windows scored.", |c| c.windows),
        ("vedette_camera_incidents_total", "Incidents opened.", |c| c.incidents),
        ("vedette_camera_restarts_total", "Times that the camera was restarted.", |c| c.restarts),
    ];
    for (name, help, count) in counts {
        page.counter(name, help, each(&|c| Some(count(c) as f64)));
    }
    let drops = cameras.iter().flat_map(|(id, c)| {
        c.drops.iter().map(|(cause, n)| (vec![("camera", id.clone()), ("cause", cause.clone())], *n as f64))
    });
    page.counter("vedette_camera_drops_total", "What was dropped of a camera, by cause.", drops);
    let age = each(&|c| c.last_video_age_ms.map(|ms| ms as f64 / 1e3));
    page.gauge("vedette_camera_video_age_seconds", "Age of the newest video.", age);
    let aimed = each(&|c| c.sampling.map(|s| f64::from(s.aimed_fps)));
    page.gauge("vedette_camera_sampling_aimed_hertz", "Frames a second that the model is to be shown.", aimed);
    let came = each(&|c| c.sampling.map(|s| f64::from(s.frames_fps)));
    page.gauge("vedette_camera_sampling_hertz", "Frames a second that came, in the last five seconds.", came);
    let held = each(&|c| c.ring.as_ref().map(|r| f64::from(r.held_s)));
    page.gauge("vedette_camera_ring_seconds", "Video held in memory.", held);
    let bytes = each(&|c| c.ring.as_ref().map(|r| r.bytes as f64));
    page.gauge("vedette_camera_ring_bytes", "Memory of the video that is held.", bytes);
}

fn machine(page: &mut Page, health: &HealthReport) {
    let labelled = |label: &'static str, value: &str| vec![(label, value.to_owned())];
    if let Some(m) = &health.memory {
        page.gauge("vedette_memory_resident_bytes", "Resident memory of the daemon.", one(m.resident_bytes as f64));
        let available = m.available_bytes.map(|b| (Vec::new(), b as f64));
        page.gauge("vedette_memory_available_bytes", "What programs could still have without swapping.", available);
        let size = m.total_bytes.map(|b| (Vec::new(), b as f64));
        page.gauge("vedette_memory_size_bytes", "All memory of the machine.", size);
    }
    let stalls = health.stalls.iter().flat_map(|(what, s)| {
        let sample = move |tasks: &str, percent: f32| {
            (vec![("resource", what.clone()), ("tasks", tasks.to_owned())], f64::from(percent) / 100.0)
        };
        [Some(sample("some", s.some_percent)), s.all_percent.map(|p| sample("all", p))].into_iter().flatten()
    });
    page.gauge("vedette_stall_ratio", "Part of the last minute that work waited for something that was short.", stalls);
    let free = health.disks.iter().map(|(disk, d)| (labelled("disk", disk), d.free_bytes as f64));
    page.gauge("vedette_disk_free_bytes", "What the daemon could still write.", free);
    let size = health.disks.iter().map(|(disk, d)| (labelled("disk", disk), d.total_bytes as f64));
    page.gauge("vedette_disk_size_bytes", "Size of the file system.", size);
    let worn = |(disk, w): (&String, &crate::contract::heartbeat::WearHealth)| {
        w.life_used_percent.map(|used| (labelled("device", disk), f64::from(used) / 100.0))
    };
    let help = "Part of the flash's rated life that is used up at most.";
    page.gauge("vedette_flash_life_used_ratio", help, health.wear.iter().filter_map(worn));
    let heat = health.temperatures_c.iter().map(|(sensor, t)| (labelled("sensor", sensor), f64::from(*t)));
    page.gauge("vedette_temperature_celsius", "What a sensor says.", heat);
    let power = health.power_w.iter().map(|(rail, watts)| (labelled("rail", rail), f64::from(*watts)));
    page.gauge("vedette_power_watts", "Electrical power on a rail; rails overlap.", power);
    let mode = health.power_mode.iter().map(|mode| (labelled("mode", mode), 1.0));
    page.gauge("vedette_power_mode_info", "The power mode in force; always 1.", mode);
    if let Some(t) = &health.throttling {
        page.gauge("vedette_throttled", "1: something holds the machine back.", one(flag(t.active)));
        let cooling = t.cooling.iter().map(|(device, c)| (labelled("device", device), c.level as f64));
        page.gauge("vedette_cooling_level", "How far a cooling device is in force; 0: not.", cooling);
        let clocks = |now: bool| {
            let hertz = move |(what, c): (&String, &crate::contract::heartbeat::ProcessorClock)| {
                (labelled("processor", what), 1e6 * f64::from(if now { c.now_mhz } else { c.limit_mhz }))
            };
            t.clocks.iter().map(hertz).collect::<Vec<_>>()
        };
        page.gauge("vedette_processor_hertz", "A processor's clock.", clocks(true));
        page.gauge("vedette_processor_limit_hertz", "The limit of a processor's clock.", clocks(false));
        let events = t.over_current_events.map(|n| (Vec::new(), n as f64));
        let help = "Times since boot that the supply could not give the current asked for.";
        page.counter("vedette_over_current_events_total", help, events);
    }
}

fn queue(page: &mut Page, outbox: &OutboxStatus) {
    page.counter(
        "vedette_outbox_alerts_total",
        "Alerts written since the device is in use.",
        one(outbox.newest as f64),
    );
    page.gauge("vedette_outbox_pending", "Alerts that no broker has yet.", one(outbox.pending as f64));
    page.gauge(
        "vedette_outbox_unconfirmed",
        "Alerts that no consumer has confirmed yet.",
        one(outbox.unconfirmed as f64),
    );
    let given_up: u64 = outbox.given_up.iter().map(|(first, last)| last - first + 1).sum();
    page.gauge("vedette_outbox_given_up", "Alerts that were given up and that a consumer lacks.", one(given_up as f64));
}

type Sample = (Vec<(&'static str, String)>, f64);

fn one(value: f64) -> [Sample; 1] {
    [(Vec::new(), value)]
}

fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// The text, as far as it is written. A family without samples is left out.
#[derive(Default)]
struct Page(String);

impl Page {
    fn counter(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "counter", help, samples);
    }

    fn gauge(&mut self, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        self.family(name, "gauge", help, samples);
    }

    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_some() {
            self.head(name, kind, help);
        }
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    /// Durations of late as quantiles, their number and sum since the start.
    fn summary(&mut self, name: &str, help: &str, timing: &Timing) {
        self.head(name, "summary", help);
        for (quantile, ms) in [("0.5", timing.median), ("0.99", timing.p99), ("1", timing.max)] {
            // Of none there is no quantile.
            let seconds = if timing.count == 0 { f64::NAN } else { f64::from(ms) / 1e3 };
            self.sample(name, &[("quantile", quantile.to_owned())], seconds);
        }
        self.sample(&format!("{name}_sum"), &[], timing.sum / 1e3);
        self.sample(&format!("{name}_count"), &[], timing.count as f64);
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&'static str, String)], value: f64) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
        match labels.is_empty() {
            true => self.line(format_args!("{name} {value}")),
            false => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a text takes any text");
    }
}

/// A label's value: any text, on one line.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
#[path = "metrics/tests.rs"]
mod tests;
