//! Printing that survives a reader who leaves, and the log on a terminal.

use std::io::{self, BufWriter, StdoutLock, Write};

use serde::Serialize;

/// Standard output, buffered; each record is flushed, so that a reader sees it when it happens.
pub struct Out(BufWriter<StdoutLock<'static>>);

impl Out {
    /// Takes standard output.
    pub fn new() -> Self {
        Out(BufWriter::new(io::stdout().lock()))
    }

    /// One line of text.
    pub fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.0, "{text}")?;
        self.0.flush()
    }

    /// One JSON object on one line.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, value)?;
        self.line("")
    }
}

/// Whether an error says that the reader of our output is gone.
pub fn is_broken_pipe(e: &anyhow::Error) -> bool {
    e.chain().any(|c| c.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// Sends the log to standard error. `RUST_LOG` overrides what the command line says.
pub fn log_to_terminal(verbose: u8, default: log::LevelFilter) -> anyhow::Result<()> {
    env_logger::Builder::new().filter_level(level(verbose, default)).parse_default_env().try_init()?;
    Ok(())
}

/// The level that so many `-v` ask for.
pub fn level(verbose: u8, default: log::LevelFilter) -> log::LevelFilter {
    match verbose {
        0 => default,
        1 => log::LevelFilter::Debug.max(default),
        _ => log::LevelFilter::Trace,
    }
}
