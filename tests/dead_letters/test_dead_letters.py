"""Dead letters on a real broker: shown harmless, explained whole, and put back exactly once."""

from __future__ import annotations

import ast
import asyncio
import random
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from loggpt_stream import cli
from loggpt_stream.daemon.partition import Rejected
from loggpt_stream.daemon.publisher import DEAD_LETTER_BYTES, dead_letter
from loggpt_stream.dead_letters import reinject as letters_back
from loggpt_stream.dead_letters.letters import Done, letter_of, mark
from loggpt_stream.dead_letters.reasons import REASONS
from loggpt_stream.history import topic
from loggpt_stream.history.topic import Span, record_batches
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.names import DeadLetterReason
from loggpt_stream.lines.record import Record, UndecodableError
from loggpt_stream.lines.rules import KEY_SOURCES
from loggpt_stream.lines.shapes import Shape
from loggpt_stream.route.partition import RoutedPartition
from loggpt_stream.route.state_formats import STATE_FORMATS
from loggpt_stream.terminal import printable
from testing.kafka_server import KafkaServer, create_topic, unique_name

if TYPE_CHECKING:
    from collections.abc import Sequence

SOURCE = Path(__file__).parents[2] / "loggpt_stream"
T0_MS = 1_795_442_888_000
GOOD = b"2026-11-23 04:07:34.520 7 INFO nova.compute.manager [-] Final resource view"
CUT = b'{"message": "cut'


@dataclass(frozen=True)
class Desk:
    """Input and dead letter topic of one test, and the command on them."""

    bootstrap: str
    input: str = field(default_factory=lambda: unique_name("input"))
    dead: str = field(default_factory=lambda: unique_name("dead"))
    group: str = field(default_factory=lambda: unique_name("group"))

    async def create(self, partitions: int = 1) -> Desk:
        for name in (self.input, self.dead):
            await create_topic(self.bootstrap, name, partitions)
        return self

    def record(self, value: bytes | None, **more: Any) -> Record:
        """Return a record of the input topic."""
        about = {"partition": 0, "offset": 0, "timestamp_s": T0_MS / 1000, "key": b"vm-1", **more}
        return Record(value, self.input, **about)

    async def bury(self, records: Sequence[Record], *, pin: Shape | None = None, partition: int = 0) -> None:
        """Write the dead letters of records as the daemon does, in a transaction; a second one is aborted."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=unique_name("daemon"), max_request_size=2_000_000
        ) as producer:
            for commit in (True, False):
                await producer.begin_transaction()
                for record in records:
                    with pytest.raises(UndecodableError) as caught:
                        decode(record, pin=pin)
                    letter = dead_letter(Rejected(record, caught.value), DEAD_LETTER_BYTES)
                    await producer.send(
                        self.dead, letter.value, letter.key, partition=partition, headers=list(letter.headers)
                    )
                await producer.flush()
                await (producer.commit_transaction() if commit else producer.abort_transaction())

    def flags(self, action: str = "reinject") -> list[str]:
        flags = ["--kafka.bootstrap", self.bootstrap, "--dead-letter-topic", self.dead]
        return [*flags, "--input-topic", self.input, "--group", self.group] if action == "reinject" else flags

    async def run(self, action: str, *flags: str) -> int:
        """Run the command and return its exit code."""
        return await asyncio.to_thread(cli.main, ["dead-letters", action, *self.flags(action), *flags])

    async def injected(self, topic: str = "") -> list[Any]:
        """Return the committed records of the input topic."""
        async with AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        ) as consumer:
            consumer.subscribe([topic or self.input])
            await consumer.getmany(timeout_ms=200)
            places = [
                TopicPartition(topic or self.input, n) for n in consumer.partitions_for_topic(topic or self.input)
            ]
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            found: list[Any] = []
            while any([await consumer.position(each) < ends[each] for each in places]):
                for batch in (await consumer.getmany(timeout_ms=300)).values():
                    found += batch
            return found


async def test_list_shows_where_each_letter_lies_came_from_and_why(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT, offset=345), desk.record(None, offset=346), desk.record(b"\xff\x00" * 99)])
    assert await desk.run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1::2]] == [["0", "0"], ["0", "1"], ["0", "2"]]  # nothing of the aborted
    assert all(part in lines[1] for part in (f"{desk.input}/0/345", "bad_json", "16"))
    assert r'{"message": "cut' in lines[2]
    assert all(part in lines[3] for part in (f"{desk.input}/0/346", "null_value", " 0"))
    assert "not_text" in lines[5]
    assert r"\xff\x00\xff" in lines[6]


async def test_hostile_bytes_cannot_act_on_the_terminal(kafka: KafkaServer, capsys: pytest.CaptureFixture[str]) -> None:
    desk = await Desk(kafka.bootstrap).create()
    attack = '{"a": "\x1b]0;owned\x07\x1b[2J\r\n\u202egnp.exe \x9b31m\u2028 \u200b'
    await desk.bury([desk.record(attack.encode() + b"\xfe"), desk.record(b'{"\x1b[31m": 1}')])
    for action in ("list", "explain"):
        assert await desk.run(action) == 0
        out = capsys.readouterr().out
        assert all(character.isprintable() or character == "\n" for character in out), out
    assert r"\x1b[31m" in out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢", "plain é 漢"),
        ("\x1b[31m\r\n\t", r"\x1b[31m\r\n\t"),
        ("a\u202eb\u2028c\u200bd\ufeff", r"a\u202eb\u2028c\u200bd\ufeff"),
        (b"\xff\x80ok", r"\xff\x80ok"),
        (r"C:\x1b", r"C:\\x1b"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_could_act_on_is_escaped(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("columns", [1, 2, 5, 9, 10, 11, 40])
def test_a_cut_text_is_never_wider_than_asked_and_ends_in_no_half_escape(columns: int) -> None:
    cut = printable("ab\x1b\x1bcdef", columns)
    assert len(cut) <= columns
    assert cut == r"ab\x1b\x1bcdef" or cut[:-1] in ("", "a", "ab", r"ab\x1b", r"ab\x1b\x1b", r"ab\x1b\x1bc")
    assert printable(b"x" * 2_000_000, 12) == "xxxxxxxxxxx…"


async def test_filters_pick_by_reason_partition_and_offsets_and_the_limit_keeps_the_newest(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create(2)
    await desk.bury([desk.record(CUT, offset=n) for n in range(5)])
    await desk.bury([desk.record(b"{}", offset=n) for n in range(10, 13)], partition=1)

    async def shown(*flags: str) -> list[str]:
        assert await desk.run("list", *flags) == 0
        out = capsys.readouterr().out.splitlines()
        return [line.split()[4].split("/")[2] for line in out if desk.input in line and "BYTES" not in line]

    assert await shown() == ["0", "1", "2", "3", "4", "10", "11", "12"]
    assert await shown("--reason", "no_text") == ["10", "11", "12"]
    assert await shown("--partition", "0", "--from-offset", "1", "--to-offset", "3") == ["1", "2", "3"]
    assert await shown("--limit", "2") == ["11", "12"]
    assert await shown("--reason", "not_text") == []
    assert cli.main(["dead-letters", "list", "--from-offset", "3"]) == 2
    assert "give --partition too" in capsys.readouterr().err
    assert cli.main(["dead-letters", "list", "--reason", "ugly"]) == 2
    assert "there are null_value" in capsys.readouterr().err


def test_every_reason_that_the_code_gives_has_an_explanation() -> None:
    given = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UndecodableError":
                given.add(DeadLetterReason[node.args[0].attr])  # type: ignore[attr-defined]
    assert given == set(DeadLetterReason) == set(REASONS)


async def test_explain_sums_up_by_reason_with_meaning_remedy_and_example(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT, offset=n) for n in range(3)] + [desk.record(b"{}", offset=9)])
    await desk.bury([desk.record(GOOD, offset=20)], pin=Shape.KOLLA)
    assert await desk.run("explain") == 0
    out = capsys.readouterr().out
    assert f"5 dead letters in {desk.dead}" in out
    assert "bad_json  3 (60%)" in out
    assert "no_text  1 (20%)" in out
    for reason in ("bad_json", "no_text", "other_shape"):
        assert " ".join(REASONS[reason].remedy.split()) in " ".join(out.split())
    assert f"{desk.input}/0/2, 16 bytes" in out
    assert "the record is plain, and kolla is pinned" in out


async def test_a_letter_put_back_is_the_record_that_it_was_and_says_where_it_lay(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create(3)
    theirs = (("traceparent", b"x"), ("loggpt_reason", b"forged"), ("loggpt_reinjected", b"forged"))
    await desk.bury([desk.record(GOOD, partition=2, offset=7, headers=theirs)], pin=Shape.KOLLA, partition=1)
    await desk.bury([desk.record(GOOD, partition=0, key=None)], pin=Shape.KOLLA, partition=1)
    assert await desk.run("reinject") == 0
    assert f"2 dead letters put back into {desk.input}" in capsys.readouterr().out
    keyless, keyed = sorted(await desk.injected(), key=lambda each: each.partition)
    assert (keyed.partition, keyed.key, keyed.value, keyed.timestamp) == (2, b"vm-1", GOOD, T0_MS)
    assert dict(keyed.headers) == {"traceparent": b"x", "loggpt_reinjected_from": f"{desk.dead}/1/0".encode()}
    assert (keyless.partition, keyless.key, keyless.value) == (0, None, GOOD)


async def test_putting_back_twice_puts_back_once_whatever_is_selected_in_between(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(value, offset=n) for n, value in enumerate([CUT, b"{}", CUT, b'[{"a": 1}]', CUT])])
    dry = ["--reason", "bad_json", "--dry-run"]
    assert await desk.run("reinject", *dry) == 0
    assert "3 dead letters would be put back" in capsys.readouterr().out
    assert await desk.injected() == []
    assert await desk.run("reinject", "--reason", "bad_json") == 0
    assert [record.value for record in await desk.injected()] == [CUT] * 3
    assert await desk.run("reinject", "--partition", "0", "--from-offset", "2", "--to-offset", "3") == 0
    assert "1 dead letter put back" in capsys.readouterr().out
    for _ in range(2):
        assert await desk.run("reinject") == 0
    out = capsys.readouterr().out
    assert "1 dead letter put back" in out
    assert "0 dead letters put back" in out
    assert "5 were put back before" in out
    values = sorted(record.value for record in await desk.injected())
    assert values == sorted([CUT, b"{}", CUT, b'[{"a": 1}]', CUT])
    assert await desk.run("list") == 0
    assert capsys.readouterr().out.count("put back") == 5


async def test_a_mark_behind_an_open_transaction_is_waited_for_and_nothing_is_put_back_twice(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT, offset=n) for n in range(2)])
    async with (
        AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=unique_name("daemon")) as daemon,
        AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=unique_name("reinject")) as earlier,
    ):
        await daemon.begin_transaction()
        await daemon.send_and_wait(desk.dead, b"its next letter", partition=0)
        value, headers = mark([0, 1])
        async with earlier.transaction():
            await earlier.send_and_wait(desk.dead, value, partition=0, headers=headers)
        putting_back = asyncio.create_task(desk.run("reinject"))
        # Until the daemon's transaction ends nobody can read that the letters are done.
        await asyncio.wait([putting_back], timeout=5)
        assert not putting_back.done()
        await daemon.abort_transaction()
        assert await putting_back == 0
    assert "2 were put back before" in capsys.readouterr().out
    assert await desk.injected() == []


async def test_a_transaction_that_stays_open_ends_the_command_which_says_to_try_again(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(topic, "_SILENCE_S", 1.0)
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT)])
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=unique_name("daemon")) as daemon:
        await daemon.begin_transaction()
        await daemon.send_and_wait(desk.dead, b"its next letter", partition=0)
        assert await desk.run("reinject") == 2
        await daemon.abort_transaction()
    assert re.search("on partition 0 a transaction is open, .* Try again", capsys.readouterr().err)
    assert await desk.injected() == []


async def test_more_letters_than_one_transaction_holds_are_all_put_back_once(kafka: KafkaServer) -> None:
    desk = await Desk(kafka.bootstrap).create(2)
    for partition in (0, 1):
        records = [desk.record(b'{"%d' % n, offset=n, partition=partition) for n in range(600)]
        await desk.bury(records, partition=partition)
    for _ in range(2):
        assert await desk.run("reinject") == 0
        found = sorted((record.partition, record.value) for record in await desk.injected())
        assert found == sorted((partition, b'{"%d' % n) for n in range(600) for partition in (0, 1))


# The command, but for the end of its transaction, which never comes.
STUCK = """
import asyncio, sys
from aiokafka import AIOKafkaProducer
from loggpt_stream import cli

async def commit(self):
    await self.flush()
    print("sent", flush=True)
    await asyncio.sleep(600)

AIOKafkaProducer.commit_transaction = commit
cli.main(sys.argv[1:])
"""


async def test_a_kill_before_the_commit_puts_nothing_back_and_the_next_run_puts_back_once(kafka: KafkaServer) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT, offset=n) for n in range(4)])
    with subprocess.Popen(
        [sys.executable, "-c", STUCK, "dead-letters", "reinject", *desk.flags()], stdout=subprocess.PIPE
    ) as stuck:
        assert stuck.stdout is not None
        assert await asyncio.to_thread(stuck.stdout.readline) == b"sent\n"
        stuck.send_signal(signal.SIGKILL)
    assert await desk.injected() == []
    assert await desk.run("reinject") == 0
    assert [record.value for record in await desk.injected()] == [CUT] * 4
    assert await desk.run("reinject") == 0
    assert len(await desk.injected()) == 4


async def test_of_two_at_once_the_earlier_is_fenced_and_commits_nothing(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT, offset=n) for n in range(4)])
    commit = AIOKafkaProducer.commit_transaction
    later: list[int] = []

    async def commit_late(self: AIOKafkaProducer) -> None:
        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit)
        later.append(await desk.run("reinject"))
        await commit(self)

    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_late)
    assert await desk.run("reinject") == 2
    assert later == [0]
    assert "another reinject" in capsys.readouterr().err
    assert len(await desk.injected()) == 4


async def test_a_broker_that_goes_away_in_the_middle_ends_the_command_and_the_next_run_puts_back_once(
    kafka_programs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del kafka_programs
    commit = AIOKafkaProducer.commit_transaction
    with KafkaServer(tmp_path / "kafka") as kafka:
        desk = await Desk(kafka.bootstrap).create()
        await desk.bury([desk.record(b'{"%d' % n, offset=n) for n in range(600)])
        monkeypatch.setattr(letters_back, "_TRANSACTION_S", 3.0)

        async def commit_once(self: AIOKafkaProducer) -> None:
            await commit(self)
            # Neither the second transaction, nor its end, nor that of the producer comes to anything.
            kafka.kill_broker(0)

        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_once)
        async with asyncio.timeout(60):
            assert await desk.run("reinject") == 2
        assert "what was committed is not put back again" in capsys.readouterr().err
        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit)
        kafka.start_broker(0)
        assert await desk.run("reinject") == 0
        assert "500 were put back before" in capsys.readouterr().out
        assert sorted(record.value for record in await desk.injected()) == sorted(b'{"%d' % n for n in range(600))


async def test_a_broker_that_does_not_answer_at_the_start_ends_the_command(
    kafka_programs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    del kafka_programs
    monkeypatch.setattr(letters_back, "_START_WITHIN_S", 2.0)
    with KafkaServer(tmp_path / "kafka") as kafka:
        kafka.freeze_broker(0)
        async with asyncio.timeout(30):
            assert await Desk(kafka.bootstrap).run("reinject") == 2
    assert "Run the command again" in capsys.readouterr().err


async def test_a_transaction_that_failed_holds_up_nobody_who_reads_the_input(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(kafka.bootstrap)
    await create_topic(kafka.bootstrap, desk.input, 2, {"max.message.bytes": "2000"})
    await create_topic(kafka.bootstrap, desk.dead)
    large = b'{"incompressible": "' + random.Random(7).randbytes(4_000).hex().encode()
    await desk.bury([desk.record(CUT, partition=0), desk.record(large, partition=1)])
    assert await desk.run("reinject") == 2
    assert "takes no record of that size" in capsys.readouterr().err
    input_topic = record_batches(KafkaSettings(bootstrap=kafka.bootstrap), Span(desk.input))
    async with asyncio.timeout(10):  # not when the transaction times out
        assert [batch async for batch in input_topic] == []


async def test_a_letter_that_failed_again_says_so_and_goes_in_no_circle(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    await desk.bury([desk.record(CUT, offset=3)])
    assert await desk.run("reinject") == 0
    (back,) = await desk.injected()
    await desk.bury([desk.record(back.value, offset=back.offset, headers=tuple(back.headers))])
    capsys.readouterr()
    assert await desk.run("list") == 0
    out = capsys.readouterr().out
    assert f"failed again ({desk.dead}/0/0)" in out
    assert await desk.run("explain") == 0
    assert "1 put back, 1 had been put back before and failed again" in capsys.readouterr().out
    assert await desk.run("reinject") == 0
    out = capsys.readouterr().out
    assert "0 dead letters put back" in out
    assert "1 were put back once and failed again: --again" in out
    assert await desk.run("reinject", "--again") == 0
    assert "1 dead letter put back" in capsys.readouterr().out
    newest = (await desk.injected())[-1]
    assert [value for name, value in newest.headers if name == "loggpt_reinjected_from"] != [
        b"%s/0/0" % desk.dead.encode()
    ]
    assert len([name for name, _ in newest.headers if name == "loggpt_reinjected_from"]) == 1


async def test_what_cannot_be_put_back_is_refused_with_the_reason(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    giant = b'{"message": "' + b"x" * 950_000
    elsewhere = Record(CUT, "other-topic", 1, 2, T0_MS / 1000)
    await desk.bury([desk.record(giant, offset=5), desk.record(None, offset=6), elsewhere, desk.record(CUT)])
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(desk.dead, b"who wrote this?")
        await producer.send_and_wait(desk.dead, b"no mark", headers=[("loggpt_reinjected", b"1")])
    assert await desk.run("reinject") == 1
    out = capsys.readouterr().out
    assert re.search(r"only 8\d\d,\d{3} of its 950,013 bytes were kept: fetch the record from", out)
    assert "its record has no value" in out
    assert "it came from topic other-topic: name that with --input-topic" in out
    assert out.count("the daemon did not write it") == 2
    assert "1 dead letter put back" in out
    assert [record.value for record in await desk.injected()] == [CUT]


async def test_what_came_through_the_router_is_put_back_before_it_and_nowhere_else(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    raw = replace(desk, input=unique_name("raw"))
    await create_topic(kafka.bootstrap, raw.input, 3)
    router = RoutedPartition(raw.input, 2, KEY_SOURCES, None, Changelog("router", STATE_FORMATS))
    router.feed(raw.record(CUT, partition=2, offset=70, key=b"host", headers=(("theirs", b"x"),)))
    unsaved = router.take()
    assert unsaved is not None
    (routed,) = unsaved.records
    keyless = desk.record(CUT, offset=4, key=routed.key, headers=tuple(routed.headers))
    await desk.bury([keyless, desk.record(b"{}", offset=5)])
    assert await desk.run("reinject") == 1
    out = capsys.readouterr().out
    assert f"came through loggpt-stream route from topic {raw.input}: name that with --input-topic" in out
    assert "1 dead letter put back" in out
    assert await raw.run("reinject") == 0
    assert f"1 dead letter put back into {raw.input}\n1 were put back before" in capsys.readouterr().out
    (back,) = await raw.injected()
    assert (back.partition, back.key, back.value, back.timestamp) == (2, b"host", CUT, T0_MS)
    assert dict(back.headers) == {"theirs": b"x", "loggpt_reinjected_from": f"{desk.dead}/0/0".encode()}
    assert [record.value for record in await desk.injected()] == [b"{}"]


async def test_a_missing_topic_is_a_users_mistake(kafka: KafkaServer, capsys: pytest.CaptureFixture[str]) -> None:
    desk = Desk(kafka.bootstrap)
    for action in ("list", "explain", "reinject"):
        assert await desk.run(action) == 2
        assert f"no topic {desk.dead} at" in capsys.readouterr().err
    assert cli.main(["dead-letters", "bury"]) == 2
    assert "there are list, explain, reinject" in capsys.readouterr().err


def test_a_mark_names_runs_of_offsets_and_a_hostile_record_is_no_mark() -> None:
    value, headers = mark([3, 4, 5, 9, 11, 12])
    assert value == b"[[3,5],[9,9],[11,12]]"
    done = Done()
    assert done.add(Record(value, "dead", 2, 20, 0.0, headers=tuple(headers)))
    assert done.offsets == {2: {3, 4, 5, 9, 11, 12}}
    as_dead_letter = (*headers, ("loggpt_reason", b"bad_json"))
    assert not done.add(Record(b"[[0,100]]", "dead", 2, 21, 0.0, headers=as_dead_letter))
    assert done.offsets == {2: {3, 4, 5, 9, 11, 12}}
    letter = letter_of(Record(b"[[0,100]]", "dead", 2, 21, 0.0, headers=as_dead_letter))
    assert (letter.reason, letter.headers) == ("bad_json", ())


async def test_a_header_without_value_is_kept_and_ends_no_command(
    kafka: KafkaServer, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = await Desk(kafka.bootstrap).create()
    theirs: Any = (("flag", None), ("loggpt_reinjected_from", None))
    await desk.bury([desk.record(CUT, headers=theirs)])
    reason: Any = [("loggpt_reason", None), ("loggpt_offset", None)]
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        await producer.send_and_wait(desk.dead, b"who wrote this?", headers=reason)
    assert await desk.run("list") == 0
    assert await desk.run("reinject", "--again") == 1
    assert "the daemon did not write it" in capsys.readouterr().out
    (back,) = await desk.injected()
    assert dict(back.headers)["flag"] is None
