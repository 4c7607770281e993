"""Logits → losses: the one place where next-token losses are computed, for training and scoring alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def token_losses(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Return `losses_BT`, the next-token loss of each token in nats: -log p(ids[t] | ids[:t]).

    The logits at position t-1 predict the token at position t, so `losses[:, t]` comes from `logits[:, t-1]`. The first
    token is given, not predicted: its loss is 0.
    """
    batch, length, vocabulary = logits_BTV.shape
    if ids_BT.shape != (batch, length):
        raise ValueError(f"ids {tuple(ids_BT.shape)} do not belong to logits {tuple(logits_BTV.shape)}")
    predicted = functional.cross_entropy(
        logits_BTV[:, :-1].reshape(-1, vocabulary).float(), ids_BT[:, 1:].reshape(-1), reduction="none"
    ).view(batch, length - 1)
    losses_BT = torch.cat([predicted.new_zeros(batch, 1), predicted], dim=1)
    if losses_BT.shape != ids_BT.shape:
        raise AssertionError(f"losses {tuple(losses_BT.shape)} for ids {tuple(ids_BT.shape)}")
    return losses_BT


def token_ranks(logits_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    """Return `ranks_BT`: how many tokens the model held for likelier than the one that came. The first token's is 0."""
    chosen_BT1 = logits_BTV[:, :-1].gather(2, ids_BT[:, 1:, None])
    ranks = (logits_BTV[:, :-1] > chosen_BT1).sum(dim=-1)
    return torch.cat([ranks.new_zeros(ids_BT.shape[0], 1), ranks], dim=1)
