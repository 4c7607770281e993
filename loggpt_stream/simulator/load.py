"""Any amount of load from a library of recorded sessions: seeded, in time order, in constant memory."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, NamedTuple

from loggpt_stream.simulator.shippers import SHIPPERS, Marked
from loggpt_stream.simulator.slots import Clock, Form, Fresh, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loggpt_stream.simulator.library import Library, RecordedSession
    from loggpt_stream.simulator.shippers import Shipper


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what.

    start_ms: epoch milliseconds at which the first session may start. concurrency: instance sessions open at once.
    failure_share: share of sessions replayed from failures; None keeps that of the library. time_scale: gaps between
    lines are so many times as long as recorded. No session starts once a limit is reached: `sessions` started, `lines`
    in those started, or `duration_ms` of log time passed; those that have started run to their end.
    """

    start_ms: int
    seed: int = 0
    concurrency: int = 100
    failure_share: float | None = None
    time_scale: float = 1.0
    background: bool = True
    sessions: int | None = None
    lines: int | None = None
    duration_ms: int | None = None


class Truth(NamedTuple):
    """What happened to a simulated instance; times are epoch milliseconds, None where there is none."""

    instance_uuid: str
    failed: bool
    fault: str
    started_ms: int | None
    ended_ms: int | None
    failed_ms: int | None
    injected_ms: int | None


class Simulated(NamedTuple):
    """One record: the time of its line, its Kafka key, its text; with the truth where it is its session's last."""

    time_ms: int
    key: str
    text: str
    truth: Truth | None


class _Template:
    """A recorded session shaped for one shipper: for each event its offset and its records' forms."""

    __slots__ = ("background", "events", "make", "offsets_ms", "recorded", "records")

    def __init__(self, recorded: RecordedSession, shipper: Shipper, time_scale: float) -> None:
        slots = Slots(recorded)
        self.recorded = recorded
        self.background = not recorded.instance
        self.offsets_ms = [round(event.offset_ms * time_scale) for event in recorded.events]
        self.events: list[tuple[Form, ...]] = []
        session = slots.mark(recorded.instance) if recorded.instance else ""
        for event in recorded.events:
            pid = event.lines[0].split(" ", 3)[2]
            service, host = slots.host(pid)
            marked = Marked(tuple(slots.mark(line) for line in event.lines), service, host, session)
            self.events.append(tuple(Form(text, shipper.times) for text in shipper.records(marked)))
        self.records = sum(map(len, self.events))
        self.make = slots.maker()


class _Open:
    """A session that is being replayed: where it is, and the values of its slots once its first line is due."""

    __slots__ = ("key", "position", "start_ms", "template", "values")

    def __init__(self, template: _Template, start_ms: int) -> None:
        self.template = template
        self.start_ms = start_ms
        self.position = 0
        self.values: list[str] = []
        self.key = ""


class Load:
    """Iterate over it for the records; what it knows of itself can be read beside that."""

    def __init__(self, library: Library, shipper: str, plan: Plan) -> None:
        """Prepare to replay `library` as `shipper` (one of SHIPPERS) would send it.

        Raises `ValueError` where the library lacks the sessions that the plan asks for.
        """
        self.plan = plan
        self.sessions_started = 0
        self._shipper = SHIPPERS[shipper]
        self._library = library
        self._good = [number for number, session in enumerate(library.sessions) if not session.failed]
        self._failed = [number for number, session in enumerate(library.sessions) if session.failed]
        share = plan.failure_share
        if (share != 1 and not self._good) or (share and not self._failed):
            raise ValueError(f"the library has {len(self._good)} good and {len(self._failed)} failed sessions")
        self._templates: list[_Template | None] = [None] * len(library.sessions)
        self._pieces: list[_Template | None] = [None] * len(library.background)
        self._background_rate = len(library.background) / len(library.sessions) if plan.background else 0.0
        self._rng = random.Random(plan.seed)  # noqa: S311 - load is to be repeatable, not secret
        self._fresh = Fresh(self._rng)
        self._lines_started = 0
        self._serial = 0
        self._heap: list[tuple[int, int, _Open]] = []

    def __iter__(self) -> Iterator[Simulated]:
        """Yield records in order of their time. An event's records follow each other: a traceback stays whole."""
        times = self._shipper.times
        heap, clock, fresh = self._heap, Clock(times), self._fresh
        self._start_first()
        while heap:
            time_ms, serial, session = heap[0]
            template, position = session.template, session.position
            if not position:
                session.values = [""] * len(times)
                template.make(fresh, session.values)
                session.key = session.values[len(times)]
            session.position = position + 1
            last = session.position == len(template.events)
            if last:
                heapq.heappop(heap)
                if not template.background:
                    self._start_next(time_ms)
            else:
                due_ms = session.start_ms + template.offsets_ms[session.position]
                heapq.heapreplace(heap, (due_ms, serial, session))
            values = session.values
            clock.write(time_ms, values)
            forms = template.events[position]
            key = session.key
            if last and not template.background:
                for form in forms[:-1]:
                    yield Simulated(time_ms, key, form.fill(values), None)
                yield Simulated(time_ms, key, forms[-1].fill(values), self._truth(session))
            else:
                for form in forms:
                    yield Simulated(time_ms, key, form.fill(values), None)

    def _start_first(self) -> None:
        """Start as many sessions as may be open, spread over the time that one takes."""
        spread_ms = mean_duration_ms(self._library.sessions) * self.plan.time_scale
        starts = sorted(self._rng.random() * spread_ms for _ in range(self.plan.concurrency))
        for start_ms in starts:
            self._start_next(self.plan.start_ms + round(start_ms))

    def _start_next(self, start_ms: int) -> None:
        plan = self.plan
        if (
            (plan.sessions is not None and self.sessions_started >= plan.sessions)
            or (plan.lines is not None and self._lines_started >= plan.lines)
            or (plan.duration_ms is not None and start_ms - plan.start_ms >= plan.duration_ms)
        ):
            return
        template = self._template(self._draw())
        self.sessions_started += 1
        self._push(template, start_ms)
        # As many pieces of background for a session as were recorded for one, anywhere in its time.
        for _ in range(int(self._background_rate + self._rng.random())):
            piece = self._piece(self._rng.randrange(len(self._pieces)))
            self._push(piece, start_ms + round(self._rng.random() * template.offsets_ms[-1]))

    def _push(self, template: _Template, start_ms: int) -> None:
        self._serial += 1
        self._lines_started += template.records
        heapq.heappush(self._heap, (start_ms, self._serial, _Open(template, start_ms)))

    def _draw(self) -> int:
        share = self.plan.failure_share
        if share is None:
            return self._rng.randrange(len(self._library.sessions))
        return self._rng.choice(self._failed if self._rng.random() < share else self._good)

    def _template(self, number: int) -> _Template:
        template = self._templates[number]
        if template is None:
            recorded = self._library.sessions[number]
            template = self._templates[number] = _Template(recorded, self._shipper, self.plan.time_scale)
        return template

    def _piece(self, number: int) -> _Template:
        piece = self._pieces[number]
        if piece is None:
            recorded = self._library.background[number]
            piece = self._pieces[number] = _Template(recorded, self._shipper, self.plan.time_scale)
        return piece

    def _truth(self, session: _Open) -> Truth:
        recorded, scale = session.template.recorded, self.plan.time_scale

        def at(offset_ms: int | None) -> int | None:
            return None if offset_ms is None else session.start_ms + round(offset_ms * scale)

        return Truth(
            session.key,
            recorded.failed,
            recorded.fault,
            at(recorded.started_ms),
            at(recorded.ended_ms),
            at(recorded.failed_ms),
            at(recorded.injected_ms),
        )


def mean_duration_ms(sessions: Sequence[RecordedSession]) -> float:
    """Return the mean time from a session's first line to its last."""
    return fmean(session.duration_ms for session in sessions)


def natural_concurrency(library: Library, rate: float, time_scale: float) -> int:
    """Return how many sessions open at once log about `rate` lines in a second of log time."""
    lines = fmean(session.records for session in library.sessions)
    return max(1, round(rate * mean_duration_ms(library.sessions) / 1000 * time_scale / lines))
