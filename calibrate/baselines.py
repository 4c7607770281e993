"""Detectors that need no language model and no calibration: what a model must beat to be worth its cost."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.line_frequencies import LineFrequencies

_LOUD_LEVELS: Final = frozenset({"ERROR", "CRITICAL"})
# "Common" is what so many of the training sessions hold.
_COMMON: Final = 0.95

LOUD: Final = "ERROR/CRITICAL lines"


def count_loud_lines(session: Session) -> int:
    """Return how many lines of a session are at ERROR or CRITICAL."""
    return sum(line.head.split(" ", 1)[0] in _LOUD_LEVELS for line in session.lines)


def baseline_scores(session: Session, frequencies: LineFrequencies, typical_lines: float) -> dict[str, float]:
    """Return the score of each simple detector, by name; higher is more unusual.

    `frequencies` is of the training sessions of this kind, `typical_lines` the median length of a normal session.
    """
    texts = set(session.texts)
    unseen = sum(text not in frequencies for text in texts)
    missing = sum(1 for text, _ in frequencies.absent(texts, at_least=_COMMON))
    rarest = min((frequencies.frequency(text) for text in texts), default=0)
    return {
        LOUD: float(count_loud_lines(session)),
        "unusual length": abs(math.log(len(session.lines) / typical_lines)),
        "rarest line": -math.log((rarest + 1) / (frequencies.sessions + 2)),
        "lines unseen in training": float(unseen),
        "common lines missing": float(missing),
        "lines of every training session missing": float(sum(1 for _ in frequencies.absent(texts, at_least=1.0))),
        "unseen + missing": float(unseen + missing),
    }
