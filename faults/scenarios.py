"""The scenarios: what is done to daemons, brokers and network while input flows. Each returns the oracle's verdict."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from faults import netns
from faults.cluster import BROKERS, cluster
from faults.failpoints import Failpoint, daemon_targets, enumerate_points, package_targets
from faults.proxy import ADD_PARTITIONS_TO_TXN, END_TXN, INIT_PRODUCER_ID, OFFSET_COMMIT, PRODUCE
from faults.trial import SESSION_TIMEOUT_S, Bench, Trial, trial
from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    import random
    from collections import Counter

    from faults.failpoints import When
    from faults.oracle import Verdict
    from faults.proxy import Moment
    from testing.daemon_process import DaemonProcess

DAEMON_POINTS: Final = r"^loggpt_stream\."
_READY_WITHIN_S: Final = 90.0
_SAMPLE_EVERY_S: Final = 5.0
# Within so long a daemon that owns partitions comes to anything that it does all the time.
_ACTS_WITHIN_S: Final = 10.0
_POINTS_A_TRIAL: Final = 20
# Longer than any zombie is stopped: until it is ready, or does not get so far, and past the session timeout.
_ZOMBIE_TRANSACTION_S: Final = 60.0
# Members of the storm's group.
_FEWEST, _USUAL = 3, 4


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: `rounds` of a scenario, `minutes` of the soak and its faults, records a second of input.

    points: pattern of the failpoints wanted. Those of the daemon, or of aiokafka's producer too where it says so.
    """

    rounds: int
    minutes: float
    records_per_s: float = 300.0
    points: str = DAEMON_POINTS
    fault_every_s: float = 60.0

    def failpoints(self) -> list[str]:
        """Return the failpoints wanted. Raises `UserError` where there are none."""
        known = enumerate_points([*daemon_targets(), *package_targets("aiokafka.producer")])
        found = [point for point in known if re.search(self.points, point)]
        if not found:
            raise UserError(f"--points {self.points}: fits none of {len(known)} points, such as {known[0]}")
        return found


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen of the daemons at a time of the soak (seconds from its beginning)."""

    at_s: float
    daemons: int
    rss_mb: float
    lag_records: float
    open_sessions: float


@dataclass(slots=True)
class ScenarioOutcome:
    """What came of a scenario.

    unreached: failpoints that no daemon came to. fenced: zombies that wrote when they woke, and were refused.
    """

    verdict: Verdict
    faults: Counter[str]
    samples: list[Sample] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)
    fenced: int = 0


Scenario = Callable[[Bench, "random.Random", Size], Awaitable[ScenarioOutcome]]


async def kill9(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """kill -9 one of two daemons at a random moment, of its start too, and start another in its place."""  # noqa: D403
    async with trial(bench, "kill9", rng) as running:
        running.begin(size.records_per_s)
        for _ in range(2):
            running.start()
        for number in range(size.rounds):
            daemon = rng.choice(running.daemons)
            if rng.random() < 2 / 3:
                await _ready(daemon)
            await asyncio.sleep(rng.uniform(0.1, 5.0))
            running.kill(daemon)
            running.start()
            _progress(bench, running, number, size.rounds)
        return ScenarioOutcome(await running.verdict(), running.faults)


async def zombies(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """SIGSTOP a daemon, at a random moment or at a random await, until the group has given up on it; then SIGCONT."""
    points = size.failpoints()
    fenced = 0
    async with trial(bench, "zombies", rng) as running:
        running.begin(size.records_per_s)
        running.start()
        for number in range(size.rounds):
            failpoint = None
            if number % 2:
                failpoint = Failpoint(rng.choice(points), "before", rng.randint(1, 4), "stop")
            # One that gave up its transaction by the time that it wakes would not try to commit it.
            zombie = running.start("--transaction-timeout-s", f"{_ZOMBIE_TRANSACTION_S:g}", failpoint=failpoint)
            await _ready(zombie, 20.0)
            await asyncio.sleep(rng.uniform(0.1, 3.0))
            zombie.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(SESSION_TIMEOUT_S + rng.uniform(1.0, 8.0))
            zombie.process.send_signal(signal.SIGCONT)
            running.faults["SIGSTOP past the session timeout"] += 1
            await asyncio.sleep(rng.uniform(0.5, 6.0))
            if zombie.process.poll() is None:
                await running.leave(zombie)
            fenced += any(each["event"] == "partition_fenced" for each in zombie.events())
            running.revive()
            _progress(bench, running, number, size.rounds)
        bench.say(f"zombies: {fenced} of {size.rounds} wrote when they woke, and were refused")
        return ScenarioOutcome(await running.verdict(), running.faults, fenced=fenced)


async def rolling(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """Restart the brokers one after the other, as for an upgrade."""
    async with trial(bench, "rolling", rng) as running:
        running.begin(size.records_per_s)
        for _ in range(2):
            await _ready(running.start())
        for number in range(size.rounds):
            await bench.cluster.rolling_restart(running.all_topics)
            running.faults["rolling restart of three brokers"] += 1
            running.revive()
            _progress(bench, running, number, size.rounds)
        return ScenarioOutcome(await running.verdict(), running.faults)


async def leaders(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """kill -9 the leader of each sort of partition and each coordinator, one by one, and start it again."""  # noqa: D403
    async with trial(bench, "leaders", rng) as running:
        running.begin(size.records_per_s)
        for _ in range(2):
            await _ready(running.start())
        brokers = bench.cluster
        for number in range(size.rounds):
            partition = rng.randrange(running.partitions)
            state = running.topics.state
            sorts: dict[str, Callable[[], Awaitable[int]]] = {
                "transaction coordinator": lambda partition=partition: brokers.transaction_coordinator(  # type: ignore[misc]
                    running.transactional_id(partition)
                ),
                "state leader": lambda state=state, partition=partition: brokers.leader(state, partition),  # type: ignore[misc]
                "group coordinator": lambda: brokers.group_coordinator(running.topics.group),
                "input leader": lambda partition=partition: brokers.leader(running.topics.input, partition),  # type: ignore[misc]
                "alert leader": lambda: brokers.leader(running.topics.alerts, 0),
            }
            sort, find = list(sorts.items())[number % len(sorts)]
            broker = await find()
            await brokers.kill(broker)
            running.faults[f"{sort} killed"] += 1
            await asyncio.sleep(rng.uniform(2.0, 12.0))
            await brokers.start(broker)
            await brokers.in_sync(running.all_topics)
            running.revive()
            _progress(bench, running, number, size.rounds)
        return ScenarioOutcome(await running.verdict(), running.faults)


_CUTS: Final[tuple[tuple[int, str, Moment], ...]] = tuple(
    (key, name, moment)
    for key, name in (
        (END_TXN, "EndTxn"),
        (PRODUCE, "Produce"),
        (ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn"),
        (OFFSET_COMMIT, "OffsetCommit"),
        (INIT_PRODUCER_ID, "InitProducerId"),
    )
    for moment in ("response", "request")
)


async def cuts(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """Cut the connection at a request of the commit before the broker sees it, or at its response."""
    proxy = bench.cluster.proxy
    if proxy is None:
        raise ValueError("this cluster has no proxy")
    rounds = max(size.rounds, len(_CUTS))
    async with trial(bench, "cuts", rng) as running:
        running.begin(size.records_per_s)
        for _ in range(2):
            await _ready(running.start(bootstrap=proxy.bootstrap))
        for number in range(rounds):
            key, name, moment = _CUTS[number % len(_CUTS)]
            cut = proxy.cut_at(key, moment, times=rng.randint(1, 3))
            if key == INIT_PRODUCER_ID:
                # Only a new owner of a partition sends one.
                running.kill(rng.choice(running.daemons))
                running.start(bootstrap=proxy.bootstrap)
            with suppress(TimeoutError):
                # A killed daemon's partitions have a new owner once the group has missed it.
                await cut.wait(_ACTS_WITHIN_S + (SESSION_TIMEOUT_S if key == INIT_PRODUCER_ID else 0))
            running.faults[f"connection cut at a {name} {moment}"] += cut.fired
            proxy.heal()
            await asyncio.sleep(rng.uniform(0.2, 2.0))
            running.revive()
            _progress(bench, running, number, rounds)
        return ScenarioOutcome(await running.verdict(), running.faults)


async def partition(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """Separate a daemon from one broker or from all, by network namespaces, or where there are none by the proxy."""
    reason = netns.missing()
    if reason:
        bench.say(f"partition: {reason}; the proxy's black hole takes their place")
        return await _black_holes(bench, rng, size)
    with netns.Island(BROKERS) as island:
        async with (
            cluster(bench.folder / "island", further=island.listeners) as apart,
            trial(bench, "partition", rng, cluster=apart) as running,
        ):
            running.begin(size.records_per_s)

            def start() -> DaemonProcess:
                return running.start(bootstrap=island.bootstrap, netns=island.name, http_host=island.http_host)

            running.start()
            start()
            await _ready(running.daemons[1])
            for number in range(size.rounds):
                broken = [rng.randrange(BROKERS)] if number % 3 else list(range(BROKERS))
                for broker in broken:
                    island.cut(broker)
                await asyncio.sleep(rng.choice((3.0, SESSION_TIMEOUT_S + 4.0)))
                for broker in broken:
                    island.join(broker)
                running.faults["cut off from one broker" if number % 3 else "cut off from all brokers"] += 1
                await asyncio.sleep(rng.uniform(1.0, 5.0))
                if running.revive():
                    start()
                _progress(bench, running, number, size.rounds)
            return ScenarioOutcome(await running.verdict(), running.faults)


async def _black_holes(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    proxy = bench.cluster.proxy
    if proxy is None:
        raise ValueError("this cluster has no proxy")
    async with trial(bench, "partition", rng) as running:
        running.begin(size.records_per_s)
        running.start()
        await _ready(running.start(bootstrap=proxy.bootstrap))
        for number in range(size.rounds):
            broken = [rng.choice(proxy.brokers)] if number % 3 else proxy.brokers
            directions = rng.choice((("to_broker",), ("to_client",), ("to_broker", "to_client")))
            for broker in broken:
                broker.black_hole(*directions)
            await asyncio.sleep(rng.choice((3.0, SESSION_TIMEOUT_S + 4.0)))
            proxy.heal()
            running.faults[f"black hole {' and '.join(directions)}"] += 1
            await asyncio.sleep(rng.uniform(1.0, 5.0))
            running.revive()
            _progress(bench, running, number, size.rounds)
        return ScenarioOutcome(await running.verdict(), running.faults)


async def storm(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """Let a member of four join, leave or be killed every three seconds; then go from one daemon to eight to two."""
    async with trial(bench, "storm", rng, partitions=16) as running:
        running.begin(size.records_per_s)
        for _ in range(_USUAL):
            running.start()
        await _ready(running.daemons[0])
        for number in range(size.rounds):
            await asyncio.sleep(3.0)
            if len(running.daemons) < _FEWEST or (len(running.daemons) <= _USUAL and _heads(rng)):
                running.start()
                running.faults["member joined"] += 1
            elif _heads(rng):
                await running.leave(rng.choice(running.daemons))
                running.faults["member left"] += 1
            else:
                running.kill(rng.choice(running.daemons))
            _progress(bench, running, number, size.rounds)
        for wanted in (1, 8, 2):
            while len(running.daemons) < wanted:
                running.start()
            while len(running.daemons) > wanted:
                await running.leave(running.daemons[0])
            running.faults[f"scaled to {wanted} daemons"] += 1
            await asyncio.sleep(min(8.0, size.rounds))
        return ScenarioOutcome(await running.verdict(), running.faults)


async def failpoints(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """Kill a daemon before and after each await of its code: life after life on one stream of input."""
    whens = [(point, when) for point in size.failpoints() for when in _WHENS]
    if size.rounds < len(whens):
        whens = sorted(rng.sample(whens, min(len(whens), 3 * size.rounds)))
    outcome: ScenarioOutcome | None = None
    for first in range(0, len(whens), _POINTS_A_TRIAL):
        some = whens[first : first + _POINTS_A_TRIAL]
        found = await die_at(bench, rng, size, some)
        if outcome is None:
            outcome = found
        else:
            both = outcome.verdict.beside(found.verdict), outcome.faults + found.faults
            outcome = ScenarioOutcome(*both, unreached=outcome.unreached + found.unreached)
        if not found.verdict.ok:
            bench.say(f"failpoints: wrong after one of {[f'{when} {point}' for point, when in some]}")
        bench.say(f"failpoints: {first + len(some)} of {len(whens)}")
    if outcome is None:
        raise ValueError("the daemon's package has no point")
    return outcome


_WHENS: Final[tuple[When, ...]] = ("before", "after")


async def die_at(bench: Bench, rng: random.Random, size: Size, points: Sequence[tuple[str, When]]) -> ScenarioOutcome:
    """Let one daemon after the other die at these points, each once; those of a new group first."""
    unreached = []
    points = sorted(points, key=lambda each: "consumer.committed" not in each[0])
    async with trial(bench, "failpoints", rng, partitions=2) as running:
        # Under the name of the one before it, which was killed too: else the group would first have to miss that.
        running.instance_id = "mortal"
        running.begin(size.records_per_s)
        new_group = sum("consumer.committed" in point for point, _ in points)
        for number, (point, when) in enumerate(points):
            if number == new_group:
                # From here on there is something to go on from.
                first = running.start()
                await first.reached("loggpt_transactions_total", 2 * running.partitions)
                running.kill(first)
            # Many are passed but once in a life, so each is tried at its first hit.
            failpoint = Failpoint(point, when, 1)
            daemon = running.start(failpoint=failpoint)
            if await running.died(daemon, _ACTS_WITHIN_S):
                running.faults["killed at a failpoint"] += 1
                continue
            # What stands at the end of a daemon's life comes when it is told to end.
            daemon.process.send_signal(signal.SIGTERM)
            if await running.died_or_ended(daemon, _READY_WITHIN_S):
                running.faults["killed at a failpoint"] += 1
            else:
                unreached.append(f"{when} {point}")
                bench.say(f"failpoints: not reached: {when} {point}")
        return ScenarioOutcome(await running.verdict(), running.faults, unreached=unreached)


async def soak(bench: Bench, rng: random.Random, size: Size) -> ScenarioOutcome:
    """Let two daemons run for long with a fault of any sort every so often; their memory and lag are sampled."""
    proxy = bench.cluster.proxy
    if proxy is None:
        raise ValueError("this cluster has no proxy")
    samples: list[Sample] = []
    async with trial(bench, "soak", rng) as running:
        running.begin(size.records_per_s)
        for _ in range(2):
            await _ready(running.start(bootstrap=proxy.bootstrap))
        began_s = time.monotonic()
        next_fault_s = size.fault_every_s
        while (at_s := time.monotonic() - began_s) < size.minutes * 60:
            await asyncio.sleep(_SAMPLE_EVERY_S)
            samples.append(await _sample(running, at_s))
            if at_s >= next_fault_s:
                next_fault_s += size.fault_every_s
                await _any_fault(bench, running, rng, proxy.bootstrap)
                running.revive()
                bench.say(f"soak: {at_s / 60:.0f} of {size.minutes:.0f} min, {samples[-1]}")
        return ScenarioOutcome(await running.verdict(), running.faults, samples)


async def _any_fault(bench: Bench, running: Trial, rng: random.Random, bootstrap: str) -> None:
    daemon, broker = rng.choice(running.daemons), rng.randrange(BROKERS)
    proxy = bench.cluster.proxy
    match rng.choice(("kill", "stop", "broker", "cut", "leave")):
        case "kill":
            running.kill(daemon)
            running.start(bootstrap=bootstrap)
        case "stop":
            daemon.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(SESSION_TIMEOUT_S + 3.0)
            daemon.process.send_signal(signal.SIGCONT)
            running.faults["SIGSTOP past the session timeout"] += 1
        case "broker":
            await bench.cluster.kill(broker)
            await asyncio.sleep(rng.uniform(1.0, 8.0))
            await bench.cluster.start(broker)
            running.faults["broker killed"] += 1
        case "leave":
            await running.leave(daemon)
            running.start(bootstrap=bootstrap)
            running.faults["member left, another joined"] += 1
        case _:
            if proxy is not None:
                running.faults["all connections cut"] += proxy.cut() > 0


async def _sample(running: Trial, at_s: float) -> Sample:
    names = ("loggpt_consumer_lag_records", "loggpt_sessions_open")
    lag = sessions = rss_mb = 0.0
    alive = [each for each in running.daemons if each.process.poll() is None]
    for daemon in alive:
        with suppress(OSError, AssertionError):
            values = [await daemon.metric(name) for name in names]
            lag, sessions = lag + values[0], sessions + values[1]
            rss_mb = max(rss_mb, _rss_mb(daemon.process.pid))
    return Sample(at_s, len(alive), rss_mb, lag, sessions)


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


async def _ready(daemon: DaemonProcess, within_s: float = _READY_WITHIN_S) -> None:
    """Wait until a daemon is ready, has ended, or has had its time: what then comes of it is the oracle's to say."""
    with suppress(TimeoutError, AssertionError, OSError):
        async with asyncio.timeout(within_s):
            await daemon.ready()


def _heads(rng: random.Random) -> bool:
    return rng.random() < 1 / 2


def _progress(bench: Bench, running: Trial, number: int, rounds: int) -> None:
    bench.say(f"{running.name}: {number + 1} of {rounds}: {dict(running.faults)}")


SCENARIOS: Final[dict[str, Scenario]] = {
    "kill9": kill9,
    "failpoints": failpoints,
    "zombies": zombies,
    "rolling": rolling,
    "leaders": leaders,
    "storm": storm,
    "cuts": cuts,
    "partition": partition,
    "soak": soak,
}
