"""JSON shapes that keep the parts of a line apart: oslo.log's JSON and Fluent formatters, kolla-ansible's fluentd.

Their message has no header, no `[instance: …]` and no error summary. The event is put together as oslo.log's text
formatter would have written it, so that it is the same event as from a text log.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from loggpt_stream.lines.decode_around import MAX_NAME_CHARS, dict_of, first_time, name_of, string_of
from loggpt_stream.lines.oslo_text import (
    MAX_LINE_CHARS,
    UUID,
    bounded_lines,
    named_instance,
    parse_header,
    read_context,
    split_message,
)
from loggpt_stream.lines.record import Event
from loggpt_stream.lines.shapes import Shape

if TYPE_CHECKING:
    from loggpt_stream.lines.decode_around import Envelope

_UUID: Final = re.compile(UUID)
_UUID_FIELD: Final = re.compile(rf"(?<![A-Za-z_])uuid['\"]?[=:] ?['\"]?({UUID})")
_BRACKET_OR_UUID: Final = re.compile(rf"[\[({{]|[\])}}]|{_UUID_FIELD.pattern}")
_MAX_REPR_CHARS: Final = 65_536
_TIME_KEYS: Final = ("created", "asctime", "time", "Timestamp")
_MAX_STAMPS: Final = 4096
_stamps: dict[int, str] = {}


class Layout(NamedTuple):
    """The keys of a shape. `flat`: the request context stands beside the message and not in `context`."""

    shape: Shape
    text: str
    level: str
    logger: str
    pid: str
    flat: bool


_OSLO_JSON: Final = Layout(Shape.OSLO_JSON, "message", "levelname", "name", "process", flat=False)
_OSLO_FLUENT: Final = Layout(Shape.OSLO_FLUENT, "message", "level", "name", "process", flat=False)
_KOLLA: Final = Layout(Shape.KOLLA, "Payload", "log_level", "python_module", "Pid", flat=True)


def layout_of(value: dict[str, Any]) -> Layout | None:
    """Return the layout of a JSON object that keeps the parts of a line apart, or None where it does not."""
    layout = None
    if "name" in value and "message" in value:
        if "levelname" in value:
            layout = _OSLO_JSON
        elif "level" in value and ("traceback" in value or "error_summary" in value):
            layout = _OSLO_FLUENT
    elif "python_module" in value and "Payload" in value:
        layout = _KOLLA
    return layout if layout is not None and isinstance(value[layout.text], str) else None


def structured_event(value: dict[str, Any], layout: Layout, around: Envelope) -> Event:
    """Return the event of a JSON object of this layout. A field of the wrong type counts as absent."""
    message, summary = string_of(value.get(layout.text)), string_of(value.get("error_summary"))
    first, *more = (f"{message}: {summary}" if summary else message).splitlines() or [""]
    more += string_of(value.get("traceback")).splitlines()
    fields = value if layout.flat else dict_of(value.get("context"))
    request_id, global_request_id = _request(fields.get("request_id")), _request(fields.get("global_request_id"))
    context, bracket, project_id = None, "-", name_of(fields.get("project_id")) or name_of(fields.get("tenant_id"))
    if request_id:
        bracket = f"{global_request_id} {request_id} {_identity(fields)}"
    if layout.flat and not request_id:
        # fluentd cuts only the newest layout's context out of the message: `[-]` and older ones are still there.
        context, in_bracket, first = split_message(first[:MAX_LINE_CHARS])
        request_id, global_request_id, project_id = read_context(context)
        bracket = context or "-"
    else:
        first = first.removeprefix(" ") if layout.flat else first
        _, in_bracket, first = split_message(f"[-] {first[:MAX_LINE_CHARS]}")
    first = first.rstrip()
    level = _level(value.get(layout.level))
    logger = (name_of(value.get(layout.logger)) or "")[:MAX_NAME_CHARS]
    instance_id = in_bracket or _instance(dict_of(value.get("extra")), fields, logger)
    pid = name_of(value.get(layout.pid)) or ""
    time_s = first_time(value, _TIME_KEYS, around.time_s)
    return Event(
        time_s=time_s,
        level=level,
        logger=logger,
        message=first,
        # One line, whatever the names in it hold.
        raw=" ".join(
            (
                f"{_stamp(time_s)} {pid}{' ' if pid else ''}{level} {logger} [{bracket}] "
                f"{f'[instance: {instance_id}] ' if instance_id else ''}{first}"
            ).splitlines()
        )[:MAX_LINE_CHARS].rstrip(),
        continuation=bounded_lines([_without_prefix(line) for line in more if line]) if more else (),
        # A traceback's line, shipped as a record of its own, has neither a request nor even `[-]`.
        fragment=layout.flat and level in ("ERROR", "TRACE") and context is None and request_id is None,
        session_id=around.session_id,
        instance_id=instance_id,
        instance_in_text=named_instance(first),
        request_id=request_id,
        global_request_id=global_request_id,
        project_id=None if project_id == "-" else project_id,
        host=around.host,
        service=around.service,
        source=around.source,
        pid=pid,
    )


def _level(value: object) -> str:
    level = (name_of(value) or "")[:32].upper()
    return "WARNING" if level == "WARN" else level


def _identity(fields: dict[str, Any]) -> str:
    """Return the six fields that oslo.log's text layout names behind the request ids, `-` for an empty one."""
    get = fields.get
    parts = (
        get("user") or get("user_id"),
        get("project_id") or get("tenant_id"),
        get("domain") or get("domain_id"),
        get("system_scope"),
        get("user_domain"),
        get("project_domain"),
    )
    return " ".join([string_of(part)[:MAX_NAME_CHARS] or "-" for part in parts])


def _request(value: object) -> str | None:
    """Return a request id with its `req-`, which kolla's fluentd strips."""
    if not isinstance(value, str):
        return None
    if value.startswith("req-"):
        return value[:MAX_NAME_CHARS] if " " not in value else None
    return f"req-{value}" if _UUID.fullmatch(value) else None


def _instance(extra: dict[str, Any], context: dict[str, Any], logger: str) -> str | None:
    """Return the instance that a JSON shape names: a whole object, its repr, its UUID, or the context's resource."""
    instance = extra.get("instance")
    if isinstance(instance, str):
        instance = _object_of(instance) or instance
    named: object = None
    if isinstance(instance, dict):
        named = instance.get("uuid")
    elif isinstance(instance, str):
        named = instance if _UUID.fullmatch(instance) else _uuid_in_repr(instance[:_MAX_REPR_CHARS])
    # A context's resource may be anything that a service deals in: in nova it is the instance.
    resource = context.get("resource_uuid") if logger.startswith("nova.") else None
    for uuid in (named, extra.get("instance_uuid"), resource):
        if isinstance(uuid, str) and _UUID.fullmatch(uuid):
            return uuid.lower()
    return None


def _object_of(text: str) -> object:
    """Return the object that a text of JSON holds (oslo.log's Fluent formatter dumps what it is given), else None."""
    if not text.startswith("{"):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # Python's own repr of a dict, or cut off
        return None


def _uuid_in_repr(text: str) -> str | None:
    """Return the object's own `uuid` from its repr; those of its services, flavor and network stand deeper."""
    candidates = set(_UUID_FIELD.findall(text))
    if len(candidates) == 1:
        return str(candidates.pop())
    depth = 0
    for match in _BRACKET_OR_UUID.finditer(text) if candidates else ():
        if match[1]:
            if depth == 1:
                return match[1]
        else:
            depth += 1 if match[0] in "[({" else -1
    return None


def _without_prefix(line: str) -> str:
    """Return a continuation line without the header that oslo.log's exception prefix may have given it."""
    header = parse_header(line[:MAX_LINE_CHARS])
    return header.message if header is not None and header.is_prefix else line


def _stamp(time_s: float) -> str:
    """Return a time as oslo.log writes it: milliseconds, cut off and not rounded."""
    second = math.floor(time_s)
    stamp = _stamps.get(second)
    if stamp is None:
        if len(_stamps) >= _MAX_STAMPS:
            _stamps.clear()
        stamp = _stamps[second] = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%d %H:%M:%S")
    # A text such as `….121` has no exact float: without the half microsecond it might read as 120 ms.
    return f"{stamp}.{min(999, int((time_s - second) * 1000 + 0.0005)):03d}"
