//! `vedette frames`: the pixels that training must see.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{InputArgs, Outcome};
use crate::agent::run::dump::{Format, INDEX, INDEX_HEADER, PictureWriter, Shape, index_row};
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
    input: InputArgs,

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

    let mut input = args.input.read()?;
    input.sample_fps = args.sample_fps.unwrap_or(input.sample_fps);
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
    let cannot_write = || format!("cannot write to {}", dir.display());
    let mut index = std::io::BufWriter::new(std::fs::File::create(dir.join(INDEX)).with_context(cannot_write)?);
    writeln!(index, "{INDEX_HEADER}").with_context(cannot_write)?;
    let mut written = 0;
    let mut done = Ok(());
    let view_shape = Shape::of(&input.view);
    let summary = offline::frames(&input, &args.video, &mut |frame, view| {
        done = (|| {
            let shape = Shape { height: frame.height as usize, width: frame.width as usize, channels: 3 };
            frames.write(shape, &frame.rgb)?;
            writeln!(index, "{}", index_row(written, frame.at, view))?;
            written += 1;
            if args.view {
                views.write(view_shape, &view.bytes)?;
            }
            Ok(())
        })();
        done.is_ok()
    });
    done.map_err(|e: std::io::Error| anyhow::Error::new(e).context(cannot_write()))?;
    let summary = summary?;
    frames.finish().with_context(cannot_write)?;
    views.finish().with_context(cannot_write)?;
    index.flush().with_context(cannot_write)?;
    for warning in summary.warnings {
        eprintln!("{}: {warning}", args.video.display());
    }
    eprintln!("{written} frames in {}", dir.display());
    Ok(Outcome::Good)
}
