"""The names of kinds, reasons and fates, as state, alerts, metrics and dead letters have them.

Where one is stored or sent, its value stands: a member never changes its value.
"""

from __future__ import annotations

from enum import StrEnum, unique


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
    """Why a session closed."""

    IDLE = "idle"
    TERMINAL = "terminal"
    MAX_AGE = "max_age"
    MAX_LINES = "max_lines"
    MEMORY = "memory"
    END_OF_INPUT = "end_of_input"

    @property
    def continues(self) -> bool:
        """Tell whether a limit of ours cut the session: what follows is its next part."""
        return self in _CUT_BY_A_LIMIT


_CUT_BY_A_LIMIT = frozenset({CloseReason.MAX_AGE, CloseReason.MAX_LINES, CloseReason.MEMORY})


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
