//! `[[camera.masks]]`, as an installer may write them.

use super::*;

fn masks(text: &str) -> Vec<Mask> {
    Site::new().parse(&with(text)).unwrap_or_else(|p| panic!("{text}: {p:?}")).cameras.remove(0).masks
}

fn corners(mask: &Mask) -> Vec<(f64, f64)> {
    mask.points.iter().map(|p| (p.x, p.y)).collect()
}

#[test]
fn rectangles_and_polygons_are_read_inline_and_as_sections() {
    let inline =
        masks("masks = [{ x = 0.5, y = 0, width = 0.25, height = 1 }, { points = [[0, 0], [1, 0], [0.5, 1.0]] }]");
    assert_eq!(corners(&inline[0]), [(0.5, 0.0), (0.75, 0.0), (0.75, 1.0), (0.5, 1.0)]);
    assert_eq!(corners(&inline[1]), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0)]);
    let sections = "[[camera.masks]]\nx = 0.5\ny = 0\nwidth = 0.25\nheight = 1\n\
                    [[camera.masks]]\npoints = [[0, 0], [1, 0], [0.5, 1.0]]\n";
    assert_eq!(masks(sections), inline);
    assert_eq!(masks(""), []);
}

#[test]
fn shapes_that_hide_nothing_sure_are_refused() {
    let site = Site::new();
    let zigzag = |points: usize| {
        let teeth = (1..points).map(|i| format!("[{}, {}]", i as f64 / 100.0, if i % 2 == 0 { 0.5 } else { 0.9 }));
        format!("masks = [{{ points = [[0, 1], {}] }}]", teeth.collect::<Vec<_>>().join(", "))
    };
    assert_eq!(masks(&zigzag(64))[0].points.len(), 64);
    let many = |n: usize| format!("masks = [{}]", ["{ x = 0, y = 0, width = 1, height = 0.5 }"].repeat(n).join(", "));
    assert_eq!(masks(&many(32)).len(), 32);
    for (text, key, message, remedy) in [
        (many(33), "masks", "there are 33", "at most 32 on one camera"),
        (zigzag(65), "masks[#1].points", "has 65 points", "3 to 64 points"),
        (
            "masks = [{ points = [[0, 0], [1, 1]] }]".into(),
            "masks[#1].points",
            "has 2 points",
            "in order round the edge",
        ),
        ("masks = [{ points = 1 }]".into(), "masks[#1].points", "is a number, not a list of points", "[x, y]"),
        ("masks = [{ points = [0, 0, 1, 1] }]".into(), "masks[#1].points", "point 1 is a number, not a pair", "[x, y]"),
        (
            "masks = [{ points = [[0, 0], [1, 0, 0], [1, 1]] }]".into(),
            "masks[#1].points",
            "point 2 has 3 numbers",
            "[x, y]",
        ),
        (
            "masks = [{ points = [[0, 0], [1, 0], [0.5, 1.01]] }]".into(),
            "masks[#1].points",
            "point 3 has a value for y that is too large: 1.01",
            "from 0 to 1",
        ),
        (
            "masks = [{ points = [[0, 0], [1, 1], [1, 0], [0, 1]] }]".into(),
            "masks[#1].points",
            "crosses itself: the edge from point 1 crosses the one from point 3",
            "two masks",
        ),
        (
            "masks = [{ points = [[0, 0], [0.5, 0.5], [1, 1]] }]".into(),
            "masks[#1].points",
            "encloses nothing",
            "three corners",
        ),
        (
            "masks = [{ x = 0.5, y = 0, width = 0.6, height = 1 }]".into(),
            "masks[#1].width",
            "beyond the picture",
            "at most 1",
        ),
        ("masks = [{ x = 0.5, y = 0, width = 0, height = 1 }]".into(), "masks[#1].width", "0 is too small", "above 0"),
        ("masks = [{ x = 0.5, y = 0, width = 0.1 }]".into(), "masks[#1].height", "is missing", "above 0"),
        (
            "masks = [{ x = 0.5, points = [[0, 0], [1, 0], [0.5, 1.0]] }]".into(),
            "masks[#1].x",
            "points say another shape",
            "one or the other",
        ),
        ("masks = [{}]".into(), "masks[#1].points", "is missing", "give points, or x, y, width and height"),
        ("masks = 1".into(), "masks", "not a list of sections", "[[camera.masks]]"),
    ] {
        let problem = site.problem(&with(&text));
        assert_eq!((problem.key, problem.line), (format!("camera[gate].{key}"), Some(REST)), "{text}");
        assert!(problem.message.contains(message), "{text}: {}", problem.message);
        assert!(problem.remedy.contains(remedy), "{text}: {}", problem.remedy);
    }
}
