"""Pieces of the reference pages: Markdown as mkdocs-material reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def page(title: str, what: str, *parts: str) -> str:
    """Return a whole page. `what`: one sentence on what it is."""
    note = "Generated from the code: do not edit; `make reference` writes it."
    return "\n\n".join((f"# {title}", f"{what} {note}", *(part for part in parts if part))) + "\n"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; line ends in a cell become breaks."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(_cell(each) for each in line)} |" for line in lines)


def code(text: object) -> str:
    """Return text as code, on one line."""
    return f"`{text}`"


def codes(texts: Iterable[object]) -> str:
    """Return texts as code, with commas between them."""
    return ", ".join(map(code, texts))


def prose(text: str) -> str:
    """Return text that Markdown and HTML leave as it is, but for what it marks as code and its links."""
    pieces = text.split("`")
    pieces[::2] = [piece.replace("*", "\\*").replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)


def sentence(text: str) -> str:
    """Return a sentence part as a sentence: a capital first, a full stop at the end."""
    return prose(text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else "."))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
