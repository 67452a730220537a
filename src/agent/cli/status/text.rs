//! The device's status for a person: a line for each thing, nothing for what isn't there.

use std::collections::BTreeMap;
use std::fmt::Display;

use crate::contract::heartbeat::{
    CameraHealth, HealthReport, InferenceHealth, Reserve, SlowedBy, ThrottlingHealth, UploadHealth,
};
use crate::contract::state::{ArmingState, CameraCondition, CameraStatus};
use crate::contract::status::{DeviceStatus, HttpsStatus};

/// Everything, the most important first.
pub(super) fn lines(status: &DeviceStatus) -> Vec<String> {
    let health = &status.health;
    let mut lines = vec![status.summary.clone(), String::new()];
    let mut say = |what: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("{what:<12}{text}"));
        }
    };
    let model = status.agent.model.as_ref().map_or("no model".into(), |m| format!("model {} {}", m.name, m.version));
    say("agent", format!("{}, {model}, up {}", status.agent.agent_version, span(health.uptime_s)));
    say("clock", if status.clock.synchronised { "synchronised" } else { "not known to be synchronised" }.into());
    for condition in &status.cameras {
        say("camera", camera(condition, health.cameras.get(&condition.camera)));
    }
    say("inference", health.inference.as_ref().map_or(String::new(), inference));
    say("dropped", counts(&health.drops));
    if let Some(outbox) = &status.outbox {
        let given_up = if outbox.given_up.is_empty() { "" } else { ", some given up" };
        say("outbox", format!("{} to send, {} unconfirmed{given_up}", outbox.pending, outbox.unconfirmed));
    }
    say("uploads", health.uploads.as_ref().map_or(String::new(), uploads));
    say("https", status.https.as_ref().map_or(String::new(), https));
    for (what, text) in machine(health) {
        say(what, text);
    }
    lines
}

fn camera(condition: &CameraCondition, health: Option<&CameraHealth>) -> String {
    let word = match condition.status {
        CameraStatus::Starting => "starting",
        CameraStatus::Live => "live",
        CameraStatus::Lost => "LOST",
        CameraStatus::Ended => "ended",
    };
    let mut parts = vec![format!("{word} since {}", condition.since)];
    parts.extend(condition.reason.clone().or_else(|| condition.video.clone()));
    parts.extend(condition.blind.as_ref().map(|why| format!("BLIND: {why}")));
    parts.extend(condition.arming.as_ref().map(arming));
    if let Some(health) = health {
        parts.push(match &health.sampling {
            Some(s) if s.aimed_fps < s.model_fps => {
                let why = match s.slowed_by {
                    Some(SlowedBy::Throttling) => "the machine is throttled",
                    Some(SlowedBy::Overload) | None => "too much to do",
                };
                format!("{:.1} frames/s of {} ({} aimed at: {why})", s.frames_fps, s.model_fps, s.aimed_fps)
            }
            Some(s) => format!("{:.1} frames/s of {}", s.frames_fps, s.model_fps),
            None => "recorded only".into(),
        });
        parts.push(format!("{} windows, {} incidents", health.windows, health.incidents));
        if health.restarts > 0 {
            parts.push(format!("restarted {} times", health.restarts));
        }
        // Less than a second is the way of the picture.
        if let Some(clock) = health.camera_clock.filter(|clock| clock.offset_ms.abs() >= 1_000) {
            let way = if clock.offset_ms > 0 { "ahead" } else { "behind" };
            parts.push(format!("its own clock is {:.1} s {way}", clock.offset_ms.unsigned_abs() as f64 / 1e3));
        }
        let dropped = counts(&health.drops);
        if !dropped.is_empty() {
            parts.push(format!("dropped: {dropped}"));
        }
        parts.extend(health.ring.iter().filter_map(|ring| ring.trouble.clone()));
    }
    format!("{}: {}", condition.camera, parts.join("; "))
}

fn arming(state: &ArmingState) -> String {
    let word = if state.armed { "armed" } else { "DISARMED" };
    let until = state.until.as_ref().map(|t| format!(" until {t}"));
    let why = state.reason.as_ref().map(|why| format!(" ({why})"));
    format!("{word}{}{}", until.unwrap_or_default(), why.unwrap_or_default())
}

fn inference(i: &InferenceHealth) -> String {
    let (frame, delay) = (i.frame_ms, i.delay_ms);
    let better = i.better_engine.as_ref().map(|words| format!("; a better engine: {words}")).unwrap_or_default();
    format!(
        "{}: {} % busy, {:.1} ms a frame (p99 {:.1}), {:.0} ms from a frame's arrival to its end (p99 {:.0}){better}",
        i.engine, i.busy_percent, frame.median, frame.p99, delay.median, delay.p99
    )
}

fn https(h: &HttpsStatus) -> String {
    let whose = if h.self_signed { "made by the device itself, compare its" } else { "the installer's, its" };
    let certificate = h.fingerprint_sha256.as_ref().map(|print| format!("certificate {whose} SHA-256: {print}"));
    let trouble = h.trouble.as_ref().map(|why| format!("NOT WORKING: {why}"));
    format!("{}; {}", h.listen, trouble.into_iter().chain(certificate).collect::<Vec<_>>().join("; "))
}

fn uploads(u: &UploadHealth) -> String {
    let failed = if u.failed > 0 { format!(", {} given up", u.failed) } else { String::new() };
    let failures = if u.failures > 0 { format!(", {} tries failed", u.failures) } else { String::new() };
    format!("{} to send, {} sent{failed}{failures}", u.pending, u.done)
}

/// What the operating system says.
fn machine(health: &HealthReport) -> Vec<(&'static str, String)> {
    let memory = health.memory.map_or(String::new(), |m| {
        let machine = m.available_bytes.zip(m.total_bytes);
        let machine = machine.map_or(String::new(), |(a, t)| format!(", {} of {} available", bytes(a), bytes(t)));
        format!("{} for the daemon{machine}", bytes(m.resident_bytes))
    });
    let waits = health.stalls.iter().filter(|(_, s)| s.some_percent >= 1.0);
    let stalls = list(waits.map(|(what, s)| format!("{:.0} % for {what}", s.some_percent)));
    let disks = list(
        health
            .disks
            .iter()
            .map(|(what, d)| format!("{what}: {} of {} free", bytes(d.free_bytes), bytes(d.total_bytes))),
    );
    let wear = list(health.wear.iter().map(|(disk, w)| {
        let life = w.life_used_percent.map(|used| format!("up to {used} % of its rated life used"));
        let reserve = w.reserve.and_then(|reserve| match reserve {
            Reserve::Normal => None,
            Reserve::Warning => Some("few reserve blocks left: REPLACE IT SOON".to_owned()),
            Reserve::Urgent => Some("no reserve left: REPLACE IT NOW".to_owned()),
        });
        format!("{disk}: {}", list(life.into_iter().chain(reserve)))
    }));
    let temperatures = list(health.temperatures_c.iter().map(|(zone, t)| format!("{zone} {t:.0}")));
    let temperatures = if temperatures.is_empty() { temperatures } else { format!("{temperatures} degrees Celsius") };
    let rails = health.power_w.iter().map(|(rail, watts)| format!("{rail} {watts:.1} W"));
    let mode = health.power_mode.iter().map(|mode| format!("power mode {mode}"));
    vec![
        ("memory", memory),
        ("waiting", if stalls.is_empty() { stalls } else { format!("{stalls}, of the last minute") }),
        ("disk", disks),
        ("wear", wear),
        ("heat", temperatures),
        ("throttling", health.throttling.as_ref().map_or(String::new(), throttling)),
        ("power", list(rails.chain(mode))),
    ]
}

fn throttling(t: &ThrottlingHealth) -> String {
    let devices = t.cooling.iter().map(|(kind, level)| format!("{kind} {} of {}", level.level, level.most));
    let active = if t.active { format!("HELD BACK by {}", list(devices)) } else { "none".into() };
    let clocks = t.clocks.iter().map(|(what, c)| {
        let limit = if c.limit_mhz < c.rated_mhz {
            format!(", limit {} of {}", c.limit_mhz, c.rated_mhz)
        } else {
            String::new()
        };
        format!("{what} {} MHz{limit}", c.now_mhz)
    });
    let events = t.over_current_events.filter(|n| *n > 0).map(|n| format!("{n} over-current events since boot"));
    let parts: Vec<_> = std::iter::once(active).chain(clocks).chain(events).collect();
    parts.join("; ")
}

/// Those that ever counted.
fn counts(by_cause: &BTreeMap<String, u64>) -> String {
    list(by_cause.iter().filter(|(_, n)| **n > 0).map(|(cause, n)| format!("{n} {cause}")))
}

fn list(parts: impl Iterator<Item = impl Display>) -> String {
    parts.map(|p| p.to_string()).collect::<Vec<_>>().join(", ")
}

fn bytes(n: u64) -> String {
    match n {
        0..1_000_000_000 => format!("{:.0} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", seconds % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::alert::ClockState;
    use crate::contract::heartbeat::{CoolingLevel, ProcessorClock, SamplingHealth, WearHealth};
    use crate::contract::state::DeviceFacts;

    #[test]
    fn says_what_matters_and_nothing_of_what_is_not_there() {
        let gate = CameraCondition {
            camera: "gate".into(),
            status: CameraStatus::Lost,
            since: "2026-11-22T05:00:00.000Z".into(),
            reason: Some("no route to host".into()),
            video: None,
            blind: None,
            arming: Some(ArmingState { armed: false, until: Some("2026-11-22T17:00:00.000Z".into()), reason: None }),
        };
        let door = CameraCondition {
            camera: "door".into(),
            status: CameraStatus::Live,
            since: "2026-11-22T05:01:00.000Z".into(),
            reason: None,
            video: Some("MJPEG 1280x720 at 15 fps from HD Webcam".into()),
            blind: None,
            arming: None,
        };
        let sampling = Some(SamplingHealth {
            model_fps: 8.0,
            aimed_fps: 6.0,
            slowed_by: Some(SlowedBy::Throttling),
            frames_fps: 5.0,
        });
        let drops = BTreeMap::from([("decoder_late".to_owned(), 3), ("not_classified".to_owned(), 0)]);
        let throttling = ThrottlingHealth {
            active: true,
            cooling: BTreeMap::from([("cpu-throttle-alert".into(), CoolingLevel { level: 1, most: 1 })]),
            clocks: BTreeMap::from([("cpu".into(), ProcessorClock { now_mhz: 729, limit_mhz: 1190, rated_mhz: 1984 })]),
            over_current_events: Some(52),
        };
        let status = DeviceStatus {
            summary: "0 of 1 cameras live".into(),
            agent: DeviceFacts { agent_version: "0.1.0".into(), model: None },
            clock: ClockState { synchronised: false, estimated_error_ms: None },
            cameras: vec![gate, door],
            health: HealthReport {
                uptime_s: 90_061,
                cameras: BTreeMap::from([("gate".into(), CameraHealth { sampling, drops, ..CameraHealth::default() })]),
                wear: BTreeMap::from([(
                    "mmcblk0".into(),
                    WearHealth { life_used_percent: Some(90), reserve: Some(Reserve::Warning) },
                )]),
                throttling: Some(throttling),
                power_w: BTreeMap::from([("VDD_IN".into(), 7.25), ("VDD_SOC".into(), 1.5)]),
                power_mode: Some("15W".into()),
                ..HealthReport::default()
            },
            outbox: None,
            https: None,
        };
        let said = lines(&status);
        assert_eq!(
            said,
            [
                "0 of 1 cameras live",
                "",
                "agent       0.1.0, no model, up 1 d 1 h",
                "clock       not known to be synchronised",
                "camera      gate: LOST since 2026-11-22T05:00:00.000Z; no route to host; DISARMED until 2026-11-22T17:00:00.000Z; 5.0 frames/s of 8 (6 aimed at: the machine is throttled); 0 windows, 0 incidents; dropped: 3 decoder_late",
                "camera      door: live since 2026-11-22T05:01:00.000Z; MJPEG 1280x720 at 15 fps from HD Webcam",
                "wear        mmcblk0: up to 90 % of its rated life used, few reserve blocks left: REPLACE IT SOON",
                "throttling  HELD BACK by cpu-throttle-alert 1 of 1; cpu 729 MHz, limit 1190 of 1984; 52 over-current events since boot",
                "power       VDD_IN 7.2 W, VDD_SOC 1.5 W, power mode 15W",
            ]
        );
    }
}
