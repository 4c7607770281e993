"""Recorded sessions, judged as the daemon would judge them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from loggpt_stream.alerts.alert import JudgedSession
from loggpt_stream.model.early import first_alarm, new_unseen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import EarlyCalibration
    from loggpt_stream.model.detector import Detector
    from loggpt_stream.model.drift_mode import DriftMode

_BATCH_SESSIONS: Final = 256


def judge_sessions(
    sessions: Iterable[Session], detector: Detector, topic: str, drift: DriftMode, *, early: bool
) -> Iterator[tuple[JudgedSession, JudgedSession | None]]:
    """Yield every session scored and judged, in order, as from partition 0 of `topic`, and its `early` alert."""
    judge = detector.new_judge(drift)
    for batch in _batches(sessions):
        for session, score in zip(batch, detector.scorer.score(batch), strict=True):
            threshold = judge.early(session.kind) if early else None  # before this session teaches it
            verdict = judge.judge(session.kind, score.statistics, late=session.late)
            judged = JudgedSession(topic, 0, session, score, verdict)
            yield judged, early_alert(judged, threshold, detector)


def early_alert(judged: JudgedSession, early: EarlyCalibration | None, detector: Detector) -> JudgedSession | None:
    """Return the session as it was with the line that passed the early threshold, as the daemon would announce it.

    The daemon looks every few seconds, and so may see some lines more. None where it never passed.
    """
    session = judged.session
    if early is None or session.late:
        return None
    unseen_L = new_unseen(session.texts, detector.line_frequencies(session.kind))
    index = first_alarm(judged.score.line_losses_L, unseen_L, early)
    if index is None:
        return None
    so_far = replace(session, lines=session.lines[: index + 1])
    score, verdict = detector.judge_open(detector.scorer.prepare(so_far), early)
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
