"""A real transactional producer through the proxy, which fails at the request it was told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError

from faults.oracle import read_committed
from faults.proxy import ADD_PARTITIONS_TO_TXN, END_TXN, INIT_PRODUCER_ID, PRODUCE, KafkaProxy, Route, routes
from testing.kafka_server import KafkaServer, create_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from faults.proxy import Moment


@pytest.fixture(scope="module")
def ways() -> list[Route]:
    return routes(1)


@pytest.fixture(scope="module")
def proxied(kafka_programs: None, ways: list[Route], tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    del kafka_programs
    with KafkaServer(tmp_path_factory.mktemp("kafka"), further=[way.listener for way in ways]) as server:
        yield server


@pytest.fixture
async def proxy(proxied: KafkaServer, ways: list[Route]) -> AsyncIterator[KafkaProxy]:
    del proxied
    async with KafkaProxy(ways) as running:
        yield running


def transactional(proxy: KafkaProxy) -> AIOKafkaProducer:
    return AIOKafkaProducer(
        bootstrap_servers=proxy.bootstrap,
        transactional_id=unique_name("writer"),
        retry_backoff_ms=50,
        request_timeout_ms=5_000,
    )


async def values(server: KafkaServer, topic: str, at_least: int = 0) -> list[bytes | None]:
    """Return what is there, once it is so much: a transaction's records show a moment after its commit."""
    for _ in range(100):
        found = [each.value for each in await asyncio.to_thread(read_committed, server.bootstrap, topic)]
        if len(found) >= at_least:
            break
        await asyncio.sleep(0.1)
    return found


async def test_what_passes_passes_as_it_came(proxied: KafkaServer, proxy: KafkaProxy) -> None:
    topic = unique_name("through")
    await create_topic(proxied.bootstrap, topic)
    async with transactional(proxy) as producer, producer.transaction():
        for number in range(100):
            await producer.send(topic, b"x" * number * 500)
    assert await values(proxied, topic, 100) == [b"x" * number * 500 for number in range(100)]
    assert proxy.brokers[0].connections_made > 0


@pytest.mark.parametrize("moment", ["request", "response"])
@pytest.mark.parametrize("api_key", [PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, END_TXN])
async def test_a_connection_is_cut_at_the_request_or_at_its_response(
    proxied: KafkaServer, proxy: KafkaProxy, api_key: int, moment: Moment
) -> None:
    topic = unique_name("cut")
    await create_topic(proxied.bootstrap, topic)
    cut = proxy.cut_at(api_key, moment)
    async with transactional(proxy) as producer, producer.transaction():
        await producer.send_and_wait(topic, b"once")
    await cut.wait(1.0)
    assert cut.fired == 1
    # The client tried again, and idempotence made one of the two.
    assert await values(proxied, topic, 1) == [b"once"]


async def test_the_broker_never_saw_a_request_that_was_cut_and_has_acted_on_one_whose_response_was(
    proxied: KafkaServer, proxy: KafkaProxy
) -> None:
    for moment, seen in (("request", []), ("response", [b"sent"])):
        topic = unique_name("acted")
        await create_topic(proxied.bootstrap, topic)
        producer = AIOKafkaProducer(bootstrap_servers=proxy.bootstrap, request_timeout_ms=1_000, acks="all")
        await producer.start()
        cut = proxy.cut_at(PRODUCE, moment, times=1)  # type: ignore[arg-type]
        sent = await producer.send(topic, b"sent")
        await cut.wait()
        await proxy.brokers[0].refuse()
        with pytest.raises(KafkaError):
            await asyncio.wait_for(sent, 10)
        await asyncio.wait_for(producer.stop(), 20)
        await proxy.brokers[0].accept()
        assert await values(proxied, topic) == seen


async def test_refused_connections_are_an_error_and_accepted_again_none(proxy: KafkaProxy) -> None:
    await proxy.brokers[0].refuse()
    client = AIOKafkaClient(bootstrap_servers=proxy.bootstrap)
    with pytest.raises(KafkaConnectionError):
        await client.bootstrap()
    await client.close()
    await proxy.brokers[0].accept()
    client = AIOKafkaClient(bootstrap_servers=proxy.bootstrap)
    await client.bootstrap()
    await client.close()


@pytest.mark.parametrize("direction", ["to_broker", "to_client"])
async def test_in_a_black_hole_nothing_arrives_until_it_heals(
    proxied: KafkaServer, proxy: KafkaProxy, direction: str
) -> None:
    topic = unique_name("hole")
    await create_topic(proxied.bootstrap, topic)
    async with AIOKafkaProducer(bootstrap_servers=proxy.bootstrap, enable_idempotence=True) as producer:
        await producer.send_and_wait(topic, b"first")
        proxy.brokers[0].black_hole(direction)  # type: ignore[arg-type]
        sent = await producer.send(topic, b"second")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sent), 1.5)
        assert (await values(proxied, topic))[1:] == ([] if direction == "to_broker" else [b"second"])
        proxy.heal()
        await sent
    assert await values(proxied, topic) == [b"first", b"second"]


async def test_cutting_all_connections_is_survived(proxied: KafkaServer, proxy: KafkaProxy) -> None:
    topic = unique_name("all")
    await create_topic(proxied.bootstrap, topic)
    async with AIOKafkaProducer(bootstrap_servers=proxy.bootstrap, enable_idempotence=True) as producer:
        for number in range(5):
            await producer.send_and_wait(topic, b"%d" % number)
            assert proxy.cut() > 0
        proxy.brokers[0].delay_s = 0.2
        began_s = asyncio.get_running_loop().time()
        await producer.send_and_wait(topic, b"slow")
        assert asyncio.get_running_loop().time() - began_s >= 0.4
    assert await values(proxied, topic) == [b"0", b"1", b"2", b"3", b"4", b"slow"]
