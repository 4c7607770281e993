"""Scored sessions → the calibration of each session kind, or why it has none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from calibrate.curves import SharedScore, auc_roc, average_precision, counts_at, most_shared_score
from calibrate.sessions import DIAGNOSE, by_kind, printable
from calibrate.threshold import best_f1_cut, cheapest_cut, conformal_cut
from loggpt_stream.errors import UserError
from loggpt_stream.model.calibration import Calibration, KindCalibration
from loggpt_stream.model.statistics import COMBINED, STATISTICS, combine, fit_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibrate.sessions import ScoredSession
    from loggpt_stream.model.statistics import Scale

MIN_NORMAL: Final = 10
FEW_ANOMALOUS: Final = 10
DEFAULT_FALSE_ALARM_RATE: Final = 0.01
# More than this share of distinct sessions with one exact score: the score does not see what differs between them.
MAX_SHARED: Final = 0.05
# Two sessions may share a score by accident, where a long line is cut to the same tokens; that many do not.
MIN_SHARING: Final = 3
# The combination draws on all statistics, so it is the safer choice where a single one is hardly better.
BETTER_BY: Final = 0.01
POOR_AUC: Final = 0.7
# One session among more than this moves the scales by next to nothing.
_LEFT_OUT_MOST: Final = 300


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator asked for. false_alarm_rate: None where it was not stated. Costs: None, or of one session."""

    false_alarm_rate: float | None = None
    cost_miss: float | None = None
    cost_false_alarm: float | None = None

    @property
    def by_cost(self) -> bool:
        """Tell whether costs decide."""
        return self.cost_miss is not None or self.cost_false_alarm is not None


@dataclass(frozen=True, slots=True)
class StatisticFigures:
    """What one statistic is worth on the calibration sessions.

    auc, average_precision, best_f1: None without labels. median, high: of normal
    sessions, in nats (high: .95 quantile). shared: the score that most distinct sessions have.
    """

    name: str
    auc: float | None
    average_precision: float | None
    best_f1: float | None
    median: float
    high: float
    shared: SharedScore


@dataclass(frozen=True, slots=True)
class CalibratedKind:
    """One session kind with its calibration, and the sessions behind it.

    sessions, scores_N, truth_N: those that took part, their deciding scores, and whether they are anomalous (where
    `labelled` is False nothing is known, and all are taken as normal). how: how the threshold was chosen, in words.
    """

    kind: str
    calibration: KindCalibration
    how: str
    sessions: list[ScoredSession] = field(repr=False)
    scores_N: np.ndarray = field(repr=False)
    truth_N: np.ndarray = field(repr=False)
    figures: list[StatisticFigures]
    warnings: list[str]
    labelled: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Calibrated kinds, the primary one first, and the others with the reason why they are not judged."""

    kinds: list[CalibratedKind]
    unjudged: dict[str, str]

    def calibration(self) -> Calibration:
        """Return what goes into the bundle."""
        return Calibration({each.kind: each.calibration for each in self.kinds})

    def fingerprints(self) -> np.ndarray:
        """Return the fingerprints of all sessions that took part (int64)."""
        taken = [scored.session.fingerprint() for kind in self.kinds for scored in kind.sessions]
        return np.array(taken, dtype=np.int64)


def calibrate_kinds(scored: Sequence[ScoredSession], wishes: Wishes, *, labelled: bool) -> Outcome:
    """Calibrate each kind that can be. The primary one has the most labelled sessions, else the most sessions.

    Raises `UserError` where none can be calibrated, or where scores are such that no threshold would mean anything.
    """
    found: list[CalibratedKind] = []
    unjudged: dict[str, str] = {}
    for kind, members in by_kind(scored).items():
        _refuse_not_finite(kind, members)
        reason = unusable(members, wishes, labelled=labelled)
        if reason:
            unjudged[kind] = reason
        elif labelled and _both_classes(members):
            found.append(_with_labels(kind, members, wishes))
        else:
            found.append(_without_labels(kind, members, wishes, labels_given=labelled))
    if not found:
        reasons = "; ".join(f"{kind}: {reason}" for kind, reason in unjudged.items())
        raise UserError(f"no session kind can be calibrated. {reasons}.")
    found.sort(key=lambda each: (not each.labelled, -len(each.sessions), each.kind))
    return Outcome(found, unjudged)


def refuse_one_score(kind: str, members: Sequence[ScoredSession], scores_N: np.ndarray) -> None:
    """Raise `UserError` where different sessions have the same score: no threshold on it would mean anything."""
    shared = most_shared_score(scores_N, [each.content for each in members])
    if is_collapsed(shared):
        one, other = (
            f"{printable(members[i].session.key)} with {len(members[i].session.lines)}" for i in shared.examples
        )
        raise UserError(
            f"{kind}: {shared.sharing} of {shared.distinct} sessions that read differently have the same "
            f"{COMBINED} score, {shared.score:.6g} nats (for example {one} lines and {other}). The model does not see "
            "what differs between them, so no threshold is written. Train again: with more sessions, until the "
            "validation loss no longer falls, or with a longer --tokenizer.max-line-tokens if sessions differ only "
            f"late in long lines. Or leave this kind out by --kinds. {DIAGNOSE}"
        )


def is_collapsed(shared: SharedScore) -> bool:
    """Tell whether so many distinct sessions have one score that it is no accident."""
    if shared.distinct_scores == 1:
        return shared.distinct > 1
    return shared.sharing >= MIN_SHARING and shared.share > MAX_SHARED


def scores_of(name: str, members: Sequence[ScoredSession], scales: Mapping[str, Scale]) -> np.ndarray:
    """Return one statistic, or the combination, of each session, in nats."""
    if name == COMBINED:
        return np.array([combine(each.statistics, scales) for each in members])
    return np.array([each.statistics[name] for each in members])


def left_out_scores(statistics: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the combined score of each session under scales fitted to the others, in nats.

    A session that its own scale was fitted to scores low, where a later one does not: with 20 sessions a threshold
    drawn from such scores raises a quarter more false alarms than promised, with 10 half as many again.
    """
    return np.array(
        [combine(each, fit_scales([*statistics[:i], *statistics[i + 1 :]])) for i, each in enumerate(statistics)]
    )


def unusable(members: Sequence[ScoredSession], wishes: Wishes, *, labelled: bool) -> str:
    """Return why this kind cannot be calibrated, or ""."""
    supervised = labelled and _both_classes(members)
    if labelled and not supervised and wishes.false_alarm_rate is None:
        known = [each for each in members if each.truth is not None]
        what = (
            f"its {len(known)} labelled sessions are all of one class" if known else "none of its sessions has a label"
        )
        return f"{what}; with --false-alarm-rate its threshold would come from the sessions not labelled anomalous"
    normal = [each for each in members if (each.truth is False if supervised else not each.truth)]
    if len(normal) < MIN_NORMAL:
        return (
            f"{len(normal)} normal sessions; at least {MIN_NORMAL} are needed, and hundreds for a fine false-alarm rate"
        )
    if len({each.content for each in normal}) == 1:
        return f"its {len(normal)} normal sessions all read alike, so nothing tells what is unusual"
    return ""


def figures_of(
    members: Sequence[ScoredSession], truth_N: np.ndarray, scales: Mapping[str, Scale]
) -> list[StatisticFigures]:
    """Return what the combination and each statistic are worth on sessions of one kind."""
    contents = [each.content for each in members]
    found = []
    for name in (COMBINED, *STATISTICS):
        scores_N = scores_of(name, members, scales)
        labelled = bool(truth_N.any())
        best = counts_at(scores_N, truth_N, np.array([best_f1_cut(scores_N, truth_N)])).f1[0] if labelled else None
        found.append(
            StatisticFigures(
                name,
                auc_roc(scores_N, truth_N),
                average_precision(scores_N, truth_N),
                None if best is None else float(best),
                float(np.median(scores_N[~truth_N])),
                float(np.quantile(scores_N[~truth_N], 0.95)),
                most_shared_score(scores_N, contents),
            )
        )
    return found


def choose_statistic(figures: Sequence[StatisticFigures]) -> str:
    """Return the statistic to decide by: COMBINED, unless another has a clearly better average precision."""
    precision = {each.name: each.average_precision or 0.0 for each in figures}
    # A statistic that many sessions share to the digit cannot order them, whatever its figure.
    fit = [each.name for each in figures if each.name != COMBINED and not is_collapsed(each.shared)]
    best = max(fit, key=precision.__getitem__, default=COMBINED)
    return best if precision[best] > precision[COMBINED] + BETTER_BY else COMBINED


def _refuse_not_finite(kind: str, members: Sequence[ScoredSession]) -> None:
    broken = [each for each in members if not np.isfinite(list(each.statistics.values())).all()]
    if broken:
        raise UserError(
            f"{kind}: the scores of {len(broken)} of {len(members)} sessions are not finite "
            f"({printable(broken[0].session.key)} first): the model is damaged. Train again. {DIAGNOSE}"
        )


def _with_labels(kind: str, members: Sequence[ScoredSession], wishes: Wishes) -> CalibratedKind:
    known = [each for each in members if each.truth is not None]
    truth_N = np.array([each.truth for each in known], dtype=bool)
    normal = [each for each in known if not each.truth]
    scales = fit_scales([each.statistics for each in normal])
    refuse_one_score(kind, known, scores_of(COMBINED, known, scales))
    figures = figures_of(known, truth_N, scales)
    statistic = choose_statistic(figures)
    scores_N = scores_of(statistic, known, scales)
    if wishes.by_cost:
        cost_miss, cost_false_alarm = _costs(wishes)
        threshold = cheapest_cut(scores_N, truth_N, cost_miss=cost_miss, cost_false_alarm=cost_false_alarm)
        how = f"least cost on labelled sessions, a miss costing {cost_miss:g} and a false alarm {cost_false_alarm:g}"
    else:
        threshold = best_f1_cut(scores_N, truth_N)
        how = "highest F1 on labelled sessions, cut in the middle of the gap between neighbouring scores"
    counts = counts_at(scores_N, truth_N, np.array([threshold]))
    if not counts.tn_T[0]:
        raise UserError(
            f"{kind}: the best threshold for these labels flags all {len(normal)} normal sessions: the scores do not "
            f"tell them from the {int(truth_N.sum())} anomalous ones, so no threshold is written. Are the labels those "
            "of these sessions? Else train longer, or on more normal sessions, or state other costs. "
            f"{DIAGNOSE}"
        )
    calibration = KindCalibration(
        statistic=statistic,
        threshold=threshold,
        basis="labels_cost" if wishes.by_cost else "labels_f1",
        false_alarm_rate=float((1 + counts.fp_T[0]) / (1 + len(normal))),
        scales=scales,
        normal_scores=tuple(np.sort(scores_N[~truth_N]).tolist()),
        anomalous_sessions=int(truth_N.sum()),
    )
    warnings = _labelled_warnings(members, known, truth_N, scores_N)
    if not counts.tp_T[0]:
        warnings.append(
            "The threshold flags none of the anomalous calibration sessions: at these costs, alerts do not pay."
        )
    return CalibratedKind(kind, calibration, how, known, scores_N, truth_N, figures, warnings, labelled=True)


def _without_labels(
    kind: str, members: Sequence[ScoredSession], wishes: Wishes, *, labels_given: bool
) -> CalibratedKind:
    taken = [each for each in members if not each.truth]
    truth_N = np.zeros(len(taken), dtype=bool)
    scales = fit_scales([each.statistics for each in taken])
    scores_N = scores_of(COMBINED, taken, scales)
    refuse_one_score(kind, taken, scores_N)
    if len(taken) <= _LEFT_OUT_MOST:
        scores_N = left_out_scores([each.statistics for each in taken])
    asked = DEFAULT_FALSE_ALARM_RATE if wishes.false_alarm_rate is None else wishes.false_alarm_rate
    cut = conformal_cut(scores_N, asked)
    warnings = []
    if not cut.supported:
        warnings.append(
            f"{cut.sessions} sessions support no finer rate than 1/({cut.sessions}+1) = {cut.rate:.4g}; "
            f"asked {asked:g}."
        )
    if cut.rank == cut.sessions:
        warnings.append(
            f"The threshold is the highest of {cut.sessions} scores: one unnoticed failure among them hides all "
            "that score lower. See below whose score it is; calibrate with more sessions, or ask for a greater rate."
        )
    if labels_given:
        warnings.append("This kind has no labels of both classes: its threshold comes from the false-alarm rate alone.")
    calibration = KindCalibration(
        statistic=COMBINED,
        threshold=cut.threshold,
        basis="conformal",
        false_alarm_rate=cut.rate,
        scales=scales,
        normal_scores=tuple(np.sort(scores_N).tolist()),
    )
    how = (
        f"conformal quantile for a false-alarm rate of {asked:g}: number {cut.rank:,} of {cut.sessions:,} scores in "
        "ascending order, all sessions taken as normal"
    )
    figures = figures_of(taken, truth_N, scales)
    return CalibratedKind(kind, calibration, how, taken, scores_N, truth_N, figures, warnings, labelled=False)


def _labelled_warnings(
    members: Sequence[ScoredSession], known: Sequence[ScoredSession], truth_N: np.ndarray, scores_N: np.ndarray
) -> list[str]:
    warnings = []
    anomalous = int(truth_N.sum())
    if len(members) > len(known):
        warnings.append(f"{len(members) - len(known)} sessions have no label and were left out.")
    if anomalous < FEW_ANOMALOUS:
        warnings.append(f"Only {anomalous} anomalous sessions chose the threshold: another few could move it far.")
    auc = auc_roc(scores_N, truth_N)
    if auc is not None and auc < POOR_AUC:
        warnings.append(
            f"Scores of normal and anomalous sessions overlap widely (AUC-ROC {auc:.3f}): expect many false alarms or "
            "misses."
        )
    return warnings


def _both_classes(members: Sequence[ScoredSession]) -> bool:
    return {each.truth for each in members} >= {True, False}


def _costs(wishes: Wishes) -> tuple[float, float]:
    """Return the costs of a miss and of a false alarm; the one not stated is 1."""
    return (
        1.0 if wishes.cost_miss is None else wishes.cost_miss,
        1.0 if wishes.cost_false_alarm is None else wishes.cost_false_alarm,
    )
