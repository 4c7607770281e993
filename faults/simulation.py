"""Histories of one partition, made by a seed: owners come and go, crash, freeze and wake, and requests are lost.

What runs is the daemon's own code from the record to the transaction (`PartitionTask`, `Partition`, `Changelog`,
`TransactionalLog`, sessions and decoding); simulated are Kafka, the scorer, the clock, and who believes to own the
partition. Whatever happened, the committed scores must be those of one undisturbed pass over the input, and the
committed dead letters its bad records: none missing, none twice, none different. Owners write their state in different
formats, as in a rolling upgrade.

    python -m faults.simulation --histories 1000000     # until one fails: its seed is printed
    python -m faults.simulation --seed 4711              # that history again, told step by step
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from faults.simulated_kafka import SimulatedKafka, SimulatedProducer, SimulatedReader
from loggpt_stream.alerts.alert import JudgedSession
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.daemon.partition import Partition
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.kafka.partition_task import PartitionTask, TaskOptions
from loggpt_stream.kafka.transactions import Outgoing, TransactionalLog
from loggpt_stream.lines.gathering import Gathering
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Record
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.message import Message
from loggpt_stream.model.calibration import Calibration, Judge, Verdict
from loggpt_stream.model.session_score import SessionScore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from loggpt_stream.daemon.partition import SessionCommit
    from loggpt_stream.lines.session import Session

RULES: Final = SessionRules(idle_gap_s=20.0, max_age_s=60.0, max_lines=6, grace_s=3.0, tombstone_s=30.0)
START_S: Final = 1_795_442_880.0
_ID: Final = "group-input-0"
_INPUT: Final = TopicPartition("input", 0)
_STATE: Final = TopicPartition("state", 0)
_OWNER: Final = "group input"
_ACTIONS: Final = 150
_GATHERING: Final = Gathering(RULES, Masks())
_METRICS: Final = Metrics()

# How often what happens, in a hundred.
_EVENTS: Final = {"go on": 89, "join": 2, "kill": 2, "freeze or wake": 3, "late": 2, "time out": 1, "compact": 1}
_WORK: Final = {"commit": 3, "feed": 4, "judge": 3}
_KINDS: Final = {"bad": 3, "traceback": 12, "terminal": 5, "line": 80}
_MOSTLY: Final = 0.7


class _ScoresAndLetters:
    """Publishes every score and dead letter."""

    async def compose(self, partition: Partition, pending: SessionCommit, *, small: bool) -> list[Outgoing]:
        """Return the messages of a transaction."""
        del partition, small
        return list(messages(pending))

    def committed(self, pending: SessionCommit) -> None:
        """Nothing to be counted."""


class _NobodyReads:
    """The simulation feeds partitions itself."""

    def __init__(self) -> None:
        self.committed: dict[TopicPartition, int] = {}

    async def start_reading(self, where: TopicPartition, partition: Partition) -> None:
        """Nothing to be read."""

    def stop_reading(self, where: TopicPartition, partition: Partition) -> None:
        """Nothing was read."""

    def broker_is_up(self) -> bool:
        """Tell that it is."""
        return True


_PUBLISHER: Final = _ScoresAndLetters()
_NOBODY_READS: Final = _NobodyReads()
_OPTIONS: Final = TaskOptions(interval_s=1.0, commit_within_s=1.0)


def partition_of(where: TopicPartition, changelog: Changelog) -> Partition:
    """Return the daemon's state of a partition of which nothing is known yet."""
    return Partition(where.topic, where.partition, _GATHERING, lambda: Judge(Calibration({})), changelog)


class ViolationError(AssertionError):
    """The promise was broken."""


def recorded(chance: random.Random) -> list[Record]:
    """Return the input of a history: lines of a few instances, tracebacks, bad records, and a last line that closes."""
    values: list[tuple[float, bytes | None]] = []
    said: dict[int, float] = {}
    time_s = START_S
    for _ in range(chance.randrange(5, 40)):
        time_s += chance.choice((0.0, 0.001, 0.5, 2.0, 25.0))
        values += [(time_s, value) for value in _lines(time_s, chance, said)]
    # In the future of all others, in sessions of its own: it closes them.
    values += [(time_s + 1000.0 + n, _text(time_s + 1000.0 + n, f"9999999{n}", "later")) for n in (0, 1000)]
    return [Record(value, "input", 0, offset, at_s) for offset, (at_s, value) in enumerate(values)]


def _lines(time_s: float, chance: random.Random, said: dict[int, float]) -> list[bytes | None]:
    """Return the next lines. said: when each process wrote last, by its number."""
    kind = chance.choices(list(_KINDS), list(_KINDS.values()))[0]
    if kind == "bad":
        return [chance.choice((None, b'{"message": "cut', b'{"level": "INFO"}'))]
    if kind == "traceback":
        return _traceback(chance, said)
    end = "Deleted allocations for instance" if kind == "terminal" else f"step {chance.randrange(5)}"
    number = chance.randrange(4)
    said[7 + number] = time_s
    return [_text(time_s, f"0000000{number}", end)]


def _text(time_s: float, instance: str, text: str) -> bytes:
    # Each instance has a process of its own, so that tracebacks can tell whose they are.
    process = 7 + int(instance) % 4
    name = f"{instance}-0000-4000-8000-000000000000"
    return f"{_stamp(time_s)} {process} INFO nova.compute.manager [-] [instance: {name}] {text}".encode()


def _traceback(chance: random.Random, said: dict[int, float]) -> list[bytes | None]:
    """Return a traceback: of the newest event, without headers, or of what a process said some time ago."""
    lines = ["Traceback (most recent call last):", '  File "a.py", line 1', "KeyError: 'port'"]
    if not said or chance.random() < _MOSTLY / 2:
        return [line.encode() for line in lines]
    process, said_s = chance.choice(sorted(said.items()))
    head = f"{_stamp(said_s)} {process} ERROR nova.compute.manager"
    return [f"{head} {line}".encode() for line in lines]


def _stamp(time_s: float) -> str:
    at_s = time_s - START_S + 8 * 60
    return f"2026-11-23 {14 + int(at_s // 3600):02d}:{int(at_s % 3600 // 60):02d}:{at_s % 60:06.3f}"


@dataclass(slots=True)
class Process:
    """One that believes to own the partition. busy: what it waits for; frozen: it gets no time, and does not know."""

    name: str
    task: PartitionTask[Partition, SessionCommit]
    busy: Coroutine[Any, Any, Any] | None = None
    ready: bool = False
    frozen: bool = False
    ending: bool = False


class Simulation:
    """One history, from its seed."""

    def __init__(self, seed: int, *, tell: Callable[[str], None] = lambda _: None, fences: bool = True) -> None:
        """`tell` is given every step. fences: see `SimulatedKafka`."""
        self.chance = random.Random(seed)
        self.tell = tell
        self.kafka = SimulatedKafka(self.chance, tell, self.chance.choice((0.0, 0.02, 0.2)), fences=fences)
        self.input = recorded(self.chance)
        self.processes: list[Process] = []
        self._names = iter(range(10_000))

    def run(self) -> None:
        """Live through the history. Raises `ViolationError`."""
        for _ in range(_ACTIONS):
            self._act()
        self.tell("from here on nothing fails")
        self.kafka.fault_rate = 0.0
        while self.kafka.late:
            self.kafka.deliver_late()
        self._finish()
        self._compare()

    def _act(self) -> None:
        """Do one thing, by chance."""
        awake = [process for process in self.processes if not process.frozen]
        what = self.chance.choices(list(_EVENTS), list(_EVENTS.values()))[0] if awake else "join"
        if what == "go on":
            self._go_on(self.chance.choice(awake))
        elif what == "join":
            self._join()
        elif what == "kill":
            victim = self.chance.choice(self.processes)
            self.tell(f"{victim.name} is killed")
            self.processes.remove(victim)
            _drop(victim)
        elif what == "freeze or wake":
            process = self.chance.choice(self.processes)
            process.frozen = not process.frozen
            self.tell(f"{process.name} {'freezes' if process.frozen else 'wakes'}")
        elif what == "late" and self.kafka.late:
            self.kafka.deliver_late()
        elif what == "time out" and self.kafka.open:
            self.tell("  the open transaction times out")
            self.kafka.time_out(_ID)
        elif what == "compact":
            self.kafka.compact((_STATE.topic, 0))

    def _join(self) -> None:
        """Give the partition to a new process; some of the old ones hear of it."""
        for process in self.processes:
            process.ending = process.ending or self.chance.random() < _MOSTLY
        process = self._process()
        self.tell(f"{process.name} joins")
        self.processes.append(process)

    def _process(self) -> Process:
        # A member of version 0.1.0 is in the group, or is not, or nobody knows.
        wanted = self.chance.choice((1, 2, None))
        most_changes = self.chance.choice((2, 5, 100))
        task = PartitionTask(
            _INPUT,
            new_changelog=lambda: Changelog(_OWNER, STATE_FORMATS, lambda: wanted, most_changes=most_changes),
            new_partition=partition_of,
            open_log=lambda: TransactionalLog(
                _STATE,
                lambda: SimulatedProducer(self.kafka, _ID),
                lambda: SimulatedReader(self.kafka),
                _stop,
            ),
            publisher=_PUBLISHER,
            reading=_NOBODY_READS,
            metrics=_METRICS,
            options=_OPTIONS,
        )
        return Process(f"p{next(self._names)}", task, busy=task.restore())

    def _go_on(self, process: Process) -> None:
        """Let a process do its next step."""
        if process.busy is not None:
            self._step(process, process.busy)
            return
        partition = process.task.partition
        what = self.chance.choices(list(_WORK), list(_WORK.values()))[0]
        if process.ending or what == "commit":
            process.busy = process.task.commit()
            self.tell(f"  {process.name} commits at {partition.position}")
        elif what == "feed":
            self._feed(partition)
        elif partition.pending:
            judge(partition, self.chance.randrange(1, 4))

    def _step(self, process: Process, busy: Coroutine[Any, Any, Any]) -> None:
        try:
            busy.send(None)
        except StopIteration:
            process.busy = None
            if not process.ready:
                process.ready = True
                partition = process.task.partition
                if partition.position is None:
                    partition.begin_at(0)
                self.tell(f"  {process.name} has taken over at {partition.position}, {len(partition.pending)} pending")
            elif process.ending:
                self.tell(f"  {process.name} has let go")
                self.processes.remove(process)
        except KafkaError as error:
            self.tell(f"  {process.name} fails: {error!r}")
            self.processes.remove(process)
            # It does not know whether it still owns the partition, and takes over anew as long as nobody tells it.
            if not process.ending and self.chance.random() < _MOSTLY:
                self.processes.append(self._process())

    def _feed(self, partition: Partition) -> None:
        start = partition.position or 0
        for record in self.input[start : start + self.chance.randrange(1, 6)]:
            partition.feed(record, record.timestamp_s)

    def _finish(self) -> None:
        """Let a last owner come, read to the end, judge all and commit, while the others may still be there."""
        last = self._process()
        self.tell(f"{last.name} is the last one")
        _through(last.busy)
        if last.task.partition.position is None:
            last.task.partition.begin_at(0)
        others = list(self.processes)
        while last.task.partition.position != len(self.input) or last.task.partition.pending:
            self._feed(last.task.partition)
            judge(last.task.partition, 5)
            _through(last.task.commit())
            for process in others:
                process.frozen = False
                if process in self.processes and process.ready:
                    process.ending = True
                    self._go_on(process)
        for process in self.processes:
            _drop(process)

    def _compare(self) -> None:
        """Compare what was committed with what one undisturbed pass gives. Raises `ViolationError`."""
        for topic, expected in undisturbed(self.input).items():
            found = Counter(entry.value or b"" for entry in self.kafka.committed((topic, 0)))
            wanted = Counter(expected)
            if found != wanted:
                missing, more = list((wanted - found).elements()), list((found - wanted).elements())
                raise ViolationError(f"{topic}: missing {missing}, twice or not expected {more}")


def undisturbed(records: Sequence[Record]) -> dict[str, list[bytes]]:
    """Return what one pass over the input publishes, by topic."""
    partition = partition_of(_INPUT, Changelog(_OWNER, STATE_FORMATS))
    partition.begin_at(0)
    for record in records:
        partition.feed(record, record.timestamp_s)
    judge(partition, len(partition.pending))
    pending = partition.take()
    if pending is None:
        raise ValueError("nothing was read")
    found: dict[str, list[bytes]] = {"scores": [], "dead": []}
    for each in messages(pending):
        found[each.topic].append(each.message.value)
    return found


def judge(partition: Partition, count: int) -> None:
    """Score the next pending sessions. What is published of one is all of it: any difference shows."""
    for session in list(partition.pending.values())[:count]:
        score = SessionScore(np.zeros(0), [], {})
        partition.judged(JudgedSession("input", 0, session, score, Verdict()))


def messages(pending: SessionCommit) -> Iterator[Outgoing]:
    """Yield what a transaction publishes."""
    for judged in pending.judged:
        yield Outgoing("scores", Message(b"", _shown(judged.session), ()))
    for rejected in pending.rejected:
        yield Outgoing("dead", Message(b"", b"%d %s" % (rejected.record.offset, rejected.error.reason.encode()), ()))


def _shown(session: Session) -> bytes:
    head = [session.key, session.part, session.late, session.close_reason, session.opened_s, session.closed_s]
    lines = [[line.offset, line.index, line.time_s, line.text, line.rest] for line in session.lines]
    return orjson.dumps([*head, session.last_seen_s, session.hosts, session.identity, lines])


def _through(coroutine: Coroutine[Any, Any, Any] | None) -> None:
    """Let a coroutine run to its end."""
    try:
        while coroutine is not None:
            coroutine.send(None)
    except StopIteration:
        return


async def _stop(client: SimulatedProducer | SimulatedReader) -> None:
    await client.stop()


def _drop(process: Process) -> None:
    if process.busy is not None:
        process.busy.close()


def main() -> int:
    """Run histories until one fails or all are done; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m faults.simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--histories", type=int, default=10_000, help="how many (10000)")
    parser.add_argument("--first-seed", type=int, default=None, help="of consecutive seeds (by chance)")
    parser.add_argument("--seed", type=int, help="live through this one again, and tell every step")
    given = parser.parse_args()
    if given.seed is not None:
        Simulation(given.seed, tell=print).run()
        return 0
    first = random.SystemRandom().randrange(2**40) if given.first_seed is None else given.first_seed
    started_s = time.monotonic()
    print(f"{given.histories} histories from seed {first} on")
    for number in range(given.histories):
        try:
            Simulation(first + number).run()
        except Exception as error:  # noqa: BLE001 - whatever went wrong, its seed is what helps
            print(f"seed {first + number}: {error!r}\nagain: python -m faults.simulation --seed {first + number}")
            return 1
        if (number + 1) % 10_000 == 0:
            rate = (number + 1) / (time.monotonic() - started_s)
            print(f"{number + 1} histories, {rate:.0f} a second", flush=True)
    print(f"{given.histories} histories held, {time.monotonic() - started_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
