"""What a search tried: the trials, the best of them, and the file that holds them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from loggpt_stream.errors import UserError
from trainer.curve import EpochLosses, best_line_loss

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trainer.settings import TrainerSettings

# The searched settings by section, as they stand in a YAML file.
Found = dict[str, dict[str, float]]

DONE: Final = "done"
TIME_UP: Final = "its time was up"


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial, counted from 1; the first has the settings that were asked for.

    curve: the epochs it had. seconds: wall time. ended: DONE, TIME_UP, or what came between.
    """

    number: int
    found: Found
    curve: tuple[EpochLosses, ...]
    seconds: float
    ended: str

    @property
    def whole(self) -> bool:
        """Return whether it ended by itself or with its share of the time: only such a trial may win."""
        return self.ended in {DONE, TIME_UP}

    @property
    def loss(self) -> float:
        """Return the validation loss of its best epoch, in nats per line; inf where it had none."""
        return best_line_loss(self.curve)


def best_trial(trials: Sequence[Trial]) -> Trial:
    """Return the (first) whole trial with the least loss. Raises `UserError` where none is whole."""
    whole = [trial for trial in trials if trial.whole]
    if not whole:
        raise UserError(
            f"none of {len(trials)} trials came to its end (the last one: {trials[-1].ended}): search around a lower "
            "--training.learning-rate or a smaller model."
        )
    return min(whole, key=lambda trial: trial.loss)


def with_found(settings: TrainerSettings, found: Found) -> TrainerSettings:
    """Return the settings with what was found in place of their own."""
    sections = {name: getattr(settings, name).model_copy(update=values) for name, values in found.items()}
    return settings.model_copy(update=sections)


def write_trials(file: Path, search: dict[str, Any], trials: Sequence[Trial]) -> None:
    """Write `trials`, and what identifies their search: all of it or nothing, whenever the process dies."""
    best = min((trial for trial in trials if trial.whole), key=lambda trial: trial.loss, default=None)
    saved = {
        "search": search,
        "best": best and {"number": best.number, "validation_line_loss": best.loss},
        "trials": [asdict(trial) for trial in trials],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_suffix(".new")
    new.write_bytes(orjson.dumps(saved, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    new.replace(file)


def read_trials(file: Path, search: dict[str, Any]) -> list[Trial]:
    """Return what `write_trials` wrote; nothing if of another search. Raises `UserError` for a damaged file."""
    if not file.exists():
        return []
    try:
        saved: dict[str, Any] = orjson.loads(file.read_bytes())
        if saved["search"] != search:
            return []
        curves = [tuple(EpochLosses(**losses) for losses in trial["curve"]) for trial in saved["trials"]]
        return [Trial(**{**trial, "curve": curve}) for trial, curve in zip(saved["trials"], curves, strict=True)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"the trials in {file} are damaged ({error}): start afresh with --no-resume.") from error
