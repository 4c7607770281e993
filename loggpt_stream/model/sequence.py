"""A session as token sequences: `<|kind|> <|LOG|> line <|LOG|> line … <|END|>`, cut into windows of the context.

Windows break only between lines, and each starts afresh with the kind token. If the whole session does not fit one
window, `<|END|>` is scored in a window of its own over the session's tail: it needs all the context that fits.
`line_T` says whose loss a token's loss is: the index of a line, END_OF_SESSION, or NOBODY (kind, separator, padding,
tail lines that another window scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loggpt_stream.model.tokenizer import LineTokenizer

NOBODY: Final = -1
END_OF_SESSION: Final = -2


@dataclass(frozen=True, slots=True)
class Window:
    """One model input: token ids, and for each whose loss it is (line index, END_OF_SESSION or NOBODY)."""

    ids_T: list[int]
    line_T: list[int]


def windows(kind: str, lines: Sequence[str], tokenizer: LineTokenizer, context_tokens: int) -> list[Window]:
    """Return the windows of a session. Each line and the end are scored in exactly one of them.

    Raises `ValueError` where the context cannot hold one whole line.
    """
    if context_tokens < tokenizer.max_line_tokens + 3:
        raise ValueError(f"context of {context_tokens} tokens cannot hold a line of {tokenizer.max_line_tokens}")
    start = tokenizer.kind_ids[kind]
    encoded = [tokenizer.encode(line) for line in lines]
    found: list[Window] = []
    ids, whose = [start], [NOBODY]
    for index, line_ids in enumerate(encoded):
        if len(ids) + 1 + len(line_ids) > context_tokens:
            found.append(Window(ids, whose))
            ids, whose = [start], [NOBODY]
        ids.append(tokenizer.log_id)
        whose.append(NOBODY)
        ids.extend(line_ids)
        whose.extend([index] * len(line_ids))
    if not found and len(ids) < context_tokens:
        return [Window([*ids, tokenizer.end_id], [*whose, END_OF_SESSION])]
    found.append(Window(ids, whose))
    tail: list[int] = [tokenizer.end_id]
    for line_ids in reversed(encoded):
        if len(tail) + 2 + len(line_ids) > context_tokens:
            break
        tail[:0] = [tokenizer.log_id, *line_ids]
    found.append(Window([start, *tail], [NOBODY] * len(tail) + [END_OF_SESSION]))
    return found
