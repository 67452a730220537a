use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::contract::alert::{ClockState, ModelRef};
use crate::contract::heartbeat::{
    CoolingLevel, DiskHealth, InferenceHealth, MemoryHealth, ProcessorClock, RingHealth, SamplingHealth, StallHealth,
    ThrottlingHealth, UploadHealth, WearHealth,
};
use crate::contract::state::{ArmingState, DeviceFacts};

/// A device with something to say of everything, and a camera whose name no config would allow.
fn full() -> DeviceStatus {
    let timing = Timing { count: 3, median: 4.0, p99: 8.0, max: 9.0, sum: 21.0 };
    let camera = CameraHealth {
        status: CameraStatus::Live,
        arming: Some(ArmingState { armed: false, until: None, reason: None }),
        sampling: Some(SamplingHealth { model_fps: 8.0, aimed_fps: 7.0, slowed_by: None, frames_fps: 6.5 }),
        frames: 42,
        drops: BTreeMap::from([("decoder_late".into(), 5)]),
        last_video_age_ms: Some(40),
        ring: Some(RingHealth { bytes: 1_000, held_s: 30.5, ..RingHealth::default() }),
        ..CameraHealth::default()
    };
    let health = HealthReport {
        uptime_s: 90,
        cameras: BTreeMap::from([("a \"b\"\\\n".to_owned(), camera), ("gate".to_owned(), CameraHealth::default())]),
        drops: BTreeMap::from([("frames_before_inference".into(), 2)]),
        inference: Some(InferenceHealth {
            engine: "x".into(),
            frame_ms: timing,
            delay_ms: timing,
            busy_percent: 50,
            better_engine: None,
        }),
        memory: Some(MemoryHealth { resident_bytes: 5, available_bytes: Some(6), total_bytes: Some(7) }),
        stalls: BTreeMap::from([("io".into(), StallHealth { some_percent: 50.0, all_percent: Some(25.0) })]),
        disks: BTreeMap::from([("state".into(), DiskHealth { free_bytes: 10, total_bytes: 20 })]),
        wear: BTreeMap::from([("mmcblk0".into(), WearHealth { life_used_percent: Some(20), reserve: None })]),
        temperatures_c: BTreeMap::from([("cpu".into(), 51.5)]),
        throttling: Some(ThrottlingHealth {
            active: true,
            cooling: BTreeMap::from([("gpu".into(), CoolingLevel { level: 1, most: 2 })]),
            clocks: BTreeMap::from([("cpu".into(), ProcessorClock { now_mhz: 729, limit_mhz: 1190, rated_mhz: 1984 })]),
            over_current_events: Some(52),
        }),
        power_w: BTreeMap::from([("VDD_IN".into(), 7.5)]),
        power_mode: Some("MAXN_SUPER".into()),
        uploads: Some(UploadHealth { pending: 1, done: 2, failed: 3, failures: 4, sent_bytes: 5 }),
    };
    let model = ModelRef { name: "activity-v1".into(), version: "1.0.0".into(), digest: String::new() };
    DeviceStatus {
        summary: String::new(),
        agent: DeviceFacts { agent_version: "0.1.0".into(), model: Some(model) },
        clock: ClockState { synchronised: true, estimated_error_ms: Some(2.5) },
        cameras: Vec::new(),
        health,
        outbox: Some(OutboxStatus {
            epoch: Default::default(),
            newest: 9,
            oldest_kept: Some(4),
            pending: 2,
            unconfirmed: 3,
            given_up: vec![(1, 3)],
        }),
        https: None,
    }
}

#[test]
fn says_what_the_heartbeat_says_in_base_units() {
    let page = render(&full());
    for line in [
        "vedette_build_info{version=\"0.1.0\",model=\"activity-v1\",model_version=\"1.0.0\"} 1",
        "vedette_camera_frames_total{camera=\"a \\\"b\\\"\\\\\\n\"} 42",
        "vedette_camera_frames_total{camera=\"gate\"} 0",
        "vedette_camera_up{camera=\"gate\"} 0",
        "vedette_camera_armed{camera=\"gate\"} 1",
        "vedette_camera_drops_total{camera=\"a \\\"b\\\"\\\\\\n\",cause=\"decoder_late\"} 5",
        "vedette_camera_video_age_seconds{camera=\"a \\\"b\\\"\\\\\\n\"} 0.04",
        "# TYPE vedette_inference_seconds summary",
        "vedette_inference_seconds{quantile=\"0.99\"} 0.008",
        "vedette_inference_seconds_sum 0.021",
        "vedette_inference_seconds_count 3",
        "vedette_stall_ratio{resource=\"io\",tasks=\"all\"} 0.25",
        "vedette_temperature_celsius{sensor=\"cpu\"} 51.5",
        "vedette_power_watts{rail=\"VDD_IN\"} 7.5",
        "vedette_power_mode_info{mode=\"MAXN_SUPER\"} 1",
        "vedette_processor_hertz{processor=\"cpu\"} 729000000",
        "vedette_outbox_pending 2",
        "vedette_outbox_given_up 3",
        "vedette_upload_bytes_total 5",
    ] {
        assert!(page.lines().any(|l| l == line), "{line}\nis not in\n{page}");
    }
    let quiet = DeviceStatus { health: HealthReport::default(), outbox: None, ..full() };
    assert!(!render(&quiet).contains("outbox") && !render(&quiet).contains("camera_"), "{}", render(&quiet));
}

/// What `promtool check metrics` complains of, as far as it applies: help for each, units spelt out and base units,
/// `_total` for counters and for nothing else, no unit or type abbreviated in a name, labels not in names.
#[test]
fn names_keep_to_the_conventions() {
    let page = render(&full());
    let (mut seen, mut kinds, mut now) = (BTreeSet::new(), BTreeMap::new(), String::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, text) = help.split_once(' ').expect("a help text");
            assert!(text.ends_with('.') && seen.insert(name.to_owned()), "{name}: one family, said once: {text}");
            now = name.to_owned();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert_eq!(name, now);
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let name: String = line.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            let family = name.strip_suffix("_sum").or(name.strip_suffix("_count")).filter(|_| kinds[&now] == "summary");
            assert_eq!(family.unwrap_or(&name), now, "{line}: the samples of a family stand together");
            let value = line.rsplit(' ').next().expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(kinds.len() > 40, "{kinds:?}");
    for (name, kind) in &kinds {
        assert!(name.starts_with("vedette_") && !name.contains("__"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(
            kind == "summary" || !(name.ends_with("_sum") || name.ends_with("_count") || name.ends_with("_bucket")),
            "{name}"
        );
        for word in name.split('_') {
            let bad = [
                "ms",
                "milliseconds",
                "mb",
                "kb",
                "kbps",
                "mhz",
                "percent",
                "minutes",
                "hours",
                "counter",
                "gauge",
                "summary",
            ];
            assert!(!bad.contains(&word), "{name}: {word}");
        }
    }
}
