//! Durations of late: their median, 99th percentile and longest.

use std::collections::VecDeque;
use std::time::Duration;

use crate::contract::heartbeat::Timing;

/// Durations that the percentiles are taken over: a minute of one camera.
const KEPT: usize = 512;

/// See the module's doc.
#[derive(Debug, Default)]
pub struct Durations {
    count: u64,
    sum: Duration,
    /// Milliseconds, newest last.
    recent: VecDeque<f32>,
}

impl Durations {
    /// So many took so long each.
    pub fn add(&mut self, each: Duration, count: usize) {
        self.count += count as u64;
        self.sum += each * u32::try_from(count).unwrap_or(u32::MAX);
        for _ in 0..count.min(KEPT) {
            if self.recent.len() == KEPT {
                self.recent.pop_front();
            }
            self.recent.push_back(each.as_secs_f32() * 1000.0);
        }
    }

    /// As the heartbeat carries it; zeros before the first.
    pub fn timing(&self) -> Timing {
        let mut sorted: Vec<f32> = self.recent.iter().copied().collect();
        sorted.sort_by(f32::total_cmp);
        // The smallest value that is not below so many of 100.
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100);
            sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Timing { count: self.count, median: at(50), p99: at(99), max: at(100), sum: self.sum.as_secs_f64() * 1000.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_what_is_known() {
        let mut d = Durations::default();
        assert_eq!(d.timing(), Timing::default());
        for ms in 1..=100 {
            d.add(Duration::from_millis(ms), 1);
        }
        assert_eq!(d.timing(), Timing { count: 100, median: 50.0, p99: 99.0, max: 100.0, sum: 5_050.0 });
        d.add(Duration::from_millis(7), 10_000);
        let of_late = Timing { count: 10_100, median: 7.0, p99: 7.0, max: 7.0, sum: 75_050.0 };
        assert_eq!(d.timing(), of_late, "only those of late");
    }
}
