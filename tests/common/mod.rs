//! What tests share.

pub mod video;
