"""A session as token sequences: three passes over its lines, each cut into windows that fit the model's context.

- **blocks**: every so many lines the context starts afresh; they give the loss of each line. A line of no training
  session is scored in a window of its own, so that one strange line does not poison what the next ones cost.
- **tail** (off unless wanted): the last known lines and `<|END|>`, whose loss says whether the session may end here. It
  depends on the order in which lines came, which a busy host changes; the line set's end serves better.
- **line set**: the distinct lines in order of their document frequency, and `<|END|>`. Its losses say what is missing,
  whatever the order in which the lines came.

Each window begins with the kind token; in a line set, `<|DIGEST|>` follows it. `line_T` says whose loss a token's loss
is: the index of a line (in a line set: of a distinct line), END_OF_SESSION, or NOBODY (given tokens, separators,
context).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.tokenizer import LineTokenizer

NOBODY: Final = -1
END_OF_SESSION: Final = -2

Part = Literal["lines", "tail", "line_set"]


@dataclass(frozen=True, slots=True)
class Passes:
    """How a session is read. It is part of what a model means: it only knows what it was shown.

    block_lines: the context of a line's loss starts afresh after so many. tail_lines: so many last lines are the
    context of the end's loss; 0 leaves the tail out. line_set: whether there is that pass. isolate_unseen: whether
    lines never seen are kept out of the context of others. separator: whether `<|LOG|>` stands before each line.

    Bundles and the trainer's settings have two older names, which are part of a model's fingerprint: `digest` for
    line_set, `hygiene` for isolate_unseen. `to_json` and `from_json` are the one place that knows them.
    """

    block_lines: int = 16
    tail_lines: int = 0
    line_set: bool = True
    isolate_unseen: bool = True
    separator: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return this as JSON-ready values, under the names that bundles have."""
        return {_BUNDLE_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Passes:
        """Return what `to_json` gave. Raises `TypeError` where a name is unknown."""
        return cls(**{_OWN_NAMES.get(name, name): value for name, value in values.items()})


_BUNDLE_NAMES: Final = {"line_set": "digest", "isolate_unseen": "hygiene"}
_OWN_NAMES: Final = {bundle_name: name for name, bundle_name in _BUNDLE_NAMES.items()}


@dataclass(frozen=True, slots=True)
class Window:
    """One model input: token ids, and for each whose loss it is (line index, END_OF_SESSION or NOBODY)."""

    part: Part
    ids_T: tuple[int, ...]
    line_T: tuple[int, ...]


def windows(
    kind: str,
    lines: Sequence[str],
    tokenizer: LineTokenizer,
    context_tokens: int,
    *,
    passes: Passes,
    frequencies: LineFrequencies,
) -> list[Window]:
    """Return the windows of a session. Each line, the end and each distinct line is scored in exactly one of them.

    Raises `ValueError` where the context cannot hold one whole line.
    """
    cut = _Cutter(kind, tokenizer, context_tokens, separator=passes.separator)
    known, unknown = apart(lines, passes, frequencies)
    found = cut.lines(lines, known, unknown, passes.block_lines)
    if passes.tail_lines:
        found.append(cut.tail([lines[index] for index in known[-passes.tail_lines :]]))
    if passes.line_set:
        found += cut.line_set(frequencies.line_set(lines))
    return found


def line_windows(
    kind: str,
    lines: Sequence[str],
    tokenizer: LineTokenizer,
    context_tokens: int,
    *,
    passes: Passes,
    frequencies: LineFrequencies,
) -> list[Window]:
    """Return those of a session's windows that give the loss of each line. Raises as `windows` does.

    They are causal, so the first lines of a session cost the same whatever follows them.
    """
    cut = _Cutter(kind, tokenizer, context_tokens, separator=passes.separator)
    return cut.lines(lines, *apart(lines, passes, frequencies), passes.block_lines)


def apart(lines: Sequence[str], passes: Passes, frequencies: LineFrequencies) -> tuple[list[int], list[int]]:
    """Return the indices of the lines that share blocks, and of those that are read each by itself."""
    alone = [passes.isolate_unseen and line not in frequencies for line in lines]
    return [i for i, each in enumerate(alone) if not each], [i for i, each in enumerate(alone) if each]


class _Cutter:
    """Cuts lines into windows of one kind. Raises `ValueError` where the context cannot hold one whole line."""

    def __init__(self, kind: str, tokenizer: LineTokenizer, context_tokens: int, *, separator: bool) -> None:
        if context_tokens < tokenizer.max_line_tokens + 4:
            raise ValueError(f"context of {context_tokens} tokens cannot hold a line of {tokenizer.max_line_tokens}")
        self._start = tokenizer.kind_ids[kind]
        self._tokenizer = tokenizer
        self._room = context_tokens
        self._before = (tokenizer.log_id,) if separator else ()

    def lines(
        self, lines: Sequence[str], known: Sequence[int], unknown: Sequence[int], block_lines: int
    ) -> list[Window]:
        """Return the `known` lines in blocks, then each of the `unknown` by itself."""
        found = list(self.blocks(lines, known, block_lines))
        return found + [window for index in unknown for window in self.blocks(lines, [index], 1)]

    def blocks(self, lines: Sequence[str], chosen: Sequence[int], block_lines: int) -> Iterator[Window]:
        """Yield the lines `chosen` in windows of at most `block_lines`."""
        for start in range(0, len(chosen), block_lines):
            yield from self._filled("lines", (self._start,), lines, chosen[start : start + block_lines])

    def tail(self, lines: Sequence[str]) -> Window:
        """Return as many of the last lines as there is room for, and the end."""
        tail: list[int] = []
        for line in reversed(lines):
            line_ids = (*self._before, *self._tokenizer.encode(line))
            if len(tail) + len(line_ids) + 2 > self._room:
                break
            tail[:0] = line_ids
        nobody = (NOBODY,) * (len(tail) + 1)
        return Window("tail", (self._start, *tail, self._tokenizer.end_id), (*nobody, END_OF_SESSION))

    def line_set(self, lines: Sequence[str]) -> list[Window]:
        """Return the distinct lines, and the end in the last window."""
        head = (self._start, self._tokenizer.line_set_id)
        found = list(self._filled("line_set", head, lines, range(len(lines)), reserve=1))
        last = found[-1]
        found[-1] = Window("line_set", (*last.ids_T, self._tokenizer.end_id), (*last.line_T, END_OF_SESSION))
        return found

    def _filled(
        self, part: Part, head: tuple[int, ...], lines: Sequence[str], chosen: Sequence[int], *, reserve: int = 0
    ) -> Iterator[Window]:
        """Yield windows that begin with `head` and hold `chosen` lines until the context, less `reserve`, is full."""
        ids, whose = list(head), [NOBODY] * len(head)
        for index in chosen:
            line_ids = self._tokenizer.encode(lines[index])
            if len(ids) + len(self._before) + len(line_ids) + reserve > self._room:
                yield Window(part, tuple(ids), tuple(whose))
                ids, whose = list(head), [NOBODY] * len(head)
            ids += (*self._before, *line_ids)
            whose += [NOBODY] * len(self._before) + [index] * len(line_ids)
        yield Window(part, tuple(ids), tuple(whose))
