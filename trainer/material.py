"""Sessions → a fitted tokenizer, and windows of token ids packed into flat tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from loggpt_stream.model.line_frequencies import EMPTY, LineFrequencies
from loggpt_stream.model.sequence import END_OF_SESSION, Passes, windows
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.sequence import Window
    from trainer.settings import TokenizerSettings
    from trainer.world import World

# What a token is to the loss. Given tokens (the first, and context of an end that is scored by itself) are not learned.
GIVEN: Final = 0
SEPARATOR: Final = 1
LINE: Final = 2
END: Final = 3
DISTINCT_LINE: Final = 4


@dataclass(frozen=True, slots=True)
class Packed:
    """Windows of one split, one after the other, all int64.

    ids_N: token ids. role_N: GIVEN, SEPARATOR, LINE, END, DISTINCT_LINE. starts_W: where each window starts, at last N.
    learned_W, lines_W: learned tokens and lines of each window. count: [sessions].
    """

    ids_N: Tensor
    role_N: Tensor
    starts_W: Tensor
    learned_W: Tensor
    lines_W: Tensor
    count: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Return all of it."""
        return (self.ids_N, self.role_N, self.starts_W, self.learned_W, self.lines_W, self.count)

    @property
    def sessions(self) -> int:
        """Return how many sessions there are."""
        return int(self.count)

    @property
    def windows(self) -> int:
        """Return how many windows there are."""
        return len(self.learned_W)

    @property
    def lines(self) -> int:
        """Return how many lines there are."""
        return int(self.lines_W.sum())

    @property
    def tokens(self) -> int:
        """Return how many tokens are learned, or count in the loss."""
        return int(self.learned_W.sum())

    @property
    def lengths_W(self) -> Tensor:  # noqa: N802 - one length a window
        """Return the number of tokens of each window."""
        return self.starts_W.diff()

    def tokens_of(self, chosen: Sequence[int]) -> int:
        """Return how many tokens are learned from the windows `chosen`."""
        return int(self.learned_W[chosen].sum())

    def lines_of(self, chosen: Sequence[int]) -> int:
        """Return how many lines the windows `chosen` have."""
        return int(self.lines_W[chosen].sum())

    def rows(self, chosen: Sequence[int], pad_id: int) -> tuple[Tensor, Tensor]:
        """Return `ids_BT` and `role_BT` of the windows `chosen`, padded at the right (padding is GIVEN)."""
        parts = [slice(int(self.starts_W[i]), int(self.starts_W[i + 1])) for i in chosen]
        longest = max(part.stop - part.start for part in parts)
        ids_BT = torch.full((len(parts), longest), pad_id, dtype=torch.int64)
        role_BT = torch.full((len(parts), longest), GIVEN, dtype=torch.int64)
        for row, part in enumerate(parts):
            ids_BT[row, : part.stop - part.start] = self.ids_N[part]
            role_BT[row, : part.stop - part.start] = self.role_N[part]
        return ids_BT, role_BT


@dataclass(frozen=True, slots=True)
class Material:
    """All that learning needs of the data, the same in every process."""

    train: Packed
    validation: Packed
    vocabulary_size: int
    pad_id: int
    end_id: int

    def data_id(self) -> str:
        """Return 16 hex digits that name this data."""
        found = hashlib.blake2b(f"{self.vocabulary_size} {self.pad_id} {self.end_id}".encode(), digest_size=8)
        for packed in (self.train, self.validation):
            for tensor in packed.tensors:
                found.update(tensor.numpy().tobytes())
        return found.hexdigest()


def fit_tokenizer(train: Iterable[Session], settings: TokenizerSettings) -> LineTokenizer:
    """Return a tokenizer fitted to the lines of the training sessions."""
    fitted = train_tokenizer(
        (text for session in train for text in session.texts),
        vocabulary_size=settings.vocabulary_size,
        piece_vocabulary_size=settings.piece_vocabulary_size,
    )
    return LineTokenizer(fitted, max_line_tokens=settings.max_line_tokens)


def count_lines(train: Sequence[Session]) -> dict[str, LineFrequencies]:
    """Return the frequencies of each kind of the training sessions."""
    kinds = sorted({str(session.kind) for session in train})
    return {kind: LineFrequencies.of([session for session in train if session.kind == kind]) for kind in kinds}


def make_material(
    train: Sequence[Session],
    validation: Sequence[Session],
    tokenizer: LineTokenizer,
    context_tokens: int,
    *,
    passes: Passes = Passes(),  # noqa: B008 - frozen
    line_frequencies: Mapping[str, LineFrequencies] | None = None,
) -> Material:
    """Return the windows of both splits. `line_frequencies`: of `train`, where they were counted before."""
    known = count_lines(train) if line_frequencies is None else line_frequencies

    def cut(session: Session) -> list[Window]:
        frequencies = known.get(session.kind, EMPTY)
        # Lines that no training session has are nothing the model could know better: they would only hide, in the
        # validation loss, how well it knows the others.
        lines = [text for text in session.texts if text in frequencies]
        return windows(session.kind, lines, tokenizer, context_tokens, passes=passes, frequencies=frequencies)

    return Material(
        _packed(train, cut),
        _packed(validation, cut),
        tokenizer.vocabulary_size,
        tokenizer.pad_id,
        tokenizer.end_id,
    )


def share_material(world: World, material: Material | None) -> Material:
    """Return the first process's material in every process; the others give None.

    Raises `SystemExit` in the others where the first one, which has said why, called it off with `world.share([])`.
    """
    tensors = None
    if material is not None:
        sizes = torch.tensor([material.vocabulary_size, material.pad_id, material.end_id])
        tensors = [sizes, *material.train.tensors, *material.validation.tensors]
    shared = world.share(tensors)
    if not shared:
        raise SystemExit(2)
    sizes, *parts = shared
    vocabulary_size, pad_id, end_id = (int(size) for size in sizes)
    half = len(parts) // 2
    return Material(Packed(*parts[:half]), Packed(*parts[half:]), vocabulary_size, pad_id, end_id)


def _packed(sessions: Sequence[Session], cut: Callable[[Session], Sequence[Window]]) -> Packed:
    ids: list[int] = []
    roles: list[int] = []
    starts, learned, lines = [0], [], []
    for session in sessions:
        for window in cut(session):
            window_roles = list(_roles(window))
            ids += window.ids_T
            roles += window_roles
            starts.append(len(ids))
            learned.append(sum(role != GIVEN for role in window_roles))
            lines.append(len({whose for whose in window.line_T if whose >= 0}) if window.part == "lines" else 0)
    parts = (ids, roles, starts, learned, lines, [len(sessions)])
    return Packed(*(torch.tensor(values, dtype=torch.int64) for values in parts))


def _roles(window: Window) -> Iterator[int]:
    # The lines of a tail are context, learned elsewhere. Those of a line set are learned, but are no lines of the log.
    for place, whose in enumerate(window.line_T):
        if whose == END_OF_SESSION:
            yield END
        elif window.part == "tail" or place == 0 or (window.part == "line_set" and place == 1):
            yield GIVEN
        elif whose >= 0:
            yield LINE if window.part == "lines" else DISTINCT_LINE
        else:
            yield SEPARATOR
