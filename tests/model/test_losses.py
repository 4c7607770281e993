"""Logits to losses: the shift by one, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from loggpt_stream.model.losses import token_losses, token_ranks


def test_the_loss_of_a_token_comes_from_the_logits_one_place_before_it() -> None:
    # A vocabulary of two. Position 0 says: token 1 is three times as likely as token 0 (logits 0 and ln 3).
    # Position 1 says: both are equally likely. Position 2 predicts nothing that is there.
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0], [100.0, -100.0]]])
    losses = token_losses(logits, torch.tensor([[0, 1, 0]]))
    assert losses.shape == (1, 3)
    assert losses[0].tolist() == pytest.approx([0.0, -math.log(3 / 4), -math.log(1 / 2)], abs=1e-6)


def test_the_same_tokens_in_another_row_have_the_same_losses() -> None:
    torch.manual_seed(1)
    logits = torch.randn(1, 5, 7)
    ids = torch.randint(0, 7, (1, 5))
    alone = token_losses(logits, ids)
    beside = token_losses(torch.cat([torch.randn(1, 5, 7), logits]), torch.cat([torch.zeros_like(ids), ids]))
    assert torch.equal(alone[0], beside[1])


def test_ids_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="do not belong"):
        token_losses(torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long))


def test_the_rank_of_a_token_is_how_many_were_likelier_one_place_before_it() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0], [0.0, 5.0, 5.0], [9.0, 9.0, 9.0]]])
    assert token_ranks(logits, torch.tensor([[2, 1, 0]])).tolist() == [[0, 2, 2]]
    assert token_ranks(logits, torch.tensor([[0, 0, 1]])).tolist() == [[0, 0, 0]]
