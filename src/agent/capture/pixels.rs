//! From a decoded picture's planes to the small RGB frame: crop, scale each plane, then colour. The picture in
//! full size is never converted, and a picture that no tap takes is never touched.
//!
//! The rules, which training relies on:
//!
//! - The region's edges are moved outwards to even pixels, and stay inside the picture.
//! - The frame is [`FRAME_WIDTH`] pixels wide; the height keeps the cropped picture's proportions, rounded to
//!   the nearest even number, at least 2. A narrower picture is scaled up, so that a view's constants mean the
//!   same everywhere. Should the height come out above [`FRAME_HEIGHT_MOST`], it is that, and the width is the
//!   even number that keeps the proportions. Pixels count as square.
//! - Every plane is scaled to the frame's size by itself. As long as it is at least twice as wide and as high, it is
//!   halved, two by two pixels becoming their mean (rounded, halves up; an odd last column or row is left out), which
//!   costs a fraction of a long filter. For the rest of the way a triangle filter as wide as two source pixels or two
//!   target pixels, whichever is more (antialiased bilinear), on 8-bit numbers, rows first, then columns. Nothing outside
//!   the region has any influence.
//! - Then colour, by `colour`. Last, a picture that is stored turned is turned upright; region and size are
//!   those of the upright picture.

use std::sync::Arc;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{InnerPixel, U8, U8x2};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use gstreamer as gst;
use gstreamer_video::{VideoFormat, VideoFrameExt, VideoFrameRef};

use super::Rotation;
use super::colour::Matrix;
use crate::agent::config::Region;

/// Width of a frame in pixels.
pub const FRAME_WIDTH: u32 = 480;
/// Greatest height of a frame in pixels.
pub const FRAME_HEIGHT_MOST: u32 = 1920;

/// Formats taken as they come from the decoder, the preferred one first: 8-bit, three planes or two, any
/// subsampling.
pub const FORMATS: [VideoFormat; 6] =
    [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::Yv12, VideoFormat::Nv21, VideoFormat::Y42b, VideoFormat::Y444];

/// A picture whose planes can't be used.
#[derive(Debug, thiserror::Error)]
pub enum PixelsError {
    /// Not one of [`FORMATS`].
    #[error("pictures in the format {0} can't be scaled")]
    Format(String),
    /// The planes are not what the description says.
    #[error("scaling plane {plane} of a {width} x {height} picture: {reason}")]
    Plane {
        /// Which.
        plane: u32,
        /// Of the picture.
        width: u32,
        /// Of the picture.
        height: u32,
        /// In the library's words.
        reason: String,
    },
    /// Too large for the JPEG format, or refused by its encoder.
    #[error("encoding a {width} x {height} picture as JPEG: {reason}")]
    Jpeg {
        /// Of the picture.
        width: u32,
        /// Of the picture.
        height: u32,
        /// In the library's words.
        reason: String,
    },
}

/// Packed RGB.
#[derive(Debug, Clone)]
pub struct Rgb {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// `height` x `width` x 3.
    pub data: Arc<[u8]>,
}

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rect {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
}

impl Rect {
    /// The same part of the stored picture, of an upright one of this size.
    fn stored(self, rotation: Rotation, wide: u32, high: u32) -> Rect {
        let Rect { left, top, width, height } = self;
        let (right, bottom) = (wide - left - width, high - top - height);
        match rotation {
            Rotation::None => self,
            Rotation::Quarter => Rect { left: top, top: right, width: height, height: width },
            Rotation::Half => Rect { left: right, top: bottom, width, height },
            Rotation::ThreeQuarter => Rect { left: bottom, top: left, width: height, height: width },
        }
    }
}

/// Crops, scales and converts; keeps its working memory.
pub struct Scaler {
    region: Option<Region>,
    resizer: Resizer,
    options: ResizeOptions,
    halves: [Vec<u8>; 2],
}

impl Scaler {
    /// For this part of the picture; without one, all of it.
    pub fn new(region: Option<Region>) -> Self {
        Scaler {
            region,
            resizer: Resizer::new(),
            options: ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false),
            halves: Default::default(),
        }
    }

    /// The frame that a picture becomes.
    pub fn frame(&mut self, picture: &VideoFrameRef<&gst::BufferRef>, rotation: Rotation) -> Result<Rgb, PixelsError> {
        let (wide, high) = rotation.turned(picture.width(), picture.height());
        let crop = crop_of(self.region, wide, high);
        let (width, height) = frame_size(crop.width, crop.height);
        let crop = crop.stored(rotation, wide, high);
        let (width, height) = rotation.turned(width, height);
        let y = self.plane::<U8>(picture, 0, crop, width, height)?;
        let matrix = Matrix::of(picture.info());
        let data = match layout(picture)? {
            Layout::Planar { u, v } => {
                let u = self.plane::<U8>(picture, u, crop, width, height)?;
                let v = self.plane::<U8>(picture, v, crop, width, height)?;
                convert(&matrix, &y, u.pixels().iter().zip(v.pixels()).map(|(u, v)| [u.0, v.0]))
            }
            Layout::Interleaved { swapped } => {
                let uv = self.plane::<U8x2>(picture, 1, crop, width, height)?;
                convert(&matrix, &y, uv.pixels().iter().map(|p| if swapped { [p.0[1], p.0[0]] } else { p.0 }))
            }
        };
        Ok(upright(Rgb { width, height, data }, rotation))
    }

    /// One plane, cropped to its share of `crop` and scaled.
    fn plane<P: PixelTrait + InnerPixel + Default>(
        &mut self,
        picture: &VideoFrameRef<&gst::BufferRef>,
        plane: u32,
        crop: Rect,
        width: u32,
        height: u32,
    ) -> Result<TypedImage<'static, P>, PixelsError> {
        let failed =
            |reason: String| PixelsError::Plane { plane, width: picture.width(), height: picture.height(), reason };
        let info = picture.format_info();
        let component = (0..info.n_components() as usize)
            .find(|c| info.plane()[*c] == plane)
            .ok_or_else(|| failed("the format has no such plane".into()))?;
        let (sub_x, sub_y) = (info.w_sub()[component], info.h_sub()[component]);
        let mut data = picture.plane_data(plane).map_err(|e| failed(e.to_string()))?;
        // Rows may be longer than the picture is wide; the padding must not reach the filter.
        let mut row_bytes = picture.plane_stride()[plane as usize] as usize;
        let mut part = Rect {
            left: crop.left >> sub_x,
            top: crop.top >> sub_y,
            width: crop.width.div_ceil(1 << sub_x),
            height: crop.height.div_ceil(1 << sub_y),
        };
        let [from, into] = &mut self.halves;
        while part.width >= 2 * width && part.height >= 2 * height {
            let past = || failed("the plane is shorter than its description".into());
            match P::size() {
                1 => halve::<1>(data, row_bytes, part, into),
                _ => halve::<2>(data, row_bytes, part, into),
            }
            .ok_or_else(past)?;
            part = Rect { left: 0, top: 0, width: part.width / 2, height: part.height / 2 };
            row_bytes = part.width as usize * P::size();
            std::mem::swap(from, into);
            data = from;
        }
        let rows = (data.len() / row_bytes) as u32;
        let whole = TypedImageRef::<P>::from_buffer((row_bytes / P::size()) as u32, rows, data)
            .map_err(|e| failed(format!("{e:?}")))?;
        let part = TypedCroppedImage::new(whole, part.left, part.top, part.width, part.height)
            .map_err(|e| failed(e.to_string()))?;
        let mut scaled = TypedImage::<P>::new(width, height);
        self.resizer.resize_typed(&part, &mut scaled, &self.options).map_err(|e| failed(e.to_string()))?;
        Ok(scaled)
    }
}

/// Half of `part` of a plane whose pixels have `N` samples, packed, in `into`; none: the plane ends before its part does.
fn halve<const N: usize>(plane: &[u8], row_bytes: usize, part: Rect, into: &mut Vec<u8>) -> Option<()> {
    let (width, height) = (part.width as usize / 2, part.height as usize / 2);
    into.resize(width * height * N, 0);
    let row =
        |y: usize| plane.get((part.top as usize + y) * row_bytes + part.left as usize * N..)?.get(..2 * N * width);
    for (y, out) in into.chunks_exact_mut(width * N).enumerate() {
        let (upper, lower) = (row(2 * y)?, row(2 * y + 1)?);
        for ((out, a), b) in out.chunks_exact_mut(N).zip(upper.chunks_exact(2 * N)).zip(lower.chunks_exact(2 * N)) {
            for c in 0..N {
                let sum = u16::from(a[c]) + u16::from(a[N + c]) + u16::from(b[c]) + u16::from(b[N + c]);
                out[c] = ((sum + 2) / 4) as u8;
            }
        }
    }
    Some(())
}

/// A whole picture as packed RGB in its own size; chroma is repeated, not smoothed.
pub fn full_rgb(picture: &VideoFrameRef<&gst::BufferRef>, rotation: Rotation) -> Result<Rgb, PixelsError> {
    let (width, height) = (picture.width(), picture.height());
    let matrix = Matrix::of(picture.info());
    let layout = layout(picture)?;
    let info = picture.format_info();
    let (sub_x, sub_y) = (info.w_sub()[1], info.h_sub()[1]);
    let row = |plane: u32, line: u32| -> Result<&[u8], PixelsError> {
        let data = picture.plane_data(plane).map_err(|e| PixelsError::Plane {
            plane,
            width,
            height,
            reason: e.to_string(),
        })?;
        let stride = picture.plane_stride()[plane as usize] as usize;
        data.get(line as usize * stride..).ok_or_else(|| PixelsError::Plane {
            plane,
            width,
            height,
            reason: "the plane is shorter than its description".into(),
        })
    };
    let (mut data, row_bytes) = (blank(width as usize * height as usize * 3), width as usize * 3);
    for (line, out) in (0..height).zip(unshared(&mut data).chunks_exact_mut(row_bytes)) {
        let y = row(0, line)?;
        let chroma_line = line >> sub_y;
        match layout {
            Layout::Planar { u, v } => {
                let (u, v) = (row(u, chroma_line)?, row(v, chroma_line)?);
                for (x, rgb) in out.chunks_exact_mut(3).enumerate() {
                    rgb.copy_from_slice(&matrix.rgb(y[x], u[x >> sub_x], v[x >> sub_x]));
                }
            }
            Layout::Interleaved { swapped } => {
                let uv = row(1, chroma_line)?;
                let (cb, cr) = if swapped { (1, 0) } else { (0, 1) };
                for (x, rgb) in out.chunks_exact_mut(3).enumerate() {
                    let pair = 2 * (x >> sub_x);
                    rgb.copy_from_slice(&matrix.rgb(y[x], uv[pair + cb], uv[pair + cr]));
                }
            }
        }
    }
    Ok(upright(Rgb { width, height, data }, rotation))
}

/// Turns a picture.
fn upright(stored: Rgb, rotation: Rotation) -> Rgb {
    let (w, h) = (stored.width as usize, stored.height as usize);
    let (width, height) = rotation.turned(stored.width, stored.height);
    // Where the upright picture's pixel in this column and row is stored.
    let at: fn(usize, usize, usize, usize) -> usize = match rotation {
        Rotation::None => return stored,
        Rotation::Quarter => |x, y, w, h| (h - 1 - x) * w + y,
        Rotation::Half => |x, y, w, h| (h - 1 - y) * w + (w - 1 - x),
        Rotation::ThreeQuarter => |x, y, w, _| x * w + (w - 1 - y),
    };
    let mut data = Vec::with_capacity(stored.data.len());
    for y in 0..height as usize {
        for x in 0..width as usize {
            let from = 3 * at(x, y, w, h);
            data.extend_from_slice(&stored.data[from..from + 3]);
        }
    }
    Rgb { width, height, data: data.into() }
}

/// Where a format keeps its chroma.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// In planes of their own, with these numbers.
    Planar { u: u32, v: u32 },
    /// In plane 1, in pairs; `swapped`: Cr first.
    Interleaved { swapped: bool },
}

fn layout(picture: &VideoFrameRef<&gst::BufferRef>) -> Result<Layout, PixelsError> {
    let info = picture.format_info();
    match picture.format() {
        VideoFormat::Nv12 => Ok(Layout::Interleaved { swapped: false }),
        VideoFormat::Nv21 => Ok(Layout::Interleaved { swapped: true }),
        VideoFormat::I420 | VideoFormat::Yv12 | VideoFormat::Y42b | VideoFormat::Y444 => {
            Ok(Layout::Planar { u: info.plane()[1], v: info.plane()[2] })
        }
        other => Err(PixelsError::Format(other.to_str().to_string())),
    }
}

fn convert(matrix: &Matrix, y: &TypedImage<U8>, chroma: impl Iterator<Item = [u8; 2]>) -> Arc<[u8]> {
    let mut rgb = blank(y.pixels().len() * 3);
    for ((pixel, y), [cb, cr]) in unshared(&mut rgb).chunks_exact_mut(3).zip(y.pixels()).zip(chroma) {
        pixel.copy_from_slice(&matrix.rgb(y.0, cb, cr));
    }
    rgb
}

/// Pixels to be written where they will be shared from: a full picture is too large to be copied for that.
fn blank(bytes: usize) -> Arc<[u8]> {
    std::iter::repeat_n(0, bytes).collect()
}

fn unshared(pixels: &mut Arc<[u8]>) -> &mut [u8] {
    Arc::get_mut(pixels).expect("nobody else has them yet")
}

/// The region in pixels, its edges moved outwards to even ones.
fn crop_of(region: Option<Region>, width: u32, height: u32) -> Rect {
    let Some(region) = region else { return Rect { left: 0, top: 0, width, height } };
    let axis = |from: f32, length: f32, pixels: u32| {
        let even = |v: f64| (v.max(0.0) as u32) * 2;
        let half = f64::from(pixels) / 2.0;
        let low = even((f64::from(from) * half).floor()).min(pixels.saturating_sub(2));
        let high = even(((f64::from(from) + f64::from(length)) * half).ceil()).clamp(low + 1, pixels.max(low + 1));
        (low, high - low)
    };
    let ((left, width), (top, height)) = (axis(region.x, region.width, width), axis(region.y, region.height, height));
    Rect { left, top, width, height }
}

/// The frame's size for a cropped picture of this size.
fn frame_size(width: u32, height: u32) -> (u32, u32) {
    let even = |numerator: u64, denominator: u64| {
        // Nearest even number: twice the nearest whole number of the half, halves up.
        let half = (numerator + denominator) / (2 * denominator);
        u32::try_from(half.max(1) * 2).unwrap_or(u32::MAX - 1)
    };
    let (w, h) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let tall = even(u64::from(FRAME_WIDTH) * h, w);
    if tall <= FRAME_HEIGHT_MOST {
        (FRAME_WIDTH, tall)
    } else {
        (even(u64::from(FRAME_HEIGHT_MOST) * w, h), FRAME_HEIGHT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use gstreamer_video::{VideoColorimetry, VideoFrame, VideoInfo};
    use proptest::prelude::*;

    use super::*;

    /// A picture whose samples are `sample(component, x, y)`, x and y in the plane's own pixels.
    fn picture(
        format: VideoFormat,
        (width, height): (u32, u32),
        colorimetry: &str,
        sample: impl Fn(u8, u32, u32) -> u8,
    ) -> VideoFrame<gstreamer_video::video_frame::Readable> {
        gst::init().expect("GStreamer is installed");
        let colorimetry: VideoColorimetry = colorimetry.parse().expect("a known name");
        let info = VideoInfo::builder(format, width, height).colorimetry(&colorimetry).build().expect("possible");
        let buffer = gst::Buffer::with_size(info.size()).expect("memory");
        let mut frame = VideoFrame::from_buffer_writable(buffer, &info).expect("mappable");
        let layout = frame.format_info();
        for component in 0..3_u8 {
            let c = component as usize;
            let plane = layout.plane()[c];
            let (stride, step, offset) =
                (info.comp_stride(component) as usize, layout.pixel_stride()[c] as usize, layout.poffset()[c] as usize);
            let data = frame.plane_data_mut(plane).expect("the plane is there");
            for y in 0..info.comp_height(component) {
                for x in 0..info.comp_width(component) {
                    data[y as usize * stride + x as usize * step + offset] = sample(component, x, y);
                }
            }
        }
        VideoFrame::from_buffer_readable(frame.into_buffer(), &info).expect("mappable")
    }

    fn frame(
        picture: &VideoFrame<gstreamer_video::video_frame::Readable>,
        region: Option<Region>,
        rotation: Rotation,
    ) -> Rgb {
        Scaler::new(region).frame(&picture.as_video_frame_ref(), rotation).expect("possible")
    }

    fn pixel(rgb: &Rgb, x: u32, y: u32) -> [u8; 3] {
        let at = 3 * (y * rgb.width + x) as usize;
        [rgb.data[at], rgb.data[at + 1], rgb.data[at + 2]]
    }

    #[test]
    fn every_format_and_size_gives_the_plain_colour_it_shows() {
        for format in FORMATS {
            for size in [(640, 361), (131, 37), (1934, 1103)] {
                for (colorimetry, ycc, rgb) in [
                    ("bt601", [81, 90, 240], [254, 0, 0]),
                    ("bt709", [63, 102, 240], [254, 0, 0]),
                    ("1:4:0:0", [76, 84, 255], [254, 0, 0]),
                ] {
                    let p = picture(format, size, colorimetry, |c, _, _| ycc[c as usize]);
                    let f = frame(&p, None, Rotation::None);
                    assert_eq!(f.data.len(), (f.width * f.height * 3) as usize);
                    for got in f.data.chunks_exact(3) {
                        assert!(
                            got.iter().zip(rgb).all(|(a, b)| a.abs_diff(b) <= 2),
                            "{format:?} {size:?} {colorimetry}: {got:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn formats_with_the_same_samples_give_the_same_frame() {
        let sample = |c: u8, x: u32, y: u32| (x * 3 + y * 7 + u32::from(c) * 50) as u8;
        let reference = frame(&picture(VideoFormat::I420, (642, 362), "bt601", sample), None, Rotation::None);
        for format in [VideoFormat::Nv12, VideoFormat::Yv12, VideoFormat::Nv21] {
            let other = frame(&picture(format, (642, 362), "bt601", sample), None, Rotation::None);
            assert_eq!(reference.data, other.data, "{format:?}");
        }
    }

    #[test]
    fn large_pictures_are_halved_first() {
        let gray = |c: u8, v: u32| if c == 0 { v as u8 } else { 128 };
        let at = |x: u32, y: u32| (x * 7 + y * 13) % 200 + 20;
        let small = picture(VideoFormat::I420, (480, 270), "bt601", |c, x, y| gray(c, at(x, y)));
        for times in [2, 4, 8, 16] {
            let size = (480 * times, 270 * times);
            let large = picture(VideoFormat::Nv12, size, "bt601", |c, x, y| gray(c, at(x / times, y / times)));
            assert_eq!(frame(&large, None, Rotation::None).data, frame(&small, None, Rotation::None).data, "{times}");
        }
        // Means of four, rounded, halves up; the last column is left out.
        let mut half = Vec::new();
        let part = Rect { left: 1, top: 0, width: 5, height: 2 };
        assert_eq!(halve::<1>(&[9, 1, 2, 3, 4, 99, 9, 1, 2, 3, 5, 99], 6, part, &mut half), Some(()));
        assert_eq!(half, [2, 4]);
        assert_eq!(
            halve::<2>(&[1, 10, 3, 20, 1, 10, 3, 20], 4, Rect { left: 0, top: 0, width: 2, height: 2 }, &mut half),
            Some(())
        );
        assert_eq!(half, [2, 15]);
        assert_eq!(halve::<1>(&[1, 2, 3], 2, Rect { left: 0, top: 0, width: 2, height: 2 }, &mut half), None);
    }

    #[test]
    fn nothing_outside_the_region_has_any_influence() {
        let region = Some(Region { x: 0.25, y: 0.25, width: 0.5, height: 0.5 });
        let inside = |x: u32, y: u32, scale: u32| {
            (160 / scale..480 / scale).contains(&x) && (90 / scale..270 / scale).contains(&y)
        };
        let p = picture(VideoFormat::I420, (640, 360), "bt601", |c, x, y| match c {
            0 if inside(x, y, 1) => 126,
            1 | 2 if inside(x, y, 2) => 128,
            _ => 240,
        });
        let f = frame(&p, region, Rotation::None);
        assert_eq!((f.width, f.height), (480, 270));
        assert!(f.data.iter().all(|v| *v == 128));
    }

    /// Quadrants: white, black / grey, dark.
    fn quadrants(size: (u32, u32)) -> VideoFrame<gstreamer_video::video_frame::Readable> {
        picture(VideoFormat::I420, size, "bt601", move |c, x, y| match (c, x < size.0 / 2, y < size.1 / 2) {
            (0, true, true) => 235,
            (0, false, true) => 16,
            (0, true, false) => 126,
            (0, false, false) => 60,
            _ => 128,
        })
    }

    #[test]
    fn turned_pictures_come_out_upright() {
        let p = quadrants((640, 360));
        let corners = |rotation| {
            let f = frame(&p, None, rotation);
            let (r, b) = (f.width - 1, f.height - 1);
            [(0, 0), (r, 0), (0, b), (r, b)].map(|(x, y)| pixel(&f, x, y)[0])
        };
        let (white, black, grey, dark) = (255, 0, 128, 51);
        assert_eq!(corners(Rotation::None), [white, black, grey, dark]);
        assert_eq!(corners(Rotation::Quarter), [grey, white, dark, black]);
        assert_eq!(corners(Rotation::Half), [dark, grey, black, white]);
        assert_eq!(corners(Rotation::ThreeQuarter), [black, dark, white, grey]);
        let f = frame(&p, None, Rotation::Quarter);
        assert_eq!((f.width, f.height), (480, 854));
        // A region is a region of the upright picture.
        let top_right = Some(Region { x: 0.5, y: 0.0, width: 0.5, height: 0.5 });
        for (rotation, shown) in [
            (Rotation::None, black),
            (Rotation::Quarter, white),
            (Rotation::Half, grey),
            (Rotation::ThreeQuarter, dark),
        ] {
            assert!(frame(&p, top_right, rotation).data.iter().all(|v| *v == shown), "{rotation:?}");
        }
    }

    #[test]
    fn full_pictures_keep_every_pixel() {
        let p = picture(VideoFormat::Nv12, (33, 47), "bt601", |c, x, y| if c == 0 { (16 + x + y) as u8 } else { 128 });
        let rgb = full_rgb(&p.as_video_frame_ref(), Rotation::None).expect("possible");
        assert_eq!((rgb.width, rgb.height), (33, 47));
        let m = Matrix::of(p.info());
        assert_eq!(pixel(&rgb, 20, 30), m.rgb(66, 128, 128));
        assert_eq!(full_rgb(&p.as_video_frame_ref(), Rotation::Quarter).expect("possible").width, 47);
    }

    #[test]
    fn sizes_follow_the_stated_rule() {
        for (from, to) in [
            ((1920, 1080), (480, 270)),
            ((3840, 2160), (480, 270)),
            ((768, 576), (480, 360)),
            ((320, 240), (480, 360)),
            ((1080, 1920), (480, 854)),
            ((640, 368), (480, 276)),
            ((8192, 32), (480, 2)),
            ((32, 8192), (8, 1920)),
        ] {
            assert_eq!(frame_size(from.0, from.1), to, "{from:?}");
        }
    }

    proptest! {
        #[test]
        fn a_region_is_inside_the_picture_and_not_empty(
            x in 0.0_f32..0.95, y in 0.0_f32..0.95, w in 0.05_f32..1.0, h in 0.05_f32..1.0,
            width in 32_u32..=8192, height in 32_u32..=8192,
        ) {
            let region = Region { x, y, width: w.min(1.0 - x), height: h.min(1.0 - y) };
            let r = crop_of(Some(region), width, height);
            prop_assert!(r.width >= 1 && r.height >= 1);
            prop_assert!(r.left + r.width <= width && r.top + r.height <= height);
            prop_assert!(r.left.is_multiple_of(2) && r.top.is_multiple_of(2));
            prop_assert!(r.left as f32 <= x * width as f32 + 0.5 && (r.left + r.width) as f32 + 0.5 >= (x + region.width) * width as f32);
            let (fw, fh) = frame_size(r.width, r.height);
            prop_assert!(fw % 2 == 0 && fh % 2 == 0 && fw >= 2 && fh >= 2);
            prop_assert!(fw <= FRAME_WIDTH && fh <= FRAME_HEIGHT_MOST);
        }
    }
}
