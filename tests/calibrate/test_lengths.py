"""Sessions of different length → how their scores count, on made-up statistics."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from calibrate.per_kind import CalibrationRequest, calibrate_kinds
from calibrate.report import write_calibration
from calibrate.sessions import ScoredSession, Selection
from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.bundle import load_bundle
from loggpt_stream.model.statistics import LENGTH

if TYPE_CHECKING:
    from pathlib import Path

    from calibrate.per_kind import CalibratedKind

SHORT, LONG = 1, 300


def session(number: int, lines: int, loss: float) -> ScoredSession:
    line = Line(float(number), number, f"INFO nova {number}", "", "raw")
    made = Session(f"key-{number}", "request", float(number), float(number), number, lines=[line] * lines)
    statistics = {"mean_line_loss": loss, LENGTH: float(lines)}
    return ScoredSession(made, statistics, None, 0, loss, f"content {number}".encode())


def draw(generator: np.random.Generator, short: int, long: int, *, wider: float = 1.0) -> list[ScoredSession]:
    """Return normal sessions, the losses of the long ones spread wider on the logarithmic scale."""
    losses = np.concatenate([generator.normal(size=short), wider * generator.normal(size=long)])
    return [session(i, SHORT if i < short else LONG, float(np.exp(1 + 0.5 * each))) for i, each in enumerate(losses)]


def calibrated(members: list[ScoredSession], *, contamination: float) -> CalibratedKind:
    (kind,) = calibrate_kinds(members, CalibrationRequest(0.05, contamination), labelled=False).kinds
    return kind


def alarms(kind: CalibratedKind, members: list[ScoredSession], lines: int) -> float:
    """Return the share of the sessions of one length that alarm."""
    judged = [kind.calibration.score(each.statistics) for each in members if len(each.session.lines) == lines]
    return float(np.mean(np.array(judged) > kind.calibration.threshold))


@pytest.mark.parametrize("contamination", [0.0, 0.03])
def test_a_length_that_is_harder_to_predict_alarms_no_more_often_than_the_others(contamination: float) -> None:
    generator = np.random.default_rng(5)
    short, long = [], []
    for _ in range(8):
        kind = calibrated(draw(generator, 800, 200, wider=2.0), contamination=contamination)
        assert [least for least, _ in kind.calibration.length_factors] == [1, LONG]
        later = draw(generator, 400, 400, wider=2.0)
        short.append(alarms(kind, later, SHORT))
        long.append(alarms(kind, later, LONG))
    assert 0.03 < np.mean(short) < 0.07
    assert 0.03 < np.mean(long) < 0.09


def test_judged_alike_they_would_alarm_several_times_as_often() -> None:
    generator = np.random.default_rng(5)
    kind = calibrated(draw(generator, 800, 200, wider=2.0), contamination=0.1)
    assert not kind.calibration.length_factors  # a tenth of the sessions could be half of the long ones
    later = draw(generator, 400, 400, wider=2.0)
    assert alarms(kind, later, LONG) > 3 * alarms(kind, later, SHORT)
    (warning,) = [each for each in kind.warnings if "--contamination" in each]
    assert "of the 200 sessions of 300 lines or more score above the threshold" in warning
    assert "--contamination 0.04" in warning


def test_lengths_that_differ_by_chance_alone_are_judged_alike() -> None:
    generator = np.random.default_rng(6)
    parted = [
        bool(calibrated(draw(generator, 300, 60), contamination=0.0).calibration.length_factors) for _ in range(40)
    ]
    assert sum(parted) <= 2


def test_failures_that_are_all_long_are_not_taken_for_a_length_of_their_own() -> None:
    generator = np.random.default_rng(7)
    failures = [session(2000 + i, LONG, float(np.exp(4 + 0.3 * generator.normal()))) for i in range(80)]
    kind = calibrated([*draw(generator, 900, 20), *failures], contamination=0.1)
    assert not kind.calibration.length_factors
    assert alarms(kind, failures, LONG) == 1.0


def test_failures_among_the_sessions_of_a_parted_length_still_alarm() -> None:
    generator = np.random.default_rng(8)
    failures = [session(2000 + i, LONG, float(np.exp(8 + 0.3 * generator.normal()))) for i in range(45)]
    kind = calibrated([*draw(generator, 600, 355, wider=2.0), *failures], contamination=0.05)
    assert kind.calibration.length_factors
    assert alarms(kind, failures, LONG) == 1.0


def test_what_each_statistic_adds_is_that_of_the_score_by_length() -> None:
    kind = calibrated(draw(np.random.default_rng(5), 800, 200, wider=2.0), contamination=0.0)
    short, long = (
        kind.calibration.surprises({"mean_line_loss": 9.0, LENGTH: float(lines)}) for lines in (LONG - 1, LONG)
    )
    factor = kind.calibration.length_factors[-1][1]
    assert 0 < factor < 1
    assert long["mean_line_loss"] == pytest.approx(factor * short["mean_line_loss"])
    assert kind.calibration.score({"mean_line_loss": 9.0, LENGTH: 1e6}) == pytest.approx(sum(long.values()))


def test_the_report_tells_what_was_seen_by_length_and_what_was_done(trained: Path, tmp_path: Path) -> None:
    members = draw(np.random.default_rng(5), 800, 200, wider=2.0)
    saved = load_bundle(trained, calibrated=False)
    told = {}
    for contamination in (0.0, 0.1):
        outcome = calibrate_kinds(members, CalibrationRequest(0.05, contamination), labelled=False)
        write_calibration(tmp_path, outcome, Selection([each.session for each in members], Counter(), {}), saved, "")
        told[contamination] = (tmp_path / "calibration_report.md").read_text()
    assert "| 1 to 299 lines | 800 |" in told[0.0]
    factor = calibrated(members, contamination=0.0).calibration.length_factors[-1][1]
    (row,) = [line for line in told[0.0].splitlines() if line.startswith("| 300 lines or more | 200 |")]
    assert row.endswith(f"%) | {factor:.3g} |")
    assert "multiplied by a factor" in told[0.0]
    # One band: nothing to compare, but a warning of what was not done.
    assert "### Lengths" not in told[0.1]
    assert "> **Warning:**" in told[0.1]
    assert "--contamination 0.04" in told[0.1]
