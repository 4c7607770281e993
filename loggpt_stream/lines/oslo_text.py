"""oslo.log's text layout: `time pid LEVEL logger [context] [instance: uuid] message`, and what a text names.

Every pattern here is anchored or begins with literal text, and repeats only bounded sets that cannot match what
follows them: time is linear in the length of the line.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from loggpt_stream.lines.record import LATEST_S

MAX_LINE_CHARS: Final = 8192
MAX_CONTINUATION_LINES: Final = 200

UUID: Final = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"

_LEVELS: Final = "TRACE|DEBUG|INFO|AUDIT|NOTICE|WARNING|WARN|ERROR|CRITICAL|FATAL"
_PREFIX_LEVELS: Final = frozenset({"ERROR", "TRACE"})
_TIME: Final = r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?"
_HEADER: Final = re.compile(
    rf"{_TIME} (?:(\d{{1,10}}) )?({_LEVELS}) ([^\s\[\]]{{1,255}})(?: (.*)|$)", re.DOTALL | re.ASCII
)
_INSTANCES: Final = re.compile(rf"\[instance: ({UUID})\] ?(?:\[instance: {UUID}\] ?)*")
_MAX_CONTEXT_CHARS: Final = 1024
_MIN_IDENTITY_FIELDS: Final = 5
_NOBODY: Final = frozenset({"-", "None", ""})
_ANY_TIME: Final = re.compile(rf"{_TIME}(?!\d)", re.ASCII)
_FILE_CHARS: Final = 320
_ROTATED: Final = re.compile(r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\Z", re.ASCII)
_DEBUG_PLACE: Final = re.compile(r"/\S{1,1024}:\d{1,7}", re.ASCII)

# What the text itself calls an instance: (text that every match contains, pattern). UUIDs of ports, volumes, images and
# migrations stand behind other words. libvirt names a domain by its instance's UUID. Where nova's resource tracker says
# that an instance with allocations is not in the database, it is mostly a migration, which holds allocations too.
_NAMED: Final = tuple(
    (needs, re.compile(f"{pattern}({UUID})(?![0-9a-fA-F-]| has allocations against this compute host but is not)"))
    for needs, pattern in (
        ("/servers/", "/servers/"),
        ("nstance", r"nstance(?:s/|[ _-]?(?:[Uu][Uu])?[Ii][Dd])?['\"]?(?:: ?|= ?| )?\[?['\"]?"),
        ("INSTANCE", r"INSTANCE(?:[ _-]?(?:UU)?ID)?['\"]?(?:: ?|= ?| )?\[?['\"]?"),
        ("server_uuid", r"server_uuid['\"]?(?:: ?|= ?)['\"]?"),
        ("matching uuid", r"matching uuid ['\"]?"),
        ("adapter device", r"adapter device (?:to|from) "),
    )
)

_MAX_SECONDS: Final = 4096
_seconds: dict[str, int | None] = {}


class Header(NamedTuple):
    """The header of one line.

    time_s: epoch seconds, None where the time is none (the 40th of a month). context: the text inside the context
    bracket, None where there is no such bracket. file: the file's name that loghub puts before the line, else None.
    start: where in the line the time begins.
    """

    time_s: float | None
    pid: str
    level: str
    logger: str
    context: str | None
    instance_id: str | None
    message: str
    file: str | None
    start: int

    @property
    def is_prefix(self) -> bool:
        """Tell whether this is oslo.log's logging_exception_prefix: no context, and always ERROR (once TRACE)."""
        return self.context is None and self.level in _PREFIX_LEVELS


def parse_header(line: str) -> Header | None:
    """Return the header of a line, or None where it has none."""
    match = _HEADER.match(line)
    file, start = None, 0
    if match is None:
        end = line.find(" ", 0, _FILE_CHARS)
        if end < 0 or ".log" not in line[:end]:
            return None
        file, start = line[:end], end + 1
        match = _HEADER.match(line, start)
        if match is None:
            return None
    second, fraction, zone, pid, level, logger, rest = match.groups()
    context, instance_id, message = split_message(rest or "")
    return Header(
        _time_s(second, fraction, zone),
        pid or "",
        "WARNING" if level == "WARN" else level,
        logger,
        context,
        instance_id,
        message,
        file,
        start,
    )


def split_file(line: str) -> tuple[str | None, str]:
    """Return (file name, rest) of a line without header; loghub puts the rotated file's name before these lines too."""
    end = line.find(" ", 0, _FILE_CHARS)
    if end > 0 and ".log." in line[:end] and _ROTATED.search(line[:end]):
        return line[:end], line[end + 1 :]
    return None, line


def split_message(text: str) -> tuple[str | None, str | None, str]:
    """Return (context, instance UUID, message) of what follows a logger's name."""
    context = instance_id = None
    if text.startswith("["):
        end = text.find("]", 0, _MAX_CONTEXT_CHARS)
        if _is_context(text[1:end]):
            context, text = text[1:end], text[end + 1 :].removeprefix(" ")
        if text.startswith("[instance: "):
            match = _INSTANCES.match(text)
            if match:
                instance_id, text = match[1].lower(), text[match.end() :]
    return context, instance_id, text


def _is_context(text: str) -> bool:
    """Tell whether a bracket holds a request context, and not a message's own words or `instance: …`.

    It is `-`; or request ids and an identity, where the newest layout puts the global request id (or None) first; or an
    identity alone.
    """
    if text == "-":
        return True
    if text.startswith(("req-", "None req-", "- req-", " req-")):
        return "[" not in text
    return text.startswith(("None ", "- ")) and text.count(" ") >= _MIN_IDENTITY_FIELDS - 1 and "[" not in text


def read_context(context: str | None) -> tuple[str | None, str | None, str | None]:
    """Return (request id, global request id, project id) of a context, each None where it names none.

    The newest layout names the global request id first. The project is the second field of the identity behind them.
    """
    if not context or context == "-":
        return None, None, None
    fields = context.split(" ", 4)
    global_request_id = request_id = None
    if len(fields) > 1 and fields[1].startswith("req-"):
        request_id, project_at = fields[1], 3
        global_request_id = fields[0] if fields[0].startswith("req-") else None
    elif fields[0].startswith("req-"):
        request_id, project_at = fields[0], 2
    else:
        project_at = 1
    project = fields[project_at] if project_at < len(fields) else "-"
    return request_id, global_request_id, None if project in _NOBODY else project


def named_instance(text: str) -> str | None:
    """Return the UUID that the text names as an instance, or None."""
    for needs, pattern in _NAMED:
        if needs in text:
            match = pattern.search(text)
            if match:
                return match[1].lower()
    return None


def parse_time(text: str) -> float | None:
    """Return epoch seconds of a text that begins with an ISO-like time (UTC if naive), or None if none or absurd."""
    match = _ANY_TIME.match(text)
    return _time_s(match[1], match[2], match[3]) if match else None


def without_debug_place(line: str) -> str:
    """Return a line of level DEBUG without the ` function path:line` that oslo.log ends its message with."""
    parts = line.rsplit(" ", 2)
    if len(parts) == 3 and _DEBUG_PLACE.fullmatch(parts[2]) and (parts[1].isidentifier() or parts[1][:1] == "<"):  # noqa: PLR2004 - message, function, place
        return parts[0]
    return line


def bounded_lines(lines: list[str]) -> tuple[str, ...]:
    """Return continuation lines without blank ones, the first and last of very many: the last says what happened."""
    kept = [line[:MAX_LINE_CHARS].rstrip() for line in lines if line and not line.isspace()]
    half = MAX_CONTINUATION_LINES // 2
    return tuple(kept if len(kept) <= MAX_CONTINUATION_LINES else [*kept[:half], *kept[-half:]])


def _time_s(second: str, fraction: str | None, zone: str | None) -> float | None:
    if second in _seconds:  # the lines of one second come together
        whole_s = _seconds[second]
    else:
        if len(_seconds) >= _MAX_SECONDS:
            _seconds.clear()
        whole_s = _seconds[second] = _epoch_s(second)
    if whole_s is None:
        return None
    if zone and zone != "Z":
        offset_s = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
        whole_s -= offset_s if zone[0] == "+" else -offset_s
    time_s = whole_s + float(f".{fraction}") if fraction else float(whole_s)
    # What is centuries away is no line's time; and a zone can lead out of the calendar.
    return time_s if 0 < time_s <= LATEST_S else None


def _epoch_s(second: str) -> int | None:
    try:
        return int(datetime.fromisoformat(second).replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
