//! Without the feature `tensorrt` there is no better engine than the CPU's.

use std::sync::Arc;

use super::Better;
use crate::agent::config::Config;
use crate::agent::infer::model::Model;
use crate::base::clock::Clock;

/// None.
pub fn better(_: &Config, _: &Model, _: &Arc<dyn Clock>) -> Option<Box<dyn Better>> {
    None
}
