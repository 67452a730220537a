//! What modules' errors have in common: the chain in one line, and whether trying again can help.

use std::error::Error;
use std::fmt;

/// Whether the same operation may succeed later without anybody changing anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It may: try again, with backoff.
    Later,
    /// It won't: somebody must act.
    Never,
}

/// An error and its sources, outermost first, joined by ": ". For the one place where it is logged.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(e) = source {
            write!(f, ": {e}")?;
            source = e.source();
        }
        Ok(())
    }
}
