//! The boxes that fragments and plain files share: brands, the track and its sample entry.

use mp4_atom::{
    Atom, Avc1, Avcc, Dinf, Dref, Edts, Elst, ElstEntry, Encode, FixedPoint, FourCC, Ftyp, Hdlr, Hvc1, Hvcc, Matrix,
    Mdhd, Mdia, Minf, Moov, Mvex, Mvhd, Stbl, Stco, Stsd, Tkhd, Trak, Trex, Url, Visual, Vmhd,
};

use super::{TIMESCALE, TRACK};
use crate::agent::capture::{Codec, Rotation, StreamInfo};
use crate::agent::clip::ClipError;
use crate::base::clock::Wall;

const ONE: i32 = 0x1_0000;

/// Brands of a fragmented file (`default-base-is-moof` came with `iso5`).
pub fn fragmented_brands() -> Ftyp {
    Ftyp {
        major_brand: FourCC::new(b"iso5"),
        minor_version: 512,
        compatible_brands: brands(&[b"iso5", b"iso6", b"mp41"]),
    }
}

/// Brands of a plain file.
pub fn plain_brands() -> Ftyp {
    Ftyp {
        major_brand: FourCC::new(b"isom"),
        minor_version: 512,
        compatible_brands: brands(&[b"isom", b"iso2", b"mp41"]),
    }
}

fn brands(names: &[&[u8; 4]]) -> Vec<FourCC> {
    names.iter().map(|n| FourCC::new(n)).collect()
}

/// The movie of a fragmented file: a track without samples. Presentation starts `offset` ticks into it, so that the
/// first picture shows at zero although it is decoded before it is shown.
pub fn fragmented_moov(stream: &StreamInfo, offset: i64, created: Wall) -> Result<Moov, ClipError> {
    let size = |pixels: u32| {
        u16::try_from(pixels).map_err(|_| ClipError::Stream(format!("{} x {} pixels", stream.width, stream.height)))
    };
    let (width, height) = (size(stream.width)?, size(stream.height)?);
    let created = seconds_since_1904(created);
    let stbl = Stbl {
        stsd: Stsd { codecs: vec![sample_entry(stream, width, height)?] },
        stco: Some(Stco::default()),
        ..Stbl::default()
    };
    Ok(Moov {
        mvhd: Mvhd {
            creation_time: created,
            modification_time: created,
            timescale: TIMESCALE,
            rate: 1.into(),
            volume: 1.into(),
            next_track_id: TRACK + 1,
            ..Mvhd::default()
        },
        mvex: Some(Mvex {
            mehd: None,
            trex: vec![Trex { track_id: TRACK, default_sample_description_index: 1, ..Trex::default() }],
        }),
        trak: vec![Trak {
            tkhd: Tkhd {
                creation_time: created,
                modification_time: created,
                track_id: TRACK,
                enabled: true,
                in_movie: true,
                matrix: upright(stream.rotation, width, height),
                width: FixedPoint::from(width),
                height: FixedPoint::from(height),
                ..Tkhd::default()
            },
            edts: edit(offset, 0),
            mdia: Mdia {
                mdhd: Mdhd {
                    creation_time: created,
                    modification_time: created,
                    timescale: TIMESCALE,
                    duration: 0,
                    language: "und".into(),
                },
                hdlr: Hdlr { handler: FourCC::new(b"vide"), name: "Vedette".into() },
                minf: Minf {
                    vmhd: Some(Vmhd::default()),
                    dinf: Dinf { dref: Dref { entries: vec![Url::default().into()] } },
                    stbl,
                    ..Minf::default()
                },
            },
            ..Trak::default()
        }],
        ..Moov::default()
    })
}

/// An edit list that shows the media from `offset` ticks on, for `duration` ticks (0: to its end); none if it would
/// say nothing.
pub fn edit(offset: i64, duration: u64) -> Option<Edts> {
    let media_time = u64::try_from(offset).ok().filter(|&t| t > 0)?;
    let entry = ElstEntry { segment_duration: duration, media_time: Some(media_time), media_rate: 1.into() };
    Some(Edts { elst: Some(Elst { entries: vec![entry] }) })
}

/// The bytes of a box.
pub fn encoded(what: &'static str, atom: &impl Encode) -> Result<Vec<u8>, ClipError> {
    let mut bytes = Vec::new();
    atom.encode(&mut bytes).map_err(|source| ClipError::Format { what, source })?;
    Ok(bytes)
}

fn sample_entry(stream: &StreamInfo, width: u16, height: u16) -> Result<mp4_atom::Codec, ClipError> {
    let visual = Visual { data_reference_index: 1, width, height, ..Visual::default() };
    let mut config = &stream.codec_config[..];
    let bad = |what| move |source| ClipError::Format { what, source };
    Ok(match stream.codec {
        Codec::H264 => {
            let avcc = Avcc::decode_body(&mut config).map_err(bad("codec configuration (avcC)"))?;
            Avc1 { visual, avcc, ..Avc1::default() }.into()
        }
        Codec::H265 => {
            let hvcc = Hvcc::decode_body(&mut config).map_err(bad("codec configuration (hvcC)"))?;
            Hvc1 { visual, hvcc, ..Hvc1::default() }.into()
        }
    })
}

/// Turns the stored picture clockwise and moves it back to where its upper left corner is the origin.
fn upright(rotation: Rotation, width: u16, height: u16) -> Matrix {
    let (w, h) = (i32::from(width) << 16, i32::from(height) << 16);
    let turned = |a, b, c, d, x, y| Matrix { a, b, c, d, x, y, ..Matrix::default() };
    match rotation {
        Rotation::None => Matrix::default(),
        Rotation::Quarter => turned(0, ONE, -ONE, 0, h, 0),
        Rotation::Half => turned(-ONE, 0, 0, -ONE, w, h),
        Rotation::ThreeQuarter => turned(0, -ONE, ONE, 0, 0, w),
    }
}

/// The Unix epoch in seconds since 1904.
const UNIX_EPOCH_S: i64 = 2_082_844_800;

fn seconds_since_1904(at: Wall) -> u64 {
    (at.unix_ms().div_euclid(1000) + UNIX_EPOCH_S).max(0) as u64
}

/// The wall time of seconds since 1904.
pub fn wall_since_1904(s: u64) -> Wall {
    let unix_s = i64::try_from(s).unwrap_or(i64::MAX).saturating_sub(UNIX_EPOCH_S);
    Wall::from_unix_ms(unix_s.saturating_mul(1000))
}
