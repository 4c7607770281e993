"""The `loggpt-calibrate` command: choose thresholds, evaluate them, and explain a model that is no good."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

import torch
from pydantic import Field, model_validator

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
from calibrate.per_kind import DEFAULT_FALSE_ALARM_RATE, CalibrationRequest, calibrate_kinds, unusable
from calibrate.sessions import NotFiniteError, by_kind, held_out_sessions, refuse_known, score_sessions, select
from calibrate.threshold import CONTAMINATION
from loggpt_stream.errors import UserError
from loggpt_stream.history.labels import read_labels
from loggpt_stream.history.source import SourceSettings, read_source
from loggpt_stream.logs import configure, get_logger, shown
from loggpt_stream.model.bundle import load_bundle, save_calibrated
from loggpt_stream.model.gpt import choose_device
from loggpt_stream.settings import load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calibrate.diagnosis import Finding
    from calibrate.sessions import ScoredSession, Selection, Traffic
    from loggpt_stream.history.corpus import Corpus
    from loggpt_stream.history.files import Reading
    from loggpt_stream.history.labels import Labels
    from loggpt_stream.model.bundle import Bundle
    from loggpt_stream.model.scoring import Scorer

_CALIBRATE_HELP: Final = """\
Choose the threshold above which a session is anomalous, write it into the bundle, and report what to expect of it.
`loggpt-calibrate evaluate` then measures the result on sessions that nobody has seen, and `loggpt-calibrate diagnose`
explains a model that cannot tell sessions apart (each has its own --help).

No labels, and only the log files that the model was trained from: use the sessions that the trainer held out (it never
learned from them; it only watched their loss to know when to stop):

  loggpt-calibrate --bundle bundle --held-out /var/log/nova/

No labels, other logs of ordinary days. The threshold is the one that 1 in 100 normal sessions exceeds:

  loggpt-calibrate --bundle bundle --false-alarm-rate 0.01 later.log.gz

The same from Kafka, where the logs are in a topic and nowhere else (so for all three commands):

  loggpt-calibrate --bundle bundle --topic openstack-logs --from 2026-11-15T12:00 --kafka.bootstrap broker:9092

Labels: a CSV whose first column is the session key (instance UUID, request id, session id), with 1 or 0 in a column
for anomalous. The threshold is the one with the highest expected F1, or the least expected cost if a cost is stated:

  loggpt-calibrate --bundle bundle --out calibrated --labels labels.csv --select split=val history.log.xz
  loggpt-calibrate --bundle bundle --out calibrated --labels labels.csv --select split=val \\
      --cost-miss 50 --cost-false-alarm 1 history.log.xz

Then:

  loggpt-calibrate evaluate --bundle calibrated --labels labels.csv --select split=test history.log.xz

Each session kind (instance, request, explicit, window) has its own threshold. With labels, kinds without labels of both
classes are not judged, unless --false-alarm-rate says by what rate they shall be. Without labels the rate is
0.01 if none is stated. Sessions that the model learned from are refused, and so is a model whose scores say nothing.

The report folder holds calibration_report.md (read this first), loss_distribution.png, roc_curve.png,
precision_recall_curve.png (both with labels only), threshold_sweep.csv and optimal_threshold.txt. With several kinds,
figures of all but the primary kind end in -<kind>."""

_EVALUATE_HELP: Final = """\
Score a test split once with a calibrated bundle, and compare its verdicts with labels.

  loggpt-calibrate evaluate --bundle bundle --labels labels.csv --select split=test history.log.xz
  loggpt-calibrate evaluate --bundle bundle --labels labels.csv --select split=test --group-column test runs.jsonl.xz

Sessions that were in training, validation or calibration are refused: figures from them would flatter the model. Choose
nothing by these figures; whoever does needs another test split.

The report folder holds evaluation_report.md (read this first), roc_curve_final.png (ROC and precision-recall side by
side; of other kinds than the one with most sessions: roc_curve_final-<kind>.png) and evaluation.json: AUC-ROC, AUC-PR,
precision, recall, F1 and confusion matrix at the bundle's threshold, with bootstrap intervals, the false-alarm rate
promised and observed, and what simple detectors reach on the same sessions: counting ERROR lines, session length."""

_HALF: Final = 0.5
_DIAGNOSE_HELP: Final = """\
Say whether a model can tell sessions apart and, where it cannot, why not and what to do. Nothing is changed. The bundle
may be calibrated or not; take the sessions that you would calibrate or evaluate on.

  loggpt-calibrate diagnose --bundle bundle --held-out /var/log/nova/
  loggpt-calibrate diagnose --bundle bundle later.log.gz
  loggpt-calibrate diagnose --bundle bundle --labels labels.csv --select split=test history.log.xz

It looks for: scores that many different sessions share, with the line and token that give them; losses that are
constant, those of guessing, or not finite, with the damaged tensor; a vocabulary that is full, lines never seen, lines
cut so that sessions read alike; everything above or below the threshold; sessions that the bundle was made with, and
groups on both sides of a split. With labels also: normal and anomalous that overlap, and labels that look flipped.

Prints each finding; exits with 0 where there is none, 1 where there is one, 2 for a mistake in the command.
The report folder holds diagnosis.md (read this first), diagnosis_scores.png (of other kinds than the one with most
sessions: diagnosis_scores-<kind>.png) and diagnosis_tokens.png."""

# So many sessions, evenly from all, tell what tokens cost; and so many of those with one score, what gives it.
_PROFILED: Final = 256
_EXPLAINED: Final = 64
_PROGRESS_S: Final = 5.0

Kind = Literal["explicit", "instance", "request", "window"]


class ScoringSettings(SourceSettings):
    """What all commands need."""

    bundle: Path = Field(Path("bundle"), description="directory of the bundle, made by loggpt-train")
    report: Path | None = Field(None, description="directory of the report (beside the bundle)")
    labels: Path | None = Field(None, description="CSV whose first column is the session key or group")
    anomaly_column: str = Field(
        "failed", description="label column that is 1 for anomalous sessions and 0 for normal ones"
    )
    select: dict[str, str] = Field({}, description="take only sessions with these labels: COLUMN=VALUE")
    kinds: list[Kind] = Field([], description="take only sessions of these kinds (all)")
    device: str = Field("auto", description="auto (CUDA if there is one, else CPU), cpu, cuda or cuda:N")
    threads: int | None = Field(None, gt=0, description="CPU threads (torch decides: one a core)")
    batch_tokens: int = Field(8192, ge=64, description="a scoring batch holds at most so many tokens")

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        if self.select and self.labels is None:
            raise ValueError("select names columns of a label file: give labels too")
        return self


class CalibrateSettings(ScoringSettings):
    """Settings of `loggpt-calibrate`."""

    out: Path | None = Field(None, description="directory of the calibrated bundle (the bundle itself)")
    held_out: bool = Field(False, description="take exactly the sessions that the trainer held out of the same logs")  # noqa: FBT003 - a default
    false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=f"without labels: share of normal sessions that may alarm ({DEFAULT_FALSE_ALARM_RATE:g})",
    )
    alerts_per_day: float | None = Field(
        None, gt=0, description="without labels: false alarms a day that are tolerated, at the traffic of this input"
    )
    contamination: float = Field(
        CONTAMINATION, ge=0, lt=0.3, description="without labels: up to this share of the sessions may be failures"
    )
    cost_miss: float | None = Field(None, ge=0, description="with labels: cost of a missed anomaly; least cost, not F1")
    cost_false_alarm: float | None = Field(
        None, ge=0, description="with labels: cost of a false alarm (1 beside cost-miss)"
    )
    early_false_alarm_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of normal sessions that may alarm while they are open "
        f"(with labels {DEFAULT_FALSE_ALARM_RATE:g}, or the finest that they allow; without, false-alarm-rate)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labels is None and not (self.cost_miss is None and self.cost_false_alarm is None):
            raise ValueError("cost_miss and cost_false_alarm weigh labelled sessions: give labels too")
        if self.alerts_per_day is not None and self.false_alarm_rate is not None:
            raise ValueError("false_alarm_rate and alerts_per_day say the same in two ways: give one of them")
        if self.cost_miss == 0 and self.cost_false_alarm == 0:
            raise ValueError("cost_miss and cost_false_alarm: one of them must be greater than 0")
        if self.report_directory.is_relative_to(self.destination):
            raise ValueError(f"report {self.report_directory}: must not be inside the bundle, which is sealed")
        return self

    @property
    def destination(self) -> Path:
        """Return where the calibrated bundle goes."""
        return (self.out or self.bundle).absolute()

    @property
    def report_directory(self) -> Path:
        """Return where the report goes."""
        return (self.report or self.destination.with_name(self.destination.name + "-calibration")).absolute()


class DiagnoseSettings(ScoringSettings):
    """Settings of `loggpt-calibrate diagnose`."""

    held_out: bool = Field(False, description="take exactly the sessions that the trainer held out of the same logs")  # noqa: FBT003 - a default
    group_column: str | None = Field(None, description="label column of what belongs together")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.group_column and self.labels is None:
            raise ValueError("group_column names a column of a label file: give labels too")
        return self

    @property
    def report_directory(self) -> Path:
        """Return where the report goes."""
        bundle = self.bundle.absolute()
        return (self.report or bundle.with_name(bundle.name + "-diagnosis")).absolute()


class EvaluateSettings(ScoringSettings):
    """Settings of `loggpt-calibrate evaluate`."""

    labels: Path = Field(description="CSV whose first column is the session key or group")
    group_column: str | None = Field(None, description="label column of what belongs together, for the intervals")
    seed: int = Field(42, ge=0, description="of the resamples behind the intervals")

    @property
    def report_directory(self) -> Path:
        """Return where the report goes."""
        bundle = self.bundle.absolute()
        return (self.report or bundle.with_name(bundle.name + "-evaluation")).absolute()


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, or evaluate or diagnose where the first argument says so; return the exit code."""
    command, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    configure()
    try:
        if command == "evaluate":
            return evaluate(rest)
        if command == "diagnose":
            return diagnose(rest)
        return calibrate(rest if command == "calibrate" else [command, *rest])
    except UserError as error:
        print(shown(f"error: {error}", keep="\n"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def calibrate(argv: Sequence[str]) -> int:
    """Choose thresholds on sessions that the model did not learn from, and write them into a bundle."""
    settings = load(CalibrateSettings, argv, prog="loggpt-calibrate", description=_CALIBRATE_HELP)
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


def evaluate(argv: Sequence[str]) -> int:
    """Measure a calibrated bundle on sessions that had no part in it."""
    settings = load(EvaluateSettings, argv, prog="loggpt-calibrate evaluate", description=_EVALUATE_HELP)
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


def diagnose(argv: Sequence[str]) -> int:
    """Explain what keeps a model from telling sessions apart; return 1 where something does."""
    settings = load(DiagnoseSettings, argv, prog="loggpt-calibrate diagnose", description=_DIAGNOSE_HELP)
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

    meaning = bundle.preprocessing
    corpus = read_source(settings, meaning.session_rules, meaning.mask_rules, watch)
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


if __name__ == "__main__":
    sys.exit(main())
