//! Just enough of H.264 and H.265 (ISO/IEC 14496-10, 23008-2) to hand access units on: where decoding can
//! start, and NAL units with four-byte lengths (ISO/IEC 14496-15).

use super::Codec;

/// Bytes of the length in front of each NAL unit, as the body of `avcC` or `hvcC` says; 4 if it is too short
/// to say.
pub fn length_bytes(codec: Codec, codec_config: &[u8]) -> usize {
    codec_config.get(length_at(codec)).map_or(4, |b| usize::from(b & 3) + 1)
}

/// Changes the body of `avcC` or `hvcC` to four-byte lengths.
pub fn say_four_byte_lengths(codec: Codec, codec_config: &mut [u8]) {
    if let Some(b) = codec_config.get_mut(length_at(codec)) {
        *b |= 3;
    }
}

fn length_at(codec: Codec) -> usize {
    match codec {
        Codec::H264 => 4,
        Codec::H265 => 21,
    }
}

/// The NAL units of an access unit; ends at the first length that doesn't fit.
pub fn units(mut data: &[u8], length_bytes: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = data.split_at_checked(length_bytes)?;
        let length = length.iter().fold(0_usize, |n, b| n << 8 | usize::from(*b));
        let (unit, rest) = rest.split_at_checked(length)?;
        data = rest;
        Some(unit)
    })
}

/// The same access unit with four-byte lengths.
pub fn with_four_byte_lengths(data: &[u8], length_bytes: usize) -> Vec<u8> {
    units(data, length_bytes)
        .flat_map(|unit| (unit.len() as u32).to_be_bytes().into_iter().chain(unit.iter().copied()))
        .collect()
}

/// Whether decoding can start at this access unit: an IDR picture, an H.265 random-access picture, or an H.264
/// recovery point that needs no pictures to recover.
pub fn is_keyframe(codec: Codec, data: &[u8], length_bytes: usize) -> bool {
    units(data, length_bytes).filter(|unit| !unit.is_empty()).any(|unit| match codec {
        Codec::H264 => match unit[0] & 0x1f {
            5 => true,
            6 => recovers_at_once(&unit[1..]),
            _ => false,
        },
        Codec::H265 => (16..=21).contains(&(unit[0] >> 1 & 0x3f)),
    })
}

/// Whether an H.264 SEI payload holds a recovery point (type 6) with `recovery_frame_cnt` 0, which is coded as
/// a first bit of 1.
fn recovers_at_once(mut sei: &[u8]) -> bool {
    fn number(sei: &mut &[u8]) -> Option<usize> {
        let mut n = 0;
        loop {
            let (byte, rest) = sei.split_first()?;
            *sei = rest;
            n += usize::from(*byte);
            if *byte != 255 {
                return Some(n);
            }
        }
    }
    // One byte is left at the end: the trailing bits.
    while sei.len() > 2 {
        let (Some(kind), Some(size)) = (number(&mut sei), number(&mut sei)) else { return false };
        if kind == 6 {
            return sei.first().is_some_and(|b| b & 0x80 != 0);
        }
        let Some(rest) = sei.get(size..) else { return false };
        sei = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idr_and_recovery_points_start_decoding() {
        let idr = [0, 0, 0, 2, 0x65, 1];
        let slice = [0, 0, 0, 2, 0x41, 1];
        // SEI: user data (type 5) of one byte, then a recovery point with count 0.
        let recovery = [0, 0, 0, 8, 0x06, 5, 1, 9, 6, 1, 0x84, 0x80, 0, 0, 0, 2, 0x41, 1];
        let gradual = [0, 0, 0, 5, 0x06, 6, 1, 0x44, 0x80, 0, 0, 0, 2, 0x41, 1];
        assert!(is_keyframe(Codec::H264, &idr, 4));
        assert!(!is_keyframe(Codec::H264, &slice, 4));
        assert!(is_keyframe(Codec::H264, &recovery, 4));
        assert!(!is_keyframe(Codec::H264, &gradual, 4));
        assert!(is_keyframe(Codec::H265, &[0, 0, 0, 3, 0x26, 1, 0], 4));
        assert!(!is_keyframe(Codec::H265, &[0, 0, 0, 3, 0x02, 1, 0], 4));
    }

    #[test]
    fn lengths_are_widened() {
        assert_eq!(with_four_byte_lengths(&[0, 1, 7, 0, 2, 8, 9], 2), [0, 0, 0, 1, 7, 0, 0, 0, 2, 8, 9]);
        assert_eq!(length_bytes(Codec::H264, &[1, 66, 0, 30, 0xfd]), 2);
    }

    #[test]
    fn nonsense_ends_quietly() {
        assert!(!is_keyframe(Codec::H264, &[0xff; 20], 4));
        assert!(!is_keyframe(Codec::H264, &[0, 0, 0, 0], 4));
        assert!(!is_keyframe(Codec::H264, &[0, 0, 0, 4, 6, 0xff, 0xff, 0xff], 4));
    }
}
