"""Three brokers, the proxy before them, and who of them leads what."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from faults.proxy import KafkaProxy, routes
from testing.kafka_server import KafkaServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from testing.kafka_server import Listener

BROKERS: Final = 3
_GROUP, _TRANSACTION = 0, 1  # key types of FindCoordinator
_ANSWER_WITHIN_S: Final = 30.0


@dataclass(slots=True)
class Cluster:
    """Brokers, and the proxy that is told by their second addresses (None: these lead elsewhere)."""

    server: KafkaServer
    proxy: KafkaProxy | None

    @property
    def bootstrap(self) -> str:
        """Return the brokers' own addresses, past any proxy."""
        return self.server.bootstrap

    async def leader(self, topic: str, partition: int) -> int:
        """Return which broker leads a partition."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            (found,) = await admin.describe_topics([topic])
            return next(int(each["leader"]) for each in found["partitions"] if each["partition"] == partition)
        finally:
            await admin.close()

    async def group_coordinator(self, group: str) -> int:
        """Return which broker coordinates a consumer group."""
        return await self._coordinator(_GROUP, group)

    async def transaction_coordinator(self, transactional_id: str) -> int:
        """Return which broker coordinates the transactions of this id, in use or not."""
        return await self._coordinator(_TRANSACTION, transactional_id)

    async def _coordinator(self, key_type: int, key: str) -> int:
        client = AIOKafkaClient(bootstrap_servers=self.bootstrap)
        await client.bootstrap()
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                while True:
                    try:
                        return int(await client.coordinator_lookup(key_type, key))
                    except KafkaError:
                        # The internal topic is made when it is first asked for, and moves with its leader.
                        await asyncio.sleep(0.2)
        finally:
            await client.close()

    async def kill(self, broker: int) -> None:
        """End a broker as a crash would."""
        await asyncio.to_thread(self.server.kill_broker, broker)

    async def stop(self, broker: int) -> None:
        """End a broker as an operator would."""
        await asyncio.to_thread(self.server.stop_broker, broker)

    async def start(self, broker: int) -> None:
        """Start a broker that was ended, and wait until clients can use it."""
        await asyncio.to_thread(self.server.start_broker, broker)

    async def in_sync(self, topics: Sequence[str], timeout_s: float = 90.0) -> None:
        """Wait until every replica of these topics follows its leader. Raises `TimeoutError`."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
        await admin.start()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    found = await admin.describe_topics([*topics])
                    parts = [part for each in found for part in each["partitions"]]
                    if parts and all(len(part["isr"]) == len(part["replicas"]) for part in parts):
                        return
                    await asyncio.sleep(0.3)
        finally:
            await admin.close()

    async def rolling_restart(self, topics: Sequence[str], *, settle_s: float = 1.0) -> None:
        """Restart one broker after the other as an operator would: the next when the replicas of `topics` follow."""
        for broker in range(self.server.brokers):
            await self.stop(broker)
            await asyncio.sleep(settle_s)
            await self.start(broker)
            await self.in_sync(topics)


@asynccontextmanager
async def cluster(
    folder: Path, *, brokers: int = BROKERS, further: Sequence[Listener] | None = None
) -> AsyncIterator[Cluster]:
    """Yield a running cluster; with a proxy before it, or else with the further listeners that are given."""
    ways = routes(brokers)
    server = KafkaServer(folder, brokers=brokers, further=further or [way.listener for way in ways])
    await asyncio.to_thread(server.__enter__)
    try:
        if further:
            yield Cluster(server, None)
        else:
            async with KafkaProxy(ways) as proxy:
                yield Cluster(server, proxy)
    finally:
        await asyncio.to_thread(server.__exit__)
