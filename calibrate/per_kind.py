"""Scored sessions → the calibration of each session kind, or why it has none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy.stats import gamma

from calibrate.curves import SharedScore, auc_roc, average_precision, counts_at, most_shared_score
from calibrate.lengths import part_lengths
from calibrate.sessions import DIAGNOSE, by_kind, printable
from calibrate.settings import CONTAMINATION, DEFAULT_FALSE_ALARM_RATE
from calibrate.threshold import (
    best_f1_cut,
    cheapest_cut,
    conformal_cut,
    guaranteed_rate,
    robust_cut,
    sample_interval,
    score_spread,
    tail_cut,
)
from loggpt_stream.errors import UserError
from loggpt_stream.model.calibration import Calibration, EarlyCalibration, KindCalibration
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED, EARLY, MODEL, STATISTICS, combine, fit_scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibrate.lengths import LengthBand, Lengths
    from calibrate.sessions import ScoredSession
    from calibrate.threshold import ConformalCut
    from loggpt_stream.model.statistics import AnyScale

MIN_NORMAL: Final = 10
FEW_ANOMALOUS: Final = 10
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
class CalibrationRequest:
    """What the operator asked for. false_alarm_rate: None where it was not stated. Costs: None, or of one session.

    contamination: up to this share of sessions without labels may be failures; 0 takes all of them as normal.
    early_false_alarm_rate: share of normal sessions that may alarm while they are open; None where it was not stated.
    """

    false_alarm_rate: float | None = None
    contamination: float = CONTAMINATION
    cost_miss: float | None = None
    cost_false_alarm: float | None = None
    early_false_alarm_rate: float | None = None

    @property
    def by_cost(self) -> bool:
        """Tell whether costs decide."""
        return self.cost_miss is not None or self.cost_false_alarm is not None


@dataclass(frozen=True, slots=True)
class StatisticFigures:
    """What one statistic, or combination of `members`, is worth on the calibration sessions.

    auc, average_precision, best_f1: None without labels. median, high: of the scores of normal sessions, in nats (high:
    .95 quantile). shared: the score that most distinct sessions have.
    """

    name: str
    members: tuple[str, ...]
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
    `labelled` is False nothing is known, and all are taken as normal). how, early_how: how the threshold, and that of
    open sessions, was chosen, in words. lengths: how sessions of different length were calibrated; None with labels,
    which choose one threshold over all.
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
    early_how: str = ""
    lengths: Lengths | None = None


@dataclass(frozen=True, slots=True)
class CalibrationOutcome:
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


def calibrate_kinds(
    scored: Sequence[ScoredSession], request: CalibrationRequest, *, labelled: bool
) -> CalibrationOutcome:
    """Calibrate each kind that can be. The primary one has the most labelled sessions, else the most sessions.

    Raises `UserError` where none can be calibrated, or where scores are such that no threshold would mean anything.
    """
    found: list[CalibratedKind] = []
    unjudged: dict[str, str] = {}
    for kind, members in by_kind(scored).items():
        _refuse_not_finite(kind, members)
        reason = unusable(members, request, labelled=labelled)
        if reason:
            unjudged[kind] = reason
        elif labelled and _both_classes(members):
            found.append(_with_labels(kind, members, request))
        else:
            found.append(_without_labels(kind, members, request, labels_given=labelled))
    if not found:
        reasons = "; ".join(f"{kind}: {reason}" for kind, reason in unjudged.items())
        raise UserError(f"no session kind can be calibrated. {reasons}.")
    found.sort(key=lambda each: (not each.labelled, -len(each.sessions), each.kind))
    return CalibrationOutcome(found, unjudged)


def refuse_one_score(
    kind: str, members: Sequence[ScoredSession], all_scales: Mapping[str, Mapping[str, AnyScale]]
) -> None:
    """Raise `UserError` where different sessions have the same score: no threshold on it would mean anything.

    The model has to tell them apart by itself: what the frequencies of lines adds would hide that it learned nothing.
    """
    scores_N = scores_of(members, all_scales[MODEL])
    shared = most_shared_score(scores_N, [each.content for each in members])
    if is_collapsed(shared):
        one, other = (
            f"{printable(members[i].session.key)} with {len(members[i].session.lines)}" for i in shared.examples
        )
        raise UserError(
            f"{kind}: {shared.sharing} of {shared.distinct} sessions that read differently have the same "
            f"{MODEL} score, {shared.score:.6g} nats (for example {one} lines and {other}). The model does not see "
            "what differs between them, so no threshold is written. Train again: with more sessions, until the "
            "validation loss no longer falls, or with a longer --tokenizer.max-line-tokens if sessions differ only "
            f"late in long lines. Or leave this kind out by --kinds. {DIAGNOSE}"
        )


def is_collapsed(shared: SharedScore) -> bool:
    """Tell whether so many distinct sessions have one score that it is no accident."""
    if shared.distinct_scores == 1:
        return shared.distinct > 1
    return shared.sharing >= MIN_SHARING and shared.share > MAX_SHARED


def candidates(statistics: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Return what a session may be judged by: combinations and single statistics, of those that were computed."""
    combined = {name: tuple(each for each in of if each in statistics) for name, of in COMBINATIONS.items()}
    return {name: of for name, of in combined.items() if of} | {
        name: (name,) for name in STATISTICS if name in statistics
    }


def scores_of(members: Sequence[ScoredSession], scales: Mapping[str, AnyScale]) -> np.ndarray:
    """Return the score of each session by the statistics that have a scale, in nats."""
    return np.array([combine(each.statistics, scales) for each in members])


def left_out_scores(statistics: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    """Return the combined score of each session under scales fitted to the others, in nats.

    A session that its own scale was fitted to scores low, where a later one does not: with 20 sessions a threshold
    drawn from such scores raises a quarter more false alarms than promised, with 10 half as many again.
    """
    return np.array(
        [combine(each, fit_scales([*statistics[:i], *statistics[i + 1 :]], names)) for i, each in enumerate(statistics)]
    )


def unusable(members: Sequence[ScoredSession], request: CalibrationRequest, *, labelled: bool) -> str:
    """Return why this kind cannot be calibrated, or ""."""
    supervised = labelled and _both_classes(members)
    if labelled and not supervised and request.false_alarm_rate is None:
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


def _refuse_not_finite(kind: str, members: Sequence[ScoredSession]) -> None:
    broken = [each for each in members if not np.isfinite(list(each.statistics.values())).all()]
    if broken:
        raise UserError(
            f"{kind}: the scores of {len(broken)} of {len(members)} sessions are not finite "
            f"({printable(broken[0].session.key)} first): the model is damaged. Train again. {DIAGNOSE}"
        )


def _with_labels(kind: str, members: Sequence[ScoredSession], request: CalibrationRequest) -> CalibratedKind:
    known = [each for each in members if each.truth is not None]
    truth_N = np.array([each.truth for each in known], dtype=bool)
    normal = [each for each in known if not each.truth]
    all_scales = candidate_scales(normal)
    refuse_one_score(kind, known, all_scales)
    figures = figures_of(known, truth_N, all_scales)
    combination = choose_combination(figures)
    scales = all_scales[combination]
    scores_N = scores_of(known, scales)
    spread = score_spread(scores_N, truth_N)
    if request.by_cost:
        cost_miss, cost_false_alarm = _costs(request)
        threshold = cheapest_cut(
            scores_N, truth_N, cost_miss=cost_miss, cost_false_alarm=cost_false_alarm, spread=spread
        )
        how = (
            "least expected cost of sessions that score like the labelled ones, a miss costing "
            f"{cost_miss:g} and a false alarm {cost_false_alarm:g}"
        )
    else:
        threshold = best_f1_cut(scores_N, truth_N, spread=spread)
        how = "highest expected F1 of sessions that score like the labelled ones"
    if spread:
        how += f" (each of their scores spread by a factor of {math.exp(spread):.2f})"
    counts = counts_at(scores_N, truth_N, np.array([threshold]))
    if not counts.tn_T[0]:
        raise UserError(
            f"{kind}: the best threshold for these labels flags all {len(normal)} normal sessions: the scores do not "
            f"tell them from the {int(truth_N.sum())} anomalous ones, so no threshold is written. Are the labels those "
            "of these sessions? Else train longer, or on more normal sessions, or state other costs. "
            f"{DIAGNOSE}"
        )
    # These are known to be normal: their own quantile guarantees the rate, and nothing has to be disbelieved.
    early_rate = DEFAULT_FALSE_ALARM_RATE if request.early_false_alarm_rate is None else request.early_false_alarm_rate
    early, early_how = _early(normal, early_rate, contamination=0.0)
    calibration = KindCalibration(
        combination=combination,
        threshold=threshold,
        basis="labels_cost" if request.by_cost else "labels_f1",
        false_alarm_rate=float((1 + counts.fp_T[0]) / (1 + len(normal))),
        false_alarm_interval=sample_interval(int(counts.fp_T[0]), len(normal)),
        scales=scales,
        normal_scores=tuple(np.sort(scores_N[~truth_N]).tolist()),
        anomalous_sessions=int(truth_N.sum()),
        early=early,
    )
    warnings = _labelled_warnings(members, known, truth_N, scores_N)
    if not counts.tp_T[0]:
        warnings.append(
            "The threshold flags none of the anomalous calibration sessions: at these costs, alerts do not pay."
        )
    return CalibratedKind(
        kind, calibration, how, known, scores_N, truth_N, figures, warnings, labelled=True, early_how=early_how
    )


def _without_labels(
    kind: str, members: Sequence[ScoredSession], request: CalibrationRequest, *, labels_given: bool
) -> CalibratedKind:
    taken = [each for each in members if not each.truth]
    truth_N = np.zeros(len(taken), dtype=bool)
    all_scales = candidate_scales(taken)
    scales = all_scales[COMBINED]
    scores_N = scores_of(taken, scales)
    refuse_one_score(kind, taken, all_scales)
    if len(taken) <= _LEFT_OUT_MOST:
        scores_N = left_out_scores([each.statistics for each in taken], list(scales))
    asked = DEFAULT_FALSE_ALARM_RATE if request.false_alarm_rate is None else request.false_alarm_rate
    lines_N = np.array([len(each.session.lines) for each in taken])
    lengths = part_lengths(
        scores_N,
        lines_N,
        request.contamination,
        lambda scores_N, contamination: _cut_without_labels(scores_N, asked, contamination)[0].threshold,
    )
    scores_N *= lengths.factors_of(lines_N)
    cut, basis, how, warnings = _cut_without_labels(scores_N, asked, request.contamination)
    if lengths.not_parted:
        warnings.append(_hidden_lengths(lengths.not_parted, lengths.contamination))
    if labels_given:
        warnings.append("This kind has no labels of both classes: its threshold comes from the false-alarm rate alone.")
    early_rate = asked if request.early_false_alarm_rate is None else request.early_false_alarm_rate
    early, early_how = _early(taken, early_rate, contamination=request.contamination)
    calibration = KindCalibration(
        combination=COMBINED,
        threshold=cut.threshold,
        basis=basis,
        false_alarm_rate=cut.rate,
        false_alarm_interval=cut.rate_interval,
        scales=scales,
        normal_scores=tuple(np.sort(scores_N).tolist()),
        early=early,
        length_factors=lengths.factors,
    )
    figures = figures_of(taken, truth_N, all_scales)
    return CalibratedKind(
        kind,
        calibration,
        how,
        taken,
        scores_N,
        truth_N,
        figures,
        warnings,
        labelled=False,
        early_how=early_how,
        lengths=lengths,
    )


def _early(
    normal: Sequence[ScoredSession], rate: float, *, contamination: float
) -> tuple[EarlyCalibration | None, str]:
    """Return the calibration of open sessions at a false-alarm rate, and how its threshold was found in words.

    It is fitted to whole sessions: no early score of a session is higher than that of the whole
    (`loggpt_stream.model.early`), so the rate bounds that of alarms at any look. None without such statistics.
    """
    statistics = [each.statistics for each in normal]
    names = [name for name in EARLY if name in statistics[0]]
    if not names:
        return None, ""
    scales = fit_scales(statistics, names)
    # Two statistics of one scale each: scores under scales fitted to the others too gain nothing. In simulations they
    # raise the threshold of normal sessions with a few recovered faults by 3 nats, to a tenth of the promised rate.
    scores_N = scores_of(normal, scales)
    if contamination > rate:
        cut, basis, how, _ = _cut_without_labels(scores_N, rate, contamination)
        least = float(gamma.isf(rate, len(names)))
        if cut.threshold < least:
            # Most sessions have no line that is new and score much alike. A tail fitted to them ends at once.
            cut = replace(cut, threshold=least)
            how += (
                f"; raised to {least:.2f} nats, which the sum of {len(names)} p-values reaches at that rate by chance"
            )
    else:
        # Where they are too few for the rate, the finest that they guarantee: what a modelled tail adds to it would
        # lie above the failures, since lines never seen cost much the same in all sessions.
        cut, basis = conformal_cut(scores_N, rate), "conformal"
        how = (
            f"conformal quantile for a false-alarm rate of {rate:g}: number {cut.rank:,} of {cut.sessions:,} early "
            "scores of whole normal sessions in ascending order"
            + ("" if cut.supported else f", the finest rate that so many guarantee being {cut.rate:.4g}")
        )
    early = EarlyCalibration(
        threshold=cut.threshold,
        basis=basis,
        false_alarm_rate=cut.rate,
        scales=scales,
        normal_scores=tuple(np.sort(scores_N).tolist()),
    )
    return early, how


def _cut_without_labels(
    scores_N: np.ndarray, asked: float, contamination: float
) -> tuple[ConformalCut, str, str, list[str]]:
    """Return the threshold for a false-alarm rate, its basis, how it was found in words, and warnings."""
    sessions = len(scores_N)
    cut = robust_cut(scores_N, asked, contamination) if contamination > asked else None
    if cut and cut.supported:
        above = sessions - cut.rank
        how = (
            f"tail fitted to the scores of {sessions:,} sessions for a false-alarm rate of {asked:g}, the highest "
            f"{contamination:.0%} counting only as high, since they may be failures; {above:,} sessions are above it"
        )
        most = guaranteed_rate(scores_N, cut.threshold)
        warnings = []
        if most > 2 * asked + 1 / (sessions + 1):
            warnings.append(
                f"{above} of {sessions} calibration sessions score above the threshold for {asked:g}. If they are "
                f"failures (the report lists them), expect {asked:g} of the normal sessions to alarm; if they are "
                f"normal, up to {most:.2%}."
            )
        return cut, "robust_tail", how, warnings
    cut = conformal_cut(scores_N, asked)
    if cut.supported:
        how = (
            f"conformal quantile for a false-alarm rate of {asked:g}: number {cut.rank:,} of {sessions:,} scores in "
            "ascending order, all sessions taken as normal"
        )
        warnings = []
    else:
        cut = tail_cut(scores_N, asked)
        how = (
            f"generalised Pareto tail of {sessions:,} scores at the false-alarm rate {asked:g}, all sessions taken as "
            "normal"
        )
        warnings = [
            (
                f"{sessions} sessions guarantee no finer rate than 1/({sessions}+1) = {1 / (sessions + 1):.4g}; asked "
                f"{asked:g}. The threshold is that of a modelled tail: likely, not guaranteed."
            )
        ]
    if cut.rank == sessions:
        warnings.append(
            f"The threshold is not below the highest of {sessions} scores: one unnoticed failure among them hides all "
            "that score lower. See below whose score it is; calibrate with more sessions, ask for a greater rate, or "
            "let --contamination say that some may be failures."
        )
    return cut, "conformal" if cut.supported else "tail_model", how, warnings


def _hidden_lengths(band: LengthBand, contamination: float) -> str:
    return (
        f"{band.alarming} of the {band.sessions} sessions of {band.name} score above the threshold, more than those of "
        "other lengths. Either they are failures, or normal sessions of that length are harder to predict: without "
        "labels nothing tells, so all lengths are judged alike. If no more than about "
        f"{contamination:.2g} of your sessions are failures, say so by --contamination {contamination:.2g}, and "
        "lengths can be calibrated apart."
    )


def candidate_scales(normal: Sequence[ScoredSession]) -> dict[str, dict[str, AnyScale]]:
    """Return the scales of each candidate, fitted to normal sessions."""
    statistics = [each.statistics for each in normal]
    single = fit_scales(statistics, list(statistics[0]))
    return {name: {each: single[each] for each in of} for name, of in candidates(statistics[0]).items()}


def figures_of(
    members: Sequence[ScoredSession], truth_N: np.ndarray, all_scales: Mapping[str, Mapping[str, AnyScale]]
) -> list[StatisticFigures]:
    """Return what each candidate is worth on these sessions."""
    contents = [each.content for each in members]
    found = []
    for name, scales in all_scales.items():
        scores_N = scores_of(members, scales)
        labelled = bool(truth_N.any())
        best = counts_at(scores_N, truth_N, np.array([best_f1_cut(scores_N, truth_N)])).f1[0] if labelled else None
        found.append(
            StatisticFigures(
                name,
                tuple(scales),
                auc_roc(scores_N, truth_N),
                average_precision(scores_N, truth_N),
                None if best is None else float(best),
                float(np.median(scores_N[~truth_N])),
                float(np.quantile(scores_N[~truth_N], 0.95)),
                most_shared_score(scores_N, contents),
            )
        )
    return found


def choose_combination(figures: Sequence[StatisticFigures]) -> str:
    """Return what to decide by: COMBINED, unless another has a clearly better average precision."""
    precision = {each.name: each.average_precision or 0.0 for each in figures}
    # Single statistics are shown and not chosen: the best of so many on few sessions is best by luck. And a score that
    # many sessions share to the digit cannot order them, whatever its figure.
    fit = [each.name for each in figures if each.name in COMBINATIONS and not is_collapsed(each.shared)]
    best = max(fit, key=precision.__getitem__, default=COMBINED)
    return best if precision[best] > precision[COMBINED] + BETTER_BY else COMBINED


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


def _costs(request: CalibrationRequest) -> tuple[float, float]:
    """Return the costs of a miss and of a false alarm; the one not stated is 1."""
    return (
        1.0 if request.cost_miss is None else request.cost_miss,
        1.0 if request.cost_false_alarm is None else request.cost_false_alarm,
    )
