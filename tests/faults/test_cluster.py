"""Who leads what in a real cluster of three, and that it can be restarted under its clients."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from faults.cluster import cluster
from testing.kafka_server import create_topic

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
@pytest.mark.usefixtures("kafka_programs")
async def test_leaders_and_coordinators_are_found_and_others_take_over(tmp_path: Path) -> None:
    async with cluster(tmp_path / "kafka") as brokers:
        assert brokers.proxy is not None
        await create_topic(brokers.bootstrap, "led", partitions=3)
        assert {await brokers.leader("led", partition) for partition in range(3)} == {0, 1, 2}
        # The broker's word is who answers: what is committed through the proxies is there.
        async with AIOKafkaProducer(bootstrap_servers=brokers.proxy.bootstrap, transactional_id="writer") as producer:
            async with producer.transaction():
                await producer.send_and_wait("led", b"one", partition=0)
            coordinator = await brokers.transaction_coordinator("writer")
            group = await brokers.group_coordinator("readers")
            assert {coordinator, group} <= {0, 1, 2}
            await brokers.kill(coordinator)
            async with asyncio.timeout(60):  # the controllers miss a killed broker after a while
                while await brokers.transaction_coordinator("writer") == coordinator:
                    await asyncio.sleep(0.2)
            assert coordinator not in {await brokers.leader("led", partition) for partition in range(3)}
            await brokers.start(coordinator)
            await brokers.in_sync(["led"])
            await brokers.rolling_restart(["led"], settle_s=0.0)
            async with producer.transaction():
                await producer.send_and_wait("led", b"two", partition=0)
        async with AIOKafkaConsumer(
            "led", bootstrap_servers=brokers.bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
        ) as consumer:
            assert [(await consumer.getone()).value for _ in range(2)] == [b"one", b"two"]
