"""Raw text of lines that a restart left in the input topic: read again by offset when an alert shows them."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from loggpt_stream.daemon.partition import as_record
from loggpt_stream.daemon.transactions import stop_client
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import UndecodableError
from loggpt_stream.lines.session import extended
from loggpt_stream.lines.sessionizer import masked_head, raw_text
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from loggpt_stream.lines.masks import Masks
    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.session import Line

log = get_logger(__name__)

_POLL_MS: Final = 500
# A record this near is read on to, one further away is sought.
_NEAR: Final = 500


class RawLines:
    """Reads records of one topic by their offsets."""

    def __init__(
        self, topic: str, make_reader: Callable[[], Any], masks: Masks, shape: str | None, *, within_s: float
    ) -> None:
        """`make_reader` returns a consumer without a group, not started; it lives until `close`.

        within_s: for all lines of one transaction; what was not found by then is shown as the model saw it.
        """
        self._within_s = within_s
        self._stopping: set[asyncio.Task[None]] = set()
        self._topic = topic
        self._make_reader = make_reader
        self._masks = masks
        self._shape = shape
        self._reader: Any = None
        self._lock = asyncio.Lock()

    async def fill(self, partition: int, lines: Iterable[Line]) -> None:
        """Give the lines of a partition their raw text where they have none, as far as the topic still has them."""
        missing = [line for line in lines if not line.raw]
        if not missing:
            return
        offsets = sorted({at for line in missing for at in (line.offset, *(rest for rest, _ in line.rest or ()))})
        where = TopicPartition(self._topic, partition)
        events: dict[int, Sequence[Event]] = {}
        reading = False
        try:
            # Others may be before us: to wait for them counts.
            async with asyncio.timeout(self._within_s), self._lock:
                reading = True
                await self._read(where, offsets, events)
        except (KafkaError, OSError, TimeoutError, UnicodeDecodeError) as error:
            log.warning("raw_lines_not_read", partition=partition, lines=len(missing), error=repr(error))
            if reading:
                self._drop()
        for line in missing:
            line.raw = self._raw(line, events)

    async def timestamp_ms(self, partition: int, offset: int) -> int | None:
        """Return the timestamp of a record, or None where the topic has none at this offset.

        As it is kept in the state: what went through seconds has lost the last digits of nanoseconds.
        """
        async with self._lock:
            where = TopicPartition(self._topic, partition)
            reader = await self._assigned(where)
            start = (await reader.beginning_offsets([where]))[where]
            end = (await reader.end_offsets([where]))[where]
            if not start <= offset < end:
                return None
            reader.seek(where, offset)
            while await reader.position(where) <= offset:
                # One alone: a header further on may be one that cannot be read.
                for (record,) in (await reader.getmany(where, timeout_ms=_POLL_MS, max_records=1)).values():
                    return as_record(record).timestamp_ms if record.offset == offset else None
            return None

    async def close(self) -> None:
        """Let go of the consumer."""
        self._drop()
        await asyncio.gather(*self._stopping)

    def _drop(self) -> None:
        """Let go of the consumer without waiting for that."""
        reader, self._reader = self._reader, None
        if reader is not None:
            stopping = asyncio.create_task(stop_client(reader))
            self._stopping.add(stopping)
            stopping.add_done_callback(self._stopping.discard)

    async def _assigned(self, where: TopicPartition) -> Any:  # noqa: ANN401 - aiokafka is untyped
        if self._reader is None:
            reader = self._make_reader()
            await reader.start()
            self._reader = reader
        if self._reader.assignment() != {where}:
            self._reader.assign([where])
        return self._reader

    async def _read(self, where: TopicPartition, offsets: Sequence[int], events: dict[int, Sequence[Event]]) -> None:
        reader = await self._assigned(where)
        start = (await reader.beginning_offsets([where]))[where]
        end = (await reader.end_offsets([where]))[where]
        there = [offset for offset in offsets if start <= offset < end]
        for _, near in groupby(there, key=lambda offset: offset // _NEAR):
            wanted = set(near)
            reader.seek(where, min(wanted))
            while wanted and await reader.position(where) <= max(wanted):
                for records in (await reader.getmany(where, timeout_ms=_POLL_MS, max_records=_NEAR)).values():
                    for record in records:
                        if record.offset in wanted:
                            events[record.offset] = self._events(record)

    def _events(self, record: Any) -> Sequence[Event]:  # noqa: ANN401 - aiokafka is untyped
        try:
            return list(decode(as_record(record), pin=self._shape))
        except UndecodableError:
            return ()

    def _raw(self, line: Line, events: dict[int, Sequence[Event]]) -> str:
        """Return a line's raw text, or "" where what stands there is not that line (the topic was made anew)."""
        event = _at(events, line.offset, line.index)
        if event is None or masked_head(event, self._masks) != line.head:
            return ""
        raw = raw_text(event)
        for offset, index in line.rest or ():
            more = _at(events, offset, index)
            if more is not None:
                raw = extended(raw, more.message)
        return raw


def _at(events: dict[int, Sequence[Event]], offset: int, index: int) -> Event | None:
    found = events.get(offset, ())
    return found[index] if index < len(found) else None
