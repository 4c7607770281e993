"""Of the thirteen fault cases of the delivery design those of connections, records, time, scorer and state.

As in test_cases_01_to_05.py: three real brokers, real daemons, and the oracle at the end of each.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import orjson
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from faults import scenarios
from faults.oracle import expect, read_committed, settled
from faults.scenarios import Size
from faults.trial import Bench, Trial, trial, verdict
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.model.bundle import save_bundle, save_calibrated
from testing.kafka_server import create_topic
from tests.faults.chance import chance

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from faults.oracle import Verdict
    from loggpt_stream.lines.record import Record
    from testing.daemon_process import DaemonProcess

pytestmark = pytest.mark.asyncio(loop_scope="module")

VM = "0000000a-0000-4000-8000-00000000000a"


@pytest_asyncio.fixture(loop_scope="module")
async def one(bench: Bench) -> AsyncIterator[Trial]:
    """A trial on a single partition, so that a case can say exactly what stands where."""
    async with trial(bench, "case", chance(0), partitions=1) as running:
        running.instance_id = "one"
        yield running


async def reads(daemon: DaemonProcess, records: int) -> None:
    await daemon.reached("loggpt_records_total", records)


async def has_committed(running: Trial, records: int) -> None:
    """Wait until the state topic says that the records of the input before this offset are done with."""
    async with asyncio.timeout(60):
        while await position(running) < records:
            await asyncio.sleep(0.1)


async def position(running: Trial, partition: int = 0) -> int:
    """Return the newest position in the state topic, 0 where there is none yet."""
    records = await all_of(running, running.topics.state)
    changelog = Changelog(f"{running.topics.group} {running.topics.input}", STATE_FORMATS)
    changes = changelog.read((record.key, record.value) for record in records if record.partition == partition)
    return int(changes[-1]["position"]) if changes else 0


async def right(running: Trial) -> None:
    told = await running.verdict()
    assert told.ok, told.text()


async def test_case_06_connections_are_cut_at_each_request_of_a_transaction(bench: Bench) -> None:
    outcome = await scenarios.cuts(bench, chance(6), Size(rounds=10, minutes=0))
    assert outcome.verdict.ok, outcome.verdict.text()
    requests = ("EndTxn", "Produce", "AddPartitionsToTxn", "OffsetCommit", "InitProducerId")
    wanted = {f"connection cut at a {name} {moment}" for name in requests for moment in ("request", "response")}
    assert {name for name in wanted if not outcome.faults[name]} == set(), outcome.faults


async def test_case_07_poison_records_become_dead_letters_or_lines_and_stop_nothing(one: Trial) -> None:
    await one.send(500)
    poison: list[bytes | None] = [
        None,
        b"",
        b"\xff\xfe\xfd" * 50,
        bytes(range(256)),
        b'{"message": "cut off',
        b"[" * 100_000,
        b'{"time": 1e999, "message": "x"}',
        one.at(VM, "x" * 950_000),
        one.at(VM, "half a character \xe4").decode("utf-8").encode("latin-1"),
    ]
    await one.put(poison)
    daemon = one.start()
    await reads(daemon, 500 + len(poison))
    await one.send(500)
    await right(one)
    letters = await all_of(one, one.topics.dead_letters)
    assert len(letters) >= 5


async def test_case_08_records_below_the_position_may_be_deleted(one: Trial) -> None:
    await one.send(1_500)
    daemon = one.start()
    await has_committed(one, 1_500)
    one.kill(daemon)
    records = await all_of(one, one.topics.input)
    at = await position(one)
    await delete_records(one, before=at)
    await one.send(500)
    # What the oracle reads now lacks the beginning, which the daemon knows from its state.
    after = await finish(one, records[:at])
    assert after["loggpt_records_lost_total"] == 0


async def test_case_08_records_above_the_position_that_are_deleted_are_said_to_be_lost(one: Trial) -> None:
    await one.send(1_000)
    daemon = one.start()
    await has_committed(one, 1_000)
    one.kill(daemon)
    at = await position(one)
    before = (await all_of(one, one.topics.input))[:at]
    await one.send(500)
    await delete_records(one, before=at + 100)
    after = await finish(one, before)
    assert after["loggpt_records_lost_total"] == 100


async def test_case_08_a_topic_made_anew_is_noticed_and_what_was_open_is_judged_as_it_is(one: Trial) -> None:
    await one.send(1_000)
    await one.put([one.at(VM, "before")])
    # What closed waits for the scorer at the kill, too.
    daemon = one.start("--batch-wait-s", "3600")
    await has_committed(one, 1_001)
    open_sessions = await daemon.metric("loggpt_sessions_open")
    one.kill(daemon)
    old = await all_of(one, one.topics.input)
    admin = AIOKafkaAdminClient(bootstrap_servers=one.topics.bootstrap)
    await admin.start()
    await admin.delete_topics([one.topics.input])
    await admin.close()
    await asyncio.sleep(2.0)
    await create_topic(one.topics.bootstrap, one.topics.input)
    # More than there were, so that the position alone tells nothing.
    await one.send(1_500)
    daemon = one.start()
    said = await daemon.saw("input_made_anew")
    assert said["level"] == "error"
    await reads(daemon, 1_500)
    await daemon.reached("loggpt_sessions_scored_total", open_sessions)
    assert await daemon.terminate() == 0
    scored = await all_of(one, one.topics.scores)
    sessions = [orjson.loads(record.value or b"")["session"] for record in scored]
    ended = [each for each in sessions if each["close_reason"] == "end_of_input"]
    assert len(ended) == open_sessions
    assert VM in {each["key"] for each in ended}
    assert len(old) == 1_001


@pytest.mark.parametrize("off_s", [-86_400.0, 86_400.0])
async def test_case_09_clocks_a_day_off(one: Trial, off_s: float) -> None:
    await one.send(300)
    daemon = one.start()
    await reads(daemon, 300)
    for step in range(5):
        # The host's clock is off, Kafka's is not.
        await one.put([one.at(VM, f"step {step}", late_s=off_s)])
        await one.send(100)
    one.kill(daemon)
    await right(one)


async def test_case_09_an_outage_longer_than_the_idle_gap_closes_no_session_early(one: Trial) -> None:
    await one.send(1_000)
    daemon = one.start()
    await has_committed(one, 1_000)
    one.kill(daemon)
    # Of the clock that silent partitions close by; the idle gap of 60 s passes in less than the outage.
    await asyncio.sleep(2.0)
    await one.send(1_000)
    await one.finish_input()
    one.start("--clock-speed", "100")

    def early(told: Verdict) -> list[str]:
        # Once it has caught up, that clock may close the last session of all, which the offline pass leaves open.
        found = [each for sort in told.findings.values() for each in sort if "ffffffff-" not in each]
        return [each for each in found if each != f"{told.lines + 1} where {told.lines} were to be"]

    told = await one.verdict(lambda told: not early(told))
    assert early(told) == [], told.text()


async def test_case_10_duplicated_and_reordered_input(one: Trial) -> None:
    mixed = chance(10)
    lines = [one.at(VM, f"step {step}", late_s=-step) for step in range(30)]
    lines += [one.at(VM.replace("a", "b"), f"step {step}", late_s=-step) for step in range(30)]
    twice = [*lines, *lines]
    mixed.shuffle(twice)
    await one.send(300)
    await one.put(twice[:60])
    daemon = one.start()
    await reads(daemon, 360)
    one.kill(daemon)
    await one.put(twice[60:])
    await one.send(300)
    await right(one)


_HANGS = """
import itertools, time
from loggpt_stream.model.scoring import Scorer
score, batches = Scorer.score_prepared, itertools.count()
def hang(self, prepared):
    if next(batches) > 0:
        time.sleep(3600)
    return score(self, prepared)
Scorer.score_prepared = hang
"""
# The pause is for the transaction of what the first batch brought.
_NO_MEMORY = """
import itertools, time
from loggpt_stream.model.scoring import Scorer
score, batches = Scorer.score_prepared, itertools.count()
def full(self, batch):
    raise MemoryError
def second_is_too_much(self, prepared):
    if next(batches) == 1:
        time.sleep(5)
        Scorer._read_batch = full
    return score(self, prepared)
Scorer.score_prepared = second_is_too_much
"""


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [(_HANGS, 1, "score_timeout_s = 15"), (_NO_MEMORY, 2, "lower batch_tokens")],
    ids=["hangs", "out_of_memory"],
)
async def test_case_11_a_scorer_that_fails_ends_the_daemon_and_the_next_one_scores_what_it_had_not(
    one: Trial, fault: str, code: int, words: str
) -> None:
    await one.send(5_000)
    # In several batches; early looks use the scorer too, and would count as its first one.
    flags = ["--score-timeout-s", "15", "--batch-tokens", "512", "--early-every-s", "0"]
    daemon = one.start(*flags, fault=fault)
    assert words in await one.ended(daemon, code, within_s=120)
    assert await all_of(one, one.topics.scores)
    one.start()
    await right(one)


async def test_case_12_sessions_of_an_old_model_are_published_once_and_not_judged(one: Trial, tmp_path: Path) -> None:
    bundle = one.bench.bundle
    # What changes is nothing that sessions depend on here, so that the oracle's pass holds for both.
    rules = replace(bundle.preprocessing.session_rules, tombstone_s=599.0)
    assert bundle.calibration is not None
    newer = save_bundle(
        tmp_path / "newer",
        model=bundle.model(),
        tokenizer=bundle.tokenizer().tokenizer,
        preprocessing=replace(bundle.preprocessing, session_rules=rules),
        line_frequencies=bundle.line_frequencies(),
        training=bundle.training,
        used_sessions=bundle.used_sessions,
    )
    save_calibrated(newer, newer.path, calibration=bundle.calibration, calibration_sessions=np.empty(0))
    await one.send(1_000)
    daemon = one.start()
    await has_committed(one, 1_000)
    one.kill(daemon)
    at = await position(one)
    await one.send(500)
    await one.finish_input()
    daemon = one.start(bundle=newer.path)
    expected = await asyncio.to_thread(expect, read_committed(one.topics.bootstrap, one.topics.input), bundle)
    await settled(one.topics, expected)
    await one.leave(daemon)
    begun_before = [each for each in expected.sessions.values() if each.identity.first_offset < at]
    of_both = {str(each.identity) for each in begun_before if each.last_offset >= at}
    assert of_both

    def right_but_for_them(told: Verdict) -> bool:
        found = {sort: set(items) for sort, items in told.findings.items() if items}
        return found.pop("alerts missing", set()) <= {str(each.identity) for each in begun_before} and not found

    told = await verdict(one.topics, expected, right_but_for_them)
    assert right_but_for_them(told), told.text()
    unjudged = set(told.findings["alerts missing"])
    assert of_both <= unjudged
    scored = [orjson.loads(record.value or b"") for record in await all_of(one, one.topics.scores)]
    assert sum(each["unjudged"] == "outdated" for each in scored) == len(unjudged)


async def test_case_12_a_damaged_state_topic_is_refused_and_it_is_said_what_to_do(one: Trial) -> None:
    await one.send(500)
    daemon = one.start()
    await has_committed(one, 500)
    assert await daemon.terminate() == 0
    await write_state(one, b"0/0", b"nonsense")
    said = await one.ended(one.start(), 2)
    assert "the state topic is damaged: a record without place" in said
    assert "delete and create the topic" in said


async def test_case_12_a_missing_change_is_refused(one: Trial) -> None:
    await one.send(500)
    daemon = one.start()
    await has_committed(one, 500)
    assert await daemon.terminate() == 0
    await write_state(one, b"0/0", None)
    assert "the state topic is damaged: snapshot 1 is missing" in await one.ended(one.start(), 2)


async def test_case_12_an_aborted_tail_is_passed_over(one: Trial) -> None:
    await one.send(500)
    daemon = one.start()
    await has_committed(one, 500)
    one.kill(daemon)
    await write_state(one, b"0/0", b"nonsense", commit=False)
    await one.send(500)
    await right(one)


async def test_case_12_an_old_owners_open_transaction_is_aborted_before_the_restore(one: Trial) -> None:
    await one.send(500)
    daemon = one.start()
    await has_committed(one, 500)
    one.kill(daemon)
    async with AIOKafkaProducer(
        bootstrap_servers=one.topics.bootstrap, transactional_id=one.transactional_id(0)
    ) as zombie:
        await zombie.begin_transaction()
        await zombie.send_and_wait(one.topics.state, b"nonsense", key=b"0/0", partition=0)
        await one.send(500)
        await reads(one.start(), 400)
        await right(one)


async def all_of(running: Trial, topic: str) -> list[Record]:
    """Return every committed record of a topic."""
    return await asyncio.to_thread(lambda: list(read_committed(running.topics.bootstrap, topic)))


async def finish(running: Trial, before: list[Record]) -> dict[str, float]:
    """Let a daemon finish; compare with one pass over `before` and what the topic still has; return its counters."""
    await running.finish_input()
    daemon = running.start()
    left = await all_of(running, running.topics.input)
    await reads(daemon, len(left))
    expected = await asyncio.to_thread(expect, [*before, *left], running.bench.bundle)
    await settled(running.topics, expected)
    counters = {name: await daemon.metric(name) for name in ("loggpt_records_total", "loggpt_records_lost_total")}
    await running.leave(daemon)
    told = await verdict(running.topics, expected)
    assert told.ok, told.text()
    return counters


async def delete_records(running: Trial, *, before: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=running.topics.bootstrap)
    await admin.start()
    await admin.delete_records({TopicPartition(running.topics.input, 0): RecordsToDelete(before_offset=before)})
    await admin.close()
    async with AIOKafkaConsumer(bootstrap_servers=running.topics.bootstrap) as consumer:
        where = TopicPartition(running.topics.input, 0)
        assert (await consumer.beginning_offsets([where]))[where] == before


async def write_state(running: Trial, key: bytes, value: bytes | None, *, commit: bool = True) -> None:
    async with AIOKafkaProducer(
        bootstrap_servers=running.topics.bootstrap, transactional_id=f"vandal-{running.topics.state}"
    ) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(running.topics.state, value, key=key, partition=0)
        await (producer.commit_transaction() if commit else producer.abort_transaction())


async def test_case_13_a_minute_of_everything(bench: Bench) -> None:
    outcome = await scenarios.soak(bench, chance(13), Size(rounds=0, minutes=0.75, fault_every_s=8.0))
    assert outcome.verdict.ok, outcome.verdict.text()
    assert sum(outcome.faults.values()) >= 3, outcome.faults
    assert outcome.samples[-1].rss_mb < 1.5 * outcome.samples[0].rss_mb + 100
