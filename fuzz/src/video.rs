//! Access units from bytes.

use std::sync::Arc;
use std::time::Duration;

use arbitrary::{Arbitrary, Result, Unstructured};
use vedette::agent::capture::{AccessUnit, Codec, Rotation, StreamInfo};
use vedette::base::clock::Mono;

/// Parameters of 64 x 64 H.264 (baseline, level 1): players read a size from them.
const AVCC: &[u8] = &[
    1, 0x42, 0xC0, 0x0A, 0xFF, 0xE1, 0, 9, 0x67, 0x42, 0xC0, 0x0A, 0xDA, 0x10, 0x90, 0x4D, 0x40, 1, 0, 4, 0x68, 0xCE,
    0x0F, 0xC8,
];

/// The stream with this tag; equal tags, equal streams.
pub fn stream(tag: u8) -> Arc<StreamInfo> {
    let (width, height) = (64 << (tag % 2), 64);
    let codec_config = AVCC.into();
    Arc::new(StreamInfo { codec: Codec::H264, width, height, rotation: Rotation::None, codec_config })
}

/// One step of a camera.
#[derive(Debug, Arbitrary)]
pub struct Step {
    /// Milliseconds since the unit before; what is above 200 counts as seconds.
    pub forward: u8,
    /// Milliseconds from decoding to showing.
    pub ahead_ms: u8,
    /// A keyframe if eight divides it.
    pub keyframe: u8,
    /// A break if thirty-two divides it.
    pub discontinuity: u8,
    /// Bytes of payload; above 60,000 counts fourfold.
    pub bytes: u16,
}

impl Step {
    /// The unit after `dts`, of this stream.
    pub fn unit(&self, dts: &mut Mono, stream: &Arc<StreamInfo>) -> AccessUnit {
        let scale = if self.forward > 200 { 1000 } else { 1 };
        *dts = *dts + Duration::from_millis(u64::from(self.forward) * scale);
        let size = if self.bytes > 60_000 { usize::from(self.bytes) * 4 } else { usize::from(self.bytes) };
        let keyframe = self.keyframe.is_multiple_of(8);
        let mut data = vec![0xAB; size.max(5)];
        // One NAL unit with its length in front: a slice, of a keyframe or not.
        data[..4].copy_from_slice(&(size.max(5) as u32 - 4).to_be_bytes());
        data[4] = if keyframe { 0x65 } else { 0x41 };
        AccessUnit {
            stream: Arc::clone(stream),
            pts: *dts + Duration::from_millis(self.ahead_ms.into()),
            dts: *dts,
            keyframe,
            discontinuity: self.discontinuity.is_multiple_of(32),
            data: data.into(),
        }
    }
}

/// Up to `most` of something.
pub fn some<'a, T: Arbitrary<'a>>(u: &mut Unstructured<'a>, most: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    while out.len() < most && !u.is_empty() {
        out.push(T::arbitrary(u)?);
    }
    Ok(out)
}
