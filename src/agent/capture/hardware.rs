//! A Jetson's decoders and encoders, where they can be used, and software where not: which elements do which work.
//!
//! An element that is registered may still not work: the Orin Nano has no encoder, and some JetPacks install the element and
//! even a device node for it nevertheless. So an element counts only once it was opened ([`usable`]); and a camera whose
//! first pictures fail in hardware goes on in software (`session`).
//!
//! Hardware works in memory of its own (`NVMM`); `nvvidconv` copies pictures from there and back, and without it nothing of
//! the rest is of use. It never scales for us: frames come from our own scaler, whose pixels training relies on.
//!
//! What is chosen is a pure function over which elements can be used, so that it is tested here for machines that are
//! elsewhere. **Not run on a Jetson yet**: `make test-jetson` is for who has one.

use std::collections::BTreeMap;
use std::os::linux::fs::MetadataExt;
use std::sync::Mutex;

use gstreamer as gst;
use gstreamer::prelude::*;

use super::error::CaptureError;
use super::{Codec, elements};

/// Work that is done in hardware where it can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Pictures from an encoded stream.
    Decode(Codec),
    /// Pictures from JPEG.
    DecodeJpeg,
    /// H.264 from pictures.
    Encode,
    /// Pictures from a CSI sensor.
    Csi,
}

impl Work {
    /// All of it.
    pub const ALL: [Work; 5] =
        [Work::Decode(Codec::H264), Work::Decode(Codec::H265), Work::DecodeJpeg, Work::Encode, Work::Csi];
}

impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Work::Decode(Codec::H264) => "decoding H.264",
            Work::Decode(Codec::H265) => "decoding H.265",
            Work::DecodeJpeg => "decoding MJPEG",
            Work::Encode => "encoding H.264",
            Work::Csi => "CSI sensors",
        })
    }
}

/// An element of a chain, with what is set on it; what a version of it hasn't is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub element: &'static str,
    /// Properties.
    pub settings: Vec<(&'static str, String)>,
}

fn step<const N: usize>(element: &'static str, settings: [(&'static str, &str); N]) -> Step {
    Step { element, settings: settings.map(|(name, value)| (name, value.to_owned())).into() }
}

/// The hardware chain for this work, if its elements can be used. `kbps`: what an encoder is to make.
pub fn chain(work: Work, kbps: u32, usable: &dyn Fn(&str) -> bool) -> Option<Vec<Step>> {
    let copied_back = || [step("nvvidconv", []), step("capsfilter", [("caps", "video/x-raw, format=(string)NV12")])];
    let steps = match work {
        // Each picture as soon as it is decoded; a camera's stream that has B-frames is put in order nevertheless.
        Work::Decode(_) => {
            [vec![step("nvv4l2decoder", [("enable-max-performance", "true")])], copied_back().into()].concat()
        }
        Work::DecodeJpeg => [vec![step("nvv4l2decoder", [("mjpeg", "true")])], copied_back().into()].concat(),
        Work::Encode => vec![
            step("nvvidconv", []),
            step("capsfilter", [("caps", "video/x-raw(memory:NVMM), format=(string)NV12")]),
            Step {
                element: "nvv4l2h264enc",
                settings: vec![
                    // Bits, not kilobits; a constant rate, as x264enc is asked for.
                    ("bitrate", (u64::from(kbps) * 1000).to_string()),
                    ("control-rate", "1".into()),
                    ("insert-sps-pps", "true".into()),
                    // Should it not answer to the keyframes that it is asked for: each second at 30 pictures.
                    ("idrinterval", "30".into()),
                    ("iframeinterval", "30".into()),
                ],
            },
        ],
        Work::Csi => [vec![step("nvarguscamerasrc", [])], copied_back().into()].concat(),
    };
    let needed = |s: &Step| s.element == "capsfilter" || usable(s.element);
    steps.iter().all(needed).then_some(steps)
}

/// The software element for this work: the first of these that can be used.
pub fn software(work: Work) -> &'static [&'static str] {
    match work {
        Work::Decode(Codec::H264) => &["avdec_h264", "openh264dec"],
        Work::Decode(Codec::H265) => &["avdec_h265", "libde265dec"],
        Work::DecodeJpeg => &["jpegdec"],
        Work::Encode => &["x264enc"],
        Work::Csi => &[],
    }
}

/// Who does a piece of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doer {
    /// This element, in hardware.
    Hardware(&'static str),
    /// This element, in software.
    Software(&'static str),
    /// Nobody; the package that would help, if there is one for every machine.
    Nobody(Option<&'static str>),
}

impl std::fmt::Display for Doer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Doer::Hardware(element) => write!(f, "{element} (hardware)"),
            Doer::Software(element) => write!(f, "{element} (software)"),
            Doer::Nobody(Some(package)) => write!(f, "MISSING: install the package {package}"),
            Doer::Nobody(None) => f.write_str("none (this is no Jetson, or JetPack's multimedia packages are missing)"),
        }
    }
}

/// Who would do each piece of work.
pub fn doers(usable: &dyn Fn(&str) -> bool) -> Vec<(Work, Doer)> {
    let doer = |work: Work| match chain(work, 0, usable) {
        Some(steps) => {
            let it = steps.iter().find(|s| !matches!(s.element, "nvvidconv" | "capsfilter"));
            Doer::Hardware(it.expect("each chain has one that works").element)
        }
        None => match software(work).iter().find(|e| usable(e)) {
            Some(element) => Doer::Software(element),
            None => Doer::Nobody(software(work).first().map(|e| elements::package_of(e))),
        },
    };
    Work::ALL.map(|work| (work, doer(work))).into()
}

/// Who does each piece of work on this machine. GStreamer has been started.
pub fn of_this_machine() -> Vec<(Work, Doer)> {
    doers(&usable)
}

/// The same in a line, for the journal.
pub fn summary() -> String {
    of_this_machine().iter().map(|(work, doer)| format!("{work}: {doer}")).collect::<Vec<_>>().join("; ")
}

/// Whether this machine has an element, and for the hardware ones, that it can be opened. Asked once; remembered.
pub fn usable(element: &str) -> bool {
    static KNOWN: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().expect("nothing panics under this lock");
    *known.entry(element.to_owned()).or_insert_with(|| match element {
        _ if gst::ElementFactory::find(element).is_none() => false,
        "nvv4l2h264enc" => has_encoder_node() && opens(element),
        "nvv4l2decoder" => opens(element),
        _ => true,
    })
}

/// JetPack 5 and 6 name the encoder's node differently; where there is no encoder it is missing, or another name for
/// `/dev/null` (device 1:3). Looked at first: trying to open one that isn't there is reported to hang some machines.
fn has_encoder_node() -> bool {
    const NULL: u64 = (1 << 8) | 3;
    let real = |node: &str| std::fs::metadata(node).is_ok_and(|m| m.st_rdev() != NULL);
    ["/dev/v4l2-nvenc", "/dev/nvhost-msenc"].into_iter().any(real)
}

/// An element opens its device on the way to READY.
fn opens(element: &str) -> bool {
    let Ok(made) = gst::ElementFactory::make(element).build() else { return false };
    let opened = made.set_state(gst::State::Ready).is_ok();
    made.set_state(gst::State::Null).is_ok() && opened
}

/// One element that is the whole chain.
pub fn bin(steps: &[Step]) -> Result<gst::Element, CaptureError> {
    let bin = gst::Bin::new();
    let mut made = Vec::new();
    for Step { element, settings } in steps {
        let element = elements::make(element)?;
        for (property, value) in settings {
            elements::set_if_known(&element, property, value);
        }
        made.push(element);
    }
    let broken =
        |e: gst::glib::BoolError| CaptureError::Pipeline { place: steps[0].element.into(), reason: e.to_string() };
    bin.add_many(&made).map_err(broken)?;
    gst::Element::link_many(&made).map_err(broken)?;
    for (end, element) in [("sink", made.first()), ("src", made.last())] {
        let pad = element.and_then(|e| e.static_pad(end)).expect("each chain begins and ends with a pad");
        bin.add_pad(&gst::GhostPad::with_target(&pad).map_err(broken)?).map_err(broken)?;
    }
    Ok(bin.upcast())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFTWARE: [&str; 4] = ["avdec_h264", "avdec_h265", "jpegdec", "x264enc"];
    const JETSON: [&str; 4] = ["nvv4l2decoder", "nvvidconv", "nvv4l2h264enc", "nvarguscamerasrc"];

    /// Who decodes H.264, H.265 and JPEG, who encodes, and who reads sensors.
    fn on(machine: &[&[&str]], but: &[&str]) -> [String; 5] {
        let all = machine.concat();
        let all = doers(&|e| all.contains(&e) && !but.contains(&e));
        Work::ALL.map(|work| all.iter().find(|(w, _)| *w == work).unwrap().1.to_string())
    }

    #[test]
    fn a_jetson_works_in_hardware() {
        // JetPack 5 and 6 on everything but an Orin Nano.
        let decoder = "nvv4l2decoder (hardware)";
        let wanted = [decoder, decoder, decoder, "nvv4l2h264enc (hardware)", "nvarguscamerasrc (hardware)"];
        assert_eq!(on(&[&SOFTWARE, &JETSON], &[]), wanted);
    }

    #[test]
    fn a_jetson_without_an_encoder_encodes_in_software() {
        // An Orin Nano with JetPack 5 or 6; a Thor with JetPack 7, which registers the element for a node that is a stub.
        assert_eq!(
            on(&[&SOFTWARE, &JETSON], &["nvv4l2h264enc"])[2..4],
            ["nvv4l2decoder (hardware)", "x264enc (software)"]
        );
    }

    #[test]
    fn without_the_way_back_to_system_memory_no_hardware_is_of_use() {
        assert_eq!(on(&[&SOFTWARE, &JETSON], &["nvvidconv"]), on(&[&SOFTWARE], &[]));
    }

    #[test]
    fn a_pc_works_in_software_and_says_what_it_lacks() {
        let pc = on(&[&SOFTWARE], &[]);
        assert_eq!(
            pc[..4],
            ["avdec_h264 (software)", "avdec_h265 (software)", "jpegdec (software)", "x264enc (software)"]
        );
        assert!(pc[4].starts_with("none (this is no Jetson"), "{}", pc[4]);
        assert_eq!(
            on(&[&SOFTWARE], &["avdec_h265", "x264enc"])[1..4],
            [
                "MISSING: install the package gstreamer1.0-libav",
                "jpegdec (software)",
                "MISSING: install the package gstreamer1.0-plugins-ugly",
            ]
        );
        assert_eq!(on(&[&["openh264dec"]], &[])[0], "openh264dec (software)");
    }

    #[test]
    fn pictures_cross_between_the_memories() {
        let described = |work| {
            let steps = chain(work, 2000, &|_| true).unwrap();
            let one = |s: &Step| s.settings.iter().fold(s.element.to_owned(), |text, (k, v)| format!("{text} {k}={v}"));
            steps.iter().map(one).collect::<Vec<_>>().join(" ! ")
        };
        let back = "nvvidconv ! capsfilter caps=video/x-raw, format=(string)NV12";
        assert_eq!(described(Work::Decode(Codec::H265)), format!("nvv4l2decoder enable-max-performance=true ! {back}"));
        assert_eq!(described(Work::DecodeJpeg), format!("nvv4l2decoder mjpeg=true ! {back}"));
        assert!(described(Work::Csi).ends_with(back));
        let encoder = described(Work::Encode);
        assert!(encoder.starts_with("nvvidconv ! capsfilter caps=video/x-raw(memory:NVMM)"), "{encoder}");
        assert!(encoder.contains("nvv4l2h264enc bitrate=2000000 "), "bits a second: {encoder}");
    }

    #[test]
    fn a_chain_is_one_element_that_passes_pictures_on() {
        elements::init().unwrap();
        let steps = [
            step("identity", [("no-such-property", "1")]),
            step("capsfilter", [("caps", "video/x-raw, format=(string)NV12")]),
        ];
        let chain = bin(&steps).unwrap();
        let caps = chain.static_pad("sink").unwrap().query_caps(None);
        assert!(caps.to_string().contains("NV12"), "the caps of the last reach the first: {caps}");
        assert!(chain.static_pad("src").is_some());
    }

    #[test]
    fn what_this_machine_has_can_be_used() {
        elements::init().unwrap();
        assert!(usable("x264enc") && !usable("no-such-element"));
        let all = of_this_machine();
        assert!(!all.iter().take(4).any(|(_, doer)| matches!(doer, Doer::Nobody(_))), "{all:?}");
    }
}
