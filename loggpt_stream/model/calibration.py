"""What calibration decided, and how it judges a scored session. Choosing it is the calibrate package's work."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from enum import unique
from typing import TYPE_CHECKING, Any, Self

import orjson

from loggpt_stream.lines.names import WireName
from loggpt_stream.model.drift import DriftMonitor, EarlyMonitor
from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.model.statistics import LENGTH, AnyScale, scales_from_json, scales_to_json, slack, surprises

if TYPE_CHECKING:
    from collections.abc import Mapping


@unique
class Unjudged(WireName):
    """Why a session gets no verdict."""

    LATE = "late"  # its lines came after the session that they belong to had closed
    OUTDATED = "outdated"  # its lines were masked by rules that are no longer in use
    KIND_NOT_CALIBRATED = "kind_not_calibrated"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a session was judged. Nobody else compares a score with a threshold.

    combination: which statistics decided. score, threshold: in nats (None where the session was not judged).
    surprises: what each statistic adds to the score, in nats. p_value: conformal p-value, the share of calibration's
    normal sessions (this one counted in) that score at least as high. unjudged: why it was not judged, else None.
    """

    unjudged: Unjudged | None = None
    combination: str = ""
    score: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    surprises: Mapping[str, float] = field(default_factory=dict)

    @property
    def anomalous(self) -> bool:
        """Tell whether the session is an anomaly: it was judged, and its score is greater than the threshold."""
        return self.score is not None and self.threshold is not None and self.score > self.threshold

    @property
    def outcome(self) -> str:
        """Return the verdict in a word, for counting: `anomalous`, `normal`, or why the session was not judged."""
        return "anomalous" if self.anomalous else self.unjudged or "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCalibration:
    """A score, the sum of the surprises of some statistics, and the threshold above which it is anomalous.

    threshold: of the score, in nats. basis: how it was found (`labels_f1`, `labels_cost`, `robust_tail`, `conformal`,
    `tail_model`). false_alarm_rate: share of normal sessions expected above it. scales: of normal sessions, one for
    each statistic. normal_scores: ascending scores of the normal calibration sessions.
    """

    threshold: float
    basis: str
    false_alarm_rate: float
    scales: Mapping[str, AnyScale]
    normal_scores: tuple[float, ...]

    def surprises(self, statistics: Mapping[str, float]) -> dict[str, float]:
        """Return what each statistic of a session adds to its score, in nats."""
        return surprises(statistics, self.scales)

    def score(self, statistics: Mapping[str, float]) -> float:
        """Return the score of a session with these statistics, in nats."""
        return math.fsum(self.surprises(statistics).values())

    def p_value(self, score: float) -> float:
        """Return the conformal p-value of `score` (Vovk et al., Algorithmic Learning in a Random World, 2005)."""
        below = bisect_left(self.normal_scores, score - slack(score))
        return (1 + len(self.normal_scores) - below) / (1 + len(self.normal_scores))

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON-ready values."""
        return {
            "threshold": self.threshold,
            "basis": self.basis,
            "false_alarm_rate": self.false_alarm_rate,
            "scales": scales_to_json(self.scales),
            "normal_scores": list(self.normal_scores),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave. Raises `KeyError` or `TypeError` where something is missing or odd."""
        return cls(**cls._fields(values))

    @classmethod
    def _fields(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "threshold": values["threshold"],
            "basis": values["basis"],
            "false_alarm_rate": values["false_alarm_rate"],
            "scales": scales_from_json(values["scales"]),
            "normal_scores": tuple(values["normal_scores"]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyCalibration(ScoreCalibration):
    """How sessions of one kind are judged while they are open, by the statistics `EARLY`, which never fall.

    It was calibrated on whole normal sessions, and at no look is the score of a session higher than when the session is
    whole. So at most the share `false_alarm_rate` of normal sessions is above `threshold` at any of its looks, however
    many: looking often adds no false alarm.
    """

    def judge(self, statistics: Mapping[str, float]) -> Verdict:
        """Judge a session by its lines so far.

        The p-value holds at all looks together: a normal session has one of at most p, at any look, with a probability
        of at most p.
        """
        score = self.score(statistics)
        return Verdict(
            combination="early",
            score=score,
            threshold=self.threshold,
            p_value=self.p_value(score),
            surprises=self.surprises(statistics),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KindCalibration(ScoreCalibration):
    """Calibration of one session kind.

    combination: name of the statistics that decide. false_alarm_interval: where the share of later normal sessions that
    alarm lies in 95 of 100 calibrations on as many sessions, as long as these are like those; None where that is not
    known. anomalous_sessions: how many labelled anomalies took part. early: how its sessions are judged while they are
    open; None where they are not. length_factors: (least lines, factor), ascending, where normal sessions of some
    length are more surprising than others: what the surprises of all of that length are multiplied by. () where
    sessions of all lengths count alike.
    """

    combination: str
    false_alarm_interval: tuple[float, float] | None = None
    anomalous_sessions: int = 0
    early: EarlyCalibration | None = None
    length_factors: tuple[tuple[int, float], ...] = ()

    def surprises(self, statistics: Mapping[str, float]) -> dict[str, float]:
        """Return what each statistic of a session adds to its score, in nats, by the session's length."""
        factor = self._length_factor(statistics)
        return {name: factor * nats for name, nats in ScoreCalibration.surprises(self, statistics).items()}

    def drift_monitor(self, mode: DriftMode) -> DriftMonitor:
        """Return a monitor of this kind's threshold, for one stream of its sessions."""
        return DriftMonitor(mode, self.threshold, self.false_alarm_rate, self.normal_scores)

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON-ready values."""
        values = {
            **ScoreCalibration.to_json(self),
            "combination": self.combination,
            "anomalous_sessions": self.anomalous_sessions,
            "early": self.early.to_json() if self.early else None,
        }
        if self.false_alarm_interval:  # else left out, so that older calibrations keep their id
            values["false_alarm_interval"] = list(self.false_alarm_interval)
        if self.length_factors:  # else left out, so that calibrations made before there were any keep their id
            values["length_factors"] = [list(each) for each in self.length_factors]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave. Raises `KeyError` or `TypeError` where something is missing or odd."""
        interval = values.get("false_alarm_interval")
        return cls(
            **cls._fields(values),
            combination=values["combination"],
            false_alarm_interval=(float(interval[0]), float(interval[1])) if interval else None,
            anomalous_sessions=values["anomalous_sessions"],
            # Calibrated before there were early alerts: sessions are judged when they close.
            early=EarlyCalibration.from_json(values["early"]) if values.get("early") else None,
            length_factors=tuple((int(least), float(factor)) for least, factor in values.get("length_factors", ())),
        )

    def _length_factor(self, statistics: Mapping[str, float]) -> float:
        factor = 1.0
        for least, each in self.length_factors:
            if statistics[LENGTH] >= least:
                factor = each
        return factor


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of a bundle: one entry for each session kind that can be judged."""

    kinds: dict[str, KindCalibration]

    @property
    def id(self) -> str:
        """Return 16 hex digits that name this calibration's content."""
        return hashlib.sha256(orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def uses(self, statistic: str) -> bool:
        """Tell whether a kind is judged by this statistic."""
        return any(statistic in each.scales for each in self.kinds.values())

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON-ready values."""
        return {str(kind): each.to_json() for kind, each in sorted(self.kinds.items())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Calibration:
        """Return what `to_json` gave. Raises `KeyError` or `TypeError` where something is missing or odd."""
        return cls({kind: KindCalibration.from_json(each) for kind, each in values.items()})


class Judge:
    """Judges the sessions of one input partition, in order of their close, and follows the drift of their scores."""

    def __init__(self, calibration: Calibration, drift: DriftMode = DriftMode.OFF) -> None:
        """Begin at the calibrated thresholds."""
        self._calibration = calibration.id
        self._kinds = calibration.kinds
        self.monitors = {kind: each.drift_monitor(drift) for kind, each in calibration.kinds.items()}
        self.early_monitors = {
            kind: EarlyMonitor(drift, each.early.threshold, each.early.false_alarm_rate)
            for kind, each in calibration.kinds.items()
            if each.early
        }

    def state(self) -> dict[str, Any]:
        """Return what drift did to the thresholds, as JSON-ready values."""
        return {
            "calibration": self._calibration,
            "kinds": {kind: monitor.state() for kind, monitor in self.monitors.items()},
            "early": {kind: monitor.state() for kind, monitor in self.early_monitors.items()},
        }

    def resume(self, state: Mapping[str, Any]) -> bool:
        """Go on from what `state` gave. Returns False where that is of another calibration, or malformed.

        After False this judge is half changed: make a new one.
        """
        if state.get("calibration") != self._calibration:
            return False
        try:
            for kind, monitor in self.monitors.items():
                monitor.resume(state["kinds"][kind])
            for kind, early in self.early_monitors.items():
                early.resume(state["early"][kind])
        except (KeyError, TypeError, ValueError):
            return False
        return True

    def early(self, kind: str) -> EarlyCalibration | None:
        """Return how open sessions of this kind are judged now, after what drift did; None where they are not."""
        calibrated = self._kinds.get(kind)
        if calibrated is None or calibrated.early is None:
            return None
        return replace(calibrated.early, threshold=self.early_monitors[kind].threshold)

    def judge(
        self, kind: str, statistics: Mapping[str, float], *, late: bool = False, outdated: bool = False
    ) -> Verdict:
        """Judge a scored session. Late sessions, text masked by other rules and kinds without calibration are not."""
        if late or outdated:
            return Verdict(unjudged=Unjudged.LATE if late else Unjudged.OUTDATED)
        calibrated = self._kinds.get(kind)
        if calibrated is None:
            return Verdict(unjudged=Unjudged.KIND_NOT_CALIBRATED)
        score = calibrated.score(statistics)
        verdict = Verdict(
            combination=calibrated.combination,
            score=score,
            threshold=self.monitors[kind].see(score),
            p_value=calibrated.p_value(score),
            surprises=calibrated.surprises(statistics),
        )
        if calibrated.early and not verdict.anomalous:
            self.early_monitors[kind].see(calibrated.early.score(statistics))
        return verdict
