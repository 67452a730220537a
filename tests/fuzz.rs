//! The bodies of the fuzz targets on bytes chosen by rule, so that they run, and hold, in every `make test`. Hours of
//! searching are `make fuzz`'s.

use fastrand::Rng;

#[path = "../fuzz/src/lib.rs"]
mod bodies;

const EXAMPLE: &str = include_str!("../deploy/example.toml");
const MANIFEST: &str = include_str!("../engines/activity-v1/manifest.toml");

/// Runs `check` on `count` strings of bytes: noise, of lengths up to `most`, with the small numbers that bytes from
/// libFuzzer have.
fn noise(count: u64, most: usize, check: fn(&[u8])) {
    for seed in 0..count {
        let mut rng = Rng::with_seed(seed);
        let small = rng.bool();
        let bytes: Vec<u8> = (0..rng.usize(..=most)).map(|_| if small { rng.u8(..40) } else { rng.u8(..) }).collect();
        check(&bytes);
    }
}

/// Runs `check` on `count` changed copies of a good text: bytes overwritten, lines lost, doubled and swapped.
fn changed(text: &str, count: u64, check: fn(&[u8])) {
    check(text.as_bytes());
    for seed in 0..count {
        let mut rng = Rng::with_seed(seed);
        let mut lines: Vec<Vec<u8>> = text.lines().map(|l| l.as_bytes().to_vec()).collect();
        for _ in 0..rng.usize(1..6) {
            let (a, b) = (rng.usize(..lines.len()), rng.usize(..lines.len()));
            match rng.u8(..5) {
                0 if lines.len() > 1 => drop(lines.remove(a)),
                1 => lines.insert(a, lines[b].clone()),
                2 => lines.swap(a, b),
                // An example that was commented out comes into force.
                3 if lines[a].first() == Some(&b'#') => drop(lines[a].remove(0)),
                _ if !lines[a].is_empty() => {
                    let at = rng.usize(..lines[a].len());
                    lines[a][at] = *rng.choice(b"\"'[]{}=,.#-0129eE\\\n\0\xff".iter()).expect("not empty");
                }
                _ => {}
            }
        }
        check(&lines.join(&b'\n'));
    }
}

#[test]
fn config() {
    // Found by `make fuzz`: a password that lands under a section whose keys are free.
    bodies::config::check(b"[severity]\npassword = \"hunter2\"\n");
    changed(EXAMPLE, 300, bodies::config::check);
    noise(200, 300, bodies::config::check);
}

#[test]
fn manifest() {
    changed(MANIFEST, 500, bodies::manifest::check);
    noise(200, 300, bodies::manifest::check);
}

#[test]
fn mp4_against_ffprobe() {
    noise(25, 800, bodies::mp4::check);
}

#[test]
fn command() {
    let requests = [
        r#"{"command": "set_thresholds", "camera": "gate", "thresholds": {"Fighting": 0.5}, "requested_by": "me"}"#,
        r#"{"command": "clip_range", "camera": "gate", "from": "2026-03-01T12:00:00Z", "to": "2026-03-01T12:00:09Z"}"#,
        r#"{"command": "set_thresholds", "camera": "gate", "thresholds": {"Fighting": 1e99}}"#,
        r#"{"command": "replay", "from": 1, "to": 99, "expires_at": "2026-03-01T12:00:00Z"}"#,
    ];
    for request in requests {
        changed(request, 300, bodies::command::check);
    }
    noise(200, 300, bodies::command::check);
}

#[test]
fn ring() {
    // Found by `make fuzz`: several keyframes at the clock's origin.
    bodies::ring::check(include_bytes!("fixtures/ring-keyframes-at-the-origin"));
    noise(400, 3000, bodies::ring::check);
}

#[test]
fn incident() {
    noise(400, 6000, bodies::incident::check);
}

#[test]
fn store_after_a_power_cut() {
    noise(25, 150, bodies::store::check);
}
