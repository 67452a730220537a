//! `vedette views`: the device's own views of frames that training made.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;

use super::{InputArgs, Outcome};
use crate::agent::infer::input::Input;
use crate::agent::infer::view::ViewState;
use crate::agent::run::dump::{Format, FramesDir, INDEX_HEADER, PictureWriter, Shape, index_row};

/// Compute the views of frames that were written by `vedette frames --format npy`, or altered since
///
/// Each DIR holds frame.npy (uint8, [frames, height, width, 3]) and frames.csv (columns pts_ms and gap are read). What
/// the encoder gets of them is written beside them: view.npy and views.csv. So a training that flips, darkens or shakes
/// frames needs no motion box and no scaler of its own.
#[derive(Debug, Args)]
pub struct ViewsArgs {
    /// Directory with frame.npy and frames.csv
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,

    #[command(flatten)]
    input: InputArgs,
}

pub fn run(args: ViewsArgs) -> anyhow::Result<Outcome> {
    let input = args.input.read()?;
    for dir in &args.dirs {
        one(dir, &input)?;
    }
    Ok(Outcome::Good)
}

fn one(dir: &Path, input: &Input) -> anyhow::Result<()> {
    let cannot_write = || format!("cannot write to {}", dir.display());
    let frames = FramesDir::open(dir, input.sample_fps)?;
    let mut state = ViewState::new(&input.view, input.sample_fps);
    let mut views = PictureWriter::new(Format::Npy, dir, "view");
    let mut index = std::io::BufWriter::new(std::fs::File::create(dir.join("views.csv")).with_context(cannot_write)?);
    writeln!(index, "{INDEX_HEADER}").with_context(cannot_write)?;
    for (n, frame) in frames.enumerate() {
        let frame = frame?;
        let view = state.push(&frame).with_context(|| format!("frame {n} in {}", dir.display()))?;
        views.write(Shape::of(&input.view), &view.bytes).with_context(cannot_write)?;
        writeln!(index, "{}", index_row(n, frame.at, &view)).with_context(cannot_write)?;
    }
    views.finish().with_context(cannot_write)?;
    index.flush().with_context(cannot_write)
}
