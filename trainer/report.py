"""What a run tells: a summary for a person, training_report.json, learning_curve.png.

Of a search too: search.json, search.png, best.yaml.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loggpt_stream.lines.names import Fate
from trainer.abnormal import Z_LIMIT
from trainer.curve import best_epoch, seconds
from trainer.progress import duration
from trainer.trials import best_trial, write_trials

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.tokenizer import LineTokenizer
    from trainer.abnormal import Look
    from trainer.curve import EpochLosses
    from trainer.data import Split
    from trainer.settings import TrainerSettings
    from trainer.trials import Trial

_SHOWN_CHARS: Final = 160
_MUCH: Final = 0.05


@dataclass(frozen=True, slots=True)
class Counts:
    """What was read and what is learned from.

    kinds: by session kind, sessions to train on and to validate on. unseen_share: share of the validation lines whose
    masked text no training session has. tokens_per_line: mean over all training lines.
    """

    records: int
    bytes: int
    rejected: dict[str, int]
    fates: dict[str, int]
    sessions_read: int
    left_out: dict[str, int]
    kinds: dict[str, tuple[int, int]]
    train_lines: int
    validation_lines: int
    distinct_lines: int
    unseen_share: float
    vocabulary_size: int
    tokens_per_line: float


def count(corpus: Corpus, split: Split, tokenizer: LineTokenizer) -> Counts:
    """Return the counts of what was read, left out, learned from and held out."""
    lines = Counter(text for session in split.train for text in session.texts)
    held_out = Counter(text for session in split.validation for text in session.texts)
    unseen = sum(times for text, times in held_out.items() if text not in lines)
    train, validation = _kinds(split.train), _kinds(split.validation)
    return Counts(
        records=corpus.reading.records,
        bytes=corpus.reading.bytes,
        rejected={str(reason): count for reason, count in sorted(corpus.reading.rejected.items())},
        fates={str(fate): count for fate, count in sorted(corpus.fates.items())},
        sessions_read=len(corpus.sessions),
        left_out=dict(sorted(split.left_out.items())),
        kinds={kind: (train[kind], validation[kind]) for kind in sorted(train | validation)},
        train_lines=lines.total(),
        validation_lines=held_out.total(),
        distinct_lines=len(lines),
        unseen_share=unseen / max(held_out.total(), 1),
        vocabulary_size=tokenizer.vocabulary_size,
        tokens_per_line=sum(len(tokenizer.encode(text)) * times for text, times in lines.items()) / lines.total(),
    )


def told_counts(counts: Counts) -> Iterator[str]:
    """Yield the counts as lines for a person."""
    yield f"read {counts.records:,} records ({counts.bytes / 1e6:,.1f} MB), {counts.sessions_read:,} sessions"
    if counts.rejected:
        yield f"  not decoded: {_listed(counts.rejected)}"
    if unkeyed := counts.fates.get(Fate.UNKEYED):
        yield f"  {unkeyed:,} lines without a session key (--sessions.unkeyed window gathers them by host and service)"
    if counts.left_out:
        yield f"  sessions left out: {_listed(counts.left_out)}"
    for kind, (train, validation) in counts.kinds.items():
        yield f"  {kind} sessions: {train:,} to learn from, {validation:,} held out"
    yield (
        f"{counts.train_lines:,} lines to learn from, {counts.distinct_lines:,} distinct once masked; vocabulary "
        f"{counts.vocabulary_size:,}, {counts.tokens_per_line:.2f} tokens/line; {counts.unseen_share:.1%} of the "
        "held-out lines are new"
    )


def told_result(settings: TrainerSettings, bundle: Bundle, curve: Sequence[EpochLosses], look: Look) -> Iterator[str]:
    """Yield what the run reached, and what to do next, as lines for a person."""
    best = curve[best_epoch(curve) - 1]
    why = "no better for a while" if len(curve) - best.epoch >= settings.training.patience else "all done"
    if len(curve) < settings.training.epochs and why == "all done":
        why = f"{settings.max_minutes:g} minutes are up" if settings.max_minutes else "a trial's time was up"
    yield (
        f"{len(curve)} epochs in {duration(seconds(curve))} ({why}); best is epoch {best.epoch}: validation loss "
        f"{best.validation_loss:.4f} nats/token, {best.validation_line_loss:.3f} nats/line"
    )
    yield from _told_look(look)
    yield f"report in {settings.report_directory}: learning_curve.png, training_report.json"
    yield f"bundle {bundle.path}, fingerprint {bundle.fingerprint[:16]}, not calibrated yet. Next:"
    yield f"  loggpt-calibrate --bundle {bundle.path} INPUT"


def _told_look(look: Look) -> Iterator[str]:
    sessions, odd = sum(look.sessions.values()), sum(look.abnormal.values())
    kinds = ", ".join(f"{look.abnormal[kind]} of {of_kind} {kind}" for kind, of_kind in look.sessions.items())
    if sessions:
        yield f"{odd} of {sessions} sessions learned from ({look.share:.1%}) look abnormal ({kinds}; no labels used)"
    if look.too_few:
        yield f"too few sessions learned from to say which look abnormal: {_listed(look.too_few)}"
    for each in look.most:
        yield (
            f"  {each.kind} {each.key}: {each.statistic} {each.value:.2f} nats, typical {each.median:.2f} "
            f"(z {each.z:.0f})\n    {each.line[:_SHOWN_CHARS]}"
        )
    if look.share > _MUCH:
        yield (
            "  That is much. If they are failures, the model has learned some of them as normal: leave them out "
            "(--labels with --exclude), or train on a calmer period. If they are rare but right, add more history."
        )
    elif odd:
        yield "  Few enough for a useful model. Look at these: failures are better left out (--labels, --exclude)."


def write_report(
    settings: TrainerSettings, bundle: Bundle, counts: Counts, curve: Sequence[EpochLosses], look: Look
) -> None:
    """Write training_report.json and learning_curve.png to the report directory."""
    directory = settings.report_directory
    directory.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "bundle": str(bundle.path),
        "fingerprint": bundle.fingerprint,
        "model_fingerprint": bundle.model_fingerprint,
        "settings": settings.model_dump(mode="json", by_alias=True),
        "counts": asdict(counts),
        "epochs": [asdict(losses) for losses in curve],
        "best_epoch": best_epoch(curve),
        "seconds": seconds(curve),
        "abnormal": {"z_limit": Z_LIMIT, "share": look.share, **asdict(look)},
    }
    (directory / "training_report.json").write_bytes(
        orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    draw_curve(directory / "learning_curve.png", curve)


def draw_curve(file: Path, curve: Sequence[EpochLosses]) -> None:
    """Draw training and validation loss by epoch, the best one marked."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = [losses.epoch for losses in curve]
    axes.plot(epochs, [losses.train_loss for losses in curve], marker="o", label="training (with dropout)")
    axes.plot(epochs, [losses.validation_loss for losses in curve], marker="o", label="validation")
    best = curve[best_epoch(curve) - 1]
    axes.axvline(best.epoch, color="grey", linestyle=":", label=f"best: epoch {best.epoch}, {best.validation_loss:.4f}")
    axes.set(xlabel="epoch", ylabel="loss, nats per token", yscale="log", title="Learning curve")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def told_search(settings: TrainerSettings, trials: Sequence[Trial]) -> str:
    """Return what a search found, for a person."""
    best, asked = best_trial(trials), trials[0]
    what = "what was asked for" if best is asked else f"trial {best.number}"
    than = f", what was asked for {asked.loss:.4f}" if asked.whole and best is not asked else ""
    return (
        f"{len(trials)} trials in {duration(sum(trial.seconds for trial in trials))}; best is {what}: {best.loss:.4f} "
        f"nats/line{than} (best.yaml, search.json, search.png in {settings.report_directory}). Training with it:"
    )


def write_search(settings: TrainerSettings, trials: Sequence[Trial], search: dict[str, Any]) -> None:
    """Write best.yaml, search.json and search.png to the report directory; `search` is what identifies the search.

    Raises `UserError` where no trial came to its end.
    """
    best = best_trial(trials)
    directory = settings.report_directory
    write_trials(directory / "search.json", search, trials)
    heading = f"# Trial {best.number} of {len(trials)}: {best.loss:.4f} nats/line on the validation sessions.\n"
    (directory / "best.yaml").write_text(heading + yaml.safe_dump(best.found, sort_keys=False), encoding="utf-8")
    draw_trials(directory / "search.png", trials)


def draw_trials(file: Path, trials: Sequence[Trial]) -> None:
    """Draw the loss of each trial, and the best of them marked."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    learned = [trial for trial in trials if trial.curve]
    for whole, marker, label in ((True, "o", "whole"), (False, "x", "ended early")):
        chosen = [trial for trial in learned if trial.whole == whole]
        axes.plot([trial.number for trial in chosen], [trial.loss for trial in chosen], marker, label=label)
    best = best_trial(trials)
    axes.axhline(best.loss, color="grey", linestyle=":", label=f"best: trial {best.number}, {best.loss:.4f}")
    axes.set(xlabel="trial (1: as asked for)", ylabel="validation loss, nats per line", title="Search")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def _kinds(sessions: Sequence[Session]) -> Counter[str]:
    return Counter(str(session.kind) for session in sessions)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())
