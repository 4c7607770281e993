"""The loop: epochs of AdamW steps, validation after each, early stopping, a checkpoint to go on from.

A step's batch is the same whatever the number of processes: they share its windows and add up their gradients, so that
as many processes as there are learn the same from it.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import nn

from loggpt_stream.errors import UserError
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.losses import token_losses
from trainer.checkpoint import (
    State,
    load_state,
    optimizer_tensors,
    put_optimizer_tensors,
    put_weights,
    save_state,
    weights_of,
)
from trainer.curve import EpochLosses, best_epoch, is_over, seconds
from trainer.material import END, GIVEN, LINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor
    from transformers import GPT2LMHeadModel

    from loggpt_stream.model.shape import ModelShape
    from trainer.material import Material, Packed
    from trainer.progress import TrainingProgress
    from trainer.settings import TrainingSettings
    from trainer.world import World

_BETAS: Final = (0.9, 0.95)
_LAST_RATE: Final = 0.1  # of the highest learning rate, where the cosine ends
_BUCKET_WINDOWS: Final = 256
_VALIDATION_BATCH_TOKENS: Final = 8192


@dataclass(frozen=True, slots=True)
class Run:
    """What identifies and bounds one run. identity: names settings and data; a checkpoint of another is not used."""

    identity: str
    seed: int
    training: TrainingSettings
    max_s: float
    checkpoint: Path


def seed_all(*numbers: int) -> None:
    """Seed python's, numpy's and torch's generators from `numbers`."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - for whatever library draws from it
    torch.manual_seed(seed)


def fresh_model(shape: ModelShape, material: Material, seed: int) -> GPT2LMHeadModel:
    """Return a model for `material` with fresh weights, and seed the generators with `seed` alone."""
    seed_all(seed)
    return new_model(shape, vocabulary_size=material.vocabulary_size, end_id=material.end_id)


def learn(
    model: GPT2LMHeadModel, material: Material, run: Run, world: World, progress: TrainingProgress
) -> tuple[EpochLosses, ...]:
    """Train `model` in place, leave the weights of the best epoch in it, and return the learning curve.

    Goes on from the checkpoint of the same run, if there is one. Raises `UserError` where the loss stops being finite.
    """
    nn.Module.to(model, world.device)
    optimizer = torch.optim.AdamW(_parameter_groups(model, run.training.weight_decay), betas=_BETAS, fused=True)
    learner = _Learner(model, optimizer, material, run, world, progress)
    curve: tuple[EpochLosses, ...] = ()
    best: dict[str, Tensor] = {}
    state = _resumable(run, world, progress)
    if state is not None:
        progress.say(f"going on after epoch {len(state.curve)}, from {run.checkpoint}")
        curve, best = state.curve, state.best or state.weights
        put_weights(model, state.weights)
        put_optimizer_tensors(optimizer, state.optimizer)
    while not is_over(curve, epochs=run.training.epochs, patience=run.training.patience, max_s=run.max_s):
        losses = learner.epoch(len(curve) + 1, seconds(curve))
        if not math.isfinite(losses.validation_loss):
            raise UserError(
                f"the loss is no longer finite in epoch {losses.epoch}: learn more slowly, with a "
                f"--training.learning-rate below {run.training.learning_rate:g} (and --no-resume)."
            )
        curve = (*curve, losses)
        is_best = best_epoch(curve) == losses.epoch
        if is_best:
            best = weights_of(model)
        progress.epoch(losses, is_best=is_best)
        if world.first:
            weights = best if is_best else weights_of(model)
            kept = State(run.identity, curve, weights, None if is_best else best, optimizer_tensors(optimizer))
            save_state(run.checkpoint, kept)
    put_weights(model, best)
    return curve


def validate(model: GPT2LMHeadModel, packed: Packed, pad_id: int, world: World) -> tuple[float, float, float]:
    """Return the loss on `packed` in nats: per learned token, per line, and of the end per session."""
    model.train(mode=False)
    sums = torch.zeros(3, dtype=torch.float64, device=world.device)
    with torch.inference_mode():
        for batch in _by_length(packed.lengths_W.tolist(), range(packed.windows), _VALIDATION_BATCH_TOKENS):
            if mine := batch[world.rank :: world.size]:
                losses_BT, role_BT = _losses(model, packed, mine, pad_id, world.device)
                for place, counted_BT in enumerate((role_BT != GIVEN, role_BT == LINE, role_BT == END)):
                    sums[place] += losses_BT[counted_BT].double().sum()
    learned, lines, ends = (float(each) for each in world.sum(sums))
    # Of a kind that training has no session of, no line is known: only the ends are left.
    return learned / packed.tokens, lines / max(packed.lines, 1), ends / packed.sessions


@dataclass(frozen=True, slots=True)
class _Learner:
    """What every epoch works with."""

    model: GPT2LMHeadModel
    optimizer: torch.optim.Optimizer
    material: Material
    run: Run
    world: World
    progress: TrainingProgress

    def epoch(self, number: int, spent_s: float) -> EpochLosses:
        """Pass once over the training windows (or until the time is up), then validate.

        `spent_s` is how long the epochs before took.
        """
        began_s = time.monotonic()
        packed = self.material.train
        batches = list(_shuffled(packed, self.run.training.batch_tokens, self.run.seed, number))
        first_step = (number - 1) * len(batches)
        all_steps = self.run.training.epochs * len(batches)
        seed_all(self.run.seed, number, self.world.rank)  # dropout
        self.model.train()
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        tokens = mine = lines = 0
        for step, batch in enumerate(batches, first_step):
            share = self._share_done(step / all_steps, spent_s + time.monotonic() - began_s)
            sums += self._step(batch, _learning_rate(self.run.training, step, share))
            tokens += packed.tokens_of(batch)
            mine += packed.tokens_of(batch[self.world.rank :: self.world.size])
            lines += packed.lines_of(batch)
            if self.progress.due():
                now_s = time.monotonic() - began_s
                done = max((step + 1) / all_steps, share)
                self.progress.step(number, done, float(sums[0]) / mine, tokens / now_s, spent_s + now_s)
            if share >= 1:  # the time is up
                break
        self.world.sum(sums)
        trained_s = time.monotonic() - began_s
        loss, line_loss, end_loss = validate(self.model, self.material.validation, self.material.pad_id, self.world)
        return EpochLosses(
            epoch=number,
            train_loss=float(sums[0]) / tokens,
            train_line_loss=float(sums[1]) / max(lines, 1),
            validation_loss=loss,
            validation_line_loss=line_loss,
            validation_end_loss=end_loss,
            # The first process's clock counts in all of them: they must agree on when the time is up.
            seconds=float(self.world.from_first(torch.tensor([time.monotonic() - began_s], device=self.world.device))),
            tokens_per_s=tokens / trained_s,
        )

    def _step(self, batch: list[int], learning_rate: float) -> Tensor:
        """Make one step with these windows. Return this process's summed losses: of all learned tokens, of lines."""
        packed, training = self.material.train, self.run.training
        sums = torch.zeros(2, dtype=torch.float64, device=self.world.device)
        self.optimizer.zero_grad(set_to_none=False)
        if mine := batch[self.world.rank :: self.world.size]:
            losses_BT, role_BT = _losses(self.model, packed, mine, self.material.pad_id, self.world.device)
            learned = losses_BT[role_BT != GIVEN].sum()
            # Divided by the tokens of the whole batch, so that the sum over processes is the mean.
            (learned / packed.tokens_of(batch)).backward()
            sums[0] = learned.detach()
            sums[1] = losses_BT.detach()[role_BT == LINE].sum()
        self._add_up_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), training.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return sums

    def _add_up_gradients(self) -> None:
        if self.world.size == 1:
            return
        parameters = list(self.model.parameters())
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        flat = self.world.sum(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        for parameter, part in zip(parameters, flat.split([each.numel() for each in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def _share_done(self, steps_share: float, spent_s: float) -> float:
        """Return how much of the run is done, by steps or, where its time is bounded, by time."""
        if math.isinf(self.run.max_s):
            return steps_share
        share = max(steps_share, spent_s / self.run.max_s)
        return float(self.world.from_first(torch.tensor([share], dtype=torch.float64, device=self.world.device)))


def _losses(
    model: GPT2LMHeadModel, packed: Packed, chosen: list[int], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return `losses_BT` and `role_BT` of the windows `chosen`."""
    ids_BT, role_BT = (tensor.to(device, non_blocking=True) for tensor in packed.rows(chosen, pad_id))
    # Padding stands at the right and attention is causal: no token sees it, so no mask is needed.
    return token_losses(model(ids_BT).logits, ids_BT), role_BT


def _resumable(run: Run, world: World, progress: TrainingProgress) -> State | None:
    """Return the checkpoint of this very run, the same in every process, or None."""
    state = load_state(run.checkpoint)
    usable = state is not None and state.identity == run.identity
    if state is not None and not usable:
        progress.say(f"starting afresh: the checkpoint {run.checkpoint} is of other settings or other sessions")
    # Where the processes do not share a file system, the first one's word counts.
    agreed = bool(world.from_first(torch.tensor([int(usable)], device=world.device)))
    if agreed and not usable:
        raise UserError(
            f"process {world.rank} cannot see the checkpoint {run.checkpoint} of process 0: put --out on a file system "
            "that all machines share, or start afresh with --no-resume."
        )
    return state if agreed else None


def _learning_rate(training: TrainingSettings, step: int, share: float) -> float:
    """Return the learning rate: a linear warm-up, then a cosine down to a tenth where `share` of the run done is 1."""
    warm = min(1.0, (step + 1) / (training.warmup_steps + 1))
    cosine = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
    return training.learning_rate * warm * cosine


def _parameter_groups(model: GPT2LMHeadModel, weight_decay: float) -> list[dict[str, object]]:
    """Return matrices with, and biases and norms without, weight decay."""
    parameters = list(model.parameters())
    return [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.dim() <= 1], "weight_decay": 0.0},
    ]


def _shuffled(packed: Packed, batch_tokens: int, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yield every window once, in batches of windows of like length; the order is drawn anew for each epoch."""
    order = np.random.default_rng([seed, epoch])
    lengths = packed.lengths_W.tolist()
    shuffled = order.permutation(packed.windows).tolist()
    batches: list[list[int]] = []
    # Sorted within buckets only: so the windows that share a batch are others in each epoch.
    for start in range(0, len(shuffled), _BUCKET_WINDOWS):
        batches += _by_length(lengths, shuffled[start : start + _BUCKET_WINDOWS], batch_tokens)
    for place in order.permutation(len(batches)).tolist():
        yield batches[place]


def _by_length(lengths: list[int], chosen: Iterable[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield `chosen` windows, those of like length together, at most `batch_tokens` at once, padding included."""
    batch: list[int] = []
    for i in sorted(chosen, key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
