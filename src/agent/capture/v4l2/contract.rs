//! What every implementation of [`Devices`] keeps: the scripted one here, the kernel's on a machine with cameras
//! (`make system-test` brings one up that has vivid) and, as far as it goes without, everywhere.

use std::collections::BTreeMap;
use std::path::Path;

use super::controls::{Setting, Takes, settle};
use super::device::{DeviceError, Devices};
use super::kernel::Kernel;
use super::scripted::Scripted;
use crate::agent::config::ControlValue;

/// The suite.
fn keeps_the_contract(devices: &dyn Devices) {
    let nowhere = Path::new("/dev/v4l/by-id/no-such-camera");
    assert!(matches!(devices.probe(nowhere), Err(DeviceError::Absent { path }) if path == nowhere));
    assert!(matches!(devices.set(nowhere, &[]), Err(DeviceError::Absent { .. })));
    let listed = devices.list();
    assert!(listed.is_sorted_by_key(|l| l.node.as_os_str().len()), "video2 stands before video10: {listed:?}");
    for l in listed {
        let abilities = match devices.probe(&l.node) {
            Ok(abilities) => abilities,
            Err(e) => {
                // Named as it was asked for, so that the config can be found in the message.
                assert!(e.to_string().contains(l.node.to_str().unwrap()), "{e}");
                continue;
            }
        };
        assert_eq!(abilities.node, l.node);
        if let Some(link) = &l.link {
            assert_eq!(devices.probe(link).unwrap().node, l.node, "the link leads to the node");
        }
        assert!(abilities.modes.iter().all(|m| m.width > 0 && m.height > 0));
        assert!(abilities.modes.iter().filter_map(|m| m.rate).all(|r| r.fps() > 0.0 && r.fps().is_finite()));
        assert!(abilities.controls.iter().all(|c| !c.name.is_empty()));
        assert_eq!(devices.set(&l.node, &[]).unwrap(), []);
        let a_number = abilities.controls.iter().find(|c| matches!(c.takes, Takes::Number { .. }) && !c.read_only);
        if let Some((control, Takes::Number { maximum, .. })) = a_number.map(|c| (c, &c.takes)) {
            let wish = BTreeMap::from([(control.name.clone(), ControlValue::Number(*maximum))]);
            let settings: Vec<Setting> = settle(&wish, &abilities.controls).unwrap();
            assert!(devices.set(&l.node, &settings).is_ok(), "a refusal is no error");
        }
    }
}

#[test]
fn scripted_devices_keep_the_contract() {
    let devices = Scripted::default();
    keeps_the_contract(&devices);
    devices.plug("/dev/video0", &[(b"MJPG", 640, 480, 30)]);
    devices.plug("/dev/video10", &[]);
    keeps_the_contract(&devices);
}

#[test]
fn the_devices_of_this_machine_keep_the_contract() {
    keeps_the_contract(&Kernel);
    for not_a_camera in ["/dev/null", "/dev/zero"] {
        let e = Kernel.probe(Path::new(not_a_camera)).expect_err(not_a_camera);
        assert!(matches!(e, DeviceError::NotCamera { .. }), "{e:?}");
    }
    // A file that only looks like a node.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("video0");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(Kernel.probe(&file), Err(DeviceError::NotCamera { .. })));
}
