//! Where in the picture most moves: the box that a view follows. Pure integer arithmetic, so that training, a replay
//! and every device choose the same one.
//!
//! The rule, with the constants of `[view.motion]` in the manifest:
//!
//! 1. **Gray**: `(77 R + 150 G + 29 B + 128) >> 8` of every pixel.
//! 2. **Grid** of G x H cells: cell (i, j) is the mean gray, rounded down, of the columns from `i width / G` up to
//!    `(i + 1) width / G` and the rows from `j height / H` up to `(j + 1) height / H` (bounds rounded down, at least one
//!    column and row).
//! 3. **Energy** of each cell, in 1/256 gray level, rounded down, at first 0:
//!    `e = (keep e + (100 - keep) 256 max(|gray - gray before| - noise_floor, 0)) / 100`.
//! 4. **Box**: `size` percent of the grid each way (rounded down, at least one cell). Of all its places the one with the
//!    largest `sum of e * (200 - pull (dx² + dy²)) / 200`, where dx and dy are its distance from the centre against
//!    the largest possible, 0 to 1; of equals the one nearest to the centre, then the upper, then the left one.
//! 5. **Pixels**: left `i width / G`, width `columns width / G`, likewise the rows, rounded down, at least one pixel.
//!
//! The box uses this frame and earlier ones only. After a restart the energy is 0, and so the box stands in the
//! centre.

use super::input::MotionRule;
use super::view::PixelBox;

/// Where things move, and the box around it.
pub(super) struct Motion {
    rule: MotionRule,
    gray: Option<Vec<u8>>,
    /// In 1/256 gray level.
    energy: Vec<u32>,
}

impl Motion {
    pub(super) fn new(rule: MotionRule) -> Self {
        let cells = (rule.grid[0] * rule.grid[1]) as usize;
        Motion { rule, gray: None, energy: vec![0; cells] }
    }

    pub(super) fn restart(&mut self) {
        self.gray = None;
        self.energy.fill(0);
    }

    /// The box for the next picture (packed RGB), in its pixels.
    pub(super) fn push(&mut self, rgb: &[u8], width: u32, height: u32) -> PixelBox {
        let gray = gray_grid(rgb, width, height, self.rule.grid);
        let (keep, floor) = (self.rule.keep_percent, self.rule.noise_floor);
        if let Some(before) = &self.gray {
            for ((e, now), was) in self.energy.iter_mut().zip(&gray).zip(before) {
                let moved = u32::from(now.abs_diff(*was).saturating_sub(floor));
                *e = (keep * *e + (100 - keep) * 256 * moved) / 100;
            }
        }
        self.gray = Some(gray);
        let ([columns, rows], [i, j, w, h]) = (self.rule.grid, self.place());
        PixelBox {
            left: i * width / columns,
            top: j * height / rows,
            width: (w * width / columns).max(1),
            height: (h * height / rows).max(1),
        }
    }

    /// Column, row, columns and rows of the best box.
    fn place(&self) -> [u32; 4] {
        let [columns, rows] = self.rule.grid;
        let size = |cells: u32| (cells * self.rule.size_percent / 100).max(1);
        let (w, h) = (size(columns), size(rows));
        let sums = summed_area(&self.energy, columns as usize);
        let sum = |i: u32, j: u32| {
            let at = |i: u32, j: u32| sums[(j * (columns + 1) + i) as usize];
            at(i + w, j + h) + at(i, j) - at(i + w, j) - at(i, j + h)
        };
        let (free_x, free_y) = (columns - w, rows - h);
        // Squares of the distances from the centre, over a common denominator: dx = |2i - free_x| / free_x.
        let (span_x, span_y) = (u128::from(free_x.max(1)).pow(2), u128::from(free_y.max(1)).pow(2));
        let far = |i: u32, j: u32| {
            let (dx, dy) = (u128::from((2 * i).abs_diff(free_x)), u128::from((2 * j).abs_diff(free_y)));
            dx * dx * span_y + dy * dy * span_x
        };
        let mut best = None;
        for j in 0..=free_y {
            for i in 0..=free_x {
                let far = far(i, j);
                let loss = u128::from(self.rule.centre_pull_percent) * far;
                let worth = u128::from(sum(i, j)) * (200 * span_x * span_y - loss);
                if best.is_none_or(|(w, f, _, _)| worth > w || (worth == w && far < f)) {
                    best = Some((worth, far, i, j));
                }
            }
        }
        let (_, _, i, j) = best.expect("a box never larger than the grid has at least one place");
        [i, j, w, h]
    }
}

/// Mean gray of every cell of a grid over the picture, row by row.
fn gray_grid(rgb: &[u8], width: u32, height: u32, grid: [u32; 2]) -> Vec<u8> {
    let bounds = |k: u32, cells: u32, size: u32| {
        let first = k * size / cells;
        first as usize..((k + 1) * size / cells).max(first + 1) as usize
    };
    let columns: Vec<_> = (0..grid[0]).map(|i| bounds(i, grid[0], width)).collect();
    let mut cells = Vec::with_capacity((grid[0] * grid[1]) as usize);
    for j in 0..grid[1] {
        let rows = bounds(j, grid[1], height);
        let pixels = rows.len() as u32;
        let mut sums = vec![0u32; grid[0] as usize];
        for row in rows {
            let line = &rgb[row * width as usize * 3..][..width as usize * 3];
            for (sum, c) in sums.iter_mut().zip(&columns) {
                *sum += line[c.start * 3..c.end * 3].chunks_exact(3).map(gray).sum::<u32>();
            }
        }
        cells.extend(sums.iter().zip(&columns).map(|(sum, c)| (sum / (pixels * c.len() as u32)) as u8));
    }
    cells
}

fn gray(rgb: &[u8]) -> u32 {
    (77 * u32::from(rgb[0]) + 150 * u32::from(rgb[1]) + 29 * u32::from(rgb[2]) + 128) >> 8
}

/// Sums of everything above and left of each corner of the grid: (columns + 1) a row.
fn summed_area(cells: &[u32], columns: usize) -> Vec<u64> {
    let mut sums = vec![0u64; columns + 1];
    for row in cells.chunks_exact(columns) {
        let above = sums.len() - columns - 1;
        let mut line = 0;
        sums.push(0);
        for (i, e) in row.iter().enumerate() {
            line += u64::from(*e);
            sums.push(line + sums[above + i + 1]);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: MotionRule =
        MotionRule { grid: [64, 36], keep_percent: 70, noise_floor: 6, size_percent: 50, centre_pull_percent: 10 };

    /// A gray picture with a square of `size` pixels at (x, y).
    fn picture(width: u32, height: u32, ground: u8, square: u8, [x, y, size]: [u32; 3]) -> Vec<u8> {
        let inside = |i: u32| (x..x + size).contains(&(i % width)) && (y..y + size).contains(&(i / width));
        (0..width * height).flat_map(|i| [if inside(i) { square } else { ground }; 3]).collect()
    }

    #[test]
    fn gray_is_bt601_and_cells_are_means() {
        assert_eq!((gray(&[255, 255, 255]), gray(&[255, 0, 0]), gray(&[0, 255, 0])), (255, 77, 149));
        let rgb = [[10; 3], [20; 3], [30; 3], [41; 3]].concat();
        assert_eq!(gray_grid(&rgb, 4, 1, [2, 1]), [15, 35]);
        assert_eq!(gray_grid(&rgb, 4, 1, [8, 2]), [10, 10, 20, 20, 30, 30, 41, 41].repeat(2));
    }

    #[test]
    fn stands_in_the_centre_until_something_moves_then_goes_there_and_comes_back() {
        let mut m = Motion::new(RULE);
        let still = picture(480, 270, 100, 100, [0, 0, 0]);
        let centre = PixelBox { left: 120, top: 67, width: 240, height: 135 };
        assert_eq!(m.push(&still, 480, 270), centre);
        assert_eq!(m.push(&still, 480, 270), centre);
        let moved = picture(480, 270, 100, 220, [440, 230, 30]);
        let corner = m.push(&moved, 480, 270);
        assert!(corner.left + corner.width >= 470 && corner.top + corner.height >= 260, "{corner:?}");
        m.restart();
        assert_eq!(m.push(&moved, 480, 270), centre, "what was there before the restart is no motion");
    }

    #[test]
    fn differences_up_to_the_noise_floor_move_nothing() {
        let mut m = Motion::new(RULE);
        m.push(&picture(480, 270, 100, 100, [0, 0, 0]), 480, 270);
        m.push(&picture(480, 270, 100, 106, [0, 0, 200]), 480, 270);
        assert!(m.energy.iter().all(|e| *e == 0));
    }

    #[test]
    fn energy_follows_its_recurrence() {
        let mut m = Motion::new(RULE);
        let energies: Vec<_> = [0u8, 106, 106, 0]
            .map(|v| {
                m.push(&[v; 64 * 36 * 3], 64, 36);
                m.energy[0]
            })
            .into();
        // .3 * 256 * 100 = 7680; .7 * 7680 = 5376; .7 * 5376 + 7680 = 11443.2.
        assert_eq!(energies, [0, 7680, 5376, 11443]);
    }

    proptest! {
        /// Whatever the picture and the rule: the box is inside, and the same again for the same pictures.
        #[test]
        fn the_box_is_inside_and_repeats(
            width in 1u32..200, height in 1u32..120, grid in (4u32..70, 4u32..40),
            size_percent in 10u32..=100, centre_pull_percent in 0u32..=50,
            seed in any::<u64>(),
        ) {
            let rule = MotionRule { grid: [grid.0, grid.1], size_percent, centre_pull_percent, ..RULE };
            let noise = |n: u64| -> Vec<u8> {
                (0..u64::from(width * height * 3))
                    .map(|i| ((seed ^ (n << 32) ^ i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
                    .collect()
            };
            let (mut a, mut b) = (Motion::new(rule), Motion::new(rule));
            for n in 0..3 {
                let rgb = noise(n);
                let shows = a.push(&rgb, width, height);
                prop_assert_eq!(shows, b.push(&rgb, width, height));
                prop_assert!(shows.width >= 1 && shows.left + shows.width <= width, "{:?}", shows);
                prop_assert!(shows.height >= 1 && shows.top + shows.height <= height, "{:?}", shows);
            }
        }
    }
}
