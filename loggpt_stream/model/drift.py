"""Thresholds while logs drift: what a kind's recent scores say of its promised false-alarm rate, and keeping it.

The threshold is moved as by adaptive conformal inference (Gibbs & Candès 2021, arXiv 2106.00170) in the form that moves
the threshold itself (the quantile tracker of Angelopoulos, Candès & Tibshirani 2023, arXiv 2307.16895): up by
(1 - rate) steps at an alarm, down by `rate` steps at a quiet session, so that it rests where that share of sessions
alarms. Moving the level that is looked up among calibration's scores, as the first paper does, needs many of them: of
a few dozen, the two highest may lie 25 nats apart.

(Early thresholds, of sessions that are still open, have a better teacher: see `EarlyMonitor`.)

Two walls keep it from learning what it should report. It never falls below the calibrated threshold, and a score above
the bound moves nothing, so that sessions that fail far above it alarm for as long as they fail, however many they are.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.model.statistics import slack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Times the median of calibration's normal scores. Their .95 quantile is about twice their median, so that they may
# nearly double before the bound stands in the way. The median and not the threshold is multiplied: with few sessions
# the threshold may stand on one outlier, and a multiple of that lies among the failures.
BOUND_MEDIANS: Final = 4.0

# So many alarms with no quiet session between them carry the threshold to the bound, which is also how many alarms
# beyond the promised rate a drift may cost. Fewer follow faster and make the threshold less steady.
ALARMS_TO_BOUND: Final = 8

# Sessions: the mean age of what the measures rest on. A rate of .05 is then known to about .015.
WINDOW_SESSIONS: Final = 100

# Standard errors that the mean p-value may lie below one half before it counts as drift.
STANDARD_ERRORS: Final = 3.0


# Unconfirmed early alerts in the window that holds the promised share of them. Fewer follow faster, and overshoot more.
UNCONFIRMED: Final = 5


class DriftMonitor:
    """Follows the scores of one session kind on one input partition, in the order in which its sessions closed.

    It reads no clock and draws no random number: the same scores in the same order give the same thresholds.

    mode: under `off` nothing is measured; `watch` measures and also moves `adapted`, by which nothing is judged.
    calibrated_threshold: in nats; the threshold never falls below it. rate: promised share of normal sessions above the
    threshold, between 0 and 1. normal_scores_N: of calibration's normal sessions, ascending, in nats, at least one.
    bound: the highest threshold that adaptation may reach, in nats; by default BOUND_MEDIANS times the median of
    `normal_scores_N`, or the calibrated threshold where that is higher: then there is no room to adapt (`has_room`).

    Under `adapt`, of any N sessions in a row that score at or below the bound, at most rate * N + ALARMS_TO_BOUND
    alarm, as long as the threshold does not reach the bound: they cannot move it further than there is room.

    Raises `ValueError` where a value cannot be: a rate outside (0, 1), no normal scores, a threshold or bound that is
    not finite, or a bound below the threshold.
    """

    def __init__(
        self,
        mode: DriftMode,
        calibrated_threshold: float,
        rate: float,
        normal_scores_N: Sequence[float],
        *,
        bound: float | None = None,
    ) -> None:
        if not 0.0 < rate < 1.0:
            raise ValueError(f"a false-alarm rate lies between 0 and 1, not at {rate:g}")
        if not len(normal_scores_N):
            raise ValueError("drift is measured against normal scores, and there are none")
        self.mode = mode
        self.calibrated_threshold = calibrated_threshold
        self.rate = rate
        self._normal_scores_N = np.asarray(normal_scores_N, dtype=np.float64)
        if bound is None:
            bound = max(calibrated_threshold, BOUND_MEDIANS * float(np.median(self._normal_scores_N)))
        if not (math.isfinite(calibrated_threshold) and math.isfinite(bound) and bound >= calibrated_threshold):
            raise ValueError(f"the bound {bound:g} is not a number at or above the threshold {calibrated_threshold:g}")
        self.bound = bound
        self._step = (bound - calibrated_threshold) / ALARMS_TO_BOUND
        self._adapted = calibrated_threshold
        self._sessions = 0
        self._sessions_in_bound = 0
        self._alarm_rate = 0.0
        self._above_bound_rate = 0.0
        self._mean_p_value = 0.5

    @property
    def threshold(self) -> float:
        """Return the threshold by which the next session is judged, in nats."""
        return self._adapted if self.mode is DriftMode.ADAPT else self.calibrated_threshold

    @property
    def adapted(self) -> float:
        """Return the adapted threshold, in nats. `adapt` judges by it; under `watch` it tells what `adapt` would do."""
        return self._adapted

    @property
    def has_room(self) -> bool:
        """Return whether the bound is above the calibrated threshold, without which adaptation can do nothing."""
        return self.bound > self.calibrated_threshold

    @property
    def at_bound(self) -> bool:
        """Return whether one more alarm takes the adapted threshold to the bound.

        The promised rate is then no longer kept, and only a new calibration helps. At the bound itself no score can
        raise it, so that under a drift too strong it keeps falling a little and coming back: what watches this should
        allow for moments of False. Always True where there is no room (`has_room`).
        """
        return self._adapted + self._step >= self.bound

    @property
    def sessions(self) -> int:
        """Return how many sessions were seen."""
        return self._sessions

    @property
    def alarm_rate(self) -> float:
        """Return the share of recent sessions above the threshold by which they were judged, failures among them."""
        return self._alarm_rate

    @property
    def above_bound_rate(self) -> float:
        """Return the share of recent sessions above the bound: failures, or normal ones that drifted too far.

        What is left of `alarm_rate` is what adaptation brings down to the promised rate.
        """
        return self._above_bound_rate

    @property
    def mean_p_value(self) -> float:
        """Return the mean conformal p-value of recent sessions at or below the bound.

        It is one half, on average, while they score like calibration's normal sessions, and less where they score
        higher: one minus the Mann-Whitney probability of superiority. Failures above the bound take no part.
        """
        return self._mean_p_value

    @property
    def drifted(self) -> bool:
        """Return whether the mean p-value is lower than chance explains: normal scores as a whole have moved up.

        Two means of uniform values are compared, that of recent sessions and that which calibration's sessions rank
        them by; each of K values has a variance of 1/(12 K). Sessions are taken as independent: where they resemble
        their neighbours, chance explains more than is granted here.
        """
        recent = min(max(self._sessions_in_bound, 1), WINDOW_SESSIONS)
        error = math.sqrt((1 / recent + 1 / len(self._normal_scores_N)) / 12)
        return self._mean_p_value < 0.5 - STANDARD_ERRORS * error

    def see(self, score: float) -> float:
        """Return the threshold by which a session with this score (nats) is judged, then learn from the score.

        A session is anomalous where its score is greater than the threshold.
        """
        threshold = self.threshold
        if self.mode is DriftMode.OFF:
            return threshold
        self._sessions += 1
        in_bound = score <= self.bound
        self._alarm_rate = _moved(self._alarm_rate, float(score > threshold), self._sessions)
        self._above_bound_rate = _moved(self._above_bound_rate, float(not in_bound), self._sessions)
        if in_bound:
            self._sessions_in_bound += 1
            self._mean_p_value = _moved(self._mean_p_value, self._p_value(score), self._sessions_in_bound)
            moved = self._adapted + self._step * (float(score > self._adapted) - self.rate)
            self._adapted = min(max(moved, self.calibrated_threshold), self.bound)
        return threshold

    def state(self) -> dict[str, float]:
        """Return all that was learned, as JSON-ready values. It means nothing under another calibration."""
        return {
            "adapted": self._adapted,
            "sessions": self._sessions,
            "sessions_in_bound": self._sessions_in_bound,
            "alarm_rate": self._alarm_rate,
            "above_bound_rate": self._above_bound_rate,
            "mean_p_value": self._mean_p_value,
        }

    def resume(self, state: Mapping[str, float]) -> None:
        """Go on from what `state` gave.

        Raises `KeyError`, `TypeError` or `ValueError` where something is missing or odd, such as a threshold outside
        the walls, which another calibration's state may have; then nothing has changed.
        """
        adapted = _between(state, "adapted", self.calibrated_threshold, self.bound)
        sessions = int(_between(state, "sessions", 0, 2**53))
        in_bound = int(_between(state, "sessions_in_bound", 0, sessions))
        rates = [_between(state, name, 0, 1) for name in ("alarm_rate", "above_bound_rate", "mean_p_value")]
        self._adapted, self._sessions, self._sessions_in_bound = adapted, sessions, in_bound
        self._alarm_rate, self._above_bound_rate, self._mean_p_value = rates

    def _p_value(self, score: float) -> float:
        # The mid-p-value (Lancaster 1961): what scores alike counts by half, so that its mean is one half even where
        # many sessions read the same. KindCalibration.p_value counts it in full, as a test of one session has to.
        near = slack(score)
        below, upto = np.searchsorted(self._normal_scores_N, [score - near, score + near])
        sessions = len(self._normal_scores_N)
        return (sessions - (int(below) + int(upto)) / 2 + 0.5) / (sessions + 1)


class EarlyMonitor:
    """Keeps early alerts that the close does not confirm at the promised rate, for one kind on one input partition.

    The final verdict knows all that an early one does and more. So an early threshold learns from the early scores of
    sessions that were normal in the end: it is the higher of the calibrated one and number UNCONFIRMED from the top
    among the last UNCONFIRMED / rate of them, the conformal quantile of a sliding window. No failure that the final
    verdict sees can raise it, however long it lasts.

    calibrated_threshold: in nats. rate: promised share of normal sessions above the threshold at any look, in (0, 1).
    `watch` measures only, `off` not even that. Raises `ValueError` for a rate outside (0, 1).
    """

    def __init__(self, mode: DriftMode, calibrated_threshold: float, rate: float) -> None:
        if not 0.0 < rate < 1.0:
            raise ValueError(f"a false-alarm rate lies between 0 and 1, not at {rate:g}")
        self.mode = mode
        self.calibrated_threshold = calibrated_threshold
        self.rate = rate
        self._window = math.ceil(UNCONFIRMED / rate)
        # Number and score of those above the calibrated threshold; no other can matter.
        self._above: deque[tuple[int, float]] = deque()
        self._sessions = 0
        self._adapted = calibrated_threshold

    @property
    def threshold(self) -> float:
        """Return the early threshold in use, in nats."""
        return self._adapted if self.mode is DriftMode.ADAPT else self.calibrated_threshold

    @property
    def unconfirmed_rate(self) -> float:
        """Return the share of recent normal sessions whose early score was above the calibrated threshold."""
        return len(self._above) / max(1, min(self._sessions, self._window))

    @property
    def raised(self) -> bool:
        """Tell whether enough early alerts were not confirmed to raise the threshold (`watch`: it would be raised)."""
        return self._adapted > self.calibrated_threshold

    def see(self, score: float) -> None:
        """Learn from the early score (nats) of a whole session that was normal in the end."""
        if self.mode is DriftMode.OFF:
            return
        self._sessions += 1
        if score > self.calibrated_threshold:
            self._above.append((self._sessions, score))
        while self._above and self._above[0][0] <= self._sessions - self._window:
            self._above.popleft()
        highest = heapq.nlargest(UNCONFIRMED, (score for _, score in self._above))
        self._adapted = self.calibrated_threshold
        if len(highest) == UNCONFIRMED:
            self._adapted = highest[-1] + slack(highest[-1])

    def state(self) -> dict[str, Any]:
        """Return all that was learned, as JSON-ready values. It means nothing under another calibration."""
        return {"sessions": self._sessions, "adapted": self._adapted, "above": [list(each) for each in self._above]}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave. Raises `KeyError`, `TypeError` or `ValueError` where it is odd."""
        sessions = int(_between(state, "sessions", 0, 2**53))
        adapted = _between(state, "adapted", self.calibrated_threshold, math.inf)
        above = deque((int(number), float(score)) for number, score in state["above"])
        self._sessions, self._adapted, self._above = sessions, adapted, above


def _moved(mean: float, value: float, sessions: int) -> float:
    """Return the mean with one more value, number `sessions`: a plain mean first, then one that forgets."""
    return mean + (value - mean) / min(sessions, WINDOW_SESSIONS)


def _between(state: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """Return a value of `state`. Raises `ValueError` where it is not between `low` and `high`."""
    value: float = state[name]
    if not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, which is not between {low:g} and {high:g}")
    return value
