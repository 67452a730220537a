//! How fast bytes may go: a bucket that fills at the configured rate and holds a quarter of a second's worth. Pure.

use std::time::Duration;

use super::clock::Mono;

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(250);
/// Pieces that are asked for at once.
const PIECE_BYTES: std::ops::RangeInclusive<u64> = 512..=65_536;

/// See the module's doc. One for all that shares a limit, so that the limit holds for all of it together.
#[derive(Debug)]
pub struct Bucket {
    bytes_per_s: u64,
    /// When all that was taken so far has gone, at the rate.
    gone_at: Mono,
}

impl Bucket {
    /// An empty one.
    pub fn new(bytes_per_s: u64) -> Bucket {
        Bucket { bytes_per_s: bytes_per_s.max(1), gone_at: Mono::ZERO }
    }

    /// How much to ask for at once: a tenth of a second's worth, so that the line is never long idle nor long busy.
    pub fn piece_bytes(&self) -> usize {
        (self.bytes_per_s / 10).clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end()) as usize
    }

    /// Takes so many bytes; how long they must wait before they go.
    pub fn take(&mut self, now: Mono, bytes: usize) -> Duration {
        let start = self.gone_at.max(now.back(BURST));
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        self.gone_at = start + takes;
        // They may go when the last byte before them has gone.
        start.since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_second_carries_more_than_the_rate_and_a_burst(
            rate in 1_000_u64..10_000_000,
            pauses_ms in prop::collection::vec(0_u64..400, 1..60),
        ) {
            let mut bucket = Bucket::new(rate);
            let piece = bucket.piece_bytes();
            let (mut now, mut went) = (Mono::from_millis(10_000), Vec::new());
            for pause in pauses_ms {
                now = now + Duration::from_millis(pause);
                now = now + bucket.take(now, piece);
                went.push(now);
            }
            let most = rate as f64 * (1.0 + BURST.as_secs_f64()) + 2.0 * piece as f64;
            for (i, from) in went.iter().enumerate() {
                let within = went[i..].iter().take_while(|t| t.since(*from) < Duration::from_secs(1)).count();
                prop_assert!((within * piece) as f64 <= most, "{within} pieces of {piece} at {rate}");
            }
        }
    }

    #[test]
    fn a_long_file_takes_as_long_as_the_rate_says() {
        let (mut bucket, mut now) = (Bucket::new(100_000), Mono::from_millis(5_000));
        let start = now;
        for _ in 0..100 {
            now = now + bucket.take(now, 10_000);
        }
        let took = now.since(start).as_secs_f64();
        assert!((9.5..=10.0).contains(&took), "a megabyte at 100 kB/s, less the burst: {took} s");
    }
}
