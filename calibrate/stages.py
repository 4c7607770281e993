"""What `loggpt-calibrate` does: choose thresholds, evaluate them, and explain a model that is no good."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import torch

from calibrate import report
from calibrate.diagnosis import (
    IDENTICAL_SCORES,
    Diagnosis,
    explained,
    in_order,
    judge_kind,
    judged_by,
    kind_findings,
    leakage_findings,
    line_findings,
    loss_findings,
    refuse_fatal,
    weight_findings,
)
from calibrate.evaluation import evaluate_kinds, groups_of
from calibrate.measurements import LineMeasurements, LossProfile, common_cause, find_leakage
from calibrate.per_kind import CalibrationRequest, calibrate_kinds, unusable
from calibrate.sessions import NotFiniteError, by_kind, held_out_sessions, refuse_known, score_sessions, select
from calibrate.settings import DEFAULT_FALSE_ALARM_RATE
from loggpt_stream.errors import UserError
from loggpt_stream.history.labels import read_labels
from loggpt_stream.history.source import read_source
from loggpt_stream.logs import get_logger
from loggpt_stream.model.bundle import load_bundle, save_calibrated
from loggpt_stream.model.gpt import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibrate.diagnosis import Finding
    from calibrate.sessions import ScoredSession, Selection, Traffic
    from calibrate.settings import CalibrateSettings, DiagnoseSettings, EvaluateSettings, ScoringSettings
    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.history.files import Reading
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.scoring import Scorer

_HALF: Final = 0.5
# So many sessions, evenly from all, tell what tokens cost; and so many of those with one score, what gives it.
_PROFILED: Final = 256
_EXPLAINED: Final = 64
_PROGRESS_S: Final = 5.0


def calibrate(settings: CalibrateSettings) -> int:
    """Choose thresholds on sessions that the model did not learn from, and write them into a bundle."""
    bundle = load_bundle(settings.bundle, calibrated=False)
    labels = _labels(settings)
    corpus = _read(settings, bundle)
    only = held_out_sessions(bundle) if settings.held_out else None
    selection = select(corpus, labels, settings.select, kinds=settings.kinds, only=only)
    refuse_known(
        selection.sessions,
        bundle,
        ("train",),
        "Name logs that it did not learn from, choose others by --labels and --select, or give --held-out to use "
        "exactly the sessions that the trainer held out.",
    )
    # Every statistic is shown, those too that decide nothing.
    scorer = _scorer(settings, bundle, ranks=True)
    refuse_fatal(weight_findings(dict(scorer.model.named_parameters())))
    scored = score_sessions(selection.sessions, scorer, labels, settings.anomaly_column)
    rate = settings.false_alarm_rate or _rate_of(settings.alerts_per_day, selection.traffic)
    request = CalibrationRequest(
        rate,
        settings.contamination,
        settings.cost_miss,
        settings.cost_false_alarm,
        settings.early_false_alarm_rate,
    )
    outcome = calibrate_kinds(scored, request, labelled=labels is not None)
    taken = [each for kind in outcome.kinds for each in kind.sessions]
    refuse_fatal(loss_findings(_losses(taken, scorer)))
    refuse_fatal(line_findings(_lines(taken, scorer, bundle)))
    for kind in outcome.kinds:
        refuse_fatal(kind_findings(judged_by(kind)))
    saved = save_calibrated(
        bundle, settings.destination, calibration=outcome.calibration(), calibration_sessions=outcome.fingerprints()
    )
    origin = _origin(settings, bundle, len(selection.sessions))
    report.write_calibration(settings.report_directory, outcome, selection, saved, origin)

    print(origin)
    print("\n".join(report.calibration_summary(outcome, selection)))
    print(f"bundle {saved.path}, calibrated; report in {settings.report_directory}")
    return 0


def evaluate(settings: EvaluateSettings) -> int:
    """Measure a calibrated bundle on sessions that had no part in it."""
    bundle = load_bundle(settings.bundle)
    if bundle.calibration is None:
        raise AssertionError("load_bundle let an uncalibrated bundle through")
    labels = _labels(settings, settings.group_column)

    corpus = _read(settings, bundle)
    selection = select(corpus, labels, settings.select, kinds=settings.kinds)
    refuse_known(
        selection.sessions,
        bundle,
        ("train", "validation", "calibration"),
        "Name logs that it has never seen, or choose others by --select.",
    )
    scored = score_sessions(selection.sessions, _scorer(settings, bundle), labels, settings.anomaly_column)
    groups = groups_of(selection.sessions, labels, settings.group_column)
    evaluation = evaluate_kinds(
        scored, bundle.calibration, groups, line_frequencies=bundle.line_frequencies(), seed=settings.seed
    )
    report.write_evaluation(settings.report_directory, evaluation, selection, bundle)

    print("\n".join(report.evaluation_summary(evaluation)))
    print(f"report in {settings.report_directory}")
    return 0


def _rate_of(alerts_per_day: float | None, traffic: Mapping[str, Traffic]) -> float | None:
    """Return the false-alarm rate per session that makes so many alerts a day, all kinds of sessions together."""
    if alerts_per_day is None:
        return None
    per_day = [each.per_day for each in traffic.values()]
    known = sum(each for each in per_day if each is not None)
    if not known:
        raise UserError(
            "alerts_per_day: the input is too short to tell how many sessions a day brings. Give more logs."
        )
    rate = alerts_per_day / known
    if rate >= _HALF:
        raise UserError(
            f"alerts_per_day {alerts_per_day:g}: the input brings {known:,.0f} sessions a day, so that would be every "
            "second one or more. Ask for fewer."
        )
    return rate


def diagnose(settings: DiagnoseSettings) -> int:
    """Explain what keeps a model from telling sessions apart; return 1 where something does."""
    bundle = load_bundle(settings.bundle, calibrated=False)
    labels = _labels(settings, settings.group_column)

    corpus = _read(settings, bundle)
    only = held_out_sessions(bundle) if settings.held_out else None
    selection = select(corpus, labels, settings.select, kinds=settings.kinds, only=only)
    diagnosis = _diagnosis(settings, bundle, corpus, selection, labels)
    report.write_diagnosis(settings.report_directory, diagnosis, selection, bundle)

    print("\n".join(report.diagnosis_summary(diagnosis, selection)))
    print(f"report in {settings.report_directory}")
    return 0 if diagnosis.healthy else 1


def _diagnosis(
    settings: DiagnoseSettings, bundle: Bundle, corpus: Corpus, selection: Selection, labels: Labels | None
) -> Diagnosis:
    scorer = _scorer(settings, bundle)
    weights = dict(scorer.model.named_parameters())
    damaged = weight_findings(weights)
    try:
        scored = score_sessions(selection.sessions, scorer, labels, settings.anomaly_column)
    except NotFiniteError:
        return Diagnosis(damaged or weight_findings(weights, losses_broken=True))
    groups = groups_of(selection.sessions, labels, settings.group_column)
    kinds, left_out = [], {}
    for name, members in by_kind(scored).items():
        calibration = bundle.calibration.kinds.get(name) if bundle.calibration else None
        # Whether a kind could be calibrated at all: with a rate stated, labels of one class are no hindrance.
        reason = unusable(members, CalibrationRequest(DEFAULT_FALSE_ALARM_RATE), labelled=labels is not None)
        if reason and calibration is None:
            left_out[name] = reason
        else:
            kinds.append(judge_kind(name, members, calibration, groups))
    kinds.sort(key=lambda each: (-len(each.sessions), each.kind))
    lines, losses = _lines(scored, scorer, bundle), _losses(scored, scorer)
    leakage = find_leakage(selection.sessions, corpus.sessions, bundle.used_sessions, labels, settings.group_column)
    of_kinds = [finding for kind in kinds for finding in kind_findings(kind)]
    found = [
        *damaged,
        *loss_findings(losses),
        *(_explained(each, scorer) if each.name == IDENTICAL_SCORES else each for each in of_kinds),
        *line_findings(lines),
        *leakage_findings(leakage, held_out=settings.held_out),
    ]
    return Diagnosis(in_order(found), kinds, left_out, lines, losses, leakage)


def _losses(scored: Sequence[ScoredSession], scorer: Scorer) -> LossProfile:
    """Score some of the sessions that read differently once more, for what each of their tokens costs."""
    distinct = list({each.content: each.session for each in scored}.values())
    some = distinct[:: max(1, len(distinct) // _PROFILED)]
    return LossProfile.of(some, scorer.score(some), scorer.tokenizer.vocabulary_size)


def _lines(scored: Sequence[ScoredSession], scorer: Scorer, bundle: Bundle) -> LineMeasurements:
    return LineMeasurements.of([each.session for each in scored], scorer.tokenizer, bundle.training)


def _explained(finding: Finding, scorer: Scorer) -> Finding:
    """Score some of the sessions with one score once more, and say which line and token give it."""
    sessions = [each.session for each in finding.sharing[:_EXPLAINED]]
    return explained(finding, common_cause(sessions, scorer.score(sessions), scorer.tokenizer))


def _read(settings: ScoringSettings, bundle: Bundle) -> Corpus:
    """Read the input to sessions, by the bundle's own session rules and masks."""
    log = get_logger(__name__)
    log.info("reading_started", inputs=settings.inputs or settings.topic)
    shown_s = time.monotonic()

    def watch(reading: Reading) -> None:
        nonlocal shown_s
        if time.monotonic() - shown_s > _PROGRESS_S:
            shown_s = time.monotonic()
            log.info("reading", records=reading.records)

    preprocessing = bundle.preprocessing
    corpus = read_source(settings, preprocessing.session_rules, preprocessing.mask_rules, watch)
    log.info("reading_done", records=corpus.reading.records, sessions=len(corpus.sessions))
    return corpus


def _labels(settings: ScoringSettings, *columns: str | None) -> Labels | None:
    """Read the labels; a column that is not there is told before hours of logs are read."""
    if settings.labels is None:
        return None
    labels = read_labels(str(settings.labels))
    for column in (settings.anomaly_column, *settings.select, *columns):
        if column:
            labels.require(column)
    return labels


def _scorer(settings: ScoringSettings, bundle: Bundle, *, ranks: bool = False) -> Scorer:
    if settings.threads:
        torch.set_num_threads(settings.threads)
    return bundle.scorer(choose_device(settings.device), batch_tokens=settings.batch_tokens, ranks=ranks)


def _origin(settings: CalibrateSettings, bundle: Bundle, sessions: int) -> str:
    """Return which sessions were taken, and what that means."""
    if not settings.held_out:
        return "None of them was in the sessions that the model learned from."
    return (
        f"--held-out: these are {sessions:,} of the {bundle.used_sessions['validation'].size:,} sessions that the "
        "trainer held out for validation. The model never learned from them; their loss only decided when to stop "
        "(and with loggpt-train --search, which settings won), which makes their scores slightly low. Later logs make "
        "a better calibration."
    )
