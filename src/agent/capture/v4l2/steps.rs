//! Some devices don't list their sizes and rates but give a range of them. The usual ones in it stand for the range. Pure.

use super::device::Rate;

/// Sizes that people and software expect, in pixels.
const SIZES: [(u32, u32); 14] = [
    (320, 180),
    (320, 240),
    (640, 360),
    (640, 480),
    (800, 600),
    (960, 540),
    (1024, 768),
    (1280, 720),
    (1280, 960),
    (1920, 1080),
    (1920, 1200),
    (2560, 1440),
    (2592, 1944),
    (3840, 2160),
];
/// Rates that people and software expect, in frames a second.
const RATES: [u32; 9] = [5, 8, 10, 15, 20, 25, 30, 50, 60];

/// The usual sizes within a range of widths and one of heights (least, greatest, step), and its greatest.
pub fn sizes_between(widths: [u32; 3], heights: [u32; 3]) -> Vec<(u32, u32)> {
    let on_step = |v: u32, [least, greatest, step]: [u32; 3]| {
        (least..=greatest).contains(&v) && (v - least).is_multiple_of(step.max(1))
    };
    let mut sizes: Vec<_> = SIZES.into_iter().filter(|(w, h)| on_step(*w, widths) && on_step(*h, heights)).collect();
    let greatest = (widths[1], heights[1]);
    if !sizes.contains(&greatest) {
        sizes.push(greatest);
    }
    sizes
}

/// The usual rates from the slowest to the fastest, and both ends.
pub fn rates_between(slowest: Rate, fastest: Rate) -> Vec<Rate> {
    let usual = RATES.into_iter().map(|frames| Rate { frames, seconds: 1 });
    let within = usual.filter(|r| slowest.fps() < r.fps() && r.fps() < fastest.fps());
    let mut rates: Vec<_> = std::iter::once(slowest).chain(within).chain(std::iter::once(fastest)).collect();
    rates.dedup();
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_gives_its_usual_sizes_and_its_greatest() {
        let sizes = sizes_between([48, 1000, 2], [32, 1000, 2]);
        assert_eq!(sizes[..4], [(320, 180), (320, 240), (640, 360), (640, 480)]);
        assert_eq!(sizes.last(), Some(&(1000, 1000)));
        assert!(!sizes.contains(&(1024, 768)));
        // 180 is no multiple of 32 above 32.
        assert_eq!(sizes_between([320, 640, 32], [32, 480, 32]), [(320, 240), (640, 480)].map(|s| s)[1..].to_vec());
        assert_eq!(sizes_between([640, 640, 0], [360, 360, 0]), [(640, 360)], "a step of nothing");
    }

    #[test]
    fn a_range_gives_its_usual_rates_and_its_ends() {
        let rate = |frames, seconds| Rate { frames, seconds };
        let rates = rates_between(rate(7, 2), rate(30000, 1001));
        let fps: Vec<String> = rates.iter().map(ToString::to_string).collect();
        assert_eq!(fps, ["3.5", "5", "8", "10", "15", "20", "25", "29.97"]);
        assert_eq!(rates_between(rate(30, 1), rate(30, 1)), [rate(30, 1)]);
    }
}
