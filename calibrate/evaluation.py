"""Scored test sessions → how good a calibrated bundle is, beside what the simplest detectors reach."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from calibrate.baselines import LOUD, baseline_scores
from calibrate.curves import (
    DetectionMetrics,
    SharedScore,
    auc_roc,
    average_precision,
    counts_at,
    detection_metrics,
    most_shared_score,
    rate_interval,
)
from calibrate.per_kind import is_collapsed, scores_of
from calibrate.sessions import by_kind
from loggpt_stream.errors import UserError
from loggpt_stream.model.line_frequencies import EMPTY
from loggpt_stream.model.statistics import FROM_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibrate.sessions import ScoredSession
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.lines.session import Session
    from loggpt_stream.model.calibration import Calibration, KindCalibration
    from loggpt_stream.model.line_frequencies import LineFrequencies


@dataclass(frozen=True, slots=True)
class Baseline:
    """A detector that needs no model, on the same sessions. f1: at `rule`, where it has one."""

    name: str
    auc_roc: float | None
    auc_pr: float | None
    rule: str = ""
    f1: float | None = None
    scores_N: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)


@dataclass(frozen=True, slots=True)
class KindEvaluation:
    """Figures of one session kind.

    observed_interval: binomial interval of the observed false-alarm rate. shared: the score that most distinct sessions
    have, `shared_flagged` that of the flagged ones (None where nothing is flagged). unlabelled: sessions left out.
    """

    kind: str
    calibration: KindCalibration
    metrics: DetectionMetrics
    observed_interval: tuple[float, float] | None
    baselines: list[Baseline]
    shared: SharedScore
    shared_flagged: SharedScore | None
    warnings: list[str]
    scores_N: np.ndarray = field(repr=False)
    truth_N: np.ndarray = field(repr=False)
    unlabelled: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The evaluated kinds, the one with most sessions first, and why others were not."""

    kinds: list[KindEvaluation]
    left_out: dict[str, str]


def evaluate_kinds(
    scored: Sequence[ScoredSession],
    calibration: Calibration,
    groups: dict[int, str],
    *,
    line_frequencies: Mapping[str, LineFrequencies],
    seed: int,
) -> Evaluation:
    """Compare the verdicts with the truth, kind by kind.

    groups: what belongs together, by session fingerprint. line_frequencies: of the training sessions, for the simple
    detectors.

    Raises `UserError` where no kind is both calibrated and labelled.
    """
    found: list[KindEvaluation] = []
    left_out: dict[str, str] = {}
    for kind, members in by_kind(scored).items():
        known = [each for each in members if each.truth is not None]
        if kind not in calibration.kinds:
            left_out[kind] = f"{len(members)} sessions: the bundle has no calibration for this kind"
        elif not known:
            left_out[kind] = f"{len(members)} sessions: none has a label"
        else:
            groups_N = [groups[each.session.fingerprint()] for each in known]
            frequencies = line_frequencies.get(kind, EMPTY)
            evaluated = _evaluate(kind, known, calibration.kinds[kind], groups_N, frequencies=frequencies, seed=seed)
            found.append(replace(evaluated, unlabelled=len(members) - len(known)))
    if not found:
        reasons = "; ".join(f"{kind}: {reason}" for kind, reason in left_out.items())
        raise UserError(f"nothing to evaluate. {reasons}. Name labelled sessions of a kind that the bundle judges.")
    found.sort(key=lambda each: (-each.metrics.sessions, each.kind))
    return Evaluation(found, left_out)


def groups_of(sessions: Sequence[Session], labels: Labels | None, column: str | None) -> dict[int, str]:
    """Return what each session belongs to, by fingerprint: the label column, else explicit session id, else its key."""
    found = {}
    for session in sessions:
        row = labels.row(session) if labels and column else None
        value = row[column] if row and column else ""
        found[session.fingerprint()] = f"{column}={value}" if value else session.group or session.key
    return found


def _evaluate(
    kind: str,
    known: Sequence[ScoredSession],
    calibration: KindCalibration,
    groups_N: Sequence[str],
    *,
    frequencies: LineFrequencies,
    seed: int,
) -> KindEvaluation:
    scores_N = np.array([calibration.score(each.statistics) for each in known])
    truth_N = np.array([each.truth for each in known], dtype=bool)
    contents = [each.content for each in known]
    metrics = detection_metrics(scores_N, truth_N, calibration.threshold, groups_N, seed=seed)
    flagged = np.flatnonzero(scores_N > calibration.threshold)
    # The model has to tell sessions apart by itself: what the frequencies of lines adds would hide that it does not.
    of_model = {name: scale for name, scale in calibration.scales.items() if name in FROM_MODEL} or calibration.scales
    said_N = scores_of(known, of_model)
    shared = most_shared_score(said_N, contents)
    shared_flagged = most_shared_score(said_N[flagged], [contents[i] for i in flagged]) if flagged.size else None
    observed_interval = rate_interval(metrics.fp, metrics.fp + metrics.tn)
    return KindEvaluation(
        kind=kind,
        calibration=calibration,
        metrics=metrics,
        observed_interval=observed_interval,
        baselines=_baselines([each.session for each in known], truth_N, frequencies),
        shared=shared,
        shared_flagged=shared_flagged,
        warnings=_warnings(metrics, calibration, observed_interval, shared, shared_flagged),
        scores_N=scores_N,
        truth_N=truth_N,
    )


def _baselines(sessions: Sequence[Session], truth_N: np.ndarray, frequencies: LineFrequencies) -> list[Baseline]:
    # The median of the very sessions that are judged: no labels in it, but it favours the length a little.
    typical_lines = float(np.median([len(session.lines) for session in sessions]))
    each_scores = [baseline_scores(session, frequencies, typical_lines) for session in sessions]
    found = []
    for name in each_scores[0]:
        scores_N = np.array([scores[name] for scores in each_scores])
        any_loud = float(counts_at(scores_N, truth_N, np.zeros(1)).f1[0]) if name == LOUD else None
        rule = "any such line" if name == LOUD else ""
        found.append(
            Baseline(name, auc_roc(scores_N, truth_N), average_precision(scores_N, truth_N), rule, any_loud, scores_N)
        )
    return [*found, Baseline("flag everything", 0.5, None, "every session", _f1_of_everything(truth_N))]


def _f1_of_everything(truth_N: np.ndarray) -> float:
    return float(2 * truth_N.sum() / (truth_N.sum() + len(truth_N)))


def _warnings(
    metrics: DetectionMetrics,
    calibration: KindCalibration,
    observed_interval: tuple[float, float] | None,
    shared: SharedScore,
    shared_flagged: SharedScore | None,
) -> list[str]:
    warnings = []
    normal = metrics.fp + metrics.tn
    if normal and not metrics.tn:
        warnings.append(
            f"NO TRUE NEGATIVE: all {normal} normal sessions were flagged. This detector does not work, whatever its "
            f"F1 ({metrics.f1:.3f}) or recall ({metrics.recall:.3f}) says."
        )
    if metrics.auc_roc is None:
        warnings.append("Only one class is there: no curve, area or interval can be computed.")
    for what, each in (("sessions", shared), ("flagged sessions", shared_flagged)):
        if each and is_collapsed(each):
            warnings.append(
                f"ONE SCORE: {each.sharing} of {each.distinct} {what} that read differently have the same score "
                f"{each.score:.6g} nats: the model does not see what differs between them."
            )
    if observed_interval and observed_interval[0] > calibration.false_alarm_rate:
        warnings.append(
            f"MORE FALSE ALARMS THAN PROMISED: {metrics.false_alarm_rate:.2%} of the normal sessions, where "
            f"calibration promised {calibration.false_alarm_rate:.2%}; even the low end of the interval, "
            f"{observed_interval[0]:.2%}, is above it. {_why_more(calibration, observed_interval[0])}"
        )
    return warnings


def promised_interval(interval: tuple[float, float]) -> str:
    """Return in words how far a calibration on so few sessions can be from the rate that it promises."""
    return f"{interval[0]:.2%} to {interval[1]:.2%} in 95 of 100 calibrations on as many sessions"


def _why_more(calibration: KindCalibration, least: float) -> str:
    interval = calibration.false_alarm_interval
    if interval and least <= interval[1]:
        return (
            f"That may be chance: with {len(calibration.normal_scores)} normal sessions the rate is "
            f"{promised_interval(interval)}. Calibrate on more sessions, or on newer ones if normal behaviour changed."
        )
    return "Normal behaviour has probably changed since calibration: calibrate on newer sessions."
