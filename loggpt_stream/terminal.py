"""Text for a terminal: what others wrote is made harmless, what we write is wrapped and coloured."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOURS: Final = {"green": 32, "yellow": 33, "red": 31, "dim": 2, "bold": 1}
_WIDTH_OF_A_FILE: Final = 160
_WIDEST: Final = 140

LogFormat = Literal["auto", "console", "json"]


def shown(text: str, *, keep: str = "") -> str:
    r"""Return text for a terminal: what is not printable as its escape (`\x1b`), but for the characters in `keep`.

    Log lines, names of topics and answers of a broker are written by strangers. Escape sequences (ECMA-48), C1 controls
    and bidirectional overrides (Unicode TR 36) could hide or forge what stands on the screen.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def shown_json(value: bytes) -> bytes:
    r"""Return JSON for a terminal: the same value, with `\u` escapes for what is not printable."""
    text = value.decode()
    if text.isprintable():
        return value
    return re.sub(r"[^ -~]", lambda found: found[0] if found[0].isprintable() else _escape(found[0]), text).encode()


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def printable(text: str | bytes, max_chars: int | None = None) -> str:
    r"""Return text with everything escaped that a terminal could act on, and cut to `max_chars`.

    Escape sequences, line ends, invisible and direction-changing characters, and bytes that are no UTF-8 come out as
    `\x1b`, `\n`, `\u202e`, `\xff`.
    """
    if isinstance(text, bytes):
        # A character has at most four bytes: no need to look at a megabyte for a line of it.
        text = (text if max_chars is None else text[: 4 * max_chars + 4]).decode(errors="surrogateescape")
    pieces: list[str] = []
    used = 0
    for character in text:
        piece = _escaped(character)
        used += len(piece)
        if max_chars is not None and used > max_chars:
            while pieces and used - len(piece) > max_chars - 1:
                used -= len(pieces.pop())
            return "".join([*pieces, "…"])
        pieces.append(piece)
    return "".join(pieces)


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # noqa: PLR2004 - PEP 383: a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def width() -> int:
    """Return how many characters a line may have."""
    if not sys.stdout.isatty():
        return _WIDTH_OF_A_FILE
    return max(60, min(_WIDEST, shutil.get_terminal_size().columns))


def coloured(text: str, colour: str) -> str:
    """Return text in a colour where standard output is a terminal, and NO_COLOR is not set (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def aligned(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Return each row as a line, its cells in columns as wide as the widest; those of columns `right` to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:>{columns}}" if number in right else f"{cell:<{columns}}"
            for number, (cell, columns) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def wrapped(text: str, indent: int, columns: int) -> str:
    """Return text in lines of at most `columns`, all but the first indented; words (paths, commands) stay whole."""
    lines = textwrap.wrap(
        text, max(20, columns - indent), break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
    return ("\n" + " " * indent).join(lines)
