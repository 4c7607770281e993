"""A session: the lines of one instance, request or explicit id, from its first line to its close."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final

MAX_RAW_CHARS: Final = 4096

CLOSE_REASONS: Final = ("idle", "terminal", "max_age", "max_lines", "memory", "end_of_input")


@dataclass(slots=True)
class Line:
    """One event of a session.

    time_s: epoch seconds. offset: of its record. head: masked `LEVEL logger message`. tail: masked last exception line
    of its traceback, or "". raw: the line as an operator would see it, with its continuation, at most MAX_RAW_CHARS.
    """

    time_s: float
    offset: int
    head: str
    tail: str
    raw: str

    @property
    def text(self) -> str:
        """Return what the model sees of this line."""
        return f"{self.head} {self.tail}" if self.tail else self.head

    def extend_raw(self, text: str) -> None:
        """Append a continuation line to `raw`, as far as there is room."""
        room = MAX_RAW_CHARS - len(self.raw) - 1
        if room > 0:
            self.raw = f"{self.raw}\n{text[:room]}"


@dataclass(slots=True, weakref_slot=True)
class Session:
    """The lines of one key on one partition, in arrival order.

    kind: `explicit`, `instance`, `request` or `window`. part: 0, or how many parts came before (max_age, max_lines).
    first_offset, first_index: of the record of its first line, and which of that record's events that is (from 0).
    group: the explicit session id its lines carry, where another key was used (for labels and splits by group).
    traceparent: trace context of the first record that had one.
    late: True where its lines came after the session they belong to had closed; such a fragment is never judged.
    opened_s, last_seen_s: watermarks (epoch seconds) at the first and the newest line. closed_s: at the close.
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

    @property
    def cut_off(self) -> bool:
        """Tell whether the input ended in the middle of this session, as far as can be known.

        The lines of an instance go on until it is idle or destroyed; a request or an explicit run may well be over.
        """
        return self.kind == "instance" and self.close_reason == "end_of_input" and not self.ending

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
