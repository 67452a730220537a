use std::collections::BTreeMap;
use std::path::Path;

use super::scripted::Scripted;
use super::*;

const LINK: &str = "/dev/v4l/by-id/usb-Scripted-video-index0";

fn camera(devices: &Arc<Scripted>, device: &str) -> V4l2 {
    V4l2 {
        device: device.into(),
        wish: VideoWish::default(),
        controls: BTreeMap::new(),
        sample_fps: Some(8.0),
        devices: Arc::clone(devices) as Arc<dyn Devices>,
    }
}

fn why_not(camera: &V4l2) -> String {
    let error = camera.ready().expect_err("not ready");
    assert_eq!(error.retry(), crate::base::error::Retry::Later, "all of it may change: {error}");
    crate::base::error::Chain(&error).to_string()
}

#[test]
fn a_camera_that_comes_back_under_another_number_is_found_by_its_name() {
    let devices = Arc::new(Scripted::default());
    let (by_id, by_node) = (camera(&devices, LINK), camera(&devices, "/dev/video0"));
    assert!(why_not(&by_id).starts_with("no camera is plugged in as /dev/v4l/by-id/"));
    devices.plug("/dev/video0", &[(b"MJPG", 640, 480, 30)]);
    assert!(by_id.ready().is_ok() && by_node.ready().is_ok());
    devices.unplug();
    devices.plug("/dev/video2", &[(b"MJPG", 640, 480, 30)]);
    assert_eq!(by_id.plan().unwrap().node, Path::new("/dev/video2"));
    let said = why_not(&by_node);
    assert!(said.contains("/dev/video0") && said.contains("a name below /dev/v4l/by-id does not"), "{said}");
}

#[test]
fn who_has_it_and_what_it_cannot_do_is_said() {
    let devices = Arc::new(Scripted::default());
    devices.plug("/dev/video0", &[(b"MJPG", 640, 480, 30)]);
    let mut camera = camera(&devices, LINK);
    devices.hold(Some("cheese (process 12)"));
    assert!(why_not(&camera).ends_with("is in use by cheese (process 12); end that, or give it another camera"));
    devices.hold(None);
    camera.wish.fps = Some(60);
    let said = why_not(&camera);
    assert!(said.ends_with("the camera doesn't offer fps = 60; it offers MJPG 640x480 (30 fps)"), "{said}");
    camera.wish.fps = None;
    camera.controls = BTreeMap::from([("brightness".into(), ControlValue::Number(300))]);
    assert!(why_not(&camera).ends_with("brightness can't be 300; it takes a whole number from 0 to 255"));
}

#[test]
fn trouble_is_explained_by_the_device_itself() {
    elements::init().unwrap();
    let devices = Arc::new(Scripted::default());
    let camera = camera(&devices, LINK);
    let said = |error: gst::glib::Error| {
        let trouble = Trouble { reason: error.message().to_owned(), error, missing: None };
        camera.explain(&trouble).to_string()
    };
    let busy = || gst::glib::Error::new(gst::ResourceError::Busy, "Device is busy");
    let read = || gst::glib::Error::new(gst::ResourceError::Read, "Could not read");
    assert!(said(read()).starts_with("no camera is plugged in"), "pulled out");
    devices.plug("/dev/video0", &[(b"MJPG", 640, 480, 30)]);
    devices.hold(Some("vedette"));
    assert!(said(busy()).ends_with("is in use by vedette; end that, or give it another camera"));
    assert!(said(read()).ends_with("Could not read"), "not because this session has it: {}", said(read()));
}

#[test]
fn what_was_chosen_and_what_could_not_be_set_is_described() {
    let devices = Arc::new(Scripted::default());
    devices.plug("/dev/video3", &[(b"MJPG", 640, 480, 30)]);
    let mut camera = camera(&devices, LINK);
    let controls = [("brightness", ControlValue::Number(7)), ("stubborn", ControlValue::Switch(true))];
    camera.controls = controls.map(|(name, value)| (name.to_owned(), value)).into();
    let plan = camera.plan().unwrap();
    let refused = devices.set(&plan.node, &plan.settings).unwrap();
    assert_eq!(devices.value(1), Some(7));
    let what = "MJPEG 640x480 at 30 fps from Scripted camera (/dev/video3)";
    let as_it_should_be = Chosen { what: what.to_owned(), amiss: false };
    assert_eq!(camera.describe(&plan, &[]), as_it_should_be);
    let what = format!("{what}; NOT set: stubborn: the camera refuses it");
    assert_eq!(camera.describe(&plan, &refused), Chosen { what, amiss: true });
}

#[test]
fn gstreamer_is_asked_for_exactly_what_was_chosen() {
    elements::init().unwrap();
    let rate = Some(Rate { frames: 30_000, seconds: 1001 });
    for (format, wanted) in [
        (b"H264", "video/x-h264, width=(int)640, height=(int)480, framerate=(fraction)30000/1001"),
        (b"HEVC", "video/x-h265, width=(int)640, height=(int)480, framerate=(fraction)30000/1001"),
        (b"MJPG", "image/jpeg, width=(int)640, height=(int)480, framerate=(fraction)30000/1001"),
        (b"YUYV", "video/x-raw, format=(string)YUY2, width=(int)640, height=(int)480, framerate=(fraction)30000/1001"),
    ] {
        let mode = Mode { format: FourCc(*format), width: 640, height: 480, rate };
        let choice = choose(&[mode], &VideoWish::default(), None).unwrap();
        assert_eq!(caps(&choice).to_string(), wanted);
    }
}
