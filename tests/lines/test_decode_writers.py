"""What the real writers write decodes to one and the same event: oslo.log's formatters, nova's recording, rsyslog."""

from __future__ import annotations

import logging
import lzma
import os
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from oslo_config import cfg
from oslo_context.context import RequestContext
from oslo_log import formatters
from oslo_log import log as oslo_log

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import Event, Record
from loggpt_stream.lines.shapes import Shape
from tests.conftest import skip_or_fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOVA34 = files("loggpt_stream") / "data/nova34/nova34.log.xz"
GOLDEN = Path(__file__).parents[1] / "golden"
VM = "b9000ad5-4f3c-4d16-8d3e-0ba96b7a2f11"
OTHER = "c0ffee00-4f3c-4d16-8d3e-0ba96b7a2f11"
REQ = "req-7679f045-6075-4311-8700-c737a872af84"
GLOBAL = "req-11111111-6075-4311-8700-c737a872af84"


def events(value: bytes) -> list[Event]:
    return decode(Record(value, "logs", 0, 0, 7.0))


def seen_by_the_model(event: Event) -> tuple[object, ...]:
    return (
        event.level,
        event.logger,
        event.message,
        event.continuation,
        event.fragment,
        event.instance_id,
        event.instance_in_text,
        event.request_id,
        event.global_request_id,
        event.project_id,
    )


class FakeInstance(dict[str, Any]):
    """As nova's: takes part in `%(uuid)s`, and JSON sees its repr."""

    def __repr__(self) -> str:
        return f"Instance(flavor=Flavor(uuid={OTHER}),host='cmp01',uuid={self['uuid']},vcpus=1)"


@pytest.fixture
def text_formatter() -> formatters.ContextFormatter:
    conf = cfg.ConfigOpts()
    oslo_log.register_options(conf)
    conf([])
    return formatters.ContextFormatter(config=conf, datefmt=conf.log_date_format)


class Capture(logging.Handler):
    """Formats each record by all three formatters at once, in the place where it is logged."""

    def __init__(self, text: formatters.ContextFormatter) -> None:
        super().__init__()
        self.written: list[tuple[bytes, bytes, bytes]] = []
        self._formatters = (text, formatters.JSONFormatter(), formatters.FluentFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        # Each gets its own copy: the formatters leave their results on the record.
        made = [each.format(logging.makeLogRecord(record.__dict__)) for each in self._formatters]
        text, as_json, fluent = made
        self.written.append((text.encode(), as_json.encode(), orjson.dumps(fluent, default=repr)))


@pytest.fixture
def capture(text_formatter: formatters.ContextFormatter) -> Iterator[Capture]:
    handler = Capture(text_formatter)
    logger = logging.getLogger("nova.compute.manager")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield handler
    logger.removeHandler(handler)
    logger.propagate = True


def context(**fields: Any) -> RequestContext:
    return RequestContext(user_id="u", project_id="p", user_domain_id="d", request_id=REQ, overwrite=False, **fields)


def plain(log: Any) -> None:
    log.info("nothing around it")


def with_context(log: Any) -> None:
    log.info("Deleted allocations for instance %s", OTHER, context=context(global_request_id=GLOBAL))


def with_instance(log: Any) -> None:
    log.info("VM %s", "Started", instance=FakeInstance(uuid=VM), context=context())


def with_instance_uuid(log: Any) -> None:
    log.info("VM Paused", instance_uuid=VM)


def with_resource(log: Any) -> None:
    log.info("VM Resumed", context=context(resource_uuid=VM))


def with_indented_words(log: Any) -> None:
    log.info("  [- and so on] %s", "x ", context=context())


def with_instance_in_the_message_too(log: Any) -> None:
    log.info("[instance: %s] twice", VM, instance_uuid=VM)


def with_lines(log: Any) -> None:
    log.info("first\n  second\n\nthird\n", instance=FakeInstance(uuid=VM), context=context())


def debug(log: Any) -> None:
    log.debug("Acquired lock %s", "x", context=context())


def debug_with_lines(log: Any) -> None:
    log.debug("first\nsecond", context=context())


def fail() -> None:
    try:
        {}["port"]  # type: ignore[index]
    except KeyError:
        raise RuntimeError("no port\nCommand: ip\nExit code: 1")  # noqa: B904 - chained, as nova's often are


def with_exception(log: Any) -> None:
    try:
        fail()
    except RuntimeError:
        log.exception("Instance failed to spawn", instance=FakeInstance(uuid=VM), context=context())


def with_exception_and_lines(log: Any) -> None:
    try:
        fail()
    except RuntimeError:
        log.exception("Error for\n  <domain/>", context=context())


def with_warning_inside_except(log: Any) -> None:
    try:
        fail()
    except RuntimeError:
        log.warning("Ignored", instance_uuid=VM, context=context())


LOGGED = (
    plain,
    with_context,
    with_instance,
    with_instance_uuid,
    with_resource,
    with_indented_words,
    with_instance_in_the_message_too,
    with_lines,
    debug,
    debug_with_lines,
    with_exception,
    with_exception_and_lines,
    with_warning_inside_except,
)


@pytest.mark.parametrize("logged", LOGGED, ids=lambda each: each.__name__)
def test_oslo_logs_three_formatters_write_the_same_event(logged: Callable[[Any], None], capture: Capture) -> None:
    logged(oslo_log.getLogger("nova.compute.manager"))
    ((text, as_json, fluent),) = capture.written
    (of_text,), (of_json,), (of_fluent,) = events(text), events(as_json), events(fluent)
    assert seen_by_the_model(of_json) == seen_by_the_model(of_fluent) == seen_by_the_model(of_text)
    assert of_text.pid == of_json.pid == str(os.getpid())
    assert of_text.logger == "nova.compute.manager"
    if "debug" not in logged.__name__ and "twice" not in of_text.message:
        assert of_json.raw == of_text.raw == text.decode().splitlines()[0].rstrip()


def test_a_logged_exception_keeps_its_summary_and_its_last_line(capture: Capture) -> None:
    with_exception(oslo_log.getLogger("nova.compute.manager"))
    for value in capture.written[0]:
        (found,) = events(value)
        assert found.message == "Instance failed to spawn: RuntimeError: no port"
        assert found.instance_id == VM
        assert found.request_id == REQ
        assert found.continuation[:2] == ("Command: ip", "Exit code: 1")
        assert found.continuation[-3:] == ("RuntimeError: no port", "Command: ip", "Exit code: 1")
        assert "KeyError: 'port'" in found.continuation


def test_a_warning_inside_an_except_block_ends_with_the_summary(capture: Capture) -> None:
    with_warning_inside_except(oslo_log.getLogger("nova.compute.manager"))
    assert {events(value)[0].message for value in capture.written[0]} == {"Ignored: RuntimeError: no port"}


def nova34_by_time() -> dict[tuple[int, str], list[Event]]:
    """Return the events of the text log, whose every line is a record, with what continues each."""
    pieces: dict[int, list[str]] = {}
    found: list[Event] = []
    newest: dict[tuple[str, str], int] = {}
    last = -1
    with lzma.open(str(NOVA34)) as stream:
        for line in stream:
            (event,) = events(line.rstrip(b"\n"))
            if not event.fragment:
                newest[event.pid, event.logger] = last = len(found)
                found.append(event)
                pieces[last] = []
                continue
            if event.logger:
                last = newest[event.pid, event.logger]
            if event.message:
                pieces[last].append(event.message)
    by_time: dict[tuple[int, str], list[Event]] = defaultdict(list)
    for number, event in enumerate(found):
        by_time[round(event.time_s * 1000), event.logger].append(replace(event, continuation=tuple(pieces[number])))
    return by_time


@pytest.fixture(scope="module")
def nova34() -> dict[tuple[int, str], list[Event]]:
    return nova34_by_time()


@pytest.mark.parametrize("formatter", ["json", "fluent"])
def test_nova_34_recorded_by_each_formatter_is_the_same_to_the_last_traceback_line(
    formatter: str, nova34: dict[tuple[int, str], list[Event]]
) -> None:
    with lzma.open(GOLDEN / f"nova34.{formatter}formatter.sample.jsonl.xz") as stream:
        sample = [event for line in stream for event in events(line)]
    assert len(sample) > 3_200
    for event in sample:
        # oslo.log cuts milliseconds off, and the float of a text's may stand a hair below them.
        of_text = nova34.get((int(event.time_s * 1000 + 0.0005), event.logger), [])
        alike = [each for each in of_text if seen_by_the_model(each) == seen_by_the_model(event)]
        assert alike, event
        if formatter == "json":
            assert event.raw in {each.raw for each in alike}


LINES = (
    f"2026-11-23 04:07:34.520 7 ERROR nova.compute [None {REQ} u p - - d d] [instance: {VM}] Failed: KeyError: 1",
    f"2026-11-23 04:07:34.520 7 ERROR nova.compute [instance: {VM}] Traceback (most recent call last):",
    f"2026-11-23 04:07:34.520 7 ERROR nova.compute [instance: {VM}] \tKeyError: 1",
)


@pytest.mark.parametrize(
    "template", ["RSYSLOG_SyslogProtocol23Format", "RSYSLOG_ForwardFormat", "RSYSLOG_TraditionalForwardFormat"]
)
def test_rsyslog_passes_an_event_of_several_lines_on_in_each_of_its_formats(template: str, tmp_path: Path) -> None:
    rsyslogd = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    if rsyslogd is None:
        skip_or_fail("rsyslogd is not installed (Debian's package rsyslog)")
    entry, out, conf = tmp_path / "log.sock", tmp_path / "out", tmp_path / "rsyslog.conf"
    conf.write_text(
        f'global(workDirectory="{tmp_path}")\n'
        'module(load="imuxsock" SysSock.Use="off")\n'
        f'input(type="imuxsock" Socket="{entry}")\n'
        f'action(type="omfile" file="{out}" template="{template}")\n'
    )
    process = subprocess.Popen([str(rsyslogd), "-n", "-f", str(conf), "-i", str(tmp_path / "pid")])
    try:
        wait_until(entry.exists)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"<134>Nov 23 04:07:35 nova-compute[2931]: " + "\n".join(LINES).encode(), str(entry))
        wait_until(lambda: out.exists() and out.stat().st_size > 0)
    finally:
        process.terminate()
        process.wait(10)
    (written,) = out.read_bytes().splitlines()
    (found,) = decode(Record(written, "logs", 0, 0, 7.0), pin=Shape.SYSLOG)
    (expected,) = events("\n".join(LINES).encode())
    assert seen_by_the_model(found) == seen_by_the_model(expected)
    assert (found.raw, found.time_s, found.pid) == (LINES[0], expected.time_s, "7")
    assert (found.host, found.service) == (socket.gethostname().partition(".")[0], "nova-compute")


def wait_until(ready: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not ready():
        assert time.monotonic() < deadline_s, "rsyslogd did nothing for 20 s"
        time.sleep(0.02)
