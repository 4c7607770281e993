"""Topics are looked up with whichever broker can be reached; those of brokers that are away are waited for."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog.testing
from aiokafka.cluster import BrokerMetadata

from loggpt_stream.kafka import topics
from loggpt_stream.kafka.finding import Level
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.kafka.topics import Cluster, Topic, kafka_client, look_up, must_hold
from loggpt_stream.route.service import Router
from loggpt_stream.route.settings import RouteSettings
from testing.kafka_server import create_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from testing.kafka_server import KafkaServer


@asynccontextmanager
async def silent_host() -> AsyncIterator[int]:
    """Yield a port where whoever connects waits for an answer in vain, as behind a firewall that drops packets."""
    ended = asyncio.Event()

    async def hold(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        ended.set()


async def test_an_address_that_never_answers_leaves_time_for_the_others(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "shuffle", lambda _: None)  # the worst order
    topic = unique_name("input")
    await create_topic(kafka.bootstrap, topic)
    async with silent_host() as port:
        settings = KafkaSettings(bootstrap=f"127.0.0.1:{port},{kafka.bootstrap}")
        async with kafka_client(settings) as client:
            assert list((await look_up(client, [topic])).topics) == [topic]


async def test_a_broker_that_cannot_be_reached_from_here_is_not_the_one_that_is_asked(kafka: KafkaServer) -> None:
    topic = unique_name("input")
    await create_topic(kafka.bootstrap, topic)
    async with kafka_client(KafkaSettings(bootstrap=kafka.bootstrap)) as client:
        unreachable = {number: BrokerMetadata(number, "127.0.0.1", 1, None) for number in range(100, 120)}
        client.cluster._brokers.update(unreachable)
        assert list((await look_up(client, [topic])).topics) == [topic]


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


async def test_partitions_without_leader_are_waited_for_at_the_start_which_is_said_once(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch, logged: list[Any]
) -> None:
    settings = RouteSettings(
        kafka=KafkaSettings(bootstrap=kafka.bootstrap),
        input_topic=unique_name("input"),
        output_topic=unique_name("output"),
        state_topic=unique_name("state"),
        group=unique_name("group"),
    )
    for name in settings.topics().values():
        await create_topic(kafka.bootstrap, name, configs={"cleanup.policy": "compact"})
    looks = 0

    async def look_up_in_outage(client: Any, topics_named: Iterable[str]) -> Cluster:
        nonlocal looks
        looks += 1
        cluster = await look_up(client, topics_named)
        if looks > 2:
            return cluster
        cut_off = replace(cluster.topics[settings.output_topic], leaderless=1)
        return replace(cluster, topics={**cluster.topics, settings.output_topic: cut_off})

    monkeypatch.setattr(topics, "look_up", look_up_in_outage)
    member = Router(settings)._group
    async with asyncio.timeout(30):
        assert await member.connect(asyncio.Event())
    await member.close()
    assert looks == 3
    (said,) = (each for each in logged if each["event"] == "broker_unavailable")
    assert f"{settings.output_topic}: 1 of 1 partitions have no leader" in said["reason"]
    assert "start the brokers" in said["reason"]


def test_partitions_without_leader_are_a_failure_in_the_doctors_eyes() -> None:
    settings = RouteSettings()
    there = {name: Topic(name, 3, 1, 0, None) for name in settings.topics().values()}
    there[settings.state_topic] = replace(there[settings.state_topic], leaderless=2)
    (found,) = must_hold(settings, Cluster(2, there, frozenset()))
    assert (found.check, found.level) == ("state topic", Level.FAILURE)
    assert "2 of 3 partitions have no leader" in found.found
