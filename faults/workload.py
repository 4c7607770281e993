"""The input of a fault test: simulated OpenStack sessions, as many as are wanted, the same for the same seed.

Log time begins years ago and is the records' Kafka timestamp, so that no line is ever ahead of the clock; nothing but
log time closes a session. At the end one line for each partition, a week on, closes whatever is open.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka import AIOKafkaProducer

from loggpt_stream.simulator.library import load_library
from loggpt_stream.simulator.load import Load, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loggpt_stream.simulator.library import Library

START_MS: Final = round(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
_CLOSING_AFTER_MS: Final = 7 * 24 * 3600 * 1000
_UNDER_WAY: Final = 2000
_BEATS_A_SECOND: Final = 20
# Records without a log event, of which each is a dead letter.
_BAD: Final = (None, b'{"message": "cut off', b'{"level": "INFO"}', bytes(range(128, 256)))
_BAD_SHARE: Final = 0.002


@cache
def library() -> Library:
    """Return the recorded sessions of one part of the data: enough, and soon read."""
    return load_library(("val",))


class Workload:
    """A producer of simulated lines to one topic, from `async with` to the end of its block.

    sent: records so far, without those that close.
    """

    def __init__(self, bootstrap: str, topic: str, partitions: int, *, seed: int, concurrency: int = 20) -> None:
        """`concurrency`: instances at work at the same time, over all partitions."""
        self.sent = 0
        self._topic = topic
        self._partitions = partitions
        self._records: Iterator[tuple[int, int, bytes, bytes | None]] = self._shuffled(seed, concurrency)
        self._newest_ms = START_MS
        self._under_way: set[asyncio.Future[Any]] = set()
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            compression_type="zstd",
            linger_ms=5,
            # Brokers are killed meanwhile: a record that is given up would end the run.
            request_timeout_ms=180_000,
            max_request_size=2_000_000,
        )

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def send(self, records: int) -> None:
        """Send so many records as fast as they go, and wait until the brokers have them."""
        await self._put(records)
        await asyncio.gather(*self._under_way)

    async def keep_sending(self, records_per_s: float, stop: asyncio.Event) -> None:
        """Send at this rate until `stop`, without catching up on what the brokers held up; then wait as `send` does."""
        owed = 0.0
        while not stop.is_set():
            owed += records_per_s / _BEATS_A_SECOND
            await self._put(int(owed))
            owed -= int(owed)
            await asyncio.sleep(1 / _BEATS_A_SECOND)
        await asyncio.gather(*self._under_way)

    async def close(self) -> None:
        """Send to each partition the line that closes all sessions but its own."""
        self._newest_ms += _CLOSING_AFTER_MS
        for partition in range(self._partitions):
            instance = f"ffffffff-0000-4000-8000-{partition:012}"
            await self.put([self.line(instance, "The end")], partition=partition, key=instance.encode())

    def line(self, instance: str, text: str, *, late_s: float = 0.0) -> bytes:
        """Return a line of an instance, dated so long before the newest record."""
        at = datetime.fromtimestamp(self._newest_ms // 1000 - late_s, UTC).strftime("%Y-%m-%d %H:%M:%S.000")
        return f"{at} 7 INFO nova.compute.manager [-] [instance: {instance}] {text}".encode()

    async def put(
        self, values: Iterable[bytes | None], *, late_s: float = 0.0, partition: int = 0, key: bytes = b"another"
    ) -> None:
        """Send these records, dated (by Kafka) so long before the newest one, and wait until the brokers have them."""
        at_ms = self._newest_ms - self._newest_ms % 1000 - round(late_s * 1000)
        for value in values:
            await self._producer.send_and_wait(self._topic, value, key=key, partition=partition, timestamp_ms=at_ms)

    async def _put(self, records: int) -> None:
        for time_ms, partition, key, value in islice(self._records, records):
            future = await self._producer.send(self._topic, value, key=key, partition=partition, timestamp_ms=time_ms)
            self._under_way.add(future)
            future.add_done_callback(self._under_way.discard)
            self._newest_ms = time_ms
            self.sent += 1
            while len(self._under_way) > _UNDER_WAY:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)

    def _shuffled(self, seed: int, concurrency: int) -> Iterator[tuple[int, int, bytes, bytes | None]]:
        """Yield time, partition, key and value of each record: a session's all on one partition, some of them bad."""
        rng = random.Random(seed)
        for each in Load(library(), "plain", Plan(START_MS, seed=seed, concurrency=concurrency)):
            key = each.key.encode()
            partition = zlib.crc32(key) % self._partitions
            if rng.random() < _BAD_SHARE:
                yield each.time_ms, partition, key, rng.choice(_BAD)
            yield each.time_ms, partition, key, each.text.encode()
