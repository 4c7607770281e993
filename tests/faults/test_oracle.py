"""The oracle agrees with a daemon that nobody disturbs, and finds whatever else there may be."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
import pytest

from faults.cluster import Cluster
from faults.oracle import Expectation, Published, expect, judge, published, read_committed
from faults.trial import Bench, trial
from faults.workload import START_MS, Workload
from testing.kafka_server import create_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loggpt_stream.lines.record import Record
    from loggpt_stream.model.bundle import Bundle
    from testing.fork_server import ForkServer
    from testing.kafka_server import KafkaServer

RECORDS = 4_000


class Quiet(NamedTuple):
    """A run that nobody disturbed."""

    expected: Expectation
    seen: Published
    findings: dict[str, list[str]]


@pytest.fixture(scope="module")
def quiet(
    kafka: KafkaServer, fork_server: ForkServer, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Quiet:
    return asyncio.run(quiet_run(kafka, fork_server, bundle, tmp_path_factory.mktemp("quiet")))


async def quiet_run(kafka: KafkaServer, fork_server: ForkServer, bundle: Bundle, folder: Path) -> Quiet:
    bench = Bench(folder, Cluster(kafka, None), fork_server, bundle)
    async with trial(bench, "quiet", random.Random(7), partitions=2) as running:
        await running.send(RECORDS)
        running.start()
        verdict = await running.verdict()
        topics = running.topics
        expected = expect(read_committed(kafka.bootstrap, topics.input), bundle)
        seen = published(topics)
        # The tests below spoil the first alert, and mean one that has to be there.
        final = [each for each in seen.alerts if not is_early(each)]
        return Quiet(expected, replace(seen, alerts=final), verdict.findings)


def is_early(alert: Record) -> bool:
    return bool(orjson.loads(alert.value or b"")["loggpt"]["stage"] == "early")


def test_an_undisturbed_daemon_is_found_to_be_right(quiet: Quiet) -> None:
    assert not any(quiet.findings.values()), quiet.findings
    assert judge(quiet.expected, quiet.seen).text().startswith("exactly once: ")
    assert len(quiet.seen.scores) == len(quiet.seen.alerts) == len(quiet.expected.sessions) > 100
    assert len(quiet.seen.dead_letters) == len(quiet.expected.dead_letters) > 2
    assert {each.partition for each in quiet.expected.sessions} == {0, 1}


def test_only_what_closes_all_the_others_is_open_at_the_end(quiet: Quiet) -> None:
    assert {each.key[:8] for each in quiet.expected.open} == {"ffffffff"}
    assert len(quiet.expected.open) == quiet.expected.lines_open == 2


def test_each_line_is_accounted_for(quiet: Quiet) -> None:
    expected = quiet.expected
    assert expected.records > RECORDS
    assert expected.events == expected.records - len(expected.dead_letters)
    fates = sum(expected.fates.values()) - expected.fates["line"] - expected.fates["late_line"]
    assert expected.lines + expected.lines_open + fates == expected.events


def changed(record: Record, change: Callable[[Any], None]) -> Record:
    value = orjson.loads(record.value or b"")
    change(value)
    return replace(record, value=orjson.dumps(value))


def without_first(records: Sequence[Record]) -> Sequence[Record]:
    return records[1:]


def first_twice(records: Sequence[Record]) -> Sequence[Record]:
    return [*records, records[0]]


def longer(value: Any) -> None:
    (value if "session" in value else value["loggpt"])["session"]["lines"] += 1


def from_elsewhere(value: Any) -> None:
    (value if "session" in value else value["loggpt"])["session"]["source"]["first_offset"] += 1


def cut(value: Any) -> None:
    (value if "session" in value else value["loggpt"])["session"]["close_reason"] = "max_age"


def surprising(value: Any) -> None:
    statistics = (value if "session" in value else value["loggpt"])["statistics"]
    statistics[min(statistics)] += 2e-4


def renamed(value: Any) -> None:
    if "id" in value:
        value["id"] = "0" * 32
    else:
        value["event"]["id"] = "0" * 32


def first_changed(change: Callable[[Any], None]) -> Callable[[Sequence[Record]], Sequence[Record]]:
    return lambda records: [changed(records[0], change), *records[1:]]


@pytest.mark.parametrize("what", ["scores", "alerts"])
@pytest.mark.parametrize(
    ("spoil", "sorts"),
    [
        (without_first, {"{} missing"}),
        (first_twice, {"{} twice"}),
        (first_changed(longer), {"{} that differ"}),
        (first_changed(cut), {"{} that differ"}),
        (first_changed(surprising), {"{} that differ"}),
        (first_changed(from_elsewhere), {"{} missing", "{} unexpected"}),
        (first_changed(renamed), {"ids of one session that differ"}),
    ],
)
def test_whatever_is_wrong_with_a_record_is_found(
    quiet: Quiet, what: str, spoil: Callable[[Sequence[Record]], Sequence[Record]], sorts: set[str]
) -> None:
    seen = replace(quiet.seen, **{what: spoil(getattr(quiet.seen, what))})
    verdict = judge(quiet.expected, seen)
    found = {sort for sort, items in verdict.findings.items() if items}
    assert found - {"lines in scored sessions"} == {sort.format(what) for sort in sorts}
    assert all(len(items) == 1 for items in verdict.findings.values() if items)
    assert not verdict.ok
    assert verdict.text().startswith("NOT exactly once")


@pytest.mark.parametrize(("spoil", "sort"), [(without_first, "missing"), (first_twice, "twice")])
def test_dead_letters_are_watched_too(
    quiet: Quiet, spoil: Callable[[Sequence[Record]], Sequence[Record]], sort: str
) -> None:
    verdict = judge(quiet.expected, replace(quiet.seen, dead_letters=spoil(quiet.seen.dead_letters)))
    assert {each for each, items in verdict.findings.items() if items} == {f"dead letters {sort}"}


def test_an_early_alert_may_be_there_once_and_of_no_session_but_these(quiet: Quiet) -> None:
    def early(value: Any) -> None:
        value["loggpt"]["stage"] = "early"

    one = changed(quiet.seen.alerts[0], early)
    right = judge(quiet.expected, replace(quiet.seen, alerts=[one, *quiet.seen.alerts]))
    assert right.ok
    assert right.early == 1
    verdict = judge(quiet.expected, replace(quiet.seen, alerts=[one, one, *quiet.seen.alerts]))
    assert {each for each, items in verdict.findings.items() if items} == {"early alerts twice"}
    stray = changed(one, from_elsewhere)
    verdict = judge(quiet.expected, replace(quiet.seen, alerts=[stray, *quiet.seen.alerts]))
    assert {each for each, items in verdict.findings.items() if items} == {"early alerts unexpected"}


def test_two_verdicts_are_added(quiet: Quiet) -> None:
    right = judge(quiet.expected, quiet.seen)
    wrong = judge(quiet.expected, replace(quiet.seen, scores=quiet.seen.scores[1:]))
    assert right.beside(right).ok
    assert not right.beside(wrong).ok
    assert right.beside(wrong).sessions == 2 * right.sessions


async def test_the_same_seed_makes_the_same_input_with_each_session_on_one_partition(kafka: KafkaServer) -> None:
    read = []
    for seed in (1, 1, 2):
        topic = unique_name("input")
        await create_topic(kafka.bootstrap, topic, 3)
        async with Workload(kafka.bootstrap, topic, 3, seed=seed) as workload:
            await workload.send(1_000)
            await workload.close()
        read.append(await asyncio.to_thread(read_committed, kafka.bootstrap, topic))
    first, again, other = ([(each.partition, each.timestamp_s, each.key, each.value) for each in one] for one in read)
    assert first == again != other
    assert len(first) == 1_003
    assert all(START_MS / 1000 <= each.timestamp_s < START_MS / 1000 + 30 * 24 * 3600 for each in read[0])
    homes = {(each.key, each.partition) for each in read[0]}
    assert len(homes) == len({key for key, _ in homes})
