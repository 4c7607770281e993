"""The `loggpt-train` command."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

from loggpt_stream.command import Command
from loggpt_stream.program import run_program
from trainer.settings import TrainerSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_HELP: Final = """\
Learn from recorded OpenStack logs how sessions (VM instances, requests) normally go, and write a bundle.

  loggpt-train --out bundle /var/log/nova/             files, whole directories, .gz .xz .zst, text or JSON lines
  xzcat day.log.xz | loggpt-train --out bundle -       standard input
  loggpt-train --topic openstack-logs --from 2026-11-01 --to 2026-11-15T12:00 --kafka.bootstrap broker:9092
  loggpt-train --labels labels.csv --select split=train --exclude failed=1 --out bundle nova.log.xz
  loggpt-train --search --search-minutes 30 --out bundle /var/log/nova/         tries sizes and learning rates first
  torchrun --nproc-per-node 2 -m trainer.cli --out bundle /var/log/nova/        two processes (or GPUs) share the work

No labels are needed: most of what was recorded should be normal, and the summary estimates how much of it is not.
A run that was cut off goes on where it was when the same command is given again. Beside the bundle it leaves
<out>-report/ with learning_curve.png and training_report.json.

--search spends --search-minutes on trials of other layers, widths, dropout, batches and learning rates around those
given, judges them by the loss per line of the held-out sessions, and then trains with the best (max-minutes bounds that
training alone). The first trial has your own settings, so the result is never worse. best.yaml in the report
holds what it found, for --config; search.json and search.png tell of every trial.

The bundle is not calibrated yet. Next: loggpt-calibrate --bundle bundle INPUT, and then loggpt-stream run.
Every setting may also stand in a YAML file (--config, see configs/trainer.yaml) or in LOGGPT_* variables."""


def _run(settings: TrainerSettings) -> int:
    if "RANK" not in os.environ:  # of several processes (torchrun), the first tells it for all
        settings.require_files(settings.labels)
    from trainer.train import train  # noqa: PLC0415 - PyTorch takes seconds to load

    train(settings)
    return 0


COMMAND: Final = Command("loggpt-train", _HELP, TrainerSettings, _run)


def main(argv: Sequence[str] | None = None) -> int:
    """Train as `argv` (default: the process's) says; return the exit code."""
    return run_program(
        COMMAND,
        argv,
        interrupted="stopped; the same command goes on from the last finished epoch (or trial)",
    )


if __name__ == "__main__":
    sys.exit(main())
