"""The state of an unfinished run: one safetensors file with JSON in its header, replaced whole after every epoch.

Random numbers need no saving: every epoch draws from generators seeded by the run's seed and the epoch's number.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from loggpt_stream.errors import UserError
from trainer.curve import EpochLosses

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

_FILE: Final = "state.safetensors"


@dataclass(frozen=True, slots=True)
class State:
    """A run after some epochs: weights, the best ones so far (None: they are the same), AdamW's state, the curve."""

    identity: str
    curve: tuple[EpochLosses, ...]
    weights: dict[str, Tensor]
    best: dict[str, Tensor] | None
    optimizer: dict[str, Tensor]


def save_state(directory: Path, state: State) -> None:
    """Write `state` to `directory`: all of it or nothing, whenever the process dies."""
    parts = {"weights": state.weights, "best": state.best or {}, "optimizer": state.optimizer}
    tensors = {f"{part}/{name}": tensor.contiguous() for part, named in parts.items() for name, tensor in named.items()}
    header = {"identity": state.identity, "curve": [asdict(losses) for losses in state.curve]}
    directory.mkdir(parents=True, exist_ok=True)
    new = directory / f"{_FILE}.new"
    save_file(tensors, new, metadata={"state": orjson.dumps(header).decode()})
    with new.open("rb") as stream:
        os.fsync(stream.fileno())
    new.replace(directory / _FILE)


def load_state(directory: Path) -> State | None:
    """Return what `save_state` wrote to `directory`, or None. Raises `UserError` where it is damaged."""
    file = directory / _FILE
    if not file.exists():
        return None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "best": {}, "optimizer": {}}
    try:
        with safe_open(file, framework="pt") as stream:
            header: dict[str, Any] = orjson.loads(stream.metadata()["state"])
            for key in stream.keys():  # noqa: SIM118 - not a dict
                part, _, name = key.partition("/")
                parts[part][name] = stream.get_tensor(key)
        curve = tuple(EpochLosses(**losses) for losses in header["curve"])
        return State(header["identity"], curve, parts["weights"], parts["best"] or None, parts["optimizer"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the checkpoint {file} is damaged ({error}): start afresh with --no-resume.") from error


def remove_state(directory: Path) -> None:
    """Remove the checkpoint, if there is one."""
    shutil.rmtree(directory, ignore_errors=True)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the model's weights on the CPU, tied ones once."""
    return {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}


@torch.no_grad()
def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give the model weights that `weights_of` returned."""
    for name, parameter in model.named_parameters():
        parameter.copy_(weights[name])


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors of the optimizer's state, named `parameter.entry`."""
    states: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{number}.{entry}": tensor.cpu() for number, each in states.items() for entry, tensor in each.items()}


def put_optimizer_tensors(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give the optimizer the tensors that `optimizer_tensors` returned."""
    state = optimizer.state_dict()
    for name, tensor in tensors.items():
        number, _, entry = name.partition(".")
        state["state"].setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict(state)
