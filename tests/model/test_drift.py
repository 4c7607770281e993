"""Drift of a kind's scores: what is measured, how far the threshold follows, and what it never learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loggpt_stream.model.drift import (
    ALARMS_TO_BOUND,
    BOUND_MEDIANS,
    UNCONFIRMED,
    WINDOW_SESSIONS,
    DriftMonitor,
    EarlyMonitor,
)
from loggpt_stream.model.drift_mode import DriftMode

RATE = 0.05
THRESHOLD = 8.0
BOUND = 16.0


def normal(sessions: int, seed: int = 0) -> np.ndarray:
    """Heavy-tailed scores with a median of 4.3 nats and a .95 quantile of 8."""
    return 4.3 * np.exp(0.32 * np.random.default_rng(seed).standard_t(6, sessions))


NORMAL = tuple(np.sort(normal(400, seed=99)))


def monitor(mode: DriftMode = DriftMode.ADAPT, *, rate: float = RATE, bound: float | None = BOUND) -> DriftMonitor:
    return DriftMonitor(mode, THRESHOLD, rate, NORMAL, bound=bound)


def thresholds(watched: DriftMonitor, scores_N: Any) -> np.ndarray:
    return np.array([watched.see(float(score)) for score in scores_N])


def alarms(watched: DriftMonitor, scores_N: np.ndarray) -> np.ndarray:
    return scores_N > thresholds(watched, scores_N)


def test_off_keeps_the_threshold_and_measures_nothing() -> None:
    off = monitor(DriftMode.OFF)
    assert set(thresholds(off, 1.8 * normal(500))) == {THRESHOLD}
    assert off.state() == monitor(DriftMode.OFF).state()


def test_watch_keeps_the_threshold_and_measures_what_adapt_would_do() -> None:
    scores_N = 1.8 * normal(500)
    watch, adapt = monitor(DriftMode.WATCH), monitor()
    assert set(thresholds(watch, scores_N)) == {THRESHOLD}
    thresholds(adapt, scores_N)
    assert watch.adapted == adapt.adapted > THRESHOLD
    assert watch.mean_p_value == adapt.mean_p_value
    assert watch.alarm_rate > 3 * adapt.alarm_rate


def test_an_alarm_raises_and_a_quiet_session_lowers_by_shares_of_one_step() -> None:
    watched = monitor()
    step = (BOUND - THRESHOLD) / ALARMS_TO_BOUND
    raised = THRESHOLD + (1 - RATE) * step
    assert thresholds(watched, [12.0, 12.0, 3.0, 3.0]) == pytest.approx(
        [THRESHOLD, raised, raised + (1 - RATE) * step, raised + (1 - 2 * RATE) * step]
    )


def test_a_score_at_the_threshold_does_not_raise_it() -> None:
    watched = monitor()
    watched.see(THRESHOLD)
    assert watched.adapted == THRESHOLD
    assert watched.alarm_rate == 0.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.02, 0.05])
def test_after_a_moderate_upward_step_alarms_return_to_about_the_promised_rate(rate: float, seed: int) -> None:
    # The .95 quantile moves from 8 to 15 nats, close to the bound: part of the tail lies above it and has to alarm.
    scores_N = 15 / 8 * normal(2000, seed)
    bound = 20.0
    watched = alarms(monitor(DriftMode.WATCH, rate=rate, bound=bound), scores_N)
    adapted = alarms(monitor(rate=rate, bound=bound), scores_N)
    assert watched[200:].mean() > 0.35
    assert adapted[200:].mean() < rate + 0.03


def test_a_slow_drift_is_followed_all_the_way() -> None:
    scores_N = np.linspace(1, 1.8, 2000) * normal(2000)
    seen = alarms(monitor(bound=20.0), scores_N).reshape(4, 500).mean(axis=1)
    assert (seen < RATE + 0.025).all()


def test_normal_scores_alarm_no_more_than_promised_without_drift() -> None:
    scores_N = normal(4000)
    assert alarms(monitor(), scores_N).mean() <= RATE
    assert alarms(monitor(DriftMode.WATCH), scores_N).mean() < RATE + 0.01


def test_when_a_drift_ends_the_threshold_comes_back() -> None:
    watched = monitor()
    thresholds(watched, 1.8 * normal(500))
    assert watched.adapted > 12
    thresholds(watched, normal(400, seed=1))
    assert watched.adapted < 10


def test_the_threshold_never_falls_below_calibrations() -> None:
    watched = monitor()
    assert thresholds(watched, np.zeros(5000)).min() == THRESHOLD
    assert watched.adapted == THRESHOLD


def test_a_score_at_the_bound_teaches_and_one_above_it_does_not() -> None:
    at, above = monitor(), monitor()
    at.see(BOUND)
    above.see(float(np.nextafter(BOUND, np.inf)))
    assert at.adapted > THRESHOLD
    assert above.adapted == THRESHOLD
    assert above.mean_p_value == 0.5
    assert above.alarm_rate == above.above_bound_rate == 1.0


def test_failures_above_the_bound_leave_the_threshold_where_it_would_be_without_them() -> None:
    random = np.random.default_rng(5)
    scores_N = 1.5 * normal(1000)
    failed_M = random.random(1250) < 0.2
    mixed_M = np.full(1250, 40.0)
    mixed_M[~failed_M] = np.resize(scores_N, (~failed_M).sum())
    mixed, alone = monitor(), monitor()
    assert (thresholds(mixed, mixed_M)[~failed_M] == thresholds(alone, mixed_M[~failed_M])).all()
    assert mixed.mean_p_value == alone.mean_p_value


@pytest.mark.parametrize("failing", [0.5, 1.0])
def test_a_lasting_failure_above_the_bound_alarms_for_ever(failing: float) -> None:
    scores_N = normal(20_000)
    failed_N = np.random.default_rng(6).random(20_000) < failing
    scores_N[failed_N] = BOUND + 0.1
    watched = monitor()
    assert alarms(watched, scores_N)[failed_N].all()
    assert watched.above_bound_rate == pytest.approx(failing, abs=0.2)


def test_a_lasting_failure_between_threshold_and_bound_is_learned_but_never_beyond_the_bound() -> None:
    scores_N = normal(20_000)
    scores_N[::2] = 15.5
    watched = monitor()
    used_N = thresholds(watched, scores_N)
    assert used_N.max() <= BOUND
    assert (scores_N > used_N)[10_000::2].mean() < 0.2
    assert watched.see(BOUND + 0.01) < BOUND + 0.01


def test_the_bound_is_reached_and_never_passed_by_alarms_just_below_it() -> None:
    watched = monitor()
    used_N = thresholds(watched, np.full(1000, BOUND))
    assert used_N.max() == BOUND
    assert watched.at_bound


@given(st.lists(st.floats(0, BOUND), max_size=300), st.sampled_from([0.01, 0.05, 0.2]))
def test_below_the_bound_alarms_exceed_the_promised_number_by_no_more_than_the_alarms_to_the_bound(
    scores: list[float], rate: float
) -> None:
    watched = monitor(rate=rate)
    used_N = thresholds(watched, scores)
    sessions = int((np.maximum.accumulate(np.append(used_N, watched.adapted)[1:]) < BOUND).sum()) if scores else 0
    alarmed = (np.array(scores) > used_N)[:sessions].sum()
    assert alarmed <= rate * sessions + ALARMS_TO_BOUND + 1e-6


def test_it_says_when_a_drift_takes_it_to_its_bound() -> None:
    within, beyond = monitor(bound=20.0), monitor(bound=20.0)
    at_bound: dict[str, list[bool]] = {"within": [], "beyond": []}
    for score in normal(1000):
        within.see(1.3 * score)
        beyond.see(4 * score)
        at_bound["within"].append(within.at_bound)
        at_bound["beyond"].append(beyond.at_bound)
    assert not any(at_bound["within"])
    assert np.mean(at_bound["beyond"][100:]) > 0.5


def test_the_default_bound_is_a_multiple_of_the_median_normal_score() -> None:
    watched = monitor(bound=None)
    assert watched.bound == pytest.approx(BOUND_MEDIANS * np.median(NORMAL))
    assert watched.has_room


def test_a_threshold_that_stands_on_one_outlier_leaves_no_room_and_never_moves() -> None:
    few = (*np.sort(normal(37)), 35.0)
    watched = DriftMonitor(DriftMode.ADAPT, 35.01, RATE, few)
    assert not watched.has_room
    assert watched.bound == 35.01
    assert watched.at_bound
    assert set(thresholds(watched, 6 * normal(500))) == {35.01}
    assert watched.alarm_rate > 0.05


def test_the_alarm_rate_is_a_plain_share_at_first_and_then_forgets() -> None:
    watched = monitor(DriftMode.WATCH)
    thresholds(watched, [3.0, 12.0, 3.0, 40.0])
    assert watched.alarm_rate == pytest.approx(0.5)
    assert watched.above_bound_rate == pytest.approx(0.25)
    assert watched.sessions == 4
    thresholds(watched, np.full(10 * WINDOW_SESSIONS, 3.0))
    assert watched.alarm_rate < 0.001


def test_p_values_of_undrifted_scores_have_a_mean_of_one_half() -> None:
    watched = monitor()
    drifted = [watched.drifted for score in normal(3000) if watched.see(score)]
    assert np.mean(drifted) < 0.01
    assert watched.mean_p_value == pytest.approx(0.5, abs=0.08)


def test_a_calibration_of_few_sessions_that_happened_to_score_low_is_no_drift() -> None:
    drifted = 0
    for seed in range(60):
        few = DriftMonitor(DriftMode.WATCH, THRESHOLD, RATE, np.sort(normal(20, seed)).tolist(), bound=BOUND)
        thresholds(few, normal(100, seed=1000 + seed))
        drifted += few.drifted
    assert drifted <= 1


def test_sessions_that_all_read_alike_are_no_drift() -> None:
    watched = DriftMonitor(DriftMode.WATCH, 3.1, RATE, [3.0] * 30)
    thresholds(watched, [3.0001] * 300)
    assert watched.mean_p_value == pytest.approx(0.5)
    assert not watched.drifted


def test_failures_above_the_bound_are_no_drift_and_a_shift_of_normal_scores_is() -> None:
    failing, shifted = monitor(), monitor()
    for number, score in enumerate(normal(300)):
        failing.see(60.0 if number % 5 == 0 else score)
        shifted.see(1.4 * score)
    assert not failing.drifted
    assert shifted.drifted


def test_a_few_sessions_are_not_enough_to_call_it_drift() -> None:
    watched = DriftMonitor(DriftMode.WATCH, THRESHOLD, RATE, NORMAL[::40], bound=BOUND)
    thresholds(watched, [BOUND] * 3)
    assert watched.mean_p_value < 0.1
    assert not watched.drifted
    thresholds(watched, [BOUND] * 10)
    assert watched.drifted


def test_restored_from_json_in_mid_stream_it_goes_on_with_the_same_thresholds() -> None:
    scores_N = np.concatenate([normal(150), 1.8 * normal(300, seed=1), normal(150, seed=2)])
    scores_N[::7] = 50.0
    whole = monitor()
    expected_N = thresholds(whole, scores_N)
    first = monitor()
    used_N = [thresholds(first, scores_N[:333])]
    stored = orjson.dumps(first.state())
    second = DriftMonitor(DriftMode.ADAPT, THRESHOLD, RATE, NORMAL, bound=BOUND)
    second.resume(orjson.loads(stored))
    used_N.append(thresholds(second, scores_N[333:]))
    assert (np.concatenate(used_N) == expected_N).all()
    assert second.state() == whole.state()
    assert (second.alarm_rate, second.above_bound_rate) == (whole.alarm_rate, whole.above_bound_rate)
    assert (second.sessions, second.mean_p_value) == (whole.sessions, whole.mean_p_value)
    assert len(stored) < 250


def test_what_watch_learned_is_used_at_once_where_adapt_follows() -> None:
    watch = monitor(DriftMode.WATCH)
    thresholds(watch, 1.8 * normal(200))
    adapt = DriftMonitor(DriftMode.ADAPT, THRESHOLD, RATE, NORMAL, bound=BOUND)
    adapt.resume(watch.state())
    assert adapt.see(3.0) == watch.adapted > THRESHOLD


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"adapted": THRESHOLD - 0.1}, ValueError),
        ({"adapted": BOUND + 0.1}, ValueError),
        ({"adapted": float("nan")}, ValueError),
        ({"adapted": "9"}, TypeError),
        ({"sessions": -1}, ValueError),
        ({"sessions_in_bound": 1}, ValueError),
        ({"alarm_rate": 1.5}, ValueError),
        ({"above_bound_rate": -0.5}, ValueError),
        ({"mean_p_value": None}, TypeError),
    ],
)
def test_a_state_that_cannot_be_is_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        DriftMonitor(DriftMode.ADAPT, THRESHOLD, RATE, NORMAL, bound=BOUND).resume({**monitor().state(), **change})


def test_a_state_without_one_of_its_values_is_refused() -> None:
    for name in monitor().state():
        state = {key: value for key, value in monitor().state().items() if key != name}
        with pytest.raises(KeyError, match=name):
            DriftMonitor(DriftMode.ADAPT, THRESHOLD, RATE, NORMAL, bound=BOUND).resume(state)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        monitor(rate=rate)


@pytest.mark.parametrize("bound", [THRESHOLD - 1, float("inf"), float("nan")])
def test_a_bound_below_the_threshold_or_not_finite_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="bound"):
        monitor(bound=bound)


def test_no_normal_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="normal scores"):
        DriftMonitor(DriftMode.WATCH, THRESHOLD, RATE, ())


def early(mode: DriftMode = DriftMode.ADAPT, rate: float = RATE) -> EarlyMonitor:
    return EarlyMonitor(mode, 6.0, rate)


def early_alarms(watched: EarlyMonitor, scores_N: Any) -> np.ndarray:
    found = []
    for score in scores_N:
        found.append(score > watched.threshold)
        watched.see(float(score))
    return np.array(found)


def test_unconfirmed_early_alerts_come_back_to_the_promised_rate_though_all_score_alike() -> None:
    # A new usual line in one of six sessions: each scores the same, far above the threshold.
    scores_N = np.where(np.arange(1200) % 6 == 0, 30.8, 1.4)
    alarms_N = early_alarms(early(), scores_N)
    assert early_alarms(early(DriftMode.OFF), scores_N).mean() > 3 * RATE
    assert alarms_N.sum() == UNCONFIRMED
    assert alarms_N[:100].mean() == pytest.approx(RATE)


def test_as_many_unconfirmed_early_alerts_as_promised_move_nothing() -> None:
    watched = early()
    window = round(UNCONFIRMED / RATE)
    scores_N = np.where(np.arange(10 * window) % (window // (UNCONFIRMED - 1)) == 0, 30.8, 1.4)
    assert early_alarms(watched, scores_N).mean() <= RATE
    assert watched.threshold == 6.0
    assert not watched.raised


def test_an_early_threshold_comes_down_again_when_the_drift_has_passed_but_not_below_the_calibrated_one() -> None:
    watched = early()
    early_alarms(watched, [20.0] * UNCONFIRMED)
    assert watched.raised
    assert watched.threshold > 20.0
    early_alarms(watched, [1.0] * round(UNCONFIRMED / RATE))
    assert watched.threshold == 6.0
    assert watched.unconfirmed_rate == 0.0


def test_an_early_threshold_rests_at_the_conformal_quantile_of_recent_normal_sessions() -> None:
    watched = early()
    scores_N = 6.5 + normal(1000)
    alarms_N = early_alarms(watched, scores_N)
    assert alarms_N[200:].mean() == pytest.approx(RATE, abs=0.02)


@pytest.mark.parametrize("mode", [DriftMode.OFF, DriftMode.WATCH])
def test_only_adapting_moves_an_early_threshold(mode: DriftMode) -> None:
    watched = early(mode)
    assert early_alarms(watched, [30.0] * 50).all()
    assert watched.threshold == 6.0
    assert watched.raised == (mode is DriftMode.WATCH)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_an_early_rate_that_cannot_be_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        early(rate=rate)
