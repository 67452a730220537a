"""Training on features of invented clips: it learns, is repeatable, stops early, and goes on where it stopped."""
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import clip

from vedette_train import crossval, examples, report, splits
from vedette_train.errors import KitError
from vedette_train.features import FeatureStore
from vedette_train.fit import fit
from vedette_train.windows import Sequence, segments


class Invented:
    """A store of features without video: Fighting has a larger first feature."""

    rule = {"encoder": "invented"}

    class videos:
        @staticmethod
        def of(path: Path) -> str:
            return path.name

    def __init__(self, recipe):
        self.recipe = recipe

    def plain(self, path: Path) -> Sequence:
        rng = np.random.default_rng(sum(map(ord, path.name)))
        x = rng.normal(size=(20, 6)).astype(np.float32)
        x[:, 0] += 2.0 * path.name.startswith("f")
        return Sequence(x, np.arange(20) * 125.0, np.arange(20) == 0)

    def prepare(self, clips, augment):
        """Everything is there."""

    def variants(self, c):
        return [self.plain(c.path)] * 2

    def segments(self, c, at_ms):
        return segments(at_ms, 125, 16, 4, c.span_ms, c.events_ms)


@pytest.fixture
def clips():
    return [clip(f"{'fn'[i % 2]}{i}", ("Fighting", "Normal")[i % 2], f"v{i // 3}") for i in range(60)]


def small(activity, kind: str, **training):
    return dataclasses.replace(activity, head=dataclasses.replace(activity.head, kind=kind, heads=2, project=16, state=8),
                               training=dataclasses.replace(activity.training, **{"epochs": 8, "batch": 8} | training))


@pytest.mark.parametrize("kind", ["logistic", "lstm_attention", "gru"])
def test_it_learns_out_of_fold_and_the_same_again(activity, clips, tmp_path, kind):
    if kind != "logistic":
        pytest.importorskip("torch")
    recipe = small(activity, kind, learning_rate=0.02)
    store = Invented(recipe)
    run = lambda work: crossval.run(recipe, clips, [], lambda _: store, splits.folds(clips, 4, 0), 0, tmp_path / work)[0]
    first, second = run("a"), run("b")
    assert {j.clip.name for j in first} == {c.name for c in clips}
    assert all((a.logits == b.logits).all() for a, b in zip(first, second)), "seeds decide everything"
    assert report.figures([first], recipe)["mean"]["roc_auc"] > 0.9


def test_a_head_that_is_there_is_not_fitted_again(activity, clips, tmp_path, monkeypatch):
    recipe = small(activity, "logistic")
    store = Invented(recipe)
    made = fit(recipe, clips, store, 1, tmp_path)
    monkeypatch.setattr("vedette_train.fit._one", lambda *_: pytest.fail("fitted again"))
    again = fit(recipe, clips, store, 1, tmp_path)
    assert (again.trained.heads[0]["weight"] == made.trained.heads[0]["weight"]).all() and (again.trained.mean == made.trained.mean).all()


def test_early_stopping_holds_sources_out(activity, clips, tmp_path):
    pytest.importorskip("torch")
    fitted = fit(small(activity, "attention", patience=2, learning_rate=0.05), clips, Invented(activity), 0, tmp_path)
    history = fitted.histories[0]
    assert {"loss", "accuracy", "watched_loss", "watched_accuracy"} == set(history)
    best = int(history["watched_loss"].argmin())
    assert len(history["loss"]) in (8, best + 3), "two epochs after the best, or at the end"


def test_a_class_without_clips_cannot_be_learnt(activity, clips, tmp_path):
    with pytest.raises(KitError, match="nothing to learn Fighting from"):
        fit(activity, [c for c in clips if c.label == "Normal"], Invented(activity), 0, tmp_path)


def test_rare_classes_weigh_more(activity):
    labels, sources = np.array([0, 1, 1, 1, 1, 1]), list("abbbbc")
    by = lambda how: examples.class_weights(dataclasses.replace(activity, training=dataclasses.replace(activity.training, class_weights=how)), labels, sources)
    assert by("none").tolist() == [1, 1]
    assert by("clips")[0] / by("clips")[1] == pytest.approx(5), "one clip against five"
    assert by("sources")[0] / by("sources")[1] == pytest.approx(2), "one source against two"


def test_an_epoch_sees_each_clip_once_or_each_source_equally(activity, clips):
    data = examples.of_clips(clips, Invented(activity), activity, augmented=True)
    rng = np.random.default_rng(0)
    assert sorted(data.clip[data.draw_epoch(rng, False)]) == list(range(len(clips)))
    uneven = dataclasses.replace(data, source=["one"] * 59 + ["two"])
    drawn = np.concatenate([uneven.clip[uneven.draw_epoch(rng, True)] for _ in range(50)])
    assert 0.4 < (drawn == 59).mean() < 0.6


class FakeAgent:
    """Frames without a decoder; counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def frames(self, video, out, sample_fps=None, view=False):
        from vedette_train.agent import Frames
        self.asked += 1
        if video.name == "broken.mp4":
            raise KitError("broken.mp4 cannot be read")
        out.mkdir()
        n = 20 * (2 if sample_fps else 1)
        rgb = np.random.default_rng(0).integers(0, 256, (n, 27, 48, 3), np.uint8)
        np.save(out / "view.npy", rgb)
        return Frames(rgb, np.arange(n) * 2500.0 / n, np.arange(n) == 0)

    def views(self, directories):
        return [np.load(d / "frame.npy") for d in directories]


class FakeEncoder:
    digest = "fake"

    def __call__(self, views):
        return views.reshape(len(views), -1)[:, :4].astype(np.float32)


def test_features_are_computed_once_and_failures_are_named(activity, tmp_path):
    videos = []
    for name in ("a.mp4", "broken.mp4", "b.mp4"):
        (tmp_path / name).write_text(name)
        videos.append(dataclasses.replace(clip(name), path=tmp_path / name))
    recipe = dataclasses.replace(activity, augmentation=dataclasses.replace(activity.augmentation, variants=2))
    agent = FakeAgent()
    store = FeatureStore(recipe, agent, FakeEncoder(), tmp_path / "cache")     # type: ignore[arg-type]
    with pytest.raises(KitError, match="1 videos could not be read; the others are done"):
        store.prepare(videos, augment=True)
    asked = agent.asked
    store.prepare([videos[0], videos[2]], augment=True)
    assert agent.asked == asked, "all of it was kept"
    assert store.plain(videos[0].path).features.shape == (20, 4) and len(store.variants(videos[0])) == 2
    brighter = dataclasses.replace(recipe, augmentation=dataclasses.replace(recipe.augmentation, brightness=(0.0, 50.0)))
    other = FeatureStore(brighter, agent, FakeEncoder(), tmp_path / "cache")   # type: ignore[arg-type]
    other.prepare([videos[0]], augment=True)
    assert agent.asked == asked + 1, "changed variants anew, the plain ones not"
