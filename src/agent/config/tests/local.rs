//! `kind = "v4l2"` and `kind = "csi"`.

use super::*;

fn v4l2(rest: &str) -> String {
    with(&format!("[[camera]]\nid = \"a\"\nkind = \"v4l2\"\n{rest}"))
}

#[test]
fn a_local_camera_needs_its_device_and_nothing_else() {
    let site = Site::new();
    let config = site.parse(&v4l2("device = \"/dev/video0\"\n")).unwrap();
    let wish = VideoWish::default();
    let device = "/dev/video0".into();
    assert_eq!(config.cameras[1].source, Source::V4l2 { device, wish, controls: BTreeMap::new() });
    let config = site.parse(&with("[[camera]]\nid = \"a\"\nkind = \"csi\"\n")).unwrap();
    let csi = Source::Csi { sensor_id: 0, sensor_mode: None, width: 1280, height: 720, fps: 30 };
    assert_eq!(config.cameras[1].source, csi);
}

#[test]
fn wishes_and_controls_are_read() {
    let text = "device = \"/dev/v4l/by-id/usb-x\"\nformat = \"mjpeg\"\nwidth = 640\nfps = 30\n\
        controls = { brightness = -3, backlight = true, power_line_frequency = \"50 Hz\" }\n";
    let config = Site::new().parse(&v4l2(text)).unwrap();
    let Source::V4l2 { wish, controls, .. } = &config.cameras[1].source else { panic!("{config:?}") };
    let format = Some(VideoFormat::Mjpeg);
    assert_eq!(*wish, VideoWish { width: Some(640), height: None, fps: Some(30), format });
    let all: Vec<_> = controls.iter().map(|(name, value)| format!("{name} {value}")).collect();
    assert_eq!(all, ["backlight true", "brightness -3", "power_line_frequency \"50 Hz\""]);
}

#[test]
fn what_a_local_camera_cannot_have_is_said() {
    let site = Site::new();
    for (rest, key, said) in [
        ("", "camera[a].device", "is missing (allowed: a path such as /dev/video0"),
        ("device = \"video0\"", "camera[a].device", "\"video0\" is not a device (allowed: a path such as /dev/video0"),
        ("device = \"/dev/../etc/passwd\"", "camera[a].device", "is not a device"),
        ("device = \"/dev\"", "camera[a].device", "is not a device"),
        ("device = \"/dev/video0\"\nformat = \"mpeg\"", "camera[a].format", "did you mean \"mjpeg\"?"),
        ("device = \"/dev/video0\"\nfps = 0", "camera[a].fps", "from 1 to 240"),
        (
            "device = \"/dev/video0\"\ncontrols = { brightness = 0.5 }",
            "camera[a].controls.brightness",
            "a whole number",
        ),
        (
            "device = \"/dev/video0\"\ncontrols = { \"Bright ness\" = 1 }",
            "camera[a].controls.\"Bright ness\"",
            "--list-ctrls",
        ),
        ("device = \"/dev/video0\"\nurl = \"rtsp://x\"", "camera[a].url", "goes with kind = \"rtsp\" only"),
        ("device = \"/dev/video0\"\nsensor_mode = 1", "camera[a].sensor_mode", "goes with kind = \"csi\" only"),
    ] {
        let problem = site.problem(&v4l2(rest));
        assert_eq!(problem.key, key, "{rest}");
        assert!(problem.to_string().contains(said), "{rest}: {problem}");
    }
    let file = with("[[camera]]\nid = \"f\"\nkind = \"file\"\npath = \"recorded.mp4\"\nfps = 5");
    let said = site.problem(&file).to_string();
    assert!(said.contains("goes with kind = \"csi\", \"test\" or \"v4l2\" only"), "{said}");
}

#[test]
fn changes_of_a_local_camera_are_named_and_wait_for_a_restart() {
    let site = Site::new();
    let old = v4l2("device = \"/dev/video0\"\nwidth = 640\ncontrols = { brightness = 1, gain = 2 }");
    let new = v4l2("device = \"/dev/video2\"\nformat = \"raw\"\ncontrols = { brightness = 3, hue = 1 }");
    let changes = site.parse(&old).unwrap().diff(&site.parse(&new).unwrap());
    let keys: Vec<&str> = changes.iter().map(|c| c.key.strip_prefix("camera[a].").unwrap()).collect();
    assert_eq!(keys, ["device", "width", "format", "controls.brightness", "controls.gain", "controls.hue"]);
    assert!(changes.iter().all(|c| c.applies == Applies::AtRestart));
    let csi = |rest: &str| site.parse(&with(&format!("[[camera]]\nid = \"a\"\nkind = \"csi\"\n{rest}"))).unwrap();
    let changes = csi("").diff(&csi("sensor_id = 1\nsensor_mode = 2\nwidth = 640\nheight = 480\nfps = 15"));
    let keys: Vec<&str> = changes.iter().map(|c| c.key.strip_prefix("camera[a].").unwrap()).collect();
    assert_eq!(keys, ["sensor_id", "sensor_mode", "width", "height", "fps"]);
}
