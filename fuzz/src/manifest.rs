//! Any text as a model's manifest: within the stated limits, or refused with a reason.

use std::path::{Component, Path};

use vedette::agent::infer::manifest::Manifest;
use vedette::contract::alert::NORMAL;

/// See [`super`].
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Manifest::parse(Path::new("manifest.toml"), &text) {
        Ok(m) => {
            assert!(m.classes.len() >= 2 && m.classes.iter().any(|c| c == NORMAL));
            assert!(m.sample_fps > 0.0 && m.sample_fps <= 60.0);
            assert!((2..=64).contains(&m.window) && (1..=m.window).contains(&m.stride));
            for class in m.classes.iter().filter(|c| *c != NORMAL) {
                assert!(m.thresholds.get(class).is_some_and(|t| *t > 0.0 && *t <= 1.0), "threshold of {class}");
            }
            for file in &m.files {
                let parts = Path::new(&file.path).components();
                assert!(parts.into_iter().all(|c| matches!(c, Component::Normal(_))), "outside: {}", file.path);
            }
        }
        Err(e) => assert!(e.to_string().contains("manifest.toml"), "names no file: {e}"),
    }
}
