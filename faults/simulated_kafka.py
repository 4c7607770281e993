"""A transactional log in memory that fences, aborts, delays and loses replies, as a seeded chance wants.

It offers what `TransactionalLog` uses of aiokafka, and nothing happens by itself: every request stops twice, on its way
there and on its way back, and whoever drives the coroutines decides who goes on. The rules are Kafka's (KIP-98): one
epoch for each transactional id, raised by whoever initialises it, which ends the transaction that was open; requests
of an older epoch are refused; `read_committed` readers see nothing from the first open transaction on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, NotEnoughReplicasError, ProducerFenced

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator, Sequence

    from aiokafka import TopicPartition

Place = tuple[str, int]


class Pause:
    """Where a coroutine stops until it is its turn again."""

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


@dataclass(slots=True, eq=False)
class Transaction:
    """Records of one transaction, and what became of it: open, committed or aborted."""

    state: str = "open"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a log."""

    offset: int
    key: bytes | None
    value: bytes | None
    transaction: Transaction


@dataclass(slots=True)
class SimulatedKafka:
    """The broker. fault_rate: of requests; fences: False breaks the promise of epochs, to see that it is missed."""

    chance: random.Random
    tell: Callable[[str], None]
    fault_rate: float = 0.0
    fences: bool = True
    logs: dict[Place, list[Entry]] = field(default_factory=dict)
    ends: dict[Place, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    open: dict[str, Transaction] = field(default_factory=dict)
    late: list[Callable[[], Any]] = field(default_factory=list)

    async def request(self, what: str, effect: Callable[[], Any], *, refused: Exception | None = None) -> Any:  # noqa: ANN401 - as aiokafka's
        """Ask the broker for something; it may be lost, late, refused, or done without a reply."""
        faults = ["lost", "late", "no reply", *(["refused"] if refused else [])]
        fault = self.chance.choice(faults) if self.chance.random() < self.fault_rate else ""
        await Pause()
        if fault:
            self.tell(f"    {what}: {fault}")
        if fault == "lost":
            raise KafkaConnectionError(what)
        if fault == "refused" and refused:
            raise refused
        if fault == "late":
            self.late.append(effect)
            raise KafkaTimeoutError(what)
        answer = effect()
        await Pause()
        if fault == "no reply":
            raise KafkaTimeoutError(what)
        return answer

    def deliver_late(self) -> None:
        """Let a request arrive that its sender has given up."""
        effect = self.late.pop(self.chance.randrange(len(self.late)))
        try:
            effect()
        except ProducerFenced:
            self.tell("    a late request is fenced")
        else:
            self.tell("    a late request arrives")

    def time_out(self, transactional_id: str) -> None:
        """Abort a transaction that has been open for too long, as its coordinator does: the epoch is raised."""
        self.epochs[transactional_id] += 1
        self.end(transactional_id, "aborted")

    def initialise(self, transactional_id: str) -> int:
        """Return a new epoch; what was open is aborted."""
        self.end(transactional_id, "aborted")
        self.epochs[transactional_id] = self.epochs.get(transactional_id, 0) + 1
        return self.epochs[transactional_id]

    def check(self, transactional_id: str, epoch: int) -> None:
        """Raise `ProducerFenced` for an epoch that is no longer the newest."""
        if self.fences and self.epochs[transactional_id] != epoch:
            raise ProducerFenced

    def append(self, transactional_id: str, epoch: int, place: Place, key: bytes | None, value: bytes | None) -> int:
        """Append a record to the open transaction and return its offset."""
        self.check(transactional_id, epoch)
        transaction = self.open.setdefault(transactional_id, Transaction())
        offset = self.ends.get(place, 0)
        self.logs.setdefault(place, []).append(Entry(offset, key, value, transaction))
        self.ends[place] = offset + 1
        return offset

    def end(self, transactional_id: str, state: str) -> None:
        """Commit or abort what is open; the marker takes an offset in each log."""
        transaction = self.open.pop(transactional_id, None)
        if transaction is not None:
            transaction.state = state
            for place, entries in self.logs.items():
                if any(entry.transaction is transaction for entry in entries):
                    self.ends[place] += 1

    def committed(self, place: Place) -> list[Entry]:
        """Return what a `read_committed` reader sees."""
        seen: list[Entry] = []
        for entry in self.logs.get(place, []):
            if entry.transaction.state == "open":
                break
            if entry.transaction.state == "committed":
                seen.append(entry)
        return seen

    def compact(self, place: Place) -> None:
        """Keep the newest committed value of each key, and what stands behind the first open transaction."""
        stable = self.committed(place)
        if stable:
            newest = {entry.key: entry.offset for entry in stable}
            last = stable[-1].offset
            kept = {entry.offset for entry in stable if newest[entry.key] == entry.offset}
            self.logs[place] = [entry for entry in self.logs[place] if entry.offset > last or entry.offset in kept]


@dataclass(slots=True)
class SimulatedProducer:
    """aiokafka's transactional producer, as far as it is used."""

    kafka: SimulatedKafka
    transactional_id: str
    _epoch: int = 0
    _unsent: list[Callable[[], Any]] = field(default_factory=list)

    async def start(self) -> None:
        """Initialise the transactional id."""

        def initialise() -> int:
            return self.kafka.initialise(self.transactional_id)

        self._epoch = await self.kafka.request("InitProducerId", initialise)

    async def begin_transaction(self) -> None:
        """Nothing the broker hears of."""
        self._unsent.clear()

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None, partition: int | None, headers: Sequence[Any]
    ) -> _Delivery:
        """Queue a record; what is returned is to be awaited."""
        del headers
        place, epoch = (topic, partition or 0), self._epoch

        def append() -> int:
            return self.kafka.append(self.transactional_id, epoch, place, key, value)

        self._unsent.append(append)
        return _Delivery(self, append)

    async def commit_transaction(self) -> None:
        """Flush what nobody waited for, whatever comes of it, and end the transaction."""
        for append in list(self._unsent):
            try:
                await self.deliver(append)
            except (KafkaConnectionError, KafkaTimeoutError, NotEnoughReplicasError):
                continue
        epoch = self._epoch

        def end() -> None:
            self.kafka.check(self.transactional_id, epoch)
            self.kafka.end(self.transactional_id, "committed")

        await self.kafka.request("EndTxn", end)

    async def deliver(self, append: Callable[[], int]) -> SimpleNamespace:
        """Have the broker append a record."""
        self._unsent.remove(append)
        offset = await self.kafka.request("Produce", append, refused=NotEnoughReplicasError("Produce"))
        return SimpleNamespace(offset=offset)

    async def stop(self) -> None:
        """Let go."""


@dataclass(frozen=True, slots=True)
class _Delivery:
    producer: SimulatedProducer
    append: Callable[[], int]

    def __await__(self) -> Generator[Any, Any, SimpleNamespace]:
        return self.producer.deliver(self.append).__await__()


@dataclass(slots=True)
class SimulatedReader:
    """aiokafka's `read_committed` consumer without a group, as far as it is used."""

    kafka: SimulatedKafka
    _position: int = 0

    async def start(self) -> None:
        """Connect."""
        await Pause()

    def assign(self, places: Sequence[TopicPartition]) -> None:
        """Nothing the broker hears of."""

    async def seek_to_beginning(self, place: TopicPartition) -> None:
        """Read from the start."""
        del place
        self._position = 0

    async def getmany(self, place: TopicPartition, *, timeout_ms: int) -> dict[Any, list[Entry]]:
        """Return some of what comes next."""
        del timeout_ms

        def read() -> list[Entry]:
            seen = self.kafka.committed((place.topic, place.partition))
            return [entry for entry in seen if entry.offset >= self._position][: self.kafka.chance.randrange(1, 6)]

        found = await self.kafka.request("Fetch", read)
        if found:
            self._position = found[-1].offset + 1
        return {place: found}

    async def stop(self) -> None:
        """Let go."""
