//! `[tensorrt]`: its keys, defaults and limits.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::kind::{Kind, boolean, choice, integer, seconds};
use super::section::Section;
use super::units::Unit;
use super::{Precision, TensorRt, files};

const PRECISIONS: [(&str, Precision); 2] = [("fp16", Precision::Fp16), ("fp32", Precision::Fp32)];

/// Reads the section.
pub(super) fn read(s: &mut Section<'_>, base_dir: &Path) -> Option<TensorRt> {
    let precision = s.or("precision", Precision::Fp16, choice(PRECISIONS));
    let library = s.optional("library", files::file(base_dir));
    let shim = s.optional("shim", files::file(base_dir));
    let dla_core = s.optional("dla_core", integer(0..=1, None).map(|core| core as u8));
    let cuda_graph = s.or("cuda_graph", true, boolean());
    let workspace_bytes = s.or("workspace_mb", 512_000_000, megabytes(16..=8192));
    let build_memory_bytes = s.or("build_memory_mb", 3_000_000_000, megabytes(256..=32_768));
    let build_keeps_free_bytes = s.or("build_keeps_free_mb", 400_000_000, megabytes(64..=8192));
    let build_within = s.or("build_within_s", Duration::from_secs(3600), seconds(60..=14_400));
    let cache_bytes = s.or("cache_mb", 512_000_000, megabytes(32..=8192));
    Some(TensorRt {
        precision: precision?,
        library: library?,
        shim: shim?,
        dla_core: dla_core?,
        cuda_graph: cuda_graph?,
        workspace_bytes: workspace_bytes?,
        build_memory_bytes: build_memory_bytes?,
        build_keeps_free_bytes: build_keeps_free_bytes?,
        build_within: build_within?,
        cache_bytes: cache_bytes?,
    })
}

fn megabytes(range: RangeInclusive<u32>) -> Kind<'static, u64> {
    integer(range, Some(Unit::Megabytes)).map(|mb| u64::from(mb) * 1_000_000)
}
