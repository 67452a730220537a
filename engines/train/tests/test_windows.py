"""Windows by the agent's rule, what is trained on of long videos, changed frames, and counting alarms."""
import numpy as np

from vedette_train import augment, quiet
from vedette_train.agent import Frames
from vedette_train.windows import Sequence, indices, segments


def test_windows_do_not_cross_gaps():
    restarted = np.zeros(12, bool)
    restarted[[0, 5]] = True
    assert indices(restarted, 4, 2).tolist() == [[0, 1, 2, 3], [5, 6, 7, 8], [7, 8, 9, 10]]
    assert indices(restarted, 4, 1)[:, 0].tolist() == [0, 1, 5, 6, 7, 8]


def test_a_video_too_short_is_padded_with_its_last_frame_after_the_last_gap():
    assert indices(np.array([True, False]), 4, 1).tolist() == [[0, 1, 1, 1]]
    assert indices(np.array([True, False, True]), 4, 1).tolist() == [[2, 2, 2, 2]]


def test_a_part_starts_anew_where_something_was_left_out():
    s = Sequence(np.arange(6.0)[:, None], np.arange(6) * 125.0, np.array([True, False, False, False, False, False]))
    part = s.part(np.array([False, True, True, False, True, True]))
    assert part.restarted.tolist() == [True, False, True, False]
    assert s.during((120.0, 380.0)).features[:, 0].tolist() == [1, 2, 3]
    assert s.during((130.0, 140.0)).features[:, 0].tolist() == [1], "never nothing"


def test_what_is_trained_on_of_a_video():
    short, long = np.arange(17) * 125.0, np.arange(800) * 125.0
    assert segments(short, 125, 16, 8, None, ()) == [(0.0, 2000.0)]
    spread = segments(long, 125, 16, 8, None, ())
    assert len(spread) == 8 and all(e - s == 2000 for s, e in spread)
    assert spread[0][0] < 10_000 and spread[-1][1] > 90_000, "all over the video"
    inside = segments(long, 125, 16, 8, None, ((30_000.0, 40_000.0), (70_000.0, 71_000.0)))
    assert all(30_000 <= s and e <= 40_000 for s, e in inside[:-1]) and inside[-1] == (69_500.0, 71_500.0), "events, a short one with its surroundings"
    assert segments(long, 125, 16, 8, (10_000.0, 12_000.0), ()) == [(10_000.0, 12_000.0)]


def frames(n: int, step_ms: float) -> Frames:
    rgb = np.random.default_rng(0).integers(0, 256, (n, 36, 64, 3), np.uint8)
    return Frames(rgb, np.arange(n) * step_ms, np.arange(n) == 0)


def test_frames_are_taken_as_a_tap_would():
    rows, at = augment.retimed(np.arange(20) * 62.5, 0, 1000, 1.0, 125)
    assert rows.tolist() == [0, 2, 4, 6, 8, 10, 12, 14, 16] and at[1] == 125
    rows, at = augment.retimed(np.arange(20) * 62.5, 0, 1000, 1.5, 125)
    assert len(rows) == 6 and np.allclose(np.diff(at), 125), "faster: fewer frames at the same distance"
    slow, _ = augment.retimed(np.arange(20) * 125.0, 0, 1000, 0.4, 125)
    assert len(set(slow.tolist())) == len(slow), "no picture twice"


def test_a_change_that_changes_nothing():
    change = augment.Change(False, 1.0, 0.0, 0.0, np.arange(256, dtype=np.uint8), 1.0, 0.0, 0.0, 0.0)
    f = frames(3, 62.5)
    rng = np.random.default_rng(0)
    assert (augment.changed(f.rgb, change, rng) == f.rgb).all()
    flipped = augment.Change(True, 1.0, 0.0, 0.0, np.arange(256, dtype=np.uint8), 1.0, 0.0, 0.0, 0.0)
    assert (augment.changed(f.rgb, flipped, rng) == f.rgb[:, :, ::-1]).all()
    blocky = augment.Change(False, 1.0, 0.0, 0.0, np.arange(256, dtype=np.uint8), 1.0, 0.0, 1.0, 0.0)
    assert np.ptp(augment.changed(f.rgb, blocky, rng)[0, :8, :8, 0]) == 0


def test_a_variant_is_its_seeds_and_marks_its_warm_up(activity):
    f = frames(200, 62.5)
    make = lambda seed: augment.sequence(f, [(5000.0, 7000.0), (9000.0, 11000.0)], 125, 8, activity.augmentation, [seed])
    (a, own), (b, _), (c, _) = make(1), make(1), make(2)
    assert (a.rgb == b.rgb).all() and (a.rgb.shape != c.rgb.shape or (a.rgb != c.rgb).any())
    assert a.rgb.shape[1:] == f.rgb.shape[1:] and a.restarted.sum() == 2 and not own[0]
    gaps = np.diff(a.at_ms)
    assert (gaps > 0).all() and (gaps > 2.5 * 125).sum() == 1, "the segments do not touch"


def test_alarms_that_an_operator_would_hear():
    times = np.array([[0, 2], [1, 3], [20, 22], [21, 23], [40, 42]], float) * 1000
    above = np.array([True, True, True, False, True])
    assert quiet.episodes(times, above, 5_000) == 3 and quiet.episodes(times, above, 17_500) == 2
    assert quiet.episodes(times, np.zeros(5, bool), 5_000) == 0


def test_the_delay_of_a_detection(activity):
    from conftest import clip
    from vedette_train.crossval import Judged
    times = np.array([[0, 2000], [1000, 3000], [2000, 4000], [3000, 5000]], float)
    logits = np.array([[9.0, 0], [0, 9], [9, 0], [9, 0]])
    seen = Judged(clip("a", "Fighting", events_ms=((2500.0, 4500.0),)), 0, logits, times)
    missed = Judged(clip("b", "Fighting", events_ms=((1000.0, 2000.0),)), 0, np.array([[0.0, 9]] * 4), times)
    found = quiet.detection([seen, missed], activity, 1.0)
    assert found == {"events": 2, "seen": 1, "delay_s": {"median": 1.5, "90%": 1.5}}
    assert quiet.detection([Judged(clip("c"), 0, logits, times)], activity, 1.0) is None
