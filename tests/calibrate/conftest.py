"""A recorded slice of nova34 and tiny GPTs trained on its first part, made once for all tests of this folder."""

from __future__ import annotations

import lzma
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from loggpt_stream.history.corpus import read_corpus
from loggpt_stream.history.labels import Labels, read_labels
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.bundle import Preprocessing, save_bundle
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.losses import token_losses
from loggpt_stream.model.sequence import NOBODY, Passes, windows
from loggpt_stream.model.shape import ModelShape
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer
from trainer.material import count_lines

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from loggpt_stream.lines.session import Session

NOVA34 = str(files("loggpt_stream") / "data" / "nova34" / "nova34.log.xz")
LABELS = str(files("loggpt_stream") / "data" / "nova34" / "nova34.labels.csv")
RULES = SessionRules()
LINE_TOKENS = 16
SHAPE = ModelShape(layers=1, width=32, heads=2, context_tokens=128, dropout=0.0)
STEPS = 100


@dataclass(frozen=True)
class Recording:
    """The nova34 recording: all of its sessions, and its labels."""

    sessions: list[Session]
    labels: Labels

    def split(self, name: str, kind: str = "instance") -> list[Session]:
        return [each for each in self.labels.select(self.sessions, {"split": name}) if each.kind == kind]

    @cached_property
    def learned(self) -> list[Session]:
        """Good instances of the train split, and the requests of the first third."""
        good = [each for each in self.split("train") if not each.late and not self.labels.anomalous(each, "failed")]
        requests = [each for each in self.sessions if each.kind == "request"]
        return [*good, *requests[: len(requests) // 3]]

    @cached_property
    def held_out(self) -> list[Session]:
        """What a trainer would have held out: the requests of the second third, and the validation split."""
        requests = [each for each in self.sessions if each.kind == "request"]
        return [*self.split("val"), *requests[len(requests) // 3 : 2 * len(requests) // 3]]


@pytest.fixture(scope="session")
def recording() -> Recording:
    return Recording(read_corpus([NOVA34], RULES, DEFAULT_RULES).sessions, read_labels(LABELS))


@pytest.fixture(scope="session")
def log_of_test(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the end of the recording, from the first session of the test split on: what an evaluation reads."""
    began_s = min(float(row["started_at"]) for row in recording.labels.rows.values() if row["split"] == "test")
    path = tmp_path_factory.mktemp("logs") / "test.log"
    newest_s = 0.0
    with lzma.open(NOVA34) as lines, path.open("wb") as out:
        for line in lines:
            with suppress(ValueError):
                newest_s = datetime.fromisoformat(line[:23].decode()).replace(tzinfo=UTC).timestamp()
            if newest_s >= began_s:
                out.write(line)
    return str(path)


@pytest.fixture(scope="session")
def trained(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uncalibrated bundle of a tiny model that has really learned a little."""
    torch.manual_seed(42)
    tokenizer = fitted_tokenizer(recording)
    model = new_model(SHAPE, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    learn(model, tokenizer, recording.learned)
    return save(tmp_path_factory.mktemp("trained") / "bundle", model, tokenizer, recording)


@pytest.fixture(scope="session")
def blind(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an uncalibrated bundle whose weights are all zero: every token is equally likely after anything."""
    tokenizer = fitted_tokenizer(recording)
    model = new_model(SHAPE, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return save(tmp_path_factory.mktemp("blind") / "bundle", model, tokenizer, recording)


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the trained bundle that a test may change."""
    return shutil.copytree(trained, tmp_path / "bundle")


def fitted_tokenizer(recording: Recording) -> LineTokenizer:
    lines = (text for session in recording.learned for text in session.texts)
    return LineTokenizer(
        train_tokenizer(lines, vocabulary_size=700, piece_vocabulary_size=300), max_line_tokens=LINE_TOKENS
    )


def learn(model: GPT2LMHeadModel, tokenizer: LineTokenizer, sessions: list[Session]) -> None:
    line_frequencies = count_lines(sessions)
    cut = [
        window
        for each in sessions
        for window in windows(
            each.kind,
            each.texts,
            tokenizer,
            SHAPE.context_tokens,
            passes=Passes(),
            frequencies=line_frequencies[each.kind],
        )
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    order = torch.randperm(len(cut), generator=torch.Generator().manual_seed(1)).tolist()
    model.train()
    for step in range(STEPS):
        batch = [cut[order[(step * 8 + i) % len(cut)]] for i in range(8)]
        longest = max(len(window.ids_T) for window in batch)
        ids_BT = torch.tensor([[*w.ids_T, *[tokenizer.pad_id] * (longest - len(w.ids_T))] for w in batch])
        mine_BT = torch.tensor([[x != NOBODY for x in w.line_T] + [False] * (longest - len(w.line_T)) for w in batch])
        loss = token_losses(model(ids_BT).logits, ids_BT)[mine_BT].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def save(
    path: Path,
    model: GPT2LMHeadModel,
    tokenizer: LineTokenizer,
    recording: Recording,
    training: dict[str, Any] | None = None,
) -> Path:
    used = {"train": recording.learned, "validation": recording.held_out}
    save_bundle(
        path,
        model=model,
        tokenizer=tokenizer.tokenizer,
        preprocessing=Preprocessing(DEFAULT_RULES, RULES, tokenizer.max_line_tokens),
        line_frequencies=count_lines(recording.learned),
        training=training or {"seed": 42},
        used_sessions={role: np.array([each.fingerprint() for each in these]) for role, these in used.items()},
    )
    return path
