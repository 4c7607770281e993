"""LogGPT's reinforcement fine-tuning (Han et al., LogGPT: Log Anomaly Detection via GPT, 2023), to see whether it pays.

The model reads the first part of a window and writes the rest itself. Behind what it wrote, each token that was really
observed is a hit if it is among the TOP_K likeliest, else a miss. The window's reward is the share of hits less that
of misses, and the loss is minus the reward times the log-probability of the observed tokens.

Two changes against the paper: K is that of `top_k_misses`, not half of the vocabulary, of which everything is a hit;
and a step takes all windows of one length that fit a batch, not a single sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from loggpt_stream.model.losses import token_losses, token_ranks
from loggpt_stream.model.sequence import windows
from loggpt_stream.model.statistics import TOP_K

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.scoring import Scorer

# So much of a window is given to the model.
_GIVEN_SHARE: Final = 0.2
_BATCH_TOKENS: Final = 8192


def reinforce(scorer: Scorer, sessions: Sequence[Session], *, learning_rate: float, seed: int) -> None:
    """Fine-tune the model of a scorer that has scored nothing yet, in one episode over `sessions`."""
    torch.manual_seed(seed)
    model = scorer.model
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for ids_BT in _batches(scorer, sessions):
        given = max(2, int(_GIVEN_SHARE * ids_BT.shape[1]))
        written_BT = _written(model, ids_BT, given)
        model.train()
        logits_BTV = model(written_BT).logits
        # Row t of the logits, behind what was written up to t, is about the observed token t + 1.
        losses_BT = token_losses(logits_BTV, ids_BT)[:, given:]
        hit_BT = token_ranks(logits_BTV.detach(), ids_BT)[:, given:] < TOP_K
        reward_B = 2 * hit_BT.float().mean(dim=1) - 1
        optimizer.zero_grad()
        (reward_B * losses_BT.mean(dim=1)).mean().backward()
        optimizer.step()
    model.train(mode=False)


@torch.no_grad()
def _written(model: GPT2LMHeadModel, ids_BT: Tensor, given: int) -> Tensor:
    """Return the first `given` tokens of each window, and behind them what the model writes."""
    model.train(mode=False)
    written_BT = ids_BT[:, :given]
    while written_BT.shape[1] < ids_BT.shape[1]:
        chances_BV = model(written_BT).logits[:, -1].softmax(dim=-1)
        written_BT = torch.cat([written_BT, torch.multinomial(chances_BV, 1)], dim=1)
    return written_BT


def _batches(scorer: Scorer, sessions: Sequence[Session]) -> Iterator[Tensor]:
    """Yield the distinct windows of the sessions in random order, those of one length together (ids_BT)."""
    by_length: dict[int, dict[tuple[int, ...], None]] = {}
    for session in sessions:
        frequencies = scorer.line_frequencies[session.kind]
        cut = windows(
            session.kind,
            session.texts,
            scorer.tokenizer,
            scorer.context_tokens,
            passes=scorer.passes,
            frequencies=frequencies,
        )
        for window in cut:
            # Of fewer tokens, there is nothing to write and then to foretell.
            if len(window.ids_T) > 3:  # noqa: PLR2004 - two given, one written, one foretold
                by_length.setdefault(len(window.ids_T), {})[window.ids_T] = None
    batches = []
    for length, found in by_length.items():
        rows = torch.tensor(list(found), device=scorer.device)
        rows = rows[torch.randperm(len(rows))]
        batches += list(rows.split(max(1, _BATCH_TOKENS // length)))
    for place in torch.randperm(len(batches)).tolist():
        yield batches[place]
