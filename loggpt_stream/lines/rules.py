"""Session rules: how lines become sessions. They are part of the bundle, since a model only knows what it was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KEY_SOURCES: Final = ("explicit", "instance", "instance_in_text", "request_instance", "global_request", "request")
UNKEYED_FATES: Final = ("drop", "window")


@dataclass(frozen=True, slots=True)
class SessionRules:
    """How lines are gathered and when a session closes. Times are seconds of record time.

    key_order: where a session key is looked for, first hit wins; leave one out to switch it off.
    unkeyed: what becomes of a line without any key: `drop` (counted), or `window` (one session per host and service).
    idle_gap_s: a session without a line for so long closes.
    max_age_s, max_lines: a session that is older or longer closes; what follows becomes its next part.
    terminal: pieces of text that end an instance's session; after such a line the idle gap is `grace_s`. An explicit
        session may hold several instances, and a request goes on after it destroyed one.
    revival: pieces of text after which an instance goes on all the same: a build that failed on one host cleans up
        there with terminal words, and begins anew on the next.
    max_future_s: a line dated further ahead of its arrival is taken as arriving now plus this.
    tombstone_s: a closed session is remembered so long. Within it, what follows a close by age or length is the next
        part of the session, and what follows a terminal close is a `late` session, which is never judged.
    """

    key_order: tuple[str, ...] = KEY_SOURCES
    unkeyed: str = "drop"
    idle_gap_s: float = 300.0
    max_age_s: float = 6 * 3600.0
    max_lines: int = 10_000
    terminal: tuple[str, ...] = (
        "Deleted allocations for instance",
        "seconds to destroy the instance on the hypervisor",
    )
    revival: tuple[str, ...] = ("Claim successful",)
    grace_s: float = 30.0
    max_future_s: float = 10.0
    tombstone_s: float = 600.0

    def __post_init__(self) -> None:
        """Raise `ValueError` naming the rule, its value and what would be right."""
        unknown = [name for name in self.key_order if name not in KEY_SOURCES]
        if unknown or not self.key_order:
            raise ValueError(f"key_order: {unknown or 'empty'}: choose from {', '.join(KEY_SOURCES)}")
        if self.unkeyed not in UNKEYED_FATES:
            raise ValueError(f"unkeyed: {self.unkeyed!r}: choose from {', '.join(UNKEYED_FATES)}")
        for name in ("idle_gap_s", "max_age_s", "max_lines", "grace_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r}: must be greater than 0")
        for name in ("max_future_s", "tombstone_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: {getattr(self, name)!r}: must be 0 or more")
