"""Closed sessions → losses → named statistics, in batches bounded by tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from loggpt_stream.model.losses import token_losses
from loggpt_stream.model.sequence import END_OF_SESSION, Window, windows
from loggpt_stream.model.statistics import session_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import GPT2LMHeadModel

    from loggpt_stream.model.tokenizer import LineTokenizer


class Scorable(Protocol):
    """What is scored: the kind of a session and the masked text of its lines."""

    @property
    def kind(self) -> str:
        """`explicit`, `instance`, `request` or `window`."""

    @property
    def texts(self) -> list[str]:
        """Masked text of each line, in order."""


@dataclass(frozen=True, slots=True)
class SessionScore:
    """The losses of one session, in nats.

    line_losses_L: summed over the tokens of each line. token_losses: per line, one value a token. end_loss: of
    `<|END|>` after the last line. statistics: by name, see `session_statistics`.
    """

    line_losses_L: np.ndarray
    token_losses: list[np.ndarray]
    end_loss: float
    statistics: dict[str, float]


class AbandonedError(Exception):
    """Nobody waits for the scores any more."""


class Scorer:
    """Scores sessions with one model on one device, from one thread (`windows` may have another).

    Where another thread sets `abandoned`, scoring ends after the batch in hand, with an `AbandonedError`.
    """

    def __init__(
        self, model: GPT2LMHeadModel, tokenizer: LineTokenizer, device: torch.device, *, batch_tokens: int = 8192
    ) -> None:
        """Move `model` to `device` for inference. A batch holds at most `batch_tokens` tokens, padding included."""
        self.model = model.train(mode=False)
        torch.nn.Module.to(model, device)  # transformers' own `to` is typed for its conversions
        self.tokenizer = tokenizer
        self.device = device
        self.batch_tokens = batch_tokens
        self.context_tokens = int(model.config.n_positions)
        self.abandoned = False

    def windows(self, session: Scorable) -> list[Window]:
        """Return the token windows of a session."""
        return windows(session.kind, session.texts, self.tokenizer, self.context_tokens)

    def score(self, sessions: Sequence[Scorable]) -> list[SessionScore]:
        """Return one score for each session, in order. The same session scores the same whatever it is batched with.

        Raises `FloatingPointError` where the model gives a loss that is not finite.
        """
        return self.score_windows([self.windows(session) for session in sessions])

    def score_windows(self, cut: Sequence[Sequence[Window]]) -> list[SessionScore]:
        """Return one score for the windows of each session. This part may run on another thread than `windows`."""
        losses = iter(self._window_losses([window for of_session in cut for window in of_session]))
        return [_session_score(of_session, [next(losses) for _ in of_session]) for of_session in cut]

    @torch.inference_mode()
    def _window_losses(self, flat: Sequence[Window]) -> list[np.ndarray]:
        """Return the loss of each token of each window."""
        found: list[np.ndarray] = [np.empty(0)] * len(flat)
        for batch in self._batches([len(window.ids_T) for window in flat]):
            if self.abandoned:
                raise AbandonedError
            longest = max(len(flat[i].ids_T) for i in batch)
            ids_BT = torch.full((len(batch), longest), self.tokenizer.pad_id, dtype=torch.long)
            for row, i in enumerate(batch):
                ids_BT[row, : len(flat[i].ids_T)] = torch.tensor(flat[i].ids_T)
            ids_BT = ids_BT.to(self.device, non_blocking=True)
            # Padding stands at the right and attention is causal: no token sees it, so no mask is needed.
            losses_BT = token_losses(self.model(ids_BT).logits, ids_BT).cpu().numpy()
            for row, i in enumerate(batch):
                found[i] = losses_BT[row, : len(flat[i].ids_T)]
        for losses_T in found:
            if not np.isfinite(losses_T).all():
                raise FloatingPointError("the model gave a loss that is not finite: its weights are damaged")
        return found

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield indices, windows of like length together, so that padding is little."""
        batch: list[int] = []
        for i in sorted(range(len(lengths)), key=lengths.__getitem__):
            if batch and (len(batch) + 1) * lengths[i] > self.batch_tokens:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch


def _session_score(of_session: Sequence[Window], losses: Sequence[np.ndarray]) -> SessionScore:
    whose_N = np.concatenate([np.asarray(window.line_T) for window in of_session])
    losses_N = np.concatenate(losses).astype(np.float64)
    of_lines = whose_N >= 0
    counts_L = np.bincount(whose_N[of_lines])
    # Lines are scored once each and in order, so their tokens stand together and in order.
    per_line = np.split(losses_N[of_lines], np.cumsum(counts_L)[:-1])
    line_losses_L = np.array([line.sum() for line in per_line])
    end_loss = float(losses_N[whose_N == END_OF_SESSION].item())
    return SessionScore(line_losses_L, per_line, end_loss, session_statistics(line_losses_L, end_loss))
