"""What operators are told of drift: gauges for each partition and kind, and a warning when something changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.logs import get_logger
from loggpt_stream.model.drift import WINDOW_SESSIONS
from loggpt_stream.model.drift_mode import DriftMode

if TYPE_CHECKING:
    from loggpt_stream.daemon.metrics import Metrics
    from loggpt_stream.model.calibration import Judge
    from loggpt_stream.model.drift import DriftMonitor, EarlyMonitor

log = get_logger(__name__)

_REMEDY: Final = "calibrate again on newer sessions, or train again"


class DriftReport:
    """Keeps the gauges, and warns once when a kind's scores drift or its threshold reaches its bound.

    It warns again only after WINDOW_SESSIONS further sessions: a measure at its limit flickers.
    """

    def __init__(self, metrics: Metrics) -> None:
        """Start with nothing told."""
        self._metrics = metrics
        self._told_at: dict[tuple[int, str, str], int] = {}

    def observe(self, partition: int, judge: Judge) -> None:
        """Bring the gauges of one partition up to date, and warn of what is new."""
        for kind, monitor in judge.monitors.items():
            if monitor.mode is DriftMode.OFF or not monitor.sessions:
                continue
            labels = (str(partition), kind)
            self._metrics.threshold.labels(*labels).set(monitor.threshold)
            self._metrics.alarm_rate.labels(*labels).set(monitor.alarm_rate)
            self._metrics.mean_p_value.labels(*labels).set(monitor.mean_p_value)
            at_bound = monitor.has_room and monitor.at_bound
            self._metrics.at_bound.labels(*labels).set(at_bound)
            if at_bound:
                self._warn("threshold_at_bound", partition, kind, monitor)
            if monitor.drifted:
                self._warn("scores_drifted", partition, kind, monitor)
        for kind, early in judge.early_monitors.items():
            if early.mode is not DriftMode.OFF:
                self._metrics.early_threshold.labels(str(partition), kind).set(early.threshold)
                self._metrics.unconfirmed_rate.labels(str(partition), kind).set(early.unconfirmed_rate)
                self._warn_early(partition, kind, early)

    def _warn_early(self, partition: int, kind: str, early: EarlyMonitor) -> None:
        """Warn when unconfirmed early alerts raise the threshold; again only after it had come down."""
        key = (partition, kind, "early_threshold_raised")
        if not early.raised:
            self._told_at.pop(key, None)
        elif key not in self._told_at:
            self._told_at[key] = 0
            _say("early_threshold_raised", partition, kind, early, unconfirmed_rate=round(early.unconfirmed_rate, 4))

    def _warn(self, event: str, partition: int, kind: str, monitor: DriftMonitor) -> None:
        key = (partition, kind, event)
        told_at = self._told_at.get(key)
        if told_at is None or monitor.sessions >= told_at + WINDOW_SESSIONS:
            _say(
                event,
                partition,
                kind,
                monitor,
                bound=round(monitor.bound, 3),
                alarm_rate=round(monitor.alarm_rate, 4),
                mean_p_value=round(monitor.mean_p_value, 3),
            )
        self._told_at[key] = monitor.sessions


def _say(event: str, partition: int, kind: str, monitor: DriftMonitor | EarlyMonitor, **measured: float) -> None:
    log.warning(
        event,
        partition=partition,
        kind=kind,
        mode=str(monitor.mode),
        threshold=round(monitor.threshold, 3),
        calibrated_threshold=round(monitor.calibrated_threshold, 3),
        promised_rate=monitor.rate,
        **measured,
        remedy=_REMEDY,
    )
