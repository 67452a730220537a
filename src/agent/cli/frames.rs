//! `vedette frames`: the pixels that training must see.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{ModelArgs, Outcome};
use crate::agent::infer::model::Model;
use crate::agent::run::dump::{Format, PictureWriter, Shape};
use crate::agent::run::offline;

/// Write the frames exactly as capture hands them on, and with --view the views exactly as the encoder gets them
///
/// Lossless, for training: frames are RGB, 480 pixels wide; views are what the model's manifest declares. Beside them
/// stands frames.csv: index, presentation time (ms), whether a gap lies before it, and the view's box in the frame.
#[derive(Debug, Args)]
pub struct FramesArgs {
    /// Video file
    video: PathBuf,

    /// Directory to write to; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    #[command(flatten)]
    model: ModelArgs,

    /// Write the views too
    #[arg(long)]
    view: bool,

    /// png: one file a picture (a pair of pictures gives two files); npy: one NumPy array for each of frames and views
    #[arg(long, value_enum, default_value_t = Kind::Png)]
    format: Kind,

    /// Frames a second [default: the model's]
    #[arg(long, value_name = "N", value_parser = super::fps)]
    sample_fps: Option<f32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Png,
    Npy,
}

pub fn run(args: FramesArgs) -> anyhow::Result<Outcome> {
    use anyhow::Context;

    let options = args.model.options(args.sample_fps, None)?;
    let dir = &args.out;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    anyhow::ensure!(entries.next().is_none(), "{} is not empty; name another directory with --out", dir.display());
    let format = match args.format {
        Kind::Png => Format::Png,
        Kind::Npy => Format::Npy,
    };
    let mut frames = PictureWriter::new(format, dir, "frame");
    let mut views = PictureWriter::new(format, dir, "view");
    let mut index = std::io::BufWriter::new(std::fs::File::create(dir.join("frames.csv"))?);
    writeln!(index, "index,pts_ms,gap,box_left,box_top,box_width,box_height")?;
    let mut written = 0;
    let mut done = Ok(());
    let model = Model::open(&options.model)?;
    let spec = &model.manifest().view;
    let view_shape = Shape { height: spec.height as usize, width: spec.width as usize, channels: spec.channels() };
    let summary = offline::frames(&model, options.sample_fps, &args.video, &mut |frame, view| {
        done = (|| {
            let shape = Shape { height: frame.height as usize, width: frame.width as usize, channels: 3 };
            frames.write(shape, &frame.rgb)?;
            let b = view.shows;
            let pts_ms = frame.at.as_nanos() as f64 / 1e6;
            writeln!(index, "{written},{pts_ms:.3},{},{},{},{},{}", view.restarted, b.left, b.top, b.width, b.height)?;
            written += 1;
            if args.view {
                views.write(view_shape, &view.bytes)?;
            }
            Ok(())
        })();
        done.is_ok()
    });
    done.map_err(|e: std::io::Error| anyhow::Error::new(e).context(format!("cannot write to {}", dir.display())))?;
    let summary = summary?;
    frames.finish()?;
    views.finish()?;
    index.flush()?;
    for warning in summary.warnings {
        eprintln!("{}: {warning}", args.video.display());
    }
    eprintln!("{written} frames in {}", dir.display());
    Ok(Outcome::Good)
}
