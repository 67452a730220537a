//! Shapes on a camera's picture: `region`, and `[[camera.masks]]`. How they are written and what is wrong with them; what
//! is done with them is capture's business.

use std::ops::Bound::{Excluded, Included};
use std::ops::RangeBounds;

use toml::de::DeValue;

use super::Region;
use super::kind::{Fault, Kind, found, number};
use super::section::Section;

/// Most masks of one camera.
const MASKS_MAX: usize = 32;
/// Fewest and most points of a mask.
const POINTS: (usize, usize) = (3, 64);
/// Smallest area of a mask, of the picture's: two pixels of 1920 x 1080.
const AREA_LEAST: f64 = 1e-6;
/// What rounding of decimal fractions adds up to is far below a pixel.
const ROUNDING: f64 = 1e-9;

/// One of `[[camera.masks]]`: a part of the picture that is hidden from everything. Written as `points`, a polygon of 3
/// to 64 points in order round its edge, or as a rectangle, `x`, `y`, `width` and `height`.
#[derive(Debug, Clone, PartialEq)]
pub struct Mask {
    /// Corners in order; edges do not cross.
    pub points: Vec<Point>,
}

/// A place on the full, upright picture as it is shown: 0, 0 is its upper left corner, 1, 1 its lower right one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Across, 0 to 1.
    pub x: f64,
    /// Down, 0 to 1.
    pub y: f64,
}

/// `region`.
pub(super) fn region(s: &mut Section<'_>) -> Option<Region> {
    let [x, y, width, height] = rectangle(s, 0.05..=1.0)?.map(|v| v as f32);
    Some(Region { x, y, width, height })
}

/// All of `[[camera.masks]]`.
pub(super) fn masks(s: &mut Section<'_>) -> Option<Vec<Mask>> {
    let masks = s.sections("masks", mask)?;
    if masks.len() > MASKS_MAX {
        s.problem("masks", format!("there are {}", masks.len()), format!("at most {MASKS_MAX} on one camera"));
        return None;
    }
    Some(masks)
}

fn mask(s: &mut Section<'_>) -> Option<Mask> {
    if s.has("points") {
        for key in ["x", "y", "width", "height"] {
            s.out_of_place(key, "is of a rectangle, and points say another shape", "write one or the other");
        }
        return s.required("points", polygon()).map(|points| Mask { points });
    }
    s.pass_over("points");
    if !["x", "y", "width", "height"].iter().any(|key| s.has(key)) {
        s.problem("points", "is missing", "give points, or x, y, width and height");
        return None;
    }
    let [x, y, width, height] = rectangle(s, (Excluded(0.0), Included(1.0)))?;
    let (right, bottom) = ((x + width).min(1.0), (y + height).min(1.0));
    Some(Mask { points: [(x, y), (right, y), (right, bottom), (x, bottom)].map(|(x, y)| Point { x, y }).into() })
}

/// `x`, `y`, `width` and `height` within the picture.
fn rectangle(s: &mut Section<'_>, sides: impl RangeBounds<f64> + Clone) -> Option<[f64; 4]> {
    let edges = ["x", "y"].map(|key| s.required(key, number(0.0..1.0, None)));
    let sizes = ["width", "height"].map(|key| s.required(key, number(sides.clone(), None)));
    for (i, key) in ["width", "height"].into_iter().enumerate() {
        if let (Some(edge), Some(size)) = (edges[i], sizes[i])
            && edge + size > 1.0 + ROUNDING
        {
            s.problem(key, format!("{edge} + {size} reaches beyond the picture"), "at most 1 together");
        }
    }
    let ([x, y], [width, height]) = (edges, sizes);
    Some([x?, y?, width?, height?])
}

/// Points round the edge of something.
fn polygon<'a>() -> Kind<'a, Vec<Point>> {
    let (least, most) = POINTS;
    let allowed = format!("a list of {least} to {most} points [x, y] in order round the edge, x and y from 0 to 1");
    Kind::new(allowed, move |value| {
        let DeValue::Array(values) = value else {
            return Err(Fault::new(format!("is {}, not a list of points", found(value))));
        };
        if !(least..=most).contains(&values.len()) {
            return Err(Fault::new(format!("has {} points", values.len())));
        }
        let points: Vec<Point> = values
            .iter()
            .enumerate()
            .map(|(i, value)| {
                point(value.get_ref()).map_err(|f| Fault { message: format!("point {} {}", i + 1, f.message), ..f })
            })
            .collect::<Result<_, _>>()?;
        if let Some((a, b)) = crossing(&points) {
            return Err(Fault::with_remedy(
                format!("crosses itself: the edge from point {} crosses the one from point {}", a + 1, b + 1),
                "give the points in order round the edge, or write two masks",
            ));
        }
        if area(&points) < AREA_LEAST {
            return Err(Fault::with_remedy("encloses nothing", "give at least three corners of an area"));
        }
        Ok(points)
    })
}

fn point(value: &DeValue<'_>) -> Result<Point, Fault> {
    let DeValue::Array(pair) = value else {
        return Err(Fault::new(format!("is {}, not a pair [x, y]", found(value))));
    };
    let [x, y] = &pair[..] else {
        return Err(Fault::new(format!("has {} numbers, not two", pair.len())));
    };
    let (x, y) = (number(0.0..=1.0, None).read(x.get_ref()), number(0.0..=1.0, None).read(y.get_ref()));
    let side =
        |name: &str, f: Fault| Fault { message: format!("has a value for {name} that {}", said_of(&f.message)), ..f };
    Ok(Point { x: x.map_err(|f| side("x", f))?, y: y.map_err(|f| side("y", f))? })
}

/// "1.5 is too large" after "an x that": the verb comes first.
fn said_of(message: &str) -> String {
    match message.split_once(" is ") {
        Some((number, what)) => format!("is {what}: {number}"),
        None => message.to_owned(),
    }
}

/// The first two edges that cross, by the numbers of the points that they begin at. Edges that only touch do not.
fn crossing(points: &[Point]) -> Option<(usize, usize)> {
    let n = points.len();
    let edge = |i: usize| (points[i], points[(i + 1) % n]);
    let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    pairs.into_iter().find(|&(i, j)| {
        let ((a, b), (c, d)) = (edge(i), edge(j));
        side_of(a, b, c) * side_of(a, b, d) < 0.0 && side_of(c, d, a) * side_of(c, d, b) < 0.0
    })
}

/// Above or below 0 by the side of the line from `a` to `b` that `p` is on.
fn side_of(a: Point, b: Point, p: Point) -> f64 {
    (b.x - a.x) * (p.y - a.y) - (b.y - a.y) * (p.x - a.x)
}

/// Of a polygon whose edges do not cross.
fn area(points: &[Point]) -> f64 {
    let next = points.iter().cycle().skip(1);
    points.iter().zip(next).map(|(a, b)| a.x * b.y - b.x * a.y).sum::<f64>().abs() / 2.0
}
