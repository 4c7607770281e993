"""The loop: batches, early stopping, time limit, checkpoints."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from loggpt_stream.errors import UserError
from loggpt_stream.model.gpt import new_model
from loggpt_stream.model.scoring import Scorer
from loggpt_stream.model.sequence import Passes
from trainer.checkpoint import load_state, weights_of
from trainer.curve import EpochLosses, best_epoch, is_over
from trainer.learn import Run, _learning_rate, _shuffled, learn, seed_all, validate
from trainer.material import Material, count_lines, fit_tokenizer, make_material
from trainer.progress import TrainingProgress
from trainer.settings import ModelSettings, TokenizerSettings, TrainingSettings
from trainer.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import GPT2LMHeadModel

    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.tokenizer import LineTokenizer

ALONE = World(0, 1, torch.device("cpu"))
QUIET = TrainingProgress(speaks=False)


@pytest.fixture(scope="module")
def tokenizer(sessions: list[Session]) -> LineTokenizer:
    return fit_tokenizer(
        sessions, TokenizerSettings(vocabulary_size=700, piece_vocabulary_size=300, max_line_tokens=16)
    )


@pytest.fixture(scope="module")
def material(sessions: list[Session], tokenizer: LineTokenizer) -> Material:
    return make_material(sessions[:40], sessions[40:60], tokenizer, 128)


def tiny(material: Material, dropout: float = 0.1) -> GPT2LMHeadModel:
    seed_all(42)
    shape = ModelSettings(layers=1, width=32, heads=2, context_tokens=128, dropout=dropout).shape()
    return new_model(shape, vocabulary_size=material.vocabulary_size, end_id=material.end_id)


def few_of(sessions: list[Session], tokenizer: LineTokenizer) -> Material:
    """Return six instances to learn by heart, and others to validate on."""
    instances = [session for session in sessions if session.kind == "instance"]
    return make_material(instances[:6], instances[6:30], tokenizer, 128)


def run(path: Path, *, identity: str = "one", max_s: float = math.inf, **training: float) -> Run:
    rules = TrainingSettings(**{"epochs": 3, "batch_tokens": 256, "warmup_steps": 5, "learning_rate": 3e-3, **training})
    return Run(identity, 42, rules, max_s, path / "checkpoint")


def losses(epoch: int, validation_loss: float, seconds: float = 1.0) -> EpochLosses:
    return EpochLosses(epoch, 1.0, 1.0, validation_loss, 1.0, 1.0, seconds, 1.0)


def test_every_window_is_in_one_batch_of_an_epoch_and_no_batch_is_too_large(material: Material) -> None:
    lengths = material.train.lengths_W.tolist()
    batches = list(_shuffled(material.train, 512, seed=1, epoch=1))
    assert sorted(i for batch in batches for i in batch) == list(range(material.train.windows))
    assert max(len(batch) * max(lengths[i] for i in batch) for batch in batches) <= 512
    padding = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches) / sum(lengths) - 1
    assert padding < 0.2


def test_the_order_is_another_in_each_epoch_and_the_same_with_the_same_seed(material: Material) -> None:
    first, again, next_epoch, other_seed = (
        list(_shuffled(material.train, 512, seed, epoch)) for seed, epoch in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    assert first == again
    assert first != next_epoch
    assert first != other_seed


def test_the_learning_rate_warms_up_and_then_falls_to_a_tenth() -> None:
    training = TrainingSettings(learning_rate=1.0, warmup_steps=9)
    assert [_learning_rate(training, step, 0.0) for step in (0, 4, 9, 50)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert _learning_rate(training, 50, 0.5) == pytest.approx(0.55)
    assert _learning_rate(training, 50, 1.0) == pytest.approx(0.1)


def test_training_learns(material: Material, tmp_path: Path) -> None:
    model = tiny(material)
    before, _, _ = validate(model, material.validation, material.pad_id, ALONE)
    curve = learn(model, material, run(tmp_path), ALONE, QUIET)
    assert before == pytest.approx(math.log(material.vocabulary_size), rel=0.05)
    assert curve[-1].validation_loss < before - 0.5
    assert [each.epoch for each in curve] == [1, 2, 3]


def test_validation_is_the_loss_that_scoring_gives(
    material: Material, sessions: list[Session], tokenizer: LineTokenizer
) -> None:
    model = tiny(material)
    line_frequencies = count_lines(sessions[:40])
    held_out = [each for each in sessions[40:60] if set(each.texts) <= set(line_frequencies[each.kind].lines)]
    assert len(held_out) > 5
    whole = make_material(sessions[:40], held_out, tokenizer, 128)
    _, per_line, per_end = validate(model, whole.validation, whole.pad_id, ALONE)
    scorer = Scorer(model, tokenizer, torch.device("cpu"), line_frequencies=line_frequencies, passes=Passes())
    scores = scorer.score(held_out)
    lines = [loss for score in scores for loss in score.line_losses_L.tolist()]
    assert per_line == pytest.approx(sum(lines) / len(lines), rel=1e-5)
    ends = [score.statistics["digest_end_loss"] for score in scores]
    assert per_end == pytest.approx(sum(ends) / len(ends), rel=1e-5)


def test_lines_that_no_training_session_has_do_not_count_in_validation(
    material: Material, sessions: list[Session], tokenizer: LineTokenizer
) -> None:
    strange = copy.deepcopy(sessions[40:60])
    for session in strange:
        session.lines.insert(1, replace(session.lines[0], head="ERROR never.seen in training"))
    again = make_material(sessions[:40], strange, tokenizer, 128)
    assert again.validation.ids_N.tolist() == material.validation.ids_N.tolist()


def test_it_stops_when_validation_no_longer_improves_and_keeps_the_best_weights(
    sessions: list[Session], tokenizer: LineTokenizer, tmp_path: Path
) -> None:
    # Six sessions, learned by heart at a high rate: what is held out soon gets worse.
    few = few_of(sessions, tokenizer)
    model = tiny(few, dropout=0.0)
    curve = learn(model, few, run(tmp_path, epochs=60, learning_rate=2e-2, batch_tokens=256, patience=3), ALONE, QUIET)
    best = best_epoch(curve)
    assert len(curve) == best + 3 < 60
    assert curve[-1].validation_loss > curve[best - 1].validation_loss * 1.01
    kept, _, _ = validate(model, few.validation, few.pad_id, ALONE)
    assert kept == pytest.approx(min(each.validation_loss for each in curve), abs=1e-9)


def test_a_run_that_went_on_from_its_checkpoint_ends_as_one_that_was_never_cut_off(
    material: Material, tmp_path: Path
) -> None:
    whole = tiny(material)
    learn(whole, material, run(tmp_path / "whole"), ALONE, QUIET)

    class CutOff(Exception):  # noqa: N818 - not an error
        pass

    class Cut(TrainingProgress):
        def epoch(self, losses: EpochLosses, *, is_best: bool) -> None:
            del is_best
            if losses.epoch == 3:
                raise CutOff

    with pytest.raises(CutOff):
        learn(tiny(material), material, run(tmp_path / "cut"), ALONE, Cut(speaks=False))
    state = load_state(tmp_path / "cut" / "checkpoint")
    assert state is not None
    assert len(state.curve) == 2
    resumed = tiny(material)
    curve = learn(resumed, material, run(tmp_path / "cut"), ALONE, QUIET)
    assert len(curve) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_best_weights_survive_a_resume_after_worse_epochs(
    sessions: list[Session], tokenizer: LineTokenizer, tmp_path: Path
) -> None:
    few = few_of(sessions, tokenizer)
    plan = run(tmp_path, epochs=60, learning_rate=2e-2, batch_tokens=256)
    first = tiny(few)
    learn(first, few, plan, ALONE, QUIET)
    # The run is over, and its checkpoint (which only the command removes) says so: nothing more is learned.
    again = tiny(few)
    learn(again, few, plan, ALONE, QUIET)
    assert all(torch.equal(weights_of(first)[name], weight) for name, weight in weights_of(again).items())


def test_the_checkpoint_of_other_settings_or_data_is_not_used_and_that_is_said(
    material: Material, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn(tiny(material), material, run(tmp_path, epochs=1), ALONE, QUIET)
    curve = learn(tiny(material), material, run(tmp_path, identity="other", epochs=1), ALONE, TrainingProgress())
    assert "starting afresh: the checkpoint" in capsys.readouterr().err
    assert len(curve) == 1
    state = load_state(tmp_path / "checkpoint")
    assert state is not None
    assert state.identity == "other"


def test_a_damaged_checkpoint_is_refused_with_the_remedy(material: Material, tmp_path: Path) -> None:
    learn(tiny(material), material, run(tmp_path, epochs=1), ALONE, QUIET)
    file = tmp_path / "checkpoint" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"damaged .*: start afresh with --no-resume"):
        learn(tiny(material), material, run(tmp_path, epochs=1), ALONE, QUIET)


def test_a_loss_that_is_no_number_ends_the_run_with_the_remedy(material: Material, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no longer finite in epoch 1: .*--training\.learning-rate below 1e"):
        learn(tiny(material), material, run(tmp_path, learning_rate=1e30), ALONE, QUIET)


def test_the_time_limit_ends_training_within_an_epoch(material: Material, tmp_path: Path) -> None:
    curve = learn(tiny(material), material, run(tmp_path / "s", epochs=10_000, max_s=1.0), ALONE, QUIET)
    assert 1 < len(curve) < 100
    assert sum(each.seconds for each in curve) < 3
    # Nearly no time: one step, and a bundle all the same.
    assert len(learn(tiny(material), material, run(tmp_path / "ns", max_s=1e-9), ALONE, QUIET)) == 1
    state = load_state(tmp_path / "ns" / "checkpoint")
    assert state is not None
    assert state.optimizer["0.step"] == 1


@pytest.mark.parametrize(
    ("validation_losses", "over"),
    [
        ([], False),
        ([3.0], False),
        ([3.0, 2.0, 2.5, 2.4], False),
        ([3.0, 2.0, 2.5, 2.4, 2.3], True),
        ([3.0, 2.0, 2.0, 2.0, 2.0], True),
        ([3.0, 2.0, 2.5, 2.4, 1.9], False),
        ([9.0, 8.0, 7.0, 6.0, 5.0, 4.0], True),
    ],
)
def test_training_is_over_after_three_epochs_without_a_better_one_or_after_all_epochs(
    validation_losses: list[float], over: bool
) -> None:
    curve = [losses(epoch, loss) for epoch, loss in enumerate(validation_losses, 1)]
    assert is_over(curve, epochs=6, patience=3) is over
    assert is_over([losses(1, 1.0, seconds=61)], epochs=6, patience=3, max_s=60)


def test_nothing_but_lines_separators_and_ends_is_in_the_loss(material: Material) -> None:
    model = tiny(material)
    packed = material.validation
    mine, _, _ = validate(model, packed, material.pad_id, ALONE)
    alone = []
    for window in range(packed.windows):
        ids_BT, role_BT = packed.rows([window], material.pad_id)
        logits_TV = model.train(mode=False)(ids_BT).logits[0, :-1].log_softmax(-1)
        counted_T = role_BT[0, 1:] != 0
        alone += (-logits_TV.gather(1, ids_BT[0, 1:, None])[:, 0])[counted_T].tolist()
    assert mine == pytest.approx(sum(alone) / len(alone), rel=1e-4)
