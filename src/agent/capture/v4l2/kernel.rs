//! The devices of this machine, by the crate `v4l`.
//!
//! Of the crate: opening, formats, sizes, rates, setting and getting of controls, and the kernel's structures. Its own ways of
//! asking for capabilities and for the list of controls are not used: they panic on a name that isn't UTF-8 (USB cameras'
//! names are cut off after 31 bytes, in the middle of a character if need be) and on a type of control that it doesn't know.
//! The few calls that replace them are the only unsafe code in capture.

#![allow(unsafe_code, reason = "ioctl; each call says why it is sound")]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use v4l::Device;
use v4l::control::{Control as RawControl, Value};
use v4l::frameinterval::FrameIntervalEnum;
use v4l::framesize::FrameSizeEnum;
use v4l::v4l_sys as sys;
use v4l::v4l2::{self, vidioc};
use v4l::video::Capture;

use super::controls::{Control, Refusal, Setting, Takes, name_of};
use super::device::{Abilities, DeviceError, Devices, FourCc, Listed, Mode, Rate};
use super::steps::{rates_between, sizes_between};

/// The real ones.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Devices for Kernel {
    fn list(&self) -> Vec<Listed> {
        let names = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        // The later one stays.
        let links: BTreeMap<PathBuf, PathBuf> = names("/dev/v4l/by-path")
            .chain(names("/dev/v4l/by-id"))
            .filter_map(|link| Some((fs::canonicalize(&link).ok()?, link)))
            .collect();
        let mut nodes: Vec<(u32, PathBuf)> = names("/dev")
            .filter_map(|path| Some((path.to_str()?.strip_prefix("/dev/video")?.parse().ok()?, path)))
            .collect();
        nodes.sort();
        nodes.into_iter().map(|(_, node)| Listed { link: links.get(&node).cloned(), node }).collect()
    }

    fn probe(&self, path: &Path) -> Result<Abilities, DeviceError> {
        let (node, device) = open(path)?;
        let system = |source| DeviceError::System { path: path.to_owned(), source };
        let not_camera = |found: &str| DeviceError::NotCamera { path: path.to_owned(), found: found.to_owned() };
        let about = capability(&device).map_err(|e| match e.raw_os_error() {
            Some(libc_errno::ENOTTY) => not_camera("another sort of device"),
            _ => system(e),
        })?;
        if about.device_caps & sys::V4L2_CAP_VIDEO_CAPTURE == 0 {
            return Err(not_camera(match about.device_caps {
                caps if caps & sys::V4L2_CAP_VIDEO_CAPTURE_MPLANE != 0 => {
                    "it gives the planes of a picture apart (multi-planar), which isn't supported"
                }
                caps if caps & sys::V4L2_CAP_META_CAPTURE != 0 => "it gives data about pictures, no pictures",
                _ => "it gives no pictures",
            }));
        }
        Ok(Abilities {
            card: text(&about.card),
            modes: modes(&device).map_err(system)?,
            controls: controls(&device),
            in_use: is_in_use(&device).then(|| holder(&node)),
            node,
        })
    }

    fn set(&self, path: &Path, settings: &[Setting]) -> Result<Vec<Refusal>, DeviceError> {
        let (_, device) = open(path)?;
        let mut refused = Vec::new();
        let mut refuse = |s: &Setting, why: String| refused.push(Refusal { name: s.name.clone(), why });
        let mut made = Vec::new();
        for setting in settings {
            match device.set_control(RawControl { id: setting.id, value: Value::Integer(setting.value) }) {
                Ok(()) => made.push(setting),
                Err(e) => refuse(setting, format!("the camera refuses {} ({e})", setting.said)),
            }
        }
        // Afterwards, because one may have changed another.
        for setting in made {
            let is = match device.control(setting.id).map(|c| c.value) {
                Ok(Value::Integer(n)) => Some(n),
                Ok(Value::Boolean(on)) => Some(i64::from(on)),
                // Written and never to be read.
                Ok(_) | Err(_) => None,
            };
            if query(&device, setting.id).is_ok_and(|c| c.flags & sys::V4L2_CTRL_FLAG_INACTIVE != 0) {
                refuse(setting, "has no effect as other controls stand (an automatic one is on?)".into());
            } else if is.is_some_and(|is| is != setting.value) {
                refuse(setting, format!("set to {}, but the camera says {}", setting.said, is.unwrap_or_default()));
            }
        }
        Ok(refused)
    }
}

/// Numbers of errors that `std::io::ErrorKind` has no name for, or not one of its own.
mod libc_errno {
    pub const ENXIO: i32 = 6;
    pub const ENODEV: i32 = 19;
    pub const ENOTTY: i32 = 25;
}

/// The node that a path leads to, opened.
fn open(path: &Path) -> Result<(PathBuf, Device), DeviceError> {
    let failed = |e: io::Error| {
        let path = path.to_owned();
        match (e.kind(), e.raw_os_error()) {
            (io::ErrorKind::NotFound, _) | (_, Some(libc_errno::ENXIO | libc_errno::ENODEV)) => {
                DeviceError::Absent { path }
            }
            (io::ErrorKind::PermissionDenied, _) => DeviceError::Permission { path },
            (io::ErrorKind::ResourceBusy, _) => DeviceError::Busy { holder: holder(&path), path },
            _ => DeviceError::System { path, source: e },
        }
    };
    let node = fs::canonicalize(path).map_err(failed)?;
    let device = Device::with_path(&node).map_err(failed)?;
    Ok((node, device))
}

fn capability(device: &Device) -> io::Result<sys::v4l2_capability> {
    // SAFETY: a C structure of numbers and bytes, for which all zeros is a value.
    let mut about: sys::v4l2_capability = unsafe { std::mem::zeroed() };
    ask(device, vidioc::VIDIOC_QUERYCAP, &mut about)?;
    Ok(about)
}

fn query(device: &Device, id: u32) -> io::Result<sys::v4l2_query_ext_ctrl> {
    // SAFETY: a C structure of numbers and bytes, for which all zeros is a value.
    let mut control: sys::v4l2_query_ext_ctrl = unsafe { std::mem::zeroed() };
    control.id = id;
    ask(device, vidioc::VIDIOC_QUERY_EXT_CTRL, &mut control)?;
    Ok(control)
}

/// Whether another program streams from it: then even the format that it has can't be set.
fn is_in_use(device: &Device) -> bool {
    // SAFETY: a C structure of numbers and a union of such, for which all zeros is a value.
    let mut format: sys::v4l2_format = unsafe { std::mem::zeroed() };
    format.type_ = sys::v4l2_buf_type_V4L2_BUF_TYPE_VIDEO_CAPTURE;
    let set =
        ask(device, vidioc::VIDIOC_G_FMT, &mut format).and_then(|()| ask(device, vidioc::VIDIOC_S_FMT, &mut format));
    set.is_err_and(|e| e.kind() == io::ErrorKind::ResourceBusy)
}

/// One request; private, and called above and in [`items`] with the structure that belongs to its number.
fn ask<T>(device: &Device, request: vidioc::_IOC_TYPE, argument: &mut T) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as the device lives. The kernel reads and writes one structure at the pointer, of
    // the size that the request's number carries; the callers pass that structure, alone and for the time of the call.
    unsafe { v4l2::ioctl(device.handle().fd(), request, std::ptr::from_mut(argument).cast()) }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim().to_owned()
}

fn modes(device: &Device) -> io::Result<Vec<Mode>> {
    let mut modes = Vec::new();
    for format in device.enum_formats()? {
        // A device without discrete sizes or rates may say nothing at all about them.
        for size in device.enum_framesizes(format.fourcc).unwrap_or_default() {
            let sizes = match size.size {
                FrameSizeEnum::Discrete(s) => vec![(s.width, s.height)],
                FrameSizeEnum::Stepwise(s) => {
                    sizes_between([s.min_width, s.max_width, s.step_width], [s.min_height, s.max_height, s.step_height])
                }
            };
            for (width, height) in sizes {
                let rates = rates(device, format.fourcc, width, height);
                let mode = |rate| Mode { format: FourCc(format.fourcc.repr), width, height, rate };
                match rates.is_empty() {
                    true => modes.push(mode(None)),
                    false => modes.extend(rates.into_iter().map(|r| mode(Some(r)))),
                }
            }
        }
    }
    modes.sort();
    modes.dedup();
    Ok(modes)
}

fn rates(device: &Device, format: v4l::FourCC, width: u32, height: u32) -> Vec<Rate> {
    // The kernel says the time from picture to picture.
    let rate = |f: v4l::Fraction| Rate { frames: f.denominator, seconds: f.numerator };
    let intervals = device.enum_frameintervals(format, width, height).unwrap_or_default();
    let rates = intervals.into_iter().flat_map(|i| match i.interval {
        FrameIntervalEnum::Discrete(f) => vec![rate(f)],
        FrameIntervalEnum::Stepwise(s) => rates_between(rate(s.max), rate(s.min)),
    });
    rates.filter(|r| r.frames > 0 && r.seconds > 0).collect()
}

/// Those that have one value; what this kernel or this driver doesn't list isn't there.
fn controls(device: &Device) -> Vec<Control> {
    let mut controls = Vec::new();
    let mut id = 0;
    while let Ok(found) = query(device, id | sys::V4L2_CTRL_FLAG_NEXT_CTRL) {
        // Each is greater than the one before; a driver that doesn't keep to it must not keep us here.
        if found.id <= id {
            break;
        }
        id = found.id;
        if found.flags & sys::V4L2_CTRL_FLAG_DISABLED != 0
            || found.type_ == sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_CTRL_CLASS
        {
            continue;
        }
        // SAFETY: `c_char` and `u8` have the same size and all values of both are valid.
        let name: [u8; 32] = unsafe { std::mem::transmute(found.name) };
        controls.push(Control {
            id,
            name: name_of(&text(&name)),
            takes: takes(device, &found),
            read_only: found.flags & (sys::V4L2_CTRL_FLAG_READ_ONLY | sys::V4L2_CTRL_FLAG_GRABBED) != 0,
        });
    }
    controls
}

fn takes(device: &Device, control: &sys::v4l2_query_ext_ctrl) -> Takes {
    if control.nr_of_dims > 0 {
        return Takes::Other;
    }
    match control.type_ {
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER | sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER64 => Takes::Number {
            minimum: control.minimum,
            maximum: control.maximum,
            step: i64::try_from(control.step).unwrap_or(i64::MAX).max(1),
        },
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BOOLEAN => Takes::Switch,
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_MENU => Takes::Menu(items(device, control, |item| {
            // SAFETY: of a menu's item that the kernel has filled in, the name is the member that counts; any bytes do.
            text(&unsafe { item.__bindgen_anon_1.name })
        })),
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER_MENU => Takes::Menu(items(device, control, |item| {
            // SAFETY: of an integer menu's item that the kernel has filled in, the value counts; any number does.
            unsafe { item.__bindgen_anon_1.value }.to_string()
        })),
        _ => Takes::Other,
    }
}

/// The items of a menu; it may lack some between its first and its last.
fn items(
    device: &Device,
    control: &sys::v4l2_query_ext_ctrl,
    label: impl Fn(&sys::v4l2_querymenu) -> String,
) -> Vec<(i64, String)> {
    // More than any menu has; what a broken driver says must not keep us here.
    let numbers = control.minimum.max(0)..=control.maximum.min(255);
    let item = |number: i64| {
        // SAFETY: a C structure of numbers and a union of such, for which all zeros is a value.
        let mut item: sys::v4l2_querymenu = unsafe { std::mem::zeroed() };
        (item.id, item.index) = (control.id, number as u32);
        ask(device, vidioc::VIDIOC_QUERYMENU, &mut item).ok()?;
        Some((number, label(&item)))
    };
    numbers.filter_map(item).collect()
}

/// Who has a node open, as far as this user may know.
fn holder(node: &Path) -> String {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let has_it = |process: &Path| {
        let open = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == node)
    };
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten().map(|e| e.path()) {
        let Some(pid) = number(&process) else { continue };
        if pid != std::process::id() && has_it(&process) {
            let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
            found.push(format!("{} (process {pid})", name.trim()));
        }
    }
    match found.is_empty() {
        false => found.join(", "),
        true => format!(
            "another program, or by another camera in this configuration (`fuser -v {}` as root names it)",
            node.display()
        ),
    }
}
