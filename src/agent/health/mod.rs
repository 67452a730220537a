//! What the operating system knows of the device: its clock, memory, disk and temperatures. What the stages know
//! of themselves they count themselves; `run::health` puts both together for the heartbeat and `status`.
//!
//! What does not belong here: judging (what counts as too hot or too full is the reader's affair) and the clocks
//! themselves (`base::clock`).

mod sensors;

pub use sensors::{ClockReading, DiskReading, Readings, Sensors, Temperature};
