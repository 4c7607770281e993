"""Every shipper's JSON gives the event that the plain line gives; a pin refuses the others."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Event, Record, UndecodableError
from loggpt_stream.lines.shapes import Shape, known_shape

VM = "b9000ad5-4f3c-4d16-8d3e-0ba96b7a2f11"
OTHER = "c0ffee00-4f3c-4d16-8d3e-0ba96b7a2f11"
UUID = "7679f045-6075-4311-8700-c737a872af84"
REQ = f"req-{UUID}"
LINE = (
    f"2026-11-23 04:07:34.520 14618 INFO nova.compute.manager [None {REQ} user project - - default default] "
    f"[instance: {VM}] VM Started (Lifecycle Event)"
)
TIME_S = 1795406854.52
CONTEXT = {
    "request_id": REQ,
    "global_request_id": None,
    "project_id": "project",
    "user": "user",
    "user_domain": "default",
    "project_domain": "default",
    "resource_uuid": None,
}
OSLO: dict[str, Any] = {
    "message": "VM Started (Lifecycle Event)",
    "name": "nova.compute.manager",
    "hostname": "cmp01",
    "traceback": None,
    "error_summary": "",
    "context": CONTEXT,
    "extra": {"instance": {"uuid": VM}},
}
OSLO_JSON = OSLO | {"asctime": "2026-11-23 04:07:34", "levelname": "INFO", "created": 1795406854.5201, "process": 14618}
OSLO_FLUENT = OSLO | {"time": "2026-11-23 04:07:34,520", "level": "INFO"}
KOLLA: dict[str, Any] = {
    "Timestamp": "2026-11-23 04:07:34.520",
    "Pid": "14618",
    "log_level": "INFO",
    "python_module": "nova.compute.manager",
    "request_id": UUID,
    "global_request_id": "None",
    "user_id": "user",
    "tenant_id": "project",
    "user_domain": "default",
    "project_domain": "default",
    "Payload": f" [instance: {VM}] VM Started (Lifecycle Event)",
    "Hostname": "cmp01",
    "Logger": "openstack.nova",
    "programname": "nova-compute",
}
FILEBEAT = {
    "@timestamp": "2026-11-23T04:07:40.000Z",
    "@metadata": {"beat": "filebeat", "type": "_doc", "version": "8.15.0"},
    "message": LINE,
    "log": {"offset": 12, "file": {"path": "/var/log/nova/nova-compute.log"}},
    "host": {"name": "cmp01"},
}
VECTOR = {
    "file": "/var/log/nova/nova-compute.log",
    "host": "cmp01",
    "message": LINE,
    "source_type": "file",
    "timestamp": "2026-11-23T04:07:40.123456789Z",
}
OTLP_RECORD: dict[str, Any] = {"timeUnixNano": "1795406860000000000", "body": {"stringValue": LINE}}


def otlp(*records: dict[str, Any]) -> dict[str, Any]:
    names = [
        {"key": "host.name", "value": {"stringValue": "cmp01"}},
        {"key": "service.name", "value": {"stringValue": "nova-compute"}},
        {"key": "odd", "value": {"intValue": "3"}},
    ]
    return {"resourceLogs": [{"resource": {"attributes": names}, "scopeLogs": [{"logRecords": list(records)}]}]}


RECORDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (LINE, {}),
    "loghub": (f"nova-compute.log.1.2017 {LINE}", {"service": "nova-compute", "source": "nova-compute.log.1.2017"}),
    "syslog": (
        f"<134>1 2026-11-23T04:07:40Z cmp01 nova-compute 2931 - - {LINE}",
        {"host": "cmp01", "service": "nova-compute", "source": "cmp01/nova-compute"},
    ),
    "oslo_json": (OSLO_JSON, {"time_s": 1795406854.5201, "host": "cmp01", "source": "cmp01/"}),
    "oslo_fluent": (
        OSLO_FLUENT,
        {"host": "cmp01", "source": "cmp01/", "pid": "", "raw": LINE.replace(" 14618", "")},
    ),
    "kolla": (KOLLA, {"host": "cmp01", "service": "nova-compute", "source": "cmp01/nova-compute"}),
    "otlp": (otlp(OTLP_RECORD), {"host": "cmp01", "service": "nova-compute", "source": "cmp01/nova-compute"}),
    "filebeat": (
        FILEBEAT,
        {"host": "cmp01", "service": "nova-compute", "source": "cmp01//var/log/nova/nova-compute.log"},
    ),
    "vector": (
        VECTOR,
        {"host": "cmp01", "service": "nova-compute", "source": "cmp01//var/log/nova/nova-compute.log"},
    ),
    "fluentbit": ({"@timestamp": 1795406860.52, "log": LINE}, {}),
    "session_json": (
        {"session_id": "run-1", "service": "nova-compute", "message": LINE},
        {"session_id": "run-1", "service": "nova-compute", "source": "/nova-compute"},
    ),
    "json": ({"short_message": LINE}, {}),
}


def record(value: Any) -> Record:
    return Record((value if isinstance(value, str) else json.dumps(value)).encode(), "logs", 0, 0, 7.0)


def event(value: Any, pin: Shape | None = None) -> Event:
    (only,) = decode(record(value), pin=pin)
    return only


PLAIN = Event(
    time_s=TIME_S,
    level="INFO",
    logger="nova.compute.manager",
    message="VM Started (Lifecycle Event)",
    raw=LINE,
    instance_id=VM,
    request_id=REQ,
    project_id="project",
    pid="14618",
)


def test_every_shape_has_an_example_here() -> None:
    assert set(RECORDS) == set(Shape)


@pytest.mark.parametrize("shape", Shape)
def test_the_same_event_is_the_same_in_every_shape(shape: Shape) -> None:
    value, around = RECORDS[shape]
    expected = replace(PLAIN, **around)
    found = event(value)
    assert found.time_s == pytest.approx(expected.time_s, abs=1e-6)
    assert replace(found, time_s=0) == replace(expected, time_s=0)


@pytest.mark.parametrize("shape", Shape)
def test_a_pin_takes_its_own_shape_and_refuses_every_other(shape: Shape) -> None:
    assert event(RECORDS[shape][0], pin=shape) == event(RECORDS[shape][0])
    for other in set(Shape) - {shape}:
        with pytest.raises(UndecodableError, match=f"^other_shape: the record is {other}, and {shape} is pinned"):
            decode(record(RECORDS[other][0]), pin=shape)


@pytest.mark.parametrize("pin", [shape for shape in Shape if shape.is_text])
@pytest.mark.parametrize("line", ['{"a": 1', '["x"] y', "  <devices>", ""])
def test_a_pinned_text_shape_takes_lines_without_header_even_such_as_begin_like_json(pin: Shape, line: str) -> None:
    found = event(line, pin=pin)
    assert (found.message, found.fragment) == (line, True)


def test_a_name_that_is_no_shape_is_refused_and_the_shapes_are_listed() -> None:
    with pytest.raises(ValueError, match="no such shape; there are plain, loghub"):
        known_shape("text")


def test_the_name_that_a_shape_had_in_an_older_version_still_means_it() -> None:
    assert known_shape("shared") is Shape.SESSION_JSON


@pytest.mark.parametrize("wrap", ["filebeat", "vector", "fluentbit", "session_json", "otlp"])
@pytest.mark.parametrize("inner", ["oslo_json", "oslo_fluent", "kolla"])
def test_json_in_the_text_of_an_envelope_is_decoded_once_more(wrap: str, inner: str) -> None:
    text = json.dumps(RECORDS[inner][0])
    envelope = json.loads(json.dumps(RECORDS[wrap][0]).replace(json.dumps(LINE), json.dumps(text)))
    found = event(envelope, pin=Shape(wrap))
    assert (found.message, found.instance_id, found.request_id) == (PLAIN.message, VM, REQ)


def test_text_nested_deeper_than_shippers_nest_it_is_a_line() -> None:
    text: Any = "x"
    for _ in range(5):
        text = json.dumps({"message": text})
    assert event(text).fragment
    assert event(text).message.startswith('{"message"')


@pytest.mark.parametrize("key", ["message", "Payload", "log", "MESSAGE", "msg", "short_message", "body"])
def test_the_text_is_found_under_every_usual_key(key: str) -> None:
    assert event({key: LINE}).message == PLAIN.message


def test_the_first_text_key_that_holds_text_counts() -> None:
    assert event({"log": {"offset": 1}, "message": " ", "msg": LINE, "body": "later"}).message == PLAIN.message
    assert event({"message": 7, "body": {"stringValue": LINE}}).message == PLAIN.message


def test_a_blank_text_is_a_blank_fragment_as_a_blank_line_is() -> None:
    found = event(FILEBEAT | {"message": ""})
    assert (found.message, found.fragment, found.host) == ("", True, "cmp01")


@pytest.mark.parametrize(
    ("fields", "expected_s"),
    [
        ({"@timestamp": "2026-11-23T04:07:34.52Z"}, TIME_S),
        ({"@timestamp": TIME_S}, TIME_S),
        ({"timestamp": 1795406854520}, TIME_S),
        ({"timestamp": "1795406854.52"}, TIME_S),
        ({"_SOURCE_REALTIME_TIMESTAMP": "1795406854520000"}, TIME_S),
        ({"@timestamp": "soon", "time": 1795406854}, 1795406854.0),
        ({"@timestamp": -5}, 7.0),
        ({"@timestamp": 1e308}, 7.0),
        ({"@timestamp": 10**19}, 1e10),
        ({"@timestamp": True}, 7.0),
        ({"@timestamp": "²"}, 7.0),
        ({"@timestamp": [1]}, 7.0),
    ],
)
def test_a_text_without_time_has_its_envelopes_and_else_kafkas(fields: dict[str, Any], expected_s: float) -> None:
    assert event(fields | {"message": "no header"}).time_s == pytest.approx(expected_s)


@pytest.mark.parametrize(
    ("extra", "context"),
    [
        ({"instance": {"uuid": VM, "flavor": {"uuid": OTHER}}}, {}),
        (
            {"instance": f"Instance(id=1,flavor=Flavor(uuid={OTHER}),image_ref='{OTHER}',uuid={VM},vcpus=1)"},
            {},
        ),
        (
            {"instance": f"{{'id': 1, 'services': [{{'uuid': '{OTHER}'}}], 'uuid': '{VM}', 'image_uuid': '{OTHER}'}}"},
            {},
        ),
        ({"instance": json.dumps({"flavor": {"uuid": OTHER}, "uuid": VM})}, {}),
        ({"instance": json.dumps({"flavor": {"uuid": OTHER}, "uuid": VM})[:-1]}, {}),
        ({"instance": VM}, {}),
        ({"instance_uuid": VM.upper()}, {}),
        ({}, {"resource_uuid": VM}),
    ],
)
def test_the_instance_is_found_wherever_oslo_log_puts_it(extra: dict[str, Any], context: dict[str, Any]) -> None:
    found = event(OSLO_JSON | {"extra": extra, "context": CONTEXT | context})
    assert (found.instance_id, f"[instance: {VM}] VM Started" in found.raw) == (VM, True)


def test_another_services_resource_is_no_instance() -> None:
    value = OSLO_JSON | {"name": "cinder.volume", "extra": {}, "context": CONTEXT | {"resource_uuid": OTHER}}
    assert event(value).instance_id is None


def test_message_summary_and_traceback_become_the_lines_that_a_text_log_has() -> None:
    text = event(
        LINE.replace("INFO", "ERROR")
        + "\nsecond line: ValueError: bad\nTraceback (most recent call last):\n  x\nValueError: bad"
    )
    value = OSLO_JSON | {
        "message": f"{OSLO['message']}\nsecond line",
        "levelname": "ERROR",
        "error_summary": "ValueError: bad",
        "traceback": "Traceback (most recent call last):\n  x\n\nValueError: bad",
    }
    for found in (event(value), event(value | {"levelname": None, "level": "error"} | {"levelname": "ERROR"})):
        assert (found.message, found.continuation, found.raw) == (text.message, text.continuation, text.raw)
    assert text.continuation[0] == "second line: ValueError: bad"


@pytest.mark.parametrize(
    ("payload", "request_id", "instance"),
    [
        ("[-] [instance: {vm}] VM Started", None, VM),
        ("[-] VM Started", None, None),
        ("[{req} user project - - -] [instance: {vm}] VM Started", REQ, VM),
    ],
)
def test_what_kollas_fluentd_leaves_in_the_payload_is_read(
    payload: str, request_id: str | None, instance: str | None
) -> None:
    value = KOLLA | {"request_id": None, "global_request_id": None, "Payload": payload.format(vm=VM, req=REQ)}
    found = event(value)
    assert (found.message, found.request_id, found.instance_id, found.fragment) == (
        "VM Started",
        request_id,
        instance,
        False,
    )


def test_a_traceback_line_from_kollas_fluentd_is_a_fragment() -> None:
    value = KOLLA | {"request_id": None, "log_level": "ERROR", "Payload": f"[instance: {VM}]   File x"}
    del value["global_request_id"]
    found = event(value)
    assert (found.fragment, found.message, found.instance_id) == (True, "  File x", VM)


def test_a_traceback_in_kollas_payload_continues_without_its_prefixes() -> None:
    prefix = "2026-11-23 04:07:34.520 14618 ERROR nova.compute.manager "
    value = KOLLA | {"log_level": "ERROR", "Payload": f" Failed\n{prefix}Traceback\n{prefix}  x\n{prefix}KeyError"}
    found = event(value)
    assert (found.message, found.continuation, found.fragment) == ("Failed", ("Traceback", "  x", "KeyError"), False)


def test_one_bad_body_refuses_no_other_line_of_an_otlp_record() -> None:
    bad = {"body": {"stringValue": '{"truncated": "yes'}}
    assert decode(record(otlp(bad, OTLP_RECORD))) == decode(record(otlp(OTLP_RECORD)))
    with pytest.raises(UndecodableError, match=r"^bad_json"):
        decode(record(otlp(bad)))


def test_an_otlp_record_comes_apart_into_its_lines_and_passes_over_what_has_no_text() -> None:
    second = OTLP_RECORD | {
        "body": {"stringValue": "no header"},
        "attributes": [{"key": "log.file.path", "value": {"stringValue": "/x/nova-api.log"}}],
    }
    found = decode(record(otlp(OTLP_RECORD, {"body": {"intValue": "3"}}, second)))
    assert [each.message for each in found] == [PLAIN.message, "no header"]
    assert (found[1].time_s, found[1].source) == (1795406860.0, "cmp01//x/nova-api.log")
    with pytest.raises(UndecodableError, match=r"^no_text"):
        decode(record(otlp({"body": {"intValue": "3"}})))


def test_an_array_comes_apart_into_its_objects_and_texts() -> None:
    found = decode(record([OSLO_JSON, LINE, {"a": 1}, 3]))
    assert [each.message for each in found] == [PLAIN.message] * 2
    with pytest.raises(UndecodableError, match=r"^no_text"):
        decode(record([{"a": 1}]))


def test_the_sessions_name_may_be_a_number_and_the_field_goes_before_the_header() -> None:
    value = json.dumps({"session_id": 12, "message": LINE}).encode()
    (found,) = decode(Record(value, "t", 0, 0, 0.0, headers=(("session_id", b"header"),)))
    assert found.session_id == "12"
