"""Recorded sessions, judged as the daemon would judge them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from loggpt_stream.alerts.alert import Judged
from loggpt_stream.model.book import EMPTY
from loggpt_stream.model.calibration import Judge
from loggpt_stream.model.early import first_alarm, new_unseen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.calibration import EarlyCalibration
    from loggpt_stream.model.drift_mode import DriftMode
    from loggpt_stream.model.scoring import Scorer

_BATCH_SESSIONS: Final = 256


def judge_sessions(
    sessions: Iterable[Session], bundle: Bundle, scorer: Scorer, topic: str, drift: DriftMode, *, early: bool
) -> Iterator[tuple[Judged, Judged | None]]:
    """Yield every session scored and judged, in order, as from partition 0 of `topic`, and its `early` alert."""
    if bundle.calibration is None:
        raise ValueError("judging needs a calibrated bundle")
    judge = Judge(bundle.calibration, drift)
    for batch in _batches(sessions):
        for session, score in zip(batch, scorer.score(batch), strict=True):
            threshold = judge.early(session.kind) if early else None  # before this session teaches it
            verdict = judge.judge(session.kind, score.statistics, late=session.late)
            judged = Judged(topic, 0, session, score, verdict)
            yield judged, early_alert(judged, threshold, scorer)


def early_alert(judged: Judged, early: EarlyCalibration | None, scorer: Scorer) -> Judged | None:
    """Return the session as it was with the line that passed the early threshold, as the daemon would announce it.

    The daemon looks every few seconds, and so may see some lines more. None where it never passed.
    """
    session = judged.session
    if early is None or session.late:
        return None
    unseen_L = new_unseen(session.texts, scorer.books.get(session.kind, EMPTY))
    index = first_alarm(judged.score.line_losses_L, unseen_L, early)
    if index is None:
        return None
    so_far = replace(session, lines=session.lines[: index + 1])
    (score,) = scorer.score([so_far])
    score = replace(score, statistics={name: score.statistics[name] for name in early.scales})
    verdict = early.judge(score.statistics)
    return replace(judged, session=so_far, score=score, verdict=verdict, stage="early")


def _batches(sessions: Iterable[Session]) -> Iterator[list[Session]]:
    batch: list[Session] = []
    for session in sessions:
        batch.append(session)
        if len(batch) == _BATCH_SESSIONS:
            yield batch
            batch = []
    if batch:
        yield batch
