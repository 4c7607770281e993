"""Choosing a threshold from scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import genpareto

from calibrate.curves import counts_at, expected_counts
from calibrate.threshold import (
    best_f1_cut,
    candidate_cuts,
    cheapest_cut,
    conformal_cut,
    guaranteed_rate,
    robust_cut,
    score_spread,
    tail_cut,
)

pytestmark = pytest.mark.slow  # it draws thousands of samples

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


def draw(generator: np.random.Generator, normal: int, anomalous: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores of two kinds that overlap a little, and which are anomalous."""
    scores_N = np.exp(np.concatenate([generator.normal(1.5, 0.6, normal), generator.normal(3.5, 0.6, anomalous)]))
    return scores_N, np.arange(normal + anomalous) >= normal


@pytest.mark.parametrize("cost_miss", [None, 10.0])
def test_from_few_sessions_the_expected_best_serves_later_ones_better_than_the_best_of_the_sample(
    cost_miss: float | None,
) -> None:
    generator = np.random.default_rng(3)
    later = draw(generator, 4000, 1000)
    worth: dict[str, list[float]] = {"sample": [], "expected": []}
    for _ in range(300):
        few = draw(generator, 60, 15)
        for name, found in worth.items():
            spread = score_spread(*few) if name == "expected" else 0.0
            if cost_miss is None:
                found.append(float(counts_at(*later, np.array([best_f1_cut(*few, spread=spread)])).f1[0]))
            else:
                cut = cheapest_cut(*few, cost_miss=cost_miss, cost_false_alarm=1.0, spread=spread)
                counts = counts_at(*later, np.array([cut]))
                found.append(-float(cost_miss * counts.fn_T[0] + counts.fp_T[0]))
    gain = np.array(worth["expected"]) - np.array(worth["sample"])
    assert gain.mean() > 3 * gain.std() / np.sqrt(len(gain))


def test_expected_counts_of_hardly_spread_scores_are_the_counts() -> None:
    scores_N, truth_N = draw(np.random.default_rng(1), 50, 20)
    cuts = candidate_cuts(scores_N)[1:-1]
    counts, expected = counts_at(scores_N, truth_N, cuts), expected_counts(scores_N, truth_N, cuts, 1e-9)
    assert expected.tp_T == pytest.approx(counts.tp_T)
    assert expected.fp_T == pytest.approx(counts.fp_T)
    assert expected.fn_T == pytest.approx(counts.fn_T)
    assert expected.tn_T == pytest.approx(counts.tn_T)


def test_where_nothing_pays_the_expected_cut_misses_nothing_or_flags_nothing() -> None:
    scores_N, truth_N = draw(np.random.default_rng(1), 50, 20)
    assert cheapest_cut(scores_N, truth_N, cost_miss=0, cost_false_alarm=1, spread=0.4) > scores_N.max()
    assert cheapest_cut(scores_N, truth_N, cost_miss=1, cost_false_alarm=0, spread=0.4) < scores_N[truth_N].min()
    apart = np.array([0.0, 1e6]), np.array([False, True])
    assert 0.0 < best_f1_cut(*apart, spread=0.4) < 1e6


def test_scores_stand_for_others_no_farther_than_normal_sessions_are_apart() -> None:
    normal, truth_N = np.expm1([2.0, 2.2, 2.4, 9.0]), np.array([False, False, False, True])
    assert score_spread(normal, truth_N) == pytest.approx(np.std([2.0, 2.2, 2.4]))
    assert score_spread(np.expm1([1.0, 9.0, 9.5]), np.array([False, False, True])) == 0.4
    assert score_spread(np.array([3.0, 3.0, 9.0]), np.array([False, False, True])) == 0.0


def test_many_sessions_speak_for_themselves() -> None:
    few, many = draw(np.random.default_rng(1), 90, 10), draw(np.random.default_rng(1), 90_000, 10_000)
    assert score_spread(*many) == pytest.approx(score_spread(*few) / 1000**0.2, rel=0.1)


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


@pytest.mark.parametrize("contamination", [0.0, 0.1])
@pytest.mark.parametrize(("sessions", "asked"), [(40, 0.05), (40, 0.03), (200, 0.02)])
def test_the_rate_of_a_calibration_lies_in_its_interval_in_95_of_100_cases(
    sessions: int, asked: float, contamination: float
) -> None:
    generator = np.random.default_rng(11)
    inside, widths = [], []
    for _ in range(3000):
        scores = generator.exponential(3.0, size=sessions)
        cut = robust_cut(scores, asked, contamination) if contamination else conformal_cut(scores, asked)
        low, high = cut.rate_interval
        inside.append(low <= np.exp(-cut.threshold / 3.0) <= high)
        widths.append(high - low)
        assert 0 <= low < cut.rate < high < 1
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    # More sessions know it better.
    assert np.mean(widths) < (0.07 if sessions == 200 else 0.2)


def test_a_modelled_tail_promises_no_more_than_the_highest_score_of_the_sample_does() -> None:
    generator = np.random.default_rng(12)
    rates = []
    for _ in range(2000):
        cut = tail_cut(generator.exponential(3.0, size=30), 0.001)
        assert cut.rate_interval[0] == 0.0
        rates.append(np.exp(-cut.threshold / 3.0) <= cut.rate_interval[1])
    assert np.mean(rates) >= 0.97


def exponential(sessions: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).exponential(3.0, size=sessions) + 10.0


def test_the_robust_cut_is_met_by_exponential_scores() -> None:
    # With infinitely many scores the tail is exact: 10 + 3 ln(1 / rate).
    cut = robust_cut(exponential(200_000), 0.01)
    assert cut.threshold == pytest.approx(10 + 3 * np.log(100), rel=0.01)
    assert (cut.rate, cut.supported) == (0.01, True)
    assert cut.rank == (exponential(200_000) <= cut.threshold).sum()


@pytest.mark.parametrize(("sessions", "asked"), [(100, 0.05), (200, 0.01), (50, 0.1)])
def test_the_promised_rate_of_the_robust_cut_holds_on_exponential_scores(sessions: int, asked: float) -> None:
    generator = np.random.default_rng(7)
    cuts = [robust_cut(generator.exponential(3.0, size=sessions) + 10.0, asked).threshold for _ in range(2_000)]
    seen = float(np.exp(-(np.array(cuts) - 10) / 3).mean())  # the share of later scores above each threshold
    # It is a model with estimated scale: near what it promises, somewhat above with few sessions.
    assert 0.9 * asked < seen < 1.5 * asked


def test_the_robust_cut_ignores_how_high_the_highest_scores_are() -> None:
    scores = np.sort(exponential(200))
    near, far, infinite = scores.copy(), scores.copy(), scores.copy()
    near[-20:] += 5.0
    far[-20:] += 1e6
    infinite[-20:] = np.inf
    assert robust_cut(near, 0.01).threshold == robust_cut(far, 0.01).threshold == robust_cut(infinite, 0.01).threshold
    # The ranks do not: a tenth of failures is all that a conformal threshold sees.
    assert conformal_cut(far, 0.01).threshold > 1e6


def test_failures_within_the_stated_contamination_move_the_robust_cut_little_and_are_above_it() -> None:
    clean = exponential(1_000)
    failures = np.random.default_rng(1).normal(80.0, 5.0, size=60)
    before = robust_cut(clean, 0.01).threshold
    after = robust_cut(np.concatenate([clean[:940], failures]), 0.01)
    assert before < after.threshold < before + 0.5 * (before - 10.0)
    assert (failures > after.threshold).all()
    assert guaranteed_rate(clean, after.threshold) < 0.012


def test_a_stricter_rate_gives_a_higher_robust_cut_and_none_below_where_the_tail_begins() -> None:
    scores = exponential(300)
    thresholds = [robust_cut(scores, rate).threshold for rate in (0.9, 0.5, 0.1, 0.01, 0.001)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == thresholds[1] == pytest.approx(np.quantile(scores, 0.7), abs=0.01)
    # Each further factor of ten costs as much as the one before, and a little for what so few scores do not know.
    assert 1.0 < (thresholds[4] - thresholds[3]) / (thresholds[3] - thresholds[2]) < 1.1


def test_a_robust_cut_is_no_model_where_no_score_tells_how_far_the_tail_reaches() -> None:
    cut = robust_cut(np.array([3.0] * 90 + [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0]), 0.01)
    assert not cut.supported
    assert not robust_cut(np.array([3.0] * 20), 0.01).supported


@given(st.lists(SCORE, min_size=10, max_size=40), st.floats(0.001, 0.5), st.floats(0.01, 0.49))
def test_a_robust_cut_is_finite_not_below_where_the_tail_begins_and_counts_what_is_below_it(
    scores: list[float], rate: float, contamination: float
) -> None:
    scores_N = np.array(scores)
    cut = robust_cut(scores_N, rate, contamination)
    assert np.isfinite(cut.threshold)
    assert cut.threshold >= np.quantile(scores_N, min(0.7, 1 - 2 * contamination)) - 1e-9
    assert cut.rank == (scores_N <= cut.threshold).sum()
    assert (cut.rate, cut.sessions) == (rate, len(scores))


def test_what_a_threshold_guarantees_counts_one_more_alarm() -> None:
    scores = np.arange(1.0, 100.0)
    assert guaranteed_rate(scores, 98.5) == 2 / 100
    assert guaranteed_rate(scores, 99.0) == 1 / 100
    assert guaranteed_rate(scores, 0.0) == 1.0
    for asked in (0.01, 0.1, 0.5):
        cut = conformal_cut(scores, asked)
        assert guaranteed_rate(scores, cut.threshold) == pytest.approx(cut.rate)


@pytest.mark.parametrize("shape", [0.0, 0.2, 0.4])
@pytest.mark.parametrize("rate", [1e-3, 1e-4])
def test_the_tail_cut_is_the_quantile_of_a_generalised_pareto_tail(shape: float, rate: float) -> None:
    tail = genpareto(shape, scale=2.0)
    draws = [tail_cut(tail.rvs(5_000, random_state=seed), rate).threshold for seed in range(20)]
    # The highest score is a bound from below: where 5,000 sessions support the rate it stands in for the model.
    assert np.median(draws) == pytest.approx(tail.isf(rate) if rate < 1 / 5_000 else np.median(draws), rel=0.15)
    assert min(draws) > tail.isf(10 * rate)


@pytest.mark.parametrize(("shape", "taken_for"), [(0.25, 0.25), (-0.4, 0.0), (0.9, 0.5)])
def test_the_tail_cut_agrees_with_scipy_on_the_excesses_and_keeps_between_exponential_and_barely_finite_variance(
    shape: float, taken_for: float
) -> None:
    # Excesses at the even quantiles of a tail, so that its moments are known: the highest tenth of 20,000.
    excess = genpareto.isf((np.arange(2_000) + 0.5) / 2_000, shape, scale=2.0)
    scores = np.concatenate([np.full(18_000, 50.0), 50.0 + excess])
    rate = 1e-6
    cut = tail_cut(scores, rate)
    scale = excess.mean() * (1 - taken_for)  # which the mean of a tail of that shape has
    expected = 50 + genpareto.isf(rate / 0.1, taken_for, scale=scale)
    assert cut.threshold == pytest.approx(expected, rel=0.12)
    assert (cut.rate, cut.rank, cut.supported) == (rate, 20_000, False)


def test_a_tail_cut_is_never_below_the_highest_score_and_a_finer_rate_is_higher() -> None:
    for seed in range(20):
        scores = exponential(60, seed)
        cuts = [tail_cut(scores, rate).threshold for rate in (0.05, 0.01, 0.001, 0.0001)]
        assert cuts == sorted(cuts)
        assert cuts[0] > scores.max()
        assert cuts[2] < cuts[3]


@given(st.lists(SCORE, min_size=2, max_size=40), st.floats(1e-6, 0.02))
def test_a_tail_cut_of_any_scores_is_finite_and_above_them(scores: list[float], rate: float) -> None:
    cut = tail_cut(np.array(scores), rate)
    assert np.isfinite(cut.threshold)
    assert cut.threshold > max(scores)


def test_a_session_exactly_at_the_threshold_is_not_flagged() -> None:
    counts = counts_at(np.array([1.0, 2.0]), np.array([False, True]), np.array([2.0]))
    assert (counts.tp_T[0], counts.fn_T[0]) == (0, 1)


@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_the_rate_of_a_robust_cut_holds_on_average_over_samples_of_forty_sessions(rate: float) -> None:
    generator = np.random.default_rng(4)
    thresholds = [robust_cut(generator.exponential(size=40), rate).threshold for _ in range(2000)]
    assert np.mean(np.exp(-np.array(thresholds))) == pytest.approx(rate, rel=0.15)
