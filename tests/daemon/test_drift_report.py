"""What operators are told of drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import structlog.testing

from loggpt_stream.daemon.drift_report import DriftReport
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.model.calibration import Calibration, Judge, KindCalibration
from loggpt_stream.model.drift import DriftMode
from loggpt_stream.model.statistics import Scale

SCALE = Scale(0.0, 0.0, 1.0)
NORMAL = tuple(SCALE.surprise(x / 10) for x in range(1, 101))
CALIBRATION = Calibration(
    {
        "instance": KindCalibration(
            combination="x",
            threshold=float(np.quantile(NORMAL, 0.9)),
            basis="conformal",
            false_alarm_rate=0.1,
            scales={"end_loss": SCALE},
            normal_scores=NORMAL,
        )
    }
)
# Above the threshold, below the bound: normal sessions on a busy day.
DRIFTED = {"end_loss": 9.5}


def told(judge: Judge, sessions: int, report: DriftReport) -> list[Any]:
    with structlog.testing.capture_logs() as logs:
        for _ in range(sessions):
            judge.judge("instance", DRIFTED)
            report.observe(3, judge)
    return [entry["event"] for entry in logs]


def test_a_threshold_at_its_bound_and_scores_that_drifted_are_warned_of_once() -> None:
    metrics = Metrics()
    judge, report = Judge(CALIBRATION, DriftMode.ADAPT), DriftReport(metrics)
    assert sorted(told(judge, 60, report)).count("scores_drifted") == 1
    labels = {"partition": "3", "kind": "instance"}
    assert metrics.registry.get_sample_value("loggpt_mean_p_value", labels) < 0.2  # type: ignore[operator]
    threshold = metrics.registry.get_sample_value("loggpt_threshold_nats", labels)
    assert threshold == judge.monitors["instance"].threshold > CALIBRATION.kinds["instance"].threshold


@pytest.mark.parametrize("mode", [DriftMode.OFF, DriftMode.WATCH])
def test_only_adapting_moves_the_threshold_and_off_says_nothing(mode: DriftMode) -> None:
    metrics = Metrics()
    judge, report = Judge(CALIBRATION, mode), DriftReport(metrics)
    said = told(judge, 60, report)
    assert judge.monitors["instance"].threshold == CALIBRATION.kinds["instance"].threshold
    assert ("scores_drifted" in said) == (mode is DriftMode.WATCH)
    shown = metrics.registry.get_sample_value("loggpt_alarm_rate", {"partition": "3", "kind": "instance"})
    assert (shown is not None) == (mode is DriftMode.WATCH)
