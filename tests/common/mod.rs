//! What tests share.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

pub mod camera;
pub mod rtsp;
pub mod video;
