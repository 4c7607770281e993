"""Training: recorded logs → a bundle that is ready to be calibrated."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import orjson
import torch

from loggpt_stream.errors import UserError
from loggpt_stream.lines.masks import DEFAULT_RULES
from loggpt_stream.model.bundle import Bundle, Preprocessing, save_bundle
from loggpt_stream.model.manifest import MANIFEST
from loggpt_stream.model.scoring import Scorer
from trainer.abnormal import look_for_abnormal
from trainer.checkpoint import remove_state
from trainer.curve import EpochLosses, best_epoch
from trainer.data import Split, read_history, split_history
from trainer.learn import Run, fresh_model, learn
from trainer.material import Material, count_lines, fit_tokenizer, make_material, share_material
from trainer.progress import TrainingProgress
from trainer.report import Counts, count, told_counts, told_result, told_search, write_report, write_search
from trainer.search import better_of, require_alone, search, what_is_searched
from trainer.settings import what_decides
from trainer.trials import best_trial, with_found
from trainer.world import World, join_world

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.line_frequencies import LineFrequencies
    from loggpt_stream.model.tokenizer import LineTokenizer
    from trainer.settings import TrainerSettings


def train(settings: TrainerSettings, corpus: Corpus | None = None) -> None:
    """Read (unless `corpus` was read before), split, tokenize, search if asked to, learn, write the bundle, report.

    Raises `UserError` for what the user can mend.
    """
    _be_repeatable()
    with (
        join_world(settings.device, settings.threads) as world,
        TrainingProgress(speaks=world.first).shown() as progress,
    ):
        if settings.search:
            require_alone(world)
        prepared, material = _prepare_for_all(settings, world, progress, corpus)
        if world.first and not settings.resume:
            remove_state(settings.checkpoint_directory)
        if settings.search:
            settings = _found(settings, material, world, progress)
        model = fresh_model(settings.model.shape(), material, settings.seed)
        run = _run(settings, material, world)
        curve = learn(model, material, run, world, progress)
        if settings.search:
            curve = better_of(model, curve, settings, progress)
        if prepared is None:
            return
        progress.doing("scoring what was learned from")
        scorer = Scorer(
            model,
            prepared.tokenizer,
            world.device,
            line_frequencies=prepared.line_frequencies,
            passes=settings.reading.passes(),
        )
        look = look_for_abnormal(prepared.split.train, scorer)
        bundle = _save(settings, prepared, model, curve, world)
        write_report(settings, bundle, prepared.counts, curve, look)
        remove_state(run.checkpoint)
        for line in told_result(settings, bundle, curve, look):
            progress.say(line)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What the first process made of the history."""

    split: Split
    tokenizer: LineTokenizer
    line_frequencies: dict[str, LineFrequencies]
    material: Material
    counts: Counts


def _prepare_for_all(
    settings: TrainerSettings, world: World, progress: TrainingProgress, corpus: Corpus | None
) -> tuple[_Prepared | None, Material]:
    """Prepare in the first process (standard input can be read only once) and share what the others need."""
    if not world.first:
        return None, share_material(world, None)
    try:
        prepared = _prepare(settings, progress, corpus)
    except UserError:
        world.share([])  # the others are waiting: they end too
        raise
    return prepared, share_material(world, prepared.material)


def _prepare(settings: TrainerSettings, progress: TrainingProgress, corpus: Corpus | None) -> _Prepared:
    _require_place_for_bundle(settings.out)
    if corpus is None:
        corpus = read_history(settings, progress.reading)
    progress.doing("fitting the tokenizer")
    split = split_history(corpus, settings)
    tokenizer = fit_tokenizer(split.train, settings.tokenizer)
    counts = count(corpus, split, tokenizer)
    for line in told_counts(counts):
        progress.say(line)
    line_frequencies = count_lines(split.train)
    material = make_material(
        split.train,
        split.validation,
        tokenizer,
        settings.model.context_tokens,
        passes=settings.reading.passes(),
        line_frequencies=line_frequencies,
    )
    return _Prepared(split, tokenizer, line_frequencies, material, counts)


def _found(settings: TrainerSettings, material: Material, world: World, progress: TrainingProgress) -> TrainerSettings:
    """Search, tell what was found, and return the settings with it in place of their own."""
    trials = search(settings, material, world, progress)
    write_search(settings, trials, what_is_searched(settings, material))
    progress.say(told_search(settings, trials))
    return with_found(settings, best_trial(trials).found)


def _run(settings: TrainerSettings, material: Material, world: World) -> Run:
    decides = {**what_decides(settings), "data": material.data_id(), "processes": world.size}
    identity = hashlib.sha256(orjson.dumps(decides, option=orjson.OPT_SORT_KEYS)).hexdigest()
    max_s = settings.max_minutes * 60 if settings.max_minutes else math.inf
    return Run(identity, settings.seed, settings.training, max_s, settings.checkpoint_directory)


def _save(
    settings: TrainerSettings, prepared: _Prepared, model: GPT2LMHeadModel, curve: Sequence[EpochLosses], world: World
) -> Bundle:
    """Write the bundle. What it states of its training holds no times and no paths: same seed, same fingerprint."""
    counts = prepared.counts
    return save_bundle(
        settings.out,
        model=model,
        tokenizer=prepared.tokenizer.tokenizer,
        preprocessing=Preprocessing(
            DEFAULT_RULES, settings.sessions.rules(), settings.tokenizer.max_line_tokens, settings.reading.passes()
        ),
        line_frequencies=prepared.line_frequencies,
        training={
            **what_decides(settings),
            "data": prepared.material.data_id(),
            "processes": world.size,
            "sessions": counts.kinds,
            "lines": counts.train_lines,
            "distinct_lines": counts.distinct_lines,
            "best_epoch": best_epoch(curve),
            "epochs": [losses.learned() for losses in curve],
        },
        used_sessions={
            "train": _fingerprints(prepared.split.train),
            "validation": _fingerprints(prepared.split.validation),
        },
    )


def _fingerprints(sessions: Sequence[Session]) -> np.ndarray:
    return np.array([session.fingerprint() for session in sessions], dtype=np.int64)


def _require_place_for_bundle(out: Path) -> None:
    """Raise `UserError` before an hour of training, and not after it, where the bundle has no place."""
    if (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).exists()) or (out.exists() and not out.is_dir()):
        raise UserError(f"--out {out} exists and is not a bundle: name another place.")


def _be_repeatable() -> None:
    # cuBLAS reads this at its first use, and repeats itself only with it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    # Nothing here reads memory that it did not write, and filling it costs a sixth of the speed.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
