//! How far presentation may run behind decoding, from a stream's sequence parameter set (ISO/IEC 14496-10
//! 7.3.2.1 and E.1.1, ISO/IEC 23008-2 7.3.2.2). Needed where a container or a network gives presentation times
//! only.

use super::{Codec, nal};

/// No stream reorders by more pictures than its buffer can hold.
const MOST: usize = 16;

/// Pictures between decoding and presentation, from the body of `avcC` or `hvcC`; 0 if it can't be read.
pub fn reorder_depth(codec: Codec, codec_config: &[u8]) -> usize {
    match codec {
        Codec::H264 => avc_sps(codec_config).and_then(|sps| h264(&unescape(sps))),
        Codec::H265 => hevc_sps(codec_config).and_then(|sps| h265(&unescape(sps))),
    }
    .unwrap_or(0)
    .min(MOST)
}

/// The first SPS of an `avcC`.
fn avc_sps(config: &[u8]) -> Option<&[u8]> {
    if config.get(5)? & 0x1f == 0 {
        return None;
    }
    nal::units(config.get(6..)?, 2).next()
}

/// The first SPS (NAL unit type 33) of an `hvcC`.
fn hevc_sps(config: &[u8]) -> Option<&[u8]> {
    let arrays = *config.get(22)?;
    let mut rest = config.get(23..)?;
    for _ in 0..arrays {
        let kind = rest.first()? & 0x3f;
        let count = u16::from_be_bytes([*rest.get(1)?, *rest.get(2)?]);
        rest = rest.get(3..)?;
        for i in 0..count {
            let unit = nal::units(rest, 2).next()?;
            if kind == 33 && i == 0 {
                return Some(unit);
            }
            rest = rest.get(2 + unit.len()..)?;
        }
    }
    None
}

/// A NAL unit without its emulation prevention bytes (the 3 of each 0 0 3).
fn unescape(unit: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(unit.len());
    let mut zeros = 0;
    for &byte in unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

fn h264(sps: &[u8]) -> Option<usize> {
    let mut r = Bits { data: sps, at: 8 };
    let profile = r.bits(8)?;
    r.bits(16)?; // constraints, level
    r.ue()?; // seq_parameter_set_id
    if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
        let chroma = r.ue()?;
        if chroma == 3 {
            r.bits(1)?;
        }
        r.ue()?; // bit_depth_luma
        r.ue()?; // bit_depth_chroma
        r.bits(1)?;
        if r.flag()? {
            for list in 0..if chroma == 3 { 12 } else { 8 } {
                if r.flag()? {
                    r.scaling_list(if list < 6 { 16 } else { 64 })?;
                }
            }
        }
    }
    r.ue()?; // log2_max_frame_num
    match r.ue()? {
        0 => {
            r.ue()?;
        }
        1 => {
            r.bits(1)?;
            r.ue()?; // offset_for_non_ref_pic; signed and unsigned numbers are equally long
            r.ue()?;
            for _ in 0..r.ue()?.min(255) {
                r.ue()?;
            }
        }
        // Order of output is order of decoding.
        _ => return Some(0),
    }
    let references = r.ue()? as usize;
    r.bits(1)?;
    r.ue()?; // width
    r.ue()?; // height
    if !r.flag()? {
        r.bits(1)?;
    }
    r.bits(1)?;
    if r.flag()? {
        for _ in 0..4 {
            r.ue()?;
        }
    }
    // Baseline has no pictures that refer to later ones. Others hold back at most what they may refer to.
    let unsaid = if profile == 66 { 0 } else { references };
    Some(if r.flag()? { r.h264_vui_reorder().flatten().unwrap_or(unsaid) } else { unsaid })
}

fn h265(sps: &[u8]) -> Option<usize> {
    let mut r = Bits { data: sps, at: 16 };
    r.bits(4)?;
    let sub_layers = r.bits(3)?;
    r.bits(1)?;
    r.bits(88)?; // general profile, tier
    r.bits(8)?; // level
    let present: Vec<(bool, bool)> = (0..sub_layers).map(|_| Some((r.flag()?, r.flag()?))).collect::<Option<_>>()?;
    if sub_layers > 0 {
        r.bits(2 * (8 - sub_layers))?;
    }
    for (profile, level) in present {
        r.bits(if profile { 88 } else { 0 })?;
        r.bits(if level { 8 } else { 0 })?;
    }
    r.ue()?; // sps_seq_parameter_set_id
    if r.ue()? == 3 {
        r.bits(1)?;
    }
    r.ue()?; // width
    r.ue()?; // height
    if r.flag()? {
        for _ in 0..4 {
            r.ue()?;
        }
    }
    r.ue()?; // bit depths
    r.ue()?;
    r.ue()?; // log2_max_pic_order_cnt_lsb
    let all = r.flag()?;
    let mut reorder = 0;
    for _ in 0..if all { sub_layers + 1 } else { 1 } {
        r.ue()?; // sps_max_dec_pic_buffering
        reorder = r.ue()? as usize;
        r.ue()?; // sps_max_latency_increase
    }
    Some(reorder)
}

/// Reads bits from the highest on; nothing past the end.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn flag(&mut self) -> Option<bool> {
        let byte = self.data.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// `n` bits; of more than 32 the last 32.
    fn bits(&mut self, n: u32) -> Option<u32> {
        (0..n).try_fold(0_u32, |v, _| Some(v << 1 | u32::from(self.flag()?)))
    }

    /// An unsigned Exp-Golomb number.
    fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.bits(zeros)?)
    }

    fn se(&mut self) -> Option<i32> {
        let v = self.ue()? as i32;
        Some(if v & 1 == 1 { v / 2 + 1 } else { -(v / 2) })
    }

    fn scaling_list(&mut self, size: usize) -> Option<()> {
        let (mut last, mut next) = (8_i32, 8_i32);
        for _ in 0..size {
            if next != 0 {
                next = (last + self.se()? + 256) & 255;
            }
            last = if next == 0 { last } else { next };
        }
        Some(())
    }

    /// `max_num_reorder_frames`, if the parameters (from behind their presence flag on) say it.
    fn h264_vui_reorder(&mut self) -> Option<Option<usize>> {
        if self.flag()? && self.bits(8)? == 255 {
            self.bits(32)?; // sample aspect ratio
        }
        if self.flag()? {
            self.bits(1)?; // overscan
        }
        if self.flag()? {
            self.bits(4)?; // video signal type
            if self.flag()? {
                self.bits(24)?;
            }
        }
        if self.flag()? {
            self.ue()?; // chroma sample location
            self.ue()?;
        }
        if self.flag()? {
            self.bits(65)?; // timing
        }
        let (nal_hrd, vcl_hrd) = (self.hrd()?, self.hrd()?);
        if nal_hrd || vcl_hrd {
            self.bits(1)?;
        }
        self.bits(1)?; // pic_struct_present
        if !self.flag()? {
            return Some(None);
        }
        self.bits(1)?;
        for _ in 0..4 {
            self.ue()?;
        }
        Some(Some(self.ue()? as usize))
    }

    /// Passes over buffering parameters; whether there were any.
    fn hrd(&mut self) -> Option<bool> {
        let present = self.flag()?;
        if present {
            let count = self.ue()?.min(31) + 1;
            self.bits(8)?;
            for _ in 0..count {
                self.ue()?;
                self.ue()?;
                self.bits(1)?;
            }
            self.bits(20)?;
        }
        Some(present)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_reordering() {
        for config in [&[][..], &[0; 40], &[0xff; 40], &[1, 100, 0, 30, 0xff, 0xe1, 0, 2, 0x67, 100]] {
            assert_eq!(reorder_depth(Codec::H264, config), 0);
            assert_eq!(reorder_depth(Codec::H265, config), 0);
        }
    }

    #[test]
    fn exp_golomb_numbers() {
        // 1 | 010 | 011 | 00100 | 1...
        let mut r = Bits { data: &[0b1010_0110, 0b0100_1000], at: 0 };
        assert_eq!((r.ue(), r.ue(), r.ue(), r.ue(), r.ue()), (Some(0), Some(1), Some(2), Some(3), Some(0)));
    }

    #[test]
    fn emulation_prevention_goes() {
        assert_eq!(unescape(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3]), [0, 0, 1, 0, 0, 0, 0]);
    }
}
