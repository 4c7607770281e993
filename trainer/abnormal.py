"""Without labels: which of the sessions that were learned from look abnormal to the model that learned from them.

Recorded history holds failures, and a model that has seen them still finds most of them odd, since they are few. So its
own losses tell how clean the history was, before anything is calibrated on it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from loggpt_stream.model.statistics import COMBINATIONS, COMBINED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.scoring import Scorer
    from loggpt_stream.model.session_score import SessionScore

Z_LIMIT: Final = 4.0
_MOST: Final = 3
_MIN_OF_KIND: Final = 8
_LEAST_SPREAD: Final = 0.05  # on the logarithmic scale: where nearly all sessions are alike, a hair is no outlier


@dataclass(frozen=True, slots=True)
class OddSession:
    """A session far from the others of its kind.

    statistic: in which it stands out most, with its value and the kind's median in nats. z: robust standard deviations
    from that median. line: the raw line that surprised most (its first line of text).
    """

    key: str
    kind: str
    statistic: str
    value: float
    median: float
    z: float
    line: str


@dataclass(frozen=True, slots=True)
class Look:
    """How many sessions of each kind were looked at and how many stand out; the most extreme of these.

    too_few: sessions of kinds with so few that none can stand out; they are in neither of the others.
    """

    sessions: dict[str, int]
    abnormal: dict[str, int]
    most: tuple[OddSession, ...]
    too_few: dict[str, int]

    @property
    def share(self) -> float:
        """Return the share of the sessions looked at that stand out."""
        return sum(self.abnormal.values()) / max(sum(self.sessions.values()), 1)


def look_for_abnormal(sessions: Sequence[Session], scorer: Scorer) -> Look:
    """Score `sessions` and find those above Z_LIMIT in one of the statistics that calibration combines."""
    scores = scorer.score(sessions)
    kinds = np.array([session.kind for session in sessions])
    odd: list[OddSession] = []
    for kind in sorted(set(kinds.tolist())):
        of_kind = np.flatnonzero(kinds == kind)
        if len(of_kind) < _MIN_OF_KIND:
            continue
        names = [name for name in COMBINATIONS[COMBINED] if name in scores[of_kind[0]].statistics]
        values_SN = np.array([[scores[i].statistics[name] for i in of_kind] for name in names])
        medians_S, z_SN = robust_z(values_SN)
        for column in np.flatnonzero(z_SN.max(axis=0) > Z_LIMIT):
            i, s = int(of_kind[column]), int(z_SN[:, column].argmax())
            odd.append(
                OddSession(
                    sessions[i].key,
                    kind,
                    names[s],
                    float(values_SN[s, column]),
                    float(medians_S[s]),
                    float(z_SN[s, column]),
                    _most_surprising(sessions[i], scores[i]),
                )
            )
    odd.sort(key=lambda each: -each.z)
    counted = Counter(each.kind for each in odd)
    all_ = sorted(Counter(kinds.tolist()).items())
    enough = {kind: count for kind, count in all_ if count >= _MIN_OF_KIND}
    few = {kind: count for kind, count in all_ if count < _MIN_OF_KIND}
    return Look(enough, {kind: counted[kind] for kind in enough}, tuple(odd[:_MOST]), few)


def robust_z(values_SN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of each row, and each value's distance from it in robust deviations (1.48 MAD) of log1p."""
    logged_SN = np.log1p(values_SN)
    centre_S1 = np.median(logged_SN, axis=1, keepdims=True)
    spread_S1 = 1.4826 * np.median(np.abs(logged_SN - centre_S1), axis=1, keepdims=True)
    return np.median(values_SN, axis=1), (logged_SN - centre_S1) / np.maximum(spread_S1, _LEAST_SPREAD)


def _most_surprising(session: Session, score: SessionScore) -> str:
    return session.lines[int(score.line_losses_L.argmax())].raw.partition("\n")[0]
