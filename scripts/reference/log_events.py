"""The page of all log events: meanings from the table, everything else from the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loggpt_stream.log_events import LOG_EVENTS
from scripts.reference.markdown import code, codes, page, prose, table
from scripts.reference.scan import scan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scripts.reference.scan import Logged

_HOW: Final = """\
Events go to standard error: JSON with one object a line, or readable text on a terminal (`log_format`). Beside its own
fields each has `event` (its name), `level`, `timestamp` (UTC) and `component` (the module that speaks). `exception`
holds a traceback. Names and fields are constant, so alert rules and dashboards may rely on them.

Libraries speak too. Their warnings have the library's name as `logger`, and the same
one comes once in 30 seconds at most."""
_LEVELS: Final = ("error", "warning", "info", "debug")
_TITLES: Final = {
    "error": "Errors: look at once",
    "warning": "Warnings: look soon",
    "info": "Information",
    "debug": "Debugging",
}


def log_events_page() -> str:
    """Return the page of all log events."""
    logged = scan()
    if wrong := missing_or_unused(logged):
        raise ValueError("\n".join(wrong))
    parts = []
    for level in _LEVELS:
        names = [name for name, found in logged.items() if _worst(found) == level]
        if names:
            rows = [_row(name, logged[name]) for name in names]
            titles = ("Event", "Fields", "Meaning, what to do")
            parts.append(f"## {_TITLES[level]}\n\n{table(titles, rows)}")
    return page("Log events", "Every event that the programs log.", _HOW, *parts)


def missing_or_unused(logged: Mapping[str, Logged]) -> list[str]:
    """Return a sentence for each event that the table lacks, and each that nobody logs: what to do where."""
    wrong = [
        f'{found.places[0]} logs {name!r}, which the reference lacks: add "{name}": LogEvent("what it means", "what to '
        'do") to LOG_EVENTS in loggpt_stream/log_events.py, then run make reference'
        for name, found in logged.items()
        if name not in LOG_EVENTS
    ]
    wrong += [
        f"nothing logs {name!r}: remove or rename its entry of LOG_EVENTS in loggpt_stream/log_events.py, then run "
        "make reference"
        for name in LOG_EVENTS
        if name not in logged
    ]
    return wrong


def _worst(found: Logged) -> str:
    return min(found.levels, key=_LEVELS.index)


def _row(name: str, found: Logged) -> tuple[str, str, str]:
    event = LOG_EVENTS[name]
    levels = f"\nAlso as: {', '.join(found.levels[1:])}" if len(found.levels) > 1 else ""
    by = f"\n*By {codes(found.components)}*"
    action = "" if event.action == "Nothing." else f"\n**Do:** {prose(event.action)}"
    return code(name) + levels, codes(found.fields), prose(event.meaning) + action + by
