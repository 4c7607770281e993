"""Topics are looked up with whichever broker can be reached."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiokafka.cluster import BrokerMetadata

from loggpt_stream.daemon.topics import kafka_client, look_up
from loggpt_stream.settings import KafkaSettings
from tests.kafka_server import create_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from tests.kafka_server import KafkaServer


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
