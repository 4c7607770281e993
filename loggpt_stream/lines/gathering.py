"""How records become sessions: what the bundle says of it, ready to be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loggpt_stream.lines.masks import Masks
    from loggpt_stream.lines.rules import SessionRules
    from loggpt_stream.lines.shapes import Shape


@dataclass(frozen=True, slots=True)
class Gathering:
    """Session rules, compiled masks, and the record shape that is pinned (None: each record is recognised)."""

    rules: SessionRules
    masks: Masks
    shape: Shape | None = None

    @property
    def fingerprint(self) -> str:
        """Return 16 hex digits of rules and masks: sessions that were gathered under others are not judged.

        It is in the state topic, so it must stay what it was in every version.
        """
        return hashlib.sha256(repr((self.rules, self.masks.rules)).encode()).hexdigest()[:16]
