//! YCbCr to RGB in whole numbers, so that every machine gives the same pixels.
//!
//! With `Kr`, `Kb` of the picture's matrix and `Kg = 1 - Kr - Kb`:
//!
//! ```text
//!     limited range: y = (Y - 16) 255/219, b = (Cb - 128) 255/224, r = (Cr - 128) 255/224
//!     full range:    y = Y,                b = Cb - 128,           r = Cr - 128
//!     R = y + 2 (1 - Kr) r
//!     G = y - 2 (1 - Kb) Kb / Kg b - 2 (1 - Kr) Kr / Kg r
//!     B = y + 2 (1 - Kb) b
//! ```
//!
//! Each factor is rounded to 1/65536, the sum to the nearest whole number (halves up), then held in 0 to 255.
//! Matrix and range are those that the stream declares; a stream that declares none is BT.601 if it has fewer
//! than 720 lines, else BT.709, limited range. Where the chroma samples sit between the luma samples is not
//! looked at, nor are transfer function and primaries.

use gstreamer_video::{VideoColorMatrix, VideoColorRange, VideoInfo};

/// 16 fractional bits.
const ONE: f64 = 65536.0;

/// The factors of one matrix and range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    y_zero: i32,
    y: i32,
    r_cr: i32,
    g_cb: i32,
    g_cr: i32,
    b_cb: i32,
}

/// What the code values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Luma 16 to 235, chroma 16 to 240.
    Limited,
    /// 0 to 255.
    Full,
}

impl Matrix {
    /// The matrix with these weights of red and blue in luma.
    pub const fn new(kr: f64, kb: f64, range: Range) -> Self {
        let kg = 1.0 - kr - kb;
        let (y_zero, luma, chroma) = match range {
            Range::Limited => (16, 255.0 / 219.0, 255.0 / 224.0),
            Range::Full => (0, 1.0, 1.0),
        };
        const fn fixed(factor: f64) -> i32 {
            (factor * ONE + 0.5) as i32
        }
        Matrix {
            y_zero,
            y: fixed(luma),
            r_cr: fixed(2.0 * (1.0 - kr) * chroma),
            g_cb: fixed(2.0 * (1.0 - kb) * kb / kg * chroma),
            g_cr: fixed(2.0 * (1.0 - kr) * kr / kg * chroma),
            b_cb: fixed(2.0 * (1.0 - kb) * chroma),
        }
    }

    /// The one that pictures with this description are coded in.
    pub fn of(info: &VideoInfo) -> Self {
        let colorimetry = info.colorimetry();
        let range = match colorimetry.range() {
            VideoColorRange::Range0_255 => Range::Full,
            _ => Range::Limited,
        };
        let (kr, kb) = match colorimetry.matrix() {
            VideoColorMatrix::Bt601 => BT601,
            VideoColorMatrix::Bt709 => BT709,
            VideoColorMatrix::Bt2020 => (0.2627, 0.0593),
            VideoColorMatrix::Smpte240m => (0.212, 0.087),
            VideoColorMatrix::Fcc => (0.30, 0.11),
            _ if info.height() < 720 => BT601,
            _ => BT709,
        };
        Matrix::new(kr, kb, range)
    }

    /// One pixel.
    #[inline]
    pub fn rgb(&self, y: u8, cb: u8, cr: u8) -> [u8; 3] {
        let (b, r) = (i32::from(cb) - 128, i32::from(cr) - 128);
        let y = (i32::from(y) - self.y_zero) * self.y + (1 << 15);
        [y + self.r_cr * r, y - self.g_cb * b - self.g_cr * r, y + self.b_cb * b].map(|v| (v >> 16).clamp(0, 255) as u8)
    }
}

/// ITU-R BT.601: weights of red and blue.
pub const BT601: (f64, f64) = (0.299, 0.114);
/// ITU-R BT.709: weights of red and blue.
pub const BT709: (f64, f64) = (0.2126, 0.0722);

#[cfg(test)]
mod tests {
    use super::*;

    /// The colour coded by floating-point arithmetic, and back by ours.
    fn round_trip((kr, kb): (f64, f64), range: Range, rgb: [u8; 3]) -> [u8; 3] {
        let [r, g, b] = rgb.map(f64::from);
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (cb, cr) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
        let code = |v: f64| v.round() as u8;
        let m = Matrix::new(kr, kb, range);
        match range {
            Range::Full => m.rgb(code(y), code(cb.min(127.0) + 128.0), code(cr.min(127.0) + 128.0)),
            Range::Limited => m.rgb(
                code(16.0 + y * 219.0 / 255.0),
                code(128.0 + cb * 224.0 / 255.0),
                code(128.0 + cr * 224.0 / 255.0),
            ),
        }
    }

    #[test]
    fn known_colours_come_back() {
        let colours = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 40], [18, 18, 18]];
        for weights in [BT601, BT709] {
            for range in [Range::Limited, Range::Full] {
                for rgb in colours {
                    let back = round_trip(weights, range, rgb);
                    assert!(
                        rgb.iter().zip(back).all(|(a, b)| a.abs_diff(b) <= 2),
                        "{rgb:?} became {back:?} in {weights:?} {range:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn textbook_values_of_limited_bt601() {
        let m = Matrix::new(BT601.0, BT601.1, Range::Limited);
        assert_eq!(m.rgb(16, 128, 128), [0, 0, 0]);
        assert_eq!(m.rgb(235, 128, 128), [255, 255, 255]);
        assert_eq!(m.rgb(81, 90, 240), [254, 0, 0]);
        assert_eq!(m.rgb(255, 255, 255), [255, 125, 255]);
    }
}
