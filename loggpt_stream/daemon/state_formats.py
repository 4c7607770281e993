"""A change in the daemon's state topic between format 1 (version 0.1.0) and format 2, which other code knows alone.

`daemon.partition` adds these fields to what `lines.session_changes` has:

- position: offset of the next record. Always there.
- last_record: {offset, timestamp_ms} of the record before it; absent where none was read.
- reached_s: the record time that a silent partition has come to; absent where it is not silent.
- preprocessing: fingerprint of the rules and masks that the sessions were gathered under.
- drift: what drift did to the thresholds (`Judge.state`); absent where nothing changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.changelog import StateFormats, place_from_1, place_to_1
from loggpt_stream.lines import state_formats

if TYPE_CHECKING:
    from loggpt_stream.kafka.changelog import Change


def from_format_1(change: Change) -> Change:
    """Return what version 0.1.0 wrote as a change of format 2. Raises as `lines.state_formats.from_format_1` does."""
    found = state_formats.from_format_1(change) | place_from_1(change) | {"preprocessing": change["meaning"]}
    if change["reached"] is not None:
        found["reached_s"] = change["reached"]
    if "judge" in change:
        found["drift"] = change["judge"]
    return found


def to_format_1(change: Change) -> Change:
    """Return a change of format 2 as version 0.1.0 writes and reads it."""
    found = state_formats.to_format_1(change) | place_to_1(change)
    found |= {"reached": change.get("reached_s"), "meaning": change.get("preprocessing", "")}
    if "drift" in change:
        found["judge"] = change["drift"]
    return found


STATE_FORMATS: Final = StateFormats(from_format_1, to_format_1)
