"""How many sessions differ between one partition and routed ones, on the recorded logs.

    python -m benchmarks.route_sessions

Three ways to have written the raw topic: one partition; several, keyed by the process that wrote a line, as shippers
that key by host and file would; several, round robin in runs of 50 lines, as shippers without a key do.
"""

from __future__ import annotations

import lzma
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loggpt_stream.kafka.changelog import Changelog
from loggpt_stream.kafka.transactions import partition_of
from loggpt_stream.lines.decode import decode
from loggpt_stream.lines.masks import Masks
from loggpt_stream.lines.record import Record
from loggpt_stream.lines.rules import KEY_SOURCES, SessionRules
from loggpt_stream.lines.sessionizer import Sessionizer
from loggpt_stream.route.partition import RoutedPartition
from loggpt_stream.route.state_formats import STATE_FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FOLDER = Path(__file__).parents[1] / "loggpt_stream" / "data" / "nova34"
MASKS = Masks()
# After all of the recorded lines, so that no line is from the future.
ARRIVAL_S = 1.9e9

Gathered = Counter[tuple[object, ...]]


def recorded(name: str) -> list[Record]:
    """Return a recorded log as records without key, a line each."""
    with lzma.open(FOLDER / name) as stream:
        return [Record(line.rstrip(b"\n"), "raw", 0, offset, ARRIVAL_S) for offset, line in enumerate(stream)]


def gathered(partitions: Iterable[Sequence[Record]]) -> Gathered:
    """Return the sessions of partitions, as what makes them: kind, key and every line, continuations included."""
    found: Gathered = Counter()
    for records in partitions:
        sessionizer = Sessionizer(SessionRules(), MASKS)
        sessions = []
        for record in records:
            for event in decode(record):
                sessions += sessionizer.add(event, record.offset, record.timestamp_s)
        for session in (*sessions, *sessionizer.flush()):
            lines = tuple((line.offset, line.index, line.tail, tuple(line.rest or ())) for line in session.lines)
            found[session.kind, session.key, session.late, lines] += 1
    return found


def routed(records: Sequence[Record], raw: Callable[[Record], int], count: int) -> list[list[Record]]:
    """Return `count` partitions of what routers write, of records that lie on the partitions `raw`."""
    routers: dict[int, RoutedPartition] = {}
    output: list[list[Record]] = [[] for _ in range(count)]
    for record in records:
        router = routers.get(raw(record))
        if router is None:
            router = routers[raw(record)] = RoutedPartition(
                "raw", 0, KEY_SOURCES, None, Changelog("route raw", STATE_FORMATS)
            )
        router.feed(record)
        unsaved = router.take()
        assert unsaved is not None
        (written,) = unsaved.records
        assert written.key is not None
        output[partition_of(written.key, count)].append(
            replace(record, key=written.key, headers=tuple(written.headers))
        )
    return output


def by_writer() -> Callable[[Record], int]:
    """Return a function from records, in order, to partitions by the process that wrote them."""
    newest = [0]

    def raw(record: Record) -> int:
        _, _, process, *_ = *(record.value or b"").split(b" ", 3), b"", b"", b""
        if (record.value or b"").startswith(b"20") and process.isdigit():
            newest[0] = int(process)
        return newest[0]

    return raw


def main() -> None:
    """Print the table."""
    ways: dict[str, Callable[[], Callable[[Record], int]]] = {
        "one": lambda: lambda _: 0,
        "by writer": by_writer,
        "round robin over 4": lambda: lambda record: record.offset // 50 % 4,
    }
    print(f"{'log':24} {'raw partitions':20} {'routed':>6} {'sessions':>9} {'differ':>7}")
    for name in ("nova34.log.xz", "nova34-day2.log.xz"):
        records = recorded(name)
        expected = gathered([records])
        for way, raw in ways.items():
            for count in (4, 16):
                missing = expected - gathered(routed(records, raw(), count))
                print(f"{name:24} {way:20} {count:6} {expected.total():9} {missing.total():7}")


if __name__ == "__main__":
    main()
