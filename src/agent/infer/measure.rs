//! How long an engine takes: passes over a batch, one after the other, each waited for.
//!
//! What does not belong here: deciding whether that is fast enough.

use std::time::Duration;

use super::manifest::Manifest;
use super::{Engine, EngineError, Slot};
use crate::base::clock::Clock;

/// Passes that are not counted: memory is touched for the first time, graphs are captured.
const WARM_UP: usize = 5;

/// Durations of so many passes.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Items in a pass.
    pub batch: usize,
    /// Sorted.
    took: Vec<Duration>,
}

impl Measured {
    fn new(batch: usize, mut took: Vec<Duration>) -> Measured {
        took.sort();
        Measured { batch, took }
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.at(50)
    }

    /// 99 of 100 took less.
    pub fn p99(&self) -> Duration {
        self.at(99)
    }

    /// Items a second, back to back.
    pub fn per_second(&self) -> f64 {
        let all: Duration = self.took.iter().sum();
        if all.is_zero() { 0.0 } else { (self.batch * self.took.len()) as f64 / all.as_secs_f64() }
    }

    fn at(&self, percent: usize) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took.get((self.took.len() * percent / 100).min(last)).copied().unwrap_or_default()
    }
}

/// What one measurement found.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// Of the encoder, over a batch of frames.
    pub encoder: Measured,
    /// Of the head, over a batch of windows.
    pub head: Measured,
}

impl Times {
    /// What a round over all cameras takes when a window is due for each; the median, for the rest of the machine is busy
    /// while this is measured.
    pub fn round(&self) -> Duration {
        self.encoder.p50() + self.head.p50()
    }
}

/// Runs `passes` passes over `batch` views (their pixels differ), and as many over `batch` windows of them.
pub fn measure(
    m: &Manifest,
    engine: &mut Engine,
    (batch, passes): (usize, usize),
    clock: &dyn Clock,
) -> Result<Times, EngineError> {
    let views: Vec<Vec<u8>> = (0..batch).map(|n| pixels(n, m.view.len_bytes())).collect();
    let views: Vec<&[u8]> = views.iter().map(|v| &v[..]).collect();
    let mut slots = Vec::new();
    let mut took = Vec::with_capacity(passes);
    for pass in 0..WARM_UP + passes {
        let began = clock.now();
        slots = engine.encoder.encode(&views)?;
        if pass >= WARM_UP {
            took.push(clock.now().since(began));
        }
    }
    let encoder = Measured::new(batch, took);
    let windows: Vec<Vec<Slot>> =
        (0..batch).map(|n| (0..m.window).map(|at| slots[(n + at) % batch].clone()).collect()).collect();
    let windows: Vec<&[Slot]> = windows.iter().map(|w| &w[..]).collect();
    let mut took = Vec::with_capacity(passes);
    for pass in 0..WARM_UP + passes {
        let began = clock.now();
        engine.head.classify(&windows)?;
        if pass >= WARM_UP {
            took.push(clock.now().since(began));
        }
    }
    Ok(Times { encoder, head: Measured::new(batch, took) })
}

fn pixels(n: usize, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes).map(|i| ((i * 31) ^ (i >> 7) ^ (n * 77)) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::infer::scripted;
    use crate::base::clock::SystemClock;

    #[test]
    fn percentiles_and_rates_are_those_of_what_was_measured() {
        let ms = Duration::from_millis;
        let m = Measured::new(2, (1..=200).rev().map(ms).collect());
        assert_eq!((m.p50(), m.p99()), (ms(101), ms(199)));
        // 400 items in 20.1 s.
        assert!((m.per_second() - 400.0 / 20.1).abs() < 1e-9, "{}", m.per_second());
        assert_eq!(Measured::new(1, Vec::new()).per_second(), 0.0);
    }

    #[test]
    fn an_engine_is_measured_at_the_batch_that_was_asked_for() {
        let m = scripted::manifest();
        let mut engine = scripted::by_brightness(&m);
        let times = measure(&m, &mut engine, (3, 7), &SystemClock::new()).expect("it never fails");
        assert_eq!((times.encoder.batch, times.encoder.took.len()), (3, 7));
        assert_eq!((times.head.batch, times.head.took.len()), (3, 7));
        assert!(times.round() >= times.encoder.p50());
    }
}
