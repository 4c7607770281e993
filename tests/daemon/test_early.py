"""Early alerts: once a session, of settled lines, after closed sessions, in bounded looks, and valid."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jsonschema
import orjson
import pytest
import torch

from loggpt_stream.alerts.alert import AlertWriter, JudgedSession, schema
from loggpt_stream.daemon.batching import Closed, Waiting
from loggpt_stream.daemon.early import SETTLE_S, EarlyLooks
from loggpt_stream.daemon.partition import Partition
from loggpt_stream.daemon.scorer_thread import ScorerHungError, ScorerThread
from loggpt_stream.daemon.state_formats import STATE_FORMATS
from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.lines.gathering import Gathering
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Record
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.calibration import Calibration, EarlyCalibration, Judge
from loggpt_stream.model.detector import Detector
from loggpt_stream.model.drift import UNCONFIRMED
from loggpt_stream.model.drift_mode import DriftMode
from loggpt_stream.model.statistics import Scale
from testing.tiny_bundle import judged_early_by, tiny_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.scoring import Scorer
    from loggpt_stream.model.sequence import Window

START_S = 1_795_442_880.0  # 2026-11-23 14:08:00 UTC
INSTANCES = [f"{n:08d}-0000-4000-8000-000000000000" for n in range(20)]
USUAL = "VM Started (Lifecycle Event)"
# One new line alone passes the threshold, a line's loss cannot.
SCALES = {"max_line_loss": Scale(0.0, 10.0, 5.0), "unseen_lines": Scale(0.0, 0.0, 0.2)}
CALIBRATION = judged_early_by(
    EarlyCalibration(threshold=6.0, basis="conformal", false_alarm_rate=0.01, scales=SCALES, normal_scores=(1.0, 2.0))
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "bundle", steps=5, alert_share=1.0, early_share=1.0)


@pytest.fixture(scope="module")
def scorer(bundle: Bundle) -> Scorer:
    return bundle.scorer(torch.device("cpu"), batch_tokens=512)


def event(instance: str, second: float, text: str = USUAL, level: str = "INFO") -> bytes:
    minute, left = divmod(second, 60)
    when = f"2026-11-23 14:{8 + int(minute):02d}:{left:06.3f}"
    return f"{when} 7 {level} nova.compute.manager [req-1 - - - -] [instance: {instance}] {text}".encode()


def detector_of(scorer: Scorer, calibration: Calibration) -> Detector:
    gathering = Gathering(SessionRules(idle_gap_s=60), Masks())
    return Detector(gathering, scorer, calibration, "model", calibration.id)


class Looks(EarlyLooks):
    """Counts how many rounds in a row have found nothing to read."""

    idle_rounds = 0

    def _begin_round(self) -> None:
        super()._begin_round()
        self.idle_rounds = 0 if self._pending else self.idle_rounds + 1


class Bench:
    """One partition and the looks at it, without a broker: what is announced is kept."""

    def __init__(self, scorer: Scorer, calibration: Calibration = CALIBRATION, *, every_s: float = 0.02) -> None:
        self.scorer = scorer
        self.detector = detector = detector_of(scorer, calibration)
        self.partition = Partition(
            "input", 0, detector.gathering, lambda: Judge(calibration), Changelog("group input", STATE_FORMATS)
        )
        self.partitions: dict[Any, Partition] = {0: self.partition}
        self.waiting = Waiting(batch_tokens=512, batch_wait_s=0.01)
        self.announced: list[JudgedSession] = []
        self.offsets = itertools.count()
        self.thread = ScorerThread(60.0)
        self.looks = Looks(detector, self.partitions, self.announce, self.thread, every_s=every_s)

    def announce(self, partition: Partition, judged: JudgedSession) -> None:
        self.announced.append(judged)
        partition.announce(judged, 1.8e9)

    def feed(self, *values: bytes) -> list[Session]:
        closed = []
        for value in values:
            record = Record(value, "input", 0, next(self.offsets), timestamp_s=START_S + 3600)
            closed += self.partition.feed(record, now_s=START_S + 7200)
        return closed

    def close(self, session: Session) -> None:
        self.waiting.put(Closed(self.partition, session, self.scorer.prepare(session), 0.0))

    async def look(self) -> list[str]:
        """Look until two rounds in a row find nothing to read; return the keys of all sessions announced so far."""
        self.looks.idle_rounds = 0
        looking = asyncio.create_task(self.looks.look_until_closed(self.waiting))
        async with asyncio.timeout(60):
            while self.looks.idle_rounds < 2 and not looking.done():
                await asyncio.sleep(0.005)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        return [judged.session.key for judged in self.announced]


@pytest.fixture
def bench(scorer: Scorer) -> Iterator[Bench]:
    made = Bench(scorer)
    yield made
    made.thread.close()


async def test_an_open_session_with_a_line_never_seen_is_announced_and_a_usual_one_is_not(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1), event(INSTANCES[1], 2), event(INSTANCES[1], 3, "The disk has melted", "ERROR"))
    bench.feed(event(INSTANCES[2], 10))
    assert await bench.look() == [INSTANCES[1]]
    (judged,) = bench.announced
    assert judged.stage == "early"
    assert [line.raw.rsplit("] ", 1)[1] for line in judged.session.lines] == [USUAL, "The disk has melted"]
    assert set(judged.score.statistics) == {"max_line_loss", "unseen_lines"}
    assert judged.score.statistics["unseen_lines"] == 1.0


async def test_a_session_is_announced_once_however_much_worse_it_gets(bench: Bench) -> None:
    for n in range(4):
        bench.feed(event(INSTANCES[0], 10 * n, f"{'The disk has melted ' * (n + 1)}", "ERROR"))
        bench.feed(event(INSTANCES[1], 10 * n + 5))
        assert await bench.look() == [INSTANCES[0]]


async def test_a_line_is_left_until_its_traceback_can_have_come(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1), event(INSTANCES[0], 10, "The disk has melted", "ERROR"))
    bench.feed(event(INSTANCES[1], 10 + SETTLE_S - 0.1))
    assert await bench.look() == []
    bench.feed(event(INSTANCES[1], 10 + SETTLE_S))
    assert await bench.look() == [INSTANCES[0]]


async def test_a_line_of_a_host_whose_clock_lags_is_left_as_long_too(bench: Bench) -> None:
    bench.feed(event(INSTANCES[1], 30))
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"))  # it says that it is 29 s old, but came now
    assert await bench.look() == []
    bench.feed(event(INSTANCES[1], 30 + SETTLE_S))
    assert await bench.look() == [INSTANCES[0]]


async def test_a_session_that_never_falls_silent_is_looked_at_too(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"))
    found: list[str] = []
    for n in range(12):
        bench.feed(event(INSTANCES[0], 1 + 0.4 * n))
        found = await bench.look()
    assert found == [INSTANCES[0]]


async def test_on_a_silent_partition_the_wall_clock_settles_the_last_line(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"))
    assert await bench.look() == []
    bench.partition.tick(START_S + 7200 + SETTLE_S + 0.1, caught_up=True, clock_speed=1.0)
    assert await bench.look() == [INSTANCES[0]]


async def test_closed_sessions_come_first(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"), event(INSTANCES[1], 50))
    (closed,) = bench.feed(event(INSTANCES[1], 62))
    bench.close(closed)
    bench.feed(event(INSTANCES[2], 62, "The disk has melted", "ERROR"), event(INSTANCES[1], 70))
    await asyncio.wait_for(bench.looks.look_until_closed(bench.waiting), 5)  # gives way at once
    assert bench.announced == []
    assert [each.session.key for each in await bench.waiting.batch()] == [INSTANCES[0]]
    assert await bench.look() == [INSTANCES[2]]


async def test_looking_gives_way_to_a_session_that_closes_meanwhile(bench: Bench) -> None:
    looking = asyncio.create_task(bench.looks.look_until_closed(bench.waiting))
    bench.feed(event(INSTANCES[0], 1))
    await asyncio.sleep(0.1)
    assert not looking.done()
    (closed,) = bench.feed(event(INSTANCES[1], 62))
    bench.close(closed)
    await asyncio.wait_for(looking, 5)
    assert [each.session.key for each in await bench.waiting.batch()] == [INSTANCES[0]]


async def test_a_look_reads_a_bounded_number_of_tokens_and_the_longest_waiting_session_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for instance in INSTANCES:
        bench.feed(*(event(instance, 1, f"odd {n} {instance[::-1]} " + "disk melted " * 20) for n in range(15)))
    bench.feed(event("ffffffff-0000-4000-8000-000000000000", 10))
    read: list[int] = []
    takes: list[list[str]] = []
    take = bench.looks._take

    def noted() -> Any:
        looks = take()
        if looks:
            read.append(sum(look.step.tokens for look in looks))
            takes.append([look.watch.session.key for look in looks])
        return looks

    monkeypatch.setattr(bench.looks, "_take", noted)
    announced = await bench.look()
    assert len(read) > 5
    # No step is longer than a batch, and none begins once a batch is full.
    assert max(read) < 2 * bench.scorer.batch_tokens
    first_seen = list(dict.fromkeys(key for keys in takes for key in keys))
    assert first_seen == INSTANCES
    assert sorted(announced) == INSTANCES


async def test_lines_that_were_read_are_not_read_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.feed(*(event(INSTANCES[0], 1 + n / 100) for n in range(64)), event(INSTANCES[1], 10))
    await bench.look()
    watches = bench.looks._rounds[bench.partition].watches.values()
    # Of the first session all were read, though they are more than one look takes; the other's line has not settled.
    assert {watch.session.key: watch.progress.lines for watch in watches} == {INSTANCES[0]: 64, INSTANCES[1]: 0}
    tokens: list[int] = []
    read = bench.scorer.highest_line_loss

    def counting(wanted: Sequence[Window]) -> float:
        tokens.append(sum(len(window.ids_T) for window in wanted))
        return read(wanted)

    monkeypatch.setattr(bench.scorer, "highest_line_loss", counting)
    bench.feed(event(INSTANCES[0], 11), event(INSTANCES[1], 20))
    await bench.look()
    most = bench.scorer.passes.block_lines * (bench.scorer.tokenizer.max_line_tokens + 1) + 1
    assert 0 < len(tokens) <= 3
    assert max(tokens) <= most


async def test_what_closes_while_it_is_looked_at_is_left_to_its_final_verdict(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    prepare = bench.scorer.prepare

    def closing(session: Any) -> Any:
        bench.feed(event(INSTANCES[1], 62))
        return prepare(session)

    monkeypatch.setattr(bench.scorer, "prepare", closing)
    assert await bench.look() == []


async def test_the_final_verdict_knows_of_the_early_alert_and_the_session_is_forgotten(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    assert await bench.look() == [INSTANCES[0]]
    (closed,) = bench.feed(event(INSTANCES[1], 62))
    assert closed.announced_s == 1.8e9
    known = bench.looks._rounds[bench.partition].watches
    assert closed.identity in known
    bench.looks.ended(bench.partition, closed)
    assert closed.identity not in known


async def test_a_traceback_that_comes_late_and_makes_a_line_usual_takes_nothing_back_and_announces_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.feed(event(INSTANCES[0], 1), event(INSTANCES[0], 2, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    read = bench.looks._read

    def meanwhile(looks: Any) -> Any:
        found = read(looks)
        for look in looks:
            for line in look.watch.session.lines[1:]:
                line.head = look.watch.session.lines[0].head
        return found

    monkeypatch.setattr(bench.looks, "_read", meanwhile)
    assert await bench.look() == []


async def test_a_threshold_that_drift_has_raised_is_the_one_that_open_sessions_are_judged_by(scorer: Scorer) -> None:
    raised = Bench(scorer)
    raised.partition.judge = Judge(CALIBRATION, DriftMode.ADAPT)
    for _ in range(UNCONFIRMED):
        raised.partition.judge.judge("instance", {"max_line_loss": 1e9, "unseen_lines": 1e9})
    raised.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    assert await raised.look() == []
    raised.partition.judge = Judge(CALIBRATION)
    raised.feed(event(INSTANCES[0], 11, "The disk has melted again", "ERROR"), event(INSTANCES[1], 20))
    assert await raised.look() == [INSTANCES[0]]
    raised.thread.close()


async def test_late_fragments_and_kinds_without_early_calibration_are_not_looked_at(bench: Bench) -> None:
    late = INSTANCES[0]
    bench.feed(event(late, 1, "Deleted allocations for instance " + late), event(INSTANCES[1], 40))
    bench.feed(event(late, 41, "The disk has melted", "ERROR"))
    bench.feed(b"2026-11-23 14:08:42.000 7 ERROR nova.api [req-11111111-0000-4000-8000-000000000000 - - - -] melted")
    bench.feed(event(INSTANCES[1], 50))
    (fragment, *_) = [each for each in bench.partition.sessionizer.seen_since(0.0) if each.key == late]
    assert fragment.late
    assert {each.kind for each in bench.partition.sessionizer.seen_since(0.0)} == {"instance", "request"}
    assert await bench.look() == []


async def test_a_session_that_other_rules_began_to_gather_is_not_judged_while_open_either(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1), event(INSTANCES[0], 2, "The disk has melted", "ERROR"))
    (session,) = bench.partition.sessionizer.seen_since(0.0)
    session.outdated = True
    bench.feed(event(INSTANCES[1], 10))
    assert await bench.look() == []


async def test_all_sessions_are_gone_through_as_often_as_it_is_set(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom = Bench(scorer, every_s=0.2)
    rounds: list[float] = []
    begin = seldom.looks._begin_round

    def noted() -> None:
        rounds.append(asyncio.get_running_loop().time())
        begin()

    monkeypatch.setattr(seldom.looks, "_begin_round", noted)
    await seldom.look()
    await seldom.look()
    assert len(rounds) >= 4
    assert all(later - earlier >= 0.19 for earlier, later in itertools.pairwise(rounds))
    seldom.thread.close()


async def test_a_partition_that_is_revoked_while_its_sessions_wait_for_a_look_is_left_to_its_next_owner(
    bench: Bench,
) -> None:
    bench.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    bench.looks._begin_round()
    bench.partitions.clear()
    assert await bench.look() == []


async def test_zero_seconds_look_at_nothing(scorer: Scorer) -> None:
    off = Bench(scorer, every_s=0.0)
    off.feed(event(INSTANCES[0], 1, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    await asyncio.wait_for(off.looks.look_until_closed(off.waiting), 1)  # the wait for a batch is the queue's
    assert off.announced == []
    off.thread.close()


async def test_what_was_known_of_a_revoked_partition_goes_with_it(bench: Bench) -> None:
    bench.feed(event(INSTANCES[0], 1), event(INSTANCES[1], 10))
    await bench.look()
    assert len(bench.looks._rounds) == 1
    bench.partitions.clear()
    del bench.partition
    gc.collect()
    assert len(bench.looks._rounds) == 0


async def test_read_again_after_a_restart_the_early_alert_has_the_same_id(scorer: Scorer) -> None:
    ids = []
    for lines in (3, 5):  # the second daemon happens to look later
        again = Bench(scorer)
        again.feed(*(event(INSTANCES[0], n, f"The disk has melted {'x' * n}", "ERROR") for n in range(lines)))
        again.feed(event(INSTANCES[1], 10))
        assert await again.look() == [INSTANCES[0]]
        assert len(again.announced[0].session.lines) == lines
        ids.append(AlertWriter(again.detector, "prod").event_id(again.announced[0]))
        again.thread.close()
    assert len(set(ids)) == 1


async def test_alerts_of_both_stages_are_valid_and_the_final_one_names_the_early_one(
    bundle: Bundle, scorer: Scorer
) -> None:
    assert bundle.calibration
    both = Bench(scorer, bundle.calibration)
    writer = AlertWriter(both.detector, "prod")
    both.feed(event(INSTANCES[0], 1), event(INSTANCES[0], 2, "The disk has melted", "ERROR"), event(INSTANCES[1], 10))
    assert INSTANCES[0] in await both.look()
    early = next(judged for judged in both.announced if judged.session.key == INSTANCES[0])
    (session,) = both.feed(event(INSTANCES[1], 63))
    (score,) = scorer.score([session])
    verdict = Judge(bundle.calibration).judge(session.kind, score.statistics)
    final = JudgedSession("input", 0, session, score, verdict)
    values = [orjson.loads(writer.alert(judged, 1.8e9).value) for judged in (early, final)]
    for value in values:
        jsonschema.validate(value, schema())
    open_, closed = (value["loggpt"]["session"] for value in values)
    assert (open_["closed_at"], open_["close_reason"], open_["lines"], open_["truncated"]) == (None, None, 2, False)
    assert closed["close_reason"] == values[1]["labels"]["close_reason"] == "idle"
    assert "close_reason" not in values[0]["labels"]
    assert values[0]["loggpt"]["absent_lines"] == []
    assert values[1]["loggpt"]["early"] == {"id": values[0]["event"]["id"], "created": "2027-01-15T08:00:00.000Z"}
    assert values[0]["event"]["id"] != values[1]["event"]["id"]
    assert "still open" in values[0]["message"]
    record = orjson.loads(writer.score_record(final).value)
    assert record["early"] == values[1]["loggpt"]["early"]
    for value, wrong in ((values[0], "idle"), (values[1], None)):
        value["loggpt"]["session"]["close_reason"] = wrong
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(value, schema())
    both.thread.close()


async def test_a_look_that_hangs_is_as_bounded_as_a_batch(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(scorer)
    bench.thread.close()
    hung = threading.Event()
    monkeypatch.setattr(bench.looks, "_thread", thread := ScorerThread(0.05))
    monkeypatch.setattr(scorer, "read", lambda _: hung.wait())
    bench.feed(event(INSTANCES[0], 1), event(INSTANCES[1], 10))
    try:
        with pytest.raises(ScorerHungError):
            await bench.look()
    finally:
        hung.set()
    thread.close()
