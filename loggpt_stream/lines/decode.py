"""A Kafka record → its log events, whichever shipper wrote it, recognised record by record.

Shapes (`Shape`): oslo.log text, plain or behind a file's name (loghub) or a syslog header; oslo.log's JSON and Fluent
formatters; kolla-ansible's fluentd; raw lines inside the JSON of Filebeat, Vector, Fluent Bit, or of anything with a
text field; OTLP/JSON. The same event gives the same level, logger, message, ids and continuation in every shape.

What becomes of bad input (`word`: the reason of the `UndecodableError`):

- no value: `null_value`; more than MAX_RECORD_BYTES: `too_long`;
- bytes that are mostly no text: `not_text`; a few bytes that are no UTF-8: replaced;
- JSON that does not parse (cut off, nested too deep): `bad_json`; JSON without a text: `no_text`; in an array or an
  OTLP record, entries without text are passed over where others have one;
- another shape than the pinned one: `other_shape`; a record that this decoder fails on: `decoder_failed`;
- a line longer than MAX_LINE_CHARS is cut; of very many continuation lines the first and the last are kept;
- a time that is none, or absurd: the envelope's, else Kafka's counts; another field of the wrong type counts as absent;
- a line without header, blank ones too, is a fragment: of the event before it, or a line of its own.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from loggpt_stream.lines.decode_around import (
    TEXT_KEYS,
    Envelope,
    around_json,
    around_syslog,
    dict_of,
    dicts_of,
    first_time,
    name_of,
    service_of,
    text_of,
)
from loggpt_stream.lines.decode_structured import layout_of, structured_event
from loggpt_stream.lines.names import DeadLetterReason
from loggpt_stream.lines.oslo_text import (
    MAX_LINE_CHARS,
    bounded_lines,
    named_instance,
    parse_header,
    read_context,
    split_file,
    without_debug_place,
)
from loggpt_stream.lines.record import LATEST_S, Event, Record, UndecodableError
from loggpt_stream.lines.shapes import Shape

if TYPE_CHECKING:
    from loggpt_stream.lines.oslo_text import Header

# Brokers take 1 MB by default. Decoding takes up to twelve times the memory of a record that is all line ends.
MAX_RECORD_BYTES: Final = 16 * 1024 * 1024

# Written by loggpt-stream route. One partition alone cannot know it, once lines are sorted by instance.
ABOUT_SEVERAL: Final = "loggpt_route_about_several"

_SESSION_HEADERS: Final = frozenset({"session_id", "session-id"})
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_OTLP_TIMES: Final = ("timeUnixNano", "observedTimeUnixNano")
_MAX_DEPTH: Final = 2  # JSON, in a text of JSON, in a text of JSON: as container logs come in a shipper's envelope
_MAX_ODD_SHARE: Final = 0.25
_ODD: Final = re.compile("[\ufffd\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # what did not decode, and controls but ESC
# A dict of Python's or a list in a message's later lines begins with a bracket too, but not like this.
_JSON: Final = re.compile(r"\s*+(?:\{\s*+[\"}]|\[\s*+(?:\{\s*+\"|\"))")

# Bound here: an enum's member costs a look-up for every line.
_PLAIN: Final = Shape.PLAIN
_LOGHUB: Final = Shape.LOGHUB
_SYSLOG: Final = Shape.SYSLOG

_Found = list[tuple[Shape, Event]]


def decode(record: Record, *, pin: Shape | None = None) -> list[Event]:
    """Return the log events of a record, at least one. `pin` refuses every other shape.

    With a text shape pinned, a line that begins like JSON and is none is a line.

    Raises `UndecodableError` where the record holds no event; never anything else, whatever the bytes.
    """
    try:
        return _decode(record, pin)
    except UndecodableError:
        raise
    except Exception as error:
        # A bug of the decoder. Let out, it would end every process that reads this record, again and again.
        raise UndecodableError(DeadLetterReason.DECODER_FAILED, repr(error)) from error


def _decode(record: Record, pin: Shape | None) -> list[Event]:
    if record.value is None:
        raise UndecodableError(DeadLetterReason.NULL_VALUE, "the record has no value")
    if len(record.value) > MAX_RECORD_BYTES:
        raise UndecodableError(
            DeadLetterReason.TOO_LONG, f"{len(record.value)} bytes, and at most {MAX_RECORD_BYTES} are read"
        )
    # A producer may write any number as a timestamp; outside these it is no date.
    time_s = record.timestamp_s if 0.0 <= record.timestamp_s <= LATEST_S else 0.0
    envelope = Envelope(_PLAIN, time_s, _session_header(record) if record.headers else None)
    text = _text(record.value)
    if pin is not None:
        events = _pinned(text, envelope, pin)
    else:
        events = [event for _, event in _decode_text(text, envelope, depth=0)]
    if not record.headers:
        return events
    trace, several = _traceparent(record), any(name == ABOUT_SEVERAL for name, _ in record.headers)
    if trace is None and not several:
        return events
    return [replace(event, traceparent=trace, about_several=several) for event in events]


def _pinned(text: str, envelope: Envelope, pin: Shape) -> list[Event]:
    try:
        found = _decode_text(text, envelope, depth=0)
    except UndecodableError as error:
        if error.reason != DeadLetterReason.BAD_JSON or not pin.is_text:
            raise
        found = _lines(text, envelope)
    for shape, event in found:
        # A line without header has nothing to tell the text shapes apart by.
        if shape != pin and not (shape == _PLAIN and pin.is_text and not event.logger):
            raise UndecodableError(DeadLetterReason.OTHER_SHAPE, f"the record is {shape}, and {pin} is pinned")
    return [event for _, event in found]


def _session_header(record: Record) -> str | None:
    return next(
        (
            name_of(value.decode(errors="replace"))
            for name, value in record.headers
            if name in _SESSION_HEADERS and value
        ),
        None,
    )


def _traceparent(record: Record) -> str | None:
    """Return the W3C trace context of a record, or None where there is none or it is malformed."""
    for name, value in record.headers:
        if name == "traceparent" and value and _TRACEPARENT.fullmatch(value):
            return value.decode()
    return None


def _text(value: bytes) -> str:
    try:
        text = value.decode()
        if "\0" not in text:
            return text
    except UnicodeDecodeError:
        text = value.decode(errors="replace")
    if _ODD.subn("", text)[1] > _MAX_ODD_SHARE * len(text):
        raise UndecodableError(DeadLetterReason.NOT_TEXT, f"{len(value)} bytes that are mostly no text")
    return text


def _decode_text(text: str, envelope: Envelope, depth: int) -> _Found:
    if depth <= _MAX_DEPTH and _JSON.match(text):
        return _decode_json(text, envelope, depth)
    syslog = around_syslog(text, envelope)
    if syslog is None:
        return _lines(text, envelope)
    around, text = syslog
    shape = _SYSLOG if depth == 0 else envelope.shape
    return _reshaped(_decode_text(text, around, depth + 1), shape)


def _reshaped(found: _Found, shape: Shape) -> _Found:
    return [(shape, event) for _, event in found]


def _lines(text: str, envelope: Envelope) -> _Found:
    """Return the events of raw text: each line with a context begins one, other lines continue it."""
    found: _Found = []
    begun: tuple[str, Header | None] | None = None
    more: list[str] = []
    for whole_line in text.splitlines() or [""]:
        if begun is not None and not whole_line:
            continue
        line = whole_line[:MAX_LINE_CHARS]
        header = parse_header(line)
        if begun is not None:
            if header is None or _continues(header, begun[1]):
                more.append(line if header is None else header.message)
                continue
            found.append(_event(*begun, more, envelope))
        begun, more = (line, header), []
    if begun is not None:
        found.append(_event(*begun, more, envelope))
    return found


def _continues(header: Header, begun: Header | None) -> bool:
    return header.is_prefix and begun is not None and header.logger == begun.logger and header.pid == begun.pid


def _event(line: str, header: Header | None, more: list[str], envelope: Envelope) -> tuple[Shape, Event]:
    """Return (shape, event) of a line and what continues it."""
    if header is None:
        file, message = split_file(line)
        return envelope.shape, Event(
            time_s=envelope.time_s,
            level="",
            logger="",
            message=message.rstrip(),
            raw=line.rstrip(),
            continuation=bounded_lines(more) if more else (),
            fragment=True,
            session_id=envelope.session_id,
            instance_in_text=named_instance(line),
            host=envelope.host,
            service=envelope.service,
            source=envelope.source or file or "",
            pid=envelope.pid,
        )
    message, context, file, service = header.message.rstrip(), header.context, header.file, envelope.service
    if header.level == "DEBUG":
        if more:
            more[-1] = without_debug_place(more[-1].rstrip())
        else:
            message = without_debug_place(message).rstrip()
    if file and not service:
        service = service_of(file)
    request_id, global_request_id, project_id = read_context(context)
    return _LOGHUB if file and envelope.shape == _PLAIN else envelope.shape, Event(
        header.time_s or envelope.time_s,
        header.level,
        header.logger,
        message,
        line[header.start :].rstrip(),
        bounded_lines(more) if more else (),
        header.is_prefix,
        envelope.session_id,
        header.instance_id,
        named_instance(message),
        request_id,
        global_request_id,
        project_id,
        envelope.host,
        service,
        envelope.source or file or "",
        header.pid or envelope.pid,
    )


def _decode_json(text: str, envelope: Envelope, depth: int) -> _Found:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UndecodableError(DeadLetterReason.BAD_JSON, str(error)) from None
    if isinstance(value, dict):
        return _decode_object(value, envelope, depth)
    return _decode_all(value, envelope, depth)


def _decode_all(values: list[Any], envelope: Envelope, depth: int) -> _Found:
    """Return the events of all entries of an array; those without text are passed over, unless all are."""
    found: _Found = []
    refused = UndecodableError(DeadLetterReason.NO_TEXT, "an array without text")
    for value in values:
        try:
            if isinstance(value, dict):
                found += _decode_object(value, envelope, depth)
            elif isinstance(value, str):
                found += _decode_text(value, envelope, depth + 1)
        except UndecodableError as error:
            refused = error
    if not found:
        raise refused
    return found


def _decode_object(value: dict[str, Any], envelope: Envelope, depth: int) -> _Found:
    if "resourceLogs" in value:
        return _reshaped(_otlp(value, envelope, depth), Shape.OTLP if depth == 0 else envelope.shape)
    layout = layout_of(value)
    around = around_json(value, envelope)
    if layout is not None:
        return [(layout.shape if depth == 0 else envelope.shape, structured_event(value, layout, around))]
    if depth == 0:
        around = around._replace(shape=_shape(value))
    text = text_of(value)
    if text is None:
        raise UndecodableError(DeadLetterReason.NO_TEXT, f"none of {', '.join(TEXT_KEYS)} holds text")
    return _decode_text(text, around, depth + 1)


def _shape(value: dict[str, Any]) -> Shape:
    log = value.get("log")
    if "@metadata" in value or isinstance(log, dict):
        return Shape.FILEBEAT
    if "source_type" in value:
        return Shape.VECTOR
    if "session_id" in value:
        return Shape.SESSION_JSON
    return Shape.FLUENTBIT if isinstance(log, str) else Shape.JSON


def _otlp(value: dict[str, Any], envelope: Envelope, depth: int) -> _Found:
    found: _Found = []
    refused = UndecodableError(DeadLetterReason.NO_TEXT, "no OTLP log record has a text body")
    for resource in dicts_of(value.get("resourceLogs")):
        names = _attributes(dict_of(resource.get("resource")).get("attributes"))
        for scope in dicts_of(resource.get("scopeLogs")):
            for log in dicts_of(scope.get("logRecords")):
                text = text_of(log)
                if text is None:
                    continue
                attributes = {**names, **_attributes(log.get("attributes"))}
                file = attributes.get("log.file.path") or envelope.file
                around = envelope._replace(
                    time_s=first_time(log, _OTLP_TIMES, envelope.time_s),
                    session_id=attributes.get("session_id") or envelope.session_id,
                    host=attributes.get("host.name") or envelope.host,
                    service=attributes.get("service.name") or (service_of(file) if file else None) or envelope.service,
                    file=file,
                )
                try:
                    found += _decode_text(text, around, depth + 1)
                except UndecodableError as error:
                    refused = error
    if not found:
        raise refused
    return found


def _attributes(listed: object) -> dict[str, str]:
    """Return the attributes of an OTLP resource or record that hold text."""
    pairs = (
        (name_of(each.get("key")), name_of(dict_of(each.get("value")).get("stringValue"))) for each in dicts_of(listed)
    )
    return {key: text for key, text in pairs if key and text}
