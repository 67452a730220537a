//! The composition root: the only module that knows all the stages.

pub mod metrics;
