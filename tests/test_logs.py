"""Our log output: constant event names with fields, JSON for machines, readable for people, no secret in either."""

from __future__ import annotations

import json
import logging
import re
import sys
from typing import Any

import orjson
import pytest
from pydantic import SecretStr

from loggpt_stream import logs
from loggpt_stream.cli import main
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.terminal import LogFormat, shown, shown_json

SECRET = "hunter2-hunter2"


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_an_event_is_one_json_object_with_its_fields_level_time_and_component(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json")
    logs.get_logger("daemon").info("partition_assigned", partition=3, topic="logs", text="a\nb")
    (event,) = written(capsys)
    assert event.pop("timestamp").endswith("Z")
    assert event == {
        "event": "partition_assigned",
        "component": "daemon",
        "level": "info",
        "partition": 3,
        "topic": "logs",
        "text": "a\nb",
    }


def test_auto_means_json_where_nobody_watches_and_readable_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logs.configure("auto")
    logs.get_logger("x").info("first")
    assert written(capsys)[0]["event"] == "first"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure("auto")
    logs.get_logger("x").info("second", rows=7)
    shown = capsys.readouterr().err
    assert "second" in shown
    assert not shown.startswith("{")


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", level="warning")
    log = logs.get_logger("x")
    log.info("quiet")
    log.warning("loud")
    assert [event["event"] for event in written(capsys)] == ["loud"]


def test_an_exception_is_part_of_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logs.get_logger("x").error("send_failed", exc_info=RuntimeError("broken pipe"))
    (event,) = written(capsys)
    assert event["exception"][0]["exc_value"] == "broken pipe"


def test_libraries_speak_in_the_same_form_and_only_when_it_matters(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logging.getLogger("aiokafka.consumer").info("chatter")
    logging.getLogger("aiokafka.consumer").warning("lost %s", "partition 3")
    (event,) = written(capsys)
    assert (event["event"], event["level"], event["logger"]) == ("lost partition 3", "warning", "aiokafka.consumer")


def test_configuring_twice_writes_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logs.configure("json")
    logs.get_logger("x").info("once")
    logging.getLogger("lib").warning("once too")
    assert [event["event"] for event in written(capsys)] == ["once", "once too"]


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\r\nok  forged \u202etxt.exe\u2066 \u2028\udc80\x00"


def test_what_strangers_wrote_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console")
    log = logs.get_logger("x")
    log.warning(
        HOSTILE, topic=HOSTILE, several=[HOSTILE], nested={"a": HOSTILE}, object=KafkaSettings(bootstrap=HOSTILE)
    )
    log.warning("keys", **{HOSTILE: 1})
    logging.getLogger("aiokafka").error("topic %s", HOSTILE)
    log.error("failed", exc_info=ValueError(HOSTILE))
    logging.getLogger("aiokafka").error("failed", exc_info=ValueError(HOSTILE))
    written_lines = capsys.readouterr().err.split("\n")
    colours = re.compile(r"\x1b\[[0-9;]*m")  # our own
    for line in written_lines:
        assert colours.sub("", line).isprintable(), line
        assert not line.startswith("ok  forged")
    assert len([line for line in written_lines if "owned" in line]) >= 5


@pytest.mark.parametrize("text", [HOSTILE, "plain", "grüße 日本語", "\U000e0041 tag"])
def test_text_for_a_terminal_is_printable_and_json_stays_the_same_value(text: str) -> None:
    assert shown(text).isprintable()
    assert shown("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    value = orjson.dumps({"text": text.replace("\udc80", "")})
    assert shown_json(value).decode().isprintable()
    assert orjson.loads(shown_json(value)) == orjson.loads(value)


def test_an_error_message_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--bundle", "/nowhere/\x1b]0;owned\x07"]) == 2
    told = capsys.readouterr().err
    assert "owned" in told
    assert told.replace("\n", "").isprintable()


def fail_beside(password: str) -> None:
    options = {"sasl_plain_password": password}
    raise ExceptionGroup("unhandled", [RuntimeError(f"{len(options)} options")])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_is_never_written(capsys: pytest.CaptureFixture[str], log_format: LogFormat) -> None:
    logs.configure(log_format)
    kafka = KafkaSettings(username="me", password=SecretStr(SECRET))
    log = logs.get_logger("x")
    log.info("settings", kafka=kafka, dumped=kafka.model_dump(), password=kafka.password)
    log.error("login_failed", kafka=kafka, exc_info=RuntimeError(f"cannot log in with {kafka!r}"))
    logging.getLogger("aiokafka").error("login %s", kafka)
    try:
        fail_beside(SECRET)
    except ExceptionGroup as failed:
        log.exception("daemon_failed", errors=[repr(error) for error in failed.exceptions])
        logging.getLogger("aiokafka").exception("failed")
    shown = capsys.readouterr().err
    assert "login_failed" in shown
    assert "fail_beside" in shown
    assert SECRET not in shown


def test_a_library_says_the_same_once_in_half_a_minute_and_something_else_at_once() -> None:
    damped = logs.Damped(every_s=30)

    def passes(at_s: float, text: str, *filled: object) -> bool:
        record = logging.LogRecord("aiokafka", logging.ERROR, "client.py", 1, text, filled, None)
        record.created = at_s
        return damped.filter(record)

    assert passes(0, "no connection to %s", "a")
    assert not passes(29, "no connection to %s", "a")
    assert passes(29, "no connection to %s", "b")
    assert passes(30, "no connection to %s", "a")


def test_a_library_that_repeats_itself_is_written_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    for _ in range(3):
        logging.getLogger("aiokafka").error("Unable connect to node")
    assert capsys.readouterr().err.count("Unable connect to node") == 1
