"""A session: the lines of one instance, request or explicit id, from its first line to its close."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, field
from typing import Final

from loggpt_stream.lines.names import CloseReason, SessionKind, reason_continues

MAX_RAW_CHARS: Final = 4096
# Records that are read again for the continuation of one line, at most.
MAX_REST: Final = 256

# What an open session takes, each of its lines, and each further record of a line, beside raw texts; masked texts are
# shared. Measured: tests/lines/test_memory.py holds it.
SESSION_BYTES: Final = 1_100
LINE_BYTES: Final = 180
REST_BYTES: Final = 100


@dataclass(slots=True)
class Line:
    """One event of a session.

    time_s: epoch seconds. offset, index: of its record, and which of that record's events it is (from 0). head: masked
    `LEVEL logger message`. tail: masked last exception line of its traceback, or "". raw: the line as an operator would
    see it, with its continuation, at most MAX_RAW_CHARS; "" where it has to be read from the topic again. rest: where
    its continuation came in further records: their offsets and indices, at most MAX_REST.
    """

    time_s: float
    offset: int
    head: str
    tail: str
    raw: str
    index: int = 0
    rest: list[tuple[int, int]] | None = None

    @property
    def text(self) -> str:
        """Return what the model sees of this line."""
        return f"{self.head} {self.tail}" if self.tail else self.head

    def extend_raw(self, text: str) -> None:
        """Append a continuation line to `raw`, as far as there is room."""
        self.raw = extended(self.raw, text)


@dataclass(slots=True, weakref_slot=True)
class Session:
    """The lines of one key on one partition, in arrival order.

    kind: a `SessionKind`. part: 0, or how many parts came before. close_reason: a `CloseReason`; "" while it is open.
    first_offset, first_index: of the record of its first line, and which of that record's events that is (from 0).
    group: the explicit session id its lines carry, where another key was used (for labels and splits by group).
    traceparent: trace context of the first record that had one.
    late: True where its lines came after the session they belong to had closed; it is never judged.
    opened_s, last_seen_s: watermarks (epoch seconds) at the first and the newest line. closed_s: at the close.
    bytes, raw_bytes: memory it takes, about, and how much of that its raw texts take. announced_s: when its early alert
    was created (epoch seconds), if there was one.
    outdated: True where some of its lines were masked by rules that are no longer in use; it is never judged.
    saved: how many of its lines are in the state topic, and what it was like then; unsaved: whether anything was added
    since (see `lines.session_changes`).
    """

    key: str
    kind: str
    opened_s: float
    last_seen_s: float
    first_offset: int
    first_index: int = 0
    part: int = 0
    late: bool = False
    group: str | None = None
    project_id: str | None = None
    traceparent: str | None = None
    hosts: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    ending: bool = False
    closed_s: float = 0.0
    close_reason: str = ""
    bytes: int = SESSION_BYTES
    raw_bytes: int = 0
    announced_s: float | None = None
    outdated: bool = False
    saved: tuple[int, int] | None = None
    unsaved: bool = False

    @property
    def cut_off(self) -> bool:
        """Tell whether the input ended in the middle of this session, as far as can be known.

        The lines of an instance go on until it is idle or destroyed; a request or an explicit run may well be over.
        """
        by_end = self.close_reason == CloseReason.END_OF_INPUT
        return self.kind == SessionKind.INSTANCE and by_end and not self.ending

    @property
    def continues(self) -> bool:
        """Tell whether the session was cut by a limit, so that its next line begins a further part."""
        return reason_continues(self.close_reason)

    @property
    def identity(self) -> tuple[int, int]:
        """Return what no other session of the partition has: where its first line stands."""
        return self.first_offset, self.first_index

    @property
    def last_offset(self) -> int:
        """Return the offset of the newest line."""
        return self.lines[-1].offset

    @property
    def texts(self) -> list[str]:
        """Return the masked text of each line, in order: what the tokenizer gets."""
        return [line.text for line in self.lines]

    @property
    def times_s(self) -> list[float]:
        """Return the time of each line (epoch seconds), in order of arrival."""
        return [line.time_s for line in self.lines]

    def fingerprint(self) -> int:
        """Return 63 bits that name this session wherever it is read from: its key and the time of its first line."""
        name = f"{self.kind}\0{self.key}\0{self.lines[0].time_s:.3f}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def raw_bytes(raw: str) -> int:
    """Return the memory that a line's raw text takes."""
    return sys.getsizeof(raw) if raw else 0


def extended(raw: str, text: str) -> str:
    """Return raw text with a continuation line, as far as there is room."""
    room = MAX_RAW_CHARS - len(raw) - 1
    return f"{raw}\n{text[:room]}" if room > 0 else raw
