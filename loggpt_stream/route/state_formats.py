"""A change in the router's state topic between format 1 (version 0.1.0) and format 2, which other code knows alone.

`route.partition` adds `position` and `last_record` to what `route.keys` has, as the daemon does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.kafka.changelog import StateFormats, place_from_1, place_to_1
from loggpt_stream.lines.columns import lists_of_table, table_of_lists
from loggpt_stream.route.keys import LINKS, PARENTS

if TYPE_CHECKING:
    from loggpt_stream.kafka.changelog import Change

# What stood at which position of format 1's lists. History: it stays as it is, whatever fields format 2 gains.
_LINK_1: Final = ("request", "instance")
_PARENT_1: Final = (
    "source",
    "process",
    "logger",
    "time_s",
    "key",
    "in_frames",
    "session_id",
    "headerless",
    "newest",
)


def from_format_1(change: Change) -> Change:
    """Return what version 0.1.0 wrote as a change of format 2.

    Raises `KeyError`, `TypeError` or `ValueError` where it is none of format 1.
    """
    tables = {
        "links": table_of_lists(LINKS, _LINK_1, change["links"]),
        "parents": table_of_lists(PARENTS, _PARENT_1, change["parents"]),
    }
    found = {name: value for name, value in tables.items() if value}
    return found | place_from_1(change)


def to_format_1(change: Change) -> Change:
    """Return a change of format 2 as version 0.1.0 writes and reads it; fields that it does not know are left out."""
    found = {
        "links": lists_of_table(LINKS, _LINK_1, change.get("links", {})),
        "parents": lists_of_table(PARENTS, _PARENT_1, change.get("parents", {})),
    }
    return found | place_to_1(change)


STATE_FORMATS: Final = StateFormats(from_format_1, to_format_1)
