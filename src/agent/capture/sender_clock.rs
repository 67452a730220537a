//! What a network camera's own clock says, by its RTCP sender reports (RFC 3550, 6.4.1): the wall time that it claims for a
//! picture, held against the time that the device gives the same picture.
//!
//! It labels and decides nothing: the capture clock stays the base of everything. What is measured is the camera's clock
//! less the device's, less the time that a picture takes from the lens into this process (some tens to hundreds of
//! milliseconds): good for telling a clock that is wrong, not for setting one.
//!
//! GStreamer has had the signals used here since before 1.16.

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;

use super::outlet::Outlet;

/// Seconds from 1900, where NTP's time begins, to 1970.
const NTP_TO_UNIX_S: u64 = 2_208_988_800;

/// Follows the sender reports of an `rtspsrc`.
pub fn follow(source: &gst::Element, outlet: &Outlet) {
    let outlet = outlet.clone();
    source.connect("new-manager", false, move |args| {
        let outlet = outlet.clone();
        on(args.get(1), "new-jitterbuffer", move |args| {
            let outlet = outlet.clone();
            on(args.get(1), "handle-sync", move |args| {
                let sync: Option<gst::Structure> = args.get(1).and_then(|v| v.get().ok());
                if let Some(report) = sync.as_deref().and_then(read) {
                    outlet.camera_clock(report.running_ns, report.unix_ms);
                }
            });
        });
        None
    });
}

/// Connects to a signal of the element in `value`, if it has that.
fn on(value: Option<&glib::Value>, signal: &str, then: impl Fn(&[glib::Value]) + Send + Sync + 'static) {
    let Some(element) = value.and_then(|v| v.get::<gst::Element>().ok()) else { return };
    if glib::subclass::SignalId::lookup(signal, element.type_()).is_some() {
        element.connect(signal, false, move |args| {
            then(args);
            None
        });
    }
}

/// A moment in the stream and by the camera's clock.
#[derive(Debug, PartialEq)]
struct Report {
    running_ns: i64,
    unix_ms: i64,
}

/// What the jitter buffer tells of a report; nothing if the camera has no clock.
fn read(sync: &gst::StructureRef) -> Option<Report> {
    let number = |field: &str| sync.get::<u64>(field).ok().and_then(|n| i64::try_from(n).ok());
    let (base, base_ns, at) = (number("base-rtptime")?, number("base-time")?, number("sr-ext-rtptime")?);
    let rate = i128::from(sync.get::<u32>("clock-rate").ok().filter(|rate| *rate > 0)?);
    let packet = sync.get::<gst::Buffer>("sr-buffer").ok()?;
    let unix_ms = wall(&packet.map_readable().ok()?)?;
    let since_base = i128::from(at.checked_sub(base)?) * 1_000_000_000 / rate;
    Some(Report { running_ns: i64::try_from(i128::from(base_ns) + since_base).ok()?, unix_ms })
}

/// The wall time of a sender report, in milliseconds since 1970. Cameras without a clock send zero, or count from
/// their start.
fn wall(packet: &[u8]) -> Option<i64> {
    let [_, 200, ..] = packet else { return None };
    let word = |at: usize| packet.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let (seconds, fraction) = (u64::from(word(8)?), u64::from(word(12)?));
    let unix_s = seconds.checked_sub(NTP_TO_UNIX_S)?;
    i64::try_from(unix_s * 1_000 + ((fraction * 1_000) >> 32)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(seconds: u32, fraction: u32) -> Vec<u8> {
        let mut packet = vec![0x80, 200, 0, 6, 1, 2, 3, 4];
        packet.extend([seconds, fraction, 90_000, 0, 0].into_iter().flat_map(u32::to_be_bytes));
        packet
    }

    #[test]
    fn a_report_is_a_moment_in_the_stream_and_on_the_clock() {
        gst::init().expect("GStreamer is installed");
        let half_past = packet((NTP_TO_UNIX_S + 1_700_000_000) as u32, 1 << 31);
        let sync = |at: u64, packet: Vec<u8>| {
            gst::Structure::builder("application/x-rtp-sync")
                .field("base-rtptime", 1_000_000_u64)
                .field("base-time", 40_000_000_u64)
                .field("clock-rate", 90_000_u32)
                .field("sr-ext-rtptime", at)
                .field("sr-buffer", gst::Buffer::from_mut_slice(packet))
                .build()
        };
        let wanted = Report { running_ns: 2_040_000_000, unix_ms: 1_700_000_000_500 };
        assert_eq!(read(&sync(1_180_000, half_past.clone())), Some(wanted));
        let earlier = read(&sync(910_000, half_past)).map(|r| r.running_ns);
        assert_eq!(earlier, Some(-960_000_000));
        assert_eq!(read(&sync(1_180_000, packet(0, 0))), None);
        assert_eq!(read(&sync(1_180_000, packet(300, 0))), None, "counts from its start");
        assert_eq!(read(&gst::Structure::new_empty("application/x-rtp-sync")), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_read(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(wall(&bytes).is_none_or(|ms| ms >= 0));
        }
    }
}
