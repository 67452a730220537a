//! Runs of cells painted over in a picture's planes: black in luma 16, both chromas 128, whatever the colour range says.

use gstreamer as gst;
use gstreamer_video::{VideoFrameExt, VideoFrameRef, VideoInfo};

use super::cover::{Cell, Run};
use crate::agent::capture::pixels::FORMATS;

/// Black, or next to it where luma begins at 0.
const LUMA: u8 = 16;
/// No colour.
const CHROMA: u8 = 128;

/// One plane's share of a cell.
#[derive(Debug, Clone, Copy)]
struct Plane {
    /// Bytes that a cell takes up in a row of the plane.
    cell_bytes: usize,
    /// Rows of the plane that a cell takes up.
    cell_rows: usize,
    /// Bytes and rows of the plane that show something.
    row_bytes: usize,
    rows: usize,
    fill: u8,
}

/// What has to be known of a kind of picture to paint on it.
#[derive(Debug, Clone)]
pub struct Brush {
    info: VideoInfo,
    /// Pixels that share a chroma sample.
    pub cell: Cell,
    planes: Vec<Plane>,
}

impl Brush {
    /// For pictures like this; none if they are in none of [`FORMATS`].
    pub fn new(info: &VideoInfo) -> Option<Brush> {
        if !FORMATS.contains(&info.format()) {
            return None;
        }
        let format = info.format_info();
        let most = |sub: &[u32]| sub.iter().copied().max().unwrap_or(0);
        let (sub_x, sub_y) = (most(format.w_sub()), most(format.h_sub()));
        let planes = (0..info.n_planes()).map(|plane| {
            let component = (0..info.n_components()).find(|c| format.plane()[*c as usize] == plane)?;
            let c = component as usize;
            let sample_bytes = format.pixel_stride()[c] as usize;
            Some(Plane {
                cell_bytes: sample_bytes << (sub_x - format.w_sub()[c]),
                cell_rows: 1 << (sub_y - format.h_sub()[c]),
                row_bytes: sample_bytes * info.comp_width(c as u8) as usize,
                rows: info.comp_height(c as u8) as usize,
                fill: if component == 0 { LUMA } else { CHROMA },
            })
        });
        Some(Brush { info: info.clone(), cell: (1 << sub_x, 1 << sub_y), planes: planes.collect::<Option<_>>()? })
    }

    /// Paints over a picture; why it can't, in which case nothing of the picture may be used.
    pub fn paint(&self, picture: &mut gst::BufferRef, runs: &[Run]) -> Result<(), &'static str> {
        let mut picture = VideoFrameRef::from_buffer_ref_writable(picture, &self.info)
            .map_err(|_| "its memory can't be written to")?;
        if (picture.width(), picture.height()) != (self.info.width(), self.info.height()) {
            return Err("it is not of the size that was announced");
        }
        for (index, plane) in self.planes.iter().enumerate() {
            let stride = picture.plane_stride()[index];
            let stride = usize::try_from(stride).map_err(|_| "it is upside down in memory")?;
            let data = picture.plane_data_mut(index as u32).map_err(|_| "it lacks a plane")?;
            for run in runs {
                let from = run.from as usize * plane.cell_bytes;
                let to = (run.to as usize * plane.cell_bytes).min(plane.row_bytes);
                let first = run.row as usize * plane.cell_rows;
                for row in first..(first + plane.cell_rows).min(plane.rows) {
                    data.get_mut(row * stride + from..row * stride + to)
                        .ok_or("a plane is shorter than was announced")?
                        .fill(plane.fill);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use gstreamer_video::VideoFormat;
    use proptest::prelude::*;

    use super::*;

    fn info(format: VideoFormat, width: u32, height: u32) -> VideoInfo {
        gst::init().expect("GStreamer is installed");
        VideoInfo::builder(format, width, height).build().expect("possible")
    }

    /// A picture that is `shade` everywhere, painted over; its planes' samples as (component, x, y, value).
    fn painted(info: &VideoInfo, shade: u8, runs: &[Run]) -> Vec<(u8, u32, u32, u8)> {
        let mut buffer = gst::Buffer::from_mut_slice(vec![shade; info.size()]);
        let brush = Brush::new(info).expect("one of the formats");
        brush.paint(buffer.get_mut().expect("nobody else has it"), runs).expect("paintable");
        let frame = VideoFrameRef::from_buffer_ref_readable(&buffer, info).expect("mappable");
        let mut samples = Vec::new();
        for c in 0..3_u8 {
            let i = usize::from(c);
            let format = info.format_info();
            let data = frame.plane_data(format.plane()[i]).expect("there");
            for y in 0..info.comp_height(c) {
                for x in 0..info.comp_width(c) {
                    let at = y as usize * info.comp_stride(c) as usize
                        + x as usize * format.pixel_stride()[i] as usize
                        + format.poffset()[i] as usize;
                    samples.push((c, x, y, data[at]));
                }
            }
        }
        samples
    }

    proptest! {
        #[test]
        fn in_every_format_the_runs_are_painted_and_nothing_else(
            format in prop::sample::select(FORMATS.to_vec()),
            (width, height) in (32_u32..70, 32_u32..70),
            picked in prop::collection::vec((0_u32..35, 0_u32..35, 1_u32..20), 0..6),
        ) {
            let info = info(format, width, height);
            let cell = Brush::new(&info).expect("one of the formats").cell;
            let (columns, rows) = (width.div_ceil(cell.0), height.div_ceil(cell.1));
            let runs: Vec<Run> = picked
                .into_iter()
                .map(|(row, from, length)| Run { row, from, to: (from + length).min(columns) })
                .filter(|r| r.row < rows && r.from < r.to)
                .collect();
            for (c, x, y, value) in painted(&info, 77, &runs) {
                let sub = (info.format_info().w_sub()[usize::from(c)], info.format_info().h_sub()[usize::from(c)]);
                let (column, row) = ((x << sub.0) / cell.0, (y << sub.1) / cell.1);
                let hidden = runs.iter().any(|r| r.row == row && (r.from..r.to).contains(&column));
                let expected = match (hidden, c) {
                    (false, _) => 77,
                    (true, 0) => LUMA,
                    (true, _) => CHROMA,
                };
                prop_assert_eq!(value, expected, "{:?} {} x {}: component {} at {}, {}", format, width, height, c, x, y);
            }
        }
    }

    #[test]
    fn other_formats_and_short_pictures_are_refused() {
        assert!(Brush::new(&info(VideoFormat::I42010le, 64, 64)).is_none());
        let brush = Brush::new(&info(VideoFormat::I420, 64, 64)).expect("one of the formats");
        let mut short = gst::Buffer::with_size(64 * 64).expect("memory");
        brush.paint(short.get_mut().expect("nobody else has it"), &[]).expect_err("half of it is missing");
    }

    #[test]
    fn a_picture_that_somebody_else_holds_is_not_changed_for_them() {
        let info = info(VideoFormat::I420, 64, 64);
        let brush = Brush::new(&info).expect("one of the formats");
        let mut ours = gst::Buffer::from_mut_slice(vec![77; info.size()]);
        let theirs = ours.clone();
        brush.paint(ours.make_mut(), &[Run { row: 0, from: 0, to: 32 }]).expect("paintable");
        assert!(theirs.map_readable().expect("mappable").iter().all(|v| *v == 77));
        assert_eq!(ours.map_readable().expect("mappable")[0], LUMA);
    }
}
