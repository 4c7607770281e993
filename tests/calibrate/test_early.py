"""Thresholds of open sessions: the promised rate holds over all looks together, and the report shows them."""

from __future__ import annotations

import numpy as np
import pytest

from calibrate.per_kind import CalibratedKind, CalibrationRequest, calibrate_kinds
from calibrate.report import _early_text
from calibrate.sessions import ScoredSession
from loggpt_stream.lines.session import Line, Session
from loggpt_stream.model.early import first_alarm


def lines_of(generator: np.random.Generator, *, bad: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses of a session's lines, and which of them no training session had."""
    losses_L = generator.lognormal(0, 0.5, int(generator.integers(3, 30)))
    unseen_L = generator.random(len(losses_L)) < 0.01
    if bad:
        unseen_L[len(losses_L) // 2 :] = True
        losses_L[len(losses_L) // 2] += 30
    return losses_L, unseen_L


def scored(number: int, lines: tuple[np.ndarray, np.ndarray], truth: bool | None) -> ScoredSession:
    losses_L, unseen_L = lines
    line = Line(float(number), number, f"INFO nova {number}", "", "raw")
    session = Session(f"key-{number}", "instance", float(number), float(number), number, lines=[line])
    statistics = {
        "mean_line_loss": float(losses_L.mean()),
        "max_line_loss": float(losses_L.max()),
        "digest_loss": float(losses_L.mean() * 2),
        "digest_end_loss": float(losses_L.min()),
        "unseen_lines": float(unseen_L.sum()),
    }
    return ScoredSession(session, statistics, truth, 0, float(losses_L.max()), f"content {number}".encode())


@pytest.mark.parametrize(
    ("labelled", "contamination"), [(True, 0.1), (False, 0.0)], ids=["labels", "no labels, all normal"]
)
def test_looking_at_every_line_raises_no_more_false_alarms_than_promised(labelled: bool, contamination: float) -> None:
    generator = np.random.default_rng(5)
    seen = []
    for _ in range(15):
        normal = [scored(n, lines_of(generator), False if labelled else None) for n in range(60)]
        failed = [scored(100 + n, lines_of(generator, bad=True), True) for n in range(5)] if labelled else []
        request = CalibrationRequest(0.05, contamination, early_false_alarm_rate=0.05)
        (kind,) = calibrate_kinds([*normal, *failed], request, labelled=labelled).kinds
        early = kind.calibration.early
        assert early
        assert early.false_alarm_rate <= 0.05
        later = [lines_of(generator) for _ in range(60)]
        seen.append(float(np.mean([first_alarm(*each, early) is not None for each in later])))
    assert 0 < np.mean(seen) < 0.05 + 2 * np.std(seen) / np.sqrt(len(seen))


def test_without_labels_the_early_rate_is_the_kinds_own_unless_stated() -> None:
    generator = np.random.default_rng(6)
    members = [scored(n, lines_of(generator), None) for n in range(200)]
    rates = []
    for request in (CalibrationRequest(0.1, 0.0), CalibrationRequest(0.1, 0.0, early_false_alarm_rate=0.02)):
        early = calibrate_kinds(members, request, labelled=False).kinds[0].calibration.early
        assert early
        rates.append(early.false_alarm_rate)
    assert rates[0] == pytest.approx(0.1, abs=0.01)
    assert rates[1] == pytest.approx(0.02, abs=0.01)


def labelled_kind(seed: int, *, normal: int) -> tuple[CalibratedKind, list[ScoredSession]]:
    """Return what so many normal sessions and 20 failures calibrate, and the failures."""
    generator = np.random.default_rng(seed)
    members = [scored(n, lines_of(generator), False) for n in range(normal)]
    failed = [scored(300 + n, lines_of(generator, bad=True), True) for n in range(20)]
    (kind,) = calibrate_kinds([*members, *failed], CalibrationRequest(), labelled=True).kinds
    return kind, failed


def test_with_labels_the_early_threshold_keeps_its_rate_and_the_report_says_what_it_announces() -> None:
    kind, failed = labelled_kind(7, normal=200)
    early = kind.calibration.early
    assert early
    assert early.basis == "conformal"
    assert sum(score > early.threshold for score in early.normal_scores) <= 0.01 * 201
    announced = sum(early.score(each.statistics) > early.threshold for each in failed)
    assert announced > 15
    text = " ".join(_early_text(kind))
    assert f"{early.threshold:.4f}" in text
    assert f"announces {announced} of the 20" in text


def test_too_few_sessions_for_the_rate_give_the_finest_that_they_guarantee_and_the_report_says_so() -> None:
    kind, _ = labelled_kind(10, normal=40)
    early = kind.calibration.early
    assert early
    assert early.false_alarm_rate == pytest.approx(1 / 41)
    assert early.normal_scores[-1] < early.threshold < early.normal_scores[-1] + 0.01
    assert "finest rate that so many guarantee being 0.02439" in " ".join(_early_text(kind))


def test_failures_in_unlabelled_history_do_not_lift_the_early_threshold_above_themselves() -> None:
    generator = np.random.default_rng(8)
    normal = [scored(n, lines_of(generator), None) for n in range(95)]
    failed = [scored(100 + n, lines_of(generator, bad=True), None) for n in range(5)]
    early = calibrate_kinds([*normal, *failed], CalibrationRequest(0.02), labelled=False).kinds[0].calibration.early
    assert early
    assert early.basis == "robust_tail"
    assert all(early.score(each.statistics) > early.threshold for each in failed)


def test_a_tail_of_sessions_that_are_nearly_alike_does_not_make_a_usual_line_an_alarm() -> None:
    generator = np.random.default_rng(11)
    members = []
    for n in range(100):
        losses_L = 8.0 + generator.random(20) * (1.0 if n < 95 else 0.0) + (300.0 if n >= 95 else 0.0)
        members.append(scored(n, (losses_L, np.zeros(20, dtype=bool)), None))
    early = calibrate_kinds(members, CalibrationRequest(0.01), labelled=False).kinds[0].calibration.early
    assert early
    assert early.basis == "robust_tail"
    # Of two exponential variables, the sum exceeds 6.64 once in a hundred: (1 + 6.64) * exp(-6.64).
    assert early.threshold == pytest.approx(6.638, abs=0.001)
    assert early.score({"max_line_loss": 10.0, "unseen_lines": 0.0}) < early.threshold


def test_sessions_without_these_statistics_have_no_early_threshold() -> None:
    generator = np.random.default_rng(9)
    members = [scored(n, lines_of(generator), None) for n in range(30)]
    for each in members:
        del each.statistics["max_line_loss"], each.statistics["unseen_lines"]
    (kind,) = calibrate_kinds(members, CalibrationRequest(), labelled=False).kinds
    assert kind.calibration.early is None
    assert list(_early_text(kind)) == []
