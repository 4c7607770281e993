"""Closed sessions → losses → named statistics, in batches bounded by tokens."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
import torch

from loggpt_stream.errors import UserError
from loggpt_stream.logs import get_logger
from loggpt_stream.model.line_frequencies import EMPTY
from loggpt_stream.model.losses import token_losses, token_ranks
from loggpt_stream.model.sequence import END_OF_SESSION, Passes, Window, windows
from loggpt_stream.model.session_score import SessionScore
from loggpt_stream.model.statistics import (
    LENGTH,
    LINE_STATISTICS,
    MODEL_STATISTICS,
    TOP_K,
    LineReading,
    ModelReading,
    computed,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import GPT2LMHeadModel

    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.tokenizer import LineTokenizer

log = get_logger(__name__)

_CPU: Final = torch.device("cpu")
_CPU_IS_FULL: Final = (
    "this machine has not enough memory for a batch of {} tokens: lower batch_tokens, or give the process more memory"
)
# Remembered windows hold at most so many tokens: about 100 MB.
_MEMO_TOKENS: Final = 2_000_000


class Scorable(Protocol):
    """What is scored: the kind of a session, the masked text of its lines and their times."""

    @property
    def kind(self) -> str:
        """A `SessionKind`."""

    @property
    def texts(self) -> list[str]:
        """Masked text of each line, in order."""

    @property
    def times_s(self) -> list[float]:
        """Time of each line (epoch seconds), in order."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A session ready for the model: its windows, its line set, and the statistics that need no model.

    untimely: index of the line that came latest for such a line, or None.
    """

    windows: list[Window]
    line_set: list[str]
    from_lines: dict[str, float]
    untimely: int | None

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads for it."""
        return sum(len(window.ids_T) for window in self.windows)


class AbandonedError(Exception):
    """Nobody waits for the scores any more."""


class _Read(NamedTuple):
    """What the model said of a window: the loss (nats) and the rank (0: most likely) of each token."""

    losses_T: np.ndarray
    ranks_T: np.ndarray | None


class Scorer:
    """Scores sessions with one model on one device, from one thread (`prepare` may have another).

    Windows are remembered: whole blocks of lines come again and again, and are read once. Where another thread sets
    `abandoned`, scoring ends after the batch in hand, with an `AbandonedError`.

    Where the device has not enough memory, batches become half as large, and if it has none for a single window the
    model moves to the CPU, for good; `batch_tokens` and `device` say how it stands. Scores do not depend on it.
    """

    def __init__(
        self,
        model: GPT2LMHeadModel,
        tokenizer: LineTokenizer,
        device: torch.device,
        *,
        line_frequencies: Mapping[str, LineFrequencies],
        passes: Passes,
        batch_tokens: int = 8192,
        ranks: bool = False,
    ) -> None:
        """Move `model` to `device` for inference. A batch holds at most `batch_tokens` tokens, padding included.

        line_frequencies: by session kind. ranks: whether `top_k_misses` is wanted, which costs a tenth of the speed.
        """
        self.model = model.train(mode=False)
        torch.nn.Module.to(model, device)  # transformers' own `to` is typed for its conversions
        self.tokenizer = tokenizer
        self.device = device
        self.line_frequencies = dict(line_frequencies)
        self.passes = passes
        self.batch_tokens = self._wanted_tokens = batch_tokens
        self.ranks = ranks
        self.context_tokens = int(model.config.n_positions)
        self.abandoned = False
        self._memo: OrderedDict[tuple[int, ...], _Read] = OrderedDict()
        self._memo_tokens = 0

    def prepare(self, session: Scorable) -> Prepared:
        """Return a session's windows, and what needs no model."""
        frequencies = self.line_frequencies.get(session.kind, EMPTY)
        texts = session.texts
        cut = windows(
            session.kind, texts, self.tokenizer, self.context_tokens, passes=self.passes, frequencies=frequencies
        )
        line_set = frequencies.line_set(texts) if self.passes.line_set else []
        return Prepared(cut, line_set, *self.from_lines(session))

    def from_lines(self, session: Scorable) -> tuple[dict[str, float], int | None]:
        """Return a session's statistics that need no model, and the index of the line at the most unusual time."""
        frequencies = self.line_frequencies.get(session.kind, EMPTY)
        texts = session.texts
        untimely, at = frequencies.untimely(texts, session.times_s)
        return computed(LINE_STATISTICS, LineReading(frequencies, texts, untimely)), at

    def score(self, sessions: Sequence[Scorable]) -> list[SessionScore]:
        """Return one score for each session, in order. The same session scores the same whatever it is batched with.

        Raises `FloatingPointError` where the model gives a loss that is not finite, and `UserError` where the CPU's
        memory does not do for a batch.
        """
        return self.score_prepared([self.prepare(session) for session in sessions])

    def score_prepared(self, prepared: Sequence[Prepared]) -> list[SessionScore]:
        """Return one score for each prepared session. This part may run on another thread than `prepare`."""
        read = self.read([window for each in prepared for window in each.windows])
        return [_session_score(each, [read[window.ids_T] for window in each.windows]) for each in prepared]

    def read(self, wanted: Sequence[Window]) -> dict[tuple[int, ...], _Read]:
        """Return what the model says of windows, by their token ids. Raises as `score` does."""
        found: dict[tuple[int, ...], _Read] = {}
        new: dict[tuple[int, ...], None] = {}
        for window in wanted:
            known = self._memo.get(window.ids_T)
            if known is None:
                new[window.ids_T] = None
            else:
                self._memo.move_to_end(window.ids_T)
                found[window.ids_T] = known
        for ids_T, read in self._read_new(list(new)):
            if not np.isfinite(read.losses_T).all():
                raise FloatingPointError("the model gave a loss that is not finite: its weights are damaged")
            found[ids_T] = read
            self._remember(ids_T, read)
        return found

    def highest_line_loss(self, wanted: Sequence[Window]) -> float:
        """Return the loss (nats) of the most surprising line of windows; 0 without any. Raises as `score` does."""
        read = self.read(wanted)
        highest = 0.0
        for window in wanted:
            whose_T = np.asarray(window.line_T)
            of_lines = whose_T >= 0
            losses_T = read[window.ids_T].losses_T[of_lines].astype(np.float64)
            highest = max(highest, float(np.bincount(whose_T[of_lines], losses_T).max(initial=0.0)))
        return highest

    def _remember(self, ids_T: tuple[int, ...], read: _Read) -> None:
        self._memo[ids_T] = read
        self._memo_tokens += len(ids_T)
        while self._memo_tokens > _MEMO_TOKENS:
            oldest, _ = self._memo.popitem(last=False)
            self._memo_tokens -= len(oldest)

    def _read_new(self, flat: Sequence[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], _Read]]:
        """Read windows that are not remembered, those of like length together."""
        in_order = sorted(flat, key=len)
        done = 0
        while done < len(in_order):
            if self.abandoned:
                raise AbandonedError
            batch = self._next_batch(in_order, done)
            read = self._read_batch_if_it_fits(batch)
            # Only here, where no exception holds what was half done, its memory is free again.
            if read is None:
                self._use_less(batch)
                continue
            yield from zip(batch, read, strict=True)
            done += len(batch)

    def _read_batch_if_it_fits(self, batch: Sequence[tuple[int, ...]]) -> list[_Read] | None:
        try:
            return self._read_batch(batch)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if self.device.type == "cpu":
                raise UserError(_CPU_IS_FULL.format(self.batch_tokens)) from error
            return None

    @torch.inference_mode()
    def _read_batch(self, batch: Sequence[tuple[int, ...]]) -> list[_Read]:
        longest = max(map(len, batch))
        ids_BT = torch.full((len(batch), longest), self.tokenizer.pad_id, dtype=torch.long)
        for row, ids_T in enumerate(batch):
            ids_BT[row, : len(ids_T)] = torch.tensor(ids_T)
        ids_BT = ids_BT.to(self.device, non_blocking=True)
        # Padding stands at the right and attention is causal: no token sees it, so no mask is needed.
        logits_BTV = self.model(ids_BT).logits
        losses_BT = token_losses(logits_BTV, ids_BT).cpu().numpy()
        ranks_BT = token_ranks(logits_BTV, ids_BT).cpu().numpy() if self.ranks else None
        return [
            _Read(losses_BT[row, : len(ids_T)].copy(), None if ranks_BT is None else ranks_BT[row, : len(ids_T)].copy())
            for row, ids_T in enumerate(batch)
        ]

    def _use_less(self, batch: Sequence[tuple[int, ...]]) -> None:
        """Have the next batches take less of the device's memory than this one would have."""
        if len(batch) > 1:
            self.batch_tokens = len(batch) * max(map(len, batch)) // 2
        else:
            torch.nn.Module.to(self.model, _CPU)
            self.device, self.batch_tokens = _CPU, self._wanted_tokens
        torch.cuda.empty_cache()  # of blocks that do not fit what comes next; nothing where CUDA was never used
        log.warning("scorer_out_of_memory", now_device=str(self.device), now_batch_tokens=self.batch_tokens)

    def _next_batch(self, in_order: Sequence[tuple[int, ...]], start: int) -> Sequence[tuple[int, ...]]:
        """Return the next windows that fit into a batch, at least one; of like length, so that padding is little."""
        end = start + 1
        while end < len(in_order) and (end + 1 - start) * len(in_order[end]) <= self.batch_tokens:
            end += 1
        return in_order[start:end]


def _out_of_memory(error: Exception) -> bool:
    """Tell whether there was no memory: what PyTorch raises depends on who asked for it (its allocators, cuBLAS)."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC"))


def _session_score(prepared: Prepared, read: Sequence[_Read]) -> SessionScore:
    line_losses_L, per_line = _per_line(prepared, read, "lines")
    line_set_losses_D, _ = _per_line(prepared, read, "line_set")
    # The end stands last in the tail, and last in the line set's last window.
    ends = {
        window.part: float(each.losses_T[-1])
        for window, each in zip(prepared.windows, read, strict=True)
        if window.line_T[-1] == END_OF_SESSION
    }
    reading = ModelReading(
        line_losses_L,
        line_set_losses_D,
        ends.get("tail"),
        ends.get("line_set"),
        _top_k_misses(prepared, read) if read[0].ranks_T is not None else None,
    )
    statistics = computed(MODEL_STATISTICS, reading)
    return SessionScore(
        line_losses_L,
        per_line,
        {**statistics, LENGTH: float(line_losses_L.size), **prepared.from_lines},
        prepared.line_set,
        line_set_losses_D,
        prepared.untimely,
    )


def _per_line(prepared: Prepared, read: Sequence[_Read], part: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the loss of each line of a pass, and its tokens' losses, in the order of the lines."""
    chosen = [(window, each) for window, each in zip(prepared.windows, read, strict=True) if window.part == part]
    if not chosen:
        return np.empty(0), []
    whose_N = np.concatenate([np.asarray(window.line_T) for window, _ in chosen])
    losses_N = np.concatenate([each.losses_T for _, each in chosen]).astype(np.float64)
    of_lines = whose_N >= 0
    whose_N, losses_N = whose_N[of_lines], losses_N[of_lines]
    # Each line is scored once, its tokens together; unseen lines, which are read alone, stand after the others.
    order = np.argsort(whose_N, kind="stable")
    per_line = np.split(losses_N[order], np.cumsum(np.bincount(whose_N))[:-1])
    return np.array([line.sum() for line in per_line]), per_line


def _top_k_misses(prepared: Prepared, read: Sequence[_Read]) -> float:
    """Return the share of lines of which some token was not among the TOP_K likeliest (LogGPT, Han et al., 2023)."""
    missed: dict[int, bool] = {}
    for window, each in zip(prepared.windows, read, strict=True):
        if window.part == "lines" and each.ranks_T is not None:
            for whose, rank in zip(window.line_T, each.ranks_T.tolist(), strict=True):
                if whose >= 0:
                    missed[whose] = missed.get(whose, False) or rank >= TOP_K
    return sum(missed.values()) / len(missed)
