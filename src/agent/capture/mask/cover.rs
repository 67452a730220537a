//! Which pixels masks cover. Pure.
//!
//! A picture is divided into cells: as many pixels as share one chroma sample (two by two in 4:2:0), so that neither
//! brightness nor colour of anything hidden stays. A cell is covered if any of its area lies in a mask; what merely
//! borders on one is not. Each row of cells is a band; what a polygon covers of a band is where its edges run in it,
//! and what is inside just below the band's upper edge: whoever goes up from any other point inside the polygon comes
//! to one or the other.

use super::super::Rotation;
use crate::agent::config::{Mask, Point};

/// Covered cells side by side in one row: columns from `from` up to, but not including, `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub row: u32,
    pub from: u32,
    pub to: u32,
}

/// Width and height of a cell in pixels.
pub type Cell = (u32, u32);

/// The covered cells of a stored picture of `width` x `height` pixels that has to be turned by `rotation` to be upright,
/// as the masks mean it. Runs come in order, and do not touch.
pub fn cover(masks: &[Mask], rotation: Rotation, (width, height): (u32, u32), cell: Cell) -> Vec<Run> {
    let (columns, rows) = (width.div_ceil(cell.0), height.div_ceil(cell.1));
    let scale = (f64::from(width) / f64::from(cell.0), f64::from(height) / f64::from(cell.1));
    let polygons: Vec<Vec<Point>> = masks
        .iter()
        .map(|mask| {
            let stored = mask.points.iter().map(|p| stored(*p, rotation));
            stored.map(|p| Point { x: p.x * scale.0, y: p.y * scale.1 }).collect()
        })
        .collect();
    let mut runs: Vec<Run> = Vec::new();
    let mut spans = Vec::new();
    for row in 0..rows {
        spans.clear();
        polygons.iter().for_each(|polygon| band(polygon, f64::from(row), &mut spans));
        let mut cells: Vec<(u32, u32)> = spans
            .iter()
            .map(|(from, to)| (from.floor().max(0.0) as u32, (to.ceil().max(0.0) as u32).min(columns)))
            .filter(|(from, to)| from < to)
            .collect();
        cells.sort_unstable();
        let first_of_row = runs.len();
        for (from, to) in cells {
            match runs[first_of_row..].last_mut() {
                Some(last) if from <= last.to => last.to = last.to.max(to),
                _ => runs.push(Run { row, from, to }),
            }
        }
    }
    runs
}

/// Where a place on the upright picture is on the stored one.
fn stored(p: Point, rotation: Rotation) -> Point {
    let (x, y) = match rotation {
        Rotation::None => (p.x, p.y),
        Rotation::Quarter => (p.y, 1.0 - p.x),
        Rotation::Half => (1.0 - p.x, 1.0 - p.y),
        Rotation::ThreeQuarter => (1.0 - p.y, p.x),
    };
    Point { x, y }
}

/// Adds what the polygon covers, from left to right, of the band between `top` and `top + 1`.
fn band(polygon: &[Point], top: f64, spans: &mut Vec<(f64, f64)>) {
    let bottom = top + 1.0;
    let mut crossings: Vec<(f64, i32)> = Vec::new();
    for (a, b) in polygon.iter().zip(polygon.iter().cycle().skip(1)) {
        let (upper, lower) = if a.y <= b.y { (a, b) } else { (b, a) };
        let at = |y: f64| upper.x + (lower.x - upper.x) * ((y - upper.y) / (lower.y - upper.y));
        let level = upper.y == lower.y;
        let runs_in_it = if level { top < upper.y && upper.y < bottom } else { upper.y < bottom && lower.y > top };
        if runs_in_it {
            let enters = if upper.y >= top { upper.x } else { at(top) };
            let leaves = if lower.y <= bottom { lower.x } else { at(bottom) };
            spans.push((enters.min(leaves), enters.max(leaves)));
        }
        if upper.y <= top && top < lower.y {
            crossings.push((at(top), if a.y <= b.y { 1 } else { -1 }));
        }
    }
    // Inside is what the edges go round any number of times but none.
    crossings.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut turns = 0;
    for pair in crossings.windows(2) {
        turns += pair[0].1;
        if turns != 0 {
            spans.push((pair[0].0, pair[1].0));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn polygon(points: &[(f64, f64)]) -> Mask {
        Mask { points: points.iter().map(|&(x, y)| Point { x, y }).collect() }
    }

    fn cells(runs: &[Run]) -> BTreeSet<(u32, u32)> {
        runs.iter().flat_map(|r| (r.from..r.to).map(|x| (x, r.row))).collect()
    }

    /// How often the edges go round a place, by the sum of the angles: another way than that of the module.
    fn turns(points: &[(f64, f64)], (x, y): (f64, f64)) -> i64 {
        let angle = |p: &(f64, f64)| (p.1 - y).atan2(p.0 - x);
        let next = points.iter().cycle().skip(1);
        let sum: f64 = points
            .iter()
            .zip(next)
            .map(|(a, b)| {
                let d = angle(b) - angle(a);
                d - (d / std::f64::consts::TAU).round() * std::f64::consts::TAU
            })
            .sum();
        (sum / std::f64::consts::TAU).round() as i64
    }

    /// Whether the polygon meets a square of one pixel that is larger by `margin` on each side.
    fn meets(points: &[(f64, f64)], (x, y): (f64, f64), margin: f64) -> bool {
        let comes_in = |a: (f64, f64), b: (f64, f64)| {
            let (mut from, mut to) = (0.0_f64, 1.0_f64);
            for (start, end, low, high) in
                [(a.0, b.0, x - margin, x + 1.0 + margin), (a.1, b.1, y - margin, y + 1.0 + margin)]
            {
                let d = end - start;
                if d == 0.0 {
                    if start < low || start > high {
                        return false;
                    }
                    continue;
                }
                let (t, u) = ((low - start) / d, (high - start) / d);
                (from, to) = (from.max(t.min(u)), to.min(t.max(u)));
            }
            from <= to
        };
        let next = points.iter().cycle().skip(1);
        points.iter().zip(next).any(|(a, b)| comes_in(*a, *b)) || turns(points, (x + 0.5, y + 0.5)) != 0
    }

    #[test]
    fn a_rectangle_on_the_grid_covers_its_own_cells_and_no_other() {
        let half = polygon(&[(0.25, 0.5), (0.75, 0.5), (0.75, 1.0), (0.25, 1.0)]);
        let runs = cover(&[half], Rotation::None, (64, 32), (2, 2));
        assert_eq!(runs, (8..16).map(|row| Run { row, from: 8, to: 24 }).collect::<Vec<_>>());
        // A little more than it, and the cells around it go too.
        let more = polygon(&[(0.249, 0.49), (0.76, 0.49), (0.76, 1.0), (0.249, 1.0)]);
        let runs = cover(&[more], Rotation::None, (64, 32), (2, 2));
        assert_eq!(runs, (7..16).map(|row| Run { row, from: 7, to: 25 }).collect::<Vec<_>>());
    }

    #[test]
    fn odd_sizes_end_in_a_cell_that_is_cut_off() {
        let all = polygon(&[(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]);
        assert_eq!(cells(&cover(&[all], Rotation::None, (33, 35), (2, 2))).len(), 17 * 18);
        let last = polygon(&[(0.999, 0.999), (1.0, 0.999), (1.0, 1.0)]);
        assert_eq!(cover(&[last], Rotation::None, (33, 35), (2, 2)), [Run { row: 17, from: 16, to: 17 }]);
    }

    #[test]
    fn what_a_dent_leaves_out_stays_visible() {
        // A horseshoe, open below.
        let shoe = polygon(&[
            (0.0, 0.0),
            (1.0, 0.0),
            (1.0, 1.0),
            (0.75, 1.0),
            (0.75, 0.25),
            (0.25, 0.25),
            (0.25, 1.0),
            (0.0, 1.0),
        ]);
        let covered = cells(&cover(&[shoe], Rotation::None, (8, 8), (1, 1)));
        let visible: Vec<_> =
            (0..8).flat_map(|y| (0..8).map(move |x| (x, y))).filter(|c| !covered.contains(c)).collect();
        assert!(visible.iter().all(|(x, y)| (2..6).contains(x) && *y >= 2) && visible.len() == 24, "{visible:?}");
    }

    #[test]
    fn masks_that_overlap_are_covered_once() {
        let a = polygon(&[(0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5)]);
        let b = polygon(&[(0.25, 0.0), (1.0, 0.0), (1.0, 0.25), (0.25, 0.25)]);
        let runs = cover(&[b, a], Rotation::None, (8, 8), (2, 2));
        assert_eq!(runs, [Run { row: 0, from: 0, to: 4 }, Run { row: 1, from: 0, to: 2 }]);
    }

    fn any_polygon() -> impl Strategy<Value = Vec<(f64, f64)>> {
        // Free ones, and such as lie on the grid, where comparisons are equal.
        let free = prop::collection::vec((0.0_f64..=1.0, 0.0_f64..=1.0), 3..12);
        let on_grid = prop::collection::vec((0_u32..=16, 0_u32..=16), 3..12)
            .prop_map(|p| p.into_iter().map(|(x, y)| (f64::from(x) / 16.0, f64::from(y) / 16.0)).collect());
        prop_oneof![free, on_grid]
    }

    proptest! {
        #[test]
        fn no_pixel_that_meets_the_polygon_is_left_visible(
            points in any_polygon(),
            (width, height) in (32_u32..200, 32_u32..200),
            cell in prop::sample::select(vec![(1, 1), (2, 2), (2, 1), (4, 1)]),
            places in prop::collection::vec((0.0_f64..1.0, 0.0_f64..1.0), 200),
            along in prop::collection::vec((any::<prop::sample::Index>(), 0.0_f64..1.0), 50),
        ) {
            let covered = cells(&cover(&[polygon(&points)], Rotation::None, (width, height), cell));
            let of = |(x, y): (f64, f64)| {
                let cells = |v: f64, pixels: u32, cell: u32| (v * f64::from(pixels)) / f64::from(cell);
                (cells(x, width, cell.0), cells(y, height, cell.1))
            };
            // Inside of it, and along its edges, but for what is nearer to a cell's border than rounding.
            let edge = |(i, t): &(prop::sample::Index, f64)| {
                let i = i.index(points.len());
                let (a, b) = (points[i], points[(i + 1) % points.len()]);
                (a.0 + (b.0 - a.0) * t, a.1 + (b.1 - a.1) * t)
            };
            let inside = places.iter().copied().filter(|p| turns(&points, *p) != 0);
            for place in inside.chain(along.iter().map(edge)) {
                let (x, y) = of(place);
                let on_border = |v: f64| (v - v.round()).abs() < 1e-9;
                if !on_border(x) && !on_border(y) {
                    prop_assert!(covered.contains(&(x as u32, y as u32)), "{place:?} of {points:?}");
                }
            }
        }

        #[test]
        fn no_pixel_is_covered_that_the_polygon_does_not_meet(
            points in any_polygon(), (width, height) in (32_u32..100, 32_u32..100),
        ) {
            let scaled: Vec<_> = points.iter().map(|p| (p.0 * f64::from(width), p.1 * f64::from(height))).collect();
            for (x, y) in cells(&cover(&[polygon(&points)], Rotation::None, (width, height), (1, 1))) {
                prop_assert!(meets(&scaled, (f64::from(x), f64::from(y)), 1e-9), "{x}, {y} of {points:?}");
            }
        }

        #[test]
        fn a_turned_picture_has_the_same_pixels_covered(
            points in prop::collection::vec((0_u32..=64, 0_u32..=64), 3..10),
        ) {
            // Sixty-fourths are exact, whichever way they are turned.
            let mask = [polygon(&points.iter().map(|(x, y)| (f64::from(*x) / 64.0, f64::from(*y) / 64.0)).collect::<Vec<_>>())];
            let (wide, high) = (96, 32);
            let upright = cells(&cover(&mask, Rotation::None, (wide, high), (1, 1)));
            for (rotation, at) in [
                (Rotation::Quarter, (|x, y| (y, 95 - x)) as fn(u32, u32) -> (u32, u32)),
                (Rotation::Half, |x, y| (95 - x, 31 - y)),
                (Rotation::ThreeQuarter, |x, y| (31 - y, x)),
            ] {
                let turned = cells(&cover(&mask, rotation, rotation.turned(wide, high), (1, 1)));
                let expected: BTreeSet<_> = upright.iter().map(|&(x, y)| at(x, y)).collect();
                // Where an edge goes through a pixel's corner, rounding may put it on either side.
                let back = rotation.turned(wide, high);
                let scaled: Vec<_> = mask[0]
                    .points
                    .iter()
                    .map(|p| stored(*p, rotation))
                    .map(|p| (p.x * f64::from(back.0), p.y * f64::from(back.1)))
                    .collect();
                for &(x, y) in turned.symmetric_difference(&expected) {
                    prop_assert!(!meets(&scaled, (f64::from(x), f64::from(y)), -1e-6), "{rotation:?}: {x}, {y}");
                }
            }
        }
    }
}
