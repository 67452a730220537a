//! Which cameras are plugged into this machine, and what would be made of each: for `vedette cameras`. Looks, and sets nothing.

use std::path::PathBuf;

use gstreamer as gst;

use super::v4l2::{Abilities, Choice, DeviceError, Devices, NoMode, choose};
use crate::agent::config::VideoWish;

/// A camera that was found.
#[derive(Debug)]
pub struct Found {
    /// What a config names it by: a link below `/dev/v4l` that outlasts plugging where there is one, else its node.
    pub device: PathBuf,
    /// What it is.
    pub what: What,
}

/// What was found.
#[derive(Debug)]
pub enum What {
    /// A camera for `kind = "v4l2"`.
    V4l2 {
        /// What it offers.
        abilities: Abilities,
        /// What would be taken of it without a wish.
        choice: Result<Choice, NoMode>,
    },
    /// A sensor for `kind = "csi"`: its own node gives Bayer patterns only, and libargus makes pictures of them.
    Csi {
        /// For the config. Counted in the order of the nodes, which is libargus' as a rule.
        sensor_id: u32,
        /// What it calls itself.
        card: String,
    },
    /// There is something, but it can't be looked at.
    Unknown(DeviceError),
}

/// All of them. `sample_fps`: the rate of the model that is to look.
pub fn local_cameras(devices: &dyn Devices, sample_fps: f32) -> Vec<Found> {
    let libargus = gst::ElementFactory::find("nvarguscamerasrc").is_some();
    let mut sensors = 0..;
    let found = devices.list().into_iter().filter_map(|listed| {
        let what = match devices.probe(&listed.node) {
            // Most cameras have a node or two that give something else than pictures.
            Err(DeviceError::NotCamera { .. } | DeviceError::Absent { .. }) => return None,
            Err(e) => What::Unknown(e),
            Ok(abilities) => match choose(&abilities.modes, &VideoWish::default(), Some(sample_fps)) {
                Err(NoMode::Unreadable { .. }) if libargus => {
                    What::Csi { sensor_id: sensors.next().unwrap_or_default(), card: abilities.card }
                }
                choice => What::V4l2 { abilities, choice },
            },
        };
        Some(Found { device: listed.link.unwrap_or(listed.node), what })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::capture::v4l2::scripted::Scripted;

    #[test]
    fn each_camera_is_found_with_what_would_be_taken() {
        super::super::init().expect("GStreamer is installed");
        let devices = Scripted::default();
        assert!(local_cameras(&devices, 8.0).is_empty());
        devices.plug("/dev/video0", &[(b"MJPG", 640, 480, 30), (b"YUYV", 640, 480, 30)]);
        let found = local_cameras(&devices, 8.0);
        let [Found { device, what: What::V4l2 { choice: Ok(choice), .. } }] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(device.to_str(), Some("/dev/v4l/by-id/usb-Scripted-video-index0"));
        assert_eq!(choice.to_string(), "MJPEG 640x480 at 30 fps");
    }
}
