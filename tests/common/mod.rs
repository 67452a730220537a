//! What tests share.

pub mod camera;
pub mod rtsp;
pub mod video;
