"""Figures against numbers worked out by hand and against scikit-learn."""
import numpy as np
import pytest

from vedette_train import calibration, metrics
from vedette_train.crossval import Judged
from vedette_train.model import softmax
from vedette_train.package import agrees

TWO = ("Fighting", "Normal")


def by_hand() -> dict:
    # Fighting: .9 right, .4 wrong. Normal: .6 wrong, .2 and .1 right. The case of the agent's own test.
    p = np.array([0.9, 0.4, 0.6, 0.2, 0.1])
    return metrics.table(TWO, np.array([0, 0, 1, 1, 1]), np.stack([p, 1 - p], 1), list("abcde"))


def test_a_table_worked_out_by_hand():
    t = by_hand()
    assert (t["accuracy"], t["specificity"]) == (0.6, 2 / 3)
    assert t["roc_auc"] == pytest.approx(5 / 6)
    assert t["per_class"]["Fighting"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2, "roc_auc": pytest.approx(5 / 6)}
    assert t["confusion"] == {"Fighting": {"Fighting": 1, "Normal": 1}, "Normal": {"Fighting": 1, "Normal": 2}}
    assert t["macro"]["recall"] == pytest.approx((0.5 + 2 / 3) / 2) and t["weighted"]["recall"] == pytest.approx(t["accuracy"])


def test_the_table_is_scikit_learns():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    names = ("Abuse", "Arson", "Normal", "Robbery")
    truth, p = rng.integers(0, 4, 300), softmax(rng.normal(size=(300, 4)).round(1))
    t = metrics.table(names, truth, p, [str(i % 20) for i in range(300)])
    report = sk.classification_report(truth, p.argmax(1), target_names=names, output_dict=True, zero_division=0)
    for name in names:
        for mine, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert t["per_class"][name][mine] == pytest.approx(report[name][theirs])
        assert t["per_class"][name]["roc_auc"] == pytest.approx(sk.roc_auc_score(truth == names.index(name), p[:, names.index(name)]))
    assert t["macro"]["f1"] == pytest.approx(report["macro avg"]["f1-score"])
    assert t["weighted"]["precision"] == pytest.approx(report["weighted avg"]["precision"])
    assert t["roc_auc"] == pytest.approx(sk.roc_auc_score(truth != 2, 1 - p[:, 2])), "ties included"


def test_one_sided_sets_have_no_curve():
    t = metrics.table(TWO, np.array([0, 0]), np.array([[0.9, 0.1], [0.8, 0.2]]), ["a", "b"])
    assert t["roc_auc"] is None and t["specificity"] is None and t["per_class"]["Normal"]["f1"] == 0


def test_intervals_resample_sources_not_clips():
    truth = np.arange(40) % 2
    p = np.where((np.arange(40) < 20) == (truth == 0), 0.2, 0.8)
    both = np.stack([p, 1 - p], 1)
    width = lambda sources: np.diff(metrics.table(TWO, truth, both, sources)["interval95"]["accuracy"])[0]
    assert width([str(i // 20) for i in range(40)]) > 2 * width([str(i) for i in range(40)])


def test_where_two_tables_differ_is_said():
    a, b = by_hand(), by_hand()
    assert agrees(a, b) == []
    b["per_class"]["Fighting"]["support"], b["roc_auc"] = 3, None
    assert [d.split(":")[0] for d in agrees(a, b)] == ["per_class.Fighting.support", "roc_auc"]


def test_a_temperature_is_found_again():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20_000, 3))
    truth = np.array([rng.choice(3, p=q) for q in softmax(logits)])
    assert calibration.fit_temperature(logits * 2.5, truth) == pytest.approx(2.5, rel=0.05)
    assert calibration.expected_calibration_error(softmax(logits), truth) < 0.02 < calibration.expected_calibration_error(softmax(2.5 * logits), truth)


def test_calibration_error_worked_out_by_hand():
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.65, 0.35]])
    # At .95 half are right: off by .45, two of three clips; at .65 all: off by .35, one of three.
    assert calibration.expected_calibration_error(p, np.array([0, 1, 0])) == pytest.approx((2 * 0.45 + 0.35) / 3)


def test_calibration_is_judged_on_other_folds_than_it_was_fitted_on(activity):
    from conftest import clip
    rng = np.random.default_rng(2)
    judged = []
    for i in range(400):
        z = rng.normal(0, 1.5)
        label = "Fighting" if rng.random() < 1 / (1 + np.exp(-z)) else "Normal"
        judged.append(Judged(clip(str(i), label), i % 5, np.array([[3 * z, 0.0]]), np.zeros((1, 2))))
    found = calibration.report([judged], activity)
    assert found["temperature"] == pytest.approx(3, rel=0.25) and found["ece_after"] < found["ece_before"]
    assert calibration.report([[j for j in judged if j.fold == 0]], activity)["ece_after"] is None


def test_a_clips_word_is_its_most_alarming_window():
    from conftest import clip
    logits = np.array([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0]])
    assert Judged(clip("a"), 0, logits, np.zeros((3, 2))).best(1).tolist() == [2.0, 0.0]
