//! Foundations that every wing of Vedette stands on, and that know nothing of video, models or messages.
//!
//! What belongs here: time, threads and their end, queues and what happens when they are full, retry
//! pacing, and files that are either whole or absent. What does not: anything with a word of DESIGN
//! section 2 in its name.

pub mod atomic_file;
pub mod backoff;
#[cfg(feature = "agent")]
pub mod child;
pub mod clock;
pub mod digest;
pub mod error;
pub mod fail_point;
pub mod pace;
pub mod progress;
pub mod queue;
pub mod stage;
pub mod stop;
