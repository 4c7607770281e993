"""Whatever the bytes: events or a stated refusal, in linear time, and never more than a bounded text."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.decode_around import MAX_NAME_CHARS
from loggpt_stream.lines.names import DeadLetterReason
from loggpt_stream.lines.oslo_text import MAX_CONTINUATION_LINES, MAX_LINE_CHARS
from loggpt_stream.lines.record import Event, Record, UndecodableError

VM = "b9000ad5-4f3c-4d16-8d3e-0ba96b7a2f11"
REQ = "req-7679f045-6075-4311-8700-c737a872af84"
HEAD = "2026-11-23 04:07:34.520 14618 ERROR nova.compute.manager"
LINE = f"{HEAD} [None {REQ} user project - - default default] [instance: {VM}] VM Started"
REASONS = set(DeadLetterReason) - {DeadLetterReason.DECODER_FAILED}

OBJECTS: list[dict[str, Any]] = [
    {
        "message": "x",
        "name": "nova.api",
        "levelname": "INFO",
        "created": 1.5,
        "asctime": "2026-11-23 04:07:34,520",
        "process": 1,
        "hostname": "cmp01",
        "traceback": "a\nb",
        "error_summary": "E: x",
        "context": {"request_id": REQ, "global_request_id": None, "project_id": "p", "resource_uuid": VM},
        "extra": {"instance": {"uuid": VM}, "instance_uuid": VM},
    },
    {"message": "x", "time": "2026-11-23 04:07:34", "name": "n", "level": "INFO", "traceback": None, "extra": {}},
    {
        "Timestamp": "2026-11-23 04:07:34.520",
        "Pid": "1",
        "log_level": "ERROR",
        "python_module": "n",
        "request_id": REQ[4:],
        "tenant_id": "p",
        "Payload": f" [instance: {VM}] x",
        "Hostname": "h",
        "programname": "nova-api",
    },
    {"@timestamp": "x", "@metadata": {}, "message": LINE, "log": {"file": {"path": "/a.log"}}, "host": {"name": "h"}},
    {"file": "/a.log", "host": "h", "message": LINE, "source_type": "file", "timestamp": 1},
    {"@timestamp": 1.5, "log": LINE},
    {"session_id": "s", "service": "nova-api", "message": LINE},
    {
        "resourceLogs": [
            {
                "resource": {"attributes": [{"key": "host.name", "value": {"stringValue": "h"}}]},
                "scopeLogs": [{"logRecords": [{"timeUnixNano": "1", "body": {"stringValue": LINE}}]}],
            }
        ]
    },
]


def of(value: bytes, **record: Any) -> list[Event]:
    return decode(Record(value, "logs", 0, 0, record.pop("timestamp_s", 7.0), **record))


def check(value: bytes, **record: Any) -> None:
    """Decode and check what holds for every event, or that the refusal is a stated one."""
    try:
        found = of(value, **record)
    except UndecodableError as error:
        reason: str | None = error.reason
        found = []
    else:
        reason = None
    assert bool(found) == (reason is None)
    assert reason is None or reason in REASONS
    for event in found:
        for text in (event.message, event.raw, *event.continuation):
            assert len(text) <= MAX_LINE_CHARS
            assert text == text.rstrip()
            assert len(text.splitlines()) <= 1
            text.encode()  # no lone surrogates: alerts carry these
        assert len(event.continuation) <= MAX_CONTINUATION_LINES
        for name in (event.logger, event.level, event.pid, event.session_id, event.host, event.service):
            assert name is None or len(name) <= MAX_NAME_CHARS
        assert event.time_s == 7.0 or 0 < event.time_s < 1e12


@pytest.mark.parametrize(
    "time", ["9999-12-31 23:59:59-23:59", "3926-07-01 10:00:00.000", "1970-01-01 00:00:00+14:00", "2026-02-30 10:00:00"]
)
def test_a_time_that_no_line_can_have_is_none(time: str) -> None:
    record = {"message": "x", "name": "nova", "levelname": "INFO", "asctime": time, "created": None}
    for value in (orjson.dumps(record), f"{time} 7 INFO nova.compute.manager [-] x".encode()):
        (event,) = of(value)
        assert (event.time_s, event.level) == (7.0, "INFO")


def test_a_record_that_the_decoder_fails_on_is_refused_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise IndexError("what nobody thought of")

    monkeypatch.setattr("loggpt_stream.lines.decode._decode_text", fails)
    with pytest.raises(UndecodableError, match=r"decoder_failed: IndexError.*nobody thought of"):
        of(b"x")


@pytest.mark.parametrize("field", ["level", "name", "message", "traceback"])
@pytest.mark.parametrize("separator", ["\n", "\x1e", "\x85", "\u2028"])
def test_a_name_that_holds_line_separators_breaks_no_raw_line(field: str, separator: str) -> None:
    record = {"message": "x", "time": "2026-11-23 04:07:34", "name": "nova", "level": "INFO", "traceback": ""}
    check(orjson.dumps({**record, field: f"one{separator}two"}))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null_value"),
        (bytes(range(128, 256)), "not_text"),
        (bytes(range(32)) * 4, "not_text"),
        (b"\x1f\x8b\x08\x00" + bytes(range(0, 256, 3)), "not_text"),
        (b'{"message": "cut o', "bad_json"),
        (b'{ "a": NaN}', "bad_json"),
        (b'{"a": 1} {"a": 2}', "bad_json"),
        (b'[{"message": "x"}', "bad_json"),
        (b'{"message":' * 5000, "bad_json"),
        (b'{"message": "\\ud800"}', "bad_json"),
        (b"{}", "no_text"),
        (b'{"a": 1}', "no_text"),
        (b'{"message": 1, "log": {"message": "x"}}', "no_text"),
        (b'{"message": null, "body": {"intValue": 1}}', "no_text"),
        (b'{"resourceLogs": {"a": 1}}', "no_text"),
        (b'[{"a": 1}, 3]', "no_text"),
    ],
)
def test_what_holds_no_event_is_refused_for_a_stated_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(UndecodableError) as caught:
        decode(Record(value, "logs", 0, 0, 7.0))
    assert caught.value.reason == reason
    assert caught.value.detail


def test_a_few_bytes_that_are_no_text_are_replaced() -> None:
    (event,) = of(LINE.replace("VM", "\xe9\0").encode("latin-1"))
    assert (event.message, event.instance_id) == ("\ufffd\0 Started", VM)


def test_a_megabyte_in_a_line_is_cut() -> None:
    for value in (LINE + "x" * 1_000_000, json.dumps({"log": LINE + "x" * 1_000_000})):
        (event,) = of(value.encode())
        assert (len(event.raw), event.instance_id) == (MAX_LINE_CHARS, VM)
        assert event.message.startswith("VM Startedxxx")
    (event,) = of(json.dumps(OBJECTS[0] | {"message": "x" * 1_000_000}).encode())
    assert (len(event.raw), len(event.message)) == (MAX_LINE_CHARS, MAX_LINE_CHARS)


def test_of_very_many_continuation_lines_the_last_one_is_kept() -> None:
    lines = [f"{HEAD}   frame {number}" for number in range(5000)]
    (event,) = of("\n".join([LINE, *lines, f"{HEAD} ValueError: last"]).encode())
    assert len(event.continuation) == MAX_CONTINUATION_LINES
    assert (event.continuation[0], event.continuation[-1]) == ("  frame 0", "ValueError: last")


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_bytes(value: bytes) -> None:
    check(value)


WORDS = st.sampled_from(
    [
        LINE, HEAD, f"{HEAD} ", "\n", "\r", "\u2028", " ", "[", "]", "[-] ", "[instance: ", f"[instance: {VM}]", REQ,
        "None ", "req-", "<134>1 ", "<13>Nov 23 14:08:11 ", "a.log.1 ", "{", '{"message":', '"', "}", "/servers/",
        "instance ", VM, "2026-11-23 04:07:34", "\0", "é", "#012", "- ", "x: ", "٣",
    ]
)  # fmt: skip


@given(st.lists(WORDS, max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_pieces_of_lines(pieces: list[str]) -> None:
    check("".join(pieces).encode())


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "²", "1" * 400, "9" * 30, "NaN", "1e999", LINE, VM, "2026-11-23 04:07:34", '{"log": {}}', '["a"]']
    )
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["uuid", "name", "file", "a"]), inner),
    max_leaves=5,
)


def mutated(value: Any, data: st.DataObject) -> Any:
    """Return the value with one field, however deep, replaced by anything."""
    if isinstance(value, dict) and value and data.draw(st.integers(0, 5)):
        key = data.draw(st.sampled_from(sorted(value)))
        return value | {key: mutated(value[key], data)}
    if isinstance(value, list) and value and data.draw(st.integers(0, 5)):
        return [mutated(value[0], data), *value[1:]]
    return data.draw(ANY)


@given(st.sampled_from(OBJECTS), st.data())
@settings(max_examples=300, deadline=None)
def test_any_type_in_any_field(value: dict[str, Any], data: st.DataObject) -> None:
    changed = mutated(mutated(value, data), data)
    try:
        encoded = orjson.dumps(changed)
    except TypeError:  # what is no JSON: lone surrogates
        return
    check(encoded)
    check(orjson.dumps([changed]))
    check(orjson.dumps({"message": encoded.decode()}))


@given(st.sampled_from(OBJECTS), st.floats(0, 1))
def test_json_cut_off_anywhere_is_refused(value: dict[str, Any], share: float) -> None:
    encoded = orjson.dumps(value)
    with pytest.raises(UndecodableError, match=r"^bad_json"):
        of(encoded[: max(2, int(share * (len(encoded) - 1)))])


@given(st.lists(st.tuples(st.sampled_from(["session_id", "session-id", "x"]), st.binary(max_size=9)), max_size=3))
def test_any_record_headers(headers: list[tuple[str, bytes]]) -> None:
    check(LINE.encode(), headers=tuple(headers))


@pytest.mark.parametrize("timestamp_s", [float("nan"), float("inf"), -1.0, 0.0, 1.7e12, 1.7e15, 1e300])
@pytest.mark.parametrize(
    "value",
    [
        b"<13>Nov 23 14:08:11 host x: y",
        b"y",
        b'{"message": "y"}',
        b'{"levelname": "INFO", "name": "nova", "message": "y"}',
        b'{"level": "INFO", "name": "nova", "message": "y", "hostname": "h", "pid": 7}',
    ],
)
def test_any_kafka_time(value: bytes, timestamp_s: float) -> None:
    (event,) = of(value, timestamp_s=timestamp_s)
    assert event.message == "y"
    assert 0 <= event.time_s <= 32_503_680_000


HOSTILE = {
    "brackets": "[",
    "braces": "{",
    "line ends": "\n",
    "separators": "\u2028",
    "spaces": " ",
    "digits": "1",
    "headers": f"{HEAD} ",
    "header lines": f"{HEAD} x\n",
    "event lines": f"{LINE}\n",
    "instances": f"[instance: {VM}] ",
    "open instances": "[instance: ",
    "requests": f"{REQ} ",
    "nones": "None ",
    "files": "a.log.log",
    "file lines": "a.log.log.log.log.log.log.log.log.log.log.log\n",
    "file heads": "a.log 2026-11-23 04:07:34 ",
    "words of instances": "instance uuid ",
    "servers": "/servers/",
    "uuids": VM,
    "arrays": '["',
    "objects": '{"a":',
    "backslashes": "\\",
    "syslog": "<134>1 ",
    "numbered line ends": "#012",
    "quotes": "'",
}
STARTS = ("", f"{HEAD} [", f"{HEAD} [-] ", "<134>1 - - - - - [", "<134>Nov 23 14:08:11 ", '{"a": "')


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_time_grows_in_proportion_to_a_hostile_texts_length(unit: str) -> None:
    def cpu_s(start: str, chars: int, runs: int) -> float:
        text = (start + unit * (chars // len(unit)))[:chars]
        values = [text.encode(), orjson.dumps(OBJECTS[0] | {"message": text, "extra": {"instance": text}})]
        best_s = float("inf")
        for _ in range(runs):
            begun_s = time.process_time()
            for value in values:
                with suppress(UndecodableError):
                    of(value)
            best_s = min(best_s, time.process_time() - begun_s)
        return best_s

    for start in STARTS:
        # The floor is for texts that take next to nothing: there the clock's grain would decide.
        assert cpu_s(start, 262_144, runs=2) < 24 * max(cpu_s(start, 32_768, runs=3), 0.002)


HUGE = 16_000_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    ["one line", "many lines", "controls", "json", "json array", "bad json", "nested json", "odd bytes", "syslog"],
)
def test_a_huge_record_is_cut_or_refused_in_bounded_time_and_memory(shape: str) -> None:
    code = (
        "import resource, sys, time, orjson\n"
        "from loggpt_stream.lines.decode import decode\n"
        "from loggpt_stream.lines.record import Record, UndecodableError\n"
        "size, shape, line = int(sys.argv[1]), sys.argv[2], sys.argv[3].encode()\n"
        "values = {\n"
        "    'one line': lambda: line + b'x' * size,\n"
        "    'many lines': lambda: line + b'\\nframe' * (size // 6),\n"
        "    'controls': lambda: bytes(range(1, 9)) * (size // 8),\n"
        "    'json': lambda: orjson.dumps({'message': line.decode() + 'x' * size}),\n"
        "    'json array': lambda: b'[\"' + b'\",\"'.join([line] * (size // len(line) // 8)) + b'\"]',\n"
        "    'bad json': lambda: b'{\"message\": \"' + b'x' * size,\n"
        "    'nested json': lambda: b'{\"a\":' * (size // 5),\n"
        "    'odd bytes': lambda: line + b'\\xff a b c d' * (size // 9),\n"
        "    'syslog': lambda: b'<134>1 - h a - - [' + b'a' * size,\n"
        "}\n"
        "value = values[shape]()\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, begun = peak(), time.process_time()\n"
        "try:\n"
        "    events = decode(Record(value, 't', 0, 0, 7.0))\n"
        "    told = max(len(event.raw) + sum(map(len, event.continuation)) for event in events)\n"
        "except UndecodableError as error:\n"
        "    told = 0\n"
        "print(peak() - before, time.process_time() - begun, told)\n"
    )
    command = [sys.executable, "-c", code, str(HUGE), shape, LINE]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout
    grown_mib, cpu_s, kept_chars = (float(each) for each in told.split())
    assert kept_chars <= MAX_LINE_CHARS * (MAX_CONTINUATION_LINES + 1)
    assert grown_mib < 16 * HUGE / (1 << 20), told
    assert cpu_s < 60, told


def test_a_longer_record_is_refused_at_once() -> None:
    with pytest.raises(UndecodableError, match=r"^too_long: 100000000 bytes, and at most 16777216") as caught:
        of(b"\n" * 100_000_000)
    assert caught.value.reason == "too_long"
