"""How a log line looks in Kafka, by shipper. Each shaper takes an event's marked lines and returns its records.

Shippers that read files send a record a line, tracebacks too. Formatters inside OpenStack send one record an event.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from loggpt_stream.lines.shapes import Shape
from loggpt_stream.simulator.slots import TIME_COMMA, TIME_EPOCH, TIME_ISO, TIME_NANOS, TIME_TEXT

if TYPE_CHECKING:
    from collections.abc import Callable

_RELEASE: Final = "34.0.0"
_HEADER: Final = re.compile(
    rf"{TIME_TEXT} (?P<pid>\S+) (?P<level>[A-Z]+) (?P<logger>\S+) "
    r"(?:\[(?P<context>-|(?:None|req-\S+) [^\]]*)\] )?"
    r"(?:\[instance: (?P<instance>\S+)\] ?)?"
    r"(?P<message>.*)",
    re.DOTALL,
)
_KOLLA_FIRST: Final = re.compile(rf"{TIME_TEXT} \S+ \S+ \S+ \[.*\]")
# oslo.log appends the exception that is being handled: `: nova.exception.ComputeHostNotFound: Compute host …`.
_ERROR_SUMMARY: Final = re.compile(r": ((?:[a-z_]\w*\.)+[A-Z]\w*(?:: .*)?)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Marked:
    """An event whose lines have slots. service, host: of the process that logged it. session: slot of its instance."""

    lines: tuple[str, ...]
    service: str
    host: str
    session: str


@dataclass(frozen=True, slots=True)
class _Fields:
    """What oslo.log's formatters keep apart."""

    pid: str
    level: str
    logger: str
    request: str | None
    global_request: str | None
    user: str | None
    project: str | None
    instance: str | None
    message: str
    error_summary: str
    traceback: str | None


def _fields(event: Marked) -> _Fields:
    """Take an event apart. Lines with a header after the first are its traceback, others belong to its message."""
    header = _HEADER.match(event.lines[0])
    if header is None:
        raise ValueError(f"a recorded event without header: {event.lines[0]!r}")
    message = header["message"]
    traceback: list[str] = []
    for line in event.lines[1:]:
        more = _HEADER.match(line)
        if more is None:
            message += f"\n{line}"
        else:
            traceback.append(more["message"])
    summary = _ERROR_SUMMARY.search(message)
    identity = (header["context"] or "-").split(" ")
    request = global_request = user = project = None
    if len(identity) > 1:
        first, request, user, project = (None if part in ("None", "-") else part for part in identity[:4])
        global_request = first
    return _Fields(
        pid=header["pid"],
        level=header["level"],
        logger=header["logger"],
        request=request,
        global_request=global_request,
        user=user,
        project=project,
        instance=header["instance"],
        message=message[: summary.start()] if summary else message,
        error_summary=summary[1] if summary else "",
        traceback="\n".join(traceback) if traceback else None,
    )


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _number(text: str, *slots: str) -> str:
    """Return JSON text whose `slots` stand as numbers: without the quotes around them."""
    for slot in slots:
        text = text.replace(f'"{slot}"', slot)
    return text


def _plain(event: Marked) -> list[str]:
    return list(event.lines)


def _loghub(event: Marked) -> list[str]:
    return [f"{event.service}.log.1.2026-11-23_00:00:01 {line}" for line in event.lines]


def _session_json(event: Marked) -> list[str]:
    value = {"session_id": event.session, "service": event.service, "message": "\n".join(event.lines)}
    if not event.session:
        del value["session_id"]
    return [_json(value)]


def _context(fields: _Fields) -> dict[str, Any]:
    if fields.request is None:
        return {}
    domains = "default default" if fields.user else "- -"
    return {
        "user": fields.user,
        "project_id": fields.project,
        "project": fields.project,
        "user_id": fields.user,
        "request_id": fields.request,
        "global_request_id": fields.global_request,
        "resource_uuid": None,
        "user_identity": f"{fields.user or '-'} {fields.project or '-'} - {domains}",
        "is_admin": False,
        "read_deleted": "no",
    }


def _oslo_json(event: Marked) -> list[str]:
    fields = _fields(event)
    extra: dict[str, Any] = {"project": fields.project, "version": "unknown"}
    if fields.instance:
        extra["instance"] = {"uuid": fields.instance, "host": event.host, "vm_state": "active"}
    value = {
        "message": fields.message,
        "asctime": TIME_COMMA,
        "name": fields.logger,
        "msg": "%s",
        "args": [fields.message],
        "levelname": fields.level,
        "module": fields.logger.rpartition(".")[2],
        "created": TIME_EPOCH,
        "process_name": "MainProcess",
        "process": fields.pid,
        "traceback": fields.traceback,
        "hostname": event.host,
        "error_summary": fields.error_summary,
        "context": _context(fields),
        "extra": extra,
    }
    return [_number(_json(value), TIME_EPOCH, fields.pid)]


def _fluent_json(event: Marked) -> list[str]:
    fields = _fields(event)
    extra: dict[str, Any] = {"project": fields.project, "version": "unknown"}
    if fields.instance:
        # This formatter writes objects as text.
        extra["instance"] = _json({"uuid": fields.instance, "host": event.host, "vm_state": "active"})
    value = {
        "message": fields.message,
        "time": TIME_COMMA,
        "name": fields.logger,
        "level": fields.level,
        "module": fields.logger.rpartition(".")[2],
        "process_name": "MainProcess",
        "cmdline": f"/usr/bin/{event.service} --config-file /etc/nova/nova.conf",
        "hostname": event.host,
        "traceback": fields.traceback,
        "error_summary": fields.error_summary,
        "context": _context(fields),
        "extra": extra,
    }
    return [_json(value)]


def _kolla(event: Marked) -> list[str]:
    """Return a record for each line that kolla-ansible's multi-line parser takes for a first one.

    That is a header with a bracket right behind the logger: a traceback of an instance is a record a line, any other is
    appended, headers and all.
    """
    records: list[list[str]] = []
    for line in event.lines:
        if not records or _KOLLA_FIRST.match(line):
            records.append([line])
        else:
            records[-1].append(line)
    return [_kolla_record(event, "\n".join(lines)) for lines in records]


def _kolla_record(event: Marked, text: str) -> str:
    header = _HEADER.match(text)
    if header is None:
        raise ValueError(f"a recorded event without header: {text!r}")
    instance = f"[instance: {header['instance']}] " if header["instance"] else ""
    context = header["context"]
    value = {
        "Timestamp": TIME_TEXT,
        "Pid": header["pid"],
        "log_level": header["level"],
        "python_module": header["logger"],
    }
    payload = f"{instance}{header['message']}"
    if context == "-":
        payload = f"[-] {payload}"
    elif context:
        payload = f" {payload}"
        first, request, user, project, *rest = context.split(" ")
        if first.startswith("req-"):
            value["global_request_id"] = first.removeprefix("req-")
        value["request_id"] = request.removeprefix("req-")
        value |= {"user_id": user, "tenant_id": project}
        value |= dict(zip(("domain_id", "system_scope", "user_domain", "project_domain"), rest, strict=False))
    value |= {"Payload": payload, "Hostname": event.host, "Logger": "openstack.nova", "programname": event.service}
    return _json(value)


def _filebeat(event: Marked) -> list[str]:
    return [
        _json(
            {
                "@timestamp": TIME_ISO,
                "@metadata": {"beat": "filebeat", "type": "_doc", "version": "9.2.1"},
                "message": line,
                "log": {"offset": 0, "file": {"path": f"/var/log/nova/{event.service}.log"}},
                "input": {"type": "filestream"},
                "host": {"name": event.host},
                "ecs": {"version": "8.0.0"},
            }
        )
        for line in event.lines
    ]


def _vector(event: Marked) -> list[str]:
    path = f"/var/log/nova/{event.service}.log"
    return [
        _json({"file": path, "host": event.host, "message": line, "source_type": "file", "timestamp": TIME_ISO})
        for line in event.lines
    ]


def _fluentbit(event: Marked) -> list[str]:
    return [_number(_json({"@timestamp": TIME_EPOCH, "log": line}), TIME_EPOCH) for line in event.lines]


def _rsyslog(event: Marked) -> list[str]:
    pid = _fields(event).pid
    return [f"<134>1 {TIME_ISO} {event.host} {event.service} {pid} - - {line}" for line in event.lines]


def _otlp(event: Marked) -> list[str]:
    logged = [{"timeUnixNano": TIME_NANOS, "body": {"stringValue": line}} for line in event.lines]
    resource = [
        {"key": "host.name", "value": {"stringValue": event.host}},
        {"key": "service.name", "value": {"stringValue": event.service}},
    ]
    scope = {"scope": {"name": "filelog", "version": _RELEASE}, "logRecords": logged}
    return [_json({"resourceLogs": [{"resource": {"attributes": resource}, "scopeLogs": [scope]}]})]


@dataclass(frozen=True, slots=True)
class Shipper:
    """What a shipper makes of an event: records of a shape. times: the ways in which it writes the time."""

    shape: Shape
    records: Callable[[Marked], list[str]]
    times: tuple[str, ...]


# By the name that `loggpt-stream simulate --format` has.
SHIPPERS: Final = {
    "plain": Shipper(Shape.PLAIN, _plain, (TIME_TEXT,)),
    "loghub": Shipper(Shape.LOGHUB, _loghub, (TIME_TEXT,)),
    "oslo_json": Shipper(Shape.OSLO_JSON, _oslo_json, (TIME_COMMA, TIME_EPOCH)),
    "fluent_json": Shipper(Shape.OSLO_FLUENT, _fluent_json, (TIME_COMMA,)),
    "kolla": Shipper(Shape.KOLLA, _kolla, (TIME_TEXT,)),
    "filebeat": Shipper(Shape.FILEBEAT, _filebeat, (TIME_TEXT, TIME_ISO)),
    "vector": Shipper(Shape.VECTOR, _vector, (TIME_TEXT, TIME_ISO)),
    "fluentbit": Shipper(Shape.FLUENTBIT, _fluentbit, (TIME_TEXT, TIME_EPOCH)),
    "rsyslog": Shipper(Shape.SYSLOG, _rsyslog, (TIME_TEXT, TIME_ISO)),
    "otlp": Shipper(Shape.OTLP, _otlp, (TIME_TEXT, TIME_NANOS)),
    "session_json": Shipper(Shape.SESSION_JSON, _session_json, (TIME_TEXT,)),
}
# Names of version 0.1.0, which settings may still have.
_OLD_NAMES: Final = {"shared": "session_json"}


def known_shipper(name: str) -> str:
    """Return the name of a shipper, new or old. Raises `ValueError` that says which there are."""
    name = _OLD_NAMES.get(name, name)
    if name not in SHIPPERS:
        raise ValueError(f"no such format; there are {', '.join(SHIPPERS)}")
    return name
