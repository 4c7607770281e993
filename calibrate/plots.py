"""Figures of the reports, as PNG files. Drawn without a display and without global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from calibrate.diagnosis import JudgedKind
    from calibrate.evaluation import KindEvaluation
    from calibrate.measurements import LineMeasurements, LossProfile
    from calibrate.per_kind import CalibratedKind

# Told apart by the colour-blind, and in grey print.
NORMAL: Final = "#4477aa"
ANOMALOUS: Final = "#ee7733"
_MODEL: Final = "#222222"
_BASELINES: Final = ("#999999", "#bbaa66")
_BINS: Final = 40
# Where scores spread over more than this factor, a linear axis would show one bar and nothing else.
_LOG_FACTOR: Final = 30.0


def loss_distribution(kind: CalibratedKind, path: Path) -> None:
    """Draw the scores of normal against anomalous sessions, with the threshold."""
    figure, axes = _figure(1)
    normal = "normal" if kind.labelled else "held out, taken as normal"
    _scores(
        axes[0],
        kind.scores_N,
        kind.truth_N,
        kind.calibration.threshold,
        combination=kind.calibration.combination,
        normal=normal,
    )
    axes[0].set_title(f"Scores of {kind.kind} sessions")
    _save(figure, path)


def diagnosed_scores(kind: JudgedKind, path: Path) -> None:
    """Draw the scores of a kind, and beside them in ascending order: sessions that share one are a level stretch."""
    figure, (left, right) = _figure(2, square=True)
    truth_N = np.array([truth is True for truth in kind.truths], dtype=bool)
    normal = "normal" if kind.normal.size == (~truth_N).sum() else "not labelled anomalous"
    _scores(left, kind.scores_N, truth_N, kind.threshold, combination=kind.combination, normal=normal)
    left.set_title("How many sessions have which score")
    for of_class, colour, name in ((~truth_N, NORMAL, normal), (truth_N, ANOMALOUS, "anomalous")):
        ordered = np.sort(kind.scores_N[of_class])
        if ordered.size:
            right.plot(np.linspace(0, 1, len(ordered)), ordered, ".-", color=colour, linewidth=1, label=name)
    if kind.threshold is not None:
        right.axhline(kind.threshold, color=_MODEL, linestyle="--", linewidth=1.4, label="threshold")
    if _edges(kind.scores_N)[1]:
        right.set_yscale("log")
        right.yaxis.set_major_formatter("{x:g}")
    right.set_xlabel("share of the sessions that score lower")
    right.set_ylabel(f"score: {_named(kind.combination)} (nats)")
    right.set_title("In order: a level stretch is one shared score")
    _legend_below(right, columns=3)
    figure.suptitle(f"Scores of {len(kind.sessions):,} {kind.kind} sessions")
    _save(figure, path)


def diagnosed_tokens(losses: LossProfile, lines: LineMeasurements, path: Path) -> None:
    """Draw what tokens cost, against guessing, and how many tokens lines have, against where they are cut."""
    figure, (left, right) = _figure(2, square=True)
    left.hist(losses.losses_N, _BINS, color=NORMAL, alpha=0.65, label=f"tokens ({len(losses.losses_N):,})")
    left.axvline(losses.guessing, color=_MODEL, linestyle="--", label=f"guessing: {losses.guessing:.3g} nats")
    left.set_xlabel("loss of a token (nats)")
    left.set_ylabel("tokens (log scale)")
    left.set_title("What tokens cost")
    last = max(int(lines.lengths_D.max()), lines.max_line_tokens) + 1
    edges = np.unique(np.geomspace(1, last + 1, _BINS).astype(int)).tolist()
    right.hist(
        lines.lengths_D, edges, weights=lines.times_D, color=NORMAL, alpha=0.65, label=f"lines ({lines.lines:,})"
    )
    cut = f"cut at {lines.max_line_tokens}: {lines.cut / lines.lines:.1%}"
    right.axvline(lines.max_line_tokens, color=_MODEL, linestyle="--", label=cut)
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:g}")
    right.set_xlabel("tokens of a line, before it is cut (log scale)")
    right.set_ylabel("lines (log scale)")
    right.set_title(f"Tokens of lines: {lines.in_pieces / lines.lines:.1%} are more than one")
    for ax in (left, right):
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7)
        ax.yaxis.set_major_formatter("{x:g}")
        _legend_below(ax, columns=2)
    _save(figure, path)


def roc(kind: CalibratedKind, path: Path) -> None:
    """Draw the ROC curve of labelled calibration sessions, with the point that the threshold chooses."""
    figure, axes = _figure(1, square=True)
    _roc(axes[0], kind.scores_N, kind.truth_N, _named(kind.calibration.combination))
    _point_roc(axes[0], kind.scores_N, kind.truth_N, kind.calibration.threshold)
    axes[0].set_title(f"ROC, {kind.kind} sessions of calibration")
    _finish_roc(axes[0])
    _save(figure, path)


def precision_recall(kind: CalibratedKind, path: Path) -> None:
    """Draw the precision-recall curve of labelled calibration sessions, with the point that the threshold chooses."""
    figure, axes = _figure(1, square=True)
    _pr(axes[0], kind.scores_N, kind.truth_N, _named(kind.calibration.combination))
    _point_pr(axes[0], kind.scores_N, kind.truth_N, kind.calibration.threshold)
    axes[0].set_title(f"Precision and recall, {kind.kind} sessions of calibration")
    _finish_pr(axes[0], float(kind.truth_N.mean()))
    _save(figure, path)


def evaluation_curves(kind: KindEvaluation, path: Path) -> None:
    """Draw ROC and precision-recall side by side, the simple baselines beside the model."""
    figure, (left, right) = _figure(2, square=True)
    metrics = kind.metrics
    _roc(left, kind.scores_N, kind.truth_N, f"{_named(kind.calibration.combination)}: {metrics.auc_roc or 0:.3f}")
    _pr(right, kind.scores_N, kind.truth_N, f"{_named(kind.calibration.combination)}: {metrics.auc_pr or 0:.3f}")
    _point_roc(left, kind.scores_N, kind.truth_N, metrics.threshold)
    _point_pr(right, kind.scores_N, kind.truth_N, metrics.threshold)
    for baseline, colour in zip([each for each in kind.baselines if each.scores_N.size], _BASELINES, strict=False):
        name = f"{baseline.name}: {baseline.auc_roc or 0:.3f}"
        _roc(left, baseline.scores_N, kind.truth_N, name, colour)
        _pr(right, baseline.scores_N, kind.truth_N, f"{baseline.name}: {baseline.auc_pr or 0:.3f}", colour)
    left.set_title("ROC (below: areas under the curve)")
    right.set_title("Precision and recall (below: average precision)")
    _finish_roc(left)
    _finish_pr(right, float(kind.truth_N.mean()))
    figure.suptitle(f"{metrics.sessions:,} {kind.kind} sessions of the test, {metrics.anomalous:,} anomalous")
    _save(figure, path)


def _figure(columns: int, *, square: bool = False) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(5.4 * columns if square else 7.5, 6.4 if square else 4.8), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, column + 1) for column in range(columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(visible=True, color="#e5e5e5", linewidth=0.7)
        ax.set_axisbelow(True)
    return figure, axes


def _scores(
    ax: Axes, scores_N: np.ndarray, truth_N: np.ndarray, threshold: float | None, *, combination: str, normal: str
) -> None:
    """Draw the histograms of normal and anomalous scores, with the threshold if there is one."""
    edges, logged = _edges(scores_N if threshold is None else np.append(scores_N, threshold))
    shown_N = np.clip(scores_N, edges[0], edges[-1])
    normal_N, anomalous_N = shown_N[~truth_N], shown_N[truth_N]
    ax.hist(normal_N, edges.tolist(), color=NORMAL, alpha=0.65, label=f"{normal} ({len(normal_N):,})")
    if len(anomalous_N):
        ax.hist(anomalous_N, edges.tolist(), color=ANOMALOUS, alpha=0.65, label=f"anomalous ({len(anomalous_N):,})")
    if threshold is not None:
        ax.axvline(threshold, color=_MODEL, linestyle="--", linewidth=1.4, label=f"threshold {threshold:.4g} nats")
    if logged:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    tallest = np.histogram(normal_N, edges)[0].max()
    if tallest > _LOG_FACTOR:
        ax.set_yscale("log")
        ax.set_ylim(bottom=0.7)
        ax.yaxis.set_major_formatter("{x:g}")
    ax.set_xlabel(f"score of a session: {_named(combination)} (nats{', log scale' if logged else ''})")
    ax.set_ylabel("sessions" + (" (log scale)" if tallest > _LOG_FACTOR else ""))
    _legend_below(ax, columns=3)


def _edges(scores_N: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return histogram edges in nats, and whether they are logarithmic."""
    positive = scores_N[scores_N > 0]
    low, high = float(scores_N.min()), float(scores_N.max())
    if low >= 0 and positive.size and high / float(np.median(positive)) > _LOG_FACTOR:
        # Scores near 0 differ by nothing of interest: the axis starts where all but a few of them are.
        start = max(float(np.quantile(positive, 0.02)), high / 1e6) * 0.8
        return np.geomspace(start, high * 1.05, _BINS + 1), True
    margin = (high - low or 1.0) * 0.03
    return np.linspace(max(low - margin, 0.0) if low >= 0 else low - margin, high + margin, _BINS + 1), False


def _roc(ax: Axes, scores_N: np.ndarray, truth_N: np.ndarray, label: str, colour: str = _MODEL) -> None:
    zorder = 3 if colour == _MODEL else 2  # the model's curve lies above the others'
    false_alarms, recall, _ = roc_curve(truth_N, scores_N)
    ax.plot(false_alarms, recall, color=colour, linewidth=1.8, label=label, zorder=zorder)


def _pr(ax: Axes, scores_N: np.ndarray, truth_N: np.ndarray, label: str, colour: str = _MODEL) -> None:
    zorder = 3 if colour == _MODEL else 2
    precision, recall, _ = precision_recall_curve(truth_N, scores_N)
    ax.plot(recall, precision, color=colour, linewidth=1.8, label=label, zorder=zorder, drawstyle="steps-post")


def _point_roc(ax: Axes, scores_N: np.ndarray, truth_N: np.ndarray, threshold: float) -> None:
    flagged_N = scores_N > threshold
    _point(ax, float(flagged_N[~truth_N].mean()), float(flagged_N[truth_N].mean()), threshold)


def _point_pr(ax: Axes, scores_N: np.ndarray, truth_N: np.ndarray, threshold: float) -> None:
    flagged_N = scores_N > threshold
    if flagged_N.any():
        _point(ax, float(flagged_N[truth_N].mean()), float(truth_N[flagged_N].mean()), threshold)


def _point(ax: Axes, x: float, y: float, threshold: float) -> None:
    label = f"threshold {threshold:.4g} nats"
    ax.plot([x], [y], "o", color=ANOMALOUS, markersize=8, label=label, clip_on=False, zorder=5)


def _finish_roc(ax: Axes) -> None:
    ax.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", linewidth=1, label="chance")
    ax.set_xlabel("false-alarm rate (share of normal sessions flagged)")
    ax.set_ylabel("recall (share of anomalous sessions flagged)")
    _finish_unit(ax)


def _finish_pr(ax: Axes, prevalence: float) -> None:
    ax.axhline(prevalence, color="#bbbbbb", linestyle=":", linewidth=1, label=f"chance: {prevalence:.3f}")
    ax.set_xlabel("recall (share of anomalous sessions flagged)")
    ax.set_ylabel("precision (share of flagged sessions anomalous)")
    _finish_unit(ax)


def _finish_unit(ax: Axes) -> None:
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.04)
    ax.set_box_aspect(1)
    _legend_below(ax, columns=2)


def _legend_below(ax: Axes, columns: int) -> None:
    """Put the legend where it hides nothing."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=columns, frameon=False, fontsize=9)


def _named(combination: str) -> str:
    return combination.replace("_", " ")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
