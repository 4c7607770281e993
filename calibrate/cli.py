"""The `loggpt-calibrate` command: choose thresholds, evaluate them, and explain a model that is no good."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from calibrate.settings import CalibrateSettings, DiagnoseSettings, EvaluateSettings, ScoringSettings
from loggpt_stream.command import Command, Commands
from loggpt_stream.model.manifest import require_bundle
from loggpt_stream.program import run_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

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
0.01 if none is stated. Sessions that the model learned from are refused, and so is a model whose scores cannot
tell sessions apart.

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


def _calibrate(settings: CalibrateSettings) -> int:
    return int(_stages(settings).calibrate(settings))


def _evaluate(settings: EvaluateSettings) -> int:
    return int(_stages(settings).evaluate(settings))


def _diagnose(settings: DiagnoseSettings) -> int:
    return int(_stages(settings).diagnose(settings))


def _stages(settings: ScoringSettings) -> ModuleType:
    """Return the stages, which take seconds to load, once what the settings name is there."""
    require_bundle(settings.bundle)
    settings.require_files(settings.labels)
    from calibrate import stages  # noqa: PLC0415 - see above
    from loggpt_stream.logs import configure  # noqa: PLC0415 - a third of a second

    configure()
    return stages


PROGRAM: Final = Commands(
    "loggpt-calibrate",
    _CALIBRATE_HELP,
    {
        "calibrate": lambda: Command("loggpt-calibrate", _CALIBRATE_HELP, CalibrateSettings, _calibrate),
        "evaluate": lambda: Command("loggpt-calibrate evaluate", _EVALUATE_HELP, EvaluateSettings, _evaluate),
        "diagnose": lambda: Command("loggpt-calibrate diagnose", _DIAGNOSE_HELP, DiagnoseSettings, _diagnose),
    },
    default="calibrate",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate, or evaluate or diagnose where the first argument says so; return the exit code."""
    return run_program(PROGRAM, argv)


if __name__ == "__main__":
    sys.exit(main())
