"""A slice of the recorded nova34 log, and settings of a GPT that learns it in seconds."""

from __future__ import annotations

import lzma
import os
import subprocess
import sys
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from loggpt_stream.history.corpus import read_corpus
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import SessionRules
from testing.tiny_bundle import NOVA34

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loggpt_stream.lines.session import Session

    Start = Callable[..., subprocess.Popen[str]]

REPO = Path(__file__).parent.parent.parent
LINES = 4_000

# One layer of 32: an epoch takes a fraction of a second.
TINY = (
    "--model.layers=1", "--model.width=32", "--model.heads=2", "--model.context-tokens=128",
    "--tokenizer.vocabulary-size=700", "--tokenizer.piece-vocabulary-size=300", "--tokenizer.max-line-tokens=16",
    "--training.epochs=3", "--training.batch-tokens=1024", "--training.learning-rate=0.003",
    "--training.warmup-steps=5",
    "--device=cpu", "--threads=1",
)  # fmt: skip


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the first lines of nova34 to a plain file."""
    path = tmp_path_factory.mktemp("nova34") / "nova.log"
    with lzma.open(NOVA34) as stream, path.open("wb") as out:
        out.writelines(islice(stream, LINES))
    return path


@pytest.fixture(scope="session")
def sessions(log: Path) -> list[Session]:
    """Return the sessions of that file."""
    return read_corpus([str(log)], SessionRules(), DEFAULT_RULES).sessions


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Training in this process sets torch's threads and determinism for all of it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="session")
def start() -> Iterator[Start]:
    """Give a function that starts the trainer in a process of its own; none outlives the tests."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, launcher: tuple[str, ...] = ("-m", "trainer.cli")) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *launcher, *arguments],
            cwd=REPO,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()  # torchrun ends its children then
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            process.kill()
        process.wait()
