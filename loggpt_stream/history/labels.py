"""Labels beside recorded logs: a CSV whose first column is the session key, or the group (explicit session id)."""

from __future__ import annotations

import csv
import gzip
import io
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loggpt_stream.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loggpt_stream.lines.session import Session

_TRUE: Final = frozenset({"1", "true", "yes"})
_FALSE: Final = frozenset({"0", "false", "no"})


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
        """Tell whether the session has a row with these values."""
        row = self.row(session)
        return row is not None and all(row[column] == value for column, value in where.items())

    def select(self, sessions: Iterable[Session], where: Mapping[str, str]) -> list[Session]:
        """Return the sessions whose row has these values. Raises `UserError` for a column that is not there."""
        for column in where:
            self.require(column)
        return [session for session in sessions if self.matches(session, where)]

    def anomalous(self, session: Session, column: str) -> bool | None:
        """Return the truth of a session from `column` (1/0, true/false, yes/no), or None where it has none.

        Raises `UserError` for a value that is neither.
        """
        row = self.row(session)
        value = row[column].strip().lower() if row else ""
        if not value:
            return None
        if value not in _TRUE | _FALSE:
            raise UserError(f"{self.path}: column {column}: {value!r} is neither 1 nor 0.")
        return value in _TRUE

    def require(self, column: str) -> None:
        """Raise `UserError` where there is no such column."""
        if column not in self.columns:
            raise UserError(f"{self.path}: no column {column!r}; there are {', '.join(self.columns)}.")


def read_labels(path: str) -> Labels:
    """Read a label CSV (plain, .gz or .xz) with a header line. Raises `UserError` where it is not one."""
    try:
        raw = Path(path).read_bytes()
        if path.endswith(".gz"):
            raw = gzip.decompress(raw)
        elif path.endswith(".xz"):
            raw = lzma.decompress(raw)
        reader = csv.DictReader(io.StringIO(raw.decode()))
        columns = tuple(reader.fieldnames or ())
        if not columns:
            raise UserError(f"{path}: is empty; a label CSV has a header line.")
        rows = {row[columns[0]]: row for row in reader}
    except (OSError, UnicodeDecodeError, lzma.LZMAError, IndexError) as error:
        raise UserError(f"{path}: cannot be read as a label CSV ({error!r}).") from error
    return Labels(path, columns, rows)
