//! The keys of cameras that are plugged into the device: `kind = "v4l2"` and `kind = "csi"`. Whether a device is there and
//! can do what is wished is not looked at here: cameras come and go.

use std::path::{Component, Path, PathBuf};

use toml::de::DeValue;

use super::kind::{Fault, Kind, choice, found, integer};
use super::section::Section;
use super::{ControlValue, Source, VideoFormat, VideoWish};

/// Keys of `kind = "v4l2"`.
pub(super) const V4L2: &[&str] = &["device", "width", "height", "fps", "format", "controls"];
/// Keys of `kind = "csi"`.
pub(super) const CSI: &[&str] = &["sensor_id", "sensor_mode", "width", "height", "fps"];

/// Reads what is particular to a V4L2 camera.
pub(super) fn v4l2(s: &mut Section<'_>) -> Option<Source> {
    let device = s.required("device", device());
    let [width, height] = ["width", "height"].map(|side| s.optional(side, integer(32..=8192, None)));
    let fps = s.optional("fps", integer(1..=240, None));
    let format = s.optional("format", choice(VideoFormat::ALL));
    let controls = s.map("controls", control(), |name, _| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        match (1..=64).contains(&name.len()) && name.bytes().all(plain) {
            true => Ok(()),
            false => Err(Fault::with_remedy(
                "is not the name of a control",
                "use the names that `v4l2-ctl --list-ctrls` prints, such as power_line_frequency",
            )),
        }
    });
    let wish = VideoWish { width: width?, height: height?, fps: fps?, format: format? };
    Some(Source::V4l2 { device: device?, wish, controls: controls? })
}

/// Reads what is particular to a CSI camera.
pub(super) fn csi(s: &mut Section<'_>) -> Option<Source> {
    let sensor_id = s.or("sensor_id", 0, integer(0..=15, None));
    let sensor_mode = s.optional("sensor_mode", integer(0..=63, None));
    let width = s.or("width", 1280, integer(32..=8192, None));
    let height = s.or("height", 720, integer(32..=8192, None));
    let fps = s.or("fps", 30, integer(1..=240, None));
    Some(Source::Csi { sensor_id: sensor_id?, sensor_mode: sensor_mode?, width: width?, height: height?, fps: fps? })
}

/// A device node, or a link to one that udev keeps.
fn device<'a>() -> Kind<'a, PathBuf> {
    Kind::of_text("a path such as /dev/video0, or better a camera's own name below /dev/v4l/by-id/", |text| {
        let path = Path::new(text);
        // A component that goes up could lead out of /dev again.
        let inside = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        match path.starts_with("/dev") && path != Path::new("/dev") && inside && !text.contains(char::is_control) {
            true => Ok(path.to_owned()),
            false => Err(Fault::new(format!("{text:?} is not a device"))),
        }
    })
}

/// A control's value: a number, true or false, or the label of a menu's item.
fn control<'a>() -> Kind<'a, ControlValue> {
    let allowed = "a whole number, true or false, or a menu item's label in quotes";
    Kind::new(allowed, |value| match value {
        DeValue::Integer(i) => i64::from_str_radix(i.as_str(), i.radix())
            .map(ControlValue::Number)
            .map_err(|_| Fault::new("is far too large a number")),
        DeValue::Boolean(b) => Ok(ControlValue::Switch(*b)),
        DeValue::String(label) if !label.is_empty() => Ok(ControlValue::Label(label.to_string())),
        DeValue::String(_) => Err(Fault::new("is empty")),
        other => Err(Fault::new(format!("is {}", found(other)))),
    })
}
