//! Any sequence of access units, reads and searches: the ring's invariants, by its public face alone.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use vedette::agent::ring::{Bounds, Cursor, Ring};
use vedette::base::clock::Mono;

use super::video::{Step, some, stream};

#[derive(Debug, Arbitrary)]
enum Act {
    Push(Step),
    /// Another stream from here on.
    Switch(u8),
    /// The camera's times fall by seconds.
    Fall(u8),
    Read(u8),
    Locate(u16),
}

/// See [`super`].
pub fn check(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok((kilobytes, seconds)) = <(u8, u8)>::arbitrary(&mut u) else { return };
    let bounds = Bounds {
        max_bytes: 2_000 + usize::from(kilobytes) * 4_000,
        max_time: Duration::from_secs(1 + u64::from(seconds) % 60),
    };
    let Ok(acts) = some::<Act>(&mut u, 400) else { return };
    let mut ring = Ring::new(bounds);
    let origin = ring.end();
    let (mut dts, mut current, mut reader, mut pushed) = (Mono::from_millis(600_000), stream(0), ring.end(), 0);
    let (mut read, mut lost) = (0, 0);
    for act in &acts {
        match act {
            Act::Push(step) => {
                ring.push(step.unit(&mut dts, &current));
                pushed += 1;
            }
            Act::Switch(tag) => current = stream(*tag),
            Act::Fall(seconds) => dts = dts.back(Duration::from_secs(u64::from(*seconds))),
            Act::Read(limit) => {
                let batch = ring.read(reader, usize::from(*limit));
                assert!(batch.lost == 0 || batch.units.first().is_none_or(|u| u.keyframe), "a hole, and no keyframe");
                read += batch.units.len() as u64;
                lost += batch.lost;
                reader = batch.next;
            }
            Act::Locate(ms) => {
                if let Some(found) = ring.locate(Mono::from_millis(u64::from(*ms) * 20)) {
                    let first = &ring.read(found.cursor, 1).units[0];
                    assert!(first.keyframe && first.pts == found.pts);
                }
            }
        }
        holds(&ring, bounds, origin);
    }
    let counts = ring.counts();
    assert_eq!(counts.evicted + counts.undecodable + ring.len() as u64, pushed, "a unit is unaccounted for");
    let rest = ring.read(reader, usize::MAX);
    let given = read + lost + rest.lost + rest.units.len() as u64;
    assert_eq!(given, pushed - counts.undecodable, "a reader's account does not add up");
}

/// `origin`: from which everything can be read that is held.
fn holds(ring: &Ring, bounds: Bounds, origin: Cursor) {
    assert!(ring.bytes() <= bounds.max_bytes, "{} bytes of {}", ring.bytes(), bounds.max_bytes);
    assert_eq!(ring.locate(Mono::ZERO).is_none(), ring.is_empty());
    if ring.is_empty() {
        return;
    }
    let held = ring.read(origin, usize::MAX).units;
    assert!(held[0].keyframe && held.len() == ring.len());
    assert!(ring.span() <= bounds.max_time || held.iter().filter(|u| u.keyframe).count() == 1);
    for pair in held.windows(2) {
        assert!(pair[0].dts <= pair[1].dts, "decode times fall");
        assert!(pair[1].keyframe || (!pair[1].discontinuity && pair[0].stream == pair[1].stream), "undecodable");
    }
}
