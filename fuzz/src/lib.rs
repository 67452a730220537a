//! What is fuzzed, one module a target: `check(bytes)` makes something of any bytes, hands it to the code and panics if
//! what must hold does not. libFuzzer chooses the bytes (`fuzz/targets`); `tests/fuzz.rs` chooses a few by rule, so
//! that every `make test` runs each body.
//!
//! What belongs here: entry points that take what others wrote (config, manifest, a `.part` file, a database after
//! a power cut) and the state machines on which clips and incidents rest. What does not: anything slow or with
//! threads beyond the store's writer.

pub mod command;
pub mod config;
pub mod incident;
pub mod manifest;
pub mod mp4;
pub mod ring;
pub mod store;
pub mod video;
