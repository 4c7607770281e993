"""Labels beside recorded logs: a CSV whose first column is the session key, or the group (explicit session id)."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, cast

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loggpt_stream.lines.session import Session

_TRUE: Final = frozenset({"1", "true", "yes"})
_FALSE: Final = frozenset({"0", "false", "no"})
_EXAMPLES: Final = 8
MAX_LABEL_BYTES: Final = 256 * 1024 * 1024  # decompressed


@dataclass(frozen=True, slots=True)
class Labels:
    """Rows of a label file by session key or group."""

    path: str
    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]

    def row(self, session: Session) -> Mapping[str, str] | None:
        """Return the row of a session: by its key, else by its group; None where it has none."""
        return self.rows.get(session.key) or (self.rows.get(session.group) if session.group else None)

    def matches(self, session: Session, where: Mapping[str, str]) -> bool:
        """Tell whether the session has a row with these values (1, true and yes are one value, 0, false and no too)."""
        row = self.row(session)
        return row is not None and all(_plain(row[column]) == _plain(value) for column, value in where.items())

    def select(self, sessions: Iterable[Session], where: Mapping[str, str]) -> list[Session]:
        """Return the sessions whose row has these values. Raises `UserError` for what is in no row."""
        self.require_values(where)
        return [session for session in sessions if self.matches(session, where)]

    def anomalous(self, session: Session, column: str) -> bool | None:
        """Return the truth of a session from `column` (1/0, true/false, yes/no), or None where it has none.

        Raises `UserError` for a value that is neither.
        """
        row = self.row(session)
        value = _plain(row[column]) if row else ""
        if not value:
            return None
        if value not in ("1", "0"):
            raise UserError(f"{self.path}: column {column}: {value!r} is neither 1 nor 0.")
        return value == "1"

    def require(self, column: str) -> None:
        """Raise `UserError` where there is no such column."""
        if column not in self.columns:
            raise UserError(f"{self.path}: no column {column!r}; there are {', '.join(self.columns)}.")

    def require_values(self, where: Mapping[str, str]) -> None:
        """Raise `UserError` where there is no such column, or where no row could have such a value in it.

        A file of nothing but good sessions is no mistake: a column of truths may lack one of the two.
        """
        for column, value in where.items():
            self.require(column)
            there = {row[column] for row in self.rows.values()}
            plain = {_plain(each) for each in there}
            if _plain(value) not in plain and not {_plain(value), *plain} <= {"1", "0", ""}:
                some = ", ".join(map(repr, sorted(there)[:_EXAMPLES])) + (", …" if len(there) > _EXAMPLES else "")
                raise UserError(f"{self.path}: no row has {value!r} as its {column}; there are {some}.")


def _plain(value: str) -> str:
    """Return "1" or "0" for a truth, however it is written, and any other value without the blanks around it."""
    value = value.strip()
    return "1" if value.lower() in _TRUE else "0" if value.lower() in _FALSE else value


def _open(path: str) -> IO[bytes]:
    if path.endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return lzma.open(path, "rb") if path.endswith(".xz") else Path(path).open("rb")


def read_labels(path: str) -> Labels:
    """Read a label CSV (plain, .gz or .xz) with a header line. Raises `UserError` where it is not one."""
    try:
        with _open(path) as stream:
            raw = stream.read(MAX_LABEL_BYTES + 1)
        if len(raw) > MAX_LABEL_BYTES:
            raise UserError(f"{path}: more than {MAX_LABEL_BYTES >> 20} MiB is no label CSV. Is it a log file?")
        reader = csv.DictReader(io.StringIO(raw.decode()))
        columns = tuple(reader.fieldnames or ())
        if not columns:
            raise UserError(f"{path}: is empty; a label CSV has a header line.")
        rows: dict[str, dict[str, str]] = {}
        for read in reader:
            row = {column: (read[column] or "").strip() for column in columns}
            key = row[columns[0]]
            if rows.setdefault(key, row) != row:
                raise UserError(f"{path}: two rows for {key!r} that differ (line {reader.line_num} is the second).")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as a label CSV ({error!r}).") from error
    return Labels(path, columns, rows)
