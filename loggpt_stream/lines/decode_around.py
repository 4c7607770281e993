"""What stands around a log line: the JSON that a shipper wraps it in, or a syslog header."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loggpt_stream.lines.oslo_text import parse_time
from loggpt_stream.lines.record import LATEST_S

if TYPE_CHECKING:
    from loggpt_stream.lines.shapes import Shape

TEXT_KEYS: Final = ("message", "Payload", "log", "MESSAGE", "msg", "short_message", "body")
MAX_NAME_CHARS: Final = 256

_TIME_KEYS: Final = ("@timestamp", "timestamp", "Timestamp", "time", "_SOURCE_REALTIME_TIMESTAMP")
_NUMBER: Final = re.compile(r"\d{1,20}(?:\.\d{1,20})?", re.ASCII)
_SERVICE_OF_FILE: Final = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,64})\.log")

_RFC5424: Final = re.compile(
    r"<\d{1,3}>1 (?P<time>\S{1,64}) (?P<host>\S{1,255}) (?P<app>\S{1,128}) (?P<pid>\S{1,128}) \S{1,32} "
    r"(?:-|(?:\[(?:[^\]\\]|\\.){0,2048}+\]){1,16}+)(?: \ufeff?(?P<text>.*))?",
    re.DOTALL,
)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_RFC3164: Final = re.compile(
    rf"(?:<\d{{1,3}}>)?(?:(?P<month>{'|'.join(_MONTHS)}) (?P<day>[ 0-3]\d) (?P<clock>\d\d:\d\d:\d\d)"
    r"|(?P<time>\d{4}-\d\d-\d\dT\S{8,40})) "
    r"(?:(?P<host>[^\s\[]{1,255}(?<!:)) )?(?P<app>[^\s:\[]{1,128})(?:\[(?P<pid>\d{1,10})\])?:(?P<text>.*)",
    re.DOTALL | re.ASCII,
)
_SYSLOG_STARTS: Final = frozenset(_MONTHS)
_HALF_YEAR_S: Final = 183 * 86_400


class Envelope(NamedTuple):
    """What is known of a text from around it. `shape` names the outermost envelope."""

    shape: Shape
    time_s: float
    session_id: str | None = None
    host: str | None = None
    service: str | None = None
    file: str | None = None
    pid: str = ""

    @property
    def source(self) -> str:
        """Return what tells writers apart, "" where nothing is known."""
        where = self.file or self.service or ""
        return f"{self.host or ''}/{where}" if self.host or where else ""


def around_json(value: dict[str, Any], envelope: Envelope) -> Envelope:
    """Return the envelope with what the JSON around a text says of time, session, host, service and file."""
    log, host = value.get("log"), value.get("host")
    path = dict_of(log.get("file")).get("path") if isinstance(log, dict) else None
    file = name_of(path) or name_of(value.get("file")) or envelope.file
    return Envelope(
        envelope.shape,
        first_time(value, _TIME_KEYS, envelope.time_s),
        name_of(value.get("session_id")) or envelope.session_id,
        name_of(host.get("name") if isinstance(host, dict) else host)
        or name_of(value.get("Hostname"))
        or name_of(value.get("hostname"))
        or name_of(value.get("_HOSTNAME"))
        or envelope.host,
        name_of(value.get("service"))
        or name_of(value.get("programname"))
        or name_of(value.get("SYSLOG_IDENTIFIER"))
        or (service_of(file) if file else None)
        or envelope.service,
        file,
        envelope.pid,
    )


def around_syslog(text: str, envelope: Envelope) -> tuple[Envelope, str] | None:
    """Return (envelope, text behind the header) of a line by RFC 5424 or RFC 3164, or None where it is neither."""
    if text[:1] == "<":
        match = _RFC5424.match(text) or _RFC3164.match(text)
    elif text[:3] in _SYSLOG_STARTS:
        match = _RFC3164.match(text)
    else:
        return None
    if match is None:
        return None
    parts = match.groupdict()
    month = parts.get("month")
    time_s = _in_year_of(envelope.time_s, month, parts["day"], parts["clock"]) if month else parse_time(parts["time"])
    pid = parts["pid"]
    around = Envelope(
        envelope.shape,
        envelope.time_s if time_s is None else time_s,
        envelope.session_id,
        _unless_dash(parts["host"]) or envelope.host,
        _unless_dash(parts["app"]),
        envelope.file,
        pid if pid and pid.isdigit() else "",
    )
    # Behind an RFC 3164 header comes one space, which rsyslog keeps when it rewrites the line by RFC 5424. It also
    # writes line ends and tabs within a message as their octal numbers.
    behind = (parts["text"] or "").removeprefix(" ")
    return around, behind.replace("#012", "\n").replace("#011", "\t")


def first_time(value: dict[str, Any], keys: tuple[str, ...], default_s: float) -> float:
    """Return epoch seconds of the first of `keys` that holds a time."""
    for key in keys:
        held = value.get(key)
        if held is not None:
            time_s = time_of(held)
            if time_s is not None:
                return time_s
    return default_s


def time_of(value: object) -> float | None:
    """Return epoch seconds of ISO text, or of a number (or its text) in seconds, ms, µs or ns. None if absurd."""
    if isinstance(value, float) and 0 < value <= LATEST_S:
        return value
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return parse_time(value)
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    time_s = float(value)
    for _ in range(3):
        if time_s > LATEST_S:
            time_s /= 1000
    return time_s if 0 < time_s <= LATEST_S else None


def service_of(file: str) -> str | None:
    """Return the service that writes a log file: `nova-compute` of `/var/log/nova/nova-compute.log.1`."""
    match = _SERVICE_OF_FILE.match(file, file.rfind("/") + 1)
    return match[1] if match else None


def text_of(value: dict[str, Any]) -> str | None:
    """Return the text of a JSON object: "" where it has only blank ones, None where it has none."""
    found = None
    for key in TEXT_KEYS:
        text = value.get(key)
        if isinstance(text, dict) and key == "body":
            text = text.get("stringValue")
        if isinstance(text, str):
            if text and not text.isspace():
                return text
            found = ""
    return found


def string_of(value: object) -> str:
    """Return the value if it is text, else ""."""
    return value if isinstance(value, str) else ""


def name_of(value: object) -> str | None:
    """Return a name (of a host, session, …) from JSON, cut to MAX_NAME_CHARS, or None where there is none."""
    if isinstance(value, str):
        return value[:MAX_NAME_CHARS].strip() or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def dict_of(value: object) -> dict[str, Any]:
    """Return the value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts_of(value: object) -> list[dict[str, Any]]:
    """Return the JSON objects in a JSON array; none where the value is no array."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _unless_dash(text: str | None) -> str | None:
    return None if text == "-" else text


def _in_year_of(near_s: float, month: str, day: str, clock: str) -> float | None:
    """Return epoch seconds of a time without year: in whichever year brings it nearest to `near_s`."""
    if not 0 < near_s <= LATEST_S:
        return None
    year = datetime.fromtimestamp(near_s, UTC).year
    for each in (year, year - 1, year + 1):
        text = f"{each:04d}-{_MONTHS.index(month) + 1:02d}-{day.replace(' ', '0')} {clock}"
        time_s = parse_time(text)
        if time_s is not None and abs(time_s - near_s) < _HALF_YEAR_S:
            return time_s
    return None
