"""What goes to a topic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """Key, value and headers of a record to be written."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]
