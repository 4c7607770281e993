"""The sessions' part of a change between format 1 (version 0.1.0) and format 2, which is all that other code knows.

Format 1 had lists in which only the position says what a value is. The lists of names below are those positions: they
are history and stay as they are, whatever fields format 2 gains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from loggpt_stream.lines.columns import column, lists_of_table, of_columns, table_of_lists
from loggpt_stream.lines.session_changes import (
    CLOCK,
    ENDS,
    HEADS,
    JUDGED,
    LINES,
    LINKS,
    PARENTS,
    SESSIONS,
    TOMBSTONES,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


Change = dict[str, Any]

_CLOCK_1: Final = ("watermark_us", "offset", "index")
_HEAD_1: Final = (
    "session",
    "kind",
    "key",
    "opened_us",
    "part",
    "late",
    "group",
    "project_id",
    "traceparent",
    "hosts",
    "ending",
    "announced_us",
    "outdated",
)
_END_1: Final = ("first_offset", "first_index", "kind", "key", "reason", "closed_us", "part", "late", "judged")
_JUDGED_1: Final = ("first_offset", "first_index")
_TOMBSTONE_1: Final = ("kind", "key", "reason", "closed_us", "part", "late")
_LINK_1: Final = ("request", "instance", "first_offset", "first_index")
_PARENT_1: Final = ("source", "process", "logger", "time_s")
_PARENT_PLACE: Final = ("gone", "first_offset", "first_index", "line")
_PARENT_FLAGS_1: Final = ("in_frames", "session_id", "headerless", "newest")
# In format 1 the place of a parent is one of these numbers, or a list: where the line is.
_NO_LINE: Final = 0
_GONE: Final = 1


def from_format_1(change: Change) -> Change:
    """Return what version 0.1.0 wrote as a change of format 2.

    Raises `KeyError`, `IndexError`, `TypeError` or `ValueError` where it is none of format 1.
    """
    sessions, lines = len(change["firsts"]), len(change["texts"])
    of_sessions = {
        "first_offset": change["firsts"],
        "first_index": _dense(change["first_indices"], sessions, 0),
        "seen_us": change["seen"],
        "known": change["from"],
        "count": change["count"],
    }
    of_lines = {
        "time": change["times"],
        "offset": change["offsets"],
        "index": _dense(change["indices"], lines, 0),
        "head": change["texts"],
        "tail": _dense(change["tails"], lines, None),
        "rest": _dense(change["rest"], lines, None),
    }
    of_parents = (*_PARENT_1, *_PARENT_PLACE, *_PARENT_FLAGS_1)
    found = {
        "clock": dict(zip(_CLOCK_1, change["clock"], strict=True)),
        "sessions": of_columns(SESSIONS, sessions, of_sessions),
        "heads": table_of_lists(HEADS, _HEAD_1, (_with_hosts(head, None) for head in change["heads"])),
        "unit": change["unit"],
        "lines": of_columns(LINES, lines, of_lines),
        "texts": change["text"],
        "ends": table_of_lists(ENDS, _END_1, change["ends"]),
        "judged": table_of_lists(JUDGED, _JUDGED_1, change.get("judged", ())),
        "tombstones": table_of_lists(TOMBSTONES, _TOMBSTONE_1, change.get("tombs", ())),
        "links": table_of_lists(LINKS, _LINK_1, map(_link_from_1, change["links"])),
        "parents": table_of_lists(PARENTS, of_parents, map(_parent_from_1, change["parents"])),
    }
    return {name: value for name, value in found.items() if value}


def to_format_1(change: Change) -> Change:
    """Return a change of format 2 as version 0.1.0 writes and reads it; fields that it does not know are left out."""
    sessions, lines = change.get("sessions", {}), change.get("lines", {})
    clock = CLOCK | change.get("clock", {})
    found = {
        "clock": [clock[name] for name in _CLOCK_1],
        "firsts": column(SESSIONS, sessions, "first_offset"),
        "first_indices": _sparse(column(SESSIONS, sessions, "first_index"), 0),
        "heads": [_with_hosts(head, []) for head in lists_of_table(HEADS, _HEAD_1, change.get("heads", {}))],
        "seen": column(SESSIONS, sessions, "seen_us"),
        "from": column(SESSIONS, sessions, "known"),
        "count": column(SESSIONS, sessions, "count"),
        "unit": change.get("unit", 1),
        "times": column(LINES, lines, "time"),
        "offsets": column(LINES, lines, "offset"),
        "indices": _sparse(column(LINES, lines, "index"), 0),
        "texts": column(LINES, lines, "head"),
        "tails": _sparse(column(LINES, lines, "tail"), None),
        "rest": _sparse(column(LINES, lines, "rest"), None),
        "text": change.get("texts", []),
        "ends": lists_of_table(ENDS, _END_1, change.get("ends", {})),
        "judged": lists_of_table(JUDGED, _JUDGED_1, change.get("judged", {})),
        "tombs": lists_of_table(TOMBSTONES, _TOMBSTONE_1, change.get("tombstones", {})),
        "links": [_link_to_1(link) for link in lists_of_table(LINKS, _LINK_1, change.get("links", {}))],
    }
    parents = change.get("parents", {})
    heads, places, flags = (
        lists_of_table(PARENTS, names, parents) for names in (_PARENT_1, _PARENT_PLACE, _PARENT_FLAGS_1)
    )
    found["parents"] = [
        [*head, _place_to_1(*place), *flag] for head, place, flag in zip(heads, places, flags, strict=True)
    ]
    return found


def _dense(values: dict[str, Any], count: int, default: Any) -> list[Any]:  # noqa: ANN401 - a JSON value
    found = [default] * count
    for place, value in values.items():
        found[int(place)] = value
    return found


def _sparse(values: list[Any], default: object) -> dict[str, Any]:
    return {str(place): value for place, value in enumerate(values) if value != default}


def _with_hosts(head: Sequence[Any], none: list[str] | None) -> list[Any]:
    """Return a head in which no hosts at all are written as `none`."""
    place = _HEAD_1.index("hosts")
    return [*head[:place], head[place] or none, *head[place + 1 :]]


def _link_from_1(link: Sequence[Any]) -> tuple[Any, ...]:
    request, *instance = link
    return (request, *instance, None, 0) if len(instance) == 1 else (request, "", *instance)


def _link_to_1(link: Sequence[Any]) -> list[Any]:
    request, instance, first_offset, first_index = link
    return [request, instance] if first_offset is None else [request, first_offset, first_index]


def _parent_from_1(parent: Sequence[Any]) -> tuple[Any, ...]:
    *event, place, in_frames, session_id, headerless, newest = parent
    where = (0, *place) if isinstance(place, list) else (int(place == _GONE), None, 0, 0)
    return (*event, *where, in_frames, session_id, headerless, newest)


def _place_to_1(gone: int, first_offset: int | None, first_index: int, line: int) -> int | list[int]:
    if first_offset is not None:
        return [first_offset, first_index, line]
    return _GONE if gone else _NO_LINE
