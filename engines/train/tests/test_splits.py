"""One source is never on both sides of a split."""
from collections import Counter

import pytest
from conftest import clip

from vedette_train import splits
from vedette_train.errors import KitError, LeakError


def many() -> list:
    """Of each source 1 to 9 clips, some of both classes."""
    return [clip(f"{s}-{k}", "Fighting" if (s + k) % 3 else "Normal", f"v{s}") for s in range(24) for k in range(1 + s % 9)]


@pytest.mark.parametrize("seed", range(5))
def test_folds_are_by_source_cover_everything_and_are_alike(seed):
    clips = many()
    made = splits.folds(clips, 5, seed)
    assert sorted(i for _, test in made for i in test) == list(range(len(clips)))
    for train, test in made:
        assert not {clips[i].source for i in train} & {clips[i].source for i in test}
        assert sorted(train + test) == list(range(len(clips)))
        share = Counter(clips[i].label for i in test)
        for label, total in Counter(c.label for c in clips).items():
            assert 0.1 < share[label] / total < 0.3
    assert made == splits.folds(clips, 5, seed) and made != splits.folds(clips, 5, seed + 100)


def test_a_holdout_is_a_fifth():
    train, test = splits.holdout(many(), 0.2, 0)
    assert 0.15 < len(test) / (len(train) + len(test)) < 0.25


def test_a_leak_is_refused():
    a, b = clip("a", source="v1"), clip("b", source="v1")
    with pytest.raises(LeakError, match="source v1 would be both trained with and judged by"):
        splits.refuse_leak([a, clip("c")], [b])
    with pytest.raises(LeakError, match="file /nowhere/a"):
        splits.refuse_leak([a], [clip("a", source="v2")])
    splits.refuse_leak([a, b], [clip("c")])


def test_a_data_sets_own_split_is_examined_too():
    own = [clip("a", source="v", split="train"), clip("b", source="w", split="test"), clip("c", source="w", split="test")]
    assert splits.own(own) == ([0], [1, 2])
    with pytest.raises(LeakError):
        splits.own([*own, clip("d", source="w", split="train")])
    with pytest.raises(KitError, match="no split of its own"):
        splits.own([clip("a")])


def test_too_few_sources_for_folds():
    with pytest.raises(KitError, match="5 folds need 5 sources and there are 2"):
        splits.folds([clip("a"), clip("b"), clip("c", source="b")], 5, 0)


def test_whatever_trains_refuses_a_leak(activity, tmp_path):
    from vedette_train import crossval
    from vedette_train.fit import fit
    clips = [clip("a", "Fighting", "v1"), clip("b", "Normal", "v1")]
    with pytest.raises(LeakError):
        fit(activity, clips[:1], None, 0, tmp_path, watch=clips[1:])          # type: ignore[arg-type]
    with pytest.raises(LeakError):
        crossval.run(activity, clips, [], None, [([0], [1])], 0, tmp_path)    # type: ignore[arg-type]
    with pytest.raises(LeakError):
        crossval.run(activity, clips[:1] + [clip("c")], [clip("h", source="c")], None, [([0], [1])], 0, tmp_path)   # type: ignore[arg-type]
