"""The names of kinds, reasons and fates, as state, alerts, metrics and dead letters have them.

Where one is stored or sent, its value stands: a member never changes its value.
"""

from __future__ import annotations

from enum import StrEnum, unique
from typing import Self


class WireName(StrEnum):
    """A name that is stored or sent. It equals its text, hashes like it, and prints as it, in a list or dict too."""

    __repr__ = str.__repr__


@unique
class SessionKind(WireName):
    """What a session's key names."""

    EXPLICIT = "explicit"  # an id that the lines' JSON or a record header states
    INSTANCE = "instance"
    REQUEST = "request"
    WINDOW = "window"  # a host and service: lines without any other key


@unique
class CloseReason(WireName):
    """Why a session closed, and whether what follows is its next part (`continues`)."""

    IDLE = "idle", False
    TERMINAL = "terminal", False
    MAX_AGE = "max_age", True
    MAX_LINES = "max_lines", True
    MEMORY = "memory", True
    END_OF_INPUT = "end_of_input", False

    continues: bool

    def __new__(cls, reason: str, continues: bool) -> Self:  # noqa: FBT001 - a row of the table above
        """Make a member of its text and whether it continues."""
        member = str.__new__(cls, reason)
        member._value_ = reason
        member.continues = continues
        return member


def reason_continues(reason: str) -> bool:
    """Tell whether a session that closed for this reason goes on in a next part.

    One that only a newer version knows, whose state is read here, does not.
    """
    return reason in _CONTINUES


_CONTINUES = frozenset(reason.value for reason in CloseReason if reason.continues)


@unique
class Fate(WireName):
    """What became of an event."""

    LINE = "line"  # of a session
    LATE_LINE = "late_line"  # of a session that is never judged, because it came after the close
    CONTINUATION = "continuation"  # of a line of an open session
    LATE_CONTINUATION = "late_continuation"  # its session had closed
    ORPHAN_CONTINUATION = "orphan_continuation"  # the line that it continues is not known
    UNKEYED = "unkeyed"  # no session key, so dropped


@unique
class DeadLetterReason(WireName):
    """Why a record holds no log event. `loggpt_stream.dead_letters.reasons` explains each."""

    NULL_VALUE = "null_value"
    NOT_TEXT = "not_text"
    BAD_JSON = "bad_json"
    NO_TEXT = "no_text"
    TOO_LONG = "too_long"
    OTHER_SHAPE = "other_shape"
    DECODER_FAILED = "decoder_failed"
