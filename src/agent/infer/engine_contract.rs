//! What every engine has to do, whatever it runs on. An engine's tests call [`holds`] with a model whose head
//! depends on the order of its window.

use super::manifest::Manifest;
use super::{Engine, EngineError, Slot};

/// Largest difference that another batch size may make.
const TOLERANCE: f32 = 1e-4;

/// Checks the contract on engines that `load` makes, all of the model of `manifest`.
pub fn holds(manifest: &Manifest, load: impl Fn() -> Engine) {
    let views: Vec<Vec<u8>> = (0..manifest.window as u64 + 1).map(|n| noise(n, manifest.view.len_bytes())).collect();
    let views: Vec<&[u8]> = views.iter().map(|v| &v[..]).collect();
    let (first, all) = (&views[..manifest.window], &views[1..]);
    let mut e = load();

    // One slot a view, one row of probabilities a window; they sum to 1.
    let slots = e.encoder.encode(&views).expect("views of the right size");
    assert_eq!(slots.len(), views.len());
    let features: Vec<_> = slots.iter().map(|s| e.encoder.features(s).expect("its own slot")).collect();
    assert!(features.iter().all(|f| f.len() == manifest.features.size));
    let (older, newer) = (&slots[..manifest.window], &slots[1..]);
    let batch = e.head.classify(&[older, newer]).expect("windows of the right size");
    for p in &batch {
        assert_eq!(p.len(), manifest.classes.len());
        assert!((p.iter().sum::<f32>() - 1.0).abs() < TOLERANCE && p.iter().all(|p| (0.0..=1.0).contains(p)), "{p:?}");
    }

    // The same again, bit by bit; and from another engine of the same model.
    for e in [&mut e, &mut load()] {
        let slots = e.encoder.encode(&views).expect("views of the right size");
        let again: Vec<_> = slots.iter().map(|s| e.encoder.features(s).expect("its own slot")).collect();
        assert_eq!(again, features, "the same batch gives the same features");
        let p = e.head.classify(&[&slots[..manifest.window], &slots[1..]]).expect("windows of the right size");
        assert_eq!(p, batch, "the same batch gives the same probabilities");
    }

    // Batches change nothing, and frames that are encoded as they come give what recomputing the window gives.
    let singly: Vec<Slot> = views.iter().flat_map(|v| e.encoder.encode(&[v]).expect("one view")).collect();
    for (s, f) in singly.iter().zip(&features) {
        close(&e.encoder.features(s).expect("its own slot"), f);
    }
    let streamed = e.head.classify(&[&singly[1..]]).expect("a window").remove(0);
    let recomputed = e.encoder.encode(all).expect("views of the right size");
    close(&streamed, &e.head.classify(&[&recomputed]).expect("a window")[0]);
    close(&streamed, &batch[1]);

    // The order of the window is the order of time.
    let mut backwards = e.encoder.encode(first).expect("views of the right size");
    backwards.reverse();
    let p = e.head.classify(&[&backwards]).expect("a window");
    assert!(p[0].iter().zip(&batch[0][..]).any(|(a, b)| (a - b).abs() > TOLERANCE), "the order was lost");

    // Slots that were let go are used again, and what is still held stays as it was.
    let held = e.encoder.features(&singly[0]).expect("its own slot");
    for _ in 0..3 {
        drop(e.encoder.encode(all).expect("views of the right size"));
    }
    assert_eq!(e.encoder.features(&singly[0]).expect("its own slot"), held);

    // What does not fit is refused.
    assert!(e.encoder.encode(&[]).expect("nothing to do").is_empty());
    assert!(e.head.classify(&[]).expect("nothing to do").is_empty());
    assert!(matches!(e.encoder.encode(&[&[0; 3]]), Err(EngineError::Input { .. })));
    assert!(matches!(e.head.classify(&[&singly[2..]]), Err(EngineError::Input { .. })));
    let mut other = load();
    assert!(matches!(other.head.classify(&[&singly[1..]]), Err(EngineError::ForeignSlot)));
    assert!(matches!(other.encoder.features(&singly[0]), Err(EngineError::ForeignSlot)));
}

fn close(a: &[f32], b: &[f32]) {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < TOLERANCE), "{a:?} is not {b:?}");
}

/// Bytes that differ from view to view in their mean, too.
fn noise(n: u64, len_bytes: usize) -> Vec<u8> {
    let byte = |i: u64| ((i ^ (n << 40)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as u8 + (n * 7 % 128) as u8;
    (0..len_bytes as u64).map(byte).collect()
}
