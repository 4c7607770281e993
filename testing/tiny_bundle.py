"""A real but tiny bundle for tests: a one-layer GPT that has seen a little of nova34, calibrated on a little more."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
import torch

from loggpt_stream.history.corpus import Corpus, read_corpus
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.lines.rules import SessionRules
from loggpt_stream.model.bundle import Bundle, Preprocessing, save_bundle, save_calibrated
from loggpt_stream.model.calibration import Calibration, EarlyCalibration, KindCalibration
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.losses import token_losses
from loggpt_stream.model.scoring import Scorer
from loggpt_stream.model.sequence import NOBODY, windows
from loggpt_stream.model.shape import ModelShape
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED, EARLY, combine, fit_scales
from loggpt_stream.model.tokenizer import LineTokenizer, train_tokenizer
from trainer.material import count_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.session_score import SessionScore

NOVA34 = str(files("loggpt_stream") / "data" / "nova34" / "nova34.log.xz")
RULES = SessionRules(idle_gap_s=60.0)


@dataclass(frozen=True)
class Said:
    """A session of a kind and these masked lines, one a second."""

    kind: str
    texts: list[str]

    @property
    def times_s(self) -> list[float]:
        """Return the time of each line (seconds)."""
        return [float(second) for second in range(len(self.texts))]


@cache
def nova34() -> Corpus:
    """Return the sessions of the first nova34 recording."""
    return read_corpus([NOVA34], RULES, DEFAULT_RULES)


def untrained_parts(sessions: int = 60) -> tuple[LineTokenizer, Preprocessing]:
    """Return a tokenizer fitted to the first sessions, and the preprocessing around it."""
    lines = (text for session in nova34().sessions[:sessions] for text in session.texts)
    tokenizer = train_tokenizer(lines, vocabulary_size=700, piece_vocabulary_size=300)
    return LineTokenizer(tokenizer, max_line_tokens=16), Preprocessing(DEFAULT_RULES, RULES, 16)


def judged_early_by(early: EarlyCalibration | None) -> Calibration:
    """Return a calibration of instances of which only the early part matters."""
    kind = KindCalibration(
        combination="unused",
        threshold=1.0,
        basis="conformal",
        false_alarm_rate=0.1,
        scales={},
        normal_scores=(1.0,),
        early=early,
    )
    return Calibration({"instance": kind})


def early_calibration(statistics: Sequence[Mapping[str, float]], share: float) -> EarlyCalibration:
    """Return the calibration of open sessions above whose threshold is this share of whole ones."""
    scales = fit_scales(statistics, EARLY)
    normal = sorted(combine(each, scales) for each in statistics)
    threshold = -1.0 if share >= 1 else float(np.quantile(normal, 1 - share))
    return EarlyCalibration(
        threshold=threshold,
        basis="conformal",
        false_alarm_rate=min(share, 0.99),
        scales=scales,
        normal_scores=tuple(normal),
    )


@dataclass(frozen=True)
class _Learned:
    """What all tiny bundles of one number of steps have in common; nobody may change it."""

    model: GPT2LMHeadModel
    tokenizer: LineTokenizer
    preprocessing: Preprocessing
    line_frequencies: dict[str, LineFrequencies]
    learned: list[Session]
    held_out: list[Session]
    scores: list[SessionScore]


@cache
def _learn(steps: int) -> _Learned:
    """Train and score once in a process: the seconds that a bundle takes."""
    torch.manual_seed(42)
    tokenizer, preprocessing = untrained_parts()
    shape = ModelShape(layers=1, width=32, heads=2, context_tokens=128)
    model = new_model(shape, vocabulary_size=tokenizer.vocabulary_size, end_id=tokenizer.end_id)
    learned = nova34().sessions[:60]
    line_frequencies = count_lines(learned)
    cut = [
        window
        for each in learned
        for window in windows(
            each.kind,
            each.texts,
            tokenizer,
            shape.context_tokens,
            passes=preprocessing.passes,
            frequencies=line_frequencies[each.kind],
        )
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        window = cut[step % len(cut)]
        ids_BT = torch.tensor([window.ids_T])
        mine_BT = torch.tensor([[whose != NOBODY for whose in window.line_T]])
        loss = token_losses(model(ids_BT).logits, ids_BT)[mine_BT].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = [session for session in nova34().sessions[60:160] if not session.late]
    scores = Scorer(
        model, tokenizer, torch.device("cpu"), line_frequencies=line_frequencies, passes=preprocessing.passes
    ).score(held_out)
    return _Learned(model, tokenizer, preprocessing, line_frequencies, learned, held_out, scores)


def tiny_bundle(path: Path, *, steps: int = 40, alert_share: float = 0.1, early_share: float | None = None) -> Bundle:
    """Write a calibrated tiny bundle; about `alert_share` of sessions are above its thresholds (1.0: all of them).

    early_share: of whole sessions that are above the early threshold; None where open sessions are not judged.
    """
    common = _learn(steps)
    bundle = save_bundle(
        path,
        model=common.model,
        tokenizer=common.tokenizer.tokenizer,
        preprocessing=common.preprocessing,
        line_frequencies=common.line_frequencies,
        training={"seed": 42},
        used_sessions={"train": np.array([session.fingerprint() for session in common.learned])},
    )
    held_out, scores = common.held_out, common.scores
    kinds = {}
    for kind in {session.kind for session in held_out}:
        statistics = [score.statistics for session, score in zip(held_out, scores, strict=True) if session.kind == kind]
        scales = fit_scales(statistics, COMBINATIONS[COMBINED])
        normal = sorted(combine(each, scales) for each in statistics)
        threshold = -1.0 if alert_share >= 1 else float(np.quantile(normal, 1 - alert_share))
        kinds[kind] = KindCalibration(
            combination=COMBINED,
            threshold=threshold,
            basis="conformal",
            false_alarm_rate=min(alert_share, 0.99),
            scales=scales,
            normal_scores=tuple(normal),
            early=None if early_share is None else early_calibration(statistics, early_share),
        )
    prints = np.array([session.fingerprint() for session in held_out])
    return save_calibrated(bundle, path, calibration=Calibration(kinds), calibration_sessions=prints)
