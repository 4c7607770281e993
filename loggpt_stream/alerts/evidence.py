"""Why a session was flagged, in words and lines: the evidence of the statistics that decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loggpt_stream.model.statistics import BY_NAME

if TYPE_CHECKING:
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import Verdict
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.session_score import SessionScore

MOST: Final = 5
# What adds less than a third of what the first one adds did not decide.
_SHARE: Final = 1 / 3
_SHOWN_CHARS: Final = 120


def deciding(verdict: Verdict) -> list[str]:
    """Return the statistics that decided, the one that adds most to the score first."""
    ordered = sorted(verdict.surprises.items(), key=lambda each: -each[1])
    least = ordered[0][1] * _SHARE if ordered else 0.0
    return [name for name, nats in ordered if nats >= least]


def absent_lines(session: Session, frequencies: LineFrequencies) -> list[dict[str, Any]]:
    """Return the masked lines that at least half of the training sessions have and this one lacks, at most MOST.

    share: of the training sessions that have it.
    """
    found: list[dict[str, Any]] = []
    for text, share in frequencies.absent(session.texts):
        if len(found) == MOST:
            break
        found.append({"text": text, "share": round(share, 4)})
    return found


def unseen_lines(session: Session, frequencies: LineFrequencies) -> list[int]:
    """Return the index of the first of each masked line that no training session has, at most MOST of them."""
    first: dict[str, int] = {}
    for index, text in enumerate(session.texts):
        if text not in frequencies:
            first.setdefault(text, index)
    return list(first.values())[:MOST]


def reason(session: Session, score: SessionScore, verdict: Verdict, frequencies: LineFrequencies) -> str:
    """Return in one sentence which statistics decided, and what in the session they speak of."""
    decided = "; ".join(
        f"{BY_NAME[name].phrase} ({verdict.surprises[name]:.1f} nats{_detail(name, session, score, frequencies)})"
        for name in deciding(verdict)
    )
    return f"{verdict.combination} score {verdict.score:.2f} is above the threshold {verdict.threshold:.2f}: {decided}"


def _detail(name: str, session: Session, score: SessionScore, frequencies: LineFrequencies) -> str:
    """Return the line that a statistic speaks of, as `: "text"`, or ""."""
    text = BY_NAME[name].behind(session, score, frequencies)
    return "" if text is None else f': "{text[:_SHOWN_CHARS]}"'
