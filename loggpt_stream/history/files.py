"""Log files → records, in time order over all files."""

from __future__ import annotations

import gzip
import heapq
import lzma
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from loggpt_stream.errors import UserError
from loggpt_stream.lines.decode import MAX_RECORD_BYTES, decode
from loggpt_stream.lines.record import Event, Record, UndecodableError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loggpt_stream.lines.shapes import Shape

STDIN: Final = "-"
_NEVER: Final = float("-inf")
_DAY_S: Final = 86_400.0  # naive times are read as UTC and may be ahead by as much as a time zone


@dataclass(slots=True)
class Reading:
    """What was read so far: records, their bytes, and how many could not be decoded, by reason."""

    records: int = 0
    bytes: int = 0
    rejected: Counter[str] = field(default_factory=Counter)


def expand(inputs: Sequence[str]) -> list[str]:
    """Return the files that `inputs` name: files as they are, directories by their files (hidden ones left out), `-`.

    Raises `UserError` for a path that is not there, or where nothing is named.
    """
    found: list[str] = []
    for name in inputs:
        path = Path(name)
        if name == STDIN or path.is_file():
            found.append(name)
        elif path.is_dir():
            found += sorted(str(file) for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
        else:
            raise UserError(f"{name}: no such file or directory. Name log files, directories of them, or - for stdin.")
    if not found:
        raise UserError(f"no log files in {', '.join(inputs) or 'nothing'}. Name files, directories, or - for stdin.")
    return found


def read_events(
    inputs: Sequence[str], reading: Reading, *, shape: Shape | None = None
) -> Iterator[tuple[Event, Record]]:
    """Yield the events of all files, merged by time; lines without a time follow the one before them.

    So do lines dated more than a day after their file was last written to.

    Undecodable records, lines longer than MAX_RECORD_BYTES among them, are counted in `reading` and left out. However
    far a file decompresses, it is never in memory as a whole. Raises `UserError` for a file that cannot be read.
    """
    with ExitStack() as stack:
        streams = [_timed(name, stack.enter_context(_open(name)), reading, shape) for name in expand(inputs)]
        for _, event, record in heapq.merge(*streams, key=lambda item: item[0]):
            yield event, record


def _timed(
    name: str, stream: IO[bytes], reading: Reading, shape: Shape | None
) -> Iterator[tuple[float, Event, Record]]:
    written_s = time.time() if name == STDIN else Path(name).stat().st_mtime
    newest_s = written_s
    ordered_s = float("-inf")
    try:
        for offset, line in enumerate(_lines(stream, reading)):
            value = line.rstrip(b"\r\n")
            reading.records += 1
            reading.bytes += len(line)
            record = Record(value, topic=name, partition=0, offset=offset, timestamp_s=newest_s)
            try:
                events = decode(record, pin=shape)
            except UndecodableError as error:
                reading.rejected[error.reason] += 1
                continue
            for event in events:
                if event.time_s > written_s + _DAY_S:
                    event = replace(event, time_s=newest_s)  # noqa: PLW2901 - no line is from after its file
                if ordered_s == _NEVER and event.time_s == written_s:
                    # Before the first line with a time: it must not stand where the file ends.
                    yield ordered_s, replace(event, time_s=0.0), record
                    continue
                newest_s = event.time_s
                ordered_s = max(ordered_s, event.time_s)
                yield ordered_s, event, record
    except (OSError, EOFError, lzma.LZMAError, zstd.ZstdError) as error:
        raise UserError(f"{name}: cannot be read ({error}). Is the file complete, and its ending right?") from error


def _lines(stream: IO[bytes], reading: Reading) -> Iterator[bytes]:
    """Yield the lines of a stream; of one that is too long its beginning, and the rest is passed over."""
    most = MAX_RECORD_BYTES + len(b"\r\n")
    while line := stream.readline(most):
        yield line
        while len(line) == most and not line.endswith(b"\n"):
            line = stream.readline(most)
            reading.bytes += len(line)


def _open(name: str) -> IO[bytes]:
    if name == STDIN:
        return sys.stdin.buffer
    try:
        match Path(name).suffix:
            case ".gz":
                return cast("IO[bytes]", gzip.open(name, "rb"))
            case ".xz":
                return lzma.open(name, "rb")
            case ".zst":
                return cast("IO[bytes]", zstd.open(name, "rb"))
            case _:
                return Path(name).open("rb")
    except OSError as error:
        raise UserError(f"{name}: cannot be opened ({error.strerror or error}).") from error
