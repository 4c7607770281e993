"""Report folders: figures, tables and a text that an operator can read.

With several session kinds, the figures of the primary kind (the one with most labelled sessions, else with most
sessions) have the plain names, and those of the others end in `-<kind>`: roc_curve.png, roc_curve-request.png. Tables
and texts hold all kinds.
"""

from __future__ import annotations

import csv
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson

from calibrate import plots
from calibrate.curves import CONFIDENCE, RESAMPLES, auc_roc, counts_at, most_shared_score, sweep_thresholds
from calibrate.evaluation import promised_interval
from calibrate.per_kind import is_collapsed
from calibrate.sessions import listed, printable
from loggpt_stream.lines.names import CloseReason
from loggpt_stream.model.statistics import COMBINATIONS, COMBINED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from calibrate.diagnosis import Diagnosis, Finding, JudgedKind
    from calibrate.evaluation import Baseline, Evaluation, KindEvaluation
    from calibrate.measurements import Leakage, LineMeasurements, LossProfile
    from calibrate.per_kind import CalibratedKind, CalibrationOutcome, StatisticFigures
    from calibrate.sessions import ScoredSession, Selection, Traffic
    from loggpt_stream.model.bundle import Bundle

SWEEP_COLUMNS: Final = ("kind", "threshold", "tp", "fp", "tn", "fn", "precision", "recall", "f1", "false_alarm_rate")
_TOP: Final = 5
_SHORT_S: Final = 86400.0
# The conformal rate bounds the average, a tail is a model; with labels it is what was observed, one alarm more counted
# in.
_HOW_SURE: Final = {"conformal": " at most, on average", "robust_tail": " (modelled)", "tail_model": " (modelled)"}


def write_calibration(
    directory: Path, outcome: CalibrationOutcome, selection: Selection, saved: Bundle, origin: str
) -> None:
    """Write figures, sweep, thresholds and text of a calibration. `origin`: which sessions took part, in words."""
    directory.mkdir(parents=True, exist_ok=True)
    _remove_figures(directory, "loss_distribution", "roc_curve", "precision_recall_curve")
    for place, kind in enumerate(outcome.kinds):
        plots.loss_distribution(kind, _figure(directory, "loss_distribution", kind.kind, place))
        if kind.labelled:
            plots.roc(kind, _figure(directory, "roc_curve", kind.kind, place))
            plots.precision_recall(kind, _figure(directory, "precision_recall_curve", kind.kind, place))
    _write_sweep(directory / "threshold_sweep.csv", outcome)
    thresholds = [
        f"{kind.kind} {kind.calibration.threshold!r} {kind.calibration.combination} {kind.calibration.basis}"
        for kind in outcome.kinds
    ]
    (directory / "optimal_threshold.txt").write_text(
        "\n".join(["# kind threshold_nats combination basis", *thresholds, ""])
    )
    text = "\n".join(_calibration_text(outcome, selection, saved, origin))
    (directory / "calibration_report.md").write_text(text + "\n")


def calibration_summary(outcome: CalibrationOutcome, selection: Selection) -> Iterator[str]:
    """Yield the lines that the command prints."""
    for kind in outcome.kinds:
        calibration = kind.calibration
        yield (
            f"{kind.kind}: threshold {calibration.threshold:.4f} nats on {calibration.combination} ({kind.how}); "
            f"{_numbers(kind)}; {_expected(kind, selection.traffic.get(kind.kind))}"
        )
        yield from (f"  warning: {warning}" for warning in kind.warnings)
    for name, reason in outcome.unjudged.items():
        yield f"{name}: will not be judged ({reason})"


def write_evaluation(directory: Path, evaluation: Evaluation, selection: Selection, bundle: Bundle) -> None:
    """Write the curves, figures as JSON, and text of an evaluation."""
    directory.mkdir(parents=True, exist_ok=True)
    _remove_figures(directory, "roc_curve_final")
    for place, kind in enumerate(evaluation.kinds):
        if kind.metrics.auc_roc is not None:
            plots.evaluation_curves(kind, _figure(directory, "roc_curve_final", kind.kind, place))
    values = {
        "bundle": {
            "fingerprint": bundle.fingerprint,
            "calibration": bundle.calibration.id if bundle.calibration else None,
        },
        "sessions_left_out": dict(selection.left_out),
        "kinds_left_out": evaluation.left_out,
        "kinds": {kind.kind: _evaluation_json(kind) for kind in evaluation.kinds},
    }
    (directory / "evaluation.json").write_bytes(
        orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    )
    text = "\n".join(_evaluation_text(evaluation, selection, bundle))
    (directory / "evaluation_report.md").write_text(text + "\n")


def evaluation_summary(evaluation: Evaluation) -> Iterator[str]:
    """Yield the lines that the command prints: a compact table, then every warning."""
    yield (
        f"{'kind':<10}{'sessions':>9}{'anomalous':>10}{'AUC-ROC':>9}{'AUC-PR':>8}{'precision':>11}{'recall':>8}{'F1':>7}"
        f"{'TP':>6}{'FP':>6}{'FN':>6}{'TN':>7}"
    )
    for kind in evaluation.kinds:
        m = kind.metrics
        yield (
            f"{kind.kind:<10}{m.sessions:>9}{m.anomalous:>10}{_number(m.auc_roc):>9}{_number(m.auc_pr):>8}"
            f"{m.precision:>11.3f}{m.recall:>8.3f}{m.f1:>7.3f}{m.tp:>6}{m.fp:>6}{m.fn:>6}{m.tn:>7}"
        )
        for baseline in kind.baselines:
            name = f"  {baseline.name}" + (f" ({baseline.rule})" if baseline.rule else "")
            f1 = f"{_number(baseline.f1):>26}" if baseline.f1 is not None else ""
            yield f"{name:<29}{_number(baseline.auc_roc):>9}{_number(baseline.auc_pr):>8}{f1}"
    for kind in evaluation.kinds:
        yield from (f"WARNING {kind.kind}: {warning}" for warning in kind.warnings)
    for name, reason in evaluation.left_out.items():
        yield f"{name}: not evaluated ({reason})"


def write_diagnosis(directory: Path, diagnosis: Diagnosis, selection: Selection, bundle: Bundle) -> None:
    """Write the findings with what they were found in, and figures of scores and tokens."""
    directory.mkdir(parents=True, exist_ok=True)
    _remove_figures(directory, "diagnosis_scores", "diagnosis_tokens")
    for place, kind in enumerate(diagnosis.kinds):
        plots.diagnosed_scores(kind, _figure(directory, "diagnosis_scores", kind.kind, place))
    if diagnosis.losses and diagnosis.lines:
        plots.diagnosed_tokens(diagnosis.losses, diagnosis.lines, directory / "diagnosis_tokens.png")
    text = "\n".join(_diagnosis_text(diagnosis, selection, bundle))
    (directory / "diagnosis.md").write_text(text + "\n")


def diagnosis_summary(diagnosis: Diagnosis, selection: Selection) -> Iterator[str]:
    """Yield the lines that the command prints: every finding with its evidence, or that there is none."""
    yield f"{len(selection.sessions):,} sessions ({listed(selection.left_out) or 'none'} left out)"
    for finding in diagnosis.findings:
        yield f"{finding.severity.upper()} {finding.title}: {finding.seen}"
        yield from (f"    {each}" for each in finding.evidence)
        yield f"  why: {finding.why}"
        yield f"  to do: {finding.remedy}"
    for name, reason in diagnosis.left_out.items():
        yield f"{name}: not looked at ({reason})"
    yield _found(diagnosis)


def _figure(directory: Path, stem: str, kind: str, place: int) -> Path:
    return directory / (f"{stem}.png" if place == 0 else f"{stem}-{kind}.png")


def _remove_figures(directory: Path, *stems: str) -> None:
    """Remove the figures of an earlier report: one that this report does not have must not look like its own."""
    for stem in stems:
        for file in (directory / f"{stem}.png", *directory.glob(f"{stem}-*.png")):
            file.unlink(missing_ok=True)


def _write_sweep(path: Path, outcome: CalibrationOutcome) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(SWEEP_COLUMNS)
        for kind in outcome.kinds:
            thresholds_T = sweep_thresholds(kind.scores_N)
            counts = counts_at(kind.scores_N, kind.truth_N, thresholds_T)
            for i, threshold in enumerate(thresholds_T.tolist()):
                found = (
                    f"{counts.precision[i]:.6f}",
                    f"{counts.recall[i]:.6f}",
                    f"{counts.f1[i]:.6f}",
                )
                writer.writerow(
                    [
                        _plain(kind.kind),
                        repr(threshold),
                        # Without labels nothing is known of anomalous sessions: empty cells, no zeros.
                        counts.tp_T[i] if kind.labelled else "",
                        counts.fp_T[i],
                        counts.tn_T[i],
                        counts.fn_T[i] if kind.labelled else "",
                        *(found if kind.labelled else ("", "", "")),
                        f"{counts.false_alarm_rate[i]:.6f}",
                    ]
                )


def _plain(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _calibration_text(outcome: CalibrationOutcome, selection: Selection, saved: Bundle, origin: str) -> Iterator[str]:
    yield "# Calibration report"
    yield ""
    yield _bundle_line(saved)
    yield ""
    left_out = listed(selection.left_out) or "none"
    yield f"**Scored:** {len(selection.sessions):,} sessions. {origin} Left out: {left_out}."
    still_open = sum(session.close_reason == CloseReason.END_OF_INPUT for session in selection.sessions)
    if still_open:
        yield (
            f"{still_open:,} of them were still open when the input ended; where it cut them off, they score higher "
            "than whole ones."
        )
    yield ""
    yield "A session whose score is greater than its kind's threshold raises an alert. Scores are in nats: the higher,"
    yield "the more surprising to the model. Sessions of kinds without a threshold are never judged."
    for kind in outcome.kinds:
        yield from _kind_text(kind, selection.traffic.get(kind.kind))
    if outcome.unjudged:
        yield ""
        yield "## Kinds that will not be judged"
        yield ""
        yield from (f"- **{name}**: {reason}." for name, reason in outcome.unjudged.items())
    yield ""
    yield "## Files"
    yield ""
    yield "- `loss_distribution.png`: scores and threshold"
    if any(kind.labelled for kind in outcome.kinds):
        yield "- `roc_curve.png`, `precision_recall_curve.png`: what other thresholds would do, on labelled sessions"
    yield "- `threshold_sweep.csv`: counts and rates at thresholds 1.0 to 20.0 and at every distinct score"
    yield "- `optimal_threshold.txt`: the thresholds chosen, a line for each kind"
    if len(outcome.kinds) > 1:
        others = ", ".join(f"`-{kind.kind}`" for kind in outcome.kinds[1:])
        yield f"- Figures without ending are of {outcome.kinds[0].kind} sessions; those of other kinds end in {others}."


def _kind_text(kind: CalibratedKind, traffic: Traffic | None) -> Iterator[str]:
    calibration = kind.calibration
    yield ""
    yield f"## {kind.kind} sessions"
    yield ""
    yield f"- **Threshold {calibration.threshold:.4f} nats** on the combination `{calibration.combination}`."
    yield f"- How it was chosen: {kind.how}."
    yield f"- {_numbers(kind)}."
    yield f"- To expect: {_expected(kind, traffic)}."
    if traffic and traffic.span_s < _SHORT_S and traffic.per_day is not None:
        yield f"  (A day is extrapolated from {_duration(traffic.span_s)} of logs.)"
    yield "- That holds for sessions like these. When normal behaviour changes, calibrate again."
    yield from _early_text(kind)
    yield (
        "- The scales of the combined statistic were fitted to the same normal sessions as the threshold. That makes "
        "the promised rate slightly optimistic, the fewer sessions the more."
    )
    if not kind.labelled:
        yield (
            "- Without labels of both classes there is no ROC and no precision-recall curve: what a threshold would "
            "catch is not known, only how often it alarms. Failures among these sessions, if any, raise the threshold."
        )
    if kind.warnings:
        yield ""
        yield from (f"> **Warning:** {warning}" + "\n>" for warning in kind.warnings)
    yield ""
    yield "### Statistics"
    yield ""
    yield from _statistics_table(kind)
    yield ""
    for each in kind.figures:
        if each.name in COMBINATIONS:
            members = ", ".join(f"`{name}`" for name in each.members)
            yield f"`{each.name}` adds up how surprising {members} are among normal sessions."
    yield (
        f"`{COMBINED}` decides, unless labels show another combination to have an average precision (AUC-PR) more than "
        "0.01 better."
    )
    yield "Shared score: how many sessions that read differently have one exact score; too many, and it cannot decide."
    yield ""
    yield from _lengths_text(kind)
    yield "### Highest scores"
    yield ""
    yield from _top_sessions(kind)


def _early_text(kind: CalibratedKind) -> Iterator[str]:
    early = kind.calibration.early
    if early is None:
        return
    yield (
        f"- **While a session is open**, it alarms above {early.threshold:.4f} nats on what never falls as it grows: "
        f"{' and '.join(f'`{name}`' for name in early.scales)}. How that was chosen: {kind.early_how}."
    )
    yield (
        f"  About {early.false_alarm_rate:.2%} of normal sessions{_HOW_SURE.get(early.basis, '')} raise an early alert "
        "that is false. That bounds all looks at a session together: a whole session never scores lower than it did "
        "while it was open, and the threshold is that of whole sessions."
    )
    if kind.labelled:
        anomalous = [each for each, truth in zip(kind.sessions, kind.truth_N, strict=True) if truth]
        announced = sum(early.score(each.statistics) > early.threshold for each in anomalous)
        yield (
            f"  It announces {announced} of the {len(anomalous)} anomalous sessions ({announced / len(anomalous):.0%}) "
            "by their last line at the latest."
        )


def _lengths_text(kind: CalibratedKind) -> Iterator[str]:
    lengths = kind.lengths
    if lengths is None or len(lengths.bands) == 1:
        return
    yield "### Lengths"
    yield ""
    yield "| session | sessions | above, if all count alike | score counts |"
    yield "| --- | ---: | ---: | ---: |"
    for band in lengths.bands:
        share = f"{band.alarming:,} ({band.alarming / band.sessions:.1%})"
        yield f"| {band.name} | {band.sessions:,} | {share} | {band.factor:.3g} |"
    yield ""
    yield (
        "Where sessions of some length are above the threshold more often than chance explains, their scores are "
        "multiplied by a factor that makes them alarm as often as the others."
        if lengths.parted
        else "No length is above the threshold more often than chance explains: all count alike."
    )
    yield ""


def _statistics_table(kind: CalibratedKind) -> Iterator[str]:
    yield "| statistic (nats) | normal median | normal .95 quantile | AUC-ROC | AUC-PR | best F1 | shared score |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for each in kind.figures:
        name = f"**{each.name}** (decides)" if each.name == kind.calibration.combination else each.name
        yield (
            f"| {name} | {each.median:.3f} | {each.high:.3f} | {_number(each.auc)} | "
            f"{_number(each.average_precision)} | {_number(each.best_f1)} | {_shared(each)} |"
        )


def _shared(each: StatisticFigures) -> str:
    return f"{each.shared.sharing} of {each.shared.distinct}" + (" (too many)" if is_collapsed(each.shared) else "")


def _top_sessions(kind: CalibratedKind) -> Iterator[str]:
    order = np.argsort(-kind.scores_N, kind="stable")[:_TOP]
    for place, index in enumerate(order.tolist(), 1):
        scored: ScoredSession = kind.sessions[index]
        session = scored.session
        truth = {True: "anomalous", False: "normal", None: "no label"}[scored.truth]
        verdict = "above" if kind.scores_N[index] > kind.calibration.threshold else "not above"
        part = f" part {session.part}" if session.part else ""
        yield (
            f"{place}. `{printable(session.key)}`{part}: score {kind.scores_N[index]:.3f} ({verdict} the threshold), "
            f"{truth}, {len(session.lines)} lines. Most surprising line ({scored.worst_loss:.1f} nats):"
        )
        yield ""
        yield f"       {printable(session.lines[scored.worst_line].raw)}"
        yield ""


def _bundle_line(bundle: Bundle) -> str:
    calibration = bundle.calibration.id if bundle.calibration else "none"
    return f"Bundle `{bundle.path}`, model {bundle.model_fingerprint}, calibration {calibration}."


def _numbers(kind: CalibratedKind) -> str:
    if not kind.labelled:
        return f"{len(kind.sessions):,} sessions, labels not used"
    counts = counts_at(kind.scores_N, kind.truth_N, np.array([kind.calibration.threshold]))
    return (
        f"{len(kind.sessions):,} labelled sessions, {int(kind.truth_N.sum()):,} anomalous: precision "
        f"{counts.precision[0]:.3f}, recall {counts.recall[0]:.3f}, F1 {counts.f1[0]:.3f} "
        f"(TP {counts.tp_T[0]}, FP {counts.fp_T[0]}, FN {counts.fn_T[0]}, TN {counts.tn_T[0]})"
    )


def _expected(kind: CalibratedKind, traffic: Traffic | None) -> str:
    rate = kind.calibration.false_alarm_rate
    text = f"about {rate:.2%} of normal sessions raise a false alarm{_HOW_SURE.get(kind.calibration.basis, '')}"
    if kind.calibration.false_alarm_interval:
        text += f" ({promised_interval(kind.calibration.false_alarm_interval)})"
    if traffic and traffic.per_day is not None:
        text += f", about {rate * traffic.per_day:,.0f} a day at {traffic.per_day:,.0f} sessions a day"
    return text


def _evaluation_json(kind: KindEvaluation) -> dict[str, Any]:
    return {
        "metrics": asdict(kind.metrics),
        "unlabelled_sessions": kind.unlabelled,
        "combination": kind.calibration.combination,
        "basis": kind.calibration.basis,
        "false_alarm_rate": {
            "promised": kind.calibration.false_alarm_rate,
            "promised_interval": kind.calibration.false_alarm_interval,
            "observed": kind.metrics.false_alarm_rate,
            "observed_interval": kind.observed_interval,
        },
        "baselines": {
            each.name: {"auc_roc": each.auc_roc, "auc_pr": each.auc_pr, "rule": each.rule, "f1": each.f1}
            for each in kind.baselines
        },
        "largest_share_with_one_score": {
            "score": kind.shared.score,
            "sessions": kind.shared.sharing,
            "distinct_sessions": kind.shared.distinct,
            "share": kind.shared.share,
        },
        "warnings": kind.warnings,
    }


def _evaluation_text(evaluation: Evaluation, selection: Selection, bundle: Bundle) -> Iterator[str]:
    yield "# Evaluation report"
    yield ""
    yield _bundle_line(bundle)
    yield "None of the sessions was in its training, validation or calibration sessions."
    yield f"Left out: {listed(selection.left_out) or 'none'}."
    for kind in evaluation.kinds:
        yield from _evaluated_kind_text(kind)
    if evaluation.left_out:
        yield ""
        yield "## Kinds not evaluated"
        yield ""
        yield from (f"- **{name}**: {reason}." for name, reason in evaluation.left_out.items())
    yield ""
    yield (
        f"Intervals: {CONFIDENCE:.0%}, bootstrap of {RESAMPLES:,} resamples (sessions of one group are drawn together, "
        "groups with and without an anomalous session apart); for the false-alarm rate the exact binomial one."
    )
    yield "Unusual length: |log(lines / median of these sessions)|."
    yield "Curves: `roc_curve_final.png` (of other kinds: `roc_curve_final-<kind>.png`). Figures: `evaluation.json`."


def _evaluated_kind_text(kind: KindEvaluation) -> Iterator[str]:
    m = kind.metrics
    yield ""
    yield f"## {kind.kind} sessions"
    yield ""
    yield (
        f"{m.sessions:,} sessions, {m.anomalous:,} anomalous ({kind.unlabelled:,} without a label left out). Statistic "
        f"`{kind.calibration.combination}`, threshold {m.threshold:.4f} nats ({kind.calibration.basis})."
    )
    if kind.warnings:
        yield ""
        yield from (f"> **Warning:** {warning}" + "\n>" for warning in kind.warnings)
    yield ""
    yield "| detector | AUC-ROC | AUC-PR | precision | recall | F1 |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    areas = [_with_interval(kind, name, value) for name, value in (("auc_roc", m.auc_roc), ("auc_pr", m.auc_pr))]
    at_threshold = [_with_interval(kind, name, getattr(m, name)) for name in ("precision", "recall", "f1")]
    yield f"| **{kind.calibration.combination}** | {' | '.join(areas + at_threshold)} |"
    yield from (_baseline_row(each) for each in kind.baselines)
    yield ""
    yield "| | flagged | not flagged |"
    yield "| --- | ---: | ---: |"
    yield f"| anomalous | {m.tp} (TP) | {m.fn} (FN) |"
    yield f"| normal | {m.fp} (FP) | {m.tn} (TN) |"
    yield ""
    observed = f"{m.false_alarm_rate:.2%}"
    if kind.observed_interval:
        observed += f" [{kind.observed_interval[0]:.2%}, {kind.observed_interval[1]:.2%}]"
    promised = f"{kind.calibration.false_alarm_rate:.2%}"
    if kind.calibration.false_alarm_interval:
        promised += f" ({promised_interval(kind.calibration.false_alarm_interval)})"
    yield f"False-alarm rate: promised {promised}, observed {observed}."
    yield (
        f"Largest share of distinct sessions with one exact score: {kind.shared.sharing} of {kind.shared.distinct} "
        f"({kind.shared.share:.1%}) at {kind.shared.score:.6g} nats."
    )


def _baseline_row(each: Baseline) -> str:
    name = f"{each.name} (F1 at: {each.rule})" if each.rule else each.name
    return f"| {name} | {_number(each.auc_roc)} | {_number(each.auc_pr)} | | | {_number(each.f1)} |"


def _with_interval(kind: KindEvaluation, name: str, value: float | None) -> str:
    interval = kind.metrics.intervals.get(name)
    return _number(value) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"  # noqa: RUF001 - an en dash stands for no figure


def _duration(span_s: float) -> str:
    return f"{span_s / 60:.0f} minutes" if span_s < 2 * 3600 else f"{span_s / 3600:.1f} hours"


def _found(diagnosis: Diagnosis) -> str:
    if diagnosis.healthy:
        return "Healthy: no pathology was found."
    fatal = sum(each.severity == "fatal" for each in diagnosis.findings)
    return f"{fatal} fatal and {len(diagnosis.findings) - fatal} other pathologies were found."


def _diagnosis_text(diagnosis: Diagnosis, selection: Selection, bundle: Bundle) -> Iterator[str]:
    yield "# Diagnosis"
    yield ""
    yield _bundle_line(bundle)
    yield ""
    yield f"**Read:** {len(selection.sessions):,} sessions. Left out: {listed(selection.left_out) or 'none'}."
    yield ""
    yield f"**{_found(diagnosis)}**"
    yield ""
    yield "Fatal: no threshold on these scores means anything, or no figure does. Warning: the detector suffers."
    for place, finding in enumerate(diagnosis.findings, 1):
        yield from _finding_text(place, finding)
    yield ""
    yield "## What was looked at"
    if diagnosis.kinds:
        yield ""
        yield from _judged_table(diagnosis.kinds)
    if diagnosis.left_out:
        yield ""
        yield from (f"- **{name}** was not looked at: {reason}." for name, reason in diagnosis.left_out.items())
    if diagnosis.losses and diagnosis.lines and diagnosis.leakage:
        yield ""
        yield from _measurements_text(diagnosis.losses, diagnosis.lines, diagnosis.leakage)
    yield ""
    yield "## Files"
    yield ""
    yield "- `diagnosis_scores.png`: scores by class, and in order (of other kinds: `diagnosis_scores-<kind>.png`)"
    yield "- `diagnosis_tokens.png`: what tokens cost, and how many tokens lines have"


def _finding_text(place: int, finding: Finding) -> Iterator[str]:
    yield ""
    yield f"## {place}. {finding.title} ({finding.severity})"
    yield ""
    yield f"- **Seen:** {finding.seen}"
    # As code: a renderer would take the masks in a line, such as <uuid>, for tags of its own.
    yield from (f"  - `{each}`" for each in finding.evidence)
    yield f"- **Why:** {finding.why}"
    yield f"- **What to do:** {finding.remedy}"


def _judged_table(kinds: Sequence[JudgedKind]) -> Iterator[str]:
    yield "| kind | score (nats) | sessions | normal | anomalous | median | highest | AUC-ROC | shared score |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for kind in kinds:
        contents = [each.content for each in kind.sessions]
        known = np.concatenate([kind.normal, kind.anomalous])
        truth_N = np.arange(len(known)) >= len(kind.normal)
        rows = {f"**{kind.combination}** (decides)": kind.scores_N}
        for name in kind.sessions[0].statistics:
            if name != kind.combination:
                rows[name] = np.array([each.statistics[name] for each in kind.sessions])
        for name, scores_N in rows.items():
            shared = most_shared_score(scores_N, contents)
            yield (
                f"| {kind.kind} | {name} | {len(kind.sessions):,} | {len(kind.normal):,} | {len(kind.anomalous):,} | "
                f"{np.median(scores_N):.3f} | {scores_N.max():.3f} | {_number(auc_roc(scores_N[known], truth_N))} | "
                f"{shared.sharing} of {shared.distinct} |"
            )
        if kind.threshold is not None:
            above = int((kind.scores_N > kind.threshold).sum())
            yield f"| {kind.kind} | threshold {kind.threshold:.4f}: {above:,} above | | | | | | | |"


def _measurements_text(losses: LossProfile, lines: LineMeasurements, leakage: Leakage) -> Iterator[str]:
    low, median, high = np.quantile(losses.losses_N, [0.05, 0.5, 0.95]).tolist()
    yield (
        f"- Losses of {len(losses.losses_N):,} tokens: .05 quantile {low:.4g} nats, median {median:.4g}, .95 quantile "
        f"{high:.4g}; guessing among {losses.vocabulary_size:,} tokens costs {losses.guessing:.4g}."
    )
    yield (
        f"- {losses.unmoved:,} of {losses.recurring:,} lines that come again and again cost the same each time, "
        "whatever came before."
    )
    room = {True: "full", False: "not full", None: "full or not, the bundle does not say"}[lines.full]
    yield (
        f"- Vocabulary: {lines.vocabulary_size:,} tokens, {lines.whole_tokens:,} of them whole lines ({room}). Of "
        f"{lines.lines:,} lines ({lines.distinct_lines:,} distinct), {lines.in_pieces / lines.lines:.1%} are in pieces "
        f"and {lines.cut / lines.lines:.1%} are cut at {lines.max_line_tokens} tokens."
    )
    yield (
        f"- {lines.alike:,} of {lines.sessions:,} sessions that read differently are the same tokens as another one."
    )
    used = ", ".join(f"{len(leakage.known[role]):,} {role}" for role in ("train", "validation", "calibration"))
    yield f"- Of the {leakage.sessions:,} sessions, the bundle was made with: {used}."
    if leakage.trained_here and leakage.others:
        yield (
            f"- {leakage.alike:,} of {leakage.others:,} sessions that it did not learn from "
            f"({leakage.alike / leakage.others:.1%}) read exactly like one that it did learn from. That is no leakage "
            "by itself: routine reads alike every day."
        )
    else:
        yield (
            "- How many of them read like a session of training is not known: the bundle keeps no text, and no session "
            "of training is in this input."
        )
