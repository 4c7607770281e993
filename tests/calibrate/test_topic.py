"""Calibration from a real Kafka topic, for who has the logs nowhere else."""

from __future__ import annotations

import asyncio
import lzma
from pathlib import Path
from typing import TYPE_CHECKING

from calibrate.cli import main
from loggpt_stream.model.bundle import load_bundle
from testing.daemon_process import produce
from testing.kafka_server import create_topic, unique_name
from tests.calibrate.conftest import LABELS, NOVA34

if TYPE_CHECKING:
    import pytest

    from testing.kafka_server import KafkaServer

VAL = ["--labels", LABELS, "--select", "split=val"]


async def filled(bootstrap: str) -> str:
    topic = unique_name("history")
    await create_topic(bootstrap, topic)
    await produce(bootstrap, topic, lzma.decompress(Path(NOVA34).read_bytes()).splitlines())
    return topic


def test_a_topic_gives_the_thresholds_that_the_files_give(kafka: KafkaServer, trained: Path, tmp_path: Path) -> None:
    source = ["--topic", asyncio.run(filled(kafka.bootstrap)), "--kafka.bootstrap", kafka.bootstrap]
    made = {}
    for name, inputs in (("topic", source), ("files", [NOVA34])):
        assert main(["--bundle", str(trained), "--out", str(tmp_path / name), *VAL, *inputs]) == 0
        made[name] = load_bundle(tmp_path / name)
    assert made["topic"].calibration == made["files"].calibration
    used = [set(each.used_sessions["calibration"].tolist()) for each in made.values()]
    assert used[0] == used[1]


def test_a_topic_that_is_not_there_is_said(
    kafka: KafkaServer, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--bundle", str(trained), "--topic", "nothing", "--kafka.bootstrap", kafka.bootstrap]) == 2
    assert "no topic nothing" in capsys.readouterr().err
