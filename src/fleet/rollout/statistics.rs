//! How unlikely a count is. Exact tails, summed in double precision; no approximation for small counts, which are what a
//! first wave has.
//!
//! What does not belong here: which counts are compared, and what follows (`gates`).

/// Terms below this part of the sum change nothing that is printed.
const NEGLIGIBLE: f64 = 1e-12;

/// Probability of `k` or more successes in `n` trials that each succeed with probability `p`; 1 where `k` is not above the
/// mean, since nothing is made of that.
pub fn binomial_tail(k: u64, n: u64, p: f64) -> f64 {
    if k as f64 <= n as f64 * p || k == 0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    let choose: f64 = (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum();
    let first = (choose + k as f64 * p.ln() + (n - k) as f64 * (1.0 - p).ln()).exp();
    let odds = p / (1.0 - p);
    sum(first, k, |i| if i < n { odds * (n - i) as f64 / (i + 1) as f64 } else { 0.0 })
}

/// Probability of `k` or more events where `mean` are expected; 1 where `k` is not above the mean.
pub fn poisson_tail(k: u64, mean: f64) -> f64 {
    if k as f64 <= mean || k == 0 {
        return 1.0;
    }
    if mean <= 0.0 {
        return 0.0;
    }
    let factorial: f64 = (1..=k).map(|i| (i as f64).ln()).sum();
    let first = (k as f64 * mean.ln() - mean - factorial).exp();
    sum(first, k, |i| mean / (i + 1) as f64)
}

/// A term and all after it, each so many times the one before. Beyond the mean they only shrink.
fn sum(first: f64, from: u64, ratio: impl Fn(u64) -> f64) -> f64 {
    let (mut term, mut total, mut i) = (first, first, from);
    while term > total * NEGLIGIBLE {
        term *= ratio(i);
        total += term;
        i += 1;
    }
    total.min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-300), "{a} {b}");
    }

    #[test]
    fn tails_are_what_can_be_counted_by_hand() {
        near(binomial_tail(3, 3, 0.05), 0.05f64.powi(3));
        near(binomial_tail(2, 3, 0.1), 3.0 * 0.01 * 0.9 + 0.001);
        near(poisson_tail(1, 0.5), 1.0 - (-0.5f64).exp());
        near(poisson_tail(3, 1.0), 1.0 - 2.5 * (-1.0f64).exp());
    }

    #[test]
    fn edges_say_something_sensible() {
        assert_eq!(binomial_tail(0, 0, 0.5), 1.0);
        assert_eq!(binomial_tail(1, 10, 0.0), 0.0);
        assert_eq!(binomial_tail(1, 20, 0.05), 1.0);
        assert_eq!(poisson_tail(0, 0.0), 1.0);
        assert_eq!(poisson_tail(4, 0.0), 0.0);
        assert_eq!(poisson_tail(10, 10.0), 1.0);
        let far = poisson_tail(5_000, 100.0);
        assert!((0.0..1e-100).contains(&far), "{far}");
        assert!(binomial_tail(9_000, 10_000, 0.05) < 1e-100);
    }

    #[test]
    fn more_is_never_likelier() {
        for n in [1, 7, 50] {
            for k in 1..n {
                assert!(binomial_tail(k + 1, n, 0.05) <= binomial_tail(k, n, 0.05));
            }
        }
        for k in 1..60 {
            assert!(poisson_tail(k + 1, 4.0) <= poisson_tail(k, 4.0));
        }
    }
}
