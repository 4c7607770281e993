"""oslo.log text, whatever its layout: header, context, instance, time, continuation lines, several events."""

from __future__ import annotations

from typing import Any

import pytest

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Event, Record

VM = "b9000ad5-4f3c-4d16-8d3e-0ba96b7a2f11"
OTHER = "c0ffee00-4f3c-4d16-8d3e-0ba96b7a2f11"
REQ = "req-7679f045-6075-4311-8700-c737a872af84"
GLOBAL = "req-11111111-6075-4311-8700-c737a872af84"
TIME = "2026-11-23 14:08:10.046"
TIME_S = 1795442890.046
HEAD = f"{TIME} 7033 INFO nova.compute.manager"
ERROR = f"{TIME} 7033 ERROR nova.compute.manager"


def events(text: str, **record: Any) -> list[Event]:
    return decode(Record(text.encode(), "logs", 0, 0, record.pop("timestamp_s", 7.0), **record))


def event(text: str, **record: Any) -> Event:
    (only,) = events(text, **record)
    return only


def test_the_current_layout_gives_every_field() -> None:
    line = f"{HEAD} [{GLOBAL} {REQ} 59001ac9 e4163207 - - default default] [instance: {VM}] Claim successful"
    assert event(line) == Event(
        time_s=TIME_S,
        level="INFO",
        logger="nova.compute.manager",
        message="Claim successful",
        raw=line,
        instance_id=VM,
        request_id=REQ,
        global_request_id=GLOBAL,
        project_id="e4163207",
        pid="7033",
    )


@pytest.mark.parametrize(
    ("context", "request_id", "global_request_id", "project_id"),
    [
        ("-", None, None, None),
        (f"None {REQ} user project - - default default", REQ, None, "project"),
        (f"{GLOBAL} {REQ} user project - - default default", REQ, GLOBAL, "project"),
        (f"{REQ} user project - - -", REQ, None, "project"),
        (f"{REQ} - - - - -", REQ, None, None),
        (f"None {REQ} - - - - - -", REQ, None, None),
        (f" {REQ} user project - - -", REQ, None, "project"),
        (f"{REQ} None None", REQ, None, None),
        (REQ, REQ, None, None),
        ("- - - - -", None, None, None),
        ("None None None - - -", None, None, None),
    ],
)
def test_the_context_of_each_release_is_read_and_left_out_of_the_message(
    context: str, request_id: str | None, global_request_id: str | None, project_id: str | None
) -> None:
    for instance, prefix in ((None, ""), (VM, f"[instance: {VM}] ")):
        found = event(f"{ERROR} [{context}] {prefix}VM Started")
        assert (found.request_id, found.global_request_id, found.project_id) == (
            request_id,
            global_request_id,
            project_id,
        )
        assert (found.message, found.instance_id, found.fragment) == ("VM Started", instance, False)


@pytest.mark.parametrize("words", ["[a] b", "[one two three four five six] b", "[instance: none] b", "[", "[]", "[-"])
def test_a_messages_own_brackets_are_no_context(words: str) -> None:
    assert event(f"{HEAD} {words}").message == words
    assert event(f"{HEAD} [-] {words}").message == words


def test_the_instance_is_lower_case_and_stripped_even_when_named_twice() -> None:
    found = event(f"{HEAD} [-] [instance: {VM.upper()}] [instance: {VM}] VM Paused ")
    assert (found.instance_id, found.message) == (VM, "VM Paused")


@pytest.mark.parametrize(
    ("level", "expected"),
    [("WARN", "WARNING"), ("CRITICAL", "CRITICAL"), ("AUDIT", "AUDIT"), ("DEBUG", "DEBUG"), ("TRACE", "TRACE")],
)
def test_levels_have_one_name_each(level: str, expected: str) -> None:
    assert event(f"{TIME} 7 {level} nova.api [-] x").level == expected


def test_the_place_in_the_code_that_ends_a_debug_line_is_left_out() -> None:
    place = "lock /usr/lib/python3/dist-packages/oslo_concurrency/lockutils.py:404"
    assert event(f"{TIME} 7 DEBUG oslo [-] Acquired x {place}").message == "Acquired x"
    two = event(f"{TIME} 7 DEBUG oslo [-] Acquired\nx {place}")
    assert (two.message, two.continuation) == ("Acquired", ("x",))
    assert event(f"{TIME} 7 INFO oslo [-] Acquired x {place}").message == f"Acquired x {place}"
    assert event(f"{TIME} 7 DEBUG oslo [-] GET /servers:1").message == "GET /servers:1"


@pytest.mark.parametrize(
    ("time", "expected_s"),
    [
        ("2026-11-23 14:08:10.046", TIME_S),
        ("2026-11-23 14:08:10,046", TIME_S),
        ("2026-11-23T14:08:10.046Z", TIME_S),
        ("2026-11-23T16:08:10.046+02:00", TIME_S),
        ("2026-11-23T09:08:10.046-0500", TIME_S),
        ("2026-11-23 14:08:10.046123", 1795442890.046123),
        ("2026-11-23 14:08:10", 1795442890.0),
        ("2024-02-29 00:00:00.000", 1709164800.0),
        ("2026-02-29 14:08:10.046", 7.0),
        ("2026-13-40 99:99:99.046", 7.0),
        ("0000-00-00 00:00:00.000", 7.0),
        ("1901-01-01 00:00:00.000", 7.0),
    ],
)
def test_the_lines_time_counts_and_kafkas_where_it_is_none(time: str, expected_s: float) -> None:
    found = event(f"{time} 7033 INFO nova.compute.manager [-] x")
    assert found.time_s == pytest.approx(expected_s, abs=1e-6)
    assert found.logger == "nova.compute.manager"


def test_a_line_without_process_id_or_message_has_a_header_too() -> None:
    assert event(f"{TIME} INFO nova.api [-] x").pid == ""
    for end in ("", " ", " [-]", " [-] "):
        found = event(f"{HEAD}{end}")
        assert (found.logger, found.message) == ("nova.compute.manager", "")


def test_loghubs_file_name_tells_the_service_and_is_no_part_of_the_line() -> None:
    line = f"2017-05-16 00:00:04.500 2931 INFO nova.compute.manager [{REQ} - - - - -] [instance: {VM}] VM Started"
    found = event(f"nova-compute.log.1.2017-05-16_13:55:31 {line}")
    assert (found.service, found.source) == ("nova-compute", "nova-compute.log.1.2017-05-16_13:55:31")
    assert (found.raw, found.message, found.instance_id) == (line, "VM Started", VM)
    assert found.time_s == pytest.approx(1494892804.5)


def test_the_header_session_is_an_explicit_session() -> None:
    for name in ("session_id", "session-id"):
        assert event(f"{HEAD} [-] x", headers=((name, b"run-7"), ("other", b"y"))).session_id == "run-7"
    assert event(f"{HEAD} [-] x", headers=(("session_id", b""),)).session_id is None


def test_a_rotated_files_name_before_a_line_without_header_is_its_source_and_no_part_of_it() -> None:
    found = event("nova-compute.log.1.2017-05-16_13:55:31   <devices>")
    assert (found.message, found.source, found.fragment) == (
        "  <devices>",
        "nova-compute.log.1.2017-05-16_13:55:31",
        True,
    )
    assert event("see nova.log.1 for more").source == ""


def test_a_trace_context_in_the_records_headers_stays_with_its_events() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert event(f"{HEAD} [-] x", headers=(("traceparent", trace.encode()),)).traceparent == trace
    assert event(f"{HEAD} [-] x", headers=(("traceparent", b"00-what\xff"),)).traceparent is None
    assert event(f"{HEAD} [-] x", headers=(("other", trace.encode()),)).traceparent is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'10.0.0.1 "GET /v2.1/servers/{VM}" status: 200', VM),
        (f'10.0.0.1 "POST /v2.1/servers/{VM}/action HTTP/1.1" status: 202', VM),
        (f"Creating event network-vif-plugged:{OTHER} for instance {VM} on cmp01", VM),
        (f"HTTP exception thrown: Instance {VM.upper()} could not be found.", VM),
        (f"Deleting instance files /var/lib/nova/instances/{VM}_del", VM),
        (f"Detached device vdb from instance {VM} from the live domain: volume {OTHER}", VM),
        (f"Deleted allocation for migration {OTHER} for instance {VM}", VM),
        (f"instance_uuid={VM}, port {OTHER}", VM),
        (f"{{'instance_uuid': '{VM}'}}", VM),
        (f"Instance UUID: {VM}", VM),
        (f"Domain not found: no domain with matching uuid '{VM}'", VM),
        (f"Received unexpected event network-vif-plugged-{OTHER} for instance with vm_state active", None),
        (f"Deleted allocation for migration {OTHER}", None),
        (f"Attaching volume {OTHER} to /dev/vdb", None),
        (f"port {OTHER} not found, image {OTHER}, /v2/images/{OTHER}/file", None),
        (f"Updating instance_info_cache with network_info for port {OTHER}", None),
        (f"Instance {OTHER} has allocations against this compute host but is not found in the database.", None),
        (f"instance {VM}0", None),
    ],
)
def test_a_uuid_is_an_instances_only_where_the_text_says_so(text: str, expected: str | None) -> None:
    assert event(f"{HEAD} [None {REQ} - - - - - -] {text}").instance_in_text == expected


def test_a_line_of_oslo_logs_exception_prefix_is_a_fragment_with_its_indentation() -> None:
    found = event(f'{ERROR} [instance: {VM}]   File "/usr/lib/x.py", line 3, in spawn')
    assert (found.fragment, found.message) == (True, '  File "/usr/lib/x.py", line 3, in spawn')
    assert (found.instance_id, found.logger, found.pid, found.level) == (VM, "nova.compute.manager", "7033", "ERROR")
    assert event(f"{TIME} 7 TRACE nova.api Traceback (most recent call last):").fragment


def test_what_has_a_context_or_another_level_is_no_fragment() -> None:
    assert not event(f"{ERROR} [-] Traceback").fragment
    assert not event(f"{HEAD} started").fragment


@pytest.mark.parametrize(
    "line", ["  <devices>", "Exit code: 1", "<class 'X'>", "{'a': 1}", "[{'a': 1}]", "[]", "1", "nul"]
)
def test_a_line_without_header_is_a_fragment_as_it_stands(line: str) -> None:
    found = event(line + " \t")
    assert found == Event(time_s=7.0, level="", logger="", message=line, raw=line, fragment=True)


@pytest.mark.parametrize("blank", ["", " ", "\n", "\r\n\t"])
def test_a_blank_record_is_a_blank_fragment(blank: str) -> None:
    assert [(each.message, each.fragment) for each in events(blank)] == [("", True)]


def test_a_traceback_in_one_record_continues_its_event_without_its_prefixes() -> None:
    found = event(
        f"{ERROR} [None {REQ} - - - - - -] [instance: {VM}] Failed: ValueError: bad\r\n"
        f"{ERROR} [instance: {VM}] Traceback (most recent call last):\r\n"
        f"{ERROR} [instance: {VM}]   File x\r\n"
        f"{ERROR} [instance: {VM}] ValueError: bad\r\n"
        f"{ERROR} [instance: {VM}] \r\n"
    )
    assert found.message == "Failed: ValueError: bad"
    assert found.continuation == ("Traceback (most recent call last):", "  File x", "ValueError: bad")
    assert found.raw == f"{ERROR} [None {REQ} - - - - - -] [instance: {VM}] Failed: ValueError: bad"
    bare = event(f"{ERROR} [-] Failed\nTraceback (most recent call last):\n  File x\n\nValueError: bad\n")
    assert bare.continuation == found.continuation


def test_prefixed_lines_alone_in_a_record_are_one_fragment() -> None:
    found = event(f"{ERROR} Traceback (most recent call last):\n{ERROR}   File x\n{ERROR} KeyError: 1")
    assert (found.fragment, found.message) == (True, "Traceback (most recent call last):")
    assert found.continuation == ("  File x", "KeyError: 1")


def test_events_that_share_a_record_come_apart() -> None:
    first, second, third = events(
        f"{HEAD} [-] one\nmore of one\n{ERROR} [None {REQ} - - - - - -] two\n{ERROR} Traceback\n{HEAD} [-] three"
    )
    assert (first.message, first.continuation) == ("one", ("more of one",))
    assert (second.message, second.continuation, second.request_id) == ("two", ("Traceback",), REQ)
    assert third.message == "three"


def test_the_prefix_of_another_process_is_no_continuation() -> None:
    first, second = events(f"{ERROR} [-] one\n{ERROR.replace('7033', '8')} Traceback")
    assert (first.continuation, second.fragment, second.pid) == ((), True, "8")


RFC5424 = "<134>1 2026-11-23T14:08:11.5Z cmp01 nova-compute 2931 - - "


@pytest.mark.parametrize(
    "header",
    [
        RFC5424,
        RFC5424 + " ",
        RFC5424 + "\ufeff",
        RFC5424.replace("- - ", r'ID47 [a@1 b="c\]d"][e@1] '),
        "<134>Nov 23 14:08:11 cmp01 nova-compute[2931]: ",
        "<134>Nov 23 14:08:11 cmp01 nova-compute[2931]:",
        "<134>2026-11-23T14:08:11.500000+00:00 cmp01 nova-compute[2931]: ",
        "Nov 23 14:08:11 cmp01 nova-compute[2931]: ",
    ],
)
def test_a_syslog_header_tells_host_service_and_nothing_of_the_text(header: str) -> None:
    line = f"{HEAD} [-] [instance: {VM}] VM Started"
    found = event(header + line)
    assert (found.host, found.service, found.source) == ("cmp01", "nova-compute", "cmp01/nova-compute")
    assert (found.raw, found.message, found.pid, found.time_s) == (line, "VM Started", "7033", TIME_S)


@pytest.mark.parametrize(
    ("header", "expected_s"),
    [
        (RFC5424, 1795442891.5),
        ("<134>1 - cmp01 nova-compute 2931 - - ", 1795500000.0),
        ("<134>Nov 23 14:08:11 cmp01 nova-compute[2931]: ", 1795442891.0),
        ("<134>Dec 31 23:59:59 cmp01 nova-compute[2931]: ", 1798761599.0),
        ("<134>Feb 31 23:59:59 cmp01 nova-compute[2931]: ", 1795500000.0),
    ],
)
def test_a_text_without_time_has_its_syslog_headers_time(header: str, expected_s: float) -> None:
    found = event(f"{header}no header", timestamp_s=1795500000.0)
    assert (found.time_s, found.pid, found.fragment, found.message) == (expected_s, "2931", True, "no header")


def test_a_syslog_time_without_year_is_in_the_year_that_brings_it_near() -> None:
    new_year_s = 1798761600.0  # 2027-01-01
    found = event("<134>Dec 31 23:59:59 cmp01 nova-compute[1]: x", timestamp_s=new_year_s + 5)
    assert found.time_s == new_year_s - 1
    found = event("<134>Jan  1 00:00:01 cmp01 nova-compute[1]: x", timestamp_s=new_year_s - 5)
    assert found.time_s == new_year_s + 1


def test_a_local_syslog_line_may_have_no_host() -> None:
    found = event("<134>Nov 23 14:08:11 nova-compute[29]: word: x")
    assert (found.host, found.service, found.message) == (None, "nova-compute", "word: x")


def test_line_ends_that_rsyslog_wrote_as_numbers_are_line_ends() -> None:
    found = event(f"{RFC5424}{ERROR} [-] Failed#012{ERROR} Traceback#012{ERROR} #011KeyError")
    assert (found.message, found.continuation) == ("Failed", ("Traceback", "\tKeyError"))


def test_a_syslog_line_without_text_is_a_blank_fragment() -> None:
    assert event("<134>1 - - - - - -").message == ""
    assert event("<134>1 - - - - - -").host is None
