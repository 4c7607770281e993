"""Choosing a threshold from scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.curves import counts_at
from calibrate.threshold import best_f1_cut, candidate_cuts, cheapest_cut, conformal_cut

# A coarse grid makes ties common, odd floats make neighbours that have no number between them.
SCORE = st.one_of(
    st.integers(0, 8).map(float),
    st.floats(0, 1e6),
    st.sampled_from([1.0, np.nextafter(1.0, 2.0), np.nextafter(1.0, 0.0)]),
)
LABELLED = st.lists(st.tuples(SCORE, st.booleans()), min_size=1, max_size=30)


def f1_of(flagged: set[int], truth: list[bool]) -> float:
    tp = sum(truth[i] for i in flagged)
    return 2 * tp / (len(flagged) + sum(truth)) if len(flagged) + sum(truth) else 0.0


def every_upper_set(scores: list[float]) -> list[set[int]]:
    """Return what any threshold at all can flag."""
    cuts = [-1.0, *scores]
    return [{i for i, score in enumerate(scores) if score > cut} for cut in cuts]


@given(LABELLED)
def test_the_best_f1_cut_is_as_good_as_any_threshold(labelled: list[tuple[float, bool]]) -> None:
    scores, truth = [score for score, _ in labelled], [anomalous for _, anomalous in labelled]
    threshold = best_f1_cut(np.array(scores), np.array(truth))
    flagged = {i for i, score in enumerate(scores) if score > threshold}
    best = max(f1_of(each, truth) for each in every_upper_set(scores))
    assert f1_of(flagged, truth) == best
    # Of equally good ones it is the one that alarms least.
    assert len(flagged) == min(len(each) for each in every_upper_set(scores) if f1_of(each, truth) == best)


@given(LABELLED, st.floats(0, 100), st.floats(0.1, 100))
def test_the_cheapest_cut_costs_no_more_than_any_threshold(
    labelled: list[tuple[float, bool]], miss: float, false_alarm: float
) -> None:
    scores, truth = [score for score, _ in labelled], [anomalous for _, anomalous in labelled]

    def cost(flagged: set[int]) -> float:
        missed = sum(anomalous and i not in flagged for i, anomalous in enumerate(truth))
        return miss * missed + false_alarm * sum(not truth[i] for i in flagged)

    threshold = cheapest_cut(np.array(scores), np.array(truth), cost_miss=miss, cost_false_alarm=false_alarm)
    flagged = {i for i, score in enumerate(scores) if score > threshold}
    assert cost(flagged) == pytest.approx(min(cost(each) for each in every_upper_set(scores)))


def test_costs_move_the_threshold_the_way_they_should() -> None:
    scores, truth = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, True, False, True])
    assert cheapest_cut(scores, truth, cost_miss=10, cost_false_alarm=1) == 1.5
    assert cheapest_cut(scores, truth, cost_miss=1, cost_false_alarm=10) == 3.5
    assert cheapest_cut(scores, truth, cost_miss=0, cost_false_alarm=1) == 4.0


def test_a_cut_lies_in_the_middle_of_its_gap() -> None:
    assert best_f1_cut(np.array([1.0, 2.0, 7.0, 9.0]), np.array([False, False, True, True])) == 4.5


@given(st.lists(SCORE, min_size=1, max_size=20))
def test_the_candidates_make_every_possible_cut_once(scores: list[float]) -> None:
    scores_N = np.array(scores)
    cuts = candidate_cuts(scores_N)
    flagged = [int((scores_N > cut).sum()) for cut in cuts]
    assert flagged == sorted({len(each) for each in every_upper_set(scores)}, reverse=True)


def test_the_conformal_cut_is_the_stated_rank() -> None:
    scores = np.arange(1.0, 100.0)  # 99 of them: with rate 0.01 the 99th, although 100 * 0.99 is not exact in floats
    cut = conformal_cut(scores, 0.01)
    assert (cut.rank, cut.supported) == (99, True)
    assert 99.0 < cut.threshold < 99.02
    assert cut.rate == pytest.approx(0.01)
    cut = conformal_cut(scores, 0.1)
    assert cut.rank == 90
    assert 90.0 < cut.threshold < 90.02
    assert cut.rate == pytest.approx(0.1)


def test_too_few_sessions_for_a_rate_give_the_finest_they_support() -> None:
    cut = conformal_cut(np.arange(98.0), 0.01)
    assert not cut.supported
    assert cut.rate == 1 / 99
    assert 97.0 < cut.threshold < 97.02


def test_sessions_that_read_alike_are_all_on_one_side_of_the_conformal_cut_whatever_a_batch_adds() -> None:
    scores = np.array([*[3.0] * 60, *[8.0] * 30, *[40.0] * 10])
    cut = conformal_cut(scores, 0.2)
    noise = 1e-5 * np.linspace(-1, 1, 21)
    assert not (8.0 * (1 + noise) > cut.threshold).any()
    assert (cut.rank, cut.rate) == (90, 11 / 101)


@pytest.mark.parametrize(("sessions", "asked"), [(20, 0.1), (50, 0.05), (199, 0.01), (30, 0.01)])
def test_the_conformal_promise_holds_on_exchangeable_scores(sessions: int, asked: float) -> None:
    generator = np.random.default_rng(7)
    draws = 20_000
    alarms, promised = 0, 0.0
    for _ in range(draws):
        scores = generator.gamma(2.0, size=sessions + 1)
        cut = conformal_cut(scores[:-1], asked)
        alarms += int(scores[-1] > cut.threshold)
        promised = cut.rate
    spread = np.sqrt(promised * (1 - promised) / draws)
    # Not more than promised, and not less either: a threshold that never alarms would be no use.
    assert abs(alarms / draws - promised) < 4 * spread
    assert promised <= asked or not cut.supported


def test_a_session_exactly_at_the_threshold_is_not_flagged() -> None:
    counts = counts_at(np.array([1.0, 2.0]), np.array([False, True]), np.array([2.0]))
    assert (counts.tp_T[0], counts.fn_T[0]) == (0, 1)
