"""Size of the GPT: apart from the model, so that settings are read without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Size of the GPT. context_tokens is the longest window it reads; dropout is used in training only."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    context_tokens: int = 512
    dropout: float = 0.1
