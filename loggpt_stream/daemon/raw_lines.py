"""Raw text of lines that a restart left in the input topic: read again by offset when an alert shows them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError

from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.record import UndecodableError, as_record
from loggpt_stream.lines.session import extended
from loggpt_stream.lines.sessionizer import masked_head, raw_text
from loggpt_stream.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loggpt_stream.kafka.record_reader import RecordReader
    from loggpt_stream.lines.masks import Masks
    from loggpt_stream.lines.record import Event
    from loggpt_stream.lines.session import Line
    from loggpt_stream.lines.shapes import Shape

log = get_logger(__name__)


class RawLines:
    """Gives lines their raw text again."""

    def __init__(self, reader: RecordReader, masks: Masks, shape: Shape | None, *, within_s: float) -> None:
        """`reader`: of the input topic. shape: see `decode`.

        within_s: for all lines of one transaction; what was not found by then is shown as the model saw it.
        """
        self._reader = reader
        self._masks = masks
        self._shape = shape
        self._within_s = within_s

    async def fill(self, partition: int, lines: Iterable[Line]) -> None:
        """Give the lines of a partition their raw text where they have none, as far as the topic still has them."""
        missing = [line for line in lines if not line.raw]
        if not missing:
            return
        offsets = sorted({at for line in missing for at in (line.offset, *(rest for rest, _ in line.rest or ()))})
        found: dict[int, Any] = {}
        try:
            # Others may be before us: to wait for them counts.
            async with asyncio.timeout(self._within_s):
                await self._reader.read(partition, offsets, found)
        except (KafkaError, OSError, TimeoutError, UnicodeDecodeError) as error:
            log.warning("raw_lines_not_read", partition=partition, lines=len(missing), error=repr(error))
        events = {offset: self._events(record) for offset, record in found.items()}
        for line in missing:
            line.raw = self._raw(line, events)

    def _events(self, record: Any) -> Sequence[Event]:  # noqa: ANN401 - aiokafka is untyped
        try:
            return decode(as_record(record), pin=self._shape)
        except UndecodableError:
            return ()

    def _raw(self, line: Line, events: Mapping[int, Sequence[Event]]) -> str:
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


def _at(events: Mapping[int, Sequence[Event]], offset: int, index: int) -> Event | None:
    found = events.get(offset, ())
    return found[index] if index < len(found) else None
