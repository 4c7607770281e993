"""Early alerts of the daemon on a real Apache Kafka: before the session closes, and told of when it does."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest

from loggpt_stream.alerts.alert import schema
from testing.daemon_process import DaemonProcess, Topics, produce, read_all
from testing.tiny_bundle import tiny_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from loggpt_stream.model.bundle import Bundle
    from testing.kafka_server import KafkaServer

FAILING = "aaaaaaaa-0000-4000-8000-000000000000"
USUAL = "bbbbbbbb-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every closed session alarms; of open ones those that are odder than 98 of 100."""
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", alert_share=1.0, early_share=0.02)


def line(second: int, instance: str, text: str, level: str = "INFO") -> bytes:
    when = f"2026-11-23 14:{8 + second // 60:02d}:{second % 60:02d}.000"
    return f"{when} 7 {level} nova.compute.manager [req-1 - - - -] [instance: {instance}] {text}".encode()


FIRST = [
    line(0, USUAL, "VM Started (Lifecycle Event)"),
    line(1, FAILING, "VM Started (Lifecycle Event)"),
    *(line(2, FAILING, f"the disk has {'re' * n}melted", "ERROR") for n in range(20)),
]


async def alerts(topics: Topics, at_least: int = 0) -> list[dict[str, Any]]:
    """Return all alerts, once there are so many: a transaction's marker may come a moment after the daemon knows."""
    async with asyncio.timeout(60):
        while len(found := await read_all(topics.bootstrap, topics.alerts)) < at_least:
            await asyncio.sleep(0.2)
    return [orjson.loads(record.value) for record in found]


async def test_an_early_alert_comes_before_the_session_closes_once_and_the_final_one_refers_to_it(
    kafka: KafkaServer, bundle: Bundle, tmp_path: Path
) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--early-every-s", "0.5"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, FIRST)
        (early,) = await alerts(topics, at_least=1)
        assert await daemon.metric("loggpt_sessions_open") == 2
        # Many looks later, there is still one; and a kill does not make it forgotten.
        await produce(kafka.bootstrap, topics.input, [line(20, FAILING, "and it melts and melts", "ERROR")])
        await asyncio.sleep(3)
        assert len(await alerts(topics)) == 1
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        await asyncio.sleep(3)
        assert len(await alerts(topics)) == 1
        await produce(kafka.bootstrap, topics.input, [line(100, USUAL, "VM Stopped (Lifecycle Event)")])
        await daemon.reached("loggpt_sessions_scored_total", 2)
        assert await daemon.terminate() == 0
    received = await alerts(topics, at_least=3)
    for each in received:
        jsonschema.validate(each, schema())
    stages = [(each["loggpt"]["stage"], each["loggpt"]["session"]["key"]) for each in received]
    assert stages[0] == ("early", FAILING)
    assert sorted(stages[1:]) == [("final", FAILING), ("final", USUAL)]
    final = next(each for each in received[1:] if each["loggpt"]["session"]["key"] == FAILING)
    assert early["event"]["id"] != final["event"]["id"]
    assert early["loggpt"]["session"]["closed_at"] is None
    assert early["loggpt"]["session"]["lines"] == 21
    assert final["loggpt"]["early"] == {"id": early["event"]["id"], "created": early["event"]["created"]}
    assert final["loggpt"]["session"]["lines"] == 22
    usual = next(each for each in received[1:] if each["loggpt"]["session"]["key"] == USUAL)
    assert "early" not in usual["loggpt"]
    scored = [orjson.loads(record.value) for record in await read_all(topics.bootstrap, topics.scores)]
    assert {each["session"]["key"]: each["early"] for each in scored} == {
        FAILING: final["loggpt"]["early"],
        USUAL: None,
    }


async def test_with_zero_seconds_there_is_no_early_alert(kafka: KafkaServer, bundle: Bundle, tmp_path: Path) -> None:
    topics = await Topics.create(kafka.bootstrap)
    flags = [*topics.flags(), "--bundle", str(bundle.path), "--early-every-s", "0"]
    with DaemonProcess(tmp_path, flags) as daemon:
        await daemon.ready()
        await produce(kafka.bootstrap, topics.input, FIRST)
        await daemon.reached("loggpt_records_total", len(FIRST))
        await asyncio.sleep(3)
        await produce(kafka.bootstrap, topics.input, [line(100, USUAL, "VM Stopped (Lifecycle Event)")])
        await daemon.reached("loggpt_sessions_scored_total", 2)
        assert await daemon.terminate() == 0
    assert [each["loggpt"]["stage"] for each in await alerts(topics, at_least=2)] == ["final", "final"]
