//! An engine without networks: its feature is the mean brightness of a view, and a function of the caller's makes
//! probabilities of a window's brightnesses. For tests of everything around inference, on machines without ONNX
//! Runtime. It passes the same contract suite as the real engines.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use semver::Version;

use super::input::{Crop, Frames, Gray, Pixels, Scale, ViewSpec};
use super::manifest::{CNN_LSTM, Features, Manifest, Precision, Tolerance};
use super::slot::SlotPool;
use super::{Encoder, Engine, EngineError, EngineInfo, Head, Network, Slot, all_finite};
use crate::contract::alert::NORMAL;

/// A manifest for it: classes `Fighting` and `Normal`, 8 frames a second, windows of 16 frames, stride 4, whole
/// single frames of 480 pixels' width seen at 32 x 32, threshold 0.5. Change what a test needs changed.
pub fn manifest() -> Manifest {
    Manifest {
        name: "scripted".into(),
        version: Version::new(0, 1, 0),
        kind: CNN_LSTM.into(),
        hardware: Vec::new(),
        minimum_agent: Version::new(0, 1, 0),
        classes: vec!["Fighting".into(), NORMAL.into()],
        sample_fps: 8.0,
        window: 16,
        stride: 4,
        licence: "none: there are no weights".into(),
        data: "none".into(),
        pixels: Pixels { frame_width: 480, scale: Scale::BilinearAntialiased, gray: Gray::Bt601 },
        view: ViewSpec { width: 32, height: 32, frames: Frames::Single, crop: Crop::Full, motion: None },
        features: Features { size: 1, map: [1, 1] },
        thresholds: BTreeMap::from([("Fighting".into(), 0.5)]),
        tolerances: BTreeMap::from([(
            Precision::Fp32,
            Tolerance { features: 1e-6, features_cosine: None, probabilities: 1e-6 },
        )]),
        files: Vec::new(),
    }
}

/// An engine whose first class is as probable as a window is bright, from 0 (black) to 1 (white) in the mean over
/// its frames; the last class takes the rest.
pub fn by_brightness(manifest: &Manifest) -> Engine {
    let classes = manifest.classes.len();
    engine(manifest, move |window| {
        let bright = window.iter().sum::<f32>() / window.len() as f32;
        let mut p = vec![0.0; classes];
        p[0] = bright;
        p[classes - 1] += 1.0 - bright;
        p
    })
}

/// An engine that asks `script`: brightnesses of a window's views in their order, 0 to 1; gives one probability for
/// each class.
pub fn engine(manifest: &Manifest, script: impl FnMut(&[f32]) -> Vec<f32> + Send + 'static) -> Engine {
    let shared = Shared::default();
    Engine {
        info: EngineInfo {
            runtime: "scripted".into(),
            precision: Precision::Fp32,
            rounds_elsewhere: false,
            gains_by_batches: false,
        },
        encoder: Box::new(Brightness { shared: shared.clone(), len_bytes: manifest.view.len_bytes() }),
        head: Box::new(Script {
            shared,
            window: manifest.window,
            classes: manifest.classes.len(),
            script: Box::new(script),
        }),
    }
}

#[derive(Clone, Default)]
struct Shared {
    pool: SlotPool,
    store: Arc<Mutex<Vec<f32>>>,
}

impl Shared {
    fn keep(&self, feature: f32) -> Slot {
        let slot = self.pool.take();
        let index = self.pool.index_of(&slot).expect("the pool just gave it");
        let mut store = self.store.lock().expect("nothing panics while it holds the features");
        if store.len() <= index {
            store.resize(index + 1, 0.0);
        }
        store[index] = feature;
        slot
    }

    fn get(&self, slot: &Slot) -> Result<f32, EngineError> {
        let index = self.pool.index_of(slot).ok_or(EngineError::ForeignSlot)?;
        Ok(self.store.lock().expect("nothing panics while it holds the features")[index])
    }
}

struct Brightness {
    shared: Shared,
    len_bytes: usize,
}

impl Encoder for Brightness {
    fn encode(&mut self, views: &[&[u8]]) -> Result<Vec<Slot>, EngineError> {
        if let Some(odd) = views.iter().find(|v| v.len() != self.len_bytes) {
            let (found, expected) = (format!("a view of {} bytes", odd.len()), self.len_bytes.to_string());
            return Err(EngineError::Input { network: Network::Encoder, found, expected });
        }
        let mean = |v: &&[u8]| v.iter().map(|b| u64::from(*b)).sum::<u64>() as f32 / (255 * v.len()) as f32;
        Ok(views.iter().map(|v| self.shared.keep(mean(v))).collect())
    }

    fn features(&self, slot: &Slot) -> Result<Vec<f32>, EngineError> {
        Ok(vec![self.shared.get(slot)?])
    }
}

/// Brightnesses of a window in, probabilities out.
type Rule = Box<dyn FnMut(&[f32]) -> Vec<f32> + Send>;

struct Script {
    shared: Shared,
    window: usize,
    classes: usize,
    script: Rule,
}

impl Head for Script {
    fn classify(&mut self, windows: &[&[Slot]]) -> Result<Vec<Arc<[f32]>>, EngineError> {
        let network = Network::Head;
        let mut results = Vec::with_capacity(windows.len());
        for (item, window) in windows.iter().enumerate() {
            if window.len() != self.window {
                let (found, expected) = (format!("a window of {} frames", window.len()), self.window.to_string());
                return Err(EngineError::Input { network, found, expected });
            }
            let brightness = window.iter().map(|s| self.shared.get(s)).collect::<Result<Vec<_>, _>>()?;
            let probabilities = (self.script)(&brightness);
            assert_eq!(probabilities.len(), self.classes, "the script gives one probability for each class");
            all_finite(network, &probabilities, self.classes).map_err(|_| EngineError::NotFinite { network, item })?;
            results.push(probabilities.into());
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::infer::engine_contract;

    #[test]
    fn keeps_the_contract() {
        let m = manifest();
        engine_contract::holds(&m, || {
            engine(&m, |window| {
                let weights: f32 = (1..=window.len()).map(|n| n as f32).sum();
                let p = window.iter().zip(1..).map(|(b, n)| b * n as f32).sum::<f32>() / weights;
                vec![p, 1.0 - p]
            })
        });
    }

    #[test]
    fn bright_is_the_first_class() {
        let m = manifest();
        let mut e = by_brightness(&m);
        let views = [vec![255; m.view.len_bytes()], vec![0; m.view.len_bytes()]];
        let slots = e.encoder.encode(&[&views[0], &views[1]]).expect("views of the right size");
        let (bright, dark) = (vec![slots[0].clone(); 16], vec![slots[1].clone(); 16]);
        let p = e.head.classify(&[&bright, &dark]).expect("windows of the right size");
        assert_eq!((&p[0][..], &p[1][..]), (&[1.0, 0.0][..], &[0.0, 1.0][..]));
    }
}
