//! What the operating system knows of the device: its clock, memory, disk, wear, temperatures, power and what holds it
//! back.
//! What the stages know of themselves they count themselves; `run::health` puts both together for the heartbeat and
//! `status`.
//!
//! | file | reads |
//! |---|---|
//! | `sensors` | clock and disk; everything at one moment |
//! | `thermal` | temperatures, cooling devices, clocks of processors |
//! | `power` | power by rail, the power mode |
//! | `memory` | memory, and what work waits for |
//! | `wear` | the age of flash |
//! | `hardware` | what a model may be made for |
//! | `sysfs` | one file |
//!
//! What does not belong here: judging (what counts as too hot or too full is the reader's affair) and the clocks
//! themselves (`base::clock`).

mod hardware;
mod memory;
mod power;
mod sensors;
mod sysfs;
mod thermal;
mod wear;

#[cfg(test)]
mod machines;

pub use hardware::hardware_classes;
pub use memory::available_memory_bytes;
pub use sensors::{ClockReading, Readings, Sensors};
