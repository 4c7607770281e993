"""Counts, areas and intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from calibrate.curves import (
    counts_at,
    detection_metrics,
    most_shared_score,
    rate_interval,
    sweep_thresholds,
    weighted_figures,
)

SESSIONS = st.lists(st.tuples(st.integers(0, 6).map(float), st.booleans(), st.integers(0, 3)), min_size=2, max_size=25)


@given(SESSIONS, st.floats(-1, 7))
def test_counts_are_those_of_counting(sessions: list[tuple[float, bool, int]], threshold: float) -> None:
    scores, truth, _ = zip(*sessions, strict=True)
    counts = counts_at(np.array(scores), np.array(truth), np.array([threshold]))
    flagged = [score > threshold for score in scores]
    pairs = list(zip(flagged, truth, strict=True))
    assert counts.tp_T[0] == pairs.count((True, True))
    assert counts.fp_T[0] == pairs.count((True, False))
    assert counts.fn_T[0] == pairs.count((False, True))
    assert counts.tn_T[0] == pairs.count((False, False))


@given(SESSIONS)
def test_weighted_areas_are_those_of_sklearn(sessions: list[tuple[float, bool, int]]) -> None:
    scores_N, truth_N, weights_N = (np.array(each) for each in zip(*sessions, strict=True))
    assume(weights_N[truth_N].sum() > 0)
    assume(weights_N[~truth_N].sum() > 0)
    figures = weighted_figures(scores_N, truth_N, 3.0, np.array([weights_N, np.ones(len(sessions))], dtype=float))
    for row, weights in enumerate([weights_N, np.ones(len(sessions))]):
        assert figures["auc_roc"][row] == pytest.approx(roc_auc_score(truth_N, scores_N, sample_weight=weights))
        assert figures["auc_pr"][row] == pytest.approx(
            average_precision_score(truth_N, scores_N, sample_weight=weights)
        )


def test_a_hand_computed_example() -> None:
    metrics = detection_metrics(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0, 0, 1, 0, 1], dtype=bool), 2.5)
    assert (metrics.tp, metrics.fp, metrics.fn, metrics.tn) == (2, 1, 0, 2)
    assert [metrics.precision, metrics.recall, metrics.f1] == pytest.approx([2 / 3, 1.0, 0.8])
    assert metrics.false_alarm_rate == pytest.approx(1 / 3)
    assert metrics.auc_roc == pytest.approx(5 / 6)
    assert metrics.auc_pr == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_intervals_are_the_same_for_one_seed_and_contain_the_figure() -> None:
    generator = np.random.default_rng(3)
    truth = generator.random(200) < 0.2
    scores = generator.normal(size=200) + 1.5 * truth
    one = detection_metrics(scores, truth, 1.0)
    assert one == detection_metrics(scores, truth, 1.0)
    assert one != detection_metrics(scores, truth, 1.0, seed=1)
    assert set(one.intervals) == {"auc_roc", "auc_pr", "precision", "recall", "f1", "false_alarm_rate"}
    for name, (low, high) in one.intervals.items():
        assert low < getattr(one, name) < high


def test_intervals_widen_where_sessions_of_a_group_go_together() -> None:
    generator = np.random.default_rng(5)
    of_group = np.repeat(np.arange(30), 10)
    truth = of_group < 8
    # Each group shares its luck: 10 sessions of one say little more than one session.
    scores = (generator.normal(size=30) + 1.2 * (np.arange(30) < 8))[of_group]
    alone = detection_metrics(scores, truth, 1.0).intervals["auc_roc"]
    together = detection_metrics(scores, truth, 1.0, of_group).intervals["auc_roc"]
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_one_class_has_rates_but_no_areas() -> None:
    metrics = detection_metrics(np.array([1.0, 3.0]), np.array([False, False]), 2.0)
    assert (metrics.auc_roc, metrics.auc_pr, metrics.intervals) == (None, None, {})
    assert (metrics.fp, metrics.tn) == (1, 1)


def test_no_sessions_is_an_error() -> None:
    with pytest.raises(ValueError, match="no sessions"):
        detection_metrics(np.array([]), np.array([], dtype=bool), 1.0)


def test_the_interval_of_a_rate_is_clopper_and_pearsons() -> None:
    low, high = rate_interval(0, 100) or (math.nan, math.nan)
    assert low == 0.0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert rate_interval(0, 0) is None


def test_the_sweep_has_the_round_thresholds_and_every_distinct_score() -> None:
    thresholds = sweep_thresholds(np.array([0.25, 3.0, 3.0, 77.5]))
    assert {round(t, 1) for t in np.arange(1.0, 20.05, 0.1)} | {0.25, 77.5} == set(thresholds.tolist())
    assert list(thresholds) == sorted(thresholds)


def test_sessions_that_read_alike_count_once_in_a_shared_score() -> None:
    scores = np.array([5.0, 5.0, 5.0, 5.000001, 7.0])
    shared = most_shared_score(scores, ["a", "a", "b", "c", "d"])
    assert (shared.sharing, shared.distinct, shared.distinct_scores) == (3, 4, 2)
    assert shared.score == 5.0
    assert shared.examples == (0, 2)


def test_small_scores_are_not_taken_for_one() -> None:
    shared = most_shared_score(np.array([1e-9, 2e-9, 3e-9, 1.0]), ["a", "b", "c", "d"])
    assert (shared.sharing, shared.distinct_scores) == (1, 4)
