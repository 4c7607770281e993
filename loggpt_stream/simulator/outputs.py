"""Where simulated records go: a file, standard output, or a Kafka topic; and the truth about them to a CSV."""

from __future__ import annotations

import asyncio
import csv
import sys
import time
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError, TopicAuthorizationFailedError
from aiokafka.partitioner import murmur2

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loggpt_stream.kafka.settings import KafkaSettings
    from loggpt_stream.simulator.load import Simulated, Truth

_PROGRESS_EVERY_S: Final = {True: 0.5, False: 10.0}  # on a terminal, and in a log
_PACE_EVERY_S: Final = 0.02
_BATCH_BYTES: Final = 256 * 1024
_CHUNK_RECORDS: Final = 2_000
_BATCH_AGE_S: Final = 0.2
_FUTURE_S: Final = 10.0
_TRUTH_COLUMNS: Final = ("instance_uuid", "failed", "fault", "started_at", "ended_at", "failed_at", "injected_at")


class SendProgress:
    """Counts what goes out, says so now and then on standard error, and keeps the wanted rate."""

    def __init__(self, rate: float) -> None:
        """`rate`: records a second; 0 for as many as possible."""
        self.records = 0
        self.sessions = 0
        self.failed = 0
        self._rate = rate
        self._terminal = sys.stderr.isatty()
        self._began_s = self._told_s = time.monotonic()
        self._told_records = 0
        self._newest_ms = 0

    def count(self, record: Simulated) -> None:
        """Take note of a record that goes out."""
        self.records += 1
        self._newest_ms = record.time_ms
        if record.truth is not None:
            self.sessions += 1
            self.failed += record.truth.failed

    def wait_s(self) -> float:
        """Return how long to wait so that the rate is kept."""
        if not self._rate:
            return 0.0
        return max(0.0, self.records / self._rate - (time.monotonic() - self._began_s))

    def burst(self) -> int:
        """Return how many records may go out between two looks at the clock."""
        return max(1, round(self._rate * _PACE_EVERY_S)) if self._rate else _CHUNK_RECORDS

    def tell(self, *, done: bool = False) -> None:
        """Say how far it is, if it is time for that."""
        now_s = time.monotonic()
        since_s = now_s - self._told_s
        if not done and since_s < _PROGRESS_EVERY_S[self._terminal]:
            return
        if done:
            since_s, self._told_records = max(now_s - self._began_s, 1e-9), 0
        per_s = (self.records - self._told_records) / since_s
        newest = f"{datetime.fromtimestamp(self._newest_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"
        sessions = f"{self.sessions:,} sessions ({self.failed:,} failed)"
        text = f"{self.records:,} lines, {per_s:,.0f} lines/s, {sessions} to {newest}"
        print(f"\r{text}\033[K" if self._terminal else text, end="\n" if done or not self._terminal else "",
              file=sys.stderr, flush=True)  # fmt: skip
        self._told_s, self._told_records = now_s, self.records


class TruthFile:
    """The CSV of what happened to each simulated instance, in order of their last lines."""

    def __init__(self, stream: IO[str] | None) -> None:
        """Write to `stream`, or nowhere."""
        self._writer = csv.writer(stream) if stream else None
        if self._writer:
            self._writer.writerow(_TRUTH_COLUMNS)

    def add(self, truth: Truth | None) -> None:
        """Write the row of a session that has ended."""
        if truth is None or self._writer is None:
            return
        times = (truth.started_ms, truth.ended_ms, truth.failed_ms, truth.injected_ms)
        seconds = ("" if ms is None else f"{ms / 1000:.3f}" for ms in times)
        self._writer.writerow((truth.instance_uuid, int(truth.failed), truth.fault, *seconds))


def write_stream(records: Iterable[Simulated], stream: IO[bytes], truths: TruthFile, progress: SendProgress) -> None:
    """Write one record a line."""
    for chunk in _chunks(records, progress):
        stream.write(b"".join(record.text.encode() + b"\n" for record in chunk))
        for record in chunk:
            progress.count(record)
            truths.add(record.truth)
        stream.flush()
        progress.tell()
        time.sleep(progress.wait_s())


def _chunks(records: Iterable[Simulated], progress: SendProgress) -> Iterator[list[Simulated]]:
    size = progress.burst()
    chunk: list[Simulated] = []
    for record in records:
        chunk.append(record)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def write_topic(
    records: Iterable[Simulated],
    topic: str,
    kafka: KafkaSettings,
    truths: TruthFile,
    progress: SendProgress,
    *,
    keyed: bool,
    acks: str,
    compression: str | None,
) -> None:
    """Send each record to `topic`, with its instance as the key or without any.

    Raises `UserError` where the broker cannot be reached, or will not take the records.
    """
    producer = AIOKafkaProducer(
        **kafka.client_options(),
        acks=acks if acks == "all" else int(acks),
        max_batch_size=_BATCH_BYTES,
        compression_type=compression,
    )
    try:
        await producer.start()
    except KafkaConnectionError as error:
        raise UserError(f"kafka.bootstrap {kafka.bootstrap}: no broker answers there ({error}).") from error
    try:
        partitions = sorted(await producer.partitions_for(topic))
        batches = _Batches(producer, topic, partitions, keyed=keyed)
        for chunk in _chunks(records, progress):
            for record in chunk:
                progress.count(record)
                await batches.add(record)
                truths.add(record.truth)
            await batches.send_old()
            progress.tell()
            await asyncio.sleep(progress.wait_s())
        await batches.send_all()
    except (KafkaError, TopicAuthorizationFailedError) as error:
        raise UserError(f"topic {topic} at {kafka.bootstrap}: {error!r}.") from error
    finally:
        await producer.stop()


class _Batches:
    """The batch that is being filled for each partition, and those on their way.

    Records are gathered here and not in the producer: its `send` costs thirty times what a line costs to make.
    """

    def __init__(self, producer: Any, topic: str, partitions: list[int], *, keyed: bool) -> None:  # noqa: ANN401 - untyped
        self._producer = producer
        self._topic = topic
        self._partitions = partitions
        self._keyed = keyed
        self._filling: dict[int, Any] = {}
        self._begun_s: dict[int, float] = {}
        self._under_way: set[asyncio.Future[Any]] = set()
        self._next = 0
        self._warned = False

    async def add(self, record: Simulated) -> None:
        """Put a record into the batch of its partition, and send that if it is full."""
        value = record.text.encode()
        if self._keyed:
            key: bytes | None = record.key.encode()
            partition = self._partitions[(murmur2(key) & 0x7FFFFFFF) % len(self._partitions)]
        else:
            key = None
            self._next += 1
            partition = self._partitions[self._next % len(self._partitions)]
        batch = self._filling.get(partition)
        if batch is not None and batch.append(key=key, value=value, timestamp=record.time_ms) is not None:
            return
        if batch is not None:
            await self._send(partition)
        batch = self._filling[partition] = self._producer.create_batch()
        self._begun_s[partition] = time.monotonic()
        if batch.append(key=key, value=value, timestamp=record.time_ms) is None:
            raise UserError(f"a record of {len(value)} bytes is larger than a batch of {_BATCH_BYTES}.")
        self._warn_of_future(record)

    async def send_old(self) -> None:
        """Send the batches that have waited long enough."""
        now_s = time.monotonic()
        for partition in [which for which, begun_s in self._begun_s.items() if now_s - begun_s >= _BATCH_AGE_S]:
            await self._send(partition)

    async def send_all(self) -> None:
        """Send what there is and wait until the broker has everything."""
        for partition in list(self._filling):
            await self._send(partition)
        await asyncio.gather(*self._under_way)

    async def _send(self, partition: int) -> None:
        batch = self._filling.pop(partition)
        del self._begun_s[partition]
        batch.close()
        sent = await self._producer.send_batch(batch, self._topic, partition=partition)
        self._under_way.add(sent)
        # As many under way as there are partitions, twice: more would only fill memory.
        while len(self._under_way) > 2 * len(self._partitions):
            done, self._under_way = await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()

    def _warn_of_future(self, record: Simulated) -> None:
        if not self._warned and record.time_ms / 1000 > time.time() + _FUTURE_S:
            self._warned = True
            print(
                "note: log time has overtaken the clock, and the daemon takes lines from the future as arriving now:"
                " sessions will close late. Give an earlier --start, a higher --concurrency or a lower --rate.",
                file=sys.stderr,
            )
