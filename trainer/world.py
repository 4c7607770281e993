"""The processes that train together: one alone, or as many as torchrun started."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed

from loggpt_stream.errors import UserError
from loggpt_stream.model.gpt import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class World:
    """This process among `size`: its number (`rank`, 0 is the one that reads and writes) and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Return whether this is the process that reads and writes."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over all processes, in place, and return it."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def from_first(self, tensor: Tensor) -> Tensor:
        """Give every process the first one's `tensor`, in place, and return it."""
        if self.size > 1:
            distributed.broadcast(tensor, src=0)
        return tensor

    def share(self, tensors: Sequence[Tensor] | None) -> list[Tensor]:
        """Return the first process's tensors (int64, one dimension) in every process. The others give None."""
        if self.size == 1:
            return list(tensors or ())
        (count,) = self._numbers([len(tensors)] if tensors is not None else None, 1)
        if not count:
            return []
        lengths = self._numbers([len(tensor) for tensor in tensors] if tensors is not None else None, count)
        found = list(tensors) if tensors is not None else [torch.empty(n, dtype=torch.int64) for n in lengths]
        return [self.from_first(tensor.to(self.device)).cpu() for tensor in found]

    def _numbers(self, numbers: list[int] | None, count: int) -> list[int]:
        tensor = torch.tensor(numbers or [0] * count, dtype=torch.int64, device=self.device)
        return [int(number) for number in self.from_first(tensor).tolist()]


def _default_threads() -> int:
    """Return what OMP_NUM_THREADS says (torchrun says 1), else one thread for every two cores.

    Small models gain little from more threads, and where other work shares the cores, threads that wait for each other
    make training several times slower.
    """
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else max(1, torch.get_num_threads() // 2)


@contextmanager
def join_world(device_name: str, threads: int | None) -> Iterator[World]:
    """Join the processes that torchrun started, or be alone. Raises `UserError` for a device that is not there."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = choose_device(device_name)
    if device.type == "cuda":
        # Each process of a machine takes the GPU of its number there.
        index = device.index if ":" in device_name else int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UserError(f"device cuda:{index}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    torch.set_num_threads(threads or _default_threads())
    if size == 1:
        yield World(0, 1, device)
        return
    # The others wait while the first one reads, and that may take long.
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield World(rank, size, device)
    finally:
        distributed.destroy_process_group()
