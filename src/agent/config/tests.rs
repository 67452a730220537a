use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod local;
mod network;
mod shape;

const EXAMPLE: &str = include_str!("../../../deploy/example.toml");
const PASSWORD: &str = "correct-horse-7731";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nbmV2ZXItc2hvd24=\n-----END PRIVATE KEY-----\n";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";

/// A directory with everything in it that the example and the tests name.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let site = Site(tempfile::tempdir().unwrap());
        for (name, text, mode) in [
            ("usr/share/vedette/models/default/manifest.toml", "", 0o644),
            ("usr/lib/vedette/libonnxruntime.so", "", 0o644),
            ("usr/lib/aarch64-linux-gnu/libnvinfer.so.10", "", 0o644),
            ("usr/lib/vedette/libvedette_trt-10.3.so", "", 0o644),
            ("recorded.mp4", "", 0o644),
            ("soc-ca.pem", CERTIFICATE, 0o644),
            ("root.json", r#"{"signed": {"_type": "root"}}"#, 0o644),
            ("device.pem", CERTIFICATE, 0o644),
            ("device.key", KEY, 0o600),
            ("gate.credentials", &format!("viewer\n{PASSWORD}\n"), 0o600),
            ("broker.credentials", &format!("device\r\n{PASSWORD}\r\n"), 0o400),
            ("upload.credentials", &format!("AKIA\n{PASSWORD}\n"), 0o600),
        ] {
            site.write(name, text, mode);
        }
        site
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    /// What lies under /usr on a device lies here.
    fn parse(&self, text: &str) -> Result<Config, Vec<Problem>> {
        parse(&text.replace("\"/usr/", &format!("\"{}/usr/", self.dir().display())), self.dir())
    }

    /// The one problem with `text`.
    fn problem(&self, text: &str) -> Problem {
        let mut problems = self.parse(text).expect_err(text);
        assert_eq!(problems.len(), 1, "{text}\n{problems:#?}");
        problems.remove(0)
    }
}

/// A small right configuration; `rest` goes behind the camera's last line.
fn with(rest: &str) -> String {
    format!(
        "[device]\nsite = \"harbour\"\nid = \"d1\"\n\
         [model]\ndir = \"usr/share/vedette/models/default\"\n\
         [[camera]]\nid = \"gate\"\nkind = \"test\"\n{rest}"
    )
}

/// The line that `rest` begins with.
const REST: usize = 9;

/// The example with every line in force that shows a default or an example.
fn uncommented() -> String {
    let in_force = |line: &str| match line.strip_prefix('#') {
        Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key.to_string(),
        _ => line.to_string(),
    };
    let lines: Vec<String> = EXAMPLE.lines().map(in_force).collect();
    lines.join("\n")
}

#[test]
fn the_example_is_right_as_it_stands() {
    let site = Site::new();
    let config = site.parse(&EXAMPLE.replace("#dir = ", "dir = ")).unwrap();
    assert_eq!((config.device.site.as_str(), config.device.id.as_str()), ("harbour", "gate-jetson-1"));
    assert_eq!(config.cameras.len(), 1);
    let camera = &config.cameras[0];
    assert_eq!(camera.id, CameraId::new("gate"));
    let Source::Rtsp { url, credentials, transport, latency } = &camera.source else { panic!("{camera:?}") };
    assert_eq!((url.as_str(), *latency), ("rtsp://192.0.2.17:554/stream1", Duration::from_millis(200)));
    assert_eq!(*transport, Transport::Auto);
    assert_eq!(credentials, &Some(Credentials { user: "viewer".into(), password: PASSWORD.into() }));
    assert!(camera.classify && camera.region.is_none() && camera.thresholds.is_empty());
    assert_eq!((camera.ring_time.as_secs(), camera.ring_max_bytes), (30, 64_000_000));
    assert_eq!((camera.encode_kbps, camera.frozen_after.as_secs()), (2000, 10));
    assert_eq!((config.model.threads, config.model.stride, &config.model.onnxruntime), (1, None, &None));
    let mqtt = config.mqtt.unwrap();
    assert_eq!(mqtt.brokers, [Broker { tls: true, host: "soc.example".into(), port: 8883, websocket: None }]);
    let tls = mqtt.tls.unwrap();
    assert_eq!((&tls.client, tls.alpn.is_empty()), (&None, true));
    assert_eq!(tls.read().unwrap(), TlsPem { ca: CERTIFICATE.into(), client: None });
    assert_eq!((mqtt.heartbeat_every.as_secs(), mqtt.keep_alive.as_secs()), (30, 30));
    assert_eq!(
        (mqtt.consumers, mqtt.keep, mqtt.keep_bytes),
        (vec!["soc".to_string()], Duration::from_secs(30 * 86_400), 500_000_000)
    );
    assert_eq!(config.adapters, Adapters::default());
}

#[test]
fn adapters_are_switched_on_one_by_one_and_need_a_broker() {
    let site = Site::new();
    let mqtt = "[mqtt]\nurl = \"mqtt://localhost\"\n";
    let on = |more: &str| with(&format!("{mqtt}[adapters.onvif]\nenabled = true\n{more}"));
    let config = site.parse(&on("")).unwrap();
    assert_eq!(config.adapters.onvif, Some(OnvifAdapter { prefix: "vedette/v1".into() }));
    assert_eq!((config.adapters.home_assistant, config.adapters.frigate), (None, None));
    let all = on("[adapters.home_assistant]\nenabled = true\n[adapters.frigate]\nenabled = true\nprefix = \"nvr/a\"\n");
    let config = site.parse(&all).unwrap();
    assert_eq!(config.adapters.home_assistant.unwrap().discovery_prefix, "homeassistant");
    assert_eq!(config.adapters.frigate.unwrap().prefix, "nvr/a");
    for bad in ["", "a//b", "/a", "a/", "a/#", "a b", &"a/".repeat(8), &"x".repeat(65)] {
        let problem = site.problem(&on(&format!("prefix = {bad:?}")));
        assert_eq!(problem.key, "adapters.onvif.prefix");
    }
    let problem = site.problem(&with("[adapters.frigate]\nenabled = true\n"));
    assert_eq!(problem.key, "adapters.frigate.enabled");
    assert!(problem.remedy.contains("[mqtt]"), "{problem:?}");
}

#[test]
fn what_the_example_calls_a_default_is_the_default() {
    let site = Site::new();
    let as_it_stands = site.parse(&EXAMPLE.replace("#dir = ", "dir = ")).unwrap();
    let in_force = site.parse(&uncommented()).unwrap();
    assert_eq!(in_force.incident, as_it_stands.incident);
    assert_eq!(in_force.clip, as_it_stands.clip);
    assert_eq!(in_force.paths, as_it_stands.paths);
    let unbounded = Storage { clips_max_bytes: None, ..in_force.storage.clone() };
    assert_eq!((&unbounded, in_force.storage.clips_max_bytes), (&as_it_stands.storage, Some(50_000_000_000)));

    // And what it gives as an example is read as it says.
    let [gate, door, yard, recorded, pattern] = in_force.cameras.as_slice() else { panic!("{:?}", in_force.cameras) };
    assert_eq!(gate.region, Some(Region { x: 0.0, y: 0.25, width: 1.0, height: 0.75 }));
    assert_eq!(gate.thresholds, BTreeMap::from([("Fighting".to_string(), 0.8)]));
    let schedule = gate.schedule.as_ref().unwrap();
    assert_eq!((schedule.name.as_str(), schedule.zone.iana_name()), ("nights", Some("Europe/Berlin")));
    assert_eq!(
        schedule.spans.iter().map(|s| s.days).collect::<Vec<_>>()[0],
        [true, true, true, true, true, false, false]
    );
    assert_eq!(gate.masks.iter().map(|m| m.points.len()).collect::<Vec<_>>(), [4, 3]);
    let plain = Camera {
        place: None,
        schedule: None,
        region: None,
        masks: Vec::new(),
        thresholds: BTreeMap::new(),
        ..gate.clone()
    };
    assert_eq!(plain, as_it_stands.cameras[0]);
    let device = "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920-video-index0".into();
    let wish = VideoWish { width: Some(1280), height: Some(720), fps: Some(20), format: Some(VideoFormat::Mjpeg) };
    let controls = [
        ("power_line_frequency".to_owned(), ControlValue::Label("50 Hz".into())),
        ("brightness".to_owned(), ControlValue::Number(140)),
    ];
    assert_eq!(door.source, Source::V4l2 { device, wish, controls: controls.into() });
    let csi = Source::Csi { sensor_id: 0, sensor_mode: Some(2), width: 1280, height: 720, fps: 30 };
    assert_eq!(yard.source, csi);
    let path = site.dir().join("recorded.mp4");
    assert_eq!(recorded.source, Source::File { path, pace: Pace::Realtime, repeat: false });
    assert_eq!(pattern.source, Source::Test { width: 640, height: 360, fps: 15 });
    assert_eq!((in_force.model.threads, in_force.model.stride), (1, Some(4)));
    assert_eq!(in_force.model.onnxruntime, Some(site.dir().join("usr/lib/vedette/libonnxruntime.so")));
    let mqtt = in_force.mqtt.unwrap();
    let credentials = Credentials { user: "device".into(), password: PASSWORD.into() };
    assert_eq!(mqtt.credentials().unwrap(), Some(credentials));
    let client = Some((CERTIFICATE.into(), SecretPem(KEY.into())));
    let tls = mqtt.tls.as_ref().unwrap();
    assert_eq!(tls.read().unwrap(), TlsPem { ca: CERTIFICATE.into(), client });
    assert_eq!(tls.alpn, ["mqtt"]);
    assert_eq!(mqtt.files().count(), 4);
    let stripped = Mqtt { credentials_file: None, tls: as_it_stands.mqtt.as_ref().unwrap().tls.clone(), ..mqtt };
    assert_eq!(Some(stripped), as_it_stands.mqtt);
}

#[test]
fn the_example_names_every_key() {
    let site = Site::new();
    let example: toml::Table = uncommented().parse().unwrap();
    let cameras = example["camera"].as_array().unwrap().iter().filter_map(|c| c.as_table());
    let camera: toml::Table = cameras.flat_map(Clone::clone).collect();
    let region = camera["region"].as_table().unwrap().clone();
    let masks = camera["masks"].as_array().unwrap().iter().filter_map(|m| m.as_table());
    let place = camera["place"].as_table().unwrap().clone();
    let mask: toml::Table = masks.flat_map(Clone::clone).collect();
    let section = |name: &str| example[name].as_table().unwrap().clone();
    for (name, keys) in [
        ("", example.clone()),
        ("device", section("device")),
        ("paths", section("paths")),
        ("model", section("model")),
        ("incident", section("incident")),
        ("clip", section("clip")),
        ("mqtt", section("mqtt")),
        ("ota", section("ota")),
        ("upload", section("upload")),
        ("http", section("http")),
        ("metrics", section("metrics")),
        ("schedule.nights", section("schedule")["nights"].as_table().unwrap().clone()),
        ("camera[gate]", camera),
        ("camera[gate].region", region),
        ("camera[gate].masks", mask),
        ("camera[gate].place", place),
    ] {
        // What the reader answers to a key that resembles none.
        let text = match name {
            "" => format!("zzzzzzzzz = 1\n{}", uncommented()),
            "camera[gate].region" => uncommented().replace("region = { x =", "region = { zzzzzzzzz = 1, x ="),
            "camera[gate].place" => {
                uncommented().replace("place = { latitude = 53.5415", "place = { zzzzzzzzz = 1, latitude = 53.5415")
            }
            "camera[gate].masks" => uncommented().replace("masks = [{ x =", "masks = [{ zzzzzzzzz = 1, x ="),
            "camera[gate]" => uncommented().replacen("\n[[camera]]\n", "\n[[camera]]\nzzzzzzzzz = 1\n", 1),
            _ => uncommented().replacen(&format!("\n[{name}]\n"), &format!("\n[{name}]\nzzzzzzzzz = 1\n"), 1),
        };
        let known = site.problem(&text).remedy;
        let expected: Vec<&str> = keys.keys().map(String::as_str).collect();
        assert_eq!(known, format!("known here: {}", expected.join(", ")), "[{name}]");
    }
}

#[test]
fn places_and_severities_are_taken_or_named() {
    let site = Site::new();
    let config = site
        .parse(&with("place = { latitude = -33.9, longitude = 151, name = \"Quay\" }\n[severity]\nFight = \"extreme\""))
        .unwrap();
    let place = Place { latitude: -33.9, longitude: 151.0, name: Some("Quay".into()) };
    assert_eq!(config.cameras[0].place, Some(place));
    assert_eq!(config.severity, [("Fight".to_string(), Severity::Extreme)].into());
    assert_eq!(config.check_classes(&["Fight".into()]), []);
    assert_eq!(config.check_classes(&["Fighting".into()])[0].key, "severity.Fight");
    for (rest, key) in [
        ("place = { latitude = 91, longitude = 0 }", "camera[gate].place.latitude"),
        ("place = { latitude = 1 }", "camera[gate].place.longitude"),
        ("place = { latitude = 1, longitude = 1, name = \"\" }", "camera[gate].place.name"),
        ("[severity]\nFight = \"bad\"", "severity.Fight"),
        ("[severity]\nNormal = \"minor\"", "severity.Normal"),
    ] {
        assert_eq!(site.problem(&with(rest)).key, key, "{rest}");
    }
    let own_name = with("").replace("id = \"gate\"", "id = \"_device\"");
    assert_eq!(site.problem(&own_name).message, "names that begin with _ stand for the device itself");
}

#[test]
fn unknown_keys_get_the_nearest_right_spelling() {
    let site = Site::new();
    for (rest, key, line, remedy) in [
        ("clasify = true", "camera[gate].clasify", REST, "did you mean classify?"),
        ("[incident]\nsmothing = 0.5", "incident.smothing", REST + 1, "did you mean smoothing?"),
        ("[incidents]", "incidents", REST, "did you mean incident?"),
        ("[clip]\nsmoothing = 0.5", "clip.smoothing", REST + 1, "it belongs in section incident"),
        ("pre_roll_s = 5", "camera[gate].pre_roll_s", REST, "it belongs in section clip"),
        ("region = { x = 0, y = 0, w = 1, width = 1, height = 1 }", "camera[gate].region.w", REST, "did you mean x?"),
        ("\"a\\nb\" = 1", "camera[gate].\"a\\nb\"", REST, "known here: "),
    ] {
        let problem = site.problem(&with(rest));
        assert_eq!((problem.key.as_str(), problem.line), (key, Some(line)), "{rest}");
        assert!(problem.remedy.starts_with(remedy), "{rest}: {problem}");
        assert_eq!(problem.message, "is not a known key");
    }
}

#[test]
fn a_key_with_another_unit_is_told_the_right_one() {
    let site = Site::new();
    for (rest, remedy) in [
        ("[clip]\npre_roll_ms = 10000", "use pre_roll_s, in seconds"),
        ("[clip]\npre_roll = 10", "use pre_roll_s, in seconds"),
        ("ring_max_bytes = 64000000", "use ring_max_mb, in MB (10^6 bytes)"),
        ("ring_s = 20", "use ring_seconds, in seconds"),
        ("encode_mbps = 2", "use encode_kbps, in kbit/s"),
    ] {
        assert_eq!(site.problem(&with(rest)).remedy, remedy, "{rest}");
    }
}

#[test]
fn a_wrong_type_is_named_with_what_is_allowed() {
    let site = Site::new();
    for (rest, message, remedy) in [
        ("classify = \"yes\"", "is text, not true or false", "allowed: true or false, without quotes"),
        ("ring_seconds = true", "is true or false, not a number", "allowed: a number of seconds from 5 to 300"),
        (
            "[clip]\npre_roll_s = \"10s\"",
            "is the text \"10s\", not a number",
            "write 10, without quotes and unit: the key counts seconds",
        ),
        (
            "ring_max_mb = \"1 GB\"",
            "is the text \"1 GB\", not a number",
            "write 1000, without quotes and unit: the key counts MB (10^6 bytes)",
        ),
        ("encode_kbps = \"fast\"", "is text, not a number", "allowed: a whole number of kbit/s from 100 to 50000"),
        ("encode_kbps = 512.5", "512.5 is not a whole number", "allowed: a whole number of kbit/s from 100 to 50000"),
        ("region = 1", "is a number, not a section", "write [camera.region] and its keys below"),
        ("masks = [1]", "is a number, not a section", "write [[camera.masks]] and its keys below"),
        ("thresholds = [0.5]", "is a list, not a section", "write [camera.thresholds] and its keys below"),
        (
            "thresholds = { Fight = \"0.8\" }",
            "is the text \"0.8\", not a number",
            "write 0.8, without quotes and unit: the key counts no unit",
        ),
    ] {
        let problem = site.problem(&with(rest));
        assert_eq!((problem.message.as_str(), problem.remedy.as_str()), (message, remedy), "{rest}");
    }
    let one_camera = with("").replace("[[camera]]", "[camera]");
    assert_eq!(site.problem(&one_camera).remedy, "write [[camera]], with double brackets, above each of them");
}

#[test]
fn limits_hold_at_both_ends() {
    let site = Site::new();
    let section = |name: &str, key: &str, value: &str| match name {
        "camera" => with(&format!("{key} = {value}")),
        "model" => with("").replace("[model]", &format!("[model]\n{key} = {value}")),
        "mqtt" => with(&format!("[mqtt]\nurl = \"mqtt://localhost\"\n{key} = {value}")),
        name => with(&format!("[{name}]\n{key} = {value}")),
    };
    for (name, key, right, wrong) in [
        ("model", "threads", ["1", "64"], ["0", "65"]),
        ("model", "stride", ["1", "16"], ["0", "17"]),
        ("camera", "ring_seconds", ["15", "300"], ["4.9", "300.1"]),
        ("camera", "ring_max_mb", ["4", "1024"], ["3", "1025"]),
        ("camera", "encode_kbps", ["100", "50000"], ["99", "0xFFFF"]),
        ("camera", "frozen_after_s", ["2", "300"], ["1", "301"]),
        ("camera", "width", ["32", "8192"], ["31", "8193"]),
        ("camera", "height", ["32", "8192"], ["-32", "8193"]),
        ("camera", "fps", ["1", "60"], ["0", "61"]),
        ("incident", "smoothing", ["0.001", "1"], ["0", "1.001"]),
        ("incident", "hysteresis", ["0", "0.5"], ["-0.001", "0.501"]),
        ("incident", "min_windows", ["1", "64"], ["0", "65"]),
        ("incident", "close_after_s", ["0", "119.9"], ["-1", "600.1"]),
        ("incident", "cool_down_s", ["0", "3600"], ["-0.1", "3601"]),
        ("incident", "merge_within_s", ["0", "119"], ["-1", "601"]),
        ("incident", "max_length_s", ["10.1", "3600"], ["9", "3601"]),
        ("incident", "update_every_s", ["1", "600"], ["0.9", "601"]),
        ("clip", "pre_roll_s", ["0", "25"], ["-1", "121"]),
        ("clip", "post_roll_s", ["0", "120"], ["nan", "inf"]),
        ("storage", "keep_days", ["1", "365"], ["0.5", "3651"]),
        ("storage", "clips_max_mb", ["10", "100000000"], ["9", "100000001"]),
        ("storage", "min_free_mb", ["0", "1000000"], ["-1", "1000001"]),
        ("storage", "keep_incidents_days", ["30", "36500"], ["0", "36501"]),
        ("mqtt", "heartbeat_s", ["1", "3600"], ["0", "3601"]),
        ("mqtt", "keep_alive_s", ["5", "3600"], ["4", "3601"]),
        ("mqtt", "renew_at", ["0.05", "0.95"], ["0.04", "0.96"]),
        ("mqtt", "keep_days", ["1", "3650"], ["0.5", "3651"]),
    ] {
        for value in right {
            site.parse(&section(name, key, value)).unwrap_or_else(|p| panic!("{name}.{key} = {value}: {p:?}"));
        }
        for value in wrong {
            let problem = site.problem(&section(name, key, value));
            assert!(problem.key.ends_with(&format!(".{key}")), "{key} = {value}: {problem}");
            assert!(problem.remedy.starts_with("allowed: a "), "{key} = {value}: {problem}");
        }
    }
    for id in ["", "a b", "a/b", "tür", &"x".repeat(65)] {
        let problem = site.problem(&with("").replace("\"d1\"", &format!("{id:?}")));
        assert_eq!((problem.key.as_str(), problem.line), ("device.id", Some(3)));
    }
}

#[test]
fn impossible_combinations_are_refused() {
    let site = Site::new();
    for (text, key, line, part) in [
        (
            with("ring_seconds = 20\n[clip]\npre_roll_s = 16"),
            "camera[gate].ring_seconds",
            REST,
            "at least pre_roll_s + 5: 21",
        ),
        (with("[clip]\npre_roll_s = 30"), "camera[gate].ring_seconds", 6, "at least pre_roll_s + 5: 35"),
        (with("[incident]\nmax_length_s = 20\nclose_after_s = 20"), "incident.close_after_s", REST + 2, "shorter"),
        (with("[incident]\nmax_length_s = 10"), "incident.merge_within_s", REST, "shorter than max_length_s"),
        (
            with("[incident]\nhysteresis = 0.3\n[camera.thresholds]\nFight = 0.3"),
            "camera[gate].thresholds.Fight",
            REST + 3,
            "hysteresis",
        ),
        (with("[storage]\nkeep_days = 400"), "storage.keep_incidents_days", REST, "at least keep_days"),
        (with("thresholds = { Normal = 0.5 }"), "camera[gate].thresholds.Normal", REST, "leave it out"),
        (with("path = \"recorded.mp4\""), "camera[gate].path", REST, "goes with kind = \"file\" only"),
        (with("[[camera]]\nid = \"gate\"\nkind = \"test\""), "camera[#2].id", REST + 1, "another camera"),
        (with("[[camera]]\nid = \"b\"\nkind = \"tset\""), "camera[b].kind", REST + 2, "did you mean \"test\"?"),
        (
            with(
                "[[camera]]\nid = \"b\"\nkind = \"file\"\npath = \"recorded.mp4\"\npace = \"flat_out\"\nrepeat = true",
            ),
            "camera[b].repeat",
            REST + 5,
            "one or the other",
        ),
        (
            with("region = { x = 0.5, y = 0, width = 0.6, height = 1 }"),
            "camera[gate].region.width",
            REST,
            "at most 1 together",
        ),
        (with("[mqtt]\nurl = \"mqtt://soc.example\""), "mqtt.url", REST + 1, "allow_plaintext"),
        (with("[mqtt]\nurl = \"mqtt://localhost\"\nca_file = \"soc-ca.pem\""), "mqtt.ca_file", REST + 2, "no meaning"),
        (with("[mqtt]\nurl = \"mqtts://soc.example\""), "mqtt.ca_file", REST, "is missing"),
        (with("[mqtt]\nurl = [\"mqtt://localhost\", \"wss://a\"]"), "mqtt.ca_file", REST, "is missing"),
        (with("[mqtt]\nurl = [\"mqtt://localhost\", \"ws://a\"]"), "mqtt.url", REST + 1, "allow_plaintext"),
        (with("[mqtt]\nurl = \"mqtt://localhost\"\nalpn = [\"mqtt\"]"), "mqtt.alpn", REST + 2, "no meaning"),
        (
            with("[mqtt]\nurl = \"mqtts://a\"\nca_file = \"soc-ca.pem\"\ncert_file = \"device.pem\""),
            "mqtt.cert_file",
            REST + 3,
            "both or neither",
        ),
        (
            with("[mqtt]\nurl = \"mqtt://localhost\"\nconsumers = [\"soc\", \"soc\"]"),
            "mqtt.consumers",
            REST + 2,
            "twice",
        ),
        (
            with("[paths]\nruntime_dir = \"/run/").trim_end_matches('\n').to_string() + &"x".repeat(80) + "\"",
            "paths.runtime_dir",
            REST + 1,
            "85 bytes long",
        ),
    ] {
        let problem = site.problem(&text);
        assert_eq!((problem.key.as_str(), problem.line), (key, Some(line)), "{problem}\n{text}");
        assert!(problem.to_string().contains(part), "{problem}");
    }
    let no_camera = with("").replace("[[camera]]\nid = \"gate\"\nkind = \"test\"", "");
    assert_eq!(site.problem(&no_camera).key, "camera");
    let plain = site.parse(&with("[mqtt]\nurl = \"mqtt://10.0.0.9:1\"\nallow_plaintext = true")).unwrap().mqtt.unwrap();
    assert_eq!((plain.brokers[0].to_string().as_str(), plain.tls), ("10.0.0.9:1", None));
}

#[test]
fn all_cameras_together_have_bounds() {
    let site = Site::new();
    let cameras = |n: usize, ring_max_mb| -> String {
        (0..n).map(|i| format!("[[camera]]\nid = \"c{i}\"\nkind = \"test\"\nring_max_mb = {ring_max_mb}\n")).collect()
    };
    assert!(site.parse(&with(&cameras(63, 4))).is_ok());
    assert!(site.problem(&with(&cameras(64, 4))).to_string().contains("at most 64"));
    let problem = site.problem(&with(&cameras(4, 1024)));
    assert!(problem.message.contains("4160 MB"), "{problem}");
}

#[test]
fn missing_files_are_named_whole() {
    let site = Site::new();
    fs::create_dir(site.dir().join("empty")).unwrap();
    let file_camera = |path: &str| with(&format!("[[camera]]\nid = \"f\"\nkind = \"file\"\npath = \"{path}\""));
    let dir = site.dir().display();
    for (text, key, message) in [
        (file_camera("gone.mp4"), "camera[f].path", format!("{dir}/gone.mp4: does not exist")),
        (file_camera("empty"), "camera[f].path", format!("{dir}/empty: is not a regular file")),
        (file_camera(""), "camera[f].path", "is empty or has control characters".to_string()),
        (
            with("").replace("models/default", "models/gone"),
            "model.dir",
            format!("{dir}/usr/share/vedette/models/gone does not exist"),
        ),
        (
            with("").replace("usr/share/vedette/models/default", "empty"),
            "model.dir",
            format!("manifest.toml in {dir}/empty: does not exist"),
        ),
        (
            with("").replace("usr/share/vedette/models/default", "soc-ca.pem"),
            "model.dir",
            format!("{dir}/soc-ca.pem is not a directory"),
        ),
        (
            with("").replace("[model]", "[model]\nonnxruntime = \"gone.so\""),
            "model.onnxruntime",
            format!("{dir}/gone.so: does not exist"),
        ),
        (
            with("[mqtt]\nurl = \"mqtts://a\"\nca_file = \"gone.pem\""),
            "mqtt.ca_file",
            format!("{dir}/gone.pem: does not exist"),
        ),
        (
            with("[mqtt]\nurl = \"mqtts://a\"\nca_file = \"device.key\""),
            "mqtt.ca_file",
            format!("{dir}/device.key holds no certificate in PEM"),
        ),
    ] {
        let problem = site.problem(&text);
        assert_eq!((problem.key.as_str(), problem.message), (key, message));
    }
}

#[test]
fn the_file_itself_may_be_missing_or_no_text() {
    let site = Site::new();
    let gone = load(&site.dir().join("gone.toml")).unwrap_err();
    assert!(matches!(&gone, ConfigError::Unreadable { source, .. } if source.kind() == std::io::ErrorKind::NotFound));
    assert!(gone.to_string().ends_with("gone.toml cannot be read") && gone.problems().is_empty());
    let binary = site.dir().join("binary.toml");
    fs::write(&binary, [0xff, 0xfe, 0]).unwrap();
    assert!(matches!(load(&binary), Err(ConfigError::Unreadable { .. })));
    let right = site.write("right.toml", &with(""), 0o644);
    assert_eq!(load(&right).unwrap().model.dir, site.dir().join("usr/share/vedette/models/default"));
}

#[test]
fn what_is_not_toml_is_told_by_line_and_column() {
    let site = Site::new();
    let problem = site.problem("[device]\nsite = harbour gate\n");
    assert_eq!((problem.line, problem.key.as_str()), (Some(2), ""));
    assert!(problem.message.starts_with("column 8: not TOML: "), "{problem}");
    let problem = site.problem(&with("kind = \"test\""));
    assert_eq!(problem.line, Some(REST), "a key that stands there twice: {problem}");
    let problem = site.problem("[device]\nsite = \"\"\"harbour\n\n");
    assert_eq!(problem.line, Some(2), "what is missing at the end: {problem}");
    let broken = format!("[mqtt]\ncredentials = {PASSWORD}\nx = \"{PASSWORD}");
    let problems = site.parse(&broken).unwrap_err();
    assert!(problems.iter().all(|p| !p.to_string().contains(PASSWORD)), "{problems:?}");
}

#[test]
fn secrets_must_be_private_and_complete() {
    let site = Site::new();
    let rtsp = |rest: &str| {
        with(&format!("[[camera]]\nid = \"r\"\nkind = \"rtsp\"\nurl = \"rtsp://cam/1\"\ncredentials_file = {rest:?}"))
    };
    let open = site.write("open", &format!("u\n{PASSWORD}\n"), 0o640);
    let problem = site.problem(&rtsp("open"));
    assert_eq!(problem.message, format!("{} is open to others than its owner (mode 0640)", open.display()));
    assert!(problem.remedy.starts_with(&format!("run chmod 600 {}", open.display())));
    for (content, part) in [
        ("", "has fewer than two lines"),
        (PASSWORD, "has fewer than two lines"),
        (&format!("u\n{PASSWORD}\nmore"), "has more than two lines"),
        (&format!("\n{PASSWORD}\n"), "has an empty first line"),
        (&format!("u\n{PASSWORD}\u{7}\n"), "has control characters"),
    ] {
        site.write("bad", content, 0o600);
        let problem = site.problem(&rtsp("bad"));
        assert!(problem.message.ends_with(part), "{problem}");
        assert!(!problem.to_string().contains(PASSWORD));
    }
    assert!(site.problem(&rtsp("gone")).message.ends_with("gone: does not exist"));
    assert!(site.problem(&rtsp(".")).message.ends_with("is not a regular file"));
    for inline in [format!("admin:{PASSWORD}"), format!("admin\n{PASSWORD}"), KEY.to_string()] {
        let problem = site.problem(&rtsp(&inline));
        assert!(problem.message.starts_with("looks like the secret itself"), "{problem}");
        assert!(!problem.to_string().contains(PASSWORD) && !problem.to_string().contains("bmV2"));
    }

    let mqtts = |key: &str| {
        with(&format!(
            "[mqtt]\nurl = \"mqtts://a\"\nca_file = \"soc-ca.pem\"\ncert_file = \"device.pem\"\nkey_file = {key:?}"
        ))
    };
    site.write("open.key", KEY, 0o644);
    site.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\n", 0o600);
    site.write("cert.key", CERTIFICATE, 0o600);
    for (key, part) in [
        ("open.key", "mode 0644"),
        ("locked.key", "is an encrypted key"),
        ("cert.key", "holds no private key in PEM"),
        ("gone.key", "does not exist"),
    ] {
        let problem = site.problem(&mqtts(key));
        assert!(problem.key == "mqtt.key_file" && problem.message.contains(part), "{problem}");
    }
}

#[test]
fn no_secret_shows_in_debug_or_in_a_message() {
    let site = Site::new();
    let shown = format!("{:?}", site.parse(&uncommented()).unwrap());
    let path_with_secret =
        with(&format!("[[camera]]\nid = \"r\"\nkind = \"rtsp\"\nurl = \"rtsp://cam/user=a_password={PASSWORD}\""));
    let shown = shown + &format!("{:?}", site.parse(&path_with_secret).unwrap());
    assert!(!shown.contains(PASSWORD) && !shown.contains("bmV2"), "{shown}");

    for url in [
        format!("rtsp://viewer:{PASSWORD}@cam/1"),
        format!("rtsp://viewer:12/{PASSWORD}@cam/1"),
        format!("rtsp://viewer:{PASSWORD}/cam"),
        format!("rtsp:viewer:{PASSWORD}"),
        format!("http://{PASSWORD}"),
        format!("rtsp://[{PASSWORD}]/"),
        format!("rtsp://cam /{PASSWORD}"),
    ] {
        let camera = site.problem(&with(&format!("[[camera]]\nid = \"r\"\nkind = \"rtsp\"\nurl = \"{url}\"")));
        let broker = site.problem(&with(&format!("[mqtt]\nurl = \"{}\"", url.replace("rtsp", "mqtt"))));
        for problem in [camera, broker] {
            assert!(!format!("{problem} {problem:?}").contains(PASSWORD), "{problem}");
        }
    }
    let inside =
        site.problem(&with(&format!("[[camera]]\nid = \"r\"\nkind = \"rtsp\"\nurl = \"rtsp://u:{PASSWORD}@cam/1\"")));
    assert!(inside.remedy.contains("credentials_file"), "{inside}");
    let unknown = site.problem(&with(&format!("password = \"{PASSWORD}\"")));
    assert!(!unknown.to_string().contains(PASSWORD), "{unknown}");
    let list = site.problem(&with(&format!("ring_seconds = \"{PASSWORD}\"")));
    assert!(!list.to_string().contains(PASSWORD), "{list}");
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let site = Site::new();
    let text = "[device]\nid = 7\n\
         [paths]\nstate_dri = \"/x\"\n\
         [model]\ndir = \"gone\"\nthreads = 0\n\
         [[camera]]\nid = \"gate\"\nkind = \"rtsp\"\nurl = \"http://x\"\nring_seconds = 10\nencode_kbps = \"2 Mbit/s\"\n\
         [[camera]]\nkind = \"test\"\nthresholds = { Fight = 2, Fall = 0 }\n\
         [incident]\nmin_windows = 0\nsmoothing = 2\n\
         [clip]\npre_roll_ms = 1\npost_roll_s = 500\n";
    let path = site.write("bad.toml", text, 0o644);
    let error = load(&path).unwrap_err();
    let keys: Vec<&str> = error.problems().iter().map(|p| p.key.as_str()).collect();
    let expected = [
        "device.site",
        "device.id",
        "paths.state_dri",
        "model.dir",
        "model.threads",
        "camera[gate].url",
        "camera[gate].ring_seconds",
        "camera[gate].encode_kbps",
        "camera[#2].id",
        "camera[#2].thresholds.Fight",
        "camera[#2].thresholds.Fall",
        "incident.min_windows",
        "incident.smoothing",
        "clip.pre_roll_ms",
        "clip.post_roll_s",
    ];
    assert_eq!(keys, expected);
    assert!(error.problems().is_sorted_by_key(|p| p.line));
    let shown = error.to_string();
    assert_eq!(shown.lines().count(), 1 + expected.len(), "{shown}");
    assert_eq!(site.problem(&with("[incident]\nsmoothing = 1.2")).message, "1.2 is too large");
    assert!(shown.contains("\n  line 4: paths.state_dri: is not a known key (did you mean state_dir?)\n"), "{shown}");
    let json = serde_json::to_value(&error.problems()[0]).unwrap();
    assert_eq!(json["key"], "device.site");
    assert_eq!((&json["line"], &json["message"]), (&serde_json::json!(1), &serde_json::json!("is missing")));
}

#[test]
fn a_schedule_is_written_as_a_person_says_it() {
    let site = Site::new();
    let spans = |armed: &str| {
        let text = with(&format!("schedule = \"s\"\n[schedule.s]\ntime_zone = \"UTC\"\narmed = {armed}\n"));
        let camera = site.parse(&text).unwrap_or_else(|e| panic!("{armed}: {e:#?}")).cameras.remove(0);
        let show = |s: &Span| {
            let days: String = s.days.iter().map(|d| if *d { 'x' } else { '.' }).collect();
            format!(
                "{days} {}-{} {}",
                s.from.strftime("%H:%M"),
                s.to.map_or("24:00".into(), |t| t.strftime("%H:%M").to_string()),
                s.ends_next_day()
            )
        };
        camera.schedule.unwrap().spans.iter().map(show).collect::<Vec<_>>()
    };
    assert_eq!(spans("[\"mon-fri 18:00-06:00\"]"), ["xxxxx.. 18:00-06:00 true"]);
    assert_eq!(spans("[\"SAT,sun 00:00-24:00\"]"), [".....xx 00:00-24:00 true"]);
    assert_eq!(
        spans("[\"22:00-23:30\", \"fri-mon, wed 01:00-02:00\"]"),
        ["xxxxxxx 22:00-23:30 false", "x.x.xxx 01:00-02:00 false"]
    );

    let problem = |lines: &str| {
        let p = site.problem(&with(&format!("schedule = \"s\"\n[schedule.s]\n{lines}\n")));
        format!("{}: {} ({})", p.key, p.message, p.remedy)
    };
    for (lines, said) in [
        (
            "time_zone = \"UTC\"\narmed = [\"mon-frj 18:00-06:00\"]",
            "schedule.s.armed: value 1 \"frj\" is no day of the week (days are mon, tue",
        ),
        (
            "time_zone = \"UTC\"\narmed = [\"18:00-25:00\"]",
            "value 1 \"25:00\" is no time of day (write hours and minutes, 00:00 to 24:00)",
        ),
        ("time_zone = \"UTC\"\narmed = [\"6:00-18:00\"]", "\"6:00\" is no time of day"),
        ("time_zone = \"UTC\"\narmed = [\"24:00-06:00\"]", "begins at 24:00 (write 00:00 and the next day)"),
        ("time_zone = \"UTC\"\narmed = [\"06:00-06:00\"]", "is empty (for the whole day write 00:00-24:00)"),
        ("time_zone = \"UTC\"\narmed = [\"mon\"]", "has no times such as 18:00-06:00"),
        (
            "time_zone = \"UTC\"\narmed = []",
            "schedule.s.armed: has 0 spans; allowed: 1 to 64 (for a camera that is never armed",
        ),
        (
            "time_zone = \"Europe/Berln\"\narmed = [\"18:00-06:00\"]",
            "schedule.s.time_zone: \"Europe/Berln\" is no time zone that this machine knows",
        ),
        ("time_zone = \"UTC\"", "schedule.s.armed: is missing"),
        (
            "time_zone = \"UTC\"\narmd = []\narmed = [\"18:00-06:00\"]",
            "schedule.s.armd: is not a known key (did you mean armed?)",
        ),
    ] {
        let shown = problem(lines);
        assert!(shown.contains(said), "{lines}\n{shown}\n{said}");
    }
    let p =
        site.problem(&with("schedule = \"night\"\n[schedule.nights]\ntime_zone = \"UTC\"\narmed = [\"18:00-06:00\"]"));
    assert_eq!((p.key.as_str(), p.remedy.as_str()), ("camera[gate].schedule", "did you mean \"nights\"?"));
    let p = site.problem(&with("schedule = \"nights\""));
    assert_eq!(p.remedy, "add a section [schedule.nights]");
    let p = site.problem(&with("[schedule]\nnights = \"18:00-06:00\""));
    assert_eq!((p.key.as_str(), p.message.as_str()), ("schedule.nights", "is text, not a section"));
    assert!(site.parse(&with("[schedule.unused]\narmed = [\"18:00-06:00\"]")).is_ok(), "in the system's time zone");
}

#[test]
fn classes_are_checked_against_the_model() {
    let site = Site::new();
    let config = site.parse(&with("thresholds = { fight = 0.8, Fall = 0.5, Juggling = 0.5 }")).unwrap();
    let classes = ["Normal", "Fight", "Fall"].map(String::from);
    let problems = config.check_classes(&classes);
    let shown: Vec<_> = problems.iter().map(|p| (p.key.as_str(), p.remedy.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("camera[gate].thresholds.Juggling", "it has Fight or Fall"),
            ("camera[gate].thresholds.fight", "did you mean Fight?"),
        ]
    );
}

#[test]
fn a_reload_says_key_by_key_what_it_takes() {
    let site = Site::new();
    let old = site.parse(&uncommented()).unwrap();
    assert_eq!(old.diff(&old), []);
    let text = uncommented()
        .replace("site = \"harbour\"", "site = \"quay\"")
        .replace("Fighting = 0.8", "Fighting = 0.7, Fall = 0.6")
        .replace("smoothing = 0.5", "smoothing = 0.25")
        .replace("pre_roll_s = 10", "pre_roll_s = 20")
        .replace("latency_ms = 200", "latency_ms = 500")
        .replace("[0.2, 0.6]", "[0.3, 0.6]")
        .replace("transport = \"auto\"", "transport = \"udp\"")
        .replace("id = \"pattern\"", "id = \"other\"")
        .replace("18:00-06:00", "18:00-05:00")
        .replace("keep_days = 30", "keep_days = 60")
        .replace("min_free_mb = 500", "min_free_mb = 900");
    site.write("gate.credentials", "viewer\nanother\n", 0o600);
    let new = site.parse(&text).unwrap();
    let shown: Vec<String> = old.diff(&new).iter().map(Change::to_string).collect();
    assert_eq!(
        shown,
        [
            "device.site: needs a restart",
            "camera[gate].credentials_file: needs a restart",
            "camera[gate].transport: needs a restart",
            "camera[gate].latency_ms: needs a restart",
            "camera[gate].schedule: applied",
            "camera[gate].masks: needs a restart",
            "camera[gate].thresholds.Fighting: applied",
            "camera[gate].thresholds.Fall: applied",
            "camera[pattern]: needs a restart",
            "camera[other]: needs a restart",
            "incident.smoothing: applied",
            "clip.pre_roll_s: applied",
            "storage.keep_days: applied",
            "storage.min_free_mb: applied",
            "mqtt.keep_days: needs a restart",
            // Its schedule is the one that was changed.
            "ota: needs a restart",
        ]
    );
    let running = old.with_live_from(&new);
    assert_eq!(running.clip.pre_roll.as_secs(), 20);
    assert_eq!((&running.device, &running.cameras[0].schedule), (&old.device, &new.cameras[0].schedule));
    let left = running.diff(&new);
    assert_eq!(left.len(), 9);
    assert!(left.iter().all(|c| c.applies == Applies::AtRestart), "{left:?}");
}

#[test]
fn a_reload_never_makes_a_combination_that_would_be_refused() {
    let site = Site::new();
    let old = site.parse(&with("ring_seconds = 15\nthresholds = { Fight = 0.2 }")).unwrap();
    let new = site.parse(&with("ring_seconds = 65\n[clip]\npre_roll_s = 60")).unwrap();
    let change = |key: &str, applies| Change { key: key.into(), applies };
    assert!(old.diff(&new).contains(&change("clip.pre_roll_s", Applies::AtRestart)));
    assert_eq!(old.with_live_from(&new).clip.pre_roll.as_secs(), 10);

    let new = site.parse(&with("").replace("\"gate\"", "\"other\"")).unwrap();
    let new = Config { incident: Incident { hysteresis: 0.3, ..new.incident.clone() }, ..new };
    assert!(old.diff(&new).contains(&change("incident.hysteresis", Applies::AtRestart)));
    assert_eq!(old.with_live_from(&new).incident.hysteresis, 0.1);
}

/// Faults that don't touch each other: what is replaced, by what, and the key that must be named.
const FAULTS: [(&str, &str, &str); 10] = [
    ("site = \"harbour\"", "site = \"the harbour\"", "device.site"),
    ("threads = 1", "threads = 1000", "model.threads"),
    ("latency_ms = 200", "latency_s = 0.2", "camera[gate].latency_s"),
    ("path = \"recorded.mp4\"", "path = \"gone.mp4\"", "camera[recorded].path"),
    ("width = 640", "widht = 640", "camera[pattern].widht"),
    ("fps = 15", "fps = \"15 fps\"", "camera[pattern].fps"),
    ("smoothing = 0.5", "smoothing = 0", "incident.smoothing"),
    ("post_roll_s = 10", "post_roll_s = nan", "clip.post_roll_s"),
    ("mqtts://soc.example:8883", "mqtts://soc.example:x", "mqtt.url"),
    ("consumers = [\"soc\"]", "consumers = [\"soc\", 2]", "mqtt.consumers"),
];

/// Headers and pieces of lines.
const ALMOST_TOML: &str = r#"(\[?\[?(camera|clip|mqtt|x)\]?\]?\n?|[a-z=\[\]{}".,0-9 \n-]{0,9}){0,20}"#;

/// Values that no key likes.
const ODD_VALUES: [&str; 11] = ["-1", "\"\"", "[]", "{}", "true", "nan", "1979-05-27", "9e999", HUGE, "\"@\"", "[[1]]"];
const HUGE: &str = "99999999999999999999999999999999999999999";

fn edited(mut lines: Vec<String>, at: usize, edit: u8, with: prop::sample::Index) -> Vec<String> {
    match edit {
        0 => drop(lines.remove(at)),
        1 => {
            let line = lines[at].clone();
            lines.insert(with.index(lines.len()), line);
        }
        2 => {
            let other = with.index(lines.len());
            lines.swap(at, other);
        }
        3 => {
            if let Some((key, _)) = lines[at].split_once('=') {
                lines[at] = format!("{key}= {}", with.get(&ODD_VALUES));
            }
        }
        4 => lines[at] = lines[at].chars().take(with.index(lines[at].len() + 1)).collect(),
        _ => lines[at] = lines[at].replace(['[', '"'], "="),
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn no_problem_hides_another(chosen in proptest::sample::subsequence(FAULTS.to_vec(), 0..=FAULTS.len())) {
        let site = Site::new();
        let text = chosen.iter().fold(uncommented(), |text, (right, wrong, _)| text.replacen(right, wrong, 1));
        let keys: Vec<String> = site.parse(&text).err().unwrap_or_default().into_iter().map(|p| p.key).collect();
        let expected: Vec<&str> = chosen.iter().map(|(_, _, key)| *key).collect();
        prop_assert_eq!(keys, expected);
    }

    #[test]
    fn any_text_is_answered(text in prop_oneof![any::<String>(), ALMOST_TOML]) {
        let problems = parse(&text, Path::new("/nonexistent")).expect_err("no model lies there");
        prop_assert!(!problems.is_empty());
    }

    #[test]
    fn any_mutation_of_the_example_is_answered(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..6_u8, any::<prop::sample::Index>()), 1..8),
    ) {
        let site = Site::new();
        let mut lines: Vec<String> = uncommented().lines().map(String::from).collect();
        for (at, edit, with) in edits {
            let at = at.index(lines.len());
            lines = edited(lines, at, edit, with);
        }
        match site.parse(&lines.join("\n")) {
            Ok(config) => prop_assert!(!config.cameras.is_empty()),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                for problem in problems {
                    prop_assert!(!problem.message.is_empty() && !problem.remedy.is_empty(), "{problem}");
                    let shown = problem.to_string();
                    prop_assert!(!shown.contains(PASSWORD) && !shown.contains('\n'), "{}", shown);
                }
            }
        }
    }
}
