//! Which RTP packets a depayloader may see (RFC 3550; payloads of RFC 6184 for H.264 and RFC 7798 for H.265).
//!
//! A payload that is shorter than what it announces makes the depayloaders of GStreamer 1.22 read and write beyond
//! their buffers, which ends the process. What is left out here would have been lost anyway. Pure.

use gstreamer as gst;
use gstreamer::prelude::*;

/// What is in the payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    H264,
    H265,
    Other,
}

impl Coding {
    /// Of a stream of this description.
    pub fn of(caps: &gst::CapsRef) -> Coding {
        match caps.structure(0).and_then(|s| s.get::<&str>("encoding-name").ok()) {
            Some("H264") => Coding::H264,
            Some("H265") => Coding::H265,
            _ => Coding::Other,
        }
    }
}

/// Lets only whole packets through the pad; `left_out` hears of each other one.
pub fn only_whole(pad: &gst::Pad, coding: Coding, left_out: impl Fn() + Send + Sync + 'static) {
    let whole = move |buffer: &gst::BufferRef| buffer.map_readable().is_ok_and(|packet| is_whole(coding, &packet));
    let mask = gst::PadProbeType::BUFFER | gst::PadProbeType::BUFFER_LIST;
    pad.add_probe(mask, move |_, info| {
        let pass = match &info.data {
            Some(gst::PadProbeData::Buffer(buffer)) => whole(buffer),
            Some(gst::PadProbeData::BufferList(buffers)) => buffers.iter().all(whole),
            _ => true,
        };
        if pass {
            return gst::PadProbeReturn::Ok;
        }
        left_out();
        // Not `Drop`: on a sink pad GStreamer 1.22 then wants to free what the bindings have freed.
        gst::PadProbeReturn::Handled
    });
}

/// Whether a packet holds all that it announces.
fn is_whole(coding: Coding, packet: &[u8]) -> bool {
    let Some(payload) = payload(packet) else { return false };
    match coding {
        Coding::H264 => match payload {
            [head, _, ..] if (1..=23).contains(&(head & 0x1f)) => true,
            [head, units @ ..] if head & 0x1f == 24 => are_whole(units, 1),
            [head, _, _, ..] if head & 0x1f == 28 => true,
            // Decoding order numbers (25 to 27, 29) were never seen, and no depayloader here takes them.
            _ => false,
        },
        Coding::H265 => match payload {
            [head, _, units @ ..] if head >> 1 & 0x3f == 48 => are_whole(units, 2),
            [head, _, _, _, ..] if head >> 1 & 0x3f == 49 => true,
            [head, _, _, ..] => head >> 1 & 0x3f < 48,
            _ => false,
        },
        Coding::Other => !payload.is_empty(),
    }
}

/// Whether these are one or more units, each of at least `least` bytes with its length in two bytes before it.
fn are_whole(mut units: &[u8], least: usize) -> bool {
    let mut some = false;
    while let Some((length, rest)) = units.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some(rest) = rest.get(length..).filter(|_| length >= least) else { return false };
        (units, some) = (rest, true);
    }
    some && units.is_empty()
}

/// What is behind the header and before the padding.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first().filter(|first| **first >> 6 == 2)?;
    let mut payload = packet.get(12 + 4 * usize::from(first & 0x0f)..)?;
    if first & 0x10 != 0 {
        let words = u16::from_be_bytes([*payload.get(2)?, *payload.get(3)?]);
        payload = payload.get(4 + 4 * usize::from(words)..)?;
    }
    if first & 0x20 != 0 {
        let padding = usize::from(*payload.last()?);
        payload = payload.get(..payload.len().checked_sub(padding)?).filter(|_| padding > 0)?;
    }
    Some(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        [&[0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], payload].concat()
    }

    #[test]
    fn what_is_cut_short_is_told_from_what_is_whole() {
        for (coding, payload, wanted) in [
            (Coding::H264, &[0x65, 1][..], true),
            (Coding::H264, &[], false),
            (Coding::H264, &[0x65], false),
            (Coding::H264, &[0x7c, 0x85, 1], true),
            (Coding::H264, &[0x7c, 0x85], false),
            (Coding::H264, &[0x78, 0, 1, 9, 0, 2, 8, 7], true),
            (Coding::H264, &[0x78, 0, 1, 9, 0, 3, 8, 7], false),
            (Coding::H264, &[0x78], false),
            (Coding::H264, &[0x7b, 1, 2, 3, 4], false),
            (Coding::H265, &[0x26, 1, 0], true),
            (Coding::H265, &[0x26, 1], false),
            (Coding::H265, &[0x62, 1, 0x93, 5], true),
            (Coding::H265, &[0x62, 1, 0x93], false),
            (Coding::H265, &[0x60, 1, 0, 2, 8, 7], true),
            (Coding::H265, &[0x60, 1, 0, 1, 8], false),
            (Coding::Other, &[1], true),
            (Coding::Other, &[], false),
        ] {
            assert_eq!(is_whole(coding, &packet(payload)), wanted, "{coding:?} {payload:?}");
        }
    }

    #[test]
    fn header_extension_and_padding_are_taken_off() {
        let mut long = packet(&[0xbe, 0xde, 0, 1, 1, 2, 3, 4, 0x65, 9, 0, 2]);
        long[0] |= 0x30;
        assert_eq!(payload(&long), Some(&[0x65, 9][..]));
        *long.last_mut().expect("it is long") = 200;
        assert_eq!(payload(&long), None);
        assert_eq!(payload(&[0x40; 20]), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_looked_at(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            for coding in [Coding::H264, Coding::H265, Coding::Other] {
                if is_whole(coding, &bytes) {
                    prop_assert!(payload(&bytes).is_some_and(|p| !p.is_empty()));
                }
            }
        }
    }
}
