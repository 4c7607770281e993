"""What operators are told of drift."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import structlog.testing

from loggpt_stream.daemon.drift_report import DriftReport
from loggpt_stream.daemon.metrics import Metrics
from loggpt_stream.model.calibration import Calibration, EarlyCalibration, Judge, KindCalibration
from loggpt_stream.model.drift import UNCONFIRMED
from loggpt_stream.model.drift_mode import DriftMode
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
            early=EarlyCalibration(
                threshold=2.0,
                basis="conformal",
                false_alarm_rate=0.1,
                scales={"unseen_lines": SCALE},
                normal_scores=NORMAL,
            ),
        )
    }
)
# Above the threshold, below the bound: normal sessions on a busy day.
DRIFTED = {"end_loss": 9.5, "unseen_lines": 0.0}


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


NEW_LINE_YET_NORMAL = {"end_loss": 1.0, "unseen_lines": 30.0}
FAILED = {"end_loss": 1e6, "unseen_lines": 30.0}


def early_threshold(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("loggpt_early_threshold_nats", {"partition": "3", "kind": "instance"})


def test_early_alerts_that_the_close_does_not_confirm_raise_the_early_threshold_and_are_warned_of_once() -> None:
    metrics = Metrics()
    judge, report = Judge(CALIBRATION, DriftMode.ADAPT), DriftReport(metrics)
    with structlog.testing.capture_logs() as logs:
        for _ in range(2 * UNCONFIRMED):
            judge.judge("instance", NEW_LINE_YET_NORMAL)
            report.observe(3, judge)
    assert [entry["event"] for entry in logs].count("early_threshold_raised") == 1
    early = judge.early("instance")
    assert early is not None
    assert early.threshold == early_threshold(metrics)
    assert early.threshold > early.score(NEW_LINE_YET_NORMAL) > 2.0


def test_failures_that_the_close_confirms_never_raise_the_early_threshold() -> None:
    metrics = Metrics()
    judge, report = Judge(CALIBRATION, DriftMode.ADAPT), DriftReport(metrics)
    for _ in range(100):
        assert judge.judge("instance", FAILED).anomalous
        report.observe(3, judge)
    assert early_threshold(metrics) == 2.0


def test_a_kind_that_is_not_judged_early_has_no_early_threshold() -> None:
    assert Judge(CALIBRATION).early("request") is None
