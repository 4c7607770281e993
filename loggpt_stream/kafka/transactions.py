"""One input partition's place in Kafka: a transactional producer, and the state partition that it writes.

`take_over` fences whoever had the partition before (KIP-98: initialising a transactional id raises its epoch and ends
its open transaction), and reads what was committed. `commit` writes alerts, dead letters and state in one transaction.
Whatever goes wrong, and wherever: close this, and take over anew. The log then says what happened.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiokafka.errors import IllegalOperation, KafkaError
from aiokafka.partitioner import murmur2

from loggpt_stream.kafka.changelog import BARRIER
from loggpt_stream.logs import get_logger
from loggpt_stream.message import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from aiokafka import TopicPartition

log = get_logger(__name__)

_STOP_WITHIN_S: Final = 3.0
_POLL_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message and where it goes; the key decides on the partition where `partition` is None."""

    topic: str
    message: Message
    partition: int | None = None


class Stamped(NamedTuple):
    """A record that is written as it came, with its own time."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class Bulk:
    """Many records for one topic, in order; the key of each decides on its partition, as in Kafka's own clients.

    without_key: the partition of those without one, modulo how many there are.
    """

    topic: str
    records: Sequence[Stamped]
    without_key: int


class TransactionalLog:
    """The log of one input partition, from `take_over` to `close`. Not shared between tasks."""

    def __init__(
        self,
        state: TopicPartition,
        make_producer: Callable[[], Any],
        make_reader: Callable[[], Any],
        stop: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        """`state`: the partition's own state partition.

        make_producer: returns a producer, not started, with the partition's transactional id. make_reader: returns a
        `read_committed` consumer without a group, not started. stop: lets go of either (`stop_client`); apart from
        that, nothing here needs an event loop, and the simulation has none.
        """
        self._state = state
        self._stop = stop or stop_client
        self._make_producer = make_producer
        self._make_reader = make_reader
        self._producer: Any = None

    async def take_over(self) -> list[tuple[bytes | None, bytes | None]]:
        """Fence the owner before, and return key and value of each committed record of the state partition.

        Raises `KafkaError` or `OSError`. The reading ends at a barrier that it writes itself, not at an end offset:
        behind the last record stand control records, and compaction leaves holes.
        """
        self._producer = self._make_producer()
        await self._producer.start()
        written = await self._barrier()
        reader = self._make_reader()
        try:
            await reader.start()
            reader.assign([self._state])
            await reader.seek_to_beginning(self._state)
            return await self._read_up_to(written.offset, reader)
        finally:
            await self._stop(reader)

    async def confirm(self) -> None:
        """Raise `ProducerFenced` where another owner has come, `KafkaError` or `OSError` where nobody knows."""
        await self._barrier()

    async def commit(self, outgoing: Iterable[Outgoing | Bulk], state: Iterable[Message]) -> None:
        """Write all of it, or nothing: `state` to the state partition.

        Raises `KafkaError` or `OSError`: then nobody knows which of the two.
        """
        await self._commit([*outgoing, *(self._of_state(message) for message in state)])

    async def close(self) -> None:
        """Let go of the producer; an open transaction is left to the next owner, or to its time limit."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await self._stop(producer)

    async def _barrier(self) -> Any:  # noqa: ANN401 - aiokafka is untyped
        (written,) = await self._commit([self._of_state(Message(BARRIER, uuid.uuid4().bytes, ()))])
        if written.offset < 0:
            # aiokafka takes a batch that the broker has already for written, and may not know where.
            raise KafkaError("it is not known where the barrier stands")
        return written

    def _of_state(self, message: Message) -> Outgoing:
        return Outgoing(self._state.topic, message, self._state.partition)

    async def _commit(self, outgoing: Iterable[Outgoing | Bulk]) -> list[Any]:
        try:
            return await self._write(outgoing)
        except (AssertionError, IllegalOperation) as error:
            # aiokafka says so of a producer that failed between two transactions, and of a partition that is not there:
            # the input was given more partitions than the state topic has, which the next start is refused for.
            raise KafkaError(f"the producer is of no more use: {error!r}") from error

    async def _write(self, outgoing: Iterable[Outgoing | Bulk]) -> list[Any]:
        await self._producer.begin_transaction()
        sent = []
        for each in outgoing:
            if isinstance(each, Bulk):
                sent += await self._send_bulk(each)
                continue
            message = each.message
            headers = list(message.headers)
            sent.append(
                await self._producer.send(
                    each.topic, message.value, key=message.key, partition=each.partition, headers=headers
                )
            )
        # commit_transaction would succeed all the same where one of them was not delivered.
        written = await _delivered(sent)
        await self._producer.commit_transaction()
        return written

    async def _send_bulk(self, bulk: Bulk) -> list[Any]:
        """Send records in batches that are built here: a call and a future for each would cost more than the record."""
        if not bulk.records:
            return []
        count = len(await self._producer.partitions_for(bulk.topic))
        batches: dict[int, Any] = {}
        sent = []
        for key, value, headers, timestamp_ms in bulk.records:
            place = bulk.without_key % count if key is None else partition_of(key, count)
            batch = batches.get(place)
            if batch is not None:
                if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=headers) is not None:
                    continue
                sent.append(await self._producer.send_batch(batch, bulk.topic, partition=place))
            batch = batches[place] = self._producer.create_batch()
            batch.append(timestamp=timestamp_ms, key=key, value=value, headers=headers)
        for place, batch in batches.items():
            batch.close()
            sent.append(await self._producer.send_batch(batch, bulk.topic, partition=place))
        return sent

    async def _read_up_to(self, barrier_offset: int, reader: Any) -> list[tuple[bytes | None, bytes | None]]:  # noqa: ANN401 - aiokafka is untyped
        found: list[tuple[bytes | None, bytes | None]] = []
        while True:
            for records in (await reader.getmany(self._state, timeout_ms=_POLL_MS)).values():
                for record in records:
                    if record.offset >= barrier_offset:
                        return found
                    found.append((record.key, record.value))


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, count: int) -> int:
    """Return the partition of a key among so many, as every Kafka client chooses it (murmur2)."""
    return int((murmur2(key) & 0x7FFFFFFF) % count)


async def _delivered(sent: Sequence[Awaitable[Any]]) -> list[Any]:
    """Wait for every delivery, those after a failed one too, and return what the broker said of each."""
    failed: KafkaError | None = None
    said = []
    for each in sent:
        try:
            said.append(await each)
        except KafkaError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return said


async def stop_client(client: Any) -> None:  # noqa: ANN401 - aiokafka is untyped
    """Stop a Kafka client, and within a few seconds: one whose broker is away may wait for it."""
    if client is None:
        return
    try:
        async with asyncio.timeout(_STOP_WITHIN_S):
            await client.stop()
    except (TimeoutError, KafkaError, OSError) as error:
        log.warning("client_cut_off", client=type(client).__name__, error=repr(error))
        await _cut_off(client)


async def _cut_off(client: Any) -> None:  # noqa: ANN401 - aiokafka is untyped
    """Close the connections of a client whose `stop` did not end: it would not close them when asked again."""
    sender = getattr(getattr(client, "_sender", None), "sender_task", None)
    if sender is not None:
        sender.cancel()
    connections = getattr(client, "client", None) or getattr(client, "_client", None)
    try:
        async with asyncio.timeout(_STOP_WITHIN_S):
            if connections is not None:
                await connections.close()
    except (TimeoutError, KafkaError, OSError) as error:
        log.warning("client_left_open", client=type(client).__name__, error=repr(error))
