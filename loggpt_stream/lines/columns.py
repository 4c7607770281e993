"""Tables of JSON-ready values, stored column by column: named fields with defaults, in few bytes.

A table names its fields and their defaults once, in order:

    LINKS = {"request": "", "instance": ""}
    stored = table(LINKS, [("req-1", "vm-1"), ("req-2", "vm-2")])
    for request, instance in rows(LINKS, stored): ...

A column is left out where every row has the default, is an object (row number to value) where most rows have it, and a
list otherwise. Whoever reads ignores columns that it does not know, and takes the default for those that are absent:
so a field can be added, and both the version before and the version after read what the other wrote.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Table = dict[str, Any]
Fields = dict[str, Any]
Column = list[Any] | dict[str, Any]

# The number of rows. No field is called so.
ROWS: Final = "rows"
# An object costs about so many times the bytes of a list for each value in it.
_SPARSE: Final = 4


def table(fields: Fields, values: Iterable[Sequence[Any]]) -> Table:
    """Return rows, each with the values of `fields` in that order, as a table; an empty one where there is none."""
    found = list(values)
    if not found:
        return {}
    return of_columns(fields, len(found), dict(zip(fields, map(list, zip(*found, strict=True)), strict=True)))


def of_columns(fields: Fields, count: int, columns: Mapping[str, list[Any]]) -> Table:
    """Return `count` rows as a table; `columns` has the values of some of the `fields`, row by row."""
    if not count:
        return {}
    packed = {name: _packed(values, fields[name]) for name, values in columns.items()}
    return {ROWS: count} | {name: column for name, column in packed.items() if column is not None}


def rows(fields: Fields, stored: Table) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a table, each with the values of `fields` in that order.

    Raises `ValueError`, `TypeError` or `IndexError` where it is no table, or a column has another length.
    """
    return zip(*(column(fields, stored, name) for name in fields), strict=True)


def table_of_lists(fields: Fields, names: Sequence[str], values: Iterable[Sequence[Any]]) -> Table:
    """Return rows that have some of the `fields`, each value at the position of its name in `names`, as a table."""
    return table({name: fields[name] for name in names}, values)


def lists_of_table(fields: Fields, names: Sequence[str], stored: Table) -> list[list[Any]]:
    """Return the rows of a table as `table_of_lists` takes them. Raises as `rows` does."""
    return [list(row) for row in rows({name: fields[name] for name in names}, stored)]


def column(fields: Fields, stored: Table, name: str) -> list[Any]:
    """Return one column of a table, with a value for each row. Raises as `rows` does."""
    if not isinstance(stored, dict):
        raise TypeError(f"{stored!r} is no table")
    count = stored.get(ROWS, 0)
    values = stored.get(name)
    if isinstance(values, list):
        if len(values) != count:
            raise ValueError(f"{len(values)} values of {name} for {count} rows")
        return values
    full = [fields[name]] * count
    for place, value in (values or {}).items():
        full[int(place)] = value
    return full


def _packed(values: list[Any], default: object) -> Column | None:
    """Return a column in its shortest form; None where all is as by default."""
    others = len(values) - values.count(default)
    if not others:
        return None
    if others * _SPARSE < len(values):
        return {str(place): value for place, value in enumerate(values) if value != default}
    return values
