"""Early alerts: open sessions are looked at every so often, while no closed one waits for the scorer.

An open session is judged by what never falls while it grows (`loggpt_stream.model.early`), so that looking often adds
no false alarm. It is announced once. Its close brings the final verdict, whatever that is.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from loggpt_stream.alerts.alert import JudgedSession
from loggpt_stream.model.early import START, EarlyProgress, Step, step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loggpt_stream.daemon.batching import Waiting
    from loggpt_stream.daemon.partition import Partition
    from loggpt_stream.daemon.scorer_thread import ScorerThread
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import EarlyCalibration
    from loggpt_stream.model.detector import Detector

# Of record time. The rest of a line's traceback, which changes what the model sees of it, comes within that.
SETTLE_S: Final = 1.0

_NEVER: Final = float("-inf")


@dataclass(slots=True, eq=False)
class _Watch:
    """What is known of an open session.

    progress: of the lines that were read. settled: so many of its first lines have been there for SETTLE_S.
    noted_lines, noted_s: how many lines it had at a record time, to tell that later.
    """

    session: Session
    progress: EarlyProgress = START
    settled: int = 0
    noted_lines: int = 0
    noted_s: float = _NEVER

    def settle(self, reached_s: float) -> None:
        """Bring `settled` up to date at record time `reached_s`.

        What counts is when a line came, not the time that it bears: a host's clock or its shipper may lag.
        """
        before_s, lines = reached_s - SETTLE_S, len(self.session.lines)
        if self.session.last_seen_s <= before_s:
            self.settled = lines
        elif self.noted_s <= before_s:
            self.settled = self.noted_lines
            self.noted_lines, self.noted_s = lines, reached_s


@dataclass(slots=True)
class _Round:
    """What is known of a partition's sessions, by first offset and index; they got lines since `since_s` if any."""

    watches: dict[tuple[int, int], _Watch]
    since_s: float = _NEVER


@dataclass(frozen=True, slots=True)
class _Look:
    """One session of a look, and the lines to be read."""

    partition: Partition
    watch: _Watch
    early: EarlyCalibration
    step: Step


class EarlyLooks:
    """Looks at the open sessions of all partitions, from the task that scores closed ones.

    Each look reads about as many tokens as one scoring batch at most; what is left over is read by the next one, the
    session that has waited longest first.
    """

    def __init__(
        self,
        detector: Detector,
        partitions: Mapping[Any, Partition],
        announce: Callable[[Partition, JudgedSession], None],
        thread: ScorerThread,
        *,
        every_s: float,
    ) -> None:
        """`announce` takes a judged session of a partition, to be published; `thread` is the scorer's.

        every_s: seconds from the start of one round over all sessions to that of the next; 0 looks at none.
        """
        self._detector = detector
        self._scorer = detector.scorer
        self._kinds = {kind for kind, each in detector.calibration.kinds.items() if each.early}
        self._partitions = partitions
        self._announce = announce
        self._thread = thread
        self._every_s = every_s if self._kinds else 0.0
        self._most_lines = max(1, self._scorer.batch_tokens // (self._scorer.tokenizer.max_line_tokens + 2))
        # Weak: what was known of a partition goes when it is revoked and its last session is judged.
        self._rounds: WeakKeyDictionary[Partition, _Round] = WeakKeyDictionary()
        self._pending: dict[_Watch, Partition] = {}
        self._next_round_s = _NEVER

    async def look_until_closed(self, waiting: Waiting) -> None:
        """Look at open sessions until a closed one waits. Raises as `Scorer.score` does, and `ScorerHungError`."""
        if not self._every_s:
            return
        loop = asyncio.get_running_loop()
        while not await waiting.ready(0.0 if self._pending else self._next_round_s - loop.time()):
            if not self._pending:
                self._next_round_s = loop.time() + self._every_s
                self._begin_round()
            await self._look()

    def ended(self, partition: Partition, session: Session) -> None:
        """Forget a session that closed."""
        known = self._rounds.get(partition)
        if known:
            known.watches.pop(session.identity, None)

    def _begin_round(self) -> None:
        """Find the sessions that have settled lines which were not read yet."""
        for partition in self._partitions.values():
            known = self._rounds.setdefault(partition, _Round({}))
            # The longest quiet first. It is a list: of millions of lines, few came since the last round.
            for session in reversed(list(partition.sessionizer.seen_since(known.since_s))):
                if session.late or session.outdated or session.kind not in self._kinds:
                    continue
                watch = known.watches.setdefault(session.identity, _Watch(session))
                watch.settle(partition.reached_s)
                if session.announced_s is None and watch.progress.lines < watch.settled:
                    self._pending.setdefault(watch, partition)
            # What is not settled now, or came while the wall clock had moved a silent partition on, is found again.
            known.since_s = min(partition.reached_s, partition.sessionizer.watermark_s) - SETTLE_S

    async def _look(self) -> None:
        """Read some of the pending lines, and announce the sessions that pass the threshold by them."""
        looks = self._take()
        if not looks:
            await asyncio.sleep(0)  # however often it looks: the other tasks must get their turn
            return
        found = await self._thread.run(self._read, looks)
        for look, (progress, alarms) in zip(looks, found, strict=True):
            look.watch.progress = progress
            if alarms:
                await self._alarm(look)
            elif progress.lines < look.watch.settled:
                self._pending[look.watch] = look.partition

    def _take(self) -> list[_Look]:
        """Return the next lines to read, at most about a batch of tokens."""
        looks: list[_Look] = []
        tokens = 0
        current = set(self._partitions.values())
        while self._pending and tokens < self._scorer.batch_tokens:
            watch = next(iter(self._pending))
            partition = self._pending.pop(watch)
            session, first = watch.session, watch.progress.lines
            early = partition.judge.early(session.kind)
            if partition not in current or session.close_reason or early is None:
                continue
            texts = [line.text for line in session.lines[first : min(watch.settled, first + self._most_lines)]]
            further = step(self._scorer, session.kind, watch.progress, texts)
            looks.append(_Look(partition, watch, early, further))
            tokens += further.tokens
        return looks

    def _read(self, looks: Sequence[_Look]) -> list[tuple[EarlyProgress, bool]]:
        """Return the progress of each session, and whether it passes the threshold by it; on the scorer's thread."""
        self._scorer.read([window for look in looks for window in look.step.windows])  # together; then remembered
        found = []
        for look in looks:
            progress = look.step.taken(self._scorer)
            new = progress.statistics != look.watch.progress.statistics
            found.append((progress, new and look.early.judge(progress.statistics).anomalous))
        return found

    async def _alarm(self, look: _Look) -> None:
        """Announce a session by its lines so far, unless it closed meanwhile: its final verdict is on the way."""
        watch, session = look.watch, look.watch.session
        so_far = replace(session, lines=session.lines[: watch.progress.lines], hosts=[*session.hosts])
        prepared = self._scorer.prepare(so_far)
        score, verdict = await self._thread.run(self._detector.judge_open, prepared, look.early)
        judged = JudgedSession(look.partition.topic, look.partition.number, so_far, score, verdict, stage="early")
        if not judged.alarms:
            # A line has got the rest of its traceback after it was read, and is usual with it: read all again.
            watch.progress = START
        elif not session.close_reason:
            self._announce(look.partition, judged)
