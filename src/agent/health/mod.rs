//! What the device knows of its own state: the board that stages report into ([`HealthBoard`]), and the sensors
//! of the operating system ([`Sensors`]). The heartbeat, the page and `doctor` read both.
//!
//! What belongs here: counting, and reading what the kernel shows as files. What does not: judging (what counts
//! as too hot or too full is the reader's affair) and the clocks themselves (`base::clock`).
//!
//! Locks: one for the list of cameras and one for each camera's state; both are held for a copy only, never
//! across other code. Counters are atomic and need none, so that reporting a frame costs nothing that matters.

mod board;
mod sensors;

pub use board::{CameraHealth, CameraSnapshot, CameraState, DropCause, HealthBoard};
pub use sensors::{ClockReading, DiskReading, Readings, Sensors, Temperature};
