"""Thresholds, calibration and the area under the ROC curve."""

import json

import numpy as np
import pytest

from arinv import metrics
from arinv.apps.anomaly import Calibration, best_f1_threshold, calibrate, quantile_threshold
from arinv.errors import UserError


@pytest.mark.parametrize(("quantile", "expected"), [(0.5, 2.0), (0.75, 3.0), (0.76, 4.0), (1.0, 4.0), (0.01, 1.0)])
def test_quantile_threshold_accepts_at_least_its_share(quantile, expected):
    scores = np.array([3.0, 1.0, 4.0, 2.0])
    threshold = quantile_threshold(scores, quantile=quantile)
    assert threshold == expected and np.mean(scores <= threshold) >= quantile


@pytest.mark.parametrize("quantile", [0.07, 0.28, 0.55, 0.56, 0.57, 0.95])
def test_quantile_threshold_accepts_exactly_its_share_of_a_hundred(quantile):
    assert quantile_threshold(np.arange(1.0, 101.0), quantile=quantile) == round(100 * quantile)


def test_best_f1_threshold_by_hand():
    # above 2.5: two true positives of three, no false one (F1 0.8); above 1.5: three and one (F1 6/7)
    threshold, f1 = best_f1_threshold([1.0, 2.0, 2.0, 3.0, 4.0], [False, False, True, True, True])
    assert threshold == 1.5 and f1 == pytest.approx(6 / 7)
    threshold, f1 = best_f1_threshold([1.0, 2.0, 3.0], [True, False, True])
    assert threshold < 1.0 and f1 == pytest.approx(0.8)


def test_best_f1_threshold_is_better_than_all_others():
    rng = np.random.default_rng(0)
    for _ in range(30):
        scores, anomalous = rng.integers(0, 6, 12).astype(float), rng.random(12) < 0.4
        anomalous[:2] = True, False
        threshold, f1 = best_f1_threshold(scores, anomalous)

        def f1_above(t, scores=scores, anomalous=anomalous):
            hits = np.sum((scores > t) & anomalous)
            return 2 * hits / (np.sum(scores > t) + np.sum(anomalous))

        others = np.arange(-0.5, 6)
        assert f1 == pytest.approx(f1_above(threshold)) and f1 == pytest.approx(max(map(f1_above, others)))
        equally_good = [t for t in others if f1_above(t) > f1 - 1e-9]
        assert np.sum(scores > threshold) == min(np.sum(scores > t) for t in equally_good)


def test_calibrate_returns_shares_of_normal_scores():
    assert calibrate([0.0, 1.0, 2.5, 9.0], [1.0, 2.0, 3.0, 3.0]).tolist() == [0.0, 0.125, 0.5, 1.0]
    assert calibrate([3.0], [1.0, 2.0, 3.0, 3.0]).tolist() == [0.75]


def test_calibration_round_trips_through_json():
    rng = np.random.default_rng(0)
    scores, anomalous = rng.random(20).astype(np.float32), np.arange(20) >= 15
    for calibration in (Calibration.measure(scores, anomalous), Calibration.measure(scores[:15], anomalous[:15])):
        again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
        assert again == calibration and again.normal_scores == tuple(sorted(scores[:15].tolist()))
        assert again.threshold(quantile=0.8) == quantile_threshold(scores[:15], quantile=0.8)
    with pytest.raises(UserError, match="anomalous=FOLDER"):
        again.threshold(policy="best_f1")
    with pytest.raises(UserError, match="known: best_f1, quantile"):
        again.threshold(policy="mean")
    for quantile in (0.0, 1.5):
        with pytest.raises(UserError, match="quantile"):
            again.threshold(quantile=quantile)


@pytest.mark.parametrize("scores", [[], [1.0, np.nan], [[1.0]]])
def test_quantile_threshold_rejects_scores_that_are_not_finite(scores):
    with pytest.raises(UserError, match="finite scores"):
        quantile_threshold(scores)


def test_auroc_equals_the_share_of_ordered_pairs():
    rng = np.random.default_rng(0)
    scores, positives = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3
    wins = scores[positives][:, None] - scores[~positives][None, :]
    area = metrics.auroc(scores, positives)
    assert area == pytest.approx(np.mean((wins > 0) + 0.5 * (wins == 0)))
    assert metrics.auroc(np.exp(scores) - 7, positives) == pytest.approx(area)
    assert metrics.auroc(-scores, positives) == pytest.approx(1 - area)
    assert metrics.auroc(scores, ~positives) == pytest.approx(1 - area)
    order = rng.permutation(60)
    assert metrics.auroc(scores[order], positives[order]) == pytest.approx(area)
    assert metrics.auroc(np.zeros(60), positives) == 0.5


@pytest.mark.parametrize(
    ("scores", "positives", "shown"),
    [
        ([1.0, 2.0], [True, True], "all 2 are positive"),
        ([1.0, np.nan], [True, False], "1 of 2 scores are not finite"),
        ([1.0], [True, False], "one per example"),
        (["low", "high"], [True, False], "scores must be an array of numbers"),
        ([1.0, 2.0], [1, -1], "positives must be True or False"),
        ([1.0, 2.0], [1, np.nan], "positives must be True or False"),
    ],
)
def test_auroc_rejects_scores_without_a_rank(scores, positives, shown):
    with pytest.raises(UserError, match=shown):
        metrics.auroc(scores, positives)


@pytest.mark.parametrize("anomalous", ([-1, 0, 1], [np.nan, 0, 1], [2, 0, 1], ["False", "True", "False"]))
def test_best_f1_threshold_rejects_other_labels(anomalous):
    with pytest.raises(UserError, match="^anomalous must be "):
        best_f1_threshold([1.0, 2.0, 3.0], anomalous)


def test_calibrate_rejects_scores_without_a_rank():
    with pytest.raises(UserError, match="1 of 2 scores are NaN"):
        calibrate([np.nan, 1.0], [1.0, 2.0])
    assert calibrate([np.inf, -np.inf], [1.0, 2.0]).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("scores", [[0.1, 0.3, 0.1 + 0.2], [1e300, 1.6e308, 1.7e308], [-1.7e308, 0.0, 1.7e308]])
def test_best_f1_threshold_has_its_f1_for_neighboring_and_large_scores(scores):
    threshold, f1 = best_f1_threshold(scores, [0, 0, 1])
    assert f1 == 1.0 and (np.array(scores) > threshold).tolist() == [False, False, True]


@pytest.mark.parametrize("anomalous", [[0, 0, -1], [0, 0], [0, 0, 2]])
def test_calibration_rejects_padding_and_other_lengths(anomalous):
    with pytest.raises(UserError, match="anomalous must be"):
        Calibration.measure([1.0, 2.0, 3.0], anomalous)
