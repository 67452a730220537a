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
//! - Every plane is scaled to the frame's size by itself: a triangle filter as wide as two source pixels or
//!   two target pixels, whichever is more (antialiased bilinear), on 8-bit numbers, rows first, then columns.
//!   Nothing outside the region has any influence.
//! - Then colour, by `colour`.

use std::sync::Arc;

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{InnerPixel, U8, U8x2};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};
use gstreamer as gst;
use gstreamer_video::{VideoFormat, VideoFrameExt, VideoFrameRef};

use super::colour::Matrix;
use crate::agent::config::Region;

/// Width of a frame in pixels.
pub const FRAME_WIDTH: u32 = 480;
/// Greatest height of a frame in pixels.
pub const FRAME_HEIGHT_MOST: u32 = 1920;

/// Formats taken as they come from the decoder, the preferred one first: 8-bit, three planes or two, any
/// subsampling.
pub const FORMATS: [VideoFormat; 6] = [
    VideoFormat::I420,
    VideoFormat::Nv12,
    VideoFormat::Yv12,
    VideoFormat::Nv21,
    VideoFormat::Y42b,
    VideoFormat::Y444,
];

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

/// Crops, scales and converts; keeps its working memory.
pub struct Scaler {
    region: Option<Region>,
    resizer: Resizer,
    options: ResizeOptions,
}

impl Scaler {
    /// For this part of the picture; without one, all of it.
    pub fn new(region: Option<Region>) -> Self {
        Scaler {
            region,
            resizer: Resizer::new(),
            options: ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).use_alpha(false),
        }
    }

    /// The frame that a picture becomes.
    pub fn frame(&mut self, picture: &VideoFrameRef<&gst::BufferRef>) -> Result<Rgb, PixelsError> {
        let crop = crop_of(self.region, picture.width(), picture.height());
        let (width, height) = frame_size(crop.width, crop.height);
        let y = self.plane::<U8>(picture, 0, crop, width, height)?;
        let matrix = Matrix::of(picture.info());
        let data = match layout(picture)? {
            Layout::Planar { u, v } => {
                let u = self.plane::<U8>(picture, u, crop, width, height)?;
                let v = self.plane::<U8>(picture, v, crop, width, height)?;
                let chroma = u.pixels().iter().zip(v.pixels()).map(|(u, v)| [u.0, v.0]);
                convert(&matrix, y.pixels().iter().map(|y| y.0), chroma)
            }
            Layout::Interleaved { swapped } => {
                let uv = self.plane::<U8x2>(picture, 1, crop, width, height)?;
                let chroma = uv.pixels().iter().map(|p| if swapped { [p.0[1], p.0[0]] } else { p.0 });
                convert(&matrix, y.pixels().iter().map(|y| y.0), chroma)
            }
        };
        Ok(Rgb { width, height, data })
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
        let failed = |reason: String| PixelsError::Plane {
            plane,
            width: picture.width(),
            height: picture.height(),
            reason,
        };
        let info = picture.format_info();
        let component = (0..info.n_components() as usize)
            .find(|c| info.plane()[*c] == plane)
            .ok_or_else(|| failed("the format has no such plane".into()))?;
        let (sub_x, sub_y) = (info.w_sub()[component], info.h_sub()[component]);
        // Rows may be longer than the picture is wide; the padding must not reach the filter.
        let pixels_a_row = picture.plane_stride()[plane as usize] as u32 / P::size() as u32;
        let rows = picture.plane_height(plane);
        let data = picture.plane_data(plane).map_err(|e| failed(e.to_string()))?;
        let whole =
            TypedImageRef::<P>::from_buffer(pixels_a_row, rows, data).map_err(|e| failed(format!("{e:?}")))?;
        let part = TypedCroppedImage::new(
            whole,
            crop.left >> sub_x,
            crop.top >> sub_y,
            crop.width.div_ceil(1 << sub_x),
            crop.height.div_ceil(1 << sub_y),
        )
        .map_err(|e| failed(e.to_string()))?;
        let mut scaled = TypedImage::<P>::new(width, height);
        self.resizer.resize_typed(&part, &mut scaled, &self.options).map_err(|e| failed(e.to_string()))?;
        Ok(scaled)
    }
}

/// A whole picture as packed RGB in its own size; chroma is repeated, not smoothed.
pub fn full_rgb(picture: &VideoFrameRef<&gst::BufferRef>) -> Result<Rgb, PixelsError> {
    let (width, height) = (picture.width(), picture.height());
    let matrix = Matrix::of(picture.info());
    let layout = layout(picture)?;
    let info = picture.format_info();
    let (sub_x, sub_y) = (info.w_sub()[1], info.h_sub()[1]);
    let row = |plane: u32, line: u32| -> Result<&[u8], PixelsError> {
        let data = picture
            .plane_data(plane)
            .map_err(|e| PixelsError::Plane { plane, width, height, reason: e.to_string() })?;
        let stride = picture.plane_stride()[plane as usize] as usize;
        data.get(line as usize * stride..).ok_or_else(|| PixelsError::Plane {
            plane,
            width,
            height,
            reason: "the plane is shorter than its description".into(),
        })
    };
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for line in 0..height {
        let y = row(0, line)?;
        let chroma_line = line >> sub_y;
        match layout {
            Layout::Planar { u, v } => {
                let (u, v) = (row(u, chroma_line)?, row(v, chroma_line)?);
                data.extend((0..width as usize).flat_map(|x| matrix.rgb(y[x], u[x >> sub_x], v[x >> sub_x])));
            }
            Layout::Interleaved { swapped } => {
                let uv = row(1, chroma_line)?;
                let (cb, cr) = if swapped { (1, 0) } else { (0, 1) };
                data.extend((0..width as usize).flat_map(|x| {
                    let pair = 2 * (x >> sub_x);
                    matrix.rgb(y[x], uv[pair + cb], uv[pair + cr])
                }));
            }
        }
    }
    Ok(Rgb { width, height, data: data.into() })
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

fn convert(matrix: &Matrix, y: impl ExactSizeIterator<Item = u8>, chroma: impl Iterator<Item = [u8; 2]>) -> Arc<[u8]> {
    let mut rgb = vec![0; y.len() * 3];
    for ((pixel, y), [cb, cr]) in rgb.chunks_exact_mut(3).zip(y).zip(chroma) {
        pixel.copy_from_slice(&matrix.rgb(y, cb, cr));
    }
    rgb.into()
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
