"""Recorded sessions: which take part, which must not because the model knows them, and how each scores."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from loggpt_stream.errors import UserError
from loggpt_stream.lines.names import Fate
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.scoring import Scorer
    from loggpt_stream.model.session_score import SessionScore

_BATCH_SESSIONS: Final = 256
_PROGRESS_S: Final = 5.0
_EXAMPLES: Final = 3
_RAW_CHARS: Final = 500
# What a refusal ends with where the reason lies in the model and not in the flags.
DIAGNOSE: Final = "`loggpt-calibrate diagnose` with the same bundle and inputs explains it."

_log = get_logger(__name__)


class NotFiniteError(UserError):
    """The model gives losses that are not finite."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many sessions of a kind the input holds, over how long (seconds from the first line to the last)."""

    sessions: int
    span_s: float

    @property
    def per_day(self) -> float | None:
        """Return sessions a day, or None where the input is too short to tell."""
        return self.sessions / self.span_s * 86400 if self.span_s > 1 else None


@dataclass(frozen=True, slots=True)
class Selection:
    """Sessions that take part. left_out counts the others by why; traffic is that of all of them, by kind."""

    sessions: list[Session]
    left_out: Counter[str]
    traffic: dict[str, Traffic]


@dataclass(frozen=True, slots=True)
class ScoredSession:
    """A session with its statistics (nats, by name).

    truth: True for anomalous, False for normal, None for unknown. worst_line, worst_loss: index and nats of its most
    surprising line. content: equal where two sessions read alike (same masked lines).
    """

    session: Session = field(repr=False)
    statistics: dict[str, float]
    truth: bool | None
    worst_line: int
    worst_loss: float
    content: bytes


def select(
    corpus: Corpus,
    labels: Labels | None,
    where: Mapping[str, str],
    *,
    kinds: Sequence[str] = (),
    only: np.ndarray | None = None,
) -> Selection:
    """Return the sessions that take part: not late, of `kinds` (if any), with these labels, fingerprints in `only`.

    What the end of the input cut off looks like a failure, and the daemon never sees it so: it takes part only where a
    label says what it is. Raises `UserError` where none is left.
    """
    wanted = None if only is None else set(only.tolist())
    left_out: Counter[str] = Counter()
    chosen: list[Session] = []
    for session in corpus.sessions:
        if session.late:
            left_out["late fragments"] += 1
        elif session.cut_off and not (labels and labels.row(session)):
            left_out["cut off by the end of the input"] += 1
        elif kinds and session.kind not in kinds:
            left_out["of other kinds"] += 1
        elif labels and where and not labels.matches(session, where):
            left_out["not selected by their labels"] += 1
        elif wanted is not None and session.fingerprint() not in wanted:
            left_out["not held out by the trainer"] += 1
        else:
            chosen.append(session)
    if not chosen:
        raise UserError(
            f"no session to score in {corpus.reading.records} records ({len(corpus.sessions)} sessions; left out: "
            f"{listed(left_out) or 'none'}; {corpus.fates[Fate.UNKEYED]} lines without a session key). "
            f"{_advice(only)}"
        )
    return Selection(chosen, left_out, _traffic(corpus.sessions))


def held_out_sessions(bundle: Bundle) -> np.ndarray:
    """Return the fingerprints of the trainer's validation sessions. Raises `UserError` where it held none out."""
    held_out = bundle.used_sessions["validation"]
    if not held_out.size:
        raise UserError(
            f"--held-out: the trainer of {bundle.path} held no sessions out. Calibrate on other logs, or train again."
        )
    return held_out


def refuse_known(sessions: Sequence[Session], bundle: Bundle, roles: Sequence[str], advice: str) -> None:
    """Raise `UserError` where sessions were used in one of `roles`, saying how many, which, and what to do."""
    prints_N = np.array([session.fingerprint() for session in sessions], dtype=np.int64)
    for role in roles:
        known = np.flatnonzero(np.isin(prints_N, bundle.used_sessions[role]))
        if known.size:
            keys = ", ".join(f"{sessions[i].kind} {printable(sessions[i].key)}" for i in known[:_EXAMPLES])
            more = ", …" if known.size > _EXAMPLES else ""
            raise UserError(
                f"{known.size} of the {len(sessions)} sessions are {role} sessions of this bundle ({keys}{more}): "
                f"figures from them would flatter the model. {advice}"
            )


def score_sessions(
    sessions: Sequence[Session], scorer: Scorer, labels: Labels | None, anomaly_column: str
) -> list[ScoredSession]:
    """Return each session with its statistics. Raises `UserError` where a label is unusable.

    Raises `NotFiniteError` where the model gives a loss that is not finite.

    Sessions that read alike are read by the model once: what a batch adds in the last digits must not tell them apart.
    """
    truths = [labels.anomalous(session, anomaly_column) if labels else None for session in sessions]
    contents = [content_of(session) for session in sessions]
    distinct = list(dict(zip(contents, sessions, strict=True)).items())
    scored: dict[bytes, SessionScore] = {}
    shown_s = time.monotonic()
    for start in range(0, len(distinct), _BATCH_SESSIONS):
        batch = distinct[start : start + _BATCH_SESSIONS]
        try:
            scores = scorer.score([session for _, session in batch])
        except FloatingPointError as error:
            raise NotFiniteError(
                f"{error}. Train again, with a smaller learning rate if it happens again. {DIAGNOSE}"
            ) from error
        scored.update(zip((content for content, _ in batch), scores, strict=True))
        if time.monotonic() - shown_s > _PROGRESS_S:
            shown_s = time.monotonic()
            _log.info("sessions_scored", done=len(scored), of=len(distinct))
    return [
        _scored(session, scored[content], scorer.from_lines(session)[0], truth, content)
        for session, content, truth in zip(sessions, contents, truths, strict=True)
    ]


def _scored(
    session: Session,
    score: SessionScore,
    from_lines: dict[str, float],
    truth: bool | None,  # noqa: FBT001 - three-valued
    content: bytes,
) -> ScoredSession:
    # The score may be that of another session that reads alike, whose lines came at other times.
    worst = int(np.argmax(score.line_losses_L))
    statistics = score.statistics | from_lines
    return ScoredSession(session, statistics, truth, worst, float(score.line_losses_L[worst]), content)


def content_of(session: Session) -> bytes:
    """Return what is equal where two sessions read alike to the model."""
    text = "\n".join((session.kind, *session.texts))
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).digest()


def by_kind(scored: Sequence[ScoredSession]) -> dict[str, list[ScoredSession]]:
    """Return the sessions of each kind, kinds in order of their name."""
    kinds = sorted({str(each.session.kind) for each in scored})
    return {kind: [each for each in scored if each.session.kind == kind] for kind in kinds}


def printable(text: str) -> str:
    """Return the first line of `text`, bounded, without characters that would break the report or a terminal."""
    first = text.split("\n", 1)[0]
    clean = "".join(character if character.isprintable() else "\ufffd" for character in first).replace("`", "'")
    return clean if len(clean) <= _RAW_CHARS else clean[:_RAW_CHARS] + " …"


def listed(counts: Counter[str]) -> str:
    """Return counts in words."""
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _traffic(sessions: Sequence[Session]) -> dict[str, Traffic]:
    found = {}
    for kind in sorted({session.kind for session in sessions}):
        mine = [session for session in sessions if session.kind == kind and not session.late]
        if mine:
            span_s = max(session.last_seen_s for session in mine) - min(session.opened_s for session in mine)
            found[kind] = Traffic(len(mine), span_s)
    return found


def _advice(only: np.ndarray | None) -> str:
    if only is not None:
        return "With --held-out, name the same log files that the bundle was trained from."
    return "Are these the right logs, and the right labels?"
