"""Search: trials of sizes and rates, each judged by the loss of the validation sessions, within a budget of time.

A trial learns as the trainer does, from the same windows and with the same seed, but for a share of the budget at most:
its learning rate falls over that share. What wins is then trained from the start like any other settings, so that the
bundle is the one that these settings give; unless a trial, with its time up, ended better than that. Only training and
validation sessions have a part in it.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final

import optuna
import torch

from loggpt_stream.errors import UserError
from trainer.checkpoint import load_state, put_weights, remove_state
from trainer.curve import EpochLosses, best_line_loss, is_over
from trainer.learn import Run, fresh_model, learn
from trainer.progress import TrainingProgress
from trainer.settings import LEAST_BATCH_TOKENS, TrainerSettings, what_decides
from trainer.trials import DONE, TIME_UP, Found, Trial, read_trials, with_found, write_trials

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import GPT2LMHeadModel

    from trainer.material import Material
    from trainer.world import World

_SHARES: Final = 8  # so many trials have a place in the budget, however long one would take
_RANDOM_TRIALS: Final = 4  # before there is enough to suggest from and to compare with
_RATE_TIMES: Final = 4.0
_MOST_DROPOUT: Final = 0.3
_ROW: Final = "{:>5}  {:>6}  {:>5}  {:>5}  {:>7}  {:>12}  {:>13}  {:>6}  {:>7}  {:>9}  {}"
_HEADINGS: Final = "trial,layers,width,heads,dropout,batch tokens,learning rate,epochs,seconds,nats/line,"


def require_alone(world: World) -> None:
    """Raise `UserError` where torchrun started several processes, and in those that do not speak `SystemExit`."""
    if not world.first:
        raise SystemExit(2)
    if world.size > 1:
        raise UserError(
            f"--search works in one process, and torchrun started {world.size}: search without torchrun, then train "
            "under it with --config and the best.yaml that the search wrote."
        )


def search(
    settings: TrainerSettings,
    material: Material,
    world: World,
    progress: TrainingProgress,
    clock: Callable[[], float] = time.monotonic,
) -> list[Trial]:
    """Return the trials that the budget allows. What a run of the same search made before it was cut off is used.

    `clock` gives seconds. Raises `UserError` where what that run left is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(n_startup_trials=_RANDOM_TRIALS, seed=settings.seed),
        # The first epoch says little: a high learning rate may begin badly and end well.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_RANDOM_TRIALS, n_warmup_steps=2),
    )
    study.enqueue_trial(_as_asked(settings))
    directory, identity = settings.checkpoint_directory, what_is_searched(settings, material)
    made = {trial.number: trial for trial in read_trials(directory / "search.json", identity)}
    trials: list[Trial] = []
    progress.say(_ROW.format(*_HEADINGS.split(",")).rstrip())
    while max_s := _time_for_another(settings, trials):
        asked = study.ask()
        found = _suggested(asked, settings)
        trial = made.get(asked.number + 1)
        known = trial is not None and trial.found == found
        if trial is None or not known:
            began_s, watch = clock(), _Watch(progress, asked)
            ended = _try(with_found(settings, found), material, world, watch, max_s)
            trial = Trial(asked.number + 1, found, tuple(watch.curve), clock() - began_s, ended)
        else:
            for losses in trial.curve:
                asked.report(losses.validation_line_loss, losses.epoch)
        if trial.whole:
            study.tell(asked, trial.loss)
        else:
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        is_best = trial.whole and all(trial.loss < each.loss for each in trials if each.whole)
        if is_best and not known:
            remove_state(directory / "best")
            if trial.ended == TIME_UP:
                (directory / "trial").rename(directory / "best")
        trials.append(trial)
        write_trials(directory / "search.json", identity, trials)
        progress.say(_row(trial, is_best=is_best))
    return trials


def better_of(
    model: GPT2LMHeadModel, curve: tuple[EpochLosses, ...], settings: TrainerSettings, progress: TrainingProgress
) -> tuple[EpochLosses, ...]:
    """Return `curve`, of the training after the search; or that of the trial that won, if it ended better.

    `model` has then the trial's weights. A trial without time may end better: its learning rate fell sooner.
    """
    trial = load_state(settings.checkpoint_directory / "best")
    ours = trial is not None and trial.identity == _name(settings)
    if trial is None or not ours or best_line_loss(curve) <= best_line_loss(trial.curve):
        return curve
    progress.say(
        f"that ended with {best_line_loss(curve):.4f} nats/line, the trial with {best_line_loss(trial.curve):.4f}: the "
        f"bundle has the trial's weights. With --training.epochs {len(trial.curve)} the learning rate falls as soon."
    )
    put_weights(model, trial.best or trial.weights)
    return trial.curve


def _time_for_another(settings: TrainerSettings, trials: Sequence[Trial]) -> float:
    """Return how many seconds one more trial may take; 0 where there is none."""
    budget_s = settings.search_minutes * 60
    share_s = budget_s / min(_SHARES, settings.search_trials)
    left_s = budget_s - sum(trial.seconds for trial in trials)
    # In less than half a share it could not be compared with the others.
    return min(share_s, left_s) if len(trials) < settings.search_trials and left_s >= share_s / 2 else 0.0


def _name(settings: TrainerSettings) -> str:
    """Return what names a trial of these settings among the trials of one search."""
    return f"trial of {settings.model!r} {settings.training!r}"


def what_is_searched(settings: TrainerSettings, material: Material) -> dict[str, Any]:
    """Return what decides which trials there are, but for the speed of the machine."""
    budget = {"search_minutes": settings.search_minutes, "search_trials": settings.search_trials}
    return {**what_decides(settings), "data": material.data_id(), **budget}


def _as_asked(settings: TrainerSettings) -> dict[str, float]:
    """Return the parameters of the first trial."""
    model, rate = settings.model, settings.training.learning_rate
    return {"layers": model.layers, "heads": model.heads, "dropout": model.dropout, "doublings": 0, "rate": rate}


def _suggested(trial: optuna.Trial, settings: TrainerSettings) -> Found:
    """Return what `trial` tries, around what was asked for: sizes up to twice, batches and rates up to four times it.

    Small sizes are as likely as large ones. Heads keep their width, so that more of them make a wider model.
    """
    model, training = settings.model, settings.training
    halvings = min(2, int(math.log2(training.batch_tokens / LEAST_BATCH_TOKENS)))
    lowest, highest = training.learning_rate / _RATE_TIMES, training.learning_rate * _RATE_TIMES
    layers = trial.suggest_int("layers", 1, 2 * model.layers, log=True)
    heads = trial.suggest_int("heads", 1, 2 * model.heads, log=True)
    dropout = trial.suggest_float("dropout", 0.0, max(_MOST_DROPOUT, model.dropout))
    doublings = trial.suggest_int("doublings", -halvings, 2)
    rate = trial.suggest_float("rate", lowest, highest, log=True)
    if trial.number:  # the first is what was asked for to the last digit, the others are short enough to paste
        dropout, rate = round(dropout, 2), float(f"{rate:.3g}")
    width = model.width // model.heads * heads
    return {
        "model": {"layers": layers, "width": width, "heads": heads, "dropout": dropout},
        "training": {"batch_tokens": int(training.batch_tokens * 2.0**doublings), "learning_rate": rate},
    }


class _Watch(TrainingProgress):
    """Watches one trial: shows where it is, keeps its curve, and ends it where most others were better by then."""

    def __init__(self, progress: TrainingProgress, trial: optuna.Trial) -> None:
        super().__init__(speaks=False)
        self._progress = progress
        self._trial = trial
        self.curve: list[EpochLosses] = []

    def due(self) -> bool:
        """Tell whether it is time to show where things are."""
        return self._progress.due()

    def show(self, text: str) -> None:
        """Show `text` in the place of the whole run."""
        self._progress.show(f"trial {self._trial.number + 1}, {text}")

    def epoch(self, losses: EpochLosses, *, is_best: bool) -> None:
        """Keep what an epoch reached. Raises `optuna.TrialPruned` to end the trial."""
        del is_best
        self.curve.append(losses)
        self._trial.report(losses.validation_line_loss, losses.epoch)
        if self._trial.should_prune():
            raise optuna.TrialPruned


def _try(settings: TrainerSettings, material: Material, world: World, watch: _Watch, max_s: float) -> str:
    """Train for `max_s` seconds at most, and return how that ended."""
    training = settings.training
    run = Run(_name(settings), settings.seed, training, max_s, settings.checkpoint_directory / "trial")
    remove_state(run.checkpoint)  # of the trial before
    try:
        learn(fresh_model(settings.model.shape(), material, settings.seed), material, run, world, watch)
    except optuna.TrialPruned:
        return "worse than most by then"
    except UserError:
        return "loss not finite"
    except torch.OutOfMemoryError:
        return "out of GPU memory"
    return DONE if is_over(watch.curve, epochs=training.epochs, patience=training.patience) else TIME_UP


def _row(trial: Trial, *, is_best: bool) -> str:
    model, training = trial.found["model"], trial.found["training"]
    notes = ("as asked" * (trial.number == 1), trial.ended * (trial.ended != DONE), "best so far" * is_best)
    sizes = (trial.number, model["layers"], model["width"], model["heads"], f"{model['dropout']:g}")
    rates = (training["batch_tokens"], f"{training['learning_rate']:g}", len(trial.curve), f"{trial.seconds:.1f}")
    loss = f"{trial.loss:.4f}" if trial.curve else "-"
    return _ROW.format(*sizes, *rates, loss, ", ".join(note for note in notes if note)).rstrip()
