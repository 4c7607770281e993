"""Why a session was flagged, in words and lines: the evidence of the statistics that decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loggpt_stream.model.statistics import CLIP_NATS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import Verdict
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.scoring import SessionScore

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
    told = "; ".join(
        f"{_NAMES.get(name, name)} ({verdict.surprises[name]:.1f} nats{_detail(name, session, score, frequencies)})"
        for name in deciding(verdict)
    )
    return f"{verdict.combination} score {verdict.score:.2f} is above the threshold {verdict.threshold:.2f}: {told}"


_NAMES: Final[Mapping[str, str]] = {
    "mean_line_loss": "its lines surprise on average",
    "max_line_loss": "a line surprises",
    "end_loss": "it ends unexpectedly",
    "digest_loss": "its set of lines is unusual",
    "digest_end_loss": "lines are missing at its end",
    "top_k_misses": "many lines were not among those expected",
    "absent_lines": "lines that usually come are absent",
    "unseen_lines": "it has lines never seen in training",
    "untimely_line": "a line came later than usual",
}


def _detail(name: str, session: Session, score: SessionScore, frequencies: LineFrequencies) -> str:
    """Return the line that a statistic speaks of, as `: "text"`, or ""."""
    return next((f': "{text[:_SHOWN_CHARS]}"' for text in _lines_behind(name, session, score, frequencies)), "")


def _lines_behind(name: str, session: Session, score: SessionScore, frequencies: LineFrequencies) -> Iterator[str]:
    if name == "max_line_loss":
        yield _first_line(session, int(score.line_losses_L.argmax()))
    elif name == "end_loss":
        yield _first_line(session, -1)
    elif name == "untimely_line" and score.untimely is not None:
        yield _first_line(session, score.untimely)
    elif name == "unseen_lines":
        yield from (_first_line(session, index) for index in unseen_lines(session, frequencies))
    elif name in ("absent_lines", "digest_end_loss"):
        yield from (each["text"] for each in absent_lines(session, frequencies))
    elif name == "digest_loss" and score.line_set_losses_D.size and score.line_set_losses_D.max() < CLIP_NATS:
        # A known line where others were expected before it: these are what is missing.
        yield score.line_set[int(score.line_set_losses_D.argmax())]


def _first_line(session: Session, index: int) -> str:
    line = session.lines[index]
    return (line.raw or line.text).partition("\n")[0]
