"""What the state topic holds of one input partition: a snapshot, and the changes since; written and read back.

A record's value is one line of JSON that says where it belongs (generation, number, part), and then a part of a zstd
frame. Snapshot and changes are numbered from 0 within a generation, and keyed by number and part: the keys come again
in every generation, so that compaction bounds the topic. Whatever a key still has from an older generation is told by
that generation's number and passed over.

The line of JSON also says in which format the change is (`state_format`, 1 where it says nothing), and which version
wrote it. The code knows the newest format alone; a change in an older one is converted when it is read, and when it is
written while a member of the group still needs the older one. All of a generation is in one format.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from loggpt_stream import __version__
from loggpt_stream.errors import UserError
from loggpt_stream.message import Message

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

BARRIER: Final = b"barrier"
# Of changes. Version 0.1.0 writes and reads 1.
STATE_FORMAT: Final = 2
# Of the records around them: a line of JSON, and a part of a frame. It is what version 0.1.0 checks of every record,
# also of those that a newer generation has replaced: with another number there would be no way back to that version.
_RECORD_FORMAT: Final = 1
# Well below the brokers' default limit of 1 MiB for a record.
PART_BYTES: Final = 500_000
# A restart reads the snapshot and what came after it; a snapshot is written when that has grown to so many times it.
_CHANGES_PER_SNAPSHOT: Final = 4
_LEAST_BYTES: Final = 2_000_000
# What the line of JSON says: numbers, and what holds where it does not say it.
_NUMBERS: Final = ("format", "state_format", "generation", "number", "part", "parts")
_DEFAULTS: Final = {"state_format": 1, "writer": "0.1.0"}
# What a damaged or foreign frame may grow to.
_MOST_VALUE_BYTES: Final = 2**31

Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StateFormats:
    """How changes come from an older format and go back to it: pure functions, one pair for each older format."""

    from_format_1: Callable[[Change], Change]
    to_format_1: Callable[[Change], Change]


def newest_format() -> int | None:
    """Return the newest format: whoever is alone with a state topic can write it at once."""
    return STATE_FORMAT


class Changelog:
    """Numbers and packs the changes of one partition, and says when a snapshot is due.

    state_format: of the current generation; 0 where there is none yet.
    """

    def __init__(
        self,
        owner: str,
        formats: StateFormats,
        wanted_format: Callable[[], int | None] = newest_format,
        *,
        most_changes: int = 2_000,
    ) -> None:
        """Start with a snapshot due. `owner` is whose state it is: the consumer group and the input topic.

        wanted_format: tells which format to write as of now; None: that which the state is in (see `GroupVersions`).
        most_changes: between two snapshots, however small they are.
        """
        self.state_format = 0
        self._owner = owner
        self._formats = formats
        self._wanted_format = wanted_format
        self._most_changes = most_changes
        self._generation = 0
        self._number = 0
        self._snapshot_bytes = 0
        self._change_bytes = 0

    @property
    def format_due(self) -> bool:
        """Tell whether what is there is to be written anew, in another format."""
        return bool(self._generation) and self._next_format() != self.state_format

    @property
    def snapshot_due(self) -> bool:
        """Tell whether the next thing to write is a snapshot."""
        grown = self._change_bytes >= max(_LEAST_BYTES, _CHANGES_PER_SNAPSHOT * self._snapshot_bytes)
        return not self._generation or grown or self._number >= self._most_changes or self.format_due

    def _next_format(self) -> int:
        return self._wanted_format() or self.state_format or STATE_FORMAT

    def write(self, change: Change, *, snapshot: bool) -> list[Message]:
        """Return the records of the next change, or of a snapshot that replaces all before it."""
        if snapshot:
            self.state_format = self._next_format()
        frame = packed(self._formats.to_format_1(change) if self.state_format == 1 else change)
        if snapshot:
            self._generation, self._number = self._generation + 1, 0
            self._snapshot_bytes, self._change_bytes = len(frame), 0
        else:
            self._number += 1
            self._change_bytes += len(frame)
        parts = range(0, len(frame), PART_BYTES)
        return [
            Message(
                b"%d/%d" % (self._number, place),
                self._place(place, len(parts)) + b"\n" + frame[start : start + PART_BYTES],
                (),
            )
            for place, start in enumerate(parts)
        ]

    def read(self, records: Iterable[tuple[bytes | None, bytes | None]]) -> list[Change]:
        """Return the newest snapshot and the changes after it, oldest first; the next `write` goes on after them.

        records: key and value of each committed record, in order. Without any there is nothing to return. Raises
        `UserError` where something is missing, damaged or of another group: which cannot be made good by guessing.
        """
        newest: dict[bytes, tuple[Mapping[str, Any], bytes]] = {}
        for key, value in records:
            if key is None or key == BARRIER:
                continue
            if value is None:
                newest.pop(key, None)
                continue
            said, _, frame = value.partition(b"\n")
            newest[key] = self._checked(said), frame
        if not newest:
            return []
        self._generation = max(place["generation"] for place, _ in newest.values())
        current = [(place, frame) for place, frame in newest.values() if place["generation"] == self._generation]
        for place, _ in current:
            if place["state_format"] > STATE_FORMAT:
                raise newer(place["state_format"], place["writer"])
        self.state_format = current[0][0]["state_format"]
        self._number = max(place["number"] for place, _ in current)
        of_number: dict[int, dict[int, tuple[Mapping[str, Any], bytes]]] = {}
        for place, frame in current:
            of_number.setdefault(place["number"], {})[place["part"]] = place, frame
        changes = [self._unpacked(number, of_number.get(number, {})) for number in range(self._number + 1)]
        sizes = [sum(len(part[1]) for part in parts.values()) for _, parts in sorted(of_number.items())]
        self._snapshot_bytes, self._change_bytes = sizes[0], sum(sizes[1:])
        return changes

    def _place(self, part: int, parts: int) -> bytes:
        numbers = {"generation": self._generation, "number": self._number, "part": part, "parts": parts}
        said = {"format": _RECORD_FORMAT, "state_format": self.state_format, "writer": __version__}
        return orjson.dumps({**said, "owner": self._owner, **numbers})

    def _checked(self, said: bytes) -> dict[str, Any]:
        try:
            values: dict[str, Any] = _DEFAULTS | orjson.loads(said)
            numbers = {name: int(values[name]) for name in _NUMBERS}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise damaged(f"a record without place ({error!r})") from error
        if numbers["format"] != _RECORD_FORMAT:
            raise newer(numbers["format"], values["writer"])
        if values.get("owner") != self._owner:
            raise UserError(
                f"the state topic holds the state of {values.get('owner')!r}, and this is {self._owner!r}: give each "
                "consumer group and input topic a state topic of its own (state_topic)"
            )
        return values | numbers

    def _unpacked(self, number: int, parts: Mapping[int, tuple[Mapping[str, Any], bytes]]) -> Change:
        what = f"change {number} of generation {self._generation}" if number else f"snapshot {self._generation}"
        if not parts:
            raise damaged(f"{what} is missing")
        wanted = next(iter(parts.values()))[0]["parts"]
        missing = [part for part in range(wanted) if part not in parts]
        if missing:
            raise damaged(f"{what} lacks part {missing[0]} of {wanted}")
        try:
            change: Change = orjson.loads(unpacked(b"".join(parts[part][1] for part in range(wanted))))
        except (zstd.ZstdError, ValueError) as error:
            raise damaged(f"{what} cannot be read ({error})") from error
        if parts[0][0]["state_format"] != 1:
            return change
        try:
            return self._formats.from_format_1(change)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise damaged(f"{what} is none of format 1 ({error!r})") from error


def packed(change: Change) -> bytes:
    """Return a change as a zstd frame with a checksum of its content."""
    return zstd.compress(orjson.dumps(change), options={zstd.CompressionParameter.checksum_flag: 1})


def unpacked(frame: bytes) -> bytes:
    """Return what a zstd frame holds. Raises `ZstdError` or `ValueError` where it is damaged, cut or absurdly large."""
    reader = zstd.ZstdDecompressor()
    value = reader.decompress(frame, max_length=_MOST_VALUE_BYTES)
    if not reader.eof:
        raise ValueError("it is cut off, or too large")
    return value


def applied(changes: Sequence[Change], apply: Callable[[Change], None]) -> None:
    """Apply changes in order. Raises `UserError` where one does not fit what came before it."""
    for number, change in enumerate(changes):
        try:
            apply(change)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise damaged(f"change {number} does not fit those before it ({error!r})") from error


def place_from_1(change: Change) -> Change:
    """Return the fields of `place_fields` that a change of format 1 has. Daemon and router have them alike."""
    return place_fields(change["position"], change["last_record"] or None)


def place_to_1(change: Change) -> Change:
    """Return the fields of `place_fields` as a change of format 1 has them."""
    record = change.get("last_record")
    return {"position": change["position"], "last_record": record and [record["offset"], record["timestamp_ms"]]}


def place_fields(position: int, last_record: tuple[int, int] | None) -> Change:
    """Return the fields of a change that say how far reading has come: `place_of` reads them."""
    if last_record is None:
        return {"position": position}
    offset, timestamp_ms = last_record
    return {"position": position, "last_record": {"offset": offset, "timestamp_ms": timestamp_ms}}


def place_of(change: Change) -> tuple[int, tuple[int, int] | None]:
    """Return the position of the newest change, and offset and timestamp (ms) of the record before it, if it says so.

    Raises `UserError` where it says no position: that has no default.
    """
    try:
        record = change.get("last_record")
        return int(change["position"]), record and (record["offset"], record["timestamp_ms"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(f"the newest change says no position ({error!r})") from error


def newer(state_format: int, writer: str) -> UserError:
    """Return the error of state in a format that only a newer version knows."""
    return UserError(
        f"the state topic holds state of format {state_format}, which loggpt-stream {writer} wrote; this is "
        f"{__version__}, which reads formats up to {STATE_FORMAT}: nothing was changed, so run {writer} or newer again"
    )


def damaged(what: str) -> UserError:
    """Return the error of a state topic that cannot be gone on from."""
    return UserError(
        f"the state topic is damaged: {what}. Nothing was changed. Was it compacted without transactions, cut by "
        "retention (cleanup.policy must be compact alone), or written by something else? To begin anew, stop every "
        "process of the group, and delete and create the topic again (the daemon's: loggpt-stream doctor "
        "--create-topics; the router's: loggpt-stream route --create-topics). Reading then goes on at the group's "
        "committed offset: what the daemon had open is not scored, and the router may write its last records twice"
    )
