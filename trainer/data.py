"""Recorded logs → sessions → what is learned from and what is held out."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from loggpt_stream.errors import UserError
from loggpt_stream.history.labels import Labels, read_labels
from loggpt_stream.history.source import read_source
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.names import Fate, SessionKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.history.files import Reading
    from loggpt_stream.lines.session import Session
    from trainer.settings import TrainerSettings

MIN_SESSIONS: Final = 20
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class Split:
    """Sessions to learn from and sessions held out; left_out counts the others by why."""

    train: list[Session]
    validation: list[Session]
    left_out: Counter[str]


def read_history(settings: TrainerSettings, watch: Callable[[Reading], None]) -> Corpus:
    """Read the files or the topic to closed sessions; `watch` sees how far the reading is.

    Raises `UserError` for what cannot be read, and where there is no session in it.
    """
    rules = settings.sessions.rules()
    corpus = read_source(settings, rules, DEFAULT_RULES, watch)
    if not corpus.sessions:
        raise UserError(
            f"no session in {corpus.reading.records} records: {corpus.fates[Fate.UNKEYED]} lines without a session key "
            f"(looked for: {', '.join(rules.key_order)}), {_told(corpus.reading.rejected) or 'none'} not decoded. "
            "Are these OpenStack logs? With --sessions.unkeyed window, lines without a key go by host and service."
        )
    return corpus


def split_history(corpus: Corpus, settings: TrainerSettings) -> Split:
    """Return the sessions to learn from and those held out. Raises `UserError` where there are too few of them."""
    labels = read_labels(str(settings.labels)) if settings.labels else None
    sessions, left_out = _chosen(corpus.sessions, labels, settings)
    if len(sessions) < MIN_SESSIONS:
        raise UserError(
            f"{len(sessions)} sessions to learn from are too few (of {len(corpus.sessions)} read; left out: "
            f"{_told(left_out) or 'none'}). It takes {MIN_SESSIONS} at the very least, and hundreds to learn well: "
            "name more logs, or choose other labels."
        )
    groups = _groups(sessions, labels, settings.group_column)
    if settings.validation == "random":
        order = sorted(groups)
        random.Random(settings.seed).shuffle(order)  # noqa: S311 - a split hides nothing
    else:
        order = sorted(groups, key=lambda name: (min(session.opened_s for session in groups[name]), name))
    held_out: set[str] = set()
    wanted = settings.validation_fraction * len(sessions)
    count = 0
    while order and count < wanted:
        name = order.pop()
        held_out.add(name)
        count += len(groups[name])
    split = Split([], [], left_out)
    for name, members in groups.items():
        (split.validation if name in held_out else split.train).extend(members)
    uneven = len(split.train) < len(split.validation) and settings.validation_fraction < _HALF
    if uneven or not split.train:
        raise UserError(
            f"the {len(sessions)} sessions belong to {len(groups)} groups, too few or too uneven to hold "
            f"{settings.validation_fraction:.0%} of them out for validation: {len(split.train)} would be left to learn "
            "from. Name more logs, or another --group-column."
        )
    for members in (split.train, split.validation):
        members.sort(key=lambda session: (session.opened_s, session.first_offset, session.key))
    return split


def _chosen(
    sessions: Sequence[Session], labels: Labels | None, settings: TrainerSettings
) -> tuple[list[Session], Counter[str]]:
    chosen: list[Session] = []
    left_out: Counter[str] = Counter()
    if labels is not None:
        labels.require_values(settings.select)
        labels.require_values(settings.exclude)
        if settings.group_column:
            labels.require(settings.group_column)
    for session in sessions:
        if session.late:
            left_out["late"] += 1
        elif session.cut_off:
            left_out["cut off by the end of the input"] += 1
        elif labels and settings.select and not labels.matches(session, settings.select):
            left_out["not selected"] += 1
        elif labels and any(labels.matches(session, {column: value}) for column, value in settings.exclude.items()):
            left_out["excluded"] += 1
        else:
            chosen.append(session)
    return chosen, left_out


def _groups(sessions: Sequence[Session], labels: Labels | None, column: str | None) -> dict[str, list[Session]]:
    """Return the sessions by what must stay on one side: label column, else explicit session id, else key (parts)."""
    groups: dict[str, list[Session]] = {}
    for session in sessions:
        row = labels.row(session) if labels and column else None
        value = row[column] if row and column else ""
        # A window's key is a host and service, which all of its windows share.
        own = f"{session.key}@{session.opened_s}" if session.kind == SessionKind.WINDOW else session.key
        name = f"{column}={value}" if value else session.group or own
        groups.setdefault(name, []).append(session)
    return groups


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
