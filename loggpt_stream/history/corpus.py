"""Events → closed sessions, all of them: what training, calibration and replay work on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loggpt_stream.history.files import Reading, read_events
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.sessionizer import Sessionizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from loggpt_stream.lines.masks import MaskRule
    from loggpt_stream.lines.names import Fate
    from loggpt_stream.lines.record import Event, Record
    from loggpt_stream.lines.rules import SessionRules
    from loggpt_stream.lines.session import Session
    from loggpt_stream.lines.shapes import Shape


@dataclass(slots=True)
class Corpus:
    """Closed sessions in order of their close, what was read for them, and what became of the lines (by fate)."""

    sessions: list[Session] = field(default_factory=list)
    reading: Reading = field(default_factory=Reading)
    fates: Counter[Fate] = field(default_factory=Counter)


def read_corpus(
    inputs: Sequence[str],
    rules: SessionRules,
    mask_rules: tuple[MaskRule, ...],
    *,
    shape: Shape | None = None,
    watch: Callable[[Reading], None] = lambda _: None,
) -> Corpus:
    """Read files to closed sessions; `watch` sees how far the reading is, once a session.

    Raises `UserError` for files that cannot be read.
    """
    corpus = Corpus()
    events = read_events(inputs, corpus.reading, shape=shape)
    for session in closed_sessions(events, rules, mask_rules, corpus.fates):
        corpus.sessions.append(session)
        watch(corpus.reading)
    return corpus


def closed_sessions(
    events: Iterable[tuple[Event, Record]],
    rules: SessionRules,
    mask_rules: tuple[MaskRule, ...],
    fates: Counter[Fate],
) -> Iterator[Session]:
    """Yield each session as it closes, and at the end those still open. `events` are one partition's, in order.

    When a line of a file arrived is not known: how far in the future it may be is the reader's to say.
    """
    sessionizer = Sessionizer(rules, Masks(mask_rules))
    for event, record in events:
        yield from sessionizer.add(event, record.offset, arrival_s=math.inf)
    yield from sessionizer.flush()
    fates.update(sessionizer.fates)
