//! Exponential retry pacing with full jitter, so that a fleet that lost one broker does not return as one.
//! (Method: "full jitter", M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015.)

use std::time::Duration;

/// Delays that double from `first` to `most`, each drawn evenly between half of itself and itself.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    /// Pacing from `first` up to `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most, next: first }
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let base = self.next;
        self.next = (base * 2).min(self.most);
        base / 2 + (base / 2).mul_f64(fastrand::f64())
    }

    /// Back to `first`: the thing works again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_over() {
        let mut b = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let delays: Vec<_> = (0..10).map(|_| b.next_delay()).collect();
        assert!(delays[0] >= Duration::from_millis(50) && delays[0] <= Duration::from_millis(100));
        assert!(delays[9] >= Duration::from_secs(1) && delays[9] <= Duration::from_secs(2));
        b.reset();
        assert!(b.next_delay() <= Duration::from_millis(100));
    }
}
